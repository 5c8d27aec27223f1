//! Decoding of IPv4 routes and rules.

use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use anyhow::{Context, Result, ensure};
use linux_raw_sys::netlink::{self as raw, FIB_RULE_PERMANENT};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use nix::libc;

use crate::event::{Event, Placement, Route, RouteKind, RoutingRule, RuleAction};
use crate::netlink::wire::{self, Message};
use crate::prefix::Prefix;

/// `struct rtmsg`.
pub(super) const HEADER_LEN: usize = size_of::<raw::rtmsg>();
/// `struct fib_rule_hdr`.
pub(super) const RULE_HEADER_LEN: usize = size_of::<raw::fib_rule_hdr>();

// Those that libc lacks.
const RTA_ENCAP: u16 = raw::rtattr_type_t::RTA_ENCAP as u16;
const RTA_ENCAP_TYPE: u16 = raw::rtattr_type_t::RTA_ENCAP_TYPE as u16;
const RTA_VIA: u16 = raw::rtattr_type_t::RTA_VIA as u16;
const RTA_NH_ID: u16 = raw::rtattr_type_t::RTA_NH_ID as u16;
const FRA_DST: u16 = raw::FRA_DST as u16;
const FRA_SRC: u16 = raw::FRA_SRC as u16;
const FRA_IIFNAME: u16 = raw::FRA_IIFNAME as u16;
const FRA_GOTO: u16 = raw::FRA_GOTO as u16;
const FRA_PRIORITY: u16 = raw::FRA_PRIORITY as u16;
const FRA_FWMARK: u16 = raw::FRA_FWMARK as u16;
const FRA_FLOW: u16 = raw::FRA_FLOW as u16;
const FRA_TUN_ID: u16 = raw::FRA_TUN_ID as u16;
const FRA_SUPPRESS_IFGROUP: u16 = raw::FRA_SUPPRESS_IFGROUP as u16;
const FRA_SUPPRESS_PREFIXLEN: u16 = raw::FRA_SUPPRESS_PREFIXLEN as u16;
const FRA_TABLE: u16 = raw::FRA_TABLE as u16;
const FRA_FWMASK: u16 = raw::FRA_FWMASK as u16;
const FRA_OIFNAME: u16 = raw::FRA_OIFNAME as u16;
const FRA_PAD: u16 = raw::FRA_PAD as u16;
const FRA_L3MDEV: u16 = raw::FRA_L3MDEV as u16;
const FRA_UID_RANGE: u16 = raw::FRA_UID_RANGE as u16;
const FRA_PROTOCOL: u16 = raw::FRA_PROTOCOL as u16;
const FRA_IP_PROTO: u16 = raw::FRA_IP_PROTO as u16;
const FRA_SPORT_RANGE: u16 = raw::FRA_SPORT_RANGE as u16;
const FRA_DPORT_RANGE: u16 = raw::FRA_DPORT_RANGE as u16;
/// Since 6.12, 6.15 and 6.15; masks come with each port since.
const FRA_DSCP: u16 = raw::FRA_DSCP as u16;
const FRA_SPORT_MASK: u16 = raw::FRA_SPORT_MASK as u16;
const FRA_DPORT_MASK: u16 = raw::FRA_DPORT_MASK as u16;
const FRA_DSCP_MASK: u16 = raw::FRA_DSCP_MASK as u16;
const FR_ACT_TO_TBL: u8 = raw::FR_ACT_TO_TBL as u8;
const FR_ACT_GOTO: u8 = raw::FR_ACT_GOTO as u8;
const FR_ACT_NOP: u8 = raw::FR_ACT_NOP as u8;
/// What the kernel says of a rule's state, not of what it matches: it is one of the three first ones; a goto leads
/// nowhere; no interface has the name of its iif or oif.
const NO_SELECTORS: u32 =
    FIB_RULE_PERMANENT | raw::FIB_RULE_UNRESOLVED | raw::FIB_RULE_IIF_DETACHED | raw::FIB_RULE_OIF_DETACHED;

// include/uapi/linux/nexthop.h: no crate has them.
/// `struct nhmsg`.
pub(super) const NEXTHOP_HEADER_LEN: usize = 8;
pub(super) const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_OIF: u16 = 5;
/// `struct nexthop_grp`: an id, and a weight.
const MEMBER_LEN: usize = 8;
const NEXTHOP_GRP_TYPE_RES: u16 = 1;

/// An IPv4 route; `None` for anything else.
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
        hops: Box::default(),
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
            RTA_VIA => route.gateway = Some(via(value).context("RTA_VIA")?),
            libc::RTA_PRIORITY => route.metric = wire::u32_of(value).context("RTA_PRIORITY")?,
            libc::RTA_TABLE => route.table = wire::u32_of(value).context("RTA_TABLE")?,
            RTA_NH_ID => route.nexthop = NonZeroU32::new(wire::u32_of(value).context("RTA_NH_ID")?),
            libc::RTA_MULTIPATH => {
                route.hops = hops(value, &mut hash);
                continue;
            }
            RTA_ENCAP_TYPE | RTA_ENCAP => route.encap = true,
            libc::RTA_CACHEINFO => continue,
            _ => {}
        }
        hash.write_u16(kind);
        hash.write(value);
    }
    route.rest = hash.finish();
    Ok(Some(route))
}

/// The interfaces of the hops of RTA_MULTIPATH. Hashes them without their flags, which follow the links' state.
fn hops(mut hops: &[u8], hash: &mut DefaultHasher) -> Box<[u32]> {
    let mut interfaces = Vec::new();
    // `struct rtnexthop`: length, flags, weight, ifindex; attributes up to the length.
    while let [l0, l1, _flags, weight, i0, i1, i2, i3, ..] = *hops {
        let len = usize::from(u16::from_ne_bytes([l0, l1])).clamp(8, hops.len());
        interfaces.push(u32::from_ne_bytes([i0, i1, i2, i3]));
        hash.write_u8(weight);
        hash.write(&hops[4..len]);
        hops = &hops[len.next_multiple_of(4).min(hops.len())..];
    }
    interfaces.into()
}

/// A nexthop object.
pub(super) fn nexthop(message: &Message<'_>) -> Result<Option<Event>> {
    let (_, rest) = message.split::<NEXTHOP_HEADER_LEN>()?;
    let Some(id) = wire::attribute(rest, NHA_ID)? else { return Ok(None) };
    let group = wire::attribute(rest, NHA_GROUP_TYPE)?.map(wire::bytes).transpose().context("NHA_GROUP_TYPE")?;
    let resilient = group.map(u16::from_ne_bytes) == Some(NEXTHOP_GRP_TYPE_RES);
    Ok(Some(Event::NexthopObject { id: wire::u32_of(id).context("NHA_ID")?, resilient }))
}

/// What a nexthop object leads to.
pub(super) enum Leads {
    /// Out of this interface.
    By(u32),
    /// To one of these nexthop objects.
    To(Vec<u32>),
    /// Nowhere: a blackhole.
    Nowhere,
}

/// What the nexthop object of the message leads to.
pub(super) fn leads(message: &Message<'_>) -> Result<Leads> {
    let (_, rest) = message.split::<NEXTHOP_HEADER_LEN>()?;
    if let Some(members) = wire::attribute(rest, NHA_GROUP)? {
        let (members, _) = members.as_chunks::<MEMBER_LEN>();
        return Ok(Leads::To(members.iter().map(|member| wire::u32_at(member, 0)).collect()));
    }
    let oif = wire::attribute(rest, NHA_OIF)?.map(wire::u32_of).transpose().context("NHA_OIF")?;
    Ok(oif.map_or(Leads::Nowhere, Leads::By))
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

/// An IPv4 rule. An attribute or a flag that is not known here may be a selector of a newer kernel.
pub(super) fn rule(message: &Message<'_>) -> Result<Option<RoutingRule>> {
    let (header, rest) = message.split::<RULE_HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_INET {
        return Ok(None);
    }
    let [_, to_len, from_len, tos, table, res1, res2, action, ..] = *header;
    let flags = wire::u32_at(header, 8);
    let known = NO_SELECTORS | raw::FIB_RULE_INVERT;
    let mut rule = RoutingRule {
        inverted: flags & raw::FIB_RULE_INVERT != 0,
        iif_detached: flags & raw::FIB_RULE_IIF_DETACHED != 0,
        unknown: flags & !known != 0 || [res1, res2] != [0; 2],
        ..RoutingRule::default()
    };
    if tos != 0 {
        rule.never.push(format!("tos {tos:#04x}"));
    }
    let (mut table, mut target) = (u32::from(table), 0);
    let (mut suppress_prefixlen, mut suppress_ifgroup) = (None, None);
    let (mut mark, mut mask) = (0, None);
    let (mut dscp, mut dscp_mask) = (None, None);
    for attribute in wire::attributes(rest) {
        let (kind, value) = attribute?;
        // All ones is "no".
        let suppressed = |value| wire::u32_of(value).map(|value| Some(value).filter(|value| *value != u32::MAX));
        let is_len = |len: &u32| i32::try_from(*len).is_ok();
        let prefix = |value, len| Ok::<_, anyhow::Error>(Some(Prefix::new(wire::bytes(value)?, len)));
        match kind {
            FRA_PRIORITY => rule.priority = wire::u32_of(value).context("FRA_PRIORITY")?,
            FRA_TABLE => table = wire::u32_of(value).context("FRA_TABLE")?,
            FRA_GOTO => target = wire::u32_of(value).context("FRA_GOTO")?,
            FRA_SRC => rule.from = prefix(value, from_len).context("FRA_SRC")?,
            FRA_DST => rule.to = prefix(value, to_len).context("FRA_DST")?,
            FRA_IIFNAME => rule.iif = Some(wire::text(value)),
            FRA_OIFNAME => rule.never.push(format!("oif {}", wire::text(value))),
            FRA_FWMARK => mark = wire::u32_of(value).context("FRA_FWMARK")?,
            FRA_FWMASK => mask = Some(wire::u32_of(value).context("FRA_FWMASK")?),
            FRA_TUN_ID => {
                let id = u64::from_be_bytes(wire::bytes(value).context("FRA_TUN_ID")?);
                rule.never.extend(Some(format!("tun_id {id}")).filter(|_| id != 0));
            }
            FRA_SUPPRESS_PREFIXLEN => {
                let len = suppressed(value).context("FRA_SUPPRESS_PREFIXLEN")?;
                // Nothing is longer than 32 bits, and nothing as short as a negative number.
                suppress_prefixlen = len.filter(is_len).map(|len| u8::try_from(len).unwrap_or(u8::MAX));
            }
            FRA_SUPPRESS_IFGROUP => suppress_ifgroup = suppressed(value).context("FRA_SUPPRESS_IFGROUP")?,
            FRA_L3MDEV => rule.l3mdev = value.first().is_some_and(|l3mdev| *l3mdev != 0),
            FRA_UID_RANGE => {
                let [a, b, c, d, e, f, g, h] = wire::bytes(value).context("FRA_UID_RANGE")?;
                rule.users = Some((u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])));
            }
            FRA_IP_PROTO => match value.first() {
                Some(0) | None => {}
                Some(protocol) => rule.never.push(format!("ipproto {protocol}")),
            },
            FRA_SPORT_RANGE => rule.never.push(ports("sport", value).context("FRA_SPORT_RANGE")?),
            FRA_DPORT_RANGE => rule.never.push(ports("dport", value).context("FRA_DPORT_RANGE")?),
            FRA_DSCP => dscp = value.first().copied(),
            FRA_DSCP_MASK => dscp_mask = value.first().copied(),
            // Who added the rule; realms; and masks of ports, which with no port at all let nothing match either.
            FRA_PROTOCOL | FRA_PAD | FRA_FLOW | FRA_SPORT_MASK | FRA_DPORT_MASK => {}
            _ => rule.unknown = true,
        }
    }
    if let Some(dscp) = dscp.filter(|dscp| dscp & dscp_mask.unwrap_or(u8::MAX) != 0) {
        rule.never.push(format!("dscp {dscp}"));
    }
    // Without a mask all bits count, unless no mark is asked for either.
    rule.mark = match (mark, mask) {
        (0, None | Some(0)) => None,
        (mark, mask) => Some((mark, mask.unwrap_or(u32::MAX))),
    };
    rule.action = match action {
        FR_ACT_TO_TBL => RuleAction::Lookup { table, suppress_prefixlen, suppress_ifgroup },
        FR_ACT_GOTO => RuleAction::Goto(target),
        FR_ACT_NOP => RuleAction::Nop,
        other => RuleAction::Refuse(other),
    };
    Ok(Some(rule))
}

/// A range of ports as `ip rule` prints it (`struct fib_rule_port_range`).
fn ports(what: &str, value: &[u8]) -> Result<String> {
    let [a, b, c, d] = wire::bytes(value)?;
    let (first, last) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
    Ok(if first == last { format!("{what} {first}") } else { format!("{what} {first}-{last}") })
}
