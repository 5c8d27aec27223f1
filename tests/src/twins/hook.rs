//! The hooks that an agent of the twins may answer in, and what differs between them in what the twins can see.

use clap::ValueEnum;

/// Where the fast path sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// XDP on socket buffers.
    #[default]
    XdpSkb,
    /// XDP in the veth driver.
    XdpDriver,
    /// tc ingress.
    Tc,
}

impl Hook {
    /// What `arp-agent run` is told.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Hook::XdpSkb => &["--hook", "xdp", "--xdp-mode", "skb"],
            Hook::XdpDriver => &["--hook", "xdp", "--xdp-mode", "driver"],
            Hook::Tc => &["--hook", "tc"],
        }
    }

    /// The EtherType of the node's tap, which is to see what the program passed, and not what it took. A tap for every
    /// EtherType is in the frame's way before tc, and after XDP; one for ARP alone is after both.
    pub(super) fn tapped(self) -> u16 {
        match self {
            Hook::XdpSkb | Hook::XdpDriver => libc::ETH_P_ALL as u16,
            Hook::Tc => libc::ETH_P_ARP as u16,
        }
    }

    /// Whether frames and answers go through queues of their links' own instead of the core's: a marker on another link
    /// may overtake them, and more than the queue's 256 at once get lost.
    pub(super) fn queues_by_link(self) -> bool {
        self == Hook::XdpDriver
    }
}
