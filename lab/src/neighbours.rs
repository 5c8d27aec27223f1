//! The IPv4 neighbour table over netlink: a dump takes some 50 µs, a process would take milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use anyhow::Result;
use arp_common::Lladdr;

use crate::namespace::Namespace;
use crate::netlink::{KernelChange, Netlink, find, index, u16_at, u32_at};

/// What the kernel can do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// INCOMPLETE, FAILED, NONE.
    Invalid,
    /// REACHABLE, STALE, DELAY, PROBE.
    Valid,
    /// PERMANENT, NOARP.
    Fixed,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourState {
    /// `NUD_*`.
    pub state: u16,
    /// Its link-layer address, if it has one.
    pub lladdr: Option<Lladdr>,
}

impl NeighbourState {
    /// What the kernel can do with it.
    pub fn class(self) -> Class {
        const FIXED: u16 = libc::NUD_PERMANENT | libc::NUD_NOARP;
        const VALID: u16 = libc::NUD_REACHABLE | libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE;
        match self.state {
            state if state & FIXED != 0 => Class::Fixed,
            state if state & VALID != 0 => Class::Valid,
            _ => Class::Invalid,
        }
    }
}

/// The table, by interface index and address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The entries, without those that the kernel makes for multicast and broadcast.
    pub entries: BTreeMap<(u32, Ipv4Addr), NeighbourState>,
    /// The static proxies; index 0 stands for any interface.
    pub proxies: BTreeSet<(u32, Ipv4Addr)>,
}

impl Neighbours {
    /// Reads a namespace's table.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        Netlink::open(namespace)?.neighbours()
    }

    /// The table without what timers change: every valid state is STALE; an invalid entry has no state and no address.
    #[must_use]
    pub fn settled(mut self) -> Self {
        for entry in self.entries.values_mut() {
            match entry.class() {
                Class::Invalid => *entry = NeighbourState { state: libc::NUD_NONE, lladdr: None },
                Class::Valid => entry.state = libc::NUD_STALE,
                Class::Fixed => {}
            }
        }
        self
    }

    /// The table without invalid entries.
    #[must_use]
    pub fn usable(mut self) -> Self {
        self.entries.retain(|_, entry| entry.class() != Class::Invalid);
        self
    }

    /// The lines that only one of the tables has: `-` before this one's, `+` before the other's.
    pub fn difference(&self, other: &Self) -> String {
        let [mine, theirs] = [self, other].map(Self::to_string);
        let only = |sign, one: &str, other: &str| {
            let lines = one.lines().filter(|line| !other.lines().any(|there| there == *line));
            lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
        };
        only('-', &mine, &theirs) + &only('+', &theirs, &mine)
    }
}

impl fmt::Display for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((ifindex, addr), entry) in &self.entries {
            let lladdr = entry.lladdr.map(|lladdr| lladdr.to_string()).unwrap_or_default();
            writeln!(f, "{addr} ifindex {ifindex} {:?} {:#x} {lladdr}", entry.class(), entry.state)?;
        }
        self.proxies.iter().try_for_each(|(ifindex, addr)| writeln!(f, "{addr} ifindex {ifindex} proxy"))
    }
}

impl Namespace {
    /// The neighbour entry for an address on an interface, if there is one.
    pub fn neighbour(&self, interface: &str, address: [u8; 4]) -> Result<Option<NeighbourState>> {
        let (index, table) =
            self.run(|| Ok::<_, anyhow::Error>((index(interface)?, Netlink::here()?.neighbours()?)))??;
        Ok(table.entries.get(&(index, address.into())).copied())
    }
}

/// `struct ndmsg` of a question.
fn ndmsg(flags: u8) -> [u8; 12] {
    [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0]
}

impl Netlink {
    /// The neighbour table now.
    pub fn neighbours(&mut self) -> Result<Neighbours> {
        let mut table = Neighbours::default();
        self.dump(libc::RTM_GETNEIGH, ndmsg(0), |ndmsg, attributes| {
            let Some(addr) = find::<4>(attributes, libc::NDA_DST) else { return };
            // Entries of the kernel's own.
            if [libc::RTN_MULTICAST, libc::RTN_BROADCAST].contains(&ndmsg[11]) {
                return;
            }
            let lladdr = find(attributes, libc::NDA_LLADDR).map(Lladdr::new);
            table.entries.insert((u32_at(ndmsg, 4), addr.into()), NeighbourState { state: u16_at(ndmsg, 8), lladdr });
        })?;
        let proxies = &mut table.proxies;
        self.dump(libc::RTM_GETNEIGH, ndmsg(libc::NTF_PROXY), |ndmsg, attributes| {
            proxies.extend(find::<4>(attributes, libc::NDA_DST).map(|addr| (u32_at(ndmsg, 4), addr.into())));
        })?;
        Ok(table)
    }

    /// Deletes the static proxy entries that hold on every interface, see [`KernelChange::add_proxy`].
    pub fn forget_proxies_on_any(&mut self) -> Result<()> {
        let any = self.neighbours()?.proxies.into_iter().filter(|&(ifindex, _)| ifindex == 0);
        any.map(|(_, addr)| addr.octets()).try_for_each(|addr| self.change(KernelChange::delete_proxy(addr, 0)))
    }
}
