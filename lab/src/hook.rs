//! The hook that the tests' agents use: ARP_TEST_HOOK.

use std::env;

use anyhow::{Result, bail};
use clap::ValueEnum;

/// A hook, as ARP_TEST_HOOK names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// `xdp-skb`.
    XdpSkb,
    /// `xdp-driver`.
    XdpDriver,
    /// `tc`: what a veth gets by default.
    #[default]
    Tc,
}

impl Hook {
    /// The one that ARP_TEST_HOOK names; without it, tc.
    ///
    /// # Errors
    /// It names none.
    pub fn chosen() -> Result<Self> {
        match env::var("ARP_TEST_HOOK").as_deref() {
            Err(_) | Ok("" | "tc") => Ok(Hook::Tc),
            Ok("xdp-skb") => Ok(Hook::XdpSkb),
            Ok("xdp-driver") => Ok(Hook::XdpDriver),
            Ok(other) => bail!("ARP_TEST_HOOK={other}: it is xdp-skb, xdp-driver or tc"),
        }
    }

    /// The agent's options for it.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Hook::XdpSkb => &["--hook", "xdp", "--xdp-mode", "skb"],
            Hook::XdpDriver => &["--hook", "xdp", "--xdp-mode", "driver"],
            Hook::Tc => &["--hook", "tc"],
        }
    }

    /// What `status` calls it.
    pub fn name(self) -> &'static str {
        if self == Hook::Tc { "tc" } else { "xdp" }
    }

    /// The EtherType of the node's tap, which is to see what the program passed, and not what it took. A tap for every
    /// EtherType is in the frame's way before tc, and after XDP; one for ARP alone is after both.
    pub fn tapped(self) -> u16 {
        match self {
            Hook::XdpSkb | Hook::XdpDriver => libc::ETH_P_ALL as u16,
            Hook::Tc => libc::ETH_P_ARP as u16,
        }
    }

    /// Whether frames and answers go through queues of their links' own instead of the core's: a marker on another link
    /// may overtake them, and more than the queue's 256 at once get lost.
    pub fn queues_by_link(self) -> bool {
        self == Hook::XdpDriver
    }
}
