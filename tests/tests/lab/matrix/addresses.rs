//! 12.2: special addresses.

use anyhow::Result;
use tests::needs_root;

use super::Ask::{For, From, Probe};
use super::Expect::{Answered, Fast, Kernel, Silent};
use super::{L, Row, X, check, row, when};

/// The uplink's own address.
const OWN: [u8; 4] = [10, 9, 0, 1];
const SENDER: [u8; 4] = [10, 5, 0, 5];

#[test]
fn k31_to_k38_targets() -> Result<()> {
    needs_root!();
    let special = Silent("special_target");
    check(&[
        row("K31 a multicast target", For([224, 0, 0, 1]), special),
        row("K32 a loopback target", For([127, 0, 0, 1]), special),
        when("K33 127.0.0.1", &["v0.route_localnet=1"], &[], For([127, 0, 0, 1]), Answered),
        when("K33 127.1.2.3", &[], &["v0.route_localnet=0"], For([127, 1, 2, 3]), Answered),
        row("K34 0.0.0.0", For([0; 4]), special),
        row("K34 255.255.255.255", For([255; 4]), special),
        row("K35 the broadcast address of the uplink's subnet", For([10, 9, 0, 255]), Silent("unanswerable_route")),
        when(
            "K36 the same with bc_forwarding",
            &["all.bc_forwarding=1", "v0.bc_forwarding=1"],
            &["all.bc_forwarding=0", "v0.bc_forwarding=0"],
            For([10, 9, 0, 255]),
            Silent("unanswerable_route"),
        ),
        row("K37 the lowest address of the uplink's subnet", For([10, 9, 0, 0]), Fast),
        row("K38 0.1.2.3", For([0, 1, 2, 3]), Answered),
        row("K38 240.0.0.1", For([240, 0, 0, 1]), Answered),
    ])
}

#[test]
fn k39_to_k42_senders() -> Result<()> {
    needs_root!();
    let special = "special_sender";
    check(&[
        row("K39 a multicast sender", From([224, 0, 0, 5], L), Silent(special)),
        row("K39 a broadcast sender", From([255; 4], X), Silent(special)),
        row("K40 a loopback sender, local target", From([127, 0, 0, 5], L), Silent(special)),
        row("K40 a loopback sender, proxied target", From([127, 0, 0, 5], X), Silent(special)),
        when(
            "K41 a loopback sender with route_localnet",
            &["v0.route_localnet=1"],
            &["v0.route_localnet=0"],
            From([127, 0, 0, 5], L),
            Kernel(special),
        ),
        row("K42 the sender 0.1.2.3", From([0, 1, 2, 3], X), Kernel("sender_route")),
    ])
}

#[test]
fn k43_to_k48_probes() -> Result<()> {
    needs_root!();
    let not_local = Silent("probe_not_local");
    check(&[
        row("K43 for a local address", Probe(L), Fast),
        row("K44 for a proxied address", Probe(X), not_local),
        when(
            "K45 for a static proxy",
            &["neigh add proxy 10.9.0.9 dev v0"],
            &["neigh del proxy 10.9.0.9 dev v0"],
            Probe(X),
            not_local,
        ),
        row("K46 for 0.0.0.0", Probe([0; 4]), Silent("special_target")),
        when("K47 rp_filter 1", &["v0.rp_filter=1"], &["v0.rp_filter=0"], Probe(L), Fast),
        when("K47 arp_filter 1", &["v0.arp_filter=1"], &["v0.arp_filter=0"], Probe(L), Fast),
        when("K47 drop_gratuitous_arp 1", &["v0.drop_gratuitous_arp=1"], &["v0.drop_gratuitous_arp=0"], Probe(L), Fast),
        when("K48 arp_ignore 8", &["v0.arp_ignore=8"], &["v0.arp_ignore=0"], Probe(L), Silent("arp_ignore")),
    ])
}

#[test]
fn k49_to_k51_announcements() -> Result<()> {
    needs_root!();
    const DROP_HERE: &[&str] = &["v0.drop_gratuitous_arp=1"];
    const KEEP_HERE: &[&str] = &["v0.drop_gratuitous_arp=0"];
    const DROP_ALL: &[&str] = &["all.drop_gratuitous_arp=1"];
    const KEEP_ALL: &[&str] = &["all.drop_gratuitous_arp=0"];
    check(&[
        row("K49 of a proxied address", From(X, X), Kernel("announcement")),
        when("K50 dropped on the interface", DROP_HERE, KEEP_HERE, From(X, X), Silent("announcement")),
        when("K50 dropped everywhere", DROP_ALL, KEEP_ALL, From(X, X), Silent("announcement")),
        row("K51 of a local address", From(L, L), Silent("announcement")),
    ])
}

#[test]
fn k52_and_k53_own_addresses_as_senders() -> Result<()> {
    needs_root!();
    fn rows(expect: super::Expect) -> [Row; 3] {
        [
            row("the uplink's own, proxied target", From(OWN, X), expect),
            row("the uplink's own, local target", From(OWN, L), expect),
            row("one on lo, proxied target", From(L, X), expect),
        ]
    }
    check(&rows(Silent("sender_route")))?;
    for accept in ["v0.accept_local=1", "all.accept_local=1"] {
        let mut rows = rows(Kernel("sender_route"));
        rows[0].when = match accept {
            "v0.accept_local=1" => &["v0.accept_local=1"],
            _ => &["all.accept_local=1"],
        };
        check(&rows)?;
    }
    // The pod's own sender is nothing special.
    check(&[row("the pod's own", From(SENDER, X), Fast)])
}
