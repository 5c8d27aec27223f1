//! 12.5: routing rules.

use anyhow::Result;
use tests::needs_root;

use super::Ask::{For, Probe};
use super::Expect::{Kernel, KernelForAnyReason, Silent, SilentForAnyReason};
use super::{L, check, row, when};

/// A target that only the default route covers at first.
const T: [u8; 4] = [10, 30, 0, 1];

#[test]
fn k120_rules_that_match() -> Result<()> {
    needs_root!();
    let custom = Kernel("custom_rules");
    check(&[
        when(
            "K120 from",
            &["route del default", "route add default via 10.9.0.254 table 100", "rule add from 10.5.0.5 lookup 100"],
            &["rule del from 10.5.0.5 lookup 100"],
            For(T),
            custom,
        ),
        when("K120 to", &["rule add to 10.30.0.1 lookup 100"], &["rule del to 10.30.0.1 lookup 100"], For(T), custom),
        when("K120 iif", &["rule add iif v0 lookup 100"], &["rule del iif v0 lookup 100"], For(T), custom),
        when("K120 uid", &["rule add uidrange 0-0 lookup 100"], &["rule del uidrange 0-0 lookup 100"], For(T), custom),
        row("without", For(T), SilentForAnyReason),
    ])
}

#[test]
fn k121_rules_that_do_not_match() -> Result<()> {
    needs_root!();
    let custom = Silent("custom_rules");
    check(&[
        when(
            "K121 iif of another",
            &["route del default", "route add default via 10.9.0.254 table 100", "rule add iif u0 lookup 100"],
            &["rule del iif u0 lookup 100"],
            For(T),
            custom,
        ),
        when("K121 oif", &["rule add oif u0 lookup 100"], &["rule del oif u0 lookup 100"], For(T), custom),
        when("K121 fwmark", &["rule add fwmark 1 lookup 100"], &["rule del fwmark 1 lookup 100"], For(T), custom),
        when(
            "K121 ipproto",
            &["rule add ipproto tcp lookup 100"],
            &["rule del ipproto tcp lookup 100"],
            For(T),
            custom,
        ),
        when("K121 tos", &["rule add tos 0x10 lookup 100"], &["rule del tos 0x10 lookup 100"], For(T), custom),
    ])
}

#[test]
fn k122_a_mark_set_before_routing() -> Result<()> {
    needs_root!();
    check(&[when(
        "K122",
        &[
            "route del default",
            "route add default via 10.9.0.254 table 100",
            "rule add fwmark 7 lookup 100",
            "nft add table arp t",
            "nft add chain arp t c { type filter hook input priority 0 ; }",
            "nft add rule arp t c meta mark set 7",
        ],
        &[],
        For(T),
        KernelForAnyReason,
    )])
}

#[test]
fn k123_a_table_before_local() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K123 an own address is proxied",
            &[
                "route add 10.77.0.1 via 10.9.0.254 table 100",
                "rule add pref 0 lookup 100",
                "rule del pref 0 lookup local",
                "rule add pref 1 lookup local",
            ],
            &[],
            For(L),
            KernelForAnyReason,
        ),
        when("K123 without proxy_arp it is not", &["v0.proxy_arp=0"], &[], For(L), SilentForAnyReason),
        row("K123 the probe is answered still", Probe(L), KernelForAnyReason),
    ])
}
