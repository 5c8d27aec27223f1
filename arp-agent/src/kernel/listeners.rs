//! The processes that hold packet sockets for ARP.

use anyhow::{Context as _, Result};
use nix::libc;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

/// A process that gets the ARP frames of an interface, and may answer them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// The interface; 0 for all of them.
    pub ifindex: u32,
    /// The process; `None` if it is in no /proc that this one may look into.
    pub pid: Option<u32>,
    /// Its program, as far as the kernel tells.
    pub program: Option<String>,
}

/// The listeners of the calling thread's network namespace: sockets for ETH_P_ARP. Those for every protocol (tcpdump) only
/// look on. Of processes of other users only root learns which they are.
///
/// # Errors
/// The list cannot be read.
pub fn listeners() -> Result<Vec<Listener>> {
    let path = "/proc/thread-self/net/packet";
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("reading {path}"))?,
    };
    let sockets = for_arp(&text);
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let holders = holders();
    let mut found: Vec<Listener> = sockets
        .into_iter()
        .map(|(inode, ifindex)| {
            let pid = holders.get(&inode).copied();
            let program = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            Listener { ifindex, pid, program: program.map(|name| name.trim_end().to_owned()) }
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The inode and the interface of each socket for ARP; the columns are those of `packet_seq_show` (net/packet/af_packet.c,
/// 6.18).
fn for_arp(text: &str) -> Vec<(u64, u32)> {
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, _, _, protocol, interface, _, _, _, inode] = words.as_slice() else { return None };
        let is_arp = i32::from(u16::from_str_radix(protocol, 16).ok()?) == libc::ETH_P_ARP;
        is_arp.then_some((inode.parse().ok()?, interface.parse().ok()?))
    };
    text.lines().skip(1).filter_map(of_line).collect()
}

/// The process that holds each socket, by the socket's inode.
fn holders() -> BTreeMap<u64, u32> {
    let mut holders = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            inode.into_iter().for_each(|inode| _ = holders.entry(inode).or_insert(pid));
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_arp_have_an_inode_and_an_interface() {
        let text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
            0000000000000000 3      3    0806   7     1 0      0      64551 \n\
            0000000000000000 3      3    0003   9     1 1024   0      64555 \n\
            0000000000000000 3      3    0806   -1    0 0      0      64554 \n";
        assert_eq!(for_arp(text), [(64551, 7)]);
    }
}
