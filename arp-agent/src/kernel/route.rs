//! Decoding of IPv4 routes and rules.

use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use linux_raw_sys::netlink::{self as raw, FIB_RULE_PERMANENT};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use nix::libc;

use crate::event::{Placement, Route, RouteKind, RoutingRule};
use crate::netlink::wire::{self, Message};
use crate::prefix::Prefix;

/// `struct rtmsg`.
pub(super) const HEADER_LEN: usize = size_of::<raw::rtmsg>();
/// `struct fib_rule_hdr`.
pub(super) const RULE_HEADER_LEN: usize = size_of::<raw::fib_rule_hdr>();

/// The tables that rules look up unless somebody adds others: local, main, default.
pub(super) const TABLES: [u32; 3] =
    [libc::RT_TABLE_LOCAL as u32, libc::RT_TABLE_MAIN as u32, libc::RT_TABLE_DEFAULT as u32];

// Those that libc lacks.
const RTA_NH_ID: u16 = raw::rtattr_type_t::RTA_NH_ID as u16;
const FRA_PRIORITY: u16 = raw::FRA_PRIORITY as u16;
const FRA_SUPPRESS_IFGROUP: u16 = raw::FRA_SUPPRESS_IFGROUP as u16;
const FRA_SUPPRESS_PREFIXLEN: u16 = raw::FRA_SUPPRESS_PREFIXLEN as u16;
const FRA_TABLE: u16 = raw::FRA_TABLE as u16;
const FRA_PAD: u16 = raw::FRA_PAD as u16;
const FRA_PROTOCOL: u16 = raw::FRA_PROTOCOL as u16;
const FR_ACT_TO_TBL: u8 = raw::FR_ACT_TO_TBL as u8;

/// An IPv4 route of one of [`TABLES`]; `None` for anything else.
pub(super) fn route(message: &Message<'_>) -> Result<Option<Route>> {
    let (header, rest) = message.split::<HEADER_LEN>()?;
    let flags = wire::u32_at(header, 8);
    // A cloned one is a cached exception, not a route.
    if i32::from(header[0]) != libc::AF_INET || flags & libc::RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let len = header[1];
    ensure!(len <= 32, "IPv4 route with a prefix of {len} bits");
    let mut route = Route {
        // Replaced by RTA_TABLE, which also holds numbers above 255.
        table: header[4].into(),
        prefix: Prefix { addr: 0, len },
        tos: header[3],
        metric: 0,
        kind: kind(header[7]),
        oif: None,
        gateway: None,
        nexthop: None,
        multipath: false,
        encap: false,
        rest: 0,
    };
    let mut hash = DefaultHasher::new();
    hash.write(&[header[5], header[6]]); // protocol, scope
    for attribute in wire::attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::RTA_DST => {
                let addr = u32::from_be_bytes(wire::bytes(value).context("RTA_DST")?);
                route.prefix.addr = addr & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            }
            libc::RTA_OIF => route.oif = Some(wire::u32_of(value).context("RTA_OIF")?),
            libc::RTA_GATEWAY => {
                let addr: [u8; 4] = wire::bytes(value).context("RTA_GATEWAY")?;
                route.gateway = Some(Ipv4Addr::from(addr).into());
            }
            libc::RTA_VIA => route.gateway = Some(via(value).context("RTA_VIA")?),
            libc::RTA_PRIORITY => route.metric = wire::u32_of(value).context("RTA_PRIORITY")?,
            libc::RTA_TABLE => route.table = wire::u32_of(value).context("RTA_TABLE")?,
            RTA_NH_ID => route.nexthop = Some(wire::u32_of(value).context("RTA_NH_ID")?),
            libc::RTA_MULTIPATH => {
                route.multipath = true;
                hash_hops(value, &mut hash);
                continue;
            }
            libc::RTA_ENCAP_TYPE | libc::RTA_ENCAP => route.encap = true,
            libc::RTA_CACHEINFO => continue,
            _ => {}
        }
        hash.write_u16(kind);
        hash.write(value);
    }
    route.rest = hash.finish();
    Ok(TABLES.contains(&route.table).then_some(route))
}

/// The hops of RTA_MULTIPATH without their flags, which follow the links' state.
fn hash_hops(mut hops: &[u8], hash: &mut DefaultHasher) {
    // `struct rtnexthop`: length, flags, weight, ifindex; attributes up to the length.
    while let [l0, l1, _flags, weight, ..] = *hops {
        let len = usize::from(u16::from_ne_bytes([l0, l1])).clamp(4, hops.len());
        hash.write_u8(weight);
        hash.write(&hops[4..len]);
        hops = &hops[len.next_multiple_of(4).min(hops.len())..];
    }
}

/// Where the route of a notification goes.
pub(super) fn placement(flags: u16) -> Placement {
    if flags & NLM_F_REPLACE != 0 {
        Placement::Replace
    } else if flags & NLM_F_APPEND != 0 {
        Placement::Last
    } else {
        Placement::First
    }
}

fn kind(rtn: u8) -> RouteKind {
    match rtn {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_LOCAL => RouteKind::Local,
        libc::RTN_BROADCAST => RouteKind::Broadcast,
        libc::RTN_ANYCAST => RouteKind::Anycast,
        libc::RTN_MULTICAST => RouteKind::Multicast,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        libc::RTN_PROHIBIT => RouteKind::Prohibit,
        libc::RTN_THROW => RouteKind::Throw,
        _ => RouteKind::Other,
    }
}

/// `struct rtvia`: a family and an address of it.
fn via(value: &[u8]) -> Result<IpAddr> {
    let (family, addr) = value.split_first_chunk::<2>().context("no family")?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => Ok(Ipv4Addr::from(wire::bytes::<4>(addr)?).into()),
        libc::AF_INET6 => Ok(Ipv6Addr::from(wire::bytes::<16>(addr)?).into()),
        other => anyhow::bail!("next hop of address family {other}"),
    }
}

/// An IPv4 rule. Recognises a bare lookup by what it has, not by what it lacks: an attribute that is not known
/// here may be a selector of a newer kernel.
pub(super) fn rule(message: &Message<'_>) -> Result<Option<RoutingRule>> {
    let (header, rest) = message.split::<RULE_HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_INET {
        return Ok(None);
    }
    let [_, dst_len, src_len, tos, table, res1, res2, action, ..] = *header;
    let flags = wire::u32_at(header, 8);
    // FIB_RULE_PERMANENT is set on the three rules that the kernel adds itself; it says nothing about what they match.
    let mut plain =
        [dst_len, src_len, tos, res1, res2] == [0; 5] && action == FR_ACT_TO_TBL && flags & !FIB_RULE_PERMANENT == 0;
    let mut rule = RoutingRule { priority: 0, plain_lookup: None };
    let mut table = u32::from(table);
    for attribute in wire::attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            FRA_PRIORITY => rule.priority = wire::u32_of(value).context("FRA_PRIORITY")?,
            FRA_TABLE => table = wire::u32_of(value).context("FRA_TABLE")?,
            // Every rule has this one; all ones is "no".
            FRA_SUPPRESS_PREFIXLEN | FRA_SUPPRESS_IFGROUP => {
                plain &= wire::u32_of(value).context("FRA_SUPPRESS_*")? == u32::MAX;
            }
            FRA_PROTOCOL | FRA_PAD => {}
            _ => plain = false,
        }
    }
    rule.plain_lookup = plain.then_some(table);
    Ok(Some(rule))
}
