//! The tools' one client of rtnetlink: changes that are waited for, and dumps. `ip` takes longer to start than an agent to
//! follow, and twenty microseconds for each route; some of these changes no command of its makes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, bail, ensure};
use arp_common::Lladdr;
use linux_raw_sys::netlink as raw;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};

use crate::namespace::Namespace;

/// How many bytes of changes are sent at once.
const AT_ONCE: usize = 1 << 15;
/// Larger than any part of a dump.
const RECEIVE_LEN: usize = 1 << 16;
/// `struct nlmsghdr`, `struct nlattr` (include/uapi/linux/netlink.h).
const HEADER_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;
const FRA_DST: u16 = raw::FRA_DST as u16;
const FRA_PRIORITY: u16 = raw::FRA_PRIORITY as u16;

/// A change that the kernel can be asked for.
#[derive(Clone, Debug)]
pub struct KernelChange {
    kind: u16,
    flags: libc::c_int,
    body: Vec<u8>,
}

/// A routing rule for [`KernelChange::add_rule`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule<'a> {
    /// Its place among the rules.
    pub priority: u32,
    /// The one address that it is for (`to`); without it, it is for all.
    pub to: Option<[u8; 4]>,
    /// Whether it is for all but what it selects (`not`).
    pub inverted: bool,
    /// What it does (`FR_ACT_*`, or a number that means nothing).
    pub action: u8,
    /// Further attributes: type (`FRA_*`) and value.
    pub attributes: &'a [(u16, &'a [u8])],
}

/// A socket of rtnetlink in a namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// The index of an interface in the calling thread's namespace.
pub fn index(interface: &str) -> Result<u32> {
    if_nametoindex(interface).with_context(|| format!("the index of {interface}"))
}

/// Makes one change in the calling thread's namespace.
pub fn change(change: KernelChange) -> Result<()> {
    Netlink::here()?.change(change)
}

impl Netlink {
    /// A socket in a namespace.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        namespace.run(Self::here)?
    }

    /// A socket in the calling thread's namespace.
    pub fn here() -> Result<Self> {
        Self::of(NETLINK_ROUTE)
    }

    /// A socket of generic netlink in the calling thread's namespace.
    pub(crate) fn generic_here() -> Result<Self> {
        Self::of(NETLINK_GENERIC)
    }

    fn of(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).context("opening a netlink socket")?;
        socket.bind_auto().context("binding a netlink socket")?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Makes one change, and waits until it is made.
    ///
    /// # Errors
    /// The kernel refuses: the cause is an [`std::io::Error`].
    pub fn change(&mut self, change: KernelChange) -> Result<()> {
        self.change_all([change])
    }

    /// Makes many changes, a buffer full at a time.
    ///
    /// # Errors
    /// The kernel refuses one; those before it in the buffer, and perhaps those after it, are made.
    pub fn change_all(&mut self, changes: impl IntoIterator<Item = KernelChange>) -> Result<()> {
        let mut changes = changes.into_iter().peekable();
        let mut buffer = Vec::with_capacity(AT_ONCE + 128);
        while let Some(KernelChange { kind, flags, body }) = changes.next() {
            let last = buffer.len() >= AT_ONCE || changes.peek().is_none();
            self.append(&mut buffer, kind, if last { flags | libc::NLM_F_ACK } else { flags }, &body);
            if last {
                self.send(&buffer)?;
                buffer.clear();
                self.acknowledged()?;
            }
        }
        Ok(())
    }

    /// Asks for a dump by the fixed structure `header`, and hands over each message: that structure in it, and its
    /// attributes. How many bytes there were.
    pub fn dump<const N: usize>(
        &mut self,
        kind: u16,
        header: [u8; N],
        mut each: impl FnMut(&[u8; N], &[u8]),
    ) -> Result<usize> {
        self.dump_whole(kind, &header, |message| {
            let (header, attributes) = message[HEADER_LEN..].split_first_chunk().context("a short message")?;
            each(header, attributes);
            Ok(())
        })
    }

    /// The same, and hands over each message as it came, `struct nlmsghdr` first.
    pub fn dump_whole(&mut self, kind: u16, header: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut request = Vec::new();
        self.append(&mut request, kind, libc::NLM_F_DUMP, header);
        self.send(&request)?;
        let mut total = 0;
        loop {
            self.receive()?;
            total += self.buffer.len();
            for message in messages(&self.buffer) {
                match i32::from(u16_at(message, 4)) {
                    libc::NLMSG_DONE => return Ok(total),
                    libc::NLMSG_ERROR => bail!("the kernel refused a dump"),
                    _ => each(message)?,
                }
            }
        }
    }

    /// The indexes of the interfaces that are up and have a carrier.
    pub fn running(&mut self) -> Result<BTreeSet<u32>> {
        let mut running = BTreeSet::new();
        self.links(|ifindex, flags| {
            if flags & libc::IFF_UP != 0 && flags & libc::IFF_LOWER_UP != 0 {
                running.insert(ifindex);
            }
        })?;
        Ok(running)
    }

    /// Whether every interface that is up is as operational as its carrier: the kernel acts on a carrier later.
    pub fn carriers_are_settled(&mut self) -> Result<bool> {
        let mut settled = true;
        self.links(|_, flags| {
            let [up, running, carrier] =
                [libc::IFF_UP, libc::IFF_RUNNING, libc::IFF_LOWER_UP].map(|flag| flags & flag != 0);
            settled &= !up || running == carrier;
        })?;
        Ok(settled)
    }

    /// Index and flags of each interface.
    fn links(&mut self, mut each: impl FnMut(u32, libc::c_int)) -> Result<()> {
        self.dump(libc::RTM_GETLINK, [0; 16], |ifinfomsg, _| {
            each(u32_at(ifinfomsg, 4), u32_at(ifinfomsg, 8).cast_signed());
        })?;
        Ok(())
    }

    /// Waits for the acknowledgement of the last change that was sent.
    fn acknowledged(&mut self) -> Result<()> {
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                if i32::from(u16_at(message, 4)) != libc::NLMSG_ERROR {
                    continue;
                }
                let error = u32_at(message, HEADER_LEN).cast_signed();
                if error != 0 {
                    return Err(io::Error::from_raw_os_error(-error)).context("the kernel refused a change");
                }
                if u32_at(message, 8) == self.sequence {
                    return Ok(());
                }
            }
        }
    }

    fn append(&mut self, buffer: &mut Vec<u8>, kind: u16, flags: libc::c_int, body: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1);
        buffer.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        buffer.extend(kind.to_ne_bytes());
        buffer.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        buffer.extend(self.sequence.to_ne_bytes());
        buffer.extend([0; 4]);
        buffer.extend(body);
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).context("asking the kernel over netlink")?;
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        self.buffer.clear();
        self.buffer.reserve(RECEIVE_LEN);
        self.socket.recv_from(&mut self.buffer, 0).context("receiving the kernel's answer")?;
        ensure!(self.buffer.len() >= HEADER_LEN, "the kernel answered {} bytes", self.buffer.len());
        Ok(())
    }
}

/// What the kernel notifies of neighbour entries in a namespace.
#[derive(Debug)]
pub struct Notices {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Notices {
    /// From now on.
    pub fn of_neighbours(namespace: &Namespace) -> Result<Self> {
        /// Room for what comes between two readings.
        const ROOM: usize = 64 << 20;
        let socket = namespace.run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
            socket.bind(&SocketAddr::new(0, libc::RTMGRP_NEIGH as u32)).context("binding a netlink socket")?;
            anyhow::Ok(socket)
        })??;
        socket.set_non_blocking(true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("enlarging a socket's buffer")?;
        Ok(Notices { socket, buffer: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// How many new or changed entries on an interface were notified since the last reading.
    ///
    /// # Errors
    /// More came than the socket had room for: how many is not known.
    pub fn count(&mut self, interface: u32) -> Result<u64> {
        let mut count = 0;
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error).context("receiving notifications"),
            }
            // `ndm_ifindex` of `struct ndmsg` is at 4 (linux/neighbour.h).
            let is_of = |message: &&[u8]| {
                u16_at(message, 4) == libc::RTM_NEWNEIGH
                    && message.get(HEADER_LEN + 4..HEADER_LEN + 8) == Some(&interface.to_ne_bytes())
            };
            count += messages(&self.buffer).filter(is_of).count() as u64;
        }
    }
}

impl KernelChange {
    fn new(kind: u16, flags: libc::c_int, body: Vec<u8>) -> Self {
        KernelChange { kind, flags, body }
    }

    /// A route to one host by an interface, in table main.
    pub fn add_route(to: [u8; 4], oif: u32) -> Self {
        KernelChange::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, route(libc::RTPROT_BOOT, to, oif))
    }

    /// That route gone, whoever made it.
    pub fn delete_route(to: [u8; 4], oif: u32) -> Self {
        KernelChange::new(libc::RTM_DELROUTE, 0, route(libc::RTPROT_UNSPEC, to, oif))
    }

    /// A permanent neighbour entry on an interface.
    pub fn set_neighbour(addr: [u8; 4], ifindex: u32, lladdr: Lladdr) -> Self {
        let mut body = ndmsg(addr, ifindex, libc::NUD_PERMANENT, 0);
        body.extend(attribute(libc::NDA_LLADDR, &lladdr.bytes()));
        KernelChange::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, body)
    }

    /// A neighbour entry gone.
    pub fn delete_neighbour(addr: [u8; 4], ifindex: u32) -> Self {
        KernelChange::new(libc::RTM_DELNEIGH, 0, ndmsg(addr, ifindex, 0, 0))
    }

    /// A static proxy entry without a state, as LXC adds it: `ip neigh add proxy` makes a permanent one, which outlives a loss
    /// of carrier. With the index 0 it holds on every interface, which `ip` cannot say either; then nothing but
    /// [`KernelChange::delete_proxy`] removes it: on 6.18 it outlives its namespace, and turns up in a later one that the kernel
    /// happens to put at the same place.
    pub fn add_proxy(addr: [u8; 4], ifindex: u32) -> Self {
        KernelChange::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE, ndmsg(addr, ifindex, 0, libc::NTF_PROXY))
    }

    /// A static proxy entry gone.
    pub fn delete_proxy(addr: [u8; 4], ifindex: u32) -> Self {
        KernelChange::new(libc::RTM_DELNEIGH, 0, ndmsg(addr, ifindex, 0, libc::NTF_PROXY))
    }

    /// A routing rule, also one that `ip` has no words for.
    pub fn add_rule(rule: &Rule<'_>) -> Self {
        // `struct fib_rule_hdr` (include/uapi/linux/fib_rules.h).
        let dst_len = if rule.to.is_some() { 32 } else { 0 };
        let mut body = vec![libc::AF_INET as u8, dst_len, 0, 0, 0, 0, 0, rule.action];
        body.extend(if rule.inverted { raw::FIB_RULE_INVERT } else { 0 }.to_ne_bytes());
        body.extend(attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes()));
        body.extend(rule.to.map(|to| attribute(FRA_DST, &to)).unwrap_or_default());
        body.extend(rule.attributes.iter().flat_map(|(kind, value)| attribute(*kind, value)));
        KernelChange::new(libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body)
    }

    /// What a family of generic netlink is asked for.
    pub(crate) fn of_family(family: u16, body: Vec<u8>) -> Self {
        KernelChange::new(family, 0, body)
    }

    /// A link up, or down.
    pub fn set_up(ifindex: u32, up: bool) -> Self {
        KernelChange::new(libc::RTM_NEWLINK, 0, ifinfomsg(ifindex, u32::from(up), libc::IFF_UP as u32))
    }

    /// An interface's `IPV4_DEVCONF_*` set (RTM_SETLINK, IFLA_INET_CONF).
    pub fn set_link_setting(ifindex: u32, key: u16, value: i32) -> Self {
        const IFLA_INET_CONF: u16 = raw::IFLA_INET_CONF as u16;
        let settings = attribute(IFLA_INET_CONF, &attribute(key, &value.to_ne_bytes()));
        let mut body = ifinfomsg(ifindex, 0, 0);
        body.extend(attribute(libc::IFLA_AF_SPEC, &attribute(libc::AF_INET as u16, &settings)));
        KernelChange::new(libc::RTM_SETLINK, 0, body)
    }

    /// A veth pair whose other end, `eth0`, is in another namespace.
    pub fn add_veth(interface: &str, other: &File) -> Self {
        const VETH_INFO_PEER: u16 = 1;
        KernelChange::add_pair("veth", interface, &attribute(VETH_INFO_PEER, &other_end(other)))
    }

    /// A netkit pair for Ethernet frames (mode `l2`), the same way; this is the primary end. `ip` before 6.7 has no words
    /// for the mode, and the kernel makes pairs for IP alone without it.
    pub fn add_netkit(interface: &str, other: &File) -> Self {
        const IFLA_NETKIT_PEER_INFO: u16 = raw::IFLA_NETKIT_PEER_INFO as u16;
        const IFLA_NETKIT_MODE: u16 = raw::IFLA_NETKIT_MODE as u16;
        const NETKIT_L2: u32 = raw::netkit_mode::NETKIT_L2 as u32;
        let mut data = attribute(IFLA_NETKIT_PEER_INFO, &other_end(other));
        data.extend(attribute(IFLA_NETKIT_MODE, &NETKIT_L2.to_ne_bytes()));
        KernelChange::add_pair("netkit", interface, &data)
    }

    fn add_pair(kind: &str, interface: &str, data: &[u8]) -> Self {
        let mut info = attribute(libc::IFLA_INFO_KIND, format!("{kind}\0").as_bytes());
        info.extend(attribute(libc::IFLA_INFO_DATA, data));
        let mut body = ifinfomsg(0, 0, 0);
        body.extend(attribute(libc::IFLA_IFNAME, format!("{interface}\0").as_bytes()));
        body.extend(attribute(libc::IFLA_LINKINFO, &info));
        KernelChange::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body)
    }
}

/// `struct rtmsg` of table main, scope link, unicast; RTA_DST and RTA_OIF.
fn route(protocol: u8, to: [u8; 4], oif: u32) -> Vec<u8> {
    let (table, scope) = (libc::RT_TABLE_MAIN, libc::RT_SCOPE_LINK);
    let mut body = vec![libc::AF_INET as u8, 32, 0, 0, table, protocol, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    body.extend(attribute(libc::RTA_DST, &to));
    body.extend(attribute(libc::RTA_OIF, &oif.to_ne_bytes()));
    body
}

/// `struct ndmsg` and NDA_DST.
fn ndmsg(addr: [u8; 4], ifindex: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
    body.extend(ifindex.to_ne_bytes());
    body.extend(state.to_ne_bytes());
    body.extend([flags, 0]);
    body.extend(attribute(libc::NDA_DST, &addr));
    body
}

/// The end of a pair that is in another namespace.
fn other_end(namespace: &File) -> Vec<u8> {
    let mut end = ifinfomsg(0, 0, 0);
    end.extend(attribute(libc::IFLA_IFNAME, b"eth0\0"));
    end.extend(attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes()));
    end
}

/// `struct ifinfomsg`: these flags, of which those in `change` are touched.
fn ifinfomsg(ifindex: u32, flags: u32, change: u32) -> Vec<u8> {
    [0, ifindex, flags, change].into_iter().flat_map(u32::to_ne_bytes).collect()
}

pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((ATTRIBUTE_LEN + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of this type, if it has that many bytes.
pub(crate) fn find<const N: usize>(mut attributes: &[u8], kind: u16) -> Option<[u8; N]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)).max(ATTRIBUTE_LEN);
        let value = attributes.get(ATTRIBUTE_LEN..length)?;
        if u16_at(attributes, 2) == kind {
            return value.try_into().ok();
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The messages in a buffer, each with its `struct nlmsghdr`.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let message = rest.get(..u32_at(rest, 0) as usize).filter(|message| message.len() >= HEADER_LEN)?;
        rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_ne_bytes)
}
