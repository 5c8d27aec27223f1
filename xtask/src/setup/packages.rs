//! The distribution's packages. Only apt is spoken; elsewhere the message says what is wanted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{machine, process};

const INSTALL: Duration = Duration::from_secs(15 * 60);

/// A program that is run, by the lab's pods and nodes or for them, and the Debian package that has it.
pub(super) struct Client {
    pub(super) program: &'static str,
    package: &'static str,
    /// What `-V` prints when it is the right one: several programs share the name.
    mark: Option<&'static str>,
}

pub(super) const CLIENTS: [Client; 7] = [
    Client { program: "ip", package: "iproute2", mark: None },
    Client { program: "tc", package: "iproute2", mark: None },
    Client { program: "arping", package: "iputils-arping", mark: Some("iputils") },
    Client { program: "ping", package: "iputils-ping", mark: Some("iputils") },
    Client { program: "nft", package: "nftables", mark: None },
    Client { program: "ethtool", package: "ethtool", mark: None },
    Client { program: "arptables-legacy", package: "arptables", mark: None },
];

/// What boots other kernels, besides [qemu](mod@super::qemu). `apt-get` is not among them: a kernel comes from it, so
/// it is there or nothing helps.
pub(super) const VM: [Client; 2] = [
    Client { program: "depmod", package: "kmod", mark: None },
    Client { program: "ldd", package: "libc-bin", mark: None },
];

/// Other responders, for `cargo xtask bench peers`, with those of their libraries that a small system may lack.
pub(super) const PEERS: [&str; 11] = [
    "iptables",
    "libbpf1",
    "libcap-ng0",
    "libevent-2.1-7",
    "libnuma1",
    "libunbound8",
    "libxdp1",
    "libxtables12",
    "openvswitch-common",
    "openvswitch-switch",
    "parprouted",
];

impl Client {
    fn is_here(&self) -> bool {
        let Some(program) = process::find_program(self.program) else { return false };
        let Some(mark) = self.mark else { return true };
        process::output(Command::new(program).arg("-V")).is_ok_and(|version| version.contains(mark))
    }
}

/// The packages of those programs that this machine lacks.
pub(super) fn missing(programs: &[Client]) -> impl Iterator<Item = String> + '_ {
    programs.iter().filter(|client| !client.is_here()).map(|client| client.package.to_owned())
}

/// Whether apt could install a package of that name.
pub(super) fn exists(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Reads the list of packages on a machine where nobody ever did, as in a fresh container.
pub(super) fn refresh_if_never_done() {
    let lists = fs::read_dir("/var/lib/apt/lists");
    let known = lists.is_ok_and(|mut lists| {
        lists.any(|list| list.is_ok_and(|list| list.file_name().to_string_lossy().contains("_Packages")))
    });
    if !known && machine::is_root() && process::find_program("apt-get").is_some() {
        refresh();
    }
}

/// Installs packages, or fails with what to type.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if process::find_program("apt-get").is_none() {
        bail!("{}", without_apt(packages));
    }
    if !machine::is_root() {
        bail!("{}", without_root(packages));
    }
    let what = format!("installing {}", packages.join(" "));
    let try_once = || {
        let mut command = apt_get();
        // A package of the reader's that is in the way stays: better no lab than a broken machine.
        command.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
        process::long(&what, "apt-get", INSTALL, &mut command)
    };
    refresh_if_never_done();
    if try_once().is_ok() {
        return Ok(());
    }
    // The usual cause is a list of packages older than the archive.
    refresh();
    match try_once() {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error:#}\n{}", without_root(packages)),
    }
}

/// A package and what apt would install with it.
pub(super) fn with_dependencies(package: &str) -> Result<Vec<String>> {
    let mut pretend = apt_get();
    pretend.args(["--simulate", "--no-install-recommends", "install", package]);
    let named = would_install(&process::output(&mut pretend)?);
    anyhow::ensure!(!named.is_empty(), "apt-get would install nothing for {package}");
    Ok(named)
}

/// The packages in what `apt-get --simulate install` prints.
fn would_install(said: &str) -> Vec<String> {
    let names = said.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// Downloads packages and unpacks them into a folder, without installing them; does nothing where that was done.
pub(super) fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    let (done, wanted) = (folder.join("unpacked"), packages.join(" "));
    if fs::read_to_string(&done).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    if process::find_program("apt-get").is_none() {
        bail!("there is no apt-get here to fetch {wanted} with");
    }
    refresh_if_never_done();
    // What a former list of packages left there would be unpacked too.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    let archives = folder.join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("cannot create {}", archives.display()))?;
    let mut download = apt_get();
    download.arg("download").args(packages).current_dir(&archives);
    process::long(&format!("fetching {wanted}"), "apt-get-download", INSTALL, &mut download)?;
    for archive in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
        process::output(Command::new("dpkg-deb").arg("-x").arg(archive?.path()).arg(folder))?;
    }
    fs::write(&done, wanted).with_context(|| format!("cannot write {}", done.display()))
}

pub(super) fn refresh() {
    // A source that cannot be reached need not be the one that is wanted: the installation decides.
    if let Err(error) =
        process::long("reading the list of packages", "apt-get-update", INSTALL, apt_get().arg("update"))
    {
        eprintln!("setup: {error:#}");
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn without_root(packages: &[&str]) -> String {
    format!(
        "To install it (as root, with a network):\n  apt-get update\n  apt-get install -y --no-install-recommends {}{}",
        packages.join(" "),
        alternatives(packages),
    )
}

fn without_apt(packages: &[&str]) -> String {
    let mut text =
        "There is no apt-get here. By this machine's own package manager, install what Debian calls".to_owned();
    for package in packages {
        let programs: Vec<_> = CLIENTS.iter().chain(&VM).filter(|c| c.package == *package).map(|c| c.program).collect();
        match programs.as_slice() {
            [] => text.push_str(&format!("\n  {package}")),
            programs => text.push_str(&format!("\n  {package} (for {})", programs.join(" and "))),
        }
    }
    text + &alternatives(packages)
}

/// What also helps, where the packages are those of the toolchain.
fn alternatives(packages: &[&str]) -> String {
    let mut text = String::new();
    if packages.contains(&"rust-web-src") {
        text.push_str("\nInstead of the rust packages, this will do:\n  rustup toolchain install nightly --profile minimal --component rust-src");
    }
    if packages.iter().any(|package| package.starts_with("llvm-")) {
        text.push_str("\nInstead of LLVM, a bpf-linker 0.13.0 in PATH will do.");
    }
    text
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
    fn without_root_the_message_is_the_command_to_type() {
        let text = without_root(&["ethtool", "nftables"]);
        assert!(text.ends_with("\n  apt-get install -y --no-install-recommends ethtool nftables"), "{text}");
    }

    #[test]
    fn without_apt_the_message_names_packages_and_the_programs_in_them() {
        let text = without_apt(&["iproute2", "libzstd-dev"]);
        assert!(text.contains("\n  iproute2 (for ip and tc)\n  libzstd-dev"), "{text}");
    }

    #[test]
    fn where_the_toolchain_is_missing_the_message_offers_rustups() {
        let text = without_root(&["cargo-web", "llvm-22-dev", "rust-web-src", "rustc-web"]);
        assert!(text.contains("rustup toolchain install nightly"), "{text}");
        assert!(text.contains("bpf-linker 0.13.0 in PATH"), "{text}");
        assert!(!without_root(&["ethtool"]).contains("rustup"));
    }
}
