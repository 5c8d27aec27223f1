//! apt: for this machine's own packages, or with folders of the project's for those of another processor, which are
//! never installed. Both believe the same signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::{machine, paths, process};

pub(super) const PATIENCE: Duration = Duration::from_secs(15 * 60);

pub(crate) struct Apt {
    /// Another processor, and where apt keeps what it knows of its packages.
    foreign: Option<(Arch, PathBuf)>,
}

impl Apt {
    /// This machine's.
    pub(crate) const OWN: Apt = Apt { foreign: None };

    /// The one that knows packages for a processor. The list of another's packages is fetched at the first use.
    pub(crate) fn of(arch: Arch) -> Result<Apt> {
        if Arch::own() == Some(arch) {
            return Ok(Apt::OWN);
        }
        let folder = paths::tools().join("apt").join(arch.debian());
        let status = folder.join("status");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        // Nothing is installed: what a package needs is all that it needs.
        fs::write(&status, "").with_context(|| format!("cannot write {}", status.display()))?;
        let apt = Apt { foreign: Some((arch, folder)) };
        if apt.knows_nothing() {
            apt.refresh();
        }
        Ok(apt)
    }

    fn knows_nothing(&self) -> bool {
        let Some((_, folder)) = &self.foreign else { return false };
        let lists = fs::read_dir(folder.join("state/lists")).into_iter().flatten().flatten();
        !lists.into_iter().any(|list| list.file_name().to_string_lossy().contains("_Packages"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Without a signed list that has a package's hash, apt must refuse rather than warn.
        command.args(["-q", "-o", "APT::Get::AllowUnauthenticated=false"]).env("DEBIAN_FRONTEND", "noninteractive");
        if let Some((arch, folder)) = &self.foreign {
            let arch = arch.debian();
            for (name, value) in [
                ("APT::Architecture", arch.to_owned()),
                ("APT::Architectures", arch.to_owned()),
                ("Acquire::Languages", "none".to_owned()),
                ("Dir::State", folder.join("state").display().to_string()),
                ("Dir::State::status", folder.join("status").display().to_string()),
                ("Dir::Cache", folder.join("cache").display().to_string()),
            ] {
                command.arg("-o").arg(format!("{name}={value}"));
            }
        }
        command
    }

    pub(super) fn get(&self) -> Command {
        self.command("apt-get")
    }

    /// Reads the list of packages anew.
    pub(crate) fn refresh(&self) {
        let what = match &self.foreign {
            Some((arch, _)) => format!("reading the list of packages for {}", arch.debian()),
            None => "reading the list of packages".to_owned(),
        };
        // A source that cannot be reached need not be the one that is wanted: the installation decides.
        if let Err(error) = process::long(&what, "apt-get-update", PATIENCE, self.get().arg("update")) {
            eprintln!("setup: {error:#}");
        }
    }

    /// The names of the packages whose names fit a pattern.
    pub(crate) fn search(&self, pattern: &str) -> Vec<String> {
        let mut search = self.command("apt-cache");
        let found = process::output(search.args(["search", "--names-only", pattern])).unwrap_or_default();
        found.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// Packages and what apt would install with them.
    pub(crate) fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut pretend = self.get();
        pretend.args(["--simulate", "--no-install-recommends", "install"]).args(packages);
        let named = would_install(&process::output(&mut pretend)?);
        anyhow::ensure!(!named.is_empty(), "apt-get would install nothing for {}", packages.join(" "));
        Ok(named)
    }

    /// Downloads packages and unpacks them into a folder, without installing them; does nothing where that was done.
    /// The archives stay in the folder `archives` there.
    pub(crate) fn unpack(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let (done, wanted) = (folder.join("unpacked"), packages.join(" "));
        if fs::read_to_string(&done).is_ok_and(|text| text == wanted) {
            return Ok(());
        }
        if process::find_program("apt-get").is_none() {
            bail!("there is no apt-get here to fetch {wanted} with");
        }
        if self.foreign.is_none() {
            refresh_if_never_done();
        }
        // What a former list of packages left there would be unpacked too.
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        let archives = folder.join("archives");
        fs::create_dir_all(&archives).with_context(|| format!("cannot create {}", archives.display()))?;
        let mut download = self.get();
        download.arg("download").args(packages).current_dir(&archives);
        process::long(&format!("fetching {wanted}"), "apt-get-download", PATIENCE, &mut download)?;
        for archive in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
            process::output(Command::new("dpkg-deb").arg("-x").arg(archive?.path()).arg(folder))?;
        }
        fs::write(&done, wanted).with_context(|| format!("cannot write {}", done.display()))
    }
}

/// Reads the list of packages on a machine where nobody ever did, as in a fresh container.
pub(super) fn refresh_if_never_done() {
    let lists = fs::read_dir("/var/lib/apt/lists");
    let known = lists.is_ok_and(|mut lists| {
        lists.any(|list| list.is_ok_and(|list| list.file_name().to_string_lossy().contains("_Packages")))
    });
    if !known && machine::is_root() && process::find_program("apt-get").is_some() {
        Apt::OWN.refresh();
    }
}

/// The packages in what `apt-get --simulate install` prints.
fn would_install(said: &str) -> Vec<String> {
    let names = said.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_names_what_it_would_install() {
        let said = "Remv qemu-utils [1:10.0]\nInst libfdt1 (1.6.1 Debian:12 [amd64])\nInst seabios (1.16 Debian:12 [all]) []\nConf libfdt1 (1.6.1)\n";
        assert_eq!(would_install(said), ["libfdt1", "seabios"]);
    }

    #[test]
    fn another_processors_packages_are_kept_apart_and_must_be_signed() {
        let apt = Apt { foreign: Some((Arch::Arm64, PathBuf::from("/p"))) };
        let described = process::describe(&apt.get());
        for part in ["AllowUnauthenticated=false", "APT::Architectures=arm64", "Dir::State=/p/state", "=/p/status"] {
            assert!(described.contains(part), "{part} in {described}");
        }
        assert!(!process::describe(&Apt::OWN.get()).contains("Dir::"));
    }
}
