//! 12.3: local targets.

use anyhow::Result;
use tests::needs_root;

use super::Ask::{For, From, Probe};
use super::Expect::{Answered, Fast, KernelForAnyReason, Silent, SilentForAnyReason};
use super::{L, check, row, when};

const ON_UPLINK: [u8; 4] = [10, 9, 0, 1];

#[test]
fn k54_to_k57_addresses_of_other_interfaces() -> Result<()> {
    needs_root!();
    const CARRIER: &[&str] = &["plug external"];
    check(&[
        row("K54 on the uplink", For(ON_UPLINK), Fast),
        when("K55 without carrier", &["unplug external"], &[], For(ON_UPLINK), Fast),
        when("K55 such routes ignored", &["u0.ignore_routes_with_linkdown=1"], CARRIER, For(ON_UPLINK), Fast),
        when("K56 the uplink is down", &["link set u0 down"], &["link set u0 up"], For(ON_UPLINK), Fast),
        when(
            "K57 deprecated",
            &["addr add 10.91.0.1/24 dev u0 preferred_lft 0"],
            &["addr del 10.91.0.1/24 dev u0"],
            For([10, 91, 0, 1]),
            Fast,
        ),
        when("K57 secondary", &["addr add 10.9.0.2/24 dev u0"], &[], For([10, 9, 0, 2]), Fast),
    ])
}

#[test]
fn k58_a_local_prefix() -> Result<()> {
    needs_root!();
    check(&[
        when("K58 request", &["route add local 10.88.0.0/24 dev lo"], &[], For([10, 88, 0, 7]), Fast),
        row("K58 probe", Probe([10, 88, 0, 7]), Fast),
    ])
}

#[test]
fn k59_and_k60_a_longer_main_prefix_inside_a_local_one() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K59 the main route decides",
            &["route add local 10.50.0.0/16 dev lo", "route add 10.50.1.0/24 via 10.9.0.254"],
            &[],
            Probe([10, 50, 1, 1]),
            SilentForAnyReason,
        ),
        when(
            "K60 once there was a rule, the local one",
            &["rule add to 1.2.3.4 lookup 99"],
            &[],
            Probe([10, 50, 1, 1]),
            KernelForAnyReason,
        ),
        when(
            "K60 and when it is gone",
            &["rule del to 1.2.3.4 lookup 99"],
            &[],
            Probe([10, 50, 1, 1]),
            KernelForAnyReason,
        ),
        when("K60 beside the longer prefix", &[], &[], Probe([10, 50, 2, 1]), Answered),
    ])
}

#[test]
fn k61_to_k64_arp_ignore_1() -> Result<()> {
    needs_root!();
    let refused = Silent("arp_ignore");
    check(&[
        when("K62 on another interface", &["v0.arp_ignore=1"], &[], For(L), refused),
        when("K61 in a /24 of the interface", &["addr add 10.60.0.1/24 dev v0"], &[], For([10, 60, 0, 1]), Answered),
        when("K61 a /32 of the interface", &["addr add 10.60.9.1/32 dev v0"], &[], For([10, 60, 9, 1]), Answered),
        when("K63 a peer address", &["addr add 10.61.0.1 peer 10.61.0.2/32 dev v0"], &[], For([10, 61, 0, 1]), refused),
        when("K64 covered by another address", &["addr add 10.61.0.5/24 dev v0"], &[], For([10, 61, 0, 1]), Answered),
    ])
}

#[test]
fn k65_arp_ignore_2() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K65 the sender is in the target's subnet",
            &["v0.arp_ignore=2", "addr add 10.5.0.1/24 dev v0"],
            &[],
            For([10, 5, 0, 1]),
            Answered,
        ),
        when("K65 it is not", &["addr add 10.60.0.1/24 dev v0"], &[], For([10, 60, 0, 1]), SilentForAnyReason),
    ])
}

#[test]
fn k66_and_k67_arp_ignore_3() -> Result<()> {
    needs_root!();
    const HOST_SCOPE: [u8; 4] = [10, 62, 0, 1];
    check(&[
        when(
            "K66 scope host",
            &["v0.arp_ignore=3", "addr add 10.62.0.1/32 dev lo scope host"],
            &[],
            For(HOST_SCOPE),
            SilentForAnyReason,
        ),
        row("K66 scope global", For(L), Answered),
        when("K67 scope host with route_localnet", &["lo.route_localnet=1"], &[], For(HOST_SCOPE), Answered),
    ])
}

#[test]
fn k68_to_k71_the_other_values_of_arp_ignore() -> Result<()> {
    needs_root!();
    let refused = Silent("arp_ignore");
    check(&[
        when("K68 4", &["v0.arp_ignore=4"], &[], For(L), Fast),
        when("K68 5", &["v0.arp_ignore=5"], &[], For(L), Fast),
        when("K68 7", &["v0.arp_ignore=7"], &[], For(L), Fast),
        when("K69 8", &["v0.arp_ignore=8"], &[], For(L), refused),
        when(
            "K71 8, and the entry has another address",
            &["neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud stale"],
            &[],
            For(L),
            SilentForAnyReason,
        ),
        when("K68 9", &["v0.arp_ignore=9"], &[], For(L), Fast),
        when("K68 100", &["v0.arp_ignore=100"], &[], For(L), Fast),
        when("K68 -1", &["v0.arp_ignore=-1"], &[], For(L), Fast),
        when("K69 8 for all", &["v0.arp_ignore=0", "all.arp_ignore=8"], &[], For(L), refused),
        when("K70 1 for all", &["all.arp_ignore=1"], &["all.arp_ignore=0"], For(L), refused),
    ])
}

#[test]
fn k73_to_k76_arp_filter_and_forwarding() -> Result<()> {
    needs_root!();
    check(&[
        when("K73 the sender is routed back", &["v0.arp_filter=1"], &[], For(L), Fast),
        row("K74 routed by the uplink", From([10, 9, 0, 77], L), Silent("sender_route")),
        row("K74 an own address", From(ON_UPLINK, L), Silent("sender_route")),
        when(
            "K75 for all",
            &["v0.arp_filter=0", "all.arp_filter=1"],
            &[],
            From([10, 9, 0, 77], L),
            Silent("sender_route"),
        ),
        when(
            "K74 unroutable",
            &["route del default"],
            &["all.arp_filter=0"],
            From([10, 44, 0, 1], L),
            Silent("sender_route"),
        ),
        when("K76 forwarding 0", &["v0.forwarding=0"], &[], For(L), Fast),
    ])
}
