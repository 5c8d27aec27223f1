//! `cargo xtask package`: the agent as deb, rpm, tar.gz and OCI image, with checksums. One list of files ([`files`]) is
//! behind all of them. No path of the folder and no time of the build is in them.

mod archive;
mod binary;
mod deb;
mod files;
mod oci;
mod rpm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use sha2::{Digest as _, Sha256};

use crate::arch::Arch;
use crate::setup::{self, Need};
use crate::{process, workspace};
use files::File;

/// The most that the binary may have.
const LARGEST_BINARY: usize = 8_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to make [default: all]
    #[arg(value_enum)]
    formats: Vec<Format>,
    /// For which processors
    #[arg(long, value_enum, value_delimiter = ',', default_value = "amd64")]
    arch: Vec<Arch>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For Debian and its derivatives
    Deb,
    /// For Fedora, RHEL and their derivatives
    Rpm,
    /// For all others: unpack it at /
    Tar,
    /// A container image, as an OCI archive
    Oci,
}

/// What a package is made of.
struct Package {
    version: String,
    /// Seconds since 1970, of the commit: the time of every file.
    epoch: u64,
    /// `Name <address>` of the commit.
    maintainer: String,
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let makes = |format| args.formats.is_empty() || args.formats.contains(&format);
    setup::ensure(&[Need::Build])?;
    if makes(Format::Deb) {
        setup::ensure(&[Need::Deb])?;
    }
    if makes(Format::Rpm) {
        setup::ensure(&[Need::Rpm])?;
    }
    let package = Package::new()?;
    let mut made = Vec::new();
    let mut images = Vec::new();
    let pages = binary::pages(&package)?;
    for &arch in &args.arch {
        let binary = binary::build(arch, &package)?;
        let size = binary.len();
        anyhow::ensure!(size <= LARGEST_BINARY, "the binary has {size} bytes, more than {LARGEST_BINARY}");
        eprintln!("package: arp-agent for {} has {size} bytes", arch.machine());
        let files = files::all(binary, &pages)?;
        if makes(Format::Deb) {
            made.push(deb::build(arch, &package, &files)?);
        }
        if makes(Format::Rpm) {
            made.push(rpm::build(arch, &package, &files)?);
        }
        if makes(Format::Tar) {
            made.push(archive::tar_gz(arch, &package, &files)?);
        }
        images.push((arch, files));
    }
    if makes(Format::Oci) {
        made.push(oci::build(&package, &images)?);
    }
    println!("{}", sums(&package.out, &made)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

impl Package {
    fn new() -> Result<Self> {
        let metadata = workspace::metadata()?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let agent = packages.into_iter().find(|package| package["name"] == "arp-agent");
        let version = agent.and_then(|agent| agent["version"].as_str()).context("cargo metadata names no arp-agent")?;
        let git = |format: &str| {
            let mut git = Command::new("git");
            git.current_dir(workspace::root()).args(["log", "-1", &format!("--format={format}")]);
            process::output(&mut git).map(|said| said.trim().to_owned())
        };
        // A tree without git is one of a source archive, which has no time of its own.
        let epoch = git("%ct").ok().and_then(|time| time.parse().ok()).unwrap_or(0);
        let maintainer = git("%an <%ae>").unwrap_or_else(|_| "The maintainers <root@localhost>".to_owned());
        let out = workspace::target_directory(&metadata)?.join("package");
        fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        Ok(Package { version: version.to_owned(), epoch, maintainer, out })
    }

    /// A clean folder for what a format needs on the way.
    fn stage(&self, name: &str) -> Result<PathBuf> {
        let stage = self.out.join("stage").join(name);
        if stage.exists() {
            fs::remove_dir_all(&stage).with_context(|| format!("cannot clear {}", stage.display()))?;
        }
        fs::create_dir_all(&stage).with_context(|| format!("cannot create {}", stage.display()))?;
        Ok(stage)
    }

    /// Writes the files below a folder, as they are to be installed.
    fn write_tree<'a>(files: impl IntoIterator<Item = &'a File>, root: &Path) -> Result<()> {
        for file in files {
            file.write_below(root)?;
        }
        Ok(())
    }
}

/// Writes SHA256SUMS; its text.
fn sums(out: &Path, made: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    for path in made {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("{}  {name}\n", hex(&Sha256::digest(&bytes)));
    }
    let path = out.join("SHA256SUMS");
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
