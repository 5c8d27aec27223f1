//! Names of network namespaces.

use std::{collections::BTreeMap, fs, io, os::fd::AsRawFd};

use anyhow::{Context, Result};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    socket::{Asker, errno},
    wire::{self, Request},
};

/// Where `ip netns` and container runtimes bind-mount namespaces.
const DIRECTORY: &str = "/var/run/netns";

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
// NETNSA_*, include/uapi/linux/net_namespace.h.
const NSID: u16 = 1;
const FD: u16 = 3;

/// The names under `/var/run/netns` of the namespaces that have an identifier in this one (as in
/// [`Link::link_netnsid`](crate::event::Link::link_netnsid)). The kernel gives a namespace one when a link dump first
/// meets an interface whose other end is there.
pub fn namespace_names() -> Result<BTreeMap<i32, String>> {
    let mut names = BTreeMap::new();
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries.with_context(|| format!("reading {DIRECTORY}"))?,
    };
    let mut asker = Asker::new(NETLINK_ROUTE)?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {DIRECTORY}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Gone meanwhile, or nothing that this user may open: nameless.
        let Ok(file) = fs::File::open(entry.path()) else {
            continue;
        };
        if let Some(id) = identifier(&mut asker, &name, &file)? {
            names.insert(id, name);
        }
    }
    Ok(names)
}

fn identifier(asker: &mut Asker, name: &str, file: &fs::File) -> Result<Option<i32>> {
    let descriptor = u32::try_from(file.as_raw_fd()).context("negative file descriptor")?;
    // `struct rtgenmsg` is one byte, the address family.
    let request = Request::new(RTM_GETNSID, &[0]).with(FD, descriptor);
    let what = format!("the identifier of network namespace {name}");
    let answer = match asker.get(&what, &request) {
        // A file that is no namespace: what `ip netns` leaves behind when its mount is gone.
        Err(error) if errno(&error) == Some(nix::libc::EINVAL) => return Ok(None),
        answer => answer?,
    };
    for message in wire::messages(answer) {
        let message = message?;
        if message.kind == RTM_NEWNSID {
            let (_, rest) = message.split::<4>()?;
            let id = wire::attribute(rest, NSID)?.map(wire::i32_of).transpose()?;
            // −1: it has none.
            return Ok(id.filter(|id| *id >= 0));
        }
    }
    Ok(None)
}
