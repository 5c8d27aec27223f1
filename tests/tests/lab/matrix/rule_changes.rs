//! Rules, their interfaces and their objects change while the agent runs, and combine in ways that no row of the matrix has.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use lab::{Answerer, needs_root};

use super::Ask::{For, From};
use super::Expect::{Fast, Silent, SomeAnswered};
use super::multipath::SEED;
use super::{BY_U1, DEAD, Expect, L, X, Y, Z, each, rows, when, with_uplinks};

/// Beside Z: other hosts of its net.
const Z2: [u8; 4] = [10, 20, 0, 2];
const Z3: [u8; 4] = [10, 20, 0, 3];
const BEHIND_X9: [u8; 4] = [10, 40, 0, 1];

const NEVER: Expect = Silent("unanswerable_route");
const REFUSED: Expect = Silent("sender_route");

/// An interface that comes and goes, with a route by it.
const X9: [&str; 3] = ["link add x9 type veth peer name y9", "link set x9 up", "link set y9 up"];
const ROUTE_BY_X9: &str = "route add 10.40.0.0/16 dev x9";

const GROUP: [&str; 5] = [
    "nexthop add id 1 via 10.9.0.254 dev u0",
    "nexthop add id 2 via 10.8.0.254 dev u1",
    "nexthop add id 3 dev v0",
    "nexthop add id 10 group 1/2",
    "route replace default nhid 10",
];

rows! {
    on with_uplinks;
    the_way_back_follows_rp_filter_and_addresses: [
        each(&[BY_U1, "rule add from 10.20.0.1 lookup 100"], &[(For(Z), Fast), (For(Z2), Fast)]),
        each(&["all.rp_filter=1"], &[(For(Z), REFUSED), (For(Z2), Fast)]),
        each(&["all.rp_filter=0", "v0.rp_filter=2"], &[(For(Z), REFUSED), (For(Z2), Fast)]),
        when(&["addr add 10.66.0.1/32 dev v0"], For(Z), Fast),
        when(&["addr add 10.66.0.2/32 dev v0", "addr del 10.66.0.1/32 dev v0"], For(Z), Fast),
        // Its routes go with its last address.
        when(
            &[
                "addr del 10.66.0.2/32 dev v0",
                "route add 10.5.0.5 dev v0",
                "neigh replace 10.5.0.5 lladdr 02:00:00:00:05:05 dev v0 nud stale",
            ],
            For(Z),
            REFUSED,
        ),
        when(&["pause 400"], For(Z), REFUSED),
        when(&["all.rp_filter=2", "v0.rp_filter=0"], For(Z), REFUSED),
        when(&["all.rp_filter=0"], For(Z), Fast),
        when(&["route add broadcast 10.5.0.5 dev u1 table 100"], For(Z), REFUSED),
        when(&["rule del from 10.20.0.1 lookup 100"], For(Z), Fast),
    ];
    an_interface_that_a_rule_names_is_renamed: [
        each(&[DEAD, "rule add iif u1 lookup 100", "v0.rp_filter=1", "route add 10.20.0.0/16 via 10.8.0.254"], &[
            (For(Z), REFUSED),
            (For(X), Fast),
        ]),
        each(
            &[
                "link set u1 down",
                "link set u1 name u9",
                "link set u9 up",
                "route add 10.20.0.0/16 via 10.8.0.254",
                "pause 400",
            ],
            &[(For(Z), Fast), (For(X), Fast)],
        ),
        each(&["rule add not iif u1 lookup 100"], &[(For(Z), REFUSED), (For(X), REFUSED), (For(L), REFUSED)]),
        each(
            &[
                "link set u9 down",
                "link set u9 name u1",
                "link set u1 up",
                "route add 10.20.0.0/16 via 10.8.0.254",
                "pause 400",
                "rule del not iif u1 lookup 100",
            ],
            &[(For(Z), REFUSED), (For(X), Fast)],
        ),
    ];
    an_interface_that_a_rule_names_comes_and_goes: [
        each(&[DEAD, "rule add iif x9 lookup 100", "v0.rp_filter=1"], &[(For(Z), Fast), (For(L), Fast)]),
        each(&[X9[0], X9[1], X9[2], ROUTE_BY_X9, "pause 400"], &[(For(BEHIND_X9), REFUSED), (For(Z), Fast)]),
        each(&["link del x9"], &[(For(BEHIND_X9), Fast), (For(Z), Fast)]),
        each(&[X9[0], X9[1], X9[2], ROUTE_BY_X9, "pause 400"], &[(For(BEHIND_X9), REFUSED), (For(Z), Fast)]),
        when(&["rule del iif x9 lookup 100"], For(BEHIND_X9), Fast),
    ];
    a_group_is_replaced_while_it_is_used: [
        when(&[SEED, GROUP[0], GROUP[1], GROUP[2], GROUP[3], GROUP[4]], For(Z), Fast).by_many(),
        when(&["nexthop replace id 10 group 3"], For(Z), Silent("pvlan_off")).by_many(),
        when(&["nexthop replace id 10 group 1/2"], For(Z), Fast).by_many(),
        when(&["nexthop replace id 2 dev v0"], For(Z), SomeAnswered("opaque_route")).by_many(),
        when(&["nexthop replace id 2 via 10.8.0.254 dev u1"], For(Z), Fast).by_many(),
        when(&["nexthop replace id 1 dev v0", "nexthop replace id 2 dev v0"], For(Z), Silent("pvlan_off")).by_many(),
        when(&["nexthop del id 1", "nexthop replace id 2 via 10.8.0.254 dev u1"], For(Z), Fast).by_many(),
        when(&["nexthop del id 10"], For(Z), Silent("no_route")).by_many(),
    ];
    a_sender_by_a_group_that_is_replaced: [
        when(
            &[GROUP[0], GROUP[1], GROUP[2], "nexthop add id 10 group 2/3", "route replace 10.5.0.5 nhid 10", "v0.rp_filter=1"],
            For(Z),
            Fast,
        ),
        when(&["nexthop replace id 10 group 1/2"], For(Z), REFUSED),
        when(&["nexthop replace id 2 dev v0"], For(Z), Fast),
        when(&["nexthop del id 2"], For(Z), REFUSED),
    ];
    rules_come_before_and_after_others: [
        when(&[DEAD, "rule add prio 200 lookup 100"], For(Z), NEVER),
        when(&["rule add prio 100 to 10.20.0.1 lookup main"], For(Z), Fast),
        when(&["rule add prio 50 from 10.5.0.0/24 to 10.20.0.0/24 lookup 100"], For(Z), NEVER),
        when(&["rule add prio 49 from 10.5.0.5 goto 100"], For(Z), Fast),
        each(&["rule add prio 101 lookup main"], &[(For(Z), Fast), (For(Z2), Fast)]),
        each(&["rule del prio 100"], &[(For(Z), NEVER), (For(Z2), NEVER), (For(X), Fast)]),
        when(&["rule del prio 49", "rule del prio 50", "rule del prio 101"], For(Z), NEVER),
        when(&["rule del prio 200"], For(Z), Fast),
    ];
    a_goto_into_the_middle_of_rules_that_are_alike: [
        each(
            &[
                DEAD,
                "rule add prio 200 to 10.20.0.1 lookup 100",
                "rule add prio 201 to 10.20.0.2 lookup 100",
                "rule add prio 202 to 10.20.0.3 lookup 100",
            ],
            &[(For(Z), NEVER), (For(Z2), NEVER), (For(Z3), NEVER), (For(X), Fast)],
        ),
        each(&["rule add prio 100 to 10.20.0.0/29 goto 201"], &[(For(Z), Fast), (For(Z2), NEVER), (For(Z3), NEVER)]),
        each(&["rule add prio 99 goto 202"], &[(For(Z), Fast), (For(Z2), Fast), (For(Z3), NEVER)]),
        each(&["rule del prio 202"], &[(For(Z), Fast), (For(Z2), NEVER), (For(Z3), Fast)]),
        each(&["rule add prio 202 unreachable"], &[(For(Z), NEVER), (For(Z2), NEVER), (For(L), Fast)]),
    ];
    throw_and_suppression_together: [
        each(
            &[
                "route add throw 10.20.0.0/24 table 100",
                "route add unreachable 10.20.0.2 table 100",
                "route add 10.20.0.0/16 via 10.8.0.254 table 100",
                "rule add prio 100 lookup 100 suppress_prefixlength 24",
                "route add unreachable 10.20.0.1 table 101",
                "rule add prio 101 not to 10.20.0.3 lookup 101",
            ],
            &[(For(Z), NEVER), (For(Z2), NEVER), (For(Z3), Fast), (For([10, 20, 9, 1]), Fast)],
        ),
        each(&["route del throw 10.20.0.0/24 table 100"], &[(For(Z), NEVER), (For(Z2), NEVER), (For(Z3), Fast)]),
        each(
            &["rule del prio 100", "rule add prio 100 lookup 100"],
            &[(For(Z), Fast), (For(Z2), NEVER), (For(Z3), Fast)],
        ),
    ];
    two_senders_of_one_interface_by_two_tables: [
        each(
            &[
                "route add 10.5.0.6 dev v0 table 100",
                "route add default dev v0 table 100",
                "rule add from 10.5.0.6 lookup 100",
                "neigh replace 10.5.0.6 lladdr 02:00:00:00:05:05 dev v0 nud stale",
            ],
            &[(For(Z), Fast), (From(Y, Z), Silent("pvlan_off")), (From(Y, L), Fast)],
        ),
        each(
            &["rule add from 10.5.0.6 to 10.20.0.1 prio 10 lookup main", "v0.rp_filter=1"],
            &[(For(Z), Fast), (From(Y, Z), Fast), (From(Y, Z2), Silent("pvlan_off"))],
        ),
        each(&["rule add from 10.20.0.1 prio 9 unreachable"], &[(For(Z), REFUSED), (From(Y, Z), REFUSED), (From(Y, L), Fast)]),
    ];
    a_link_of_a_multipath_route_loses_its_carrier: [
        when(
            &[
                SEED,
                "route add 10.20.0.0/16 nexthop via 10.9.0.254 dev u0 nexthop dev v0",
                "route add unreachable 10.20.0.0/16 metric 5",
            ],
            For(Z),
            SomeAnswered("opaque_route"),
        ).by_many(),
        when(&["u0.ignore_routes_with_linkdown=1", "unplug external", "pause 400"], For(Z), Silent("opaque_route")).by_many(),
    ];
}

#[test]
fn more_views_than_there_is_room_for() -> Result<()> {
    needs_root!();
    let mut parity = with_uplinks()?;
    let sender = |number: u32| [10, 6, (number / 200) as u8, (number % 200 + 1) as u8];
    parity.change(|lab| {
        let mut commands = String::new();
        for number in 0..300 {
            let [a, b, c, d] = sender(number);
            let (table, odd) = (1000 + number, number % 2 == 1);
            let route = if odd { "unreachable 10.20.0.0/16" } else { "10.20.0.0/16 via 10.8.0.254" };
            write!(
                commands,
                "neigh add {a}.{b}.{c}.{d} lladdr 02:00:00:00:05:05 dev v0 nud permanent
                 route add {a}.{b}.{c}.{d} dev v0
                 route add {route} table {table}
                 rule add from {a}.{b}.{c}.{d} lookup {table}\n"
            )?;
        }
        lab.node().ip_each(&commands)
    })?;
    let (mut fast, mut opaque) = (0, 0);
    for number in 0..300 {
        let by = parity.ask("p0", |p0| From(sender(number), Z).frame(p0))?.by;
        match by {
            Answerer::FastPath if number % 2 == 0 => fast += 1,
            Answerer::Nobody(reason) if number % 2 == 1 && reason == "unanswerable_route" => fast += 1,
            Answerer::Kernel(reason) | Answerer::Nobody(reason) if reason == "opaque_rule" => opaque += 1,
            by => ensure!(false, "sender {number}: {by:?}"),
        }
    }
    println!("{fast} senders in views, {opaque} without");
    ensure!(fast >= 200 && opaque > 0, "{fast} in views of their own, {opaque} opaque");
    Ok(())
}
