//! Names of network namespaces.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use anyhow::{Context, Result, bail};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{
    fcntl::OFlag,
    libc,
    sys::statfs::{FsType, fstatfs},
};

use crate::netlink::{
    socket::{NetlinkSocket, errno},
    wire::{self, NetlinkRequest},
};

/// Where `ip netns` and container runtimes bind-mount namespaces.
const DIRECTORY: &str = "/var/run/netns";

// NETNSA_*, include/uapi/linux/net_namespace.h: no crate has them.
const NSID: u16 = 1;
const FD: u16 = 3;

/// Whether the calling thread's network namespace is owned by its own user namespace: only then is 0 in a rule's
/// `uidrange` the user that the kernel takes for an ARP request (`sock_net_uid`, include/net/sock.h, 6.18).
pub(super) fn is_owned_by_own_users() -> bool {
    /// `_IO(NSIO, 1)`: include/uapi/linux/nsfs.h.
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    let owner = || -> io::Result<bool> {
        let namespace = fs::File::open("/proc/thread-self/ns/net")?;
        // SAFETY: it takes no argument, and gives a new descriptor or -1.
        let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
        if owner < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it, and nobody else has it.
        let owner = fs::File::from(unsafe { OwnedFd::from_raw_fd(owner) });
        Ok(owner.metadata()?.ino() == fs::metadata("/proc/thread-self/ns/user")?.ino())
    };
    owner().unwrap_or(false)
}

/// The names under `/var/run/netns` of the namespaces that have an identifier in this one (as in
/// [`Link::link_netnsid`](crate::event::Link::link_netnsid)). The kernel gives a namespace one when a link dump first
/// meets an interface whose other end is there.
pub fn namespace_names() -> Result<BTreeMap<i32, String>> {
    let mut names = BTreeMap::new();
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries.with_context(|| format!("reading {DIRECTORY}"))?,
    };
    let mut socket = NetlinkSocket::new(NETLINK_ROUTE)?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {DIRECTORY}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Gone meanwhile, or nothing that this user may open: nameless.
        let Ok(file) = open(&entry.path()) else {
            continue;
        };
        if let Some(id) = identifier(&mut socket, &name, &file)? {
            names.insert(id, name);
        }
    }
    Ok(names)
}

/// Opens a file that may be a namespace, without blocking. The agent has one thread: a FIFO must not make it wait for a
/// writer.
fn open(path: &Path) -> Result<fs::File> {
    // NSFS_MAGIC, include/uapi/linux/magic.h.
    const NSFS: FsType = FsType(libc::NSFS_MAGIC as _);
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = fs::File::options().read(true).custom_flags(flags.bits()).open(path)?;
    if fstatfs(&file)?.filesystem_type() != NSFS {
        bail!("no namespace");
    }
    Ok(file)
}

fn identifier(socket: &mut NetlinkSocket, name: &str, file: &fs::File) -> Result<Option<i32>> {
    let descriptor = u32::try_from(file.as_raw_fd()).context("negative file descriptor")?;
    // `struct rtgenmsg` is one byte, the address family.
    let request = NetlinkRequest::new(libc::RTM_GETNSID, &[0]).with(FD, descriptor);
    let what = format!("the identifier of network namespace {name}");
    let answer = match socket.get(&what, &request) {
        // A file that is no namespace: what `ip netns` leaves behind when its mount is gone.
        Err(error) if errno(&error) == Some(libc::EINVAL) => return Ok(None),
        answer => answer?,
    };
    for message in wire::messages(answer) {
        let message = message?;
        if message.kind == libc::RTM_NEWNSID {
            let (_, rest) = message.split::<4>()?;
            let id = wire::attribute(rest, NSID)?.map(wire::i32_of).transpose()?;
            // −1: it has none.
            return Ok(id.filter(|id| *id >= 0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn a_namespace_is_opened_and_nothing_else_and_a_fifo_keeps_nobody_waiting() {
        open(Path::new("/proc/self/ns/net")).unwrap();
        open(Path::new("/proc/self/status")).unwrap_err();
        let fifo = std::env::temp_dir().join(format!("arp-agent-fifo-{}", std::process::id()));
        mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        let (done, is_done) = mpsc::channel();
        let path = fifo.clone();
        thread::spawn(move || done.send(open(&path).is_err()));
        let refused = is_done.recv_timeout(Duration::from_secs(5));
        fs::remove_file(&fifo).unwrap();
        assert_eq!(refused, Ok(true));
    }
}
