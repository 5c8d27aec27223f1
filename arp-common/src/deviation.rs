//! The policies that answer where the kernel would not, or not at once (docs/adr/0017-policies-that-answer.md). By default
//! there are none, and none of this is in the program. Everything else that an answer takes holds for them, too.

use crate::fib::LeafKind;
use crate::maps::{Iface, IfaceAddr};
use crate::packed::PackedArp;
use crate::reason::Reason;
use crate::tables::{Tables, lookup};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names of the maps and programs in the eBPF object.
pub mod names {
    /// `Array<Deviations>`, mmapable: by the index of an interface's counters.
    pub const DEVIATIONS: &str = "DEVIATIONS";
    /// `HashMap<IfaceAddr, u32>`: the addresses of each list of gateways; the list's number is in the place of an interface.
    pub const GATEWAYS: &str = "GATEWAYS";
    /// What takes the place of the tc program where there are policies that answer.
    pub const TC_PROGRAM: &str = "arp_tc_policy";
    /// The same for the XDP program.
    pub const XDP_PROGRAM: &str = "arp_xdp_policy";
    /// The same for the XDP program that takes frames in several buffers.
    pub const XDP_FRAGS_PROGRAM: &str = "arp_xdpf_policy";
    /// The same for the XDP program for veths in driver mode.
    pub const XDP_VETH_PROGRAM: &str = "arp_xdpv_policy";
}

/// Most addresses of all lists of gateways.
pub const MAX_GATEWAYS: u32 = 4_096;

/// How an answer differs from what the kernel does. Numbers and names are ABI: never reused, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Deviation {
    /// An address to which there is no route.
    Gateway = 0,
    /// An answer that the kernel would delay.
    NoDelay = 1,
}

impl Deviation {
    /// Every one, by number.
    pub const ALL: &'static [Deviation] = &[Self::Gateway, Self::NoDelay];

    /// The name that counters and `--json` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::NoDelay => "no_delay",
        }
    }

    /// What it is in a sentence, for people.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Gateway => {
                "the kernel would not answer: there is no route to tpa; it is on the interface's list of gateways"
            }
            Self::NoDelay => "the kernel would delay its answer (proxy_delay is not 0)",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|deviation| deviation.name() == name)
    }
}

/// How many there is room for in an interface's counts.
pub const ROOM: usize = 3;

/// What a policy does on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum AnswerMode {
    /// Nothing.
    #[default]
    Off = 0,
    /// Counts the frames that `answer` would answer.
    Count = 1,
    /// Answers them.
    Answer = 2,
}

/// An interface's policies that answer, and what came of them; a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct InterfaceDeviations {
    /// What is configured. The agent writes it as one word.
    pub configured: DeviationConfig,
    /// How many frames each has answered. The program adds to it.
    pub answered: [u64; ROOM],
    /// How many it would have answered where it only counts.
    pub would_answer: [u64; ROOM],
    /// 0.
    pub unused: u64,
}

/// What is configured for an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct DeviationConfig {
    /// Two bits for each [`Deviation`], see [`DeviationConfig::new`].
    pub modes: u32,
    /// The list of gateways; 0 for none.
    pub list: u32,
}

const _: () = {
    assert!(size_of::<InterfaceDeviations>() == 64);
    assert!(size_of::<DeviationConfig>() == 8);
};

impl DeviationConfig {
    /// With these modes.
    pub const fn new(gateway: AnswerMode, no_delay: AnswerMode, list: u32) -> Self {
        let modes =
            (gateway as u32) << Self::shift(Deviation::Gateway) | (no_delay as u32) << Self::shift(Deviation::NoDelay);
        DeviationConfig { modes, list }
    }

    /// What one of them does.
    #[inline(always)]
    pub const fn mode(&self, deviation: Deviation) -> AnswerMode {
        match self.modes >> Self::shift(deviation) & 3 {
            1 => AnswerMode::Count,
            2 => AnswerMode::Answer,
            _ => AnswerMode::Off,
        }
    }

    const fn shift(deviation: Deviation) -> u32 {
        deviation as u32 * 2
    }
}

/// What the policies know besides the tables.
pub trait Lists {
    /// The number of the view that all senders share; one that does not exist if there is none.
    fn common_view(&self) -> u16;
    /// Whether an address is on a list of gateways.
    fn is_gateway(&self, key: IfaceAddr) -> bool;
}

/// Which policy may answer a frame that [`decide`](crate::decide()) passes for this reason. The caller makes sure that no
/// batch was written from before that decision until after this one.
///
/// A gateway takes the sender as `decide` does. One without a neighbour entry must be routed back by this interface, and by
/// no other: the kernel learns nobody from a request that it does not answer, so such a sender would never be answered.
#[inline(always)]
pub fn deviation(
    frame: &PackedArp,
    ingress: u32,
    reason: Reason,
    configured: &DeviationConfig,
    tables: &impl Tables,
    lists: &impl Lists,
) -> Option<Deviation> {
    if reason == Reason::PROXY_DELAY {
        let iface = tables.iface(ingress)?;
        // Which of them allows the answer is not asked again: where static proxy entries may, they must be confirmed.
        let is_sure = !iface.has(Iface::HAS_PROXIES) || tables.proxies_are_confirmed();
        return if is_sure && is_on(configured, Deviation::NoDelay) { Some(Deviation::NoDelay) } else { None };
    }
    let is_unknown = reason == Reason::NEIGHBOUR_UNKNOWN;
    if !is_on(configured, Deviation::Gateway) || !(is_unknown || reason == Reason::NO_ROUTE) {
        return None;
    }
    if !lists.is_gateway(IfaceAddr { ifindex: configured.list, addr: frame.tpa() }) {
        return None;
    }
    // What does not forward is no gateway.
    if !tables.iface(ingress)?.has(Iface::FORWARDING) {
        return None;
    }
    if is_unknown {
        let view = lists.common_view();
        let is_back = match lookup(tables, view, frame.spa()) {
            route if matches!(route.kind(), LeafKind::Unicast) => tables.oif(route.slot())?.ifindex == ingress,
            _ => false,
        };
        if !is_back || !matches!(lookup(tables, view, frame.tpa()).kind(), LeafKind::None) {
            return None;
        }
    }
    Some(Deviation::Gateway)
}

#[inline(always)]
fn is_on(configured: &DeviationConfig, deviation: Deviation) -> bool {
    !matches!(configured.mode(deviation), AnswerMode::Off)
}

#[cfg(test)]
mod tests;
