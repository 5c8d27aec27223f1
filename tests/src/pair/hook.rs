//! What differs between the hooks in what the twins can see.

use crate::hook::Hook;

impl Hook {
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
