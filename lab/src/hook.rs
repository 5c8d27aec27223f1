//! The hook that the tests' agents use: ARP_TEST_HOOK.

use std::env;

use anyhow::{Result, bail};
use clap::ValueEnum;

/// A hook, as ARP_TEST_HOOK names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TestHook {
    /// `xdp-skb`.
    XdpSkb,
    /// `xdp-driver`.
    XdpDriver,
    /// `tc`: what a veth gets by default.
    #[default]
    Tc,
}

impl TestHook {
    /// The hook that ARP_TEST_HOOK names; tc if it is not set.
    ///
    /// # Errors
    /// It names no hook.
    pub fn chosen() -> Result<Self> {
        match env::var("ARP_TEST_HOOK").as_deref() {
            Err(_) | Ok("" | "tc") => Ok(TestHook::Tc),
            Ok("xdp-skb") => Ok(TestHook::XdpSkb),
            Ok("xdp-driver") => Ok(TestHook::XdpDriver),
            Ok(other) => bail!("ARP_TEST_HOOK={other}: it is xdp-skb, xdp-driver or tc"),
        }
    }

    /// The agent's options for it.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            TestHook::XdpSkb => &["--hook", "xdp", "--xdp-mode", "skb"],
            TestHook::XdpDriver => &["--hook", "xdp", "--xdp-mode", "driver"],
            TestHook::Tc => &["--hook", "tc"],
        }
    }

    /// What `status` calls it.
    pub fn name(self) -> &'static str {
        if self == TestHook::Tc { "tc" } else { "xdp" }
    }

    /// The EtherType of the node's tap, which must see the frames that the program passed, and not those that it took.
    /// A tap for every EtherType comes before tc and after XDP; a tap for ARP alone comes after both.
    pub fn tapped(self) -> u16 {
        match self {
            TestHook::XdpSkb | TestHook::XdpDriver => libc::ETH_P_ALL as u16,
            TestHook::Tc => libc::ETH_P_ARP as u16,
        }
    }

    /// Whether each link has a queue of its own instead of the core's. Then a marker on another link may overtake
    /// frames and answers, and of more than 256 frames at once some get lost.
    pub fn queues_by_link(self) -> bool {
        self == TestHook::XdpDriver
    }
}
