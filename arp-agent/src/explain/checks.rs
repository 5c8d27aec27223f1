//! What `decide` asks, one check after another, in words.

use arp_common::fib::{Entry, LeafKind};
use arp_common::maps::IfaceAddr;
use arp_common::tables::lookup;
use arp_common::{ArpFrame, Reason, Tables, Verdict};
use serde::{Deserialize, Serialize};

/// One check of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// What must be so, in words.
    pub check: String,
    /// The reason to pass if it is not.
    pub otherwise: String,
    /// Whether it is so.
    pub holds: bool,
}

type CheckedFor = (Reason, &'static str);

const FIRST: [CheckedFor; 6] = [
    (Reason::UPDATING, "the agent is not writing the tables"),
    (Reason::BAD_HEADER, "the header is that of IPv4 over Ethernet"),
    (Reason::NOT_REQUEST, "it is a request"),
    (Reason::LEASE_EXPIRED, "the agent's lease is valid"),
    (Reason::SETTING_WRITTEN, "every setting that was written has been read again"),
    (Reason::INTERFACE_UNKNOWN, "the tables know the interface"),
];
const DESTINATION: [CheckedFor; 2] = [
    (Reason::OTHER_DESTINATION, "it is sent to the interface's address or to a group"),
    (Reason::SPECIAL_TARGET, "the target is an ordinary address"),
];
const PROBE: [CheckedFor; 2] = [
    (Reason::PROBE_NOT_LOCAL, "the target of a probe is one of the node's own addresses"),
    (Reason::ARP_IGNORE, "arp_ignore lets the interface answer for it"),
];
const SENDER: [CheckedFor; 5] = [
    (Reason::SPECIAL_SENDER, "the sender is an ordinary address"),
    (Reason::ANNOUNCEMENT, "the sender does not ask for itself"),
    (Reason::NEIGHBOUR_UNKNOWN, "the kernel has a valid neighbour entry for the sender"),
    (Reason::NEIGHBOUR_DIFFERS, "that entry holds the sender's link-layer address, or never changes"),
    (Reason::SENDER_ROUTE, "source validation (rp_filter, arp_filter) is sure to accept the sender"),
];
const ROUTE: [CheckedFor; 4] = [
    (Reason::OPAQUE_RULE, "it is known what the routing rules do"),
    (Reason::NO_ROUTE, "there is a route to the target"),
    (Reason::UNANSWERABLE_ROUTE, "it is of a type that is answered"),
    (Reason::OPAQUE_ROUTE, "it is one that the mirror follows"),
];
const LOCAL: CheckedFor =
    (Reason::ARP_IGNORE, "the target is the node's own, and arp_ignore lets the interface answer for it");
const TABLE: CheckedFor = (Reason::ARP_FILTER, "the target is in table local, or arp_filter is off");
const FORWARDING: CheckedFor = (Reason::FORWARDING_OFF, "the interface forwards");
const BACK: CheckedFor = (Reason::PVLAN_OFF, "the route leads back to the interface, and proxy_arp_pvlan is on");
const ELSEWHERE: [CheckedFor; 2] = [
    (Reason::PROXY_ARP_OFF, "the route leads elsewhere, and proxy_arp is on or a static proxy entry is there"),
    (Reason::MEDIUM_ID, "the medium ids of the two interfaces allow it, or a static proxy entry is there"),
];
const CONFIRMED: CheckedFor =
    (Reason::PROXY_UNCONFIRMED, "no static proxy entry decides, or the agent has read it again a moment ago");
const DELAY: CheckedFor = (Reason::PROXY_DELAY, "it is sent to the interface's own address, or proxy_delay is 0");

/// The checks up to the one that decided, in the order of `decide`.
pub(crate) fn checks(frame: &ArpFrame, ingress: u32, tables: &impl Tables, verdict: Verdict) -> Vec<Check> {
    let mut asked = FIRST.to_vec();
    let failed = match verdict {
        Verdict::Reply(_) => None,
        Verdict::Pass(reason) => Some(reason),
    };
    let blocked = tables.iface(ingress).map_or(0, |iface| iface.blocked);
    let in_the_way = if blocked == 0 { Reason::INTERFACE_UNREAD } else { Reason::from_raw(blocked.into()) };
    asked.push((in_the_way, "nothing about the interface or the node prevents an answer"));
    asked.extend(DESTINATION);
    let sender = tables.neighbour(IfaceAddr { ifindex: ingress, addr: frame.arp.spa });
    let route = sender.map_or(Entry::NONE, |sender| lookup(tables, sender.view(), frame.arp.tpa));
    if frame.arp.spa == [0; 4] {
        asked.extend(PROBE);
    } else {
        asked.extend(SENDER);
        asked.extend(ROUTE);
        match route.kind() {
            LeafKind::Local => asked.extend([TABLE, LOCAL]),
            _ if tables.oif(route.slot()).is_some_and(|oif| oif.ifindex == ingress) => {
                asked.extend([FORWARDING, BACK, DELAY])
            }
            _ => asked.extend([FORWARDING, ELSEWHERE[0], ELSEWHERE[1], DELAY]),
        }
    }
    if failed == Some(Reason::PROXY_UNCONFIRMED) {
        asked.push(CONFIRMED);
    }
    if let Some(reason) = failed {
        match asked.iter().position(|&(otherwise, _)| otherwise == reason) {
            Some(at) => asked.truncate(at + 1),
            // A reason from outside of the decision: it stands for itself.
            None => asked = vec![(reason, "the program may look at the frame at all")],
        }
    }
    asked
        .into_iter()
        .map(|(reason, check)| Check {
            check: check.to_owned(),
            otherwise: reason.name().to_owned(),
            holds: failed != Some(reason),
        })
        .collect()
}
