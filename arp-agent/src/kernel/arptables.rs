//! The rules of legacy arptables.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::arp_rules::{
    ArpRules, Base, Chain, ChainHook, ChainRule, ChainTool, ChainVerdict, Field, Step, Test, Values,
};

/// What is said of tables that only root may read.
pub(super) const FORBIDDEN: &str = "the tables of arptables may not be read";
/// The only table that the kernel has (net/ipv4/netfilter/arptable_filter.c).
const FILTER: &str = "filter";
/// `ARPT_SO_GET_INFO` and `ARPT_SO_GET_ENTRIES` (include/uapi/linux/netfilter_arp/arp_tables.h, as all that follows).
const GET_INFO: i32 = 96;
const GET_ENTRIES: i32 = 97;
/// `struct arpt_getinfo`: a name of 32 bytes, `valid_hooks`, `hook_entry[3]`, `underflow[3]`, `num_entries`, `size`.
const INFO_LEN: usize = 68;
/// `struct arpt_get_entries`: a name, the size, and from here on that many bytes.
const ENTRIES_AT: usize = 40;
/// What an entry compares (`struct arpt_arp`): where its value and its mask are, how long, and the flag that inverts it.
const COMPARED: [(Field, usize, usize, usize, u16); 8] = [
    (Field::InName, 94, 126, libc::IF_NAMESIZE, 0x1),
    (Field::OutName, 110, 142, libc::IF_NAMESIZE, 0x2),
    (Field::Packet { offset: 14, len: 4 }, 0, 8, 4, 0x4),
    (Field::Packet { offset: 24, len: 4 }, 4, 12, 4, 0x8),
    (Field::Packet { offset: 6, len: 2 }, 82, 84, 2, 0x40),
    (Field::Packet { offset: 0, len: 2 }, 86, 88, 2, 0x80),
    (Field::Packet { offset: 2, len: 2 }, 90, 92, 2, 0x100),
    (Field::Packet { offset: 4, len: 1 }, 16, 17, 1, 0x200),
];
/// Link-layer addresses, and the flags that invert them; and flags that the kernel does not know.
const ADDRESSES: Range<usize> = 18..82;
const ADDRESSES_INVERTED: u16 = 0x10 | 0x20;
const FLAGS_AT: usize = 158;
const INVERTED_AT: usize = 160;
/// `struct arpt_entry`: where its target and the next entry are.
const TARGET_OFFSET_AT: usize = 164;
const NEXT_OFFSET_AT: usize = 166;
/// In the target (`struct xt_standard_target`), its name, and its verdict or (`struct xt_error_target`) another name.
const TARGET_NAME_AT: usize = 2;
const TARGET_NAME_LEN: usize = 29;
const VERDICT_AT: usize = 32;
/// A chain of a user's begins with a target of this name, which has the chain's.
const ERROR: &str = "ERROR";
/// How the tables store NF_DROP, NF_ACCEPT and XT_RETURN; a verdict that is not negative is where to go on.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;
const CHAINS: [&str; 3] = ["INPUT", "OUTPUT", "FORWARD"];
/// NF_ARP_FORWARD: what a bridge hands on from port to port (`br_nf_forward_arp`, net/bridge/br_netfilter_hooks.c), which
/// no interface takes in that could answer.
const FORWARD: usize = 2;
/// A table that is longer, such as one of 300 rules, is not read: it would be again and again.
const MOST: usize = 1 << 16;

/// The tables of legacy arptables. While the module is loaded, the kernel has a file with their names. The file is kept
/// open: opening it costs several times as much as reading it.
#[derive(Default)]
pub(super) struct ArpTables {
    names: Option<File>,
    socket: Option<OwnedFd>,
    /// The log already says that the file may not be read.
    told: bool,
}

impl ArpTables {
    /// The rules in the network namespace of the calling thread; once there was a table, in that of the thread that saw it
    /// first. A table stays until its module or the namespace goes.
    pub(super) fn rules(&mut self) -> Result<ArpRules> {
        let names = match self.names()? {
            Some(names) if names.is_empty() => return Ok(ArpRules::default()),
            Some(names) => names,
            None => return Ok(ArpRules::unread(FORBIDDEN)),
        };
        // Only a table that is there is asked for: the kernel would make one that is not (`xt_find_table_lock`,
        // net/netfilter/x_tables.c), or load its module.
        if names != format!("{FILTER}\n") {
            return Ok(ArpRules::unread("arptables has a table of another name than `filter`"));
        }
        Ok(self.filter().unwrap_or_else(|error| {
            log::debug!("the table {FILTER} of arptables: {error:#}");
            ArpRules::unread(format!("the table {FILTER} of arptables cannot be read: {error:#}"))
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

    fn filter(&mut self) -> Result<ArpRules> {
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
        let size = Info::read(&info)?.size;
        ensure!(size <= MOST, "it has more than {MOST} bytes");
        let mut entries = vec![0; ENTRIES_AT + size];
        entries[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        entries[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        ask(socket, GET_ENTRIES, &mut entries).context("asking for its entries")?;
        let mut again = [0; INFO_LEN];
        again[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        ask(socket, GET_INFO, &mut again).context("asking for its size")?;
        ensure!(info == again, "it is being changed");
        decode(&info, &entries[ENTRIES_AT..])
    }
}

/// `struct arpt_getinfo`.
struct Info {
    valid_hooks: usize,
    /// Of each hook, where its first entry is, and its policy.
    hooks: [[usize; 2]; 3],
    size: usize,
}

impl Info {
    fn read(info: &[u8; INFO_LEN]) -> Result<Self> {
        let word = |at| usize::try_from(u32::from_ne_bytes(bytes(info, at)?)).context("a size");
        Ok(Self {
            valid_hooks: word(32)?,
            hooks: [[word(36)?, word(48)?], [word(40)?, word(52)?], [word(44)?, word(56)?]],
            size: word(64)?,
        })
    }
}

/// An entry.
struct ArptablesEntry<'a> {
    bytes: &'a [u8],
    /// Where the next one is.
    next: usize,
    target: &'a [u8],
}

impl<'a> ArptablesEntry<'a> {
    fn read(entries: &'a [u8], at: usize) -> Result<Self> {
        let rest = entries.get(at..).context("an entry behind the end")?;
        let [target, len] = [TARGET_OFFSET_AT, NEXT_OFFSET_AT].map(|at| bytes(rest, at).map(u16::from_ne_bytes));
        let (target, len) = (usize::from(target?), usize::from(len?));
        ensure!(INVERTED_AT < target && target < len, "an entry of {len} bytes with its target at {target}");
        let bytes = rest.get(..len).context("an entry that is cut off")?;
        Ok(Self { bytes, next: at + len, target: &bytes[target..] })
    }

    /// The name of its target; it is empty if the target is a verdict.
    fn target(&self) -> Result<String> {
        let name = self.target.get(TARGET_NAME_AT..TARGET_NAME_AT + TARGET_NAME_LEN).context("a target's name")?;
        Ok(crate::netlink::wire::text(name))
    }

    /// The name of the chain that begins behind it.
    fn heads(&self) -> Result<Option<String>> {
        let name = self.target.get(VERDICT_AT..).unwrap_or_default();
        Ok((self.target()? == ERROR).then(|| crate::netlink::wire::text(name)))
    }

    fn verdict(&self) -> Result<i32> {
        bytes(self.target, VERDICT_AT).map(i32::from_ne_bytes)
    }

    /// What it asks of a frame (`arp_packet_match`, net/ipv4/netfilter/arp_tables.c).
    fn conditions(&self) -> Result<Vec<Step>> {
        let inverted = u16::from_ne_bytes(bytes(self.bytes, INVERTED_AT)?);
        let mut steps = Vec::new();
        for (field, value, mask, len, inverts) in COMPARED {
            let [value, mask] = [value, mask].map(|at| self.bytes.get(at..at + len).unwrap_or_default().to_vec());
            let inverted = inverted & inverts != 0;
            // Of a number, the masked bits must be the whole value; of a name, the rest does not count.
            let is_name = matches!(field, Field::InName | Field::OutName);
            if !is_name && value.iter().zip(&mask).any(|(value, mask)| value & !mask != 0) {
                steps.push(Step::Perhaps);
            } else if mask.iter().any(|&byte| byte != 0) || inverted {
                steps.push(Step::If(Test { field, with: Values::Masked { value, mask }, inverted }));
            }
        }
        let is_any = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        if !is_any(&self.bytes[ADDRESSES]) || inverted & ADDRESSES_INVERTED != 0 {
            steps.push(Step::Perhaps);
        }
        ensure!(self.bytes[FLAGS_AT] == 0 && inverted < 1 << 10, "flags that are not known");
        Ok(steps)
    }
}

/// The rules in the entries of the table.
fn decode(info: &[u8; INFO_LEN], entries: &[u8]) -> Result<ArpRules> {
    let info = Info::read(info)?;
    let hooks = || (0..3).filter(|hook| info.valid_hooks & (1 << hook) != 0);
    ensure!(info.valid_hooks < 1 << 3, "it is on hooks that are not known");
    // Where chains begin, and their names.
    let mut begins: BTreeMap<usize, String> =
        hooks().map(|hook| (info.hooks[hook][0], CHAINS[hook].to_owned())).collect();
    let mut at = 0;
    while at < entries.len() {
        let entry = ArptablesEntry::read(entries, at)?;
        at = entry.next;
        if let Some(name) = entry.heads()?.filter(|_| at < entries.len()) {
            begins.insert(at, name);
        }
    }
    let places: BTreeMap<usize, usize> = begins.keys().enumerate().map(|(place, &at)| (at, place)).collect();
    let policies: Vec<usize> = hooks().map(|hook| info.hooks[hook][1]).collect();
    let mut rules = ArpRules::default();
    for (&begin, name) in &begins {
        let mut chain = Chain { tool: ChainTool::Arptables, name: name.clone(), rules: Vec::new() };
        let mut at = begin;
        // A chain of a user's ends where the next begins, that of a hook with its policy.
        while at < entries.len() && !policies.contains(&at) {
            let entry = ArptablesEntry::read(entries, at)?;
            if entry.heads()?.is_some() {
                break;
            }
            let mut steps = entry.conditions()?;
            steps.push(match (entry.target()?.as_str(), entry.verdict()) {
                ("", Ok(DROP)) => Step::Verdict(ChainVerdict::Drop),
                ("", Ok(ACCEPT)) => Step::Verdict(ChainVerdict::Accept),
                ("", Ok(RETURN)) => Step::Verdict(ChainVerdict::Return),
                // It only counts.
                ("", Ok(to)) if usize::try_from(to) == Ok(entry.next) => Step::Verdict(ChainVerdict::Continue),
                ("", Ok(to)) => {
                    let place = usize::try_from(to).ok().and_then(|to| places.get(&to).copied());
                    Step::Verdict(place.map_or(ChainVerdict::Unknown, ChainVerdict::Jump))
                }
                (name, _) => Step::Unknown(format!("-j {name}")),
            });
            chain.rules.push(ChainRule { number: chain.rules.len() as u64 + 1, steps });
            at = entry.next;
        }
        rules.chains.push(chain);
    }
    for hook in hooks().filter(|&hook| hook != FORWARD) {
        let [begin, policy] = info.hooks[hook];
        let policy = ArptablesEntry::read(entries, policy)?;
        let is_plain = policy.conditions()?.is_empty() && policy.target()?.is_empty();
        rules.bases.push(Base {
            hook: [ChainHook::Input, ChainHook::Output, ChainHook::Other][hook],
            chain: *places.get(&begin).context("a hook without a chain")?,
            accepts: is_plain && policy.verdict()? == ACCEPT,
        });
    }
    Ok(rules)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N]> {
    from.get(at..).and_then(<[u8]>::first_chunk).copied().context("an entry that is cut off")
}

fn text(file: &File) -> io::Result<String> {
    let mut bytes = [0; 256];
    let len = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// Reads a socket option of IPv4. `value` holds the request, and is overwritten by the answer, which has its length.
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
    use crate::event::Link;

    /// As 6.18 shows it after these commands, all that is not 0:
    ///
    /// ```text
    /// arptables -A INPUT -i eth+ -j DROP
    /// arptables -A INPUT ! -i cali0 --opcode 1 -j ACCEPT
    /// arptables -A own -i eth0 -j RETURN
    /// arptables -A own
    /// arptables -A own -i p0 -j DROP
    /// arptables -A INPUT -i p+ -j own
    /// arptables -A OUTPUT -o cali0 -s 10.0.0.1 -j mangle --mangle-ip-s 10.0.0.2
    /// arptables -P FORWARD DROP
    /// ```
    const INFO: [u32; 9] = [7, 0, 928, 1432, 696, 1200, 1432, 13, 3104];
    const ENTRIES: [(usize, &str); 57] = [
        (94, "6574682b"),
        (126, "ffffff"),
        (164, "c000e80001"),
        (192, "28"),
        (224, "ffffffff"),
        (315, "01ffff"),
        (326, "63616c6930"),
        (358, "ffffffffffff"),
        (392, "01"),
        (396, "c000e80001"),
        (424, "28"),
        (456, "feffffff"),
        (558, "702b"),
        (590, "ff"),
        (628, "c000e80001"),
        (656, "28"),
        (688, "8007"),
        (860, "c000e80001"),
        (888, "28"),
        (920, "feffffff"),
        (928, "0a000001"),
        (936, "ffffffff"),
        (1038, "63616c6930"),
        (1070, "ffffffffffff"),
        (1092, "c000100102"),
        (1120, "50006d616e676c65"),
        (1184, "0a000002"),
        (1192, "04"),
        (1196, "01"),
        (1364, "c000e80002"),
        (1392, "28"),
        (1424, "feffffff"),
        (1596, "c000e80004"),
        (1624, "28"),
        (1656, "ffffffff"),
        (1828, "c0000001"),
        (1856, "40004552524f52"),
        (1888, "6f776e"),
        (2014, "65746830"),
        (2046, "ffffffffff"),
        (2084, "c000e80001"),
        (2112, "28"),
        (2144, "fbffffff"),
        (2316, "c000e80001"),
        (2344, "28"),
        (2376, "5009"),
        (2478, "7030"),
        (2510, "ffffff"),
        (2548, "c000e80001"),
        (2576, "28"),
        (2608, "ffffffff"),
        (2780, "c000e80001"),
        (2808, "28"),
        (2840, "fbffffff"),
        (3012, "c0000001"),
        (3040, "40004552524f52"),
        (3072, "4552524f52"),
    ];

    const INPUT_POLICY: usize = 696 + 192 + VERDICT_AT;
    const OUTPUT_POLICY: usize = 1200 + 192 + VERDICT_AT;

    fn captured() -> ([u8; INFO_LEN], Vec<u8>) {
        let mut info = [0; INFO_LEN];
        for (at, word) in INFO.into_iter().enumerate() {
            info[32 + 4 * at..36 + 4 * at].copy_from_slice(&word.to_ne_bytes());
        }
        let mut entries = vec![0; INFO[8] as usize];
        for (at, hex) in ENTRIES {
            let bytes = super::super::tests::bytes(hex);
            entries[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        (info, entries)
    }

    const INTERFACES: [&str; 4] = ["cali0", "eth0", "p0", "p1"];

    /// The interfaces that it concerns, and why.
    fn concerned(entries: &[u8]) -> Vec<(&'static str, String)> {
        let rules = decode(&captured().0, entries).unwrap();
        let link = |name: &str| Link { name: name.to_owned(), ..Link::default() };
        INTERFACES.into_iter().filter_map(|name| Some((name, rules.concern(&link(name))?.to_string()))).collect()
    }

    #[test]
    fn rules_concern_the_interfaces_that_they_can_match() {
        let (_, mut entries) = captured();
        let mangle = ("cali0", "arptables chain OUTPUT, rule 1: `-j mangle` may do anything".to_owned());
        let eth = ("eth0", "arptables chain INPUT, rule 1: it may drop frames".to_owned());
        assert_eq!(concerned(&entries), [mangle.clone(), eth.clone()], "p0 is accepted before");

        // The second rule asks for replies, which do not come in: the third leads to the other chain.
        entries[315] = 2;
        let own = ("p0", "arptables chain own, rule 3: it may drop frames".to_owned());
        assert_eq!(concerned(&entries).len(), 3);
        assert_eq!(concerned(&entries)[2], own);
    }

    /// The second rule accepts all interfaces but cali0, unless it asks for more; p0 is dropped then.
    #[test]
    fn what_is_not_known_of_frames_may_hold_or_not() {
        const SECOND: usize = 232;
        let changed = |changes: &[(usize, u8)]| {
            let (_, mut entries) = captured();
            changes.iter().for_each(|&(at, byte)| entries[SECOND + at] |= byte);
            concerned(&entries).iter().any(|(name, _)| *name == "p0")
        };
        assert!(!changed(&[]));
        assert!(changed(&[(ADDRESSES.start, 2)]) && changed(&[(ADDRESSES.end - 1, 1)]), "link-layer addresses");
        assert!(changed(&[(INVERTED_AT, 0x10)]) && changed(&[(INVERTED_AT, 0x20)]), "inverted ones");
        assert!(changed(&[(0, 10), (8, 255)]) && changed(&[(4, 10), (12, 255)]), "addresses");
        assert!(changed(&[(0, 10)]), "a bit that the mask does not have");
        assert!(!changed(&[(16, 6), (17, 255)]) && changed(&[(16, 5), (17, 255)]), "hlen");
        assert!(!changed(&[(90, 8), (92, 255)]) && changed(&[(90, 9), (92, 255)]), "ptype");
        assert!(changed(&[(87, 1), (89, 255)]), "htype may be 6");
    }

    #[test]
    fn policies() {
        // All others are accepted before the former.
        for (policy, chain, name) in [(INPUT_POLICY, "INPUT", "cali0"), (OUTPUT_POLICY, "OUTPUT", "p1")] {
            for verdict in [DROP, 0, RETURN] {
                let (_, mut entries) = captured();
                entries[policy..policy + 4].copy_from_slice(&verdict.to_ne_bytes());
                let found = concerned(&entries);
                let why = format!("arptables chain {chain}: its policy may drop frames");
                assert!(found.contains(&(name, why)), "{verdict}: {found:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let (info, entries) = captured();
        for len in [0, 100, 1000, 1300, entries.len() - 1] {
            assert!(decode(&info, &entries[..len]).is_err(), "{len}");
        }
        let mut other = entries.clone();
        other[166..168].fill(0);
        assert!(decode(&info, &other).is_err(), "an entry without length");
        let mut on_others = info;
        on_others[32] = 15;
        assert!(decode(&on_others, &entries).is_err(), "a fourth hook");
    }

    proptest::proptest! {
        #[test]
        fn no_entries_are_too_strange(changes in proptest::collection::vec((0..3104_usize, proptest::num::u8::ANY), 1..20)) {
            let (info, mut entries) = captured();
            for (at, byte) in changes {
                entries[at] = byte;
            }
            if let Ok(rules) = decode(&info, &entries) {
                let _ = rules.concern(&Link::default());
            }
        }
    }
}
