//! The programs that a guest runs besides the tests: this machine's own, or for another processor those of Debian's
//! packages, unpacked into a folder of the project's.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::setup::Apt;
use crate::{paths, process};

/// The packages that hold what a guest runs (`image::GUEST_PROGRAMS`).
const PACKAGES: [&str; 10] =
    ["arptables", "coreutils", "dash", "ethtool", "iproute2", "iputils-ping", "kmod", "mount", "nftables", "sed"];
/// … and one more, which is essential in Debian and therefore needed by name only.
const ESSENTIAL: &str = "util-linux";

/// Where a program may be.
const PLACES: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// Where the programs for a guest come from.
pub(super) enum Userland {
    /// This machine.
    Own,
    /// A folder that is a root of its own.
    Unpacked { root: PathBuf, arch: Arch },
}

impl Userland {
    /// The programs for a processor; fetched where this machine has another.
    pub(super) fn of(arch: Arch) -> Result<Userland> {
        if Arch::own() == Some(arch) {
            return Ok(Userland::Own);
        }
        let apt = Apt::of(arch)?;
        let wanted: Vec<&str> = PACKAGES.into_iter().chain([ESSENTIAL]).collect();
        let packages = apt.with_dependencies(&wanted)?;
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        let root = paths::tools().join("guests").join(arch.debian());
        apt.unpack(&packages, &root)?;
        Ok(Userland::Unpacked { root, arch })
    }

    /// A program by its name.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf> {
        let found = match self {
            Userland::Own => process::find_program(name),
            Userland::Unpacked { root, .. } => {
                PLACES.into_iter().find_map(|place| inside(root, &Path::new(place).join(name)))
            }
        };
        found.with_context(|| match self {
            Userland::Own => format!("no program {name} on this machine, which the guest needs"),
            Userland::Unpacked { root, .. } => {
                format!("no program {name} in {}, which the guest needs", root.display())
            }
        })
    }

    /// The shared libraries of a program and its loader: each file, and where the guest has it. A script or a static
    /// program has none.
    pub(super) fn libraries(&self, program: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        match self {
            Userland::Own => {
                let output = process::program("ldd")?.arg(program).output().context("cannot start ldd")?;
                let listed = libraries_listed(&String::from_utf8_lossy(&output.stdout));
                Ok(listed.into_iter().map(|path| (path.clone(), path)).collect())
            }
            Userland::Unpacked { root, arch } => libraries_in(root, *arch, program),
        }
    }
}

/// The libraries of a program of another processor, which `ldd` could not start.
fn libraries_in(root: &Path, arch: Arch, program: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let triplet = format!("{}-linux-gnu", arch.machine());
    let folders = ["lib", "usr/lib"].map(|folder| Path::new(folder).join(&triplet));
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut open = vec![program.to_owned()];
    while let Some(file) = open.pop() {
        let output = process::program("readelf")?.args(["-ld", "-W"]).arg(&file).env("LC_ALL", "C").output();
        let output = output.context("cannot start readelf")?;
        for needed in needed_by(&String::from_utf8_lossy(&output.stdout)) {
            let candidates = match needed.strip_prefix("/") {
                Some(loader) => vec![PathBuf::from(loader)],
                None => folders.iter().map(|folder| folder.join(&needed)).collect(),
            };
            let here = candidates.iter().find_map(|path| Some((inside(root, path)?, Path::new("/").join(path))));
            let Some((from, to)) = here else {
                bail!("no library {needed} in {}, which {} needs", root.display(), program.display());
            };
            if !found.iter().any(|(_, there)| *there == to) {
                open.push(from.clone());
                found.push((from, to));
            }
        }
    }
    Ok(found)
}

/// The libraries by name, and the loader by its path, in what `readelf -ld` prints.
fn needed_by(printed: &str) -> Vec<String> {
    let name = |line: &str| {
        let library = line.split_once("(NEEDED)").and_then(|(_, rest)| rest.split_once('['));
        let loader = || line.split_once("[Requesting program interpreter: ");
        let (_, name) = library.or_else(loader)?;
        Some(name.split_once(']')?.0.to_owned())
    };
    printed.lines().filter_map(name).collect()
}

/// The file that a path means below another root, whose links do not lead out of it.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    // As many links in a row as the kernel follows.
    for _ in 0..40 {
        let here = root.join(path.strip_prefix("/").unwrap_or(&path));
        match fs::read_link(&here) {
            Ok(to) if to.is_absolute() => path = to,
            Ok(to) => path = normal(&path.parent()?.join(to)),
            Err(_) => return here.is_file().then_some(here),
        }
    }
    None
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean
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
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_from_ldds_list() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries_listed(listed), expected.map(PathBuf::from));
        assert_eq!(libraries_listed("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn libraries_and_the_loader_are_taken_from_readelfs_list() {
        let printed = "      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n 0x0000000000000001 (NEEDED)             Shared library: [libmnl.so.0]\n 0x000000000000000e (SONAME)             Library soname: [libx.so.1]\n";
        assert_eq!(needed_by(printed), ["/lib/ld-linux-aarch64.so.1", "libmnl.so.0"]);
    }

    #[test]
    fn links_of_another_root_stay_inside_it() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "sbin"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("bin/kmod"), "").unwrap();
        symlink("/bin/kmod", root.path().join("sbin/modprobe")).unwrap();
        symlink("../sbin/modprobe", root.path().join("bin/lsmod")).unwrap();
        symlink("/bin/loop", root.path().join("bin/loop")).unwrap();
        for name in ["sbin/modprobe", "bin/lsmod", "/bin/kmod"] {
            assert_eq!(inside(root.path(), Path::new(name)), Some(root.path().join("bin/kmod")), "{name}");
        }
        assert_eq!(inside(root.path(), Path::new("bin/loop")), None);
        // This machine has one, that root has not.
        assert_eq!(inside(root.path(), Path::new("bin/sh")), None);
    }
}
