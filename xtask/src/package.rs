//! `cargo xtask package`: the agent as deb, rpm, tar.gz and OCI image, with checksums. One list of files ([`files`]) is
//! behind all of them. No path of the folder and no time of the build is in them.

mod archive;
mod binary;
mod deb;
mod files;
mod oci;
mod rpm;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use sha2::{Digest as _, Sha256};

use crate::arch::Arch;
use crate::setup::{self, Need};
use crate::{paths, process, workspace};
use files::File;

/// The most that a package may have; an image for several processors, each of them.
const LARGEST: u64 = 7_000_000;
/// The most that the binary may have, unpacked.
const LARGEST_BINARY: u64 = 8_000_000;
/// The version of the packages that tests upgrade from, where there is no last release: lower than all others.
const BEFORE_ALL: &str = "0.0.1";

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
    /// What the agent and the eBPF object in it are made of, as CycloneDX documents
    Sbom,
}

/// The files of a processor's packages.
type Contents = (Arch, Vec<File>);

/// What all packages have in common.
struct Package {
    version: String,
    /// Seconds since 1970, of the commit: the time of every file.
    epoch: u64,
    /// `Name <address>` of the commit.
    maintainer: String,
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let package = Package::new()?;
    let (sums, _) = make(&package, &args.formats, &args.arch)?;
    println!("{}", sums.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Makes the binary that packages for this machine's processor hold; where it is.
pub(crate) fn binary_alone() -> Result<PathBuf> {
    let arch = Arch::own().context("this machine's processor is none that packages are made for")?;
    binary::compile(arch, &Package::new()?)
}

/// Makes the packages for this machine's processor, and in the folder `last` the same ones of a lower version; the folder.
pub(crate) fn for_tests() -> Result<PathBuf> {
    let package = Package::new()?;
    let arch = Arch::own().context("this machine's processor is none that packages are made for")?;
    // Without the documents of what is inside: their tool takes longer to build than all tests to run.
    let (_, files) = make(&package, &[Format::Deb, Format::Rpm, Format::Tar, Format::Oci], &[arch])?;
    let last = Package { version: BEFORE_ALL.to_owned(), out: package.out.join("last"), ..package };
    if last.out.exists() {
        fs::remove_dir_all(&last.out).with_context(|| format!("cannot clear {}", last.out.display()))?;
    }
    fs::create_dir_all(&last.out).with_context(|| format!("cannot create {}", last.out.display()))?;
    for (arch, files) in files {
        deb::build(arch, &last, &files)?;
        rpm::build(arch, &last, &files)?;
    }
    Ok(last.out.parent().unwrap_or(&last.out).to_owned())
}

/// Makes packages (all formats, if none is named); the text of SHA256SUMS, and for each processor what is in its packages.
fn make(package: &Package, formats: &[Format], archs: &[Arch]) -> Result<(String, Vec<Contents>)> {
    let makes = |format| formats.is_empty() || formats.contains(&format);
    let mut needs = vec![Need::Build];
    needs.extend(
        [(Format::Deb, Need::Deb), (Format::Rpm, Need::Rpm)]
            .into_iter()
            .filter_map(|(format, need)| makes(format).then_some(need)),
    );
    setup::ensure(&needs)?;
    let mut made = Vec::new();
    let mut all = Vec::new();
    let pages = binary::pages(package)?;
    for &arch in archs {
        let binary = binary::build(arch, package)?;
        binary::check(arch, &binary)?;
        eprintln!("package: arp-agent for {} has {} bytes", arch.machine(), binary.len());
        let files = files::all(binary, &pages)?;
        if makes(Format::Deb) {
            made.push(deb::build(arch, package, &files)?);
        }
        if makes(Format::Rpm) {
            made.push(rpm::build(arch, package, &files)?);
        }
        if makes(Format::Tar) {
            made.push(archive::tar_gz(arch, package, &files)?);
        }
        all.push((arch, files));
    }
    if makes(Format::Oci) {
        made.push(oci::build(package, &all)?);
    }
    for path in &made {
        let of = if path.extension().is_some_and(|end| end == "tar") { all.len() as u64 } else { 1 };
        let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        check_size(&path.display().to_string(), size, LARGEST * of)?;
    }
    if makes(Format::Sbom) {
        made.extend(sbom::build(package, archs)?);
    }
    Ok((sums(&package.out, &made)?, all))
}

/// Fails if something has become too large.
fn check_size(what: &str, size: u64, most: u64) -> Result<()> {
    anyhow::ensure!(
        size <= most,
        "{what} has {size} bytes, and may have {most}: look at what has made it larger (`cargo bloat --profile dist`), or \
         raise the bound in xtask/src/package.rs and say why"
    );
    Ok(())
}

impl Package {
    fn new() -> Result<Self> {
        let metadata = workspace::metadata()?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let agent = packages.into_iter().find(|package| package["name"] == "arp-agent");
        let version = agent.and_then(|agent| agent["version"].as_str()).context("cargo metadata names no arp-agent")?;
        let git = |format: &str| {
            let mut git = Command::new("git");
            git.current_dir(paths::root()).args(["log", "-1", &format!("--format={format}")]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_named_with_its_size() {
        assert!(check_size("the.deb", 7, 7).is_ok());
        let error = check_size("the.deb", 8, 7).unwrap_err().to_string();
        assert!(error.starts_with("the.deb has 8 bytes, and may have 7: "), "{error}");
    }
}
