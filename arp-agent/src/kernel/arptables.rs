//! Whether legacy arptables may do anything to a frame.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use anyhow::{Context, Result};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// The only table that the kernel has (net/ipv4/netfilter/arptable_filter.c).
const FILTER: &str = "filter";
/// `ARPT_SO_GET_INFO` and `ARPT_SO_GET_ENTRIES` (include/uapi/linux/netfilter_arp/arp_tables.h, as all that follows).
const GET_INFO: i32 = 96;
const GET_ENTRIES: i32 = 97;
/// `struct arpt_getinfo`: a name of 32 bytes, `valid_hooks`, `hook_entry[3]`, `underflow[3]`, `num_entries`, `size`.
const INFO_LEN: usize = 68;
/// `struct arpt_get_entries`: a name, the size, and from here on that many bytes.
const ENTRIES_AT: usize = 40;
/// `struct arpt_entry` up to its target; and in the target (`struct xt_standard_target`) its name and its verdict.
const TARGET_AT: usize = 192;
const TARGET_NAME_AT: usize = TARGET_AT + 2;
const VERDICT_AT: usize = TARGET_AT + 32;
/// How the tables store NF_ACCEPT.
const ACCEPT: i32 = -2;
/// A table that holds more than policies is longer than some kilobytes, or short enough to be read.
const MOST: usize = 1 << 16;

/// The tables of legacy arptables. The kernel tells their names in a file that is there while the module is loaded. It is kept open
/// from then on, because opening it costs several times what reading it does.
#[derive(Default)]
pub(super) struct ArpTables {
    names: Option<File>,
    socket: Option<OwnedFd>,
    /// It was told that the file may not be read.
    told: bool,
}

impl ArpTables {
    /// Whether a table may do anything, in the network namespace of the calling thread; once there was one, in that of
    /// the thread that saw it first. A table without rules whose policies all are ACCEPT does nothing; it stays until its
    /// module or the namespace goes.
    pub(super) fn any(&mut self) -> Result<bool> {
        let names = match self.names()? {
            Some(names) if names.is_empty() => return Ok(false),
            Some(names) => names,
            None => return Ok(true),
        };
        // Only a table that is there is asked for: the kernel would make one that is not (`xt_find_table_lock`,
        // net/netfilter/x_tables.c), or load its module.
        if names != format!("{FILTER}\n") {
            return Ok(true);
        }
        Ok(!self.does_nothing().unwrap_or_else(|error| {
            log::debug!("the table {FILTER} of arptables: {error:#}");
            false
        }))
    }

    /// The names of the tables that there are, one a line; `None` if they may not be read.
    fn names(&mut self) -> Result<Option<String>> {
        // The file of a module that was unloaded cannot be read any more; there may be another one by now.
        if let Some(names) = self.names.as_ref().and_then(|names| text(names).ok()) {
            return Ok(Some(names));
        }
        self.names = None;
        let path = "/proc/thread-self/net/arp_tables_names";
        match File::open(path) {
            Ok(names) => text(self.names.insert(names)).with_context(|| format!("reading {path}")).map(Some),
            // The module is not loaded.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(String::new())),
            // Its mode is 0440, and it belongs to root.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!(
                        "the module arp_tables is loaded, and {path} may not be read: every frame passes, because there \
                         may be rules of arptables; run as root (uid 0), give CAP_DAC_READ_SEARCH, or unload the module"
                    );
                }
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("opening {path}")),
        }
    }

    fn does_nothing(&mut self) -> Result<bool> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
                self.socket.insert(socket.context("opening a socket")?)
            }
        };
        let mut info = [0; INFO_LEN];
        info[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        ask(socket, GET_INFO, &mut info).context("asking for its size")?;
        let size = word(&info, 64) as usize;
        if !has_policies_alone(&info) || size > MOST {
            return Ok(false);
        }
        let mut entries = vec![0; ENTRIES_AT + size];
        entries[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        entries[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        ask(socket, GET_ENTRIES, &mut entries).context("asking for its entries")?;
        Ok(accepts(&info, &entries[ENTRIES_AT..]))
    }
}

/// The hooks that the table is on, each with the offset of its first entry and of its policy.
fn hooks(info: &[u8; INFO_LEN]) -> impl Iterator<Item = (u32, u32)> {
    let valid = word(info, 32);
    (0..3)
        .filter(move |hook| valid & (1 << hook) != 0)
        .map(|hook| (word(info, 36 + 4 * hook), word(info, 48 + 4 * hook)))
}

/// Whether each hook's policy is its first entry, and there is nothing else but the entry at the end.
fn has_policies_alone(info: &[u8; INFO_LEN]) -> bool {
    let entries = word(info, 60) as usize;
    hooks(info).all(|(first, policy)| first == policy) && entries == hooks(info).count() + 1
}

/// Whether all policies are ACCEPT.
fn accepts(info: &[u8; INFO_LEN], entries: &[u8]) -> bool {
    hooks(info).all(|(_, policy)| {
        let Some(entry) = entries.get(policy as usize..) else { return false };
        let [name, verdict] = [TARGET_NAME_AT, VERDICT_AT].map(|at| entry.get(at..at + 4));
        name.is_some_and(|name| name[0] == 0) && verdict == Some(&ACCEPT.to_ne_bytes())
    })
}

fn word(bytes: &[u8; INFO_LEN], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn text(file: &File) -> io::Result<String> {
    let mut bytes = [0; 256];
    let len = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// Asks for an option of IPv4 whose answer is as long as `value`, which holds the question.
fn ask(socket: &impl AsFd, option: i32, value: &mut [u8]) -> io::Result<()> {
    let mut len = value.len() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes at most `len` bytes into `value`.
    let done = unsafe { libc::getsockopt(socket, libc::IPPROTO_IP, option, value.as_mut_ptr().cast(), &raw mut len) };
    if done == 0 && len as usize == value.len() { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table on all three hooks with these policies, as 6.18 shows it: each entry 232 bytes.
    fn table(policies: [i32; 3]) -> ([u8; INFO_LEN], Vec<u8>) {
        let mut info = [0; INFO_LEN];
        for (at, word) in [7, 0, 232, 464, 0, 232, 464, 4, 960_u32].into_iter().enumerate() {
            info[32 + 4 * at..36 + 4 * at].copy_from_slice(&word.to_ne_bytes());
        }
        let mut entries = vec![0; 960];
        for (hook, policy) in policies.into_iter().enumerate() {
            entries[232 * hook + VERDICT_AT..][..4].copy_from_slice(&policy.to_ne_bytes());
        }
        (info, entries)
    }

    #[test]
    fn only_policies_that_accept_do_nothing() {
        const DROP: i32 = -1;
        let (info, entries) = table([ACCEPT; 3]);
        assert!(has_policies_alone(&info) && accepts(&info, &entries));
        for policies in [[DROP, ACCEPT, ACCEPT], [ACCEPT, DROP, ACCEPT], [ACCEPT, ACCEPT, 0]] {
            let (info, entries) = table(policies);
            assert!(!accepts(&info, &entries), "{policies:?}");
        }
        assert!(!accepts(&info, &entries[..464 + VERDICT_AT]), "cut off");
        let (_, mut entries) = table([ACCEPT; 3]);
        entries[TARGET_NAME_AT] = b'm';
        assert!(!accepts(&info, &entries), "another target");
    }

    #[test]
    fn a_rule_or_a_chain_is_more_than_policies() {
        let (mut info, _) = table([ACCEPT; 3]);
        info[60] = 5;
        assert!(!has_policies_alone(&info), "a chain of a user's");
        let (mut info, _) = table([ACCEPT; 3]);
        info[48] = 232;
        assert!(!has_policies_alone(&info), "something before the policy");
    }
}
