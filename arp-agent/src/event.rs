//! What the kernel says, as plain data: `kernel/` makes these from netlink and procfs, `mirror/` folds them.
//! Addresses are in wire order; a missing attribute is `None`, never a guess.

use crate::arp_rules::ArpRules;
pub use crate::link::{Link, Settings};
use crate::prefix::Prefix;
use arp_common::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

/// NETDEV_XDP_ACT_NDO_XMIT: the device takes frames that are redirected to it. On a veth: while the other end has GRO or
/// an XDP program (`veth_set_xdp_features`, drivers/net/veth.c).
pub const NDO_XMIT: u64 = 1 << 2;

/// One statement of the kernel about its state in the agent's network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A link is, or has become, so (RTM_NEWLINK).
    Link(Link),
    /// A link is gone (RTM_DELLINK).
    LinkGone(u32),
    /// An interface has an address (RTM_NEWADDR).
    Address(Address),
    /// It has it no longer (RTM_DELADDR).
    AddressGone(Address),
    /// A route was added; the placement says where it goes among routes of the same prefix, tos and metric (RTM_NEWROUTE).
    Route(Route, Placement),
    /// A route was removed (RTM_DELROUTE).
    RouteGone(Route),
    /// All routing rules, in the order in which they are asked: rules have no identity by which one could be added or
    /// removed alone.
    Rules(Vec<RoutingRule>),
    /// Whether the kernel keeps table local apart from table main; `None` if it cannot be told.
    LocalAndMain(Option<LocalAndMain>),
    /// Whether a nexthop object is a resilient group (RTM_NEWNEXTHOP).
    NexthopObject {
        /// Its number.
        id: u32,
        /// Whether it is one.
        resilient: bool,
    },
    /// A neighbour entry is so (RTM_NEWNEIGH).
    Neighbour(NeighbourEntry),
    /// A neighbour entry is gone (RTM_DELNEIGH).
    NeighbourGone {
        /// Its interface.
        ifindex: u32,
        /// Its address.
        addr: Ipv4Addr,
    },
    /// All static proxy entries (a dump with NTF_PROXY): ifindex (0: any) and address.
    Proxies(Vec<(u32, Ipv4Addr)>),
    /// `proxy_delay` in milliseconds of every interface that has ARP parameters (RTM_GETNEIGHTBL).
    ProxyDelays(Vec<(u32, u64)>),
    /// `proxy_delay` in milliseconds of one interface; `None` if it has no ARP parameters.
    ProxyDelay(u32, Option<u64>),
    /// `net.ipv4.conf.all.*`.
    AllSettings(Settings),
    /// All that netfilter does to ARP frames: the chains of nftables' ARP family, and those of arptables. Which interfaces
    /// that concerns follows from their names and indexes ([`ArpRules::concern`]).
    ArpNetfilter(ArpRules),
    /// The replies that netfilter is known to drop: the name of the interface that they leave by, and their `spa`.
    DroppedReplies(Vec<(String, Ipv4Addr)>),
    /// The interfaces with a foreign hook before ARP: a netdev-family ingress chain, or tc filters that interfaces share.
    IngressHooks(Vec<u32>),
    /// The interfaces with a packet socket for ARP (AF_PACKET, ETH_P_ARP); 0 stands for all of them.
    ArpListeners(Vec<u32>),
    /// The interfaces that take frames for another unicast address than their own: a macvlan device of another network
    /// namespace is stacked on them and up, or somebody added the address by hand (`bridge fdb add`).
    UppersElsewhere(Vec<u32>),
    /// What a device offers to XDP (NETDEV_A_DEV_XDP_FEATURES).
    XdpFeatures {
        /// The interface.
        ifindex: u32,
        /// NETDEV_XDP_ACT_*, as bits; `None` when it goes.
        features: Option<u64>,
    },
    /// Why the interface must not answer by the hook that it has; the agent's own finding, which no file has.
    #[serde(skip)]
    Blocked {
        /// The interface.
        ifindex: u32,
        /// Why, if so.
        reason: Option<Reason>,
    },
    /// The kernel may have removed routes by this interface without saying so: it went down, or lost its carrier. Until
    /// the routes are dumped again, none by it is trusted.
    RoutesDoubted {
        /// The interface.
        ifindex: u32,
        /// It only lost its carrier, which takes along routes of nexthop objects alone (`nh_netdev_event`,
        /// net/ipv4/nexthop.c; `fib_sync_down_dev`, net/ipv4/fib_semantics.c, marks the others and keeps them).
        carrier: bool,
    },
    /// Whether an interface changes too fast to be followed: meanwhile nothing is known of it and of its neighbours.
    Flapping {
        /// The interface.
        ifindex: u32,
        /// Whether it does.
        flapping: bool,
    },
    /// Whether a neighbour entry changes too fast to be followed.
    NeighbourFlapping {
        /// Its interface.
        ifindex: u32,
        /// Its address.
        addr: Ipv4Addr,
        /// Whether it does.
        flapping: bool,
    },
    /// Whether an interface was notified, and has not been read since: until then nothing is answered on it or by it.
    StaleSettings {
        /// The interface.
        ifindex: u32,
        /// Whether it is to be read.
        stale: bool,
    },
    /// Somebody else set or removed a tc filter on an interface, or may have: until it is asked, it counts as hooked.
    FiltersTouched(u32),
    /// What foreign tc programs an interface has: tcx ones (BPF_PROG_QUERY), and filters.
    ForeignTc {
        /// The interface.
        ifindex: u32,
        /// Where they stand.
        found: ForeignTc,
    },
    /// Whether what an interface sends may wait or be dropped in a queueing discipline of its own.
    RootQdisc {
        /// The interface.
        ifindex: u32,
        /// Whether it may.
        queues: bool,
    },
}

/// Where the tc programs of others stand, as seen from ours (docs/kernel-arp.md §15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignTc {
    /// There are none that may see ARP.
    #[default]
    None,
    /// They see a frame before ours does, or what leaves: an answer goes past all of them, as the kernel's does.
    Around,
    /// One may see a frame after ours: it would miss what is answered.
    After,
}

/// An IPv4 address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// IFA_LOCAL: the address itself.
    pub local: Ipv4Addr,
    /// IFA_ADDRESS: the peer's, or the same again.
    pub peer: Ipv4Addr,
    /// Length of the subnet's prefix around `peer`, in bits.
    pub prefix_len: u8,
}

/// A route's type (RTN_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// RTN_UNICAST.
    Unicast,
    /// RTN_LOCAL.
    Local,
    /// RTN_BROADCAST.
    Broadcast,
    /// RTN_ANYCAST.
    Anycast,
    /// RTN_MULTICAST.
    Multicast,
    /// RTN_BLACKHOLE.
    Blackhole,
    /// RTN_UNREACHABLE.
    Unreachable,
    /// RTN_PROHIBIT.
    Prohibit,
    /// RTN_THROW: leaves the table.
    Throw,
    /// Any other.
    Other,
}

/// An IPv4 route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// RTA_TABLE: 255 local, 254 main, 253 default, or any other.
    pub table: u32,
    /// Destination.
    pub prefix: Prefix,
    /// rtm_tos; a route with one never matches ARP.
    pub tos: u8,
    /// RTA_PRIORITY; 0 if missing.
    pub metric: u32,
    /// rtm_type.
    pub kind: RouteKind,
    /// RTA_OIF of a route with a single next hop.
    pub oif: Option<u32>,
    /// RTA_GATEWAY or RTA_VIA.
    pub gateway: Option<IpAddr>,
    /// RTA_NH_ID: a nexthop object.
    pub nexthop: Option<NonZeroU32>,
    /// RTA_MULTIPATH: the interfaces of all next hops, in the kernel's order; empty with a single one.
    pub hops: Box<[u32]>,
    /// The route has RTA_ENCAP (light-weight tunnel).
    pub encap: bool,
    /// A hash of everything else that tells routes apart (protocol, scope, preferred source, realms, metrics, hops,
    /// encapsulation): so that, of two that look alike here, the right one is removed.
    pub rest: u64,
}

// There may be a million of them.
const _: () = assert!(size_of::<Route>() <= 72);

impl Route {
    /// The interfaces of its next hops, in the kernel's order; empty if it has none, or if they are not told.
    pub fn legs(&self) -> &[u32] {
        if self.hops.is_empty() { self.oif.as_slice() } else { &self.hops }
    }
}

/// Where a new route goes among those with the same table, prefix, tos and metric (the message's NLM_F_* flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// In place of the first (NLM_F_REPLACE).
    Replace,
    /// After the others (NLM_F_APPEND, and routes in dump order).
    Last,
    /// Before the others.
    First,
}

/// A routing rule (include/uapi/linux/fib_rules.h), as it concerns an ARP request: a packet without mark, tos, protocol,
/// ports, tunnel or outgoing interface, of the user who owns the network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RoutingRule {
    /// FRA_PRIORITY; 0 if missing.
    pub priority: u32,
    /// What it does.
    pub action: RuleAction,
    /// FIB_RULE_INVERT: it applies where the selectors do not match all together.
    pub inverted: bool,
    /// FRA_SRC.
    pub from: Option<Prefix>,
    /// FRA_DST.
    pub to: Option<Prefix>,
    /// FRA_IIFNAME.
    pub iif: Option<String>,
    /// FIB_RULE_IIF_DETACHED: no interface had that name when the kernel said so.
    pub iif_detached: bool,
    /// FRA_FWMARK and FRA_FWMASK, if the rule asks for a mark.
    pub mark: Option<(u32, u32)>,
    /// FRA_UID_RANGE: the first and the last user.
    pub users: Option<(u32, u32)>,
    /// FRA_L3MDEV: it applies to frames of ports of a VRF, and looks up the VRF's table.
    pub l3mdev: bool,
    /// Selectors that no ARP request matches, as `ip rule` prints them.
    pub never: Vec<String>,
    /// It has a selector that this version does not know.
    pub unknown: bool,
}

/// What a routing rule does with a packet that it applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleAction {
    /// FR_ACT_TO_TBL: looks up a table. With FRA_L3MDEV the table is the VRF's.
    Lookup {
        /// FRA_TABLE.
        table: u32,
        /// FRA_SUPPRESS_PREFIXLEN: a route whose prefix is not longer than this does not count.
        suppress_prefixlen: Option<u8>,
        /// FRA_SUPPRESS_IFGROUP: nor does one by an interface of this group.
        suppress_ifgroup: Option<u32>,
    },
    /// FR_ACT_GOTO: goes on at the first rule of this priority.
    Goto(u32),
    /// FR_ACT_NOP: nothing.
    Nop,
    /// FR_ACT_UNREACHABLE, _BLACKHOLE, _PROHIBIT, and what the kernel does not know either: the packet goes nowhere. The
    /// number is that of the action.
    Refuse(u8),
}

impl Default for RuleAction {
    fn default() -> Self {
        RuleAction::lookup(0)
    }
}

impl RuleAction {
    /// Looks up a table; all of it counts.
    pub const fn lookup(table: u32) -> Self {
        RuleAction::Lookup { table, suppress_prefixlen: None, suppress_ifgroup: None }
    }
}

/// How the kernel keeps the tables local and main (`fib_unmerge`, net/ipv4/fib_trie.c, 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalAndMain {
    /// In one trie: the longer prefix wins. So they are until a rule is added or deleted for the first time.
    Merged,
    /// Apart: a rule leads to each.
    Split,
}

/// A neighbour entry that is not a proxy entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourEntry {
    /// Its interface.
    pub ifindex: u32,
    /// Its address.
    pub addr: Ipv4Addr,
    /// NUD_* state, as bits.
    pub state: u16,
    /// Its link-layer address, if it has one of 6 bytes.
    pub lladdr: Option<[u8; 6]>,
}

/// The interfaces that something must be read, or computed, again of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IfSet {
    /// None.
    #[default]
    None,
    /// These, by index.
    These(BTreeSet<u32>),
    /// All there are.
    All,
}

impl IfSet {
    /// This one as well.
    pub fn add(&mut self, ifindex: u32) {
        match self {
            IfSet::None => *self = IfSet::These(BTreeSet::from([ifindex])),
            IfSet::These(these) => drop(these.insert(ifindex)),
            IfSet::All => {}
        }
    }
}
