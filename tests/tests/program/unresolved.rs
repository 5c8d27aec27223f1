//! The loaded guard of IP packets: which it charges, by the kernel's own routing lookup.

use crate::tables::{INGRESS, MAC, POD_MAC, ProgramTables};
use anyhow::ensure;
use arp_agent::clock::monotonic_ns;
use arp_agent::dataplane::bpf::guards::GuardConfig;
use arp_agent::dataplane::bpf::pressure::SeenPressure;
use arp_agent::dataplane::bpf::programs::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use arp_common::guard::{DropMode, DropReason, Policy, Rate};
use lab::needs_root;
use std::process::Command;

const SECOND: u64 = 1_000_000_000;
/// One packet in a thousand seconds, and 8 at once.
const BUDGET: Rate = Rate { interval: 1000 * SECOND, depth: 8000 * SECOND };
/// The next hops of this subnet are not resolved, except one.
const RESOLVED: [u8; 4] = [10, 9, 0, 200];
const OWN: [u8; 4] = [10, 9, 0, 1];

fn unresolved(last: u8) -> [u8; 4] {
    [10, 9, 0, last]
}

/// A node that forwards to a subnet behind `d0`.
fn tables(mode: DropMode) -> anyhow::Result<ProgramTables> {
    let mut tables = ProgramTables::guarded_with_ip()?;
    for command in [
        "link set lo up",
        "link add d0 type veth peer name d1",
        "link set d1 up",
        "link set d0 up",
        "addr add 10.9.0.1/24 dev d0",
        "neigh add 10.9.0.200 lladdr 02:00:00:00:00:c8 dev d0 nud permanent",
        "route add 10.20.0.0/16 via 10.9.0.200",
        "route add unreachable 10.30.0.0/16",
    ] {
        ensure!(Command::new("ip").args(command.split(' ')).status()?.success(), "ip {command}");
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let modes = Policy::with_unresolved(0, mode);
    ensure!(tables.bpf.configure_guard(INGRESS, &GuardConfig { modes, unresolved: BUDGET, ..GuardConfig::default() }));
    Ok(tables)
}

fn press(tables: &mut ProgramTables, entries: u64, ends_in: i64) {
    let judged_until = monotonic_ns().wrapping_add_signed(ends_in);
    tables.bpf.pretend_pressure(SeenPressure { entries, most: 1024, judged_until });
}

/// A UDP packet of the pod's.
fn packet(to: [u8; 4]) -> Vec<u8> {
    let mut bytes = [MAC, POD_MAC].concat();
    bytes.extend([0x08, 0x00]);
    bytes.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 5, 0, 5]);
    bytes.extend(to);
    bytes.extend([0x12, 0x34, 0, 9, 0, 8, 0, 0]);
    bytes
}

/// Whether it is dropped, and whether it was counted as dropped, and as one that would be.
fn judged(tables: &mut ProgramTables, to: [u8; 4]) -> anyhow::Result<(bool, u64, u64)> {
    let (before, bytes) = (tables.counters(), packet(to));
    let run = tables.bpf.run_guard(INGRESS, &bytes)?;
    let after = tables.counters();
    ensure!(run.frame == bytes, "the guard has changed the packet");
    ensure!([TC_ACT_UNSPEC, TC_ACT_SHOT].contains(&run.action), "action {}", run.action);
    let reason = DropReason::UnresolvedBudget;
    let moved = |counter: usize| after[counter] - before[counter];
    Ok((run.action == TC_ACT_SHOT, moved(reason.dropped()), moved(reason.would_drop())))
}

const PASSES: (bool, u64, u64) = (false, 0, 0);

#[test]
fn packets_are_charged_only_under_pressure_and_only_if_nobody_has_their_next_hop() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(DropMode::Drop)?;
    for last in 10..40 {
        assert_eq!(judged(&mut tables, unresolved(last))?, PASSES, "no pressure");
    }
    press(&mut tables, 300, 60 * SECOND as i64);
    for last in 10..18 {
        assert_eq!(judged(&mut tables, unresolved(last))?, PASSES, "number {last} of the budget");
    }
    assert_eq!(judged(&mut tables, unresolved(18))?, (true, 1, 0));
    assert_eq!(judged(&mut tables, unresolved(10))?, PASSES, "it was paid for");
    for free in [RESOLVED, OWN, [10, 20, 0, 1], [10, 30, 0, 1], [10, 40, 0, 1], [10, 9, 0, 255], [224, 0, 0, 1]] {
        assert_eq!(judged(&mut tables, free)?, PASSES, "{free:?}");
    }
    // Once the next hop of a route is not resolved, everything behind it is one.
    ensure!(Command::new("ip").args(["neigh", "del", "10.9.0.200", "dev", "d0"]).status()?.success());
    assert_eq!(judged(&mut tables, [10, 20, 0, 1])?, (true, 1, 0));
    press(&mut tables, 300, -1);
    assert_eq!(judged(&mut tables, unresolved(18))?, PASSES, "the pressure is over");
    Ok(())
}

#[test]
fn count_drops_nothing() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(DropMode::Count)?;
    press(&mut tables, 300, 60 * SECOND as i64);
    for last in 10..18 {
        assert_eq!(judged(&mut tables, unresolved(last))?, PASSES);
    }
    assert_eq!(judged(&mut tables, unresolved(18))?, (false, 0, 1));
    Ok(())
}

#[test]
fn in_a_tight_table_half_of_a_budget_is_left() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(DropMode::Drop)?;
    press(&mut tables, 500, 60 * SECOND as i64);
    for last in 10..14 {
        assert_eq!(judged(&mut tables, unresolved(last))?, PASSES, "number {last}");
    }
    assert_eq!(judged(&mut tables, unresolved(14))?, (true, 1, 0));
    Ok(())
}

#[test]
fn an_interface_without_the_policy_is_not_charged() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(DropMode::Off)?;
    press(&mut tables, 500, 60 * SECOND as i64);
    for last in 10..40 {
        assert_eq!(judged(&mut tables, unresolved(last))?, PASSES);
    }
    Ok(())
}
