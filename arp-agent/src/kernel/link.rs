//! Decoding of RTM_NEWLINK and RTM_DELLINK.

use anyhow::{Context, Result};
use linux_raw_sys::net;
use linux_raw_sys::netlink as raw;
use nix::libc;

use super::ingress;
use crate::event::{Link, Settings};
use crate::netlink::wire::{self, Message};

/// `struct ifinfomsg`.
pub(super) const HEADER_LEN: usize = size_of::<raw::ifinfomsg>();
/// `struct netconfmsg`, with its padding, and NETCONFA_* in it: include/uapi/linux/netconf.h.
const NETCONF_HEADER_LEN: usize = 4;
/// Negative for `all` and `default`.
const NETCONFA_IFINDEX: u16 = 1;

// Those that libc lacks.
const IFLA_INET_CONF: u16 = raw::IFLA_INET_CONF as u16;
const IFLA_XDP_ATTACHED: u16 = raw::IFLA_XDP_ATTACHED as u16;
const IFLA_XDP_PROG_ID: u16 = raw::IFLA_XDP_PROG_ID as u16;
const IFLA_XDP_HW_PROG_ID: u16 = raw::IFLA_XDP_HW_PROG_ID as u16;
/// Of a VRF, in IFLA_INFO_DATA.
const IFLA_VRF_TABLE: u16 = raw::IFLA_VRF_TABLE as u16;
const XDP_ATTACHED_MULTI: u8 = raw::XDP_ATTACHED_MULTI as u8;

/// include/uapi/linux/if_bridge.h, include/uapi/linux/if_bonding.h.
const BR_STATE_FORWARDING: u8 = 3;
const BOND_STATE_ACTIVE: u8 = 0;

/// What lets a bridge answer ARP requests itself (`br_do_proxy_suppress_arp`, net/bridge/br_arp_nd_proxy.c, 6.18).
const ANSWERING: [u16; 4] = [
    raw::IFLA_BRPORT_PROXYARP as u16,
    raw::IFLA_BRPORT_PROXYARP_WIFI as u16,
    raw::IFLA_BRPORT_NEIGH_SUPPRESS as u16,
    raw::IFLA_BRPORT_NEIGH_VLAN_SUPPRESS as u16,
];

/// Half the dump would be IPv6's counters. (Those of the link itself come all the same.)
pub(super) const SKIP_STATS: u32 = libc::RTEXT_FILTER_SKIP_STATS as u32;

/// The link that an RTM_NEWLINK states; `None` if the message is about something else: a bridge's view of its
/// port (AF_BRIDGE), IPv6 settings (AF_INET6), or a wireless event, which names the link but does not describe it.
pub(super) fn link(message: &Message<'_>) -> Result<Option<Link>> {
    let (header, rest) = message.split::<HEADER_LEN>()?;
    if i32::from(header[0]) != libc::AF_UNSPEC {
        return Ok(None);
    }
    let mut link = Link {
        hardware_type: wire::u16_at(header, 2),
        ifindex: wire::u32_at(header, 4),
        flags: wire::u32_at(header, 8),
        ..Link::default()
    };
    for attribute in wire::attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_IFNAME => link.name = wire::text(value),
            libc::IFLA_LINK => link.link = Some(wire::u32_of(value).context("IFLA_LINK")?),
            // 0 is how the kernel says that there is none, where it says it.
            libc::IFLA_MASTER => link.master = Some(wire::u32_of(value).context("IFLA_MASTER")?).filter(|m| *m != 0),
            libc::IFLA_GROUP => link.group = wire::u32_of(value).context("IFLA_GROUP")?,
            libc::IFLA_WIRELESS => return Ok(None),
            libc::IFLA_LINKINFO => {
                link.kind = wire::attribute(value, libc::IFLA_INFO_KIND).context("IFLA_LINKINFO")?.map(wire::text);
                if link.kind.as_deref() == Some("vrf") {
                    link.vrf_table = vrf_table(value).context("IFLA_VRF_TABLE")?;
                }
                link.ports_differ = ports_differ(value).context("IFLA_INFO_DATA")?;
                link.forwards = forwards(value).context("IFLA_INFO_SLAVE_DATA")?;
                link.locked = bridge_port_has(value, &[raw::IFLA_BRPORT_LOCKED as u16])?;
                link.bridge_answers = bridge_port_has(value, &ANSWERING)?;
            }
            libc::IFLA_AF_SPEC => link.settings = settings(value).context("IFLA_AF_SPEC")?,
            libc::IFLA_CARRIER => link.carrier = value.first().is_some_and(|c| *c != 0),
            libc::IFLA_CARRIER_CHANGES => {
                link.carrier_changes = wire::u32_of(value).context("IFLA_CARRIER_CHANGES")?;
            }
            libc::IFLA_LINK_NETNSID => {
                link.link_netnsid = Some(wire::i32_of(value).context("IFLA_LINK_NETNSID")?);
            }
            libc::IFLA_QDISC => link.queues = ingress::queues(value),
            libc::IFLA_XDP => (link.xdp_program, link.xdp_multiple) = xdp(value).context("IFLA_XDP")?,
            libc::IFLA_PROP_LIST => link.altnames = altnames(value).context("IFLA_PROP_LIST")?,
            _ => {}
        }
    }
    Ok(Some(link))
}

fn vrf_table(info: &[u8]) -> Result<Option<u32>> {
    let Some(data) = wire::attribute(info, libc::IFLA_INFO_DATA)? else { return Ok(None) };
    wire::attribute(data, IFLA_VRF_TABLE)?.map(wire::u32_of).transpose()
}

/// What a bridge or a bond says of all its ports.
fn ports_differ(info: &[u8]) -> Result<bool> {
    let said_by = match wire::attribute(info, libc::IFLA_INFO_KIND)?.map(wire::text).as_deref() {
        Some("bridge") => raw::IFLA_BR_VLAN_FILTERING as u16,
        Some("bond") => raw::IFLA_BOND_ALL_SLAVES_ACTIVE as u16,
        _ => return Ok(false),
    };
    let Some(data) = wire::attribute(info, libc::IFLA_INFO_DATA)? else { return Ok(false) };
    Ok(wire::attribute(data, said_by)?.is_some_and(|value| value.first().is_some_and(|on| *on != 0)))
}

/// Whether a port takes frames (`br_handle_frame`, net/bridge/br_input.c, and `bond_handle_frame`,
/// drivers/net/bonding/bond_main.c, 6.18); `None` if it is no port, or its master's kind does not say.
fn forwards(info: &[u8]) -> Result<Option<bool>> {
    let (said_by, taking) = match wire::attribute(info, libc::IFLA_INFO_SLAVE_KIND)?.map(wire::text).as_deref() {
        Some("bridge") => (raw::IFLA_BRPORT_STATE as u16, BR_STATE_FORWARDING),
        Some("bond") => (raw::IFLA_BOND_SLAVE_STATE as u16, BOND_STATE_ACTIVE),
        _ => return Ok(None),
    };
    let Some(data) = wire::attribute(info, libc::IFLA_INFO_SLAVE_DATA)? else { return Ok(None) };
    let state = wire::attribute(data, said_by)?.and_then(|value| value.first());
    Ok(state.map(|state| *state == taking))
}

/// The interface that an RTM_DELLINK says is gone; `None` if it only left a bridge.
pub(super) fn gone(message: &Message<'_>) -> Result<Option<u32>> {
    let (header, _) = message.split::<HEADER_LEN>()?;
    Ok((i32::from(header[0]) == libc::AF_UNSPEC).then(|| wire::u32_at(header, 4)))
}

/// The interface that an RTM_NEWLINK is about, whatever it says of it.
pub(super) fn ifindex(message: &Message<'_>) -> Result<u32> {
    let (header, _) = message.split::<HEADER_LEN>()?;
    Ok(wire::u32_at(header, 4))
}

/// The interface whose settings an RTM_NEWNETCONF says were written; `None` if it may be any: `all`, or `default`,
/// which interfaces follow that have no value of their own.
pub(super) fn configured(message: &Message<'_>) -> Result<Option<u32>> {
    let (_, rest) = message.split::<NETCONF_HEADER_LEN>()?;
    let ifindex = wire::attribute(rest, NETCONFA_IFINDEX)?.map(wire::i32_of).transpose()?;
    Ok(ifindex.and_then(|ifindex| u32::try_from(ifindex).ok()))
}

fn settings(af_spec: &[u8]) -> Result<Option<Settings>> {
    let Some(inet) = wire::attribute(af_spec, libc::AF_INET as u16)? else {
        return Ok(None);
    };
    let Some(array) = wire::attribute(inet, IFLA_INET_CONF)? else {
        return Ok(None);
    };
    // The array grows with the kernel. Its indices are IPV4_DEVCONF_* − 1.
    let value = |setting: usize| -> Result<i32> {
        let index = setting - 1;
        let cell = array
            .get(4 * index..4 * index + 4)
            .with_context(|| format!("IFLA_INET_CONF of {} bytes has no value {index}", array.len()))?;
        wire::i32_of(cell)
    };
    Ok(Some(Settings {
        forwarding: value(net::IPV4_DEVCONF_FORWARDING as usize)?,
        proxy_arp: value(net::IPV4_DEVCONF_PROXY_ARP as usize)?,
        rp_filter: value(net::IPV4_DEVCONF_RP_FILTER as usize)?,
        arp_filter: value(net::IPV4_DEVCONF_ARPFILTER as usize)?,
        medium_id: value(net::IPV4_DEVCONF_MEDIUM_ID as usize)?,
        arp_ignore: value(net::IPV4_DEVCONF_ARP_IGNORE as usize)?,
        accept_local: value(net::IPV4_DEVCONF_ACCEPT_LOCAL as usize)?,
        proxy_arp_pvlan: value(net::IPV4_DEVCONF_PROXY_ARP_PVLAN as usize)?,
        route_localnet: value(net::IPV4_DEVCONF_ROUTE_LOCALNET as usize)?,
        ignore_routes_with_linkdown: value(net::IPV4_DEVCONF_IGNORE_ROUTES_WITH_LINKDOWN as usize)?,
        drop_gratuitous_arp: value(net::IPV4_DEVCONF_DROP_GRATUITOUS_ARP as usize)?,
    }))
}

/// A program's identifier, and whether there are several. With several, IFLA_XDP_PROG_ID is missing and the
/// attributes of the modes follow (driver, skb, hardware); the first of them sees the frame first.
fn xdp(nested: &[u8]) -> Result<(Option<u32>, bool)> {
    let mut program = None;
    let mut multiple = false;
    for attribute in wire::attributes(nested) {
        match attribute? {
            (IFLA_XDP_ATTACHED, value) => multiple = value.first() == Some(&XDP_ATTACHED_MULTI),
            (IFLA_XDP_PROG_ID..=IFLA_XDP_HW_PROG_ID, value) => program = program.or(Some(wire::u32_of(value)?)),
            _ => {}
        }
    }
    Ok((program, multiple))
}

fn altnames(nested: &[u8]) -> Result<Vec<String>> {
    wire::attributes(nested)
        .filter(|a| !matches!(a, Ok((kind, _)) if *kind != libc::IFLA_ALT_IFNAME))
        .map(|a| a.map(|(_, value)| wire::text(value)))
        .collect()
}

/// Whether a port of a bridge has any of these flags.
fn bridge_port_has(info: &[u8], flags: &[u16]) -> Result<bool> {
    let is_bridge = wire::attribute(info, libc::IFLA_INFO_SLAVE_KIND)?.map(wire::text).as_deref() == Some("bridge");
    let Some(data) = wire::attribute(info, libc::IFLA_INFO_SLAVE_DATA)?.filter(|_| is_bridge) else { return Ok(false) };
    for &flag in flags {
        if wire::attribute(data, flag)?.is_some_and(|value| value.first().is_some_and(|on| *on != 0)) {
            return Ok(true);
        }
    }
    Ok(false)
}
