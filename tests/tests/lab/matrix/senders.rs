//! 12.5: source validation.

use anyhow::Result;
use tests::needs_root;

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Silent, SilentForAnyReason};
use super::{L, X, Y, check, row, when};

/// Senders that the node routes by its uplink: one of the subnet, its broadcast address, one behind the router.
const BY_UPLINK: [u8; 4] = [10, 9, 0, 77];
const BROADCAST: [u8; 4] = [10, 9, 0, 255];
const FAR: [u8; 4] = [10, 44, 0, 1];

#[test]
fn k124_any_rp_filter_accepts_the_pod() -> Result<()> {
    needs_root!();
    check(&[
        when("K124 strict, local", &["v0.rp_filter=1"], &[], For(L), Fast),
        row("K124 strict, proxied", For(X), Fast),
        when("K124 loose, local", &["v0.rp_filter=2"], &[], For(L), Fast),
        row("K124 loose, proxied", For(X), Fast),
    ])
}

#[test]
fn k125_to_k130_senders_that_are_routed_elsewhere() -> Result<()> {
    needs_root!();
    let refused = Silent("sender_route");
    let learnt = Kernel("sender_route");
    check(&[
        when("K125 strict", &["v0.rp_filter=1"], &[], From(BY_UPLINK, L), refused),
        when(
            "K130 strict for all",
            &["v0.rp_filter=0", "all.rp_filter=1"],
            &["all.rp_filter=0"],
            From(BY_UPLINK, L),
            refused,
        ),
        when("K126 loose, unnumbered", &["v0.rp_filter=2"], &[], From(BY_UPLINK, L), refused),
        when("K127 loose, numbered", &["addr add 10.60.0.1/24 dev v0"], &[], From(BY_UPLINK, L), learnt),
        when("K128 loose, numbered, no route", &["route del default"], &[], From(FAR, L), refused),
        when("K129 off, no route", &["v0.rp_filter=0"], &[], From(FAR, L), learnt),
        when("K129 off, blackholed", &["route add blackhole 10.44.0.0/16"], &[], From(FAR, L), learnt),
    ])
}

#[test]
fn k131_and_k132_a_broadcast_sender_until_there_is_a_rule() -> Result<()> {
    needs_root!();
    check(&[
        row("K131 accepted", From(BROADCAST, L), Kernel("sender_route")),
        when("K132 with a rule", &["rule add to 1.2.3.4 lookup 99"], &[], From(BROADCAST, L), SilentForAnyReason),
        when("K132 after it", &["rule del to 1.2.3.4 lookup 99"], &[], From(BROADCAST, L), Silent("sender_route")),
    ])
}

#[test]
fn k132_a_broadcast_sender_and_a_custom_local_route() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K132 with the route",
            &["route add local 10.88.0.0/24 dev lo"],
            &["route del local 10.88.0.0/24 dev lo"],
            From(BROADCAST, L),
            Silent("sender_route"),
        ),
        row("K132 after it", From(BROADCAST, L), Silent("sender_route")),
    ])
}

#[test]
fn k132_a_broadcast_sender_and_a_realm() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K132 with the realm",
            &["route add 10.89.0.0/24 dev u0 realm 5"],
            &["route del 10.89.0.0/24"],
            From(BROADCAST, L),
            Silent("sender_route"),
        ),
        row("K132 without it", From(BROADCAST, L), Kernel("sender_route")),
    ])
}

#[test]
fn k133_pvlan_checks_the_sender_while_redirects_are_sent() -> Result<()> {
    needs_root!();
    check(&[
        when("K133 send_redirects 1", &["v0.proxy_arp_pvlan=1"], &[], From(BROADCAST, Y), Silent("sender_route")),
        when(
            "K133 0",
            &["all.send_redirects=0", "v0.send_redirects=0"],
            &[],
            From(BROADCAST, Y),
            Kernel("sender_route"),
        ),
    ])
}

#[test]
fn k134_a_sender_behind_a_multipath_route() -> Result<()> {
    needs_root!();
    check(&[when(
        "K134",
        &["v0.rp_filter=1", "route add 10.44.0.0/16 nexthop dev v0 nexthop via 10.9.0.254 dev u0"],
        &[],
        From(FAR, L),
        Kernel("sender_route"),
    )])
}
