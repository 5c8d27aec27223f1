//! §12.9: groups of nexthop objects, and the trace that K318 leaves in one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, needs_root, stretched};

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Silent, SomeAnswered};
use super::multipath::{FAILED, SEED};
use super::{NO_DEFAULT, Z, rows, run_all, when, with_uplinks};

/// Objects 1 and 2 by the uplinks, 3 by `v0`; the default route is group 10 of some of them.
const OBJECTS: [&str; 3] =
    ["nexthop add id 1 via 10.9.0.254 dev u0", "nexthop add id 2 via 10.8.0.254 dev u1", "nexthop add id 3 dev v0"];
const UPLINKS: &str = "nexthop add id 10 group 1/2";
const OUT_AND_BACK: &str = "nexthop add id 10 group 1/3";
const DEFAULT: &str = "route replace default nhid 10";

const OTHER: [u8; 4] = [10, 6, 0, 6];
const OTHER_IS_KNOWN: &str = "neigh replace 10.6.0.6 lladdr 02:00:00:00:05:05 dev v0 nud permanent";

rows! {
    on with_uplinks;
    k250_a_group_of_both_uplinks: [
        when(&[SEED, OBJECTS[0], OBJECTS[1], UPLINKS, DEFAULT], For(Z), Fast).by_many(),
    ];
    k251_a_group_of_out_and_back: [
        when(&[SEED, "nexthop add id 1 dev u0", OBJECTS[2], OUT_AND_BACK, DEFAULT], For(Z), SomeAnswered("opaque_route"))
            .by_many(),
    ];
    k252_the_group_is_replaced: [
        when(
            &[
                SEED,
                "nexthop add id 1 dev u0",
                "nexthop add id 2 dev u1",
                OBJECTS[2],
                UPLINKS,
                DEFAULT,
                "nexthop replace id 10 group 3",
            ],
            For(Z),
            Silent("pvlan_off"),
        ).by_many(),
    ];
    k253_a_member_is_replaced: [
        when(
            &[
                SEED,
                "nexthop add id 1 dev u0",
                "nexthop add id 2 dev u1",
                UPLINKS,
                DEFAULT,
                "nexthop replace id 2 dev v0",
            ],
            For(Z),
            SomeAnswered("opaque_route"),
        ).by_many(),
    ];
    k254_a_member_is_deleted: [
        when(&[SEED, OBJECTS[0], OBJECTS[1], UPLINKS, DEFAULT, "nexthop del id 2"], For(Z), Fast).by_many(),
    ];
    k255_the_link_of_a_member_goes_down: [
        when(&[SEED, OBJECTS[0], OBJECTS[1], UPLINKS, DEFAULT, "link set u1 down"], For(Z), Fast).by_many(),
    ];
    k256_a_resilient_group_of_both_uplinks: [
        when(
            &[OBJECTS[0], OBJECTS[1], "nexthop add id 10 group 1/2 type resilient buckets 8", DEFAULT],
            For(Z),
            Kernel("opaque_route"),
        ).by_many(),
    ];
    k257_a_resilient_group_of_out_and_back: [
        when(
            &[
                SEED,
                "nexthop add id 1 dev u0",
                OBJECTS[2],
                "nexthop add id 10 group 1/3 type resilient buckets 8",
                DEFAULT,
            ],
            For(Z),
            SomeAnswered("opaque_route"),
        ).by_many(),
    ];
    k258_a_group_of_a_blackhole: [
        when(
            &["nexthop add id 5 blackhole", "nexthop add id 10 group 5", DEFAULT],
            For(Z),
            Silent("unanswerable_route"),
        ),
    ];
    k259_a_gateway_of_a_group_failed: [
        when(&[SEED, OBJECTS[0], OBJECTS[1], UPLINKS, DEFAULT, FAILED[0], FAILED[1]], For(Z), Fast).by_many(),
    ];
    k260_a_sender_with_a_group_as_its_way_back: [
        when(
            &[
                SEED,
                "nexthop add id 1 dev u1",
                OBJECTS[2],
                OUT_AND_BACK,
                "route add 10.6.0.0/24 nhid 10",
                "v0.rp_filter=1",
                OTHER_IS_KNOWN,
            ],
            From(OTHER, Z),
            Fast,
        ).by_many(),
    ];
    k261_a_group_in_a_table_of_a_rule: [
        when(
            &[
                SEED,
                NO_DEFAULT,
                OBJECTS[0],
                OBJECTS[1],
                UPLINKS,
                "route add default table 100 nhid 10",
                "rule add from 10.5.0.0/24 lookup 100",
            ],
            For(Z),
            Fast,
        ).by_many(),
    ];
}

/// How many buckets of group 10 no packet has used for a second.
fn idle_buckets(lab: &Lab) -> Result<usize> {
    let shown = lab.node().ip_json("nexthop bucket show id 10")?;
    let buckets = shown.as_array().context("a list of buckets")?;
    ensure!(buckets.len() == 4, "{shown}");
    Ok(buckets.iter().filter(|bucket| bucket["bucket"]["idle_time"].as_f64().is_some_and(|idle| idle >= 1.0)).count())
}

#[test]
fn k318_a_request_keeps_a_resilient_bucket_busy() -> Result<()> {
    needs_root!();
    let mut parity = with_uplinks()?;
    let group = "nexthop add id 10 group 1/2 type resilient buckets 4 idle_timer 100";
    parity.change(|lab| run_all(lab, &[SEED, OBJECTS[0], OBJECTS[1], group, DEFAULT]))?;
    std::thread::sleep(stretched(Duration::from_millis(1300)));
    for lab in [parity.alone(), parity.fast()] {
        assert_eq!(idle_buckets(lab)?, 4, "before the request");
    }
    let outcome = parity.ask("p0", |p0| p0.who_has(Z))?;
    ensure!(super::holds(&mut parity, Kernel("opaque_route"), &outcome.by)?, "{:?}", outcome.by);
    for lab in [parity.alone(), parity.fast()] {
        assert_eq!(idle_buckets(lab)?, 3, "the request has used one");
    }
    Ok(())
}
