//! Why a frame was passed. Each number is ABI (map values, counters, `--json`): never reused, never renumbered.

/// Why a frame was passed up to the kernel. A number, so that it crosses the kernel boundary as it is: the agent
/// writes it into an interface's entry, the program uses it as the index of a counter.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(u32);

/// How many counters an interface has: number 0 counts answers, the others passes by [`Reason`].
pub const COUNTERS: usize = 64;
/// The counter of the answers.
pub const ANSWERED: usize = 0;

macro_rules! reasons {
    ($($number:literal $constant:ident $name:literal $why:literal)*) => {
        impl Reason {
            $(#[doc = $why] pub const $constant: Reason = Reason($number);)*

            /// Every reason, by number.
            pub const ALL: &'static [Reason] = &[$(Reason::$constant),*];

            /// The name that counters and `--json` use.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($number => $name,)*
                    _ => "unknown_reason",
                }
            }

            /// The reason in a sentence, for people.
            pub fn why(self) -> &'static str {
                match self.0 {
                    $($number => $why,)*
                    _ => "a reason that this version does not know",
                }
            }
        }
    };
}

reasons! {
    1 TOO_SHORT "too_short" "the frame is shorter than 42 bytes"
    2 BAD_HEADER "bad_header" "htype, ptype, hlen or plen are not those of IPv4 over Ethernet"
    3 NOT_REQUEST "not_request" "oper is not 1 (request)"
    4 LEASE_EXPIRED "lease_expired" "the agent gave no heartbeat: it is gone, stalled or not in sync with the kernel"
    5 UPDATING "updating" "the agent was writing the tables at that moment"
    6 INTERFACE_UNKNOWN "interface_unknown" "the tables do not know the ingress interface"
    7 OTHER_DESTINATION "other_destination" "the Ethernet destination is neither the interface's address nor multicast"
    8 SPECIAL_TARGET "special_target" "tpa is 0.0.0.0, 255.255.255.255, loopback or multicast"
    9 SPECIAL_SENDER "special_sender" "spa is 255.255.255.255, loopback or multicast"
    10 ANNOUNCEMENT "announcement" "spa equals tpa: the kernel may learn from it"
    11 PROBE_NOT_LOCAL "probe_not_local" "spa is 0.0.0.0 (a probe) and tpa is not a local address"
    12 SENDER_ROUTE "sender_route" "source validation is not sure to accept spa: the way back to it is not known to leave by the ingress interface"
    13 NEIGHBOUR_UNKNOWN "neighbour_unknown" "the kernel has no valid neighbour entry for spa: it learns the sender from a request that it answers"
    14 NEIGHBOUR_DIFFERS "neighbour_differs" "the neighbour entry for spa holds another link-layer address than sha"
    15 NO_ROUTE "no_route" "there is no route to tpa"
    16 UNANSWERABLE_ROUTE "unanswerable_route" "the route to tpa is of a type that is never answered (broadcast, unreachable, blackhole, prohibit …)"
    17 OPAQUE_ROUTE "opaque_route" "the route to tpa (next hops that differ, shared nexthop objects, interfaces in change …) is one that the mirror does not follow"
    18 ARP_IGNORE "arp_ignore" "tpa is local, but arp_ignore forbids the answer, or may forbid it"
    19 FORWARDING_OFF "forwarding_off" "forwarding is off on the ingress interface"
    20 PROXY_ARP_OFF "proxy_arp_off" "the route to tpa leaves by another interface, and proxy_arp is off"
    21 PVLAN_OFF "pvlan_off" "the route to tpa leaves by the ingress interface, and proxy_arp_pvlan is off"
    22 MEDIUM_ID "medium_id" "the medium_id of the two interfaces forbids proxying"
    23 PROXY_DELAY "proxy_delay" "proxy_delay is not 0: the kernel delays its answer"
    24 TRIM_FAILED "trim_failed" "the kernel refused to trim the frame to 42 bytes"
    25 INTERFACE_DOWN "interface_down" "the interface is down"
    26 INTERFACE_NOARP "interface_noarp" "the interface does no ARP (NOARP)"
    27 INTERFACE_NOT_ETHERNET "interface_not_ethernet" "the interface is not an Ethernet device"
    28 INTERFACE_HAS_MASTER "interface_has_master" "the interface is a port of another device (bridge, bond, team, VRF, OVS …)"
    29 INTERFACE_HAS_UPPER "interface_has_upper" "another device (VLAN, macvlan, ipvlan …) is stacked on the interface"
    30 INTERFACE_TUNNEL "interface_tunnel" "the interface is a tunnel"
    31 OPAQUE_RULE "opaque_rule" "what a routing rule does here is not known, or the rules are too different for too many senders"
    32 ARP_NETFILTER "arp_netfilter" "an ARP rule of netfilter (nft, arptables) could drop or change the frame or the reply"
    33 INGRESS_HOOK "ingress_hook" "a program or chain of others (tc, tcx, netdev) comes after the fast path's own, or may"
    34 INTERFACE_UNREAD "interface_unread" "the kernel's settings of the interface have not been read yet"
    35 VLAN_TAG "vlan_tag" "the frame carries a VLAN tag (seen by tc only)"
    36 SELF_TEST_PENDING "self_test_pending" "the self-test has not shown yet that a reply by this hook arrives"
    37 PEER_DROPS_XDP "peer_drops_xdp" "XDP driver mode: the pod end has neither GRO nor an XDP program, so a reply would be lost"
    38 SETTING_WRITTEN "setting_written" "a sysctl was written, and the tables may not hold its new value yet"
    39 NEIGHBOUR_DOUBTED "neighbour_doubted" "a frame that passed a moment ago may have changed the neighbour entry for spa"
    40 INTERFACE_FLAPPING "interface_flapping" "the interface changes too often to be followed: its carrier, its pod end's features or its neighbours"
    41 ARP_LISTENER "arp_listener" "a socket for ARP is open on the node (an ARP daemon): it must see the frame"
    42 PROXY_UNCONFIRMED "proxy_unconfirmed" "only a static proxy entry allows the answer, and the agent has not read it again in this moment"
    43 FRAME_MARKED "frame_marked" "the frame carries a mark, and a routing rule asks for marks (seen by tc only)"
    44 ARP_FILTER "arp_filter" "tpa is local in another table than local, where arp_filter does not look"
    45 SHADOW "shadow" "the agent runs with shadow: it answers nothing, and compares what it would do with what the kernel does"
}

impl Reason {
    /// The reason that the number stands for, as read from a map.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Reason(raw)
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// The reason's number.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The counter that a pass for this reason adds to: always inside an interface's counters.
    #[inline(always)]
    pub const fn counter(self) -> usize {
        self.0 as usize & (COUNTERS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_fit_the_counters() {
        let numbers: HashSet<u32> = Reason::ALL.iter().map(|reason| reason.raw()).collect();
        let names: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(numbers.len(), Reason::ALL.len());
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(numbers.iter().all(|&number| number as usize != ANSWERED && (number as usize) < COUNTERS));
    }
}
