//! Decoding of RTM_NEWLINK and RTM_DELLINK.

use anyhow::{Context, Result};
use nix::libc;

use crate::event::{Link, Settings};
use crate::netlink::wire::{self, Message};

/// `struct ifinfomsg`.
pub(super) const HEADER_LEN: usize = 16;
/// `struct netconfmsg`, with its padding.
const NETCONF_HEADER_LEN: usize = 4;
/// include/uapi/linux/netconf.h; negative for `all` and `default`.
const NETCONFA_IFINDEX: u16 = 1;

// IFLA_*, include/uapi/linux/if_link.h.
const ADDRESS: u16 = 1;
const IFNAME: u16 = 3;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const WIRELESS: u16 = 11;
const LINKINFO: u16 = 18;
const AF_SPEC: u16 = 26;
pub(super) const EXT_MASK: u16 = 29;
const CARRIER: u16 = 33;
const CARRIER_CHANGES: u16 = 35;
const LINK_NETNSID: u16 = 37;
const XDP: u16 = 43;
const PROP_LIST: u16 = 52;
const ALT_IFNAME: u16 = 53;
// Nested.
const INFO_KIND: u16 = 1;
const INET_CONF: u16 = 1;
const XDP_ATTACHED: u16 = 2;
const XDP_PROG_ID: u16 = 4;
const XDP_HW_PROG_ID: u16 = 7;
const XDP_ATTACHED_MULTI: u8 = 4;

/// RTEXT_FILTER_SKIP_STATS: half the dump would be IPv6's counters. (Those of the link itself come all the same.)
pub(super) const SKIP_STATS: u32 = 1 << 3;

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
            ADDRESS => link.mac = value.try_into().ok(),
            IFNAME => link.name = wire::text(value),
            LINK => link.link = Some(wire::u32_of(value).context("IFLA_LINK")?),
            // 0 is how the kernel says that there is none, where it says it.
            MASTER => link.master = Some(wire::u32_of(value).context("IFLA_MASTER")?).filter(|m| *m != 0),
            WIRELESS => return Ok(None),
            LINKINFO => {
                link.kind = wire::attribute(value, INFO_KIND).context("IFLA_LINKINFO")?.map(wire::text);
            }
            AF_SPEC => link.settings = settings(value).context("IFLA_AF_SPEC")?,
            CARRIER => link.carrier = value.first().is_some_and(|c| *c != 0),
            CARRIER_CHANGES => {
                link.carrier_changes = wire::u32_of(value).context("IFLA_CARRIER_CHANGES")?;
            }
            LINK_NETNSID => {
                link.link_netnsid = Some(wire::i32_of(value).context("IFLA_LINK_NETNSID")?);
            }
            XDP => (link.xdp_program, link.xdp_multiple) = xdp(value).context("IFLA_XDP")?,
            PROP_LIST => link.altnames = altnames(value).context("IFLA_PROP_LIST")?,
            _ => {}
        }
    }
    Ok(Some(link))
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
    let Some(array) = wire::attribute(inet, INET_CONF)? else {
        return Ok(None);
    };
    // The array grows with the kernel. Its indices are IPV4_DEVCONF_* − 1.
    let value = |index: usize| -> Result<i32> {
        let cell = array
            .get(4 * index..4 * index + 4)
            .with_context(|| format!("IFLA_INET_CONF of {} bytes has no value {index}", array.len()))?;
        wire::i32_of(cell)
    };
    Ok(Some(Settings {
        forwarding: value(0)?,
        proxy_arp: value(2)?,
        rp_filter: value(7)?,
        arp_filter: value(12)?,
        medium_id: value(13)?,
        arp_ignore: value(18)?,
        accept_local: value(22)?,
        proxy_arp_pvlan: value(24)?,
        route_localnet: value(25)?,
        ignore_routes_with_linkdown: value(28)?,
        drop_gratuitous_arp: value(30)?,
    }))
}

/// A program's identifier, and whether there are several. With several, IFLA_XDP_PROG_ID is missing and the
/// attributes of the modes follow (driver, skb, hardware); the first of them sees the frame first.
fn xdp(nested: &[u8]) -> Result<(Option<u32>, bool)> {
    let mut program = None;
    let mut multiple = false;
    for attribute in wire::attributes(nested) {
        match attribute? {
            (XDP_ATTACHED, value) => multiple = value.first() == Some(&XDP_ATTACHED_MULTI),
            (XDP_PROG_ID..=XDP_HW_PROG_ID, value) => program = program.or(Some(wire::u32_of(value)?)),
            _ => {}
        }
    }
    Ok((program, multiple))
}

fn altnames(nested: &[u8]) -> Result<Vec<String>> {
    wire::attributes(nested)
        .filter(|a| !matches!(a, Ok((kind, _)) if *kind != ALT_IFNAME))
        .map(|a| a.map(|(_, value)| wire::text(value)))
        .collect()
}
