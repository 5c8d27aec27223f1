//! §12.5: routing rules. K122 is in `hooks`.

use super::Ask::{For, Probe};
use super::Expect::{Fast, Silent};
use super::{L, ask, rows, when};

/// A target that only the default route covers, which the rows move to table 100.
const T: [u8; 4] = [10, 30, 0, 1];
const MOVED: [&str; 2] = ["route del default", "route add default via 10.9.0.254 table 100"];

const SILENT: super::Expect = Silent("no_route");

rows! {
    k120_rules_that_match: [
        when(&[MOVED[0], MOVED[1], "rule add from 10.5.0.5 lookup 100"], For(T), Fast),
        when(&["rule del from 10.5.0.5 lookup 100", "rule add to 10.30.0.1 lookup 100"], For(T), Fast),
        when(&["rule del to 10.30.0.1 lookup 100", "rule add iif v0 lookup 100"], For(T), Fast),
        when(&["rule del iif v0 lookup 100", "rule add uidrange 0-0 lookup 100"], For(T), Fast),
        when(&["rule del uidrange 0-0 lookup 100"], For(T), Silent("no_route")),
    ];
    k121_rules_that_do_not_match: [
        when(&[MOVED[0], MOVED[1], "rule add iif u0 lookup 100"], For(T), SILENT),
        when(&["rule del iif u0 lookup 100", "rule add oif u0 lookup 100"], For(T), SILENT),
        when(&["rule del oif u0 lookup 100", "rule add fwmark 1 lookup 100"], For(T), SILENT),
        when(&["rule del fwmark 1 lookup 100", "rule add ipproto tcp lookup 100"], For(T), SILENT),
        when(&["rule del ipproto tcp lookup 100", "rule add ipproto tcp sport 7 lookup 100"], For(T), SILENT),
        when(&["rule del ipproto tcp sport 7 lookup 100", "rule add tos 0x10 lookup 100"], For(T), SILENT),
    ];
    k123_a_table_before_local: [
        when(
            &[
                "route add 10.77.0.1 via 10.9.0.254 table 100",
                "rule add pref 0 lookup 100",
                "rule del pref 0 lookup local",
                "rule add pref 1 lookup local",
            ],
            For(L),
            Fast,
        ),
        when(&["v0.proxy_arp=0"], For(L), Silent("proxy_arp_off")),
        ask(Probe(L), Fast),
    ];
}
