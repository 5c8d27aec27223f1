//! The neighbour table over netlink: a dump in some 50 µs, where a process would take milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::bytes::Mac;
use crate::namespace::Namespace;

/// What an entry is worth.
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
pub struct Entry {
    /// What it is worth.
    pub class: Class,
    /// Its link-layer address; `None` if it is invalid.
    pub lladdr: Option<[u8; 6]>,
}

/// The IPv4 neighbour table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeighbourTable {
    /// By ifindex and address, without what the kernel makes for multicast and broadcast.
    pub entries: BTreeMap<(u32, Ipv4Addr), Entry>,
    /// The static proxies; ifindex 0 stands for any.
    pub proxies: BTreeSet<(u32, Ipv4Addr)>,
}

impl fmt::Display for NeighbourTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((ifindex, addr), Entry { class, lladdr }) in &self.entries {
            let lladdr = lladdr.map(|lladdr| Mac(lladdr).to_string()).unwrap_or_default();
            writeln!(f, "{addr} ifindex {ifindex} {class:?} {lladdr}")?;
        }
        self.proxies.iter().try_for_each(|(ifindex, addr)| writeln!(f, "{addr} ifindex {ifindex} proxy"))
    }
}

impl NeighbourTable {
    /// The lines that are in one table only, `-` before those of this one, `+` before the other's.
    pub fn difference(&self, other: &Self) -> String {
        let (mine, theirs) = (self.to_string(), other.to_string());
        let gone =
            mine.lines().filter(|line| !theirs.lines().any(|other| other == *line)).map(|line| format!("- {line}\n"));
        let new =
            theirs.lines().filter(|line| !mine.lines().any(|other| other == *line)).map(|line| format!("+ {line}\n"));
        gone.chain(new).collect()
    }
}

/// A socket to ask through.
#[derive(Debug)]
pub struct NeighbourSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

// linux/rtnetlink.h, linux/neighbour.h
const NLMSG_HEADER: usize = 16;
const NDMSG: usize = 12;
const ATTRIBUTE_HEADER: usize = 4;
const IFINFOMSG: usize = 16;
const IFF_LOWER_UP: libc::c_int = 1 << 16;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_FIXED: u16 = 0x80 | 0x40;
const NUD_VALID: u16 = NUD_FIXED | 0x02 | 0x04 | 0x08 | 0x10;
const NTF_PROXY: u8 = 8;
/// RTN_MULTICAST and RTN_BROADCAST in `ndm_type`: entries of the kernel's own.
const OWN_TYPES: [u8; 2] = [5, 3];

impl NeighbourSocket {
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let open = || -> Result<OwnedFd> {
            let socket =
                socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.context("opening a netlink socket")?;
        Ok(NeighbourSocket { socket, buffer: vec![0; 65_536] })
    }

    /// The table now.
    pub fn table(&mut self) -> Result<NeighbourTable> {
        let mut table = NeighbourTable::default();
        self.dump(libc::RTM_GETNEIGH, &ndmsg(0), |ndmsg, attributes| {
            let (ifindex, state, kind) = (u32_at(ndmsg, 4), u16::from_ne_bytes([ndmsg[8], ndmsg[9]]), ndmsg[11]);
            let Some(addr) = attribute::<4>(attributes, NDA_DST) else { return };
            if OWN_TYPES.contains(&kind) {
                return;
            }
            let class = match state {
                state if state & NUD_FIXED != 0 => Class::Fixed,
                state if state & NUD_VALID != 0 => Class::Valid,
                _ => Class::Invalid,
            };
            let lladdr = attribute::<6>(attributes, NDA_LLADDR).filter(|_| class != Class::Invalid);
            table.entries.insert((ifindex, addr.into()), Entry { class, lladdr });
        })?;
        let proxies = &mut table.proxies;
        self.dump(libc::RTM_GETNEIGH, &ndmsg(NTF_PROXY), |ndmsg, attributes| {
            proxies.extend(attribute::<4>(attributes, NDA_DST).map(|addr| (u32_at(ndmsg, 4), addr.into())));
        })?;
        Ok(table)
    }

    /// Whether every interface that is up is as operational as its carrier.
    pub fn carriers_are_settled(&mut self) -> Result<bool> {
        let mut settled = true;
        self.dump(libc::RTM_GETLINK, &[0; IFINFOMSG], |ifinfomsg, _| {
            let flags = u32_at(ifinfomsg, 8);
            let [up, running, carrier] =
                [libc::IFF_UP, libc::IFF_RUNNING, IFF_LOWER_UP].map(|flag| flags & flag as u32 != 0);
            settled &= !up || running == carrier;
        })?;
        Ok(settled)
    }

    /// The indexes of the interfaces that are up and have a carrier.
    pub fn running(&mut self) -> Result<BTreeSet<u32>> {
        let mut running = BTreeSet::new();
        self.dump(libc::RTM_GETLINK, &[0; IFINFOMSG], |ifinfomsg, _| {
            let wanted = libc::IFF_UP | IFF_LOWER_UP;
            if u32_at(ifinfomsg, 8) & wanted as u32 == wanted as u32 {
                running.insert(u32_at(ifinfomsg, 4));
            }
        })?;
        Ok(running)
    }

    /// Deletes the static proxy entries without an interface. They outlive their namespace on 6.18, and turn up in a later
    /// one that the kernel happens to put at the same place.
    pub fn forget_proxies_on_any(&mut self) -> Result<()> {
        for (ifindex, ip) in self.table()?.proxies {
            if ifindex == 0 {
                self.proxy_on_any(false, ip)?;
            }
        }
        Ok(())
    }

    /// Adds or deletes a static proxy entry without an interface. False if the kernel refused.
    pub fn proxy_on_any(&mut self, add: bool, ip: Ipv4Addr) -> Result<bool> {
        let kind = if add { libc::RTM_NEWNEIGH } else { libc::RTM_DELNEIGH };
        let create = if add { libc::NLM_F_CREATE } else { 0 };
        let attribute = (ATTRIBUTE_HEADER + 4) as u16;
        let mut body = ndmsg(NTF_PROXY).to_vec();
        [attribute, NDA_DST].iter().for_each(|field| body.extend(field.to_ne_bytes()));
        body.extend(ip.octets());
        self.request(kind, libc::NLM_F_ACK | create, &body)?;
        let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty());
        let answer = &self.buffer[..length.context("receiving an acknowledgement")?];
        ensure!(answer.len() >= NLMSG_HEADER + 4, "a short acknowledgement");
        Ok(u32_at(answer, NLMSG_HEADER) == 0)
    }

    fn request(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> Result<()> {
        let mut request = Vec::with_capacity(NLMSG_HEADER + body.len());
        request.extend(((NLMSG_HEADER + body.len()) as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        request.extend([0; 8]); // sequence, port
        request.extend(body);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty()).context("asking the kernel over netlink")?;
        Ok(())
    }

    fn dump<const N: usize>(&mut self, kind: u16, header: &[u8; N], mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        self.request(kind, libc::NLM_F_DUMP, header)?;
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty());
            let mut rest = &self.buffer[..length.context("receiving a dump")?];
            while rest.len() >= NLMSG_HEADER {
                let length = u32_at(rest, 0) as usize;
                ensure!((NLMSG_HEADER..=rest.len()).contains(&length), "a netlink message of {length} bytes");
                match i32::from(u16::from_ne_bytes([rest[4], rest[5]])) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => bail!("the kernel refused a dump"),
                    _ => {
                        let (ndmsg, attributes) =
                            rest[NLMSG_HEADER..length].split_at_checked(N).context("a short message")?;
                        each(ndmsg, attributes);
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn ndmsg(flags: u8) -> [u8; NDMSG] {
    [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0]
}

fn attribute<const N: usize>(mut attributes: &[u8], kind: u16) -> Option<[u8; N]> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        if u16::from_ne_bytes([attributes[2], attributes[3]]) == kind {
            return attributes.get(4..length)?.try_into().ok();
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
