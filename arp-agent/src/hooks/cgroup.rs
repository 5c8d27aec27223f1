//! The root of the unified cgroup tree: a program attached there sees every process.

use std::fs::File;
use std::os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _};
use std::path::PathBuf;
use std::{ffi::OsString, fs};

use anyhow::{Context, Result, bail};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The root's inode (`kernfs_create_root`, fs/kernfs/dir.c: identifiers begin at 1).
const ROOT_INODE: u64 = 1;

/// Opens the root of the unified tree: where it is mounted, or in a private mount that nobody else sees.
///
/// # Errors
/// It is not mounted and cannot be mounted; or a cgroup namespace shows only a part of it.
pub(crate) fn cgroup_root() -> Result<File> {
    let path = "/proc/self/mountinfo";
    let mounts = fs::read(path).with_context(|| format!("reading {path}"))?;
    let mounted: Vec<PathBuf> = mounts.split(|&byte| byte == b'\n').filter_map(cgroup2_mount).collect();
    let mut part = None;
    for mount in &mounted {
        match File::open(mount).and_then(|dir| Ok((dir.metadata()?.ino(), dir))) {
            Ok((ROOT_INODE, dir)) => return Ok(dir),
            Ok(_) => part = Some(mount),
            Err(error) => log::debug!("{}: {error}", mount.display()),
        }
    }
    let own = own_mount().context(match part {
        Some(part) => format!("{} is only a part of the cgroup tree (a cgroup namespace)", part.display()),
        None => "no cgroup2 mount is visible".to_owned(),
    })?;
    if own.metadata()?.ino() != ROOT_INODE {
        bail!("only a part of the cgroup tree is visible (share the host's cgroup namespace)");
    }
    Ok(own)
}

/// A mount that is attached nowhere. Needs CAP_SYS_ADMIN.
fn own_mount() -> Result<File> {
    let mount = || -> rustix::io::Result<File> {
        let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        // What fsmount gives is only a path.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&mount, ".", flags, rustix::fs::Mode::empty())?.into())
    };
    mount().context(
        "mounting one failed (it takes CAP_SYS_ADMIN; in a container, mount the host's /sys/fs/cgroup and share the host's \
         cgroup namespace)",
    )
}

/// Where a line of mountinfo (man 5 proc_pid_mountinfo) mounts cgroup2, if it does.
fn cgroup2_mount(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mount_point = fields.nth(4)?;
    let kind = fields.skip_while(|field| field != b"-").nth(1)?;
    (kind == b"cgroup2").then(|| unescaped(mount_point))
}

/// The path with its escapes resolved: mountinfo writes a blank as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let octal = after
            .first_chunk::<3>()
            .filter(|_| *byte == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        (bytes, rest) = match octal {
            Some(value) => ([bytes.as_slice(), &[value]].concat(), &after[3..]),
            None => ([bytes.as_slice(), &[*byte]].concat(), after),
        };
    }
    PathBuf::from(OsString::from(std::ffi::OsStr::from_bytes(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_among_other_mounts() {
        let at = |line: &str| cgroup2_mount(line.as_bytes()).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(at("33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"), None);
        assert_eq!(
            at("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw").as_deref(),
            Some("/sys/fs/cgroup/unified")
        );
        let shared = r"29 23 0:26 / /mnt/a\040b\134c rw shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(at(shared).as_deref(), Some(r"/mnt/a b\c"));
        assert_eq!(at(""), None);
        assert_eq!(at(r"1 2 3:4 / /x\9 rw - cgroup2"), Some(r"/x\9".to_owned()));
    }
}
