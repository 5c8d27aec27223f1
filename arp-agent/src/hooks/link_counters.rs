//! Reads how much an interface has sent.

use anyhow::{Context, Result};
use linux_raw_sys::netlink as raw;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{
    socket::NetlinkSocket,
    wire::{self, NetlinkRequest},
};

const RTM_GETSTATS: u16 = raw::RTM_GETSTATS as u16;
const IFLA_STATS_LINK_64: u16 = raw::IFLA_STATS_LINK_64 as u16;

/// What an interface has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transmitted {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Reads transmit counters.
pub(crate) struct LinkCounters(NetlinkSocket);

impl LinkCounters {
    /// A reader for the calling thread's network namespace.
    ///
    /// # Errors
    /// No socket can be opened.
    pub(crate) fn new() -> Result<Self> {
        Ok(LinkCounters(NetlinkSocket::new(NETLINK_ROUTE)?))
    }

    /// What the interface has sent. A veth counts only frames that its other end has taken
    /// (`veth_get_stats64`, drivers/net/veth.c).
    ///
    /// # Errors
    /// The interface is gone, or the kernel does not answer.
    pub(crate) fn transmitted(&mut self, ifindex: u32) -> Result<Transmitted> {
        // struct if_stats_msg: family, padding, ifindex, filter_mask.
        let mut header = [0; 12];
        header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        header[8..].copy_from_slice(&(1u32 << (IFLA_STATS_LINK_64 - 1)).to_ne_bytes());
        let answer = self.0.get("an interface's counters", &NetlinkRequest::new(RTM_GETSTATS, &header))?;
        let message = wire::messages(answer).next().context("no answer about an interface's counters")??;
        let (_, rest) = message.split::<12>()?;
        let counters = wire::attribute(rest, IFLA_STATS_LINK_64)?.context("no counters in the answer")?;
        // struct rtnl_link_stats64: rx_packets, tx_packets, rx_bytes, tx_bytes …
        let counter = |index: usize| -> Result<u64> {
            let bytes = counters.get(8 * index..8 * index + 8).context("counters cut short")?;
            wire::bytes(bytes).map(u64::from_ne_bytes)
        };
        Ok(Transmitted { frames: counter(1)?, bytes: counter(3)? })
    }
}
