//! The distribution's packages. They are installed with apt; without apt, a message says which are needed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use super::apt::{Apt, PATIENCE, refresh_if_never_done};
use crate::arch::Arch;
use crate::{machine, process};

/// A program that is run, by the lab's pods and nodes or for them, and the Debian package that has it.
pub(super) struct Client {
    pub(super) program: &'static str,
    package: &'static str,
    /// An argument, and what the right program prints then: several share the name, or it may lack its libraries.
    mark: Option<[&'static str; 2]>,
}

/// Of `arping` and of `ping` there are several, whose packages exclude each other: whichever is here serves. `apt-get`
/// is not among those that boot other kernels: a kernel comes from it, so it is there or nothing helps.
pub(super) const CLIENTS: [Client; 24] = [
    Client { program: "ip", package: "iproute2", mark: Some(["-V", "iproute2"]) },
    Client { program: "tc", package: "iproute2", mark: Some(["-V", "iproute2"]) },
    Client { program: "arping", package: "iputils-arping", mark: None },
    Client { program: "ping", package: "iputils-ping", mark: None },
    Client { program: "nft", package: "nftables", mark: None },
    Client { program: "ethtool", package: "ethtool", mark: None },
    Client { program: "arptables-legacy", package: "arptables", mark: None },
    Client { program: "depmod", package: "kmod", mark: None },
    Client { program: "modprobe", package: "kmod", mark: None },
    Client { program: "ldd", package: "libc-bin", mark: None },
    Client { program: "dpkg-deb", package: "dpkg", mark: None },
    Client { program: "rpmbuild", package: "rpm", mark: None },
    Client { program: "rpm", package: "rpm", mark: None },
    Client { program: "lintian", package: "lintian", mark: None },
    Client { program: "mmdebstrap", package: "mmdebstrap", mark: None },
    Client { program: "systemd-nspawn", package: "systemd-container", mark: None },
    Client { program: "podman", package: "podman", mark: None },
    Client { program: "crun", package: "crun", mark: None },
    Client { program: "man", package: "man-db", mark: None },
    Client { program: "zsh", package: "zsh", mark: None },
    Client { program: "fish", package: "fish", mark: None },
    Client { program: "readelf", package: "binutils", mark: None },
    Client { program: qemu(Arch::Amd64), package: "qemu-system-x86", mark: Some(["-version", "QEMU"]) },
    Client { program: qemu(Arch::Arm64), package: "qemu-system-arm", mark: Some(["-version", "QEMU"]) },
];

/// The program that emulates a machine with that processor.
pub(crate) const fn qemu(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "qemu-system-x86_64",
        Arch::Arm64 => "qemu-system-aarch64",
    }
}

/// Programs that some tests run, and that are only unpacked, because installing their packages would start services:
/// the program, its package, and where it is in there.
const UNPACKED: [[&str; 3]; 1] = [["promtool", "prometheus", "usr/bin/promtool"]];

/// Programs that tests run beside the agent; only unpacked for the same cause, with those of their libraries that this
/// machine lacks.
const UNPACKED_CLIENTS: [Client; 3] = [
    Client { program: "busybox", package: "busybox-static", mark: None },
    Client { program: "dhcpcd", package: "dhcpcd-base", mark: None },
    Client { program: "keepalived", package: "keepalived", mark: None },
];

/// What the demonstration runs.
pub(super) const DEMO: [&str; 4] = ["ip", "arping", "ping", "ethtool"];
/// What the lab's tests run.
pub(super) const TESTS: [&str; 6] = ["ip", "tc", "ping", "nft", "ethtool", "arptables-legacy"];
/// What random scenarios and measurements are made with.
pub(super) const SCENARIOS: [&str; 4] = ["ip", "tc", "nft", "ethtool"];

/// What boots other kernels; `readelf` reads the programs of another processor, where `ldd` would run them.
pub(super) const VM_AMD64: [&str; 5] = ["depmod", "modprobe", "ldd", "readelf", qemu(Arch::Amd64)];
pub(super) const VM_ARM64: [&str; 5] = ["depmod", "modprobe", "ldd", "readelf", qemu(Arch::Arm64)];

/// What makes packages.
pub(super) const DEB: [&str; 1] = ["dpkg-deb"];
pub(super) const RPM: [&str; 1] = ["rpmbuild"];
/// What packages are tried with.
pub(super) const TRIALS: [&str; 12] =
    ["ip", "tc", "ping", "rpm", "lintian", "mmdebstrap", "systemd-nspawn", "podman", "crun", "man", "zsh", "fish"];

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
        process::output(Command::new(program).arg(mark[0])).is_ok_and(|said| said.contains(mark[1]))
    }

    /// What to say of a program that is here now, and is not the right one.
    fn is_another(&self) -> String {
        let found = process::find_program(self.program).map_or("none".to_owned(), |found| found.display().to_string());
        format!(
            "the first `{}` in PATH is {found}, which does not answer as that of the package {} does: put the folder of \
             that one first, or, if it is in .tools/clients, remove that folder and try again",
            self.program, self.package
        )
    }
}

/// Those of the [`CLIENTS`] with these names that this machine lacks.
pub(super) fn missing_clients(names: &[&str]) -> Vec<&'static Client> {
    CLIENTS.iter().filter(|client| names.contains(&client.program) && !client.is_here()).collect()
}

/// Makes sure of clients: installs their packages; where a package of the reader's is in the way, unpacks them into a
/// folder of the project's instead, where they are in nobody's way.
pub(super) fn ensure_clients(names: &[&str]) -> Result<()> {
    let missing = missing_clients(names);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = missing.iter().map(|client| client.package).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let programs: Vec<&str> = missing.iter().map(|client| client.program).collect();
    let lacks = format!("this machine lacks {}.", programs.join(", "));
    if let Err(refused) = install(&packages) {
        if process::find_program("apt-get").is_none() || process::find_program("dpkg-deb").is_none() {
            bail!("{lacks}\n{refused:#}");
        }
        // One that cannot be installed does not keep the others away.
        let refused: Vec<&str> = packages.into_iter().filter(|package| install(&[package]).is_err()).collect();
        eprintln!("setup: unpacking {} into .tools/clients instead", refused.join(" "));
        unpack_clients(&missing_clients(names))
            .map_err(|error| anyhow!("{lacks}\nNor could they be unpacked into .tools/clients: {error:#}"))?;
    }
    // What was installed may come second in PATH, what was unpacked may not start.
    missing_clients(names).first().map_or(Ok(()), |client| bail!("{}", client.is_another()))
}

/// Makes sure of the [`UNPACKED`] programs and of the [`UNPACKED_CLIENTS`]. Without one of them the tests that run it are
/// skipped, and say so.
pub(super) fn unpack_tools() {
    for [program, package, path] in UNPACKED {
        if process::find_program(program).is_none()
            && let Err(error) = unpack_tool(program, package, path)
        {
            eprintln!("setup: there is no {program}: {error:#}");
        }
    }
    for client in &UNPACKED_CLIENTS {
        if process::find_program(client.program).is_none()
            && let Err(error) = unpack_clients(&[client])
        {
            eprintln!("setup: there is no {}: {error:#}", client.program);
        }
    }
}

fn unpack_tool(program: &str, package: &str, path: &str) -> Result<()> {
    let (folder, bin) = (process::clients().join(package), process::clients().join("bin"));
    Apt::OWN.unpack(&[package], &folder)?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    fs::copy(folder.join(path), bin.join(program)).with_context(|| format!("there is no {path} in {package}"))?;
    // The rest of it is large, and nobody needs it.
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Unpacks the packages of programs into `.tools/clients`, each into a folder of its own, and makes a script for each
/// program in `.tools/clients/bin` that runs it with its own libraries: [`process::find_program`] and
/// [`process::lab_path`] look there, too.
fn unpack_clients(programs: &[&Client]) -> Result<()> {
    let bin = process::clients().join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    for client in programs {
        // What apt refuses to install even in pretence: the package alone, whose libraries may be here.
        let mut packages =
            Apt::OWN.with_dependencies(&[client.package]).unwrap_or_else(|_| vec![client.package.to_owned()]);
        // The loader that starts it is the system's, and takes no other C library than its own.
        packages.retain(|package| package != "libc6");
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        let folder = process::clients().join(client.package);
        Apt::OWN.unpack(&packages, &folder)?;
        let places = ["usr/bin", "usr/sbin", "sbin", "bin"].map(|place| folder.join(place).join(client.program));
        let Some(program) = places.into_iter().find(|program| program.is_file()) else {
            bail!("there is no {} in {}", client.program, client.package);
        };
        let script = bin.join(client.program);
        fs::write(&script, start_script(&folder, &program))
            .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", script.display()))?;
    }
    Ok(())
}

/// Runs a program that was unpacked into a folder.
fn start_script(folder: &Path, program: &Path) -> String {
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib"];
    let libraries = libraries.map(|library| folder.join(library).display().to_string()).join(":");
    format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{libraries}'${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} exec '{}' \"$@\"\n",
        program.display()
    )
}

/// Whether apt could install a package of that name.
pub(super) fn exists(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
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
        let mut command = Apt::OWN.get();
        // A package of the reader's that is in the way stays: better no lab than a broken machine.
        command.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
        process::long(&what, "apt-get", PATIENCE, &mut command)
    };
    refresh_if_never_done();
    if try_once().is_ok() {
        return Ok(());
    }
    // The usual cause is a list of packages older than the archive.
    Apt::OWN.refresh();
    match try_once() {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error:#}\n{}", without_root(packages)),
    }
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
        let programs: Vec<_> = CLIENTS.iter().filter(|c| c.package == *package).map(|c| c.program).collect();
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
    fn each_verb_asks_only_for_what_it_runs() {
        for names in [DEMO.as_slice(), &TESTS, &SCENARIOS, &VM_AMD64, &VM_ARM64, &DEB, &RPM, &TRIALS] {
            assert!(names.iter().all(|name| CLIENTS.iter().any(|client| client.program == *name)), "{names:?}");
        }
        assert!(!TESTS.contains(&"arping") && !SCENARIOS.contains(&"arping"));
    }

    #[test]
    fn what_is_unpacked_is_run_with_its_own_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("says");
        fs::write(&program, "#!/bin/sh\necho \"$LD_LIBRARY_PATH $1\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let script = start_script(folder.path(), &program);
        let said = process::output(Command::new("sh").args(["-c", &script, "sh", "a b"])).unwrap();
        let first = folder.path().join("usr/lib/x86_64-linux-gnu");
        assert!(said.starts_with(&*first.to_string_lossy()) && said.ends_with(" a b\n"), "{said}");
    }

    #[test]
    fn without_root_the_message_is_the_command_to_type() {
        let text = without_root(&["ethtool", "nftables"]);
        assert!(text.ends_with("\n  apt-get install -y --no-install-recommends ethtool nftables"), "{text}");
    }

    #[test]
    fn without_apt_the_message_names_packages_and_programs() {
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
