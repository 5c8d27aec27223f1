//! Kinds of configurations that people have asked about in public: what `explain` says of the request of a sender that the
//! kernel has not learnt, what the kernel does, and whether the change that `explain` names does what it says.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use aya::programs::tc::TcAttachType;
use lab::{Host, Lab, Namespace, Wire, agent_binary, needs_root, stretched, topology};
use serde_json::Value;

use crate::explained::{explain, explained};
use crate::foreign::{Does, TcProgram, does};
use crate::matrix::{L, U, X, Y, Z, run_all};

/// A configuration, and a question about it.
struct Case {
    /// What it is.
    name: &'static str,
    /// What makes it of the matrix's base with uplinks (steps as of the matrix).
    make: &'static [&'static str],
    /// The pod that asks.
    pod: &'static str,
    sender: Option<[u8; 4]>,
    target: [u8; 4],
    /// What the kernel does, as of the specification.
    answer: &'static str,
    /// What it does where `explain` leaves that open.
    does: &'static str,
    /// What decided: its kind, and words of it.
    decided: (&'static str, &'static [&'static str]),
    /// The beginning of a change that must be among those named.
    remedy: &'static str,
}

const fn case(name: &'static str, make: &'static [&'static str], target: [u8; 4]) -> Case {
    Case { name, make, pod: "p0", sender: None, target, answer: "silent", does: "", decided: ("", &[]), remedy: "" }
}

impl Case {
    const fn on_w0(self) -> Self {
        Case { pod: "p1", ..self }
    }

    const fn from(self, sender: [u8; 4]) -> Self {
        Case { sender: Some(sender), ..self }
    }

    const fn gets(self, answer: &'static str, kind: &'static str, words: &'static [&'static str]) -> Self {
        Case { answer, decided: (kind, words), ..self }
    }

    /// Nobody can say from the node's routes and settings what the kernel does: that must be said. It does this, or `any`
    /// thing.
    const fn unknown(self, does: &'static str, kind: &'static str, words: &'static [&'static str]) -> Self {
        Case { answer: "undecided", does, decided: (kind, words), ..self }
    }

    const fn changed_by(self, remedy: &'static str) -> Self {
        Case { remedy, ..self }
    }
}

const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const STRANGER: [u8; 4] = [10, 66, 0, 6];
/// Local after rules that come first, as cloud networks have it.
const LOCAL_LATER: [&str; 2] = ["rule add pref 200 lookup local", "rule del pref 0"];

const PORT: &str = "link set v0 master br0";
/// A bridge that answers for its port.
const BRIDGE: [&str; 6] = [
    "link add br0 type bridge",
    "link set br0 up",
    "br0.proxy_arp=1",
    "/net/ipv4/neigh/br0/proxy_delay=0",
    PORT,
    "route replace 10.5.0.5/32 dev br0",
];

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        // Why does nobody answer?
        case("a pod of Calico on a node without a default route", &["route del default"], GATEWAY)
            .gets("silent", "route", &["no routing rule leads to a route to 169.254.1.1"]).changed_by("ip route add 169.254.1.1/32 dev u"),
        case("a route for 0.0.0.0/32 in place of the default route", &["route del default", "route add 0.0.0.0/32 via 10.9.0.254 dev u0"], GATEWAY)
            .gets("silent", "route", &["no routing rule"]).changed_by("ip route add 169.254.1.1/32"),
        case("static proxy entries that were lost", &["v0.proxy_arp=0"], Z)
            .gets("silent", "sysctl", &["proxy_arp is 0 on v0 and in `all`", "no static proxy entry"]).changed_by("ip neigh add proxy 10.20.0.1 dev v0"),
        case("forwarding is off on the interface alone", &["v0.forwarding=0"], Z)
            .gets("silent", "sysctl", &["forwarding is 0 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.forwarding=1"),
        case("strict ARP and an address of another interface", &["all.arp_ignore=1"], U)
            .gets("silent", "sysctl", &["arp_ignore is 1 in `all` (v0 has 0)", "it is on u0"]).changed_by("sysctl -w net.ipv4.conf.all.arp_ignore=0"),
        case("strict ARP and an address with a peer", &["all.arp_ignore=1", "addr add 10.55.0.1 peer 10.55.0.2 dev v0", "route replace 10.5.0.5/32 dev v0 scope link"], [10, 55, 0, 1])
            .gets("silent", "sysctl", &["arp_ignore is 1 in `all`", "lies in no subnet of v0"]).changed_by("sysctl -w net.ipv4.conf.all.arp_ignore=0"),
        case("arp_ignore 8", &["v0.arp_ignore=8"], L)
            .gets("silent", "sysctl", &["arp_ignore is 8 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.arp_ignore=0"),
        case("arp_ignore 2 and a sender of another subnet", &["v0.arp_ignore=2", "addr add 10.55.0.1/24 dev v0", "route replace 10.5.0.5/32 dev v0 scope link"], [10, 55, 0, 1])
            .gets("silent", "sysctl", &["arp_ignore is 2 on v0", "10.5.0.5 is in no subnet of v0"]).changed_by("sysctl -w net.ipv4.conf.v0.arp_ignore=0"),
        case("arp_ignore 3 and an address of scope host", &["v0.arp_ignore=3", "addr add 10.56.0.1/24 dev lo scope host"], [10, 56, 0, 1])
            .gets("silent", "sysctl", &["arp_ignore is 3"]).changed_by("sysctl -w net.ipv4.conf.v0.arp_ignore=0"),
        case("a blackhole route", &["route add blackhole 10.20.0.0/16"], Z)
            .gets("silent", "route", &["`blackhole 10.20.0.0/16`", "table main"]).changed_by("ip route del blackhole 10.20.0.0/16"),
        case("a target that is routed back", &[], Y)
            .gets("silent", "sysctl", &["proxy_arp_pvlan is 0 on v0 and in `all`", "leads back out of v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp_pvlan=1"),
        case("the broadcast address of a subnet", &[], [10, 9, 0, 255])
            .gets("silent", "route", &["`broadcast 10.9.0.255"]),
        case("a sender whose entry has failed", &["route del default", "neigh replace 10.5.0.5 dev v0 nud failed"], Z)
            .gets("silent", "route", &["no routing rule"]).changed_by("ip route add 10.20.0.1/32"),
        case("a sender with another address than its entry", &["route del default", "neigh replace 10.5.0.5 lladdr 02:00:00:00:00:07 dev v0 nud stale"], Z)
            .gets("silent", "route", &["no routing rule"]).changed_by("ip route add 10.20.0.1/32"),
        case("neither forwarding nor proxy_arp", &["v0.forwarding=0", "v0.proxy_arp=0"], Z)
            .gets("silent", "sysctl", &["forwarding is 0 on v0"]).changed_by("ip neigh add proxy 10.20.0.1 dev v0 && sysctl -w net.ipv4.conf.v0.forwarding=1"),
        case("medium ids", &["v0.medium_id=5", "u0.medium_id=5"], Z)
            .gets("silent", "sysctl", &["medium_id is 5 on v0", "that of u0 is 5"]).changed_by("sysctl -w net.ipv4.conf.v0.medium_id=0"),
        case("the interface does no ARP", &["link set v0 arp off"], Z)
            .gets("silent", "link", &["NOARP"]).changed_by("ip link set v0 arp on"),
        case("loopback addresses", &[], [127, 0, 0, 1])
            .gets("silent", "sysctl", &["route_localnet is 0"]).changed_by("sysctl -w net.ipv4.conf.v0.route_localnet=1"),
        // Rules and reverse path.
        case("a strict network of a cloud", &[LOCAL_LATER[0], LOCAL_LATER[1], "rule add pref 99 iif v0 lookup 101", "route add unreachable default table 101", "v0.proxy_arp=0"], L)
            .gets("silent", "route", &["`unreachable default table 101`", "99: from all iif v0 lookup 101"]).changed_by("ip rule del pref 99 from all iif v0 lookup 101"),
        case("the same with a route, and no proxy_arp", &[LOCAL_LATER[0], LOCAL_LATER[1], "rule add pref 99 iif v0 lookup 101", "route add default via 10.9.0.254 dev u0 table 101", "v0.proxy_arp=0"], L)
            .gets("silent", "sysctl", &["proxy_arp is 0", "table 101"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=1"),
        case("WireGuard's rules", &["rule add pref 99 not fwmark 0xca6c lookup 51820", "rule add pref 98 lookup main suppress_prefixlength 0", "route add default via 10.8.0.254 dev u1 table 51820"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0", "table 51820", "leaves by another interface, u1"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
        case("a table that was emptied", &["rule add pref 100 iif v0 lookup 100", "rule add pref 101 iif v0 unreachable"], Z)
            .gets("silent", "rule", &["101: from all iif v0 unreachable", "refuses 10.20.0.1"]).changed_by("ip rule del pref 101 from all iif v0 unreachable"),
        case("a gateway on the link that only the default route covers", &["route add 198.51.100.7 dev v0"], [198, 51, 100, 1])
            .from([198, 51, 100, 7]).gets("answers", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
        case("a stranger and rp_filter 0", &[], Z)
            .from(STRANGER).gets("answers", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.rp_filter=1"),
        case("a stranger and rp_filter 2 without an address", &["v0.rp_filter=2"], Z)
            .from(STRANGER).gets("silent", "sysctl", &["rp_filter is 2 on v0", "as strict as 1 because v0 has no address", "`default via 10.9.0.254 dev u0`"]).changed_by("ip route add 10.66.0.6/32 dev v0"),
        case("a stranger and rp_filter 1 of all", &["all.rp_filter=1"], Z)
            .from(STRANGER).gets("silent", "sysctl", &["rp_filter is 1 in `all` (v0 has 0)"]).changed_by("sysctl -w net.ipv4.conf.all.rp_filter=0"),
        case("an own address as the sender", &[], Z)
            .from(U).gets("silent", "sysctl", &["accept_local is 0", "an address of this node itself (on u0)"]).changed_by("sysctl -w net.ipv4.conf.v0.accept_local=1"),
        case("two interfaces in one segment and arp_filter", &["w0.arp_filter=1", "addr add 10.5.1.1/24 dev v0", "addr add 10.5.1.2/24 dev w0", "route replace 10.5.0.7/32 dev v0 scope link"], [10, 5, 1, 1])
            .on_w0().gets("silent", "sysctl", &["arp_filter is 1 on w0", "leaves by v0"]).changed_by("sysctl -w net.ipv4.conf.w0.arp_filter=0"),
        case("two interfaces in one segment and rp_filter", &["w0.rp_filter=1", "route replace 10.5.0.7/32 dev v0 scope link"], L)
            .on_w0().gets("silent", "sysctl", &["rp_filter is 1 on w0", "not by w0"]).changed_by("sysctl -w net.ipv4.conf.w0.rp_filter=0"),
        case("two interfaces in one segment and neither", &["addr add 10.5.1.1/24 dev v0", "addr add 10.5.1.2/24 dev w0", "route replace 10.5.0.7/32 dev w0 scope link"], [10, 5, 1, 1])
            .on_w0().gets("answers", "address", &["an address of this node, on v0"]).changed_by("sysctl -w net.ipv4.conf.w0.arp_ignore=1"),
        case("a rule for an own address silences a sender", &["v0.rp_filter=1", "rule add from 10.20.0.1 lookup 100", "route add default via 10.8.0.254 dev u1 table 100"], Z)
            .gets("silent", "sysctl", &["rp_filter is 1 on v0", "table 100"]).changed_by("ip rule del pref 32765 from 10.20.0.1 lookup 100"),
        case("a rule for another name of the interface", &["link property add dev v0 altname other0", "rule add pref 50 iif other0 lookup 100", "route add unreachable default table 100"], Z)
            .gets("silent", "route", &["the kernel's own lookup"]),
        // Several next hops, obstacles, delays.
        case("two uplinks", &["route replace default nexthop via 10.9.0.254 dev u0 nexthop via 10.8.0.254 dev u1"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
        case("a group of nexthop objects", &["nexthop add id 1 via 10.9.0.254 dev u0", "nexthop add id 2 via 10.8.0.254 dev u1", "nexthop add id 3 group 1/2", "route replace default nhid 3"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
        case("a group of nexthop objects that routes do not tell of", &["/net/ipv4/nexthop_compat_mode=0", "nexthop add id 1 via 10.9.0.254 dev u0", "nexthop add id 2 via 10.8.0.254 dev u1", "nexthop add id 3 group 1/2", "route replace default nhid 3"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
        case("such a group, one of which leads back", &["/net/ipv4/nexthop_compat_mode=0", "nexthop add id 1 via 10.9.0.254 dev u0", "nexthop add id 2 dev v0", "nexthop add id 3 group 1/2", "route replace 10.20.0.0/16 nhid 3"], Z)
            .gets("sometimes", "route", &["answered by u0, silent by v0"]),
        case("such a group that leads back to the sender", &["/net/ipv4/nexthop_compat_mode=0", "v0.rp_filter=1", "nexthop add id 1 via 10.9.0.254 dev u0", "nexthop add id 2 dev v0", "nexthop add id 3 group 1/2", "route replace 10.5.0.0/25 nhid 3", "route del 10.5.0.5/32"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0"]),
        case("such an object that leads nowhere", &["/net/ipv4/nexthop_compat_mode=0", "nexthop add id 1 blackhole", "route replace 10.20.0.0/16 nhid 1"], Z)
            .gets("silent", "route", &["`blackhole 10.20.0.0/16 nhid 1 (a nexthop object)`"]),
        case("a next hop that leads back", &["route replace 10.20.0.0/16 nexthop via 10.9.0.254 dev u0 nexthop dev v0"], Z)
            .gets("sometimes", "route", &["answered by u0, silent by v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp_pvlan=1"),
        case("a chain that drops requests on the interface", &["nft add table arp t", "nft add chain arp t c { type filter hook input priority 0 ; }", "nft add rule arp t c iifname v0 drop"], Z)
            .gets("silent", "chain", &["nft rule arp t c", "drops the request"]).changed_by("nft delete rule arp t c handle"),
        case("a chain that drops requests on another interface", &["nft add table arp t", "nft add chain arp t c { type filter hook input priority 0 ; }", "nft add rule arp t c iifname w0 drop"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
        case("a chain that hides an address", &["nft add table arp t", "nft add chain arp t o { type filter hook output priority 0 ; }", "nft add rule arp t o arp saddr ip 10.77.0.1 drop"], L)
            .gets("silent", "chain", &["nft rule arp t o", "drops the reply"]).changed_by("nft delete rule arp t o handle"),
        case("a chain that hides another address", &["nft add table arp t", "nft add chain arp t o { type filter hook output priority 0 ; }", "nft add rule arp t o arp saddr ip 10.77.0.2 drop"], L)
            .gets("answers", "address", &["10.77.0.1 is an address of this node, on lo"]).changed_by("sysctl -w net.ipv4.conf.v0.arp_ignore=1"),
        case("a chain whose policy is to drop", &["nft add table arp t", "nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }"], Z)
            .gets("silent", "chain", &["the policy of nft chain arp t c"]),
        case("the default proxy_delay", &["/net/ipv4/neigh/v0/proxy_delay=20"], Z)
            .gets("answers_after_delay", "sysctl", &["proxy_arp is 1 on v0"]).changed_by("sysctl -w net.ipv4.neigh.v0.proxy_delay=0"),
        case("a port of a bridge that answers", &BRIDGE, Z)
            .gets("answers", "sysctl", &["v0 is a port of br0", "proxy_arp is 1 on br0"]).changed_by("sysctl -w net.ipv4.conf.br0.proxy_arp=0"),
        case("a port of a bridge that does not", &[BRIDGE[0], BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5], "br0.proxy_arp=0"], Z)
            .gets("silent", "sysctl", &["v0 is a port of br0", "proxy_arp is 0 on br0"]).changed_by("sysctl -w net.ipv4.conf.br0.proxy_arp=1"),
        case("a port of a bridge that blocks", &[BRIDGE[0], "link set br0 type bridge stp_state 1 forward_delay 3000", BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5]], Z)
            .gets("silent", "link", &["v0 is a port of br0", "it does not"]),
        case("an uplink without carrier whose routes do not count", &["u0.ignore_routes_with_linkdown=1", "unplug external", "pause 300"], Z)
            .gets("silent", "sysctl", &["ignore_routes_with_linkdown is 1 on u0", "u0 has no carrier", "`default via 10.9.0.254 dev u0`"]).changed_by("sysctl -w net.ipv4.conf.u0.ignore_routes_with_linkdown=0"),
        case("a rule refuses the way back", &["v0.rp_filter=1", "rule add pref 50 not iif v0 unreachable"], Z)
            .gets("silent", "sysctl", &["rp_filter is 1 on v0", "the routing rule `50: not from all iif v0 unreachable` refuses 10.5.0.5"]).changed_by("ip rule del pref 50"),
        case("an own address as the sender, and accept_local", &["v0.accept_local=1"], Z)
            .from(U).gets("answers", "sysctl", &["proxy_arp is 1 on v0"]),
        case("a bridge that answers for no own address", &[BRIDGE[0], BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5], "br0.arp_ignore=8"], L)
            .gets("silent", "sysctl", &["arp_ignore is 8 on br0"]).changed_by("sysctl -w net.ipv4.conf.br0.arp_ignore=0"),
        case("a target behind the bridge itself", &[BRIDGE[0], BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5], "route replace 10.5.0.6/32 dev br0"], Y)
            .gets("silent", "sysctl", &["proxy_arp_pvlan is 0 on br0"]).changed_by("sysctl -w net.ipv4.conf.br0.proxy_arp_pvlan=1"),
        case("an unreachable route", &["route add unreachable 10.20.0.0/16"], Z)
            .gets("silent", "route", &["`unreachable 10.20.0.0/16`"]).changed_by("ip route del unreachable 10.20.0.0/16"),
        case("a prohibiting route", &["route add prohibit 10.20.0.0/16"], Z)
            .gets("silent", "route", &["`prohibit 10.20.0.0/16`"]).changed_by("ip route del prohibit 10.20.0.0/16"),
        case("a stranger and rp_filter 2 with an address", &["v0.rp_filter=2", "addr add 10.55.0.1/32 dev v0"], Z)
            .from(STRANGER).gets("answers", "sysctl", &["proxy_arp is 1 on v0"]),
        case("a bridge that passes the frames of its port, and a chain that drops them", &[BRIDGE[0], BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5], "nft add table bridge t", "nft add chain bridge t c { type filter hook input priority 0 ; }", "nft add rule bridge t c ether type arp drop"], Z)
            .unknown("silent", "chain", &["nft chain bridge t c", "else it answers"]),
        case("a port of a bridge that is locked", &[BRIDGE[0], BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5], "link set v0 type bridge_slave locked on"], Z)
            .unknown("silent", "link", &["v0 is a port of br0", "locked"]),
        case("a bridge that answers by its own neighbours", &[BRIDGE[0], BRIDGE[1], BRIDGE[2], BRIDGE[3], BRIDGE[4], BRIDGE[5], "link set w0 master br0", "link set w0 type bridge_slave neigh_suppress on", "route replace 10.5.0.7/32 dev br0", "neigh replace 10.5.0.7 lladdr 02:00:00:00:00:07 dev br0 nud permanent"], [10, 5, 0, 7])
            .unknown("any", "link", &["w0 is a port of br0 with neigh_suppress"]),
        // Why does it answer?
        case("a private VLAN's router answers for its backup's address", &["v0.proxy_arp_pvlan=1"], Y)
            .gets("answers", "sysctl", &["proxy_arp_pvlan is 1 on v0", "leads back out of v0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp_pvlan=0"),
        case("proxy_arp of all", &["v0.proxy_arp=0", "all.proxy_arp=1"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 in `all` (v0 has 0)"]).changed_by("sysctl -w net.ipv4.conf.all.proxy_arp=0"),
        case("proxy_arp of both", &["all.proxy_arp=1"], Z)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0 and in `all`"]).changed_by("ip route add blackhole 10.20.0.1/32"),
        case("a static proxy entry", &["v0.proxy_arp=0", "neigh add proxy 10.20.0.1 dev v0"], Z)
            .gets("answers", "static_proxy", &["a static proxy entry for 10.20.0.1 on v0"]).changed_by("ip neigh del proxy 10.20.0.1 dev v0"),
        case("an address that is parked on another interface", &[], U)
            .gets("answers", "address", &["10.9.0.1 is an address of this node, on u0"]).changed_by("sysctl -w net.ipv4.conf.v0.arp_ignore=1"),
        case("a gateway that answers for everything", &[], X)
            .gets("answers", "sysctl", &["proxy_arp is 1 on v0", "`10.9.0.0/24 dev u0"]).changed_by("sysctl -w net.ipv4.conf.v0.proxy_arp=0"),
    ]
}

fn lab_of(case: &Case) -> Result<Lab> {
    let lab = topology::matrix_with_uplinks()?;
    // The kernel has learnt nobody.
    lab.node().ip("neigh flush dev v0 nud all")?;
    lab.node().ip("neigh flush dev w0 nud all")?;
    lab.node().sysctl("net.ipv4.conf.w0.proxy_arp", 1)?;
    run_all(&lab, case.make)?;
    Ok(lab)
}

/// What the live kernel does with the case's request, as `explain` would call it.
fn live(case: &Case, pod: &Host) -> Result<&'static str> {
    const ADDRESSES: u8 = 20;
    let frame = |mac: Lladdr| ArpFrame::request(mac.bytes(), case.sender.unwrap_or(pod.ip()), case.target).to_bytes();
    let addresses = if case.answer == "sometimes" { ADDRESSES } else { 1 };
    let mut answered = 0;
    for number in 0..addresses {
        let mac = Lladdr::new([2, 0, 9, 9, number.wrapping_mul(91), number.wrapping_mul(37)]);
        let mac = if number == 0 { pod.mac() } else { mac };
        let wait = stretched(Duration::from_millis(300));
        // A bridge takes its port's markers.
        let is_port = case.make.contains(&PORT);
        let replies = if is_port { pod.ask_within(&frame(mac), wait)? } else { pod.ask(&frame(mac))? };
        answered += u8::from(!replies.is_empty());
    }
    if answered > 0 {
        return Ok(if answered == addresses { "answers" } else { "sometimes" });
    }
    let late = pod.collect(stretched(Duration::from_millis(300)))?;
    Ok(if late.is_empty() { "silent" } else { "answers_after_delay" })
}

fn ask(case: &Case, node: &Namespace, pod: &Host) -> Result<Value> {
    let target = Ipv4Addr::from(case.target).to_string();
    let sender = Ipv4Addr::from(case.sender.unwrap_or(pod.ip())).to_string();
    let mac = pod.mac().to_string();
    explained(node, &[pod.node_end(), &target, "--sender", &sender, "--sender-mac", &mac])
}

/// Types what `explain` says.
fn apply(node: &Namespace, command: &str) -> Result<()> {
    command.split(" && ").try_for_each(|command| node.exec(command).map(drop))
}

fn check(case: &Case) -> Result<()> {
    let lab = lab_of(case)?;
    let (node, pod) = (lab.node(), lab.host(case.pod));
    let explanation = ask(case, node, pod)?;
    let kernel = &explanation["kernel"];
    ensure!(kernel["answer"] == case.answer, "explain says {kernel}");
    let (kind, words) = case.decided;
    let decided = &kernel["decided_by"];
    ensure!(decided["kind"] == kind, "it is said to be decided by {decided}");
    for word in words {
        ensure!(decided["what"].as_str().is_some_and(|what| what.contains(word)), "no `{word}` in {decided}");
    }
    let before = live(case, pod)?;
    // With a random delay of 0, too.
    let is_late = case.answer == "answers_after_delay" && before == "answers";
    ensure!(
        before == case.answer || is_late || case.answer == "undecided" && ["any", before].contains(&case.does),
        "explain says {kernel}, the kernel {before}"
    );

    let remedies = explanation["remedies"].as_array().into_iter().flatten();
    let command = |remedy: &Value| remedy["command"].as_str().unwrap_or_default().to_owned();
    let named: Vec<String> = remedies.clone().map(command).collect();
    ensure!(
        case.remedy.is_empty() || named.iter().any(|command| command.starts_with(case.remedy)),
        "no `{}` among {named:#?}",
        case.remedy
    );
    // Each is tried on a lab of its own: what it says of the kernel is what the kernel does then.
    for remedy in remedies.take(MOST_TRIED) {
        let lab = lab_of(case)?;
        let (node, pod) = (lab.node(), lab.host(case.pod));
        let command = command(remedy);
        apply(node, &command).with_context(|| format!("what explain says: {command}"))?;
        let (then, after) = (remedy["then"].as_str().unwrap_or_default(), live(case, pod)?);
        let is_late = then == "answers_after_delay" && after == "answers";
        ensure!(then == after || is_late, "after `{command}` explain says {then}, the kernel {after}");
    }
    Ok(())
}

/// Of each case's changes.
const MOST_TRIED: usize = 6;

#[test]
fn explain_knows_what_people_ask_about() -> Result<()> {
    needs_root!();
    let mut failed = Vec::new();
    let cases = cases();
    for case in &cases {
        if let Err(error) = check(case) {
            failed.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(failed.is_empty(), "{} of {} cases\n{}", failed.len(), cases.len(), failed.join("\n"));
    let open = cases.iter().filter(|case| case.answer == "undecided").count();
    ensure!(open * 20 <= cases.len(), "{open} of {} cases are left open, more than one in twenty", cases.len());
    Ok(())
}

#[test]
fn a_program_of_others_is_named_and_leaves_an_answer_open() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let node = lab.node();
    let _program = TcProgram::attach(node, "v0", TcAttachType::Ingress, Does::Return(does::OK))?;
    let open = explained(node, &["v0", "10.20.0.1"])?["kernel"].clone();
    ensure!(open["answer"] == "undecided" && open["decided_by"]["kind"] == "program", "{open}");
    let what = open["decided_by"]["what"].as_str().unwrap_or_default();
    ensure!(what.contains("foreign") && what.contains("without that it would answer"), "{what}");
    node.sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    let silent = explained(node, &["v0", "10.20.0.1"])?["kernel"].clone();
    ensure!(silent["answer"] == "silent" && silent["reason"] == "proxy_arp_off", "{silent}");
    let pod = lab.host("p0");
    ensure!(pod.ask(&pod.who_has(Z))?.is_empty(), "the kernel answers");
    Ok(())
}

#[test]
fn ten_lines_begin_with_the_verdict() -> Result<()> {
    needs_root!();
    let lab = topology::matrix_with_uplinks()?;
    let node = lab.node();
    let silent = explain(node, &["v0", "10.5.0.6"])?;
    let text = String::from_utf8(silent.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() <= 10, "{} lines:\n{text}", lines.len());
    ensure!(lines[0].ends_with("the kernel stays silent"), "{text}");
    ensure!(lines[1].starts_with("because    proxy_arp_pvlan is 0"), "{text}");
    ensure!(text.contains("sysctl -w net.ipv4.conf.v0.proxy_arp_pvlan=1"), "{text}");
    ensure!(text.contains("answers for everything that is routed back to it"), "what it opens: {text}");
    ensure!(!text.contains('\u{1b}'), "no colours into a pipe: {text:?}");
    let verbose = String::from_utf8(explain(node, &["-v", "v0", "10.5.0.6"])?.stdout)?;
    ensure!(verbose.lines().count() > 30 && verbose.lines().next() == text.lines().next(), "{verbose}");
    Ok(())
}

#[test]
fn bad_input_gets_one_line() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    for (arguments, words) in [
        (&["nonesuch", "10.0.0.1"][..], "nonesuch: no such interface"),
        (&["v0", "10.0.0"], "10.0.0: is no IPv4 address"),
        (&["v0", "fe80::1"], "IPv6 has no ARP"),
        (&["v0", "10.0.0.1", "--netns", "nonesuch"], "nonesuch: no such network namespace"),
        (&["v0", "10.0.0.1", "--sender", "fe80::1"], "'fe80::1' for '--sender <IP>'"),
        (&["v0", "10.0.0.1", "--sender-mac", "zz"], "six bytes such as"),
        (&["v0", "10.0.0.1", "--for", "3"], "there is no --listen IF"),
        (&["v0", "--dot"], "name a TARGET behind v0"),
    ] {
        let output = explain(lab.node(), arguments)?;
        let stderr = String::from_utf8(output.stderr)?;
        ensure!(
            [Some(1), Some(2)].contains(&output.status.code()),
            "{arguments:?}: {output:?}",
            output = output.status
        );
        ensure!(stderr.lines().count() == 1, "{arguments:?}: {stderr}");
        ensure!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    Ok(())
}

#[test]
fn another_namespace_is_asked_by_its_name() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let elsewhere = lab.host("external").namespace();
    let there = explained(elsewhere, &["v0", "10.20.0.1", "--netns", lab.node().name()])?;
    ensure!(there["kernel"]["answer"] == "answers", "{there}");
    Ok(())
}

#[test]
fn listeners_are_named_with_their_process() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let _listener = Wire::open_for_arp(lab.node(), "v0")?;
    let listeners = explained(lab.node(), &["v0", "10.20.0.1"])?["listeners"].clone();
    let own = format!("(pid {})", std::process::id());
    ensure!(listeners[0].as_str().is_some_and(|text| text.contains(&own) && text.contains("on v0")), "{listeners}");
    Ok(())
}

#[test]
fn other_users_are_told_what_only_root_sees() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    // Where every user may run it.
    let directory = tempfile::Builder::new().prefix("arp-explain").tempdir_in("/tmp")?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let copy = directory.path().join("arp-agent");
    std::fs::copy(agent_binary()?, &copy)?;
    let command = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {} explain v0 10.5.0.6", copy.display());
    let output = lab.node().output(&command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.lines().next().is_some_and(|line| line.ends_with("the kernel stays silent")), "{text} {output:?}");
    ensure!(text.contains("(needs root)"), "{text}");
    Ok(())
}

/// What `snapshot` prints, and what it says beside.
fn snapshot(node: &Namespace, arguments: &[&str]) -> Result<(String, String)> {
    let command = format!("{} snapshot {}", agent_binary()?.display(), arguments.join(" "));
    let output = node.output(&command)?;
    ensure!(output.status.success(), "{output:?}");
    Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

#[test]
fn a_state_from_a_file_says_the_same() -> Result<()> {
    needs_root!();
    let lab = topology::matrix_with_uplinks()?;
    let node = lab.node();
    let make = [
        "nft add table arp t",
        "nft add chain arp t o { type filter hook output priority 0 ; }",
        "nft add rule arp t o arp saddr ip 10.9.0.1 drop",
        "rule add to 10.21.0.0/16 unreachable",
    ];
    run_all(&lab, &make)?;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    std::fs::write(file.path(), snapshot(node, &[])?.0)?;
    let elsewhere = lab.host("external").namespace();
    let targets = ["10.20.0.1", "10.77.0.1", "10.5.0.6", "10.9.0.1", "10.21.0.1", "10.9.0.255"];
    let asked = |at: &Namespace, target: &str, sender: &str, more: &[&str]| -> Result<Value> {
        let explanation = explained(at, &[&["v0", target, "--sender", sender], more].concat())?;
        Ok(explanation["kernel"]["answer"].clone())
    };
    for target in targets {
        let (here, there) =
            (asked(node, target, "10.5.0.5", &[])?, asked(elsewhere, target, "10.5.0.5", &["--state", &path])?);
        ensure!(here == there, "{target}: here {here}, from the file {there}");
    }

    let (text, names) = snapshot(node, &["--anonymise"])?;
    ensure!(!text.contains("10.9.0.1\"") && !text.contains("10.9.0.254"), "an address is left");
    std::fs::write(file.path(), text)?;
    let other = |addr: &str| -> Result<String> {
        let line = names.lines().find_map(|line| line.strip_prefix(&format!("{addr} is ")));
        line.map(str::to_owned).with_context(|| format!("no {addr} in {names}"))
    };
    for target in ["10.77.0.1", "10.9.0.1"] {
        let here = asked(node, target, "10.5.0.5", &[])?;
        let there = asked(elsewhere, &other(target)?, &other("10.5.0.5")?, &["--state", &path])?;
        ensure!(here == there, "{target}: here {here}, from the anonymised file {there}");
    }
    Ok(())
}

#[test]
fn files_that_are_broken_get_one_line() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let node = lab.node();
    let (text, _) = snapshot(node, &[])?;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    let other_format = text.replacen("\"arp_agent_snapshot\":1", "\"arp_agent_snapshot\":99", 1);
    for (content, option, words) in [
        (&text[..text.len() / 2], "--state", "is no snapshot, or is cut off"),
        (&other_format, "--state", "is a snapshot of format 99"),
        ("{}", "--state", "is no snapshot"),
        ("no capture", "--pcap", "neither pcap nor pcapng"),
    ] {
        std::fs::write(file.path(), content)?;
        let arguments =
            if option == "--pcap" { vec!["v0", option, &path] } else { vec!["v0", "10.20.0.1", option, &path] };
        let output = explain(node, &arguments)?;
        let stderr = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && stderr.lines().count() == 1, "{words}: {stderr}");
        ensure!(stderr.contains(words), "{words}: {stderr}");
    }
    Ok(())
}

/// A capture in the format of pcap (microseconds, Ethernet): frames, each with its time in milliseconds.
fn pcap(frames: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut file: Vec<u8> =
        [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].into_iter().flat_map(u32::to_le_bytes).collect();
    for (ms, frame) in frames {
        let header = [ms / 1000, ms % 1000 * 1000, frame.len() as u32, frame.len() as u32];
        file.extend(header.into_iter().flat_map(u32::to_le_bytes));
        file.extend(frame);
    }
    file
}

#[test]
fn requests_of_a_capture_get_a_line_each() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let (node, pod) = (lab.node(), lab.host("p0"));
    let asked = pod.who_has(Z).to_vec();
    let [reply] = pod.ask(&asked)?.try_into().map_err(|replies| anyhow::anyhow!("{replies:?}"))?;
    let frames = [(5, asked), (6, reply), (7, pod.who_has(Y).to_vec())];
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    let bytes = pcap(&frames);
    std::fs::write(file.path(), &bytes)?;
    // The interface is that which the sender is behind.
    let lines = |output: std::process::Output| {
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let found = lines(explain(node, &["--pcap", &path])?);
    ensure!(found.len() == 2, "{found:#?}");
    for words in
        ["0.005000 v0 who-has 10.20.0.1 tell 10.5.0.5: reply seen after 1.000 ms", "the kernel answers at once"]
    {
        ensure!(found[0].contains(words), "no {words} in {}", found[0]);
    }
    ensure!(
        found[1].contains("no reply seen") && found[1].contains("the kernel stays silent: proxy_arp_pvlan is 0"),
        "{}",
        found[1]
    );
    // What is there of a capture that is cut off is explained.
    std::fs::write(file.path(), &bytes[..bytes.len() - 10])?;
    let cut = explain(node, &["v0", "--pcap", &path])?;
    let stderr = String::from_utf8_lossy(&cut.stderr).into_owned();
    ensure!(cut.status.code() == Some(1) && stderr.contains("cut off, or broken, after 2 frames"), "{stderr}");
    ensure!(lines(cut).len() == 1);
    Ok(())
}

#[test]
fn requests_on_the_wire_get_a_line_each() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let (node, pod) = (lab.node(), lab.host("p0"));
    let mut command = std::process::Command::new(agent_binary()?);
    command.args(["explain", "--listen", "v0", "--for", "2s", "--run-dir", "/nonexistent"]);
    command.stdout(std::process::Stdio::piped());
    let child = node.run(|| command.spawn())??;
    for _ in 0..10 {
        std::thread::sleep(stretched(Duration::from_millis(150)));
        pod.ask(&pod.who_has(Z))?;
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let seen = text.lines().filter(|line| line.contains("who-has 10.20.0.1 tell 10.5.0.5: reply seen after"));
    ensure!(seen.count() > 0, "{text}");
    Ok(())
}

#[test]
fn an_interface_alone_gets_a_table() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let table: Value = serde_json::from_slice(&explain(lab.node(), &["v0", "--json"])?.stdout)?;
    let answer = |addresses: &str| {
        let rows = table["rows"].as_array().into_iter().flatten();
        rows.filter(|row| row["addresses"] == addresses).map(|row| row["answer"].clone()).next()
    };
    for (addresses, expected) in
        [("everything else", "answers"), ("10.77.0.1", "answers"), ("10.9.0.0/24", "answers"), ("10.5.0.6", "silent")]
    {
        ensure!(answer(addresses) == Some(expected.into()), "{addresses}: {table:#}");
    }
    Ok(())
}

#[test]
fn the_agent_says_what_it_serves() -> Result<()> {
    needs_root!();
    let lab = topology::matrix_with_uplinks()?;
    let mut agent = lab::AgentOptions::new(&["v0"]).start(lab.node())?;
    agent.in_sync()?;
    let text = |interface: &str| -> Result<String> {
        Ok(String::from_utf8(agent.command(&["explain", interface, "10.20.0.1"])?.stdout)?)
    };
    let (here, elsewhere) = (text("v0")?, text("w0")?);
    ensure!(here.contains("the kernel answers at once") && here.contains("\nfast path  answers\n"), "{here}");
    ensure!(elsewhere.contains("is not attached to w0") && elsewhere.contains("proxy_arp is 0 on w0"), "{elsewhere}");
    Ok(())
}

#[test]
fn what_will_pass_is_told_apart_from_what_lasts() -> Result<()> {
    needs_root!();
    let lab = topology::matrix_with_uplinks()?;
    let mut agent = lab::AgentOptions::new(&["v0"]).start(lab.node())?;
    agent.in_sync()?;
    let text = || -> Result<String> {
        Ok(String::from_utf8(agent.command(&["explain", "v0", "10.20.0.1", "--sender", "10.5.0.5"])?.stdout)?)
    };
    // An interface that flaps is left to the kernel for a while.
    for _ in 0..20 {
        lab.host("p0").namespace().ip_each("link set eth0 down\n link set eth0 up")?;
    }
    let found = text()?;
    ensure!(found.contains("\nfast path  passes (interface_flapping)"), "{found}");
    ensure!(found.contains("(only for the moment; after that the fast path passes (neighbour_unknown)"), "{found}");
    // What is left once it is over lasts.
    let is_lasting = || {
        let found = text()?;
        Ok(found.contains("\nfast path  passes (neighbour_unknown)") && !found.contains("only for the moment"))
    };
    lab::wait_until(Duration::from_secs(30), is_lasting, || "what lasts is told as such".to_owned())
}
