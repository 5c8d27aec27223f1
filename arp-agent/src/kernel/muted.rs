//! Socket filters (classic BPF) that drop notifications about some interfaces and neighbour entries.

use super::features::{self, GENL_LEN};
use linux_raw_sys::netlink as raw;
use nix::libc;
use socket2::SockFilter;
use std::mem::offset_of;
use std::net::Ipv4Addr;

/// Which notifications to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Muted {
    /// Those about these interfaces while they are up, about their neighbours, and about their XDP features.
    pub interfaces: Vec<u32>,
    /// Those about these neighbour entries.
    pub neighbours: Vec<(u32, Ipv4Addr)>,
}

/// The most interfaces and entries in a filter, whose length is bounded (BPF_MAXINSNS is 4,096).
const MOST: usize = 256;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct nlmsghdr` and what follows it.
const KIND: u32 = offset_of!(libc::nlmsghdr, nlmsg_type) as u32;
const BODY: u32 = size_of::<libc::nlmsghdr>() as u32;
const FAMILY: u32 = BODY;
const IFINDEX: u32 = BODY + offset_of!(raw::ifinfomsg, ifi_index) as u32;
const _: () = assert!(offset_of!(raw::ifinfomsg, ifi_index) == offset_of!(raw::ndmsg, ndm_ifindex));
const FLAGS: u32 = BODY + offset_of!(raw::ifinfomsg, ifi_flags) as u32;
/// The value of the first attribute of a neighbour, NDA_DST (`neigh_fill_info`, net/core/neighbour.c).
const DST: u32 = BODY + (size_of::<raw::ndmsg>() + size_of::<raw::nlattr>()) as u32;
/// The type and value of the first attribute of a device (`netdev_nl_dev_fill`, net/core/netdev-genl.c).
const FEATURES_KIND: u32 = BODY + (GENL_LEN + offset_of!(raw::nlattr, nla_type)) as u32;
const FEATURES_IFINDEX: u32 = BODY + (GENL_LEN + size_of::<raw::nlattr>()) as u32;

/// A constant to compare a loaded word with: the filter loads in network order, the kernel writes in the machine's.
fn word(value: u32) -> u32 {
    u32::from_be_bytes(value.to_ne_bytes())
}

fn half(value: u16) -> u32 {
    u16::from_be_bytes(value.to_ne_bytes()).into()
}

fn accept() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, u32::MAX)
}

fn refuse() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, 0)
}

fn load(code: u16, at: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, at)
}

/// Continues with the next instruction if the condition holds; else skips `skip` instructions.
fn unless(code: u16, value: u32, skip: u8) -> SockFilter {
    SockFilter::new(code, 0, skip, value)
}

impl Muted {
    /// Whether nothing is dropped.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && self.neighbours.is_empty()
    }

    /// Drops the message if the loaded word is one of the interfaces.
    fn refuse_interfaces(&self, program: &mut Vec<SockFilter>) {
        for &ifindex in self.interfaces.iter().take(MOST) {
            program.extend([unless(JUMP_EQUAL, word(ifindex), 1), refuse()]);
        }
    }

    /// The filter for the rtnetlink socket. Messages that an interface is down or gone still arrive.
    pub(super) fn of_routes(&self) -> Vec<SockFilter> {
        let mut links = vec![
            load(LOAD_WORD, FLAGS),
            unless(JUMP_SET, word(libc::IFF_UP as u32), 1),
            SockFilter::new(JUMP, 0, 0, 1),
            accept(),
            load(LOAD_WORD, IFINDEX),
        ];
        self.refuse_interfaces(&mut links);
        links.push(accept());
        let mut neighbours = vec![
            load(LOAD_BYTE, FAMILY),
            SockFilter::new(JUMP_EQUAL, 1, 0, libc::AF_INET as u32),
            accept(),
            load(LOAD_WORD, IFINDEX),
        ];
        self.refuse_interfaces(&mut neighbours);
        for &(ifindex, addr) in self.neighbours.iter().take(MOST) {
            neighbours.extend([
                load(LOAD_WORD, IFINDEX),
                unless(JUMP_EQUAL, word(ifindex), 3),
                load(LOAD_WORD, DST),
                unless(JUMP_EQUAL, u32::from(addr), 1),
                refuse(),
            ]);
        }
        neighbours.push(accept());
        let beyond_links = u32::try_from(links.len()).unwrap_or(u32::MAX);
        let mut program = vec![
            load(LOAD_HALF, KIND),
            unless(JUMP_EQUAL, half(libc::RTM_NEWLINK), 1),
            SockFilter::new(JUMP, 0, 0, 4),
            SockFilter::new(JUMP_EQUAL, 1, 0, half(libc::RTM_NEWNEIGH)),
            unless(JUMP_EQUAL, half(libc::RTM_DELNEIGH), 1),
            SockFilter::new(JUMP, 0, 0, 1 + beyond_links),
            accept(),
        ];
        program.extend(links);
        program.extend(neighbours);
        program
    }

    /// The filter for the socket of the generic netlink family `netdev`.
    pub(super) fn of_features(&self) -> Vec<SockFilter> {
        let mut program = vec![
            load(LOAD_HALF, FEATURES_KIND),
            SockFilter::new(JUMP_EQUAL, 1, 0, half(features::NETDEV_A_DEV_IFINDEX)),
            accept(),
            load(LOAD_WORD, FEATURES_IFINDEX),
        ];
        self.refuse_interfaces(&mut program);
        program.push(accept());
        program
    }
}
