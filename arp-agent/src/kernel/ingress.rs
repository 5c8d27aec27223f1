//! Decoding of netfilter chains and queueing disciplines, which may see or hold back a frame.

use anyhow::{Context, Result};
use aya_obj::generated::{TC_H_INGRESS, TC_H_ROOT};
use linux_raw_sys::netlink as raw;
use nix::libc;

use crate::netlink::wire::{self, Message};

/// `struct nfgenmsg`, include/uapi/linux/netfilter/nfnetlink.h.
pub(super) const NFGEN_LEN: usize = 4;
/// `struct tcmsg`.
pub(crate) const TC_LEN: usize = size_of::<raw::tcmsg>();

/// `NFPROTO_ARP` and `NFPROTO_NETDEV`.
pub(super) const FAMILY_ARP: u8 = libc::NFPROTO_ARP as u8;
pub(super) const FAMILY_NETDEV: u8 = libc::NFPROTO_NETDEV as u8;
/// `NFPROTO_BRIDGE`.
pub(super) const FAMILY_BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;

// NFTA_*, include/uapi/linux/netfilter/nf_tables.h: no crate has them.
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
const HOOK_DEV: u16 = 3;
const HOOK_DEVS: u16 = 4;
const DEVICE_NAME: u16 = 1;
/// Since 6.18: a name that stands for all that begin with it.
const DEVICE_PREFIX: u16 = 2;

const TCA_INGRESS_BLOCK: u16 = raw::TCA_INGRESS_BLOCK as u16;
const TCA_EGRESS_BLOCK: u16 = raw::TCA_EGRESS_BLOCK as u16;

pub(super) const GET_CHAIN: u16 = nftables(libc::NFT_MSG_GETCHAIN);
const NEW_TABLE: u16 = nftables(libc::NFT_MSG_NEWTABLE);
const DEL_TABLE: u16 = nftables(libc::NFT_MSG_DELTABLE);
const NEW_CHAIN: u16 = nftables(libc::NFT_MSG_NEWCHAIN);
const DEL_CHAIN: u16 = nftables(libc::NFT_MSG_DELCHAIN);
const NEW_GENERATION: u16 = nftables(libc::NFT_MSG_NEWGEN);

/// A message's type: NFT_MSG_* below the subsystem's number.
pub(super) const fn nftables(message: i32) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// Whether a message is about a table, chain, rule, set or element, all of which decide on frames. (NFT_MSG_NEWGEN
/// comes next.)
pub(super) fn is_ruleset(kind: u16) -> bool {
    (NEW_TABLE..NEW_GENERATION).contains(&kind)
}

/// Whether a notification is about a table or a chain, not about what is in one.
pub(super) fn is_table_or_chain(kind: u16) -> bool {
    matches!(kind, NEW_TABLE | DEL_TABLE | NEW_CHAIN | DEL_CHAIN)
}

/// The devices that a base chain of the netdev family is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// The device of this name.
    To(String),
    /// All devices whose names begin so.
    ToPrefix(String),
}

impl Bound {
    pub(super) fn covers(&self, name: &str) -> bool {
        match self {
            Self::To(device) => name == device,
            Self::ToPrefix(prefix) => name.starts_with(prefix),
        }
    }
}

/// The devices that a base chain of this family names. `None` for a chain without a hook, which only others jump to.
pub(super) fn base_chain(message: &Message<'_>, family: u8) -> Result<Option<Vec<Bound>>> {
    let (header, rest) = message.split::<NFGEN_LEN>()?;
    if header[0] != family {
        return Ok(None);
    }
    let Some(hook) = wire::attribute(rest, CHAIN_HOOK)? else {
        return Ok(None);
    };
    let mut bound = Vec::new();
    for attribute in wire::attributes(hook) {
        match attribute.context("NFTA_CHAIN_HOOK")? {
            (HOOK_DEV, value) => bound.push(device(DEVICE_NAME, value)),
            (HOOK_DEVS, value) => {
                for name in wire::attributes(value) {
                    let (kind, name) = name.context("NFTA_HOOK_DEVS")?;
                    bound.push(device(kind, name));
                }
            }
            _ => {}
        }
    }
    Ok(Some(bound))
}

/// A base chain of nft's bridge family, by the name of its table and its own.
pub(super) fn bridge_chain(message: &Message<'_>) -> Result<Option<String>> {
    if base_chain(message, FAMILY_BRIDGE)?.is_none() {
        return Ok(None);
    }
    let (_, rest) = message.split::<NFGEN_LEN>()?;
    let named =
        |attribute| Ok::<_, anyhow::Error>(wire::attribute(rest, attribute)?.map(wire::text).unwrap_or_default());
    Ok(Some(format!("nft chain bridge {} {}", named(CHAIN_TABLE)?, named(CHAIN_NAME)?)))
}

fn device(kind: u16, value: &[u8]) -> Bound {
    let name = wire::text(value);
    // Before the attribute for prefixes existed, a name without its final NUL was one.
    if kind == DEVICE_PREFIX || !value.contains(&0) { Bound::ToPrefix(name) } else { Bound::To(name) }
}

/// The interface, if the queueing discipline runs programs on incoming frames.
pub(crate) fn ingress_qdisc(message: &Message<'_>) -> Result<Option<u32>> {
    let (header, rest) = message.split::<TC_LEN>()?;
    let (ifindex, parent) = (wire::u32_at(header, 4), wire::u32_at(header, 12));
    let kind = wire::attribute(rest, libc::TCA_KIND)?.map(wire::text);
    let named = matches!(kind.as_deref(), Some("ingress" | "clsact"));
    // The parent of both.
    Ok((named || parent == TC_H_INGRESS).then_some(ifindex))
}

/// Whether what is sent may wait, or be dropped, in a root queueing discipline of this name.
pub(super) fn queues(name: &[u8]) -> bool {
    wire::text(name) != "noqueue"
}

/// The interface whose root queueing discipline a notification is about, and whether it queues from now on. Which one
/// comes in the place of one that goes is not told: until the link is read again it counts as one that does.
pub(super) fn root_qdisc(message: &Message<'_>) -> Result<Option<(u32, bool)>> {
    let (header, rest) = message.split::<TC_LEN>()?;
    let (ifindex, parent) = (wire::u32_at(header, 4), wire::u32_at(header, 12));
    let comes = message.kind == libc::RTM_NEWQDISC;
    let kind = wire::attribute(rest, libc::TCA_KIND)?.filter(|_| comes);
    Ok((parent == TC_H_ROOT).then(|| (ifindex, kind.is_none_or(queues))))
}

/// The interface, if its ingress queueing discipline shares its filters with other interfaces. A filter added there is
/// notified for none of them (`tfilter_notify`, net/sched/cls_api.c), so the interface counts as if it had some.
pub(super) fn shared_block(message: &Message<'_>) -> Result<Option<u32>> {
    let (_, rest) = message.split::<TC_LEN>()?;
    let mut is_shared = false;
    for block in [TCA_INGRESS_BLOCK, TCA_EGRESS_BLOCK] {
        is_shared |= wire::attribute(rest, block)?.is_some();
    }
    Ok(ingress_qdisc(message)?.filter(|_| is_shared))
}
