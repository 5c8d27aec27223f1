//! §12.10: VRF. A test skips where the kernel has none; `cargo xtask vm` has kernels that have it.

use anyhow::Result;
use lab::{SideBySide, topology};

use super::Ask::{For, From, Probe};
use super::Expect::{Fast, Kernel, Silent};
use super::devices::needs_devices;
use super::{DEAD, Expect, L, U, U1, X, Y, Z, check_on, each, run_all, when};

/// `v0` and `u1` are ports of the VRF `red`, whose table 10 has the pod and a default route by `u1`.
const RED: [&str; 8] = [
    "link add red type vrf table 10",
    "link set red up",
    "link set v0 master red",
    "link set u1 master red",
    "route add 10.5.0.5 dev v0 table 10",
    "route add 10.5.0.6 dev v0 table 10",
    "neigh replace 10.8.0.254 lladdr 02:00:00:00:08:fe dev u1 nud permanent",
    "route add default via 10.8.0.254 dev u1 table 10",
];
const NO_DEFAULT: &str = "route del default table 10";
const UNREACHABLE: [&str; 2] = [NO_DEFAULT, "route add unreachable default metric 4278198272 table 10"];
const LOCAL_BEHIND: [&str; 2] = ["rule add prio 32765 lookup local", "rule del prio 0"];

/// Routed by a leak, out of `red` and into it.
const LEAKED_OUT: [u8; 4] = [10, 30, 0, 1];
const LEAKED_IN: [u8; 4] = [10, 31, 0, 1];
const LEAK_IN: [&str; 2] = ["w0.proxy_arp=1", "route add 10.31.0.0/16 dev u1"];
/// A sender that main alone has a route for.
const OTHER: [u8; 4] = [10, 6, 0, 6];
const OTHER_IN_MAIN: [&str; 2] =
    ["route add 10.6.0.6 dev v0", "neigh replace 10.6.0.6 lladdr 02:00:00:00:05:05 dev v0 nud stale"];

const NEVER: Expect = Silent("unanswerable_route");

/// The base with `red` twice, with an agent for both pods' interfaces on one.
fn red() -> Result<SideBySide> {
    let build = || {
        let lab = topology::matrix_with_uplinks()?;
        run_all(&lab, &RED)?;
        Ok(lab)
    };
    SideBySide::start(build, &["v0", "w0"])
}

/// As `rows!`, where the kernel has VRF.
macro_rules! vrf_rows {
    ($($name:ident: [$($step:expr),+ $(,)?];)+) => {$(
        #[test]
        fn $name() -> Result<()> {
            needs_devices!("vrf");
            check_on(red()?, &[$($step),+])
        }
    )+};
}

vrf_rows! {
    k270_a_default_route_of_the_vrf: [each(&[], &[(For(Z), Fast), (For(X), Fast)])];
    k271_main_is_asked_after_the_vrf: [each(&[NO_DEFAULT], &[(For(Z), Fast), (For(X), Fast)])];
    k272_an_unreachable_default_of_the_vrf: [each(&UNREACHABLE, &[(For(Z), NEVER), (For(X), NEVER)])];
    k273_own_addresses_outside_of_the_vrf: [
        each(&[], &[(For(L), Fast), (For(U), Fast), (Probe(L), Silent("probe_not_local"))]),
    ];
    k274_an_own_address_of_the_vrf: [each(&[], &[(For(U1), Fast), (Probe(U1), Fast)])];
    k275_an_own_address_of_the_vrf_from_outside: [
        each(&["w0.proxy_arp=1"], &[(For(U1), Fast), (Probe(U1), Silent("probe_not_local"))]).on_w0(),
    ];
    k276_a_leak_out_of_the_vrf: [
        when(
            &[
                UNREACHABLE[0],
                UNREACHABLE[1],
                "route add 10.30.0.0/16 via 10.9.0.254 dev u0 table 10",
                "v0.rp_filter=1",
            ],
            For(LEAKED_OUT),
            Fast,
        ),
    ];
    // The way back is looked up in the VRF that the route leaves by.
    k277_k278_and_k279_a_leak_into_the_vrf: [
        when(&[NO_DEFAULT, LEAK_IN[0], LEAK_IN[1], "w0.rp_filter=1"], For(LEAKED_IN), Kernel("sender_route")).on_w0(),
        when(&[UNREACHABLE[1]], For(LEAKED_IN), Silent("sender_route")).on_w0(),
        when(&["w0.rp_filter=0"], For(LEAKED_IN), Kernel("sender_route")).on_w0(),
    ];
    k280_and_k280b_local_behind_the_vrf: [
        each(&LOCAL_BEHIND, &[(For(L), Fast), (Probe(L), Silent("probe_not_local"))]),
        each(&["v0.proxy_arp=0"], &[(For(L), Silent("proxy_arp_off")), (For(U1), Fast)]),
    ];
    k281_local_behind_a_vrf_that_is_unreachable: [
        each(
            &[UNREACHABLE[0], UNREACHABLE[1], LOCAL_BEHIND[0], LOCAL_BEHIND[1]],
            &[(For(L), NEVER), (For(U1), Fast)],
        ),
    ];
    k282_and_k283_a_sender_of_main_alone: [
        each(
            &[NO_DEFAULT, OTHER_IN_MAIN[0], OTHER_IN_MAIN[1], "v0.rp_filter=1"],
            &[(From(OTHER, X), Fast), (From(OTHER, L), Fast)],
        ),
        when(&[UNREACHABLE[1], OTHER_IN_MAIN[1]], From(OTHER, L), Silent("sender_route")),
    ];
    // Before 6.15 a frame of a port does not come in on its VRF.
    k284_a_rule_for_the_vrf_as_ingress: [when(&[DEAD, "rule add prio 900 iif red lookup 100"], For(Z), Kernel("opaque_rule"))];
    k285_a_rule_for_the_port_as_ingress: [when(&[DEAD, "rule add prio 900 iif v0 lookup 100"], For(Z), NEVER)];
    k286_a_rule_for_the_vrf_as_egress: [when(&[DEAD, "rule add prio 900 oif red lookup 100"], For(Z), Fast)];
    // Since 6.15 the rule decides there: the way out is looked up by the VRF.
    k287_arp_filter_in_a_vrf: [
        each(&["v0.arp_filter=1"], &[(For(U1), Fast), (For(L), Fast)]),
        when(&[DEAD, "rule add prio 900 oif red lookup 100"], For(U1), Kernel("sender_route")),
    ];
    k288_arp_filter_and_a_sender_of_main_alone: [
        when(
            &[
                NO_DEFAULT,
                "route add 10.20.0.0/16 via 10.8.0.254 dev u1 table 10",
                OTHER_IN_MAIN[0],
                OTHER_IN_MAIN[1],
                "v0.arp_filter=1",
            ],
            From(OTHER, U1),
            Fast,
        ),
    ];
    k289_without_the_rule_of_vrfs: [
        each(
            &[UNREACHABLE[0], UNREACHABLE[1], "rule del prio 1000"],
            &[(For(Z), Fast), (For(U1), Fast), (Probe(U1), Fast)],
        ),
    ];
    k291_and_k290_a_target_behind_the_same_port: [
        when(&[], For(Y), Silent("pvlan_off")),
        when(&["v0.proxy_arp_pvlan=1"], For(Y), Fast),
    ];
    k292_a_port_leaves_the_vrf: [
        each(
            &[
                UNREACHABLE[0],
                UNREACHABLE[1],
                "link set v0 nomaster",
                "route add 10.5.0.5 dev v0",
                "neigh replace 10.5.0.5 lladdr 02:00:00:00:05:05 dev v0 nud stale",
            ],
            &[(For(Z), Fast), (For(U1), Fast)],
        ),
    ];
    k293_several_next_hops_in_a_vrf: [
        when(
            &[
                NO_DEFAULT,
                "route add default table 10 nexthop via 10.8.0.254 dev u1 nexthop via 10.9.0.254 dev u0 onlink",
            ],
            For(Z),
            Fast,
        ).by_many(),
    ];
    k294_a_rule_before_the_vrf: [
        when(
            &[
                UNREACHABLE[0],
                UNREACHABLE[1],
                "route add default via 10.9.0.254 dev u0 table 100",
                "rule add prio 900 from 10.5.0.5 lookup 100",
            ],
            For(Z),
            Fast,
        ),
    ];
    k295_a_rule_after_the_vrf: [
        when(
            &[
                NO_DEFAULT,
                "route del default",
                "route add 100.64.0.0/10 dev u2 table 52",
                "rule add prio 5270 lookup 52",
            ],
            For([100, 64, 0, 1]),
            Fast,
        ),
    ];
}
