//! Decoding of IPv4 addresses, neighbours, proxy entries and neighbour tables.

use std::mem::offset_of;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use linux_raw_sys::netlink as raw;
use nix::libc;

use crate::event::{Address, NeighbourEntry};
use crate::netlink::wire::{self, Message};

/// `struct ifaddrmsg`.
pub(super) const ADDRESS_HEADER_LEN: usize = size_of::<raw::ifaddrmsg>();
/// `struct ndmsg`.
pub(super) const HEADER_LEN: usize = size_of::<raw::ndmsg>();
/// `struct ndtmsg`.
pub(super) const TABLE_HEADER_LEN: usize = size_of::<raw::ndtmsg>();
/// Where `struct ndmsg` has its NTF_* flags.
pub(super) const FLAGS_AT: usize = offset_of!(raw::ndmsg, ndm_flags);

const NDTA_PARMS: u16 = raw::NDTA_PARMS as u16;
const NDTPA_IFINDEX: u16 = raw::NDTPA_IFINDEX as u16;
const NDTPA_PROXY_DELAY: u16 = raw::NDTPA_PROXY_DELAY as u16;

/// An IPv4 address; `None` if the message is of another family.
pub(super) fn address(message: &Message<'_>) -> Result<Option<Address>> {
    let (header, rest) = message.split::<ADDRESS_HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_INET {
        return Ok(None);
    }
    let (mut local, mut peer) = (None, None);
    for attribute in wire::attributes(rest) {
        match attribute? {
            (libc::IFA_LOCAL, value) => local = Some(ipv4(value).context("IFA_LOCAL")?),
            (libc::IFA_ADDRESS, value) => peer = Some(ipv4(value).context("IFA_ADDRESS")?),
            _ => {}
        }
    }
    let local = local.or(peer).context("an address without IFA_LOCAL and IFA_ADDRESS")?;
    Ok(Some(Address { ifindex: wire::u32_at(header, 4), local, peer: peer.unwrap_or(local), prefix_len: header[1] }))
}

/// An IPv4 neighbour; `None` if the message is about another family (a bridge's forwarding entry, say) or is a
/// proxy entry.
pub(super) fn neighbour(message: &Message<'_>) -> Result<Option<NeighbourEntry>> {
    let (header, rest) = message.split::<HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_INET || header[FLAGS_AT] & libc::NTF_PROXY != 0 {
        return Ok(None);
    }
    let mut entry = NeighbourEntry {
        ifindex: wire::u32_at(header, 4),
        addr: Ipv4Addr::UNSPECIFIED,
        state: wire::u16_at(header, 8),
        lladdr: None,
    };
    for attribute in wire::attributes(rest) {
        match attribute? {
            (libc::NDA_DST, value) => entry.addr = ipv4(value).context("NDA_DST")?,
            (libc::NDA_LLADDR, value) => entry.lladdr = value.try_into().ok(),
            _ => {}
        }
    }
    Ok(Some(entry))
}

/// An IPv4 proxy entry: interface (0: any) and address.
pub(super) fn proxy(message: &Message<'_>) -> Result<Option<(u32, Ipv4Addr)>> {
    let (header, rest) = message.split::<HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_INET || header[FLAGS_AT] & libc::NTF_PROXY == 0 {
        return Ok(None);
    }
    let addr = wire::attribute(rest, libc::NDA_DST)?.context("a proxy entry without NDA_DST")?;
    Ok(Some((wire::u32_at(header, 4), ipv4(addr).context("NDA_DST")?)))
}

/// An interface and a unicast link-layer address that it accepts frames for, from the bridge family's entries of the
/// interface itself (NTF_SELF; `ndo_dflt_fdb_dump`, net/core/rtnetlink.c). `None` for any other entry.
pub(super) fn unicast_filter(message: &Message<'_>) -> Result<Option<(u32, [u8; 6])>> {
    let (header, rest) = message.split::<HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_BRIDGE || header[FLAGS_AT] & libc::NTF_SELF == 0 {
        return Ok(None);
    }
    const MULTICAST: u8 = 1;
    let lladdr: Option<[u8; 6]> = wire::attribute(rest, libc::NDA_LLADDR)?.and_then(|value| value.try_into().ok());
    Ok(lladdr.filter(|lladdr| lladdr[0] & MULTICAST == 0).map(|lladdr| (wire::u32_at(header, 4), lladdr)))
}

/// An interface's `proxy_delay` in milliseconds; `None` for another family, and for the table's own message,
/// which holds no interface's values.
pub(super) fn proxy_delay(message: &Message<'_>) -> Result<Option<(u32, u64)>> {
    let (header, rest) = message.split::<TABLE_HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_INET {
        return Ok(None);
    }
    let Some(parameters) = wire::attribute(rest, NDTA_PARMS)? else {
        return Ok(None);
    };
    let (mut ifindex, mut delay) = (None, None);
    for attribute in wire::attributes(parameters) {
        match attribute? {
            (NDTPA_IFINDEX, value) => ifindex = Some(wire::u32_of(value).context("NDTPA_IFINDEX")?),
            (NDTPA_PROXY_DELAY, value) => {
                delay = Some(u64::from_ne_bytes(wire::bytes(value).context("NDTPA_PROXY_DELAY")?));
            }
            _ => {}
        }
    }
    Ok(ifindex.zip(delay))
}

fn ipv4(value: &[u8]) -> Result<Ipv4Addr> {
    wire::bytes::<4>(value).map(Ipv4Addr::from)
}
