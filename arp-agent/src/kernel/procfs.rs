//! What only procfs tells, or tells without side effects: `net.ipv4.conf.*`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result};
use nix::libc;

use crate::event::Settings;
use arp_common::settings::{CONF, PROXY_DELAY};

/// Whether there are IPv4 settings of an interface of that name in the calling thread's network namespace, or it cannot be
/// said.
pub fn has_settings(interface: &str) -> bool {
    fs::exists(format!("/proc/sys/net/ipv4/conf/{interface}")).unwrap_or(true)
}

/// The files of `net.ipv4.conf.all`, kept open: they stay those of the network namespace in which they were
/// opened, and each read from their start gives the value of that moment.
pub(super) struct AllSettings {
    files: Vec<File>,
}

impl AllSettings {
    pub(super) fn open() -> Result<Self> {
        let open = |name| {
            let path = format!("/proc/sys/net/ipv4/conf/all/{name}");
            File::open(&path).with_context(|| format!("opening {path}"))
        };
        Ok(Self { files: CONF.into_iter().map(open).collect::<Result<_>>()? })
    }

    pub(super) fn read(&self) -> Result<Settings> {
        let mut values = [0; CONF.len()];
        for ((value, file), name) in values.iter_mut().zip(&self.files).zip(CONF) {
            *value = number(file).with_context(|| format!("reading net.ipv4.conf.all.{name}"))?;
        }
        Ok(values.into())
    }
}

/// `net.ipv4.conf.<interface>.*` in the calling thread's network namespace; `None` if the interface has no IPv4 settings, or
/// there is none of that name.
pub(super) fn settings(interface: &str) -> Result<Option<Settings>> {
    let mut values = [0; CONF.len()];
    for (value, name) in values.iter_mut().zip(CONF) {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
        match File::open(&path).and_then(|file| text(&file)) {
            Ok(text) => *value = text.trim().parse().with_context(|| format!("reading {path}: {text:?}"))?,
            // Also what is read of a file that has gone since it was opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {path}")),
        }
    }
    Ok(Some(values.into()))
}

/// `net.ipv4.neigh.<interface>.proxy_delay` in milliseconds, in the calling thread's network namespace; `None` if the
/// interface has no such setting.
pub(super) fn proxy_delay(interface: &str) -> Result<Option<u64>> {
    /// What the file counts in: USER_HZ is 100.
    const UNIT: u64 = 10;
    let path = format!("/proc/sys/net/ipv4/neigh/{interface}/{PROXY_DELAY}");
    match File::open(&path) {
        Ok(file) => {
            let units = number(&file).with_context(|| format!("reading {path}"))?;
            Ok(u64::try_from(units).ok().map(|units| units * UNIT))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("opening {path}")),
    }
}

/// How many routes the kernel counts in table local and in table main, in the calling thread's network namespace; `None` if it
/// does not tell. While it keeps both in one trie, each number is that of both.
pub(super) fn local_and_main() -> Result<Option<[u64; 2]>> {
    let path = "/proc/thread-self/net/fib_triestat";
    match fs::read_to_string(path) {
        Ok(text) => Ok(counted_routes(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

/// Of a table's lines that with its routes, as `fib_triestat_seq_show` (net/ipv4/fib_trie.c, 6.18) writes them.
pub(super) fn counted_routes(text: &str) -> Option<[u64; 2]> {
    let of = |table: &str| {
        let after = text.lines().skip_while(|line| *line != table);
        let count = after.skip(1).take_while(|line| line.starts_with(char::is_whitespace));
        count.filter_map(|line| line.trim().strip_prefix("Prefixes:")).next()?.trim().parse().ok()
    };
    Some([of("Local:")?, of("Main:")?])
}

/// The packet sockets of a network namespace: a file that is kept open, and stays that of the namespace in which it was opened.
pub(super) struct PacketSockets {
    /// `None` if the kernel has no packet sockets.
    file: Option<File>,
}

impl PacketSockets {
    /// Those of the calling thread's network namespace.
    pub(super) fn open() -> Result<Self> {
        let path = "/proc/thread-self/net/packet";
        match File::open(path) {
            Ok(file) => Ok(Self { file: Some(file) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { file: None }),
            Err(error) => Err(error).with_context(|| format!("opening {path}")),
        }
    }

    /// The interfaces on which one is for ARP, in order; 0 for one on all interfaces.
    pub(super) fn for_arp(&self) -> Result<Vec<u32>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = file.read_at(&mut chunk, text.len() as u64).context("reading /proc/net/packet")?;
            if read == 0 {
                break;
            }
            text.extend(&chunk[..read]);
        }
        sockets_for_arp(str::from_utf8(&text)?).context("reading /proc/net/packet")
    }
}

/// The interfaces in a list of packet sockets as `packet_seq_show` (net/packet/af_packet.c) writes it: sk, RefCnt, Type,
/// Proto in hexadecimal, Iface, R, Rmem, User, Inode. A socket that does not run (R is 0) waits for its interface to come up;
/// one whose interface is gone has -1.
fn sockets_for_arp(text: &str) -> Result<Vec<u32>> {
    let mut interfaces = Vec::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, _, _, protocol, interface, ..] = words.as_slice() else { anyhow::bail!("too few columns: {line:?}") };
        let protocol = u16::from_str_radix(protocol, 16).with_context(|| format!("no protocol: {line:?}"))?;
        let interface: i32 = interface.parse().with_context(|| format!("no interface: {line:?}"))?;
        if i32::from(protocol) == libc::ETH_P_ARP {
            interfaces.extend(u32::try_from(interface));
        }
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    Ok(interfaces)
}

fn number(file: &File) -> Result<i32> {
    let text = text(file)?;
    text.trim().parse().with_context(|| format!("{text:?}"))
}

/// What a file with one number holds.
fn text(file: &File) -> io::Result<String> {
    let mut digits = [0; 16];
    let len = file.read_at(&mut digits, 0)?;
    String::from_utf8(digits[..len].to_vec()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 6.18 writes it: for ARP on interface 7, once down, and on all; one whose interface is gone; ETH_P_ALL (tcpdump), ETH_P_IP
    /// (a DHCP client) and one without a protocol, which receives nothing.
    const SOCKETS: &str = "\
sk               RefCnt Type Proto  Iface R Rmem   User   Inode
0000000000000000 3      3    0806   7     1 0      0      64551 
0000000000000000 3      2    0806   0     1 0      100    64552 
0000000000000000 3      3    0806   7     0 0      0      64553 
0000000000000000 3      3    0806   -1    0 0      0      64554 
0000000000000000 3      3    0003   9     1 1024   0      64555 
0000000000000000 3      3    0800   10    1 0      0      64556 
0000000000000000 3      3    0000   0     0 0      0      64557 
";

    /// As 6.18 writes it, shortened: both tables in one trie, then another table.
    const TRIES: &str = "\
Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.
Main:
	Aver depth:     2.42
	Leaves:         7
	Prefixes:       8
Null ptrs: 11
Total size: 2  kB
Local:
	Aver depth:     2.42
	Leaves:         7
	Prefixes:       9
Id 100:
	Prefixes:       1
";

    #[test]
    fn routes_are_counted_by_table() {
        assert_eq!(counted_routes(TRIES), Some([9, 8]));
        assert_eq!(counted_routes(&TRIES.replace("Local:", "Id 7:")), None);
        assert_eq!(counted_routes(""), None);
    }

    #[test]
    fn sockets_for_arp_are_found_among_others() {
        assert_eq!(sockets_for_arp(SOCKETS).unwrap(), [0, 7]);
        assert_eq!(sockets_for_arp(SOCKETS.lines().next().unwrap()).unwrap(), [0; 0]);
        assert_eq!(sockets_for_arp("").unwrap(), [0; 0]);
        assert!(sockets_for_arp("sk\n0 3 3 0806\n").is_err());
        assert!(sockets_for_arp("sk\n0 3 3 none 0 1 0 0 1\n").is_err());
    }
}
