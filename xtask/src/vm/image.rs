//! The guest's root: programs with their libraries ([`Userland`]), the kernel's modules, the agent and the tests.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::kernel::{Modules, UnpackedKernel};
use super::userland::Userland;
use super::{GuestPrograms, file_name, guest};
use crate::paths;

/// What the guest's init and the tests run.
const GUEST_PROGRAMS: [&str; 19] = [
    "bridge", "cat", "dmesg", "ethtool", "ip", "kmod", "ls", "mkdir", "modprobe", "mount", "nft", "ping", "sed",
    "setpriv", "sh", "sleep", "stty", "tc", "timeout",
];

/// What is good to have, for the few tests that use it.
const OPTIONAL_PROGRAMS: [&str; 3] = ["arptables-legacy", "ovs-vsctl", "teamd"];

/// Writes the initramfs.
pub(super) fn write(
    path: &Path,
    kernel: &UnpackedKernel,
    modules: &Modules,
    programs: &GuestPrograms,
    userland: &Userland,
    plan: &guest::GuestPlan,
) -> Result<()> {
    let file = File::create(path).context("cannot create it")?;
    let mut archive = Archive::new(BufWriter::new(file));
    for folder in ["dev", "proc", "run", "sys", "tmp", "etc", "root", "var/tmp"] {
        archive.folder(folder)?;
    }
    archive.file("init", 0o755, plan.script().as_bytes())?;
    // Some programs ask who root is.
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/usr/bin/sh\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    // … and `ip rule` what a protocol's number is.
    archive.file("etc/protocols", 0o644, b"icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n")?;
    archive.link("var/run", "/run")?;

    let mut executables: Vec<(PathBuf, String)> = Vec::new();
    for name in GUEST_PROGRAMS {
        executables.push((userland.find(name)?, format!("usr/bin/{name}")));
    }
    for name in OPTIONAL_PROGRAMS {
        executables.extend(userland.find(name).ok().map(|found| (found, format!("usr/bin/{name}"))));
    }
    // The kernel's own idea of where it is.
    executables.push((userland.find("modprobe")?, "sbin/modprobe".to_owned()));
    executables.extend(programs.agent.clone().map(|agent| (agent, guest::AGENT.to_owned())));
    for (tier, test) in &programs.tests {
        executables.push((test.clone(), guest::test_program(*tier)));
    }
    executables.extend(programs.parity.clone().map(|parity| (parity, guest::PARITY.to_owned())));
    for (from, to) in executables {
        archive.file(&to, 0o755, &read(&from)?)?;
        for (library, to) in userland.libraries(&from)? {
            let to = to.to_str().with_context(|| format!("{} is not UTF-8", to.display()))?;
            archive.file(to, 0o755, &read(&library)?)?;
        }
    }

    let regressions = paths::root().join("tests/regressions");
    for script in fs::read_dir(&regressions).with_context(|| format!("cannot list {}", regressions.display()))? {
        let script = script.with_context(|| format!("cannot list {}", regressions.display()))?.path();
        archive.file(&format!("{}/{}", guest::REGRESSIONS, file_name(&script)?), 0o644, &read(&script)?)?;
    }

    let folder = kernel.module_folder();
    let to = |path: &Path| -> Result<String> {
        let inside = path.strip_prefix(&folder).ok().and_then(Path::to_str);
        let inside = inside.with_context(|| format!("{} is not a module of this kernel", path.display()))?;
        Ok(format!("lib/modules/{}/{inside}", kernel.release))
    };
    for index in fs::read_dir(&folder).context("cannot list the kernel's modules")? {
        let index = index.context("cannot list the kernel's modules")?.path();
        if index.is_file() && file_name(&index)?.starts_with("modules.") {
            archive.file(&to(&index)?, 0o644, &read(&index)?)?;
        }
    }
    for module in &modules.files {
        archive.file(&to(module)?, 0o644, &read(module)?)?;
    }
    archive.finish()?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
