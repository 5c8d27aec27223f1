//! The loaded guard: what it drops, what it counts, and that it judges as userspace does.

use crate::tables::{INGRESS, LOCAL, NEXT_POD, POD, POD_MAC, ProgramTables};
use anyhow::ensure;
use arp_agent::dataplane::bpf::guards::GuardConfig;
use arp_agent::dataplane::bpf::programs::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use arp_agent::dataplane::fake::Fake;
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::fib::Entry;
use arp_common::guard::{BudgetClass, DropMode, DropReason, GuardMemory, Policy, Rate, judge};
use arp_common::maps::IfaceAddr;
use arp_common::tables::lookup;
use arp_common::{ArpFrame, Lladdr, PackedArp, Tables as _};
use lab::needs_root;

use crate::tables::VIEW;

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
/// Behind the uplink.
const STRANGER: [u8; 4] = [198, 18, 0, 1];

fn tables(modes: u32) -> anyhow::Result<ProgramTables> {
    let mut tables = ProgramTables::guarded()?;
    tables.apply(&[Change::CommonView(Some(VIEW))])?;
    // One frame in a thousand seconds.
    let rate = Rate { interval: 1_000_000_000_000, depth: 3_000_000_000_000 };
    let configured = GuardConfig { modes, list: 1, limit: 4, learn: rate, other: rate, ..GuardConfig::default() };
    ensure!(tables.bpf.configure_guard(INGRESS, &configured), "lo has no entry");
    Ok(tables)
}

/// Whether the guard drops a frame, and which counter moved.
fn guarded(tables: &mut ProgramTables, frame: &ArpFrame) -> anyhow::Result<(bool, Vec<usize>)> {
    let (before, bytes) = (tables.counters(), frame.to_bytes());
    let run = tables.bpf.run_guard(INGRESS, &bytes)?;
    let after = tables.counters();
    ensure!(run.frame == bytes, "the guard has changed the frame");
    ensure!([TC_ACT_UNSPEC, TC_ACT_SHOT].contains(&run.action), "action {}", run.action);
    Ok((run.action == TC_ACT_SHOT, (0..after.len()).filter(|&at| after[at] != before[at]).collect()))
}

fn from(spa: [u8; 4]) -> ArpFrame {
    ArpFrame::request(POD_MAC, spa, GATEWAY)
}

#[test]
fn the_guard_drops_counts_or_does_nothing() -> anyhow::Result<()> {
    needs_root!();
    let reason = DropReason::SenderElsewhere;
    for (mode, expected) in [
        (DropMode::Off, (false, vec![])),
        (DropMode::Count, (false, vec![reason.would_drop()])),
        (DropMode::Drop, (true, vec![reason.dropped()])),
    ] {
        let mut tables = tables(Policy::modes_of(mode, DropMode::Off, DropMode::Off))?;
        assert_eq!(guarded(&mut tables, &from(STRANGER))?, expected, "{mode:?}");
        assert_eq!(guarded(&mut tables, &from(POD))?, (false, vec![]), "{mode:?}");
        assert_eq!(guarded(&mut tables, &from(NEXT_POD))?, (false, vec![]), "{mode:?}");
        tables.set_lease(false)?;
        assert_eq!(guarded(&mut tables, &from(STRANGER))?, (false, vec![]), "{mode:?}, without a lease");
    }
    Ok(())
}

#[test]
fn lists_limits_graces_and_budgets_are_kept_in_the_kernel() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(Policy::modes_of(DropMode::Drop, DropMode::Drop, DropMode::Drop))?;
    let dropped = |reason: DropReason| (true, vec![reason.dropped()]);
    // The longest prefix decides.
    tables.bpf.allow(1, Prefix::new([198, 18, 0, 0], 16), Some(Lladdr::new(OTHER_MAC)))?;
    tables.bpf.allow(1, Prefix::new([198, 18, 1, 0], 24), None)?;
    tables.bpf.allow(2, Prefix::new([0; 4], 0), None)?;
    assert_eq!(guarded(&mut tables, &from(STRANGER))?, dropped(DropReason::SenderElsewhere), "from another address");
    assert_eq!(guarded(&mut tables, &ArpFrame::request(OTHER_MAC, STRANGER, GATEWAY))?, (false, vec![]));
    assert_eq!(guarded(&mut tables, &from([198, 18, 1, 1]))?, (false, vec![]));
    assert_eq!(guarded(&mut tables, &from([198, 19, 0, 1]))?, dropped(DropReason::SenderElsewhere));
    // Two unknown senders so far, and two that the mirror has.
    assert_eq!(tables.bpf.let_up(INGRESS), 2);
    tables.bpf.set_entries(INGRESS, 2, 0);
    assert_eq!(guarded(&mut tables, &from(NEXT_POD))?, dropped(DropReason::EntryLimit));
    tables.bpf.set_entries(INGRESS, 2, 1);
    assert_eq!(guarded(&mut tables, &from(NEXT_POD))?, (false, vec![]), "the third of the budget");
    tables.bpf.set_entries(INGRESS, 0, 3);
    assert_eq!(guarded(&mut tables, &from([10, 5, 0, 6]))?, dropped(DropReason::LearnBudget));
    assert_eq!(guarded(&mut tables, &from(POD))?, (false, vec![]), "a known sender is free");
    assert_eq!(guarded(&mut tables, &ArpFrame::request(POD_MAC, [0; 4], LOCAL))?, (false, vec![]), "an answered probe");
    let probe = ArpFrame::request(POD_MAC, [0; 4], STRANGER);
    for _ in 0..3 {
        assert_eq!(guarded(&mut tables, &probe)?, (false, vec![]));
    }
    assert_eq!(guarded(&mut tables, &probe)?, dropped(DropReason::OtherBudget));
    Ok(())
}

#[test]
fn a_grace_is_for_eight_frames() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(Policy::modes_of(DropMode::Drop, DropMode::Off, DropMode::Off))?;
    tables.bpf.set_grace(INGRESS, arp_agent::clock::monotonic_ns() + 600_000_000_000);
    let mut dropped = Vec::new();
    for _ in 0..10 {
        dropped.push(guarded(&mut tables, &from(STRANGER))?.0);
    }
    assert_eq!(dropped, [vec![false; 8], vec![true; 2]].concat());
    tables.bpf.set_grace(INGRESS, 1);
    assert!(guarded(&mut tables, &from(STRANGER))?.0, "it is over");
    Ok(())
}

/// What a guard without budget, list and grace remembers: nothing but the tables that it asks.
struct NothingBut<'a>(&'a Fake);

impl GuardMemory for NothingBut<'_> {
    fn route(&self, addr: [u8; 4]) -> Entry {
        lookup(self.0, VIEW, addr)
    }
    fn allowed(&self, _: u32, _: [u8; 4]) -> Option<u64> {
        None
    }
    fn take(&self, _: BudgetClass, _: &Rate) -> bool {
        true
    }
    fn has_grace(&self, _: &Policy) -> bool {
        false
    }
    fn let_up(&self) -> u64 {
        0
    }
    fn note(&self, _: [u8; 4], _: &Policy) {}
    fn saw_owner(&self, _: IfaceAddr) {}
    fn may_move(&self, _: IfaceAddr, _: Lladdr) -> bool {
        false
    }
    fn would_drop(&self, _: DropReason) {}
}

#[test]
fn the_loaded_guard_judges_as_userspace_does() -> anyhow::Result<()> {
    needs_root!();
    let modes = Policy::modes_of(DropMode::Drop, DropMode::Off, DropMode::Off);
    let mut tables = tables(modes)?;
    let policy = Policy { modes, ..Policy::default() };
    let mut random = fastrand::Rng::with_seed(1);
    let addresses = [POD, NEXT_POD, LOCAL, STRANGER, GATEWAY, [0; 4], [10, 66, 0, 1], [10, 67, 5, 1], [127, 0, 0, 1]];
    let mut verdicts = [0; 2];
    for number in 0..4000 {
        let mut pick = || addresses[random.usize(..addresses.len())];
        let (spa, tpa) = (pick(), pick());
        let sha = if random.bool() { POD_MAC } else { OTHER_MAC };
        let mut frame = ArpFrame::request(sha, spa, tpa);
        frame.arp.oper = [0, [1, 1, 1, 2, 3][random.usize(..5)]];
        let iface = tables.fake.iface(INGRESS).ok_or_else(|| anyhow::anyhow!("lo has no entry"))?;
        let expected =
            judge(&PackedArp::from(&frame), INGRESS, &iface, &policy, &tables.fake, &NothingBut(&tables.fake));
        let counters: Vec<usize> = expected.map(DropReason::dropped).into_iter().collect();
        let judged = guarded(&mut tables, &frame)?;
        assert_eq!(judged, (expected.is_some(), counters), "frame {number}: {frame:?}");
        verdicts[usize::from(expected.is_some())] += 1;
    }
    assert!(verdicts.iter().all(|&times| times > 400), "{verdicts:?}");
    Ok(())
}
