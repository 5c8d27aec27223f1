//! The guest's root: this machine's programs with their libraries, the kernel's modules, the agent and the tests.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::kernel::{Kernel, Modules};
use super::{Programs, file_name, guest};
use crate::process;
use crate::workspace;

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
    kernel: &Kernel,
    modules: &Modules,
    programs: &Programs,
    plan: &guest::Plan,
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
        executables.push((find(name)?, format!("usr/bin/{name}")));
    }
    for name in OPTIONAL_PROGRAMS {
        executables.extend(find(name).ok().map(|found| (found, format!("usr/bin/{name}"))));
    }
    // The kernel's own idea of where it is.
    executables.push((find("modprobe")?, "sbin/modprobe".to_owned()));
    executables.push((programs.agent.clone(), guest::AGENT.to_owned()));
    for (tier, test) in &programs.tests {
        executables.push((test.clone(), guest::test_program(tier.name())));
    }
    executables.extend(programs.parity.clone().map(|parity| (parity, guest::PARITY.to_owned())));
    for (from, to) in executables {
        archive.file(&to, 0o755, &read(&from)?)?;
        for library in libraries(&from)? {
            let to = library.to_str().with_context(|| format!("{} is not UTF-8", library.display()))?;
            archive.file(to, 0o755, &read(&library)?)?;
        }
    }

    let regressions = workspace::root().join("tests/regressions");
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

fn find(name: &str) -> Result<PathBuf> {
    process::find_program(name).with_context(|| format!("no program {name} on this machine, which the guest needs"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The shared libraries of a program, and its loader. A script or a static program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = process::program("ldd")?.arg(program).output().context("cannot start ldd")?;
    Ok(libraries_listed(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in what `ldd` prints.
fn libraries_listed(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let path = line.split_once(" => ").map_or(line, |(_, path)| path).trim();
        let path = path.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listed.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_from_ldds_list() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries_listed(listed), expected.map(PathBuf::from));
        assert_eq!(libraries_listed("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }
}
