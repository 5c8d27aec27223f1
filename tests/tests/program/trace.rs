//! The programs that tell of each frame: they do what the others do, tell what came of it, and are there only while they
//! are wanted.

use crate::tables::{INGRESS, LOCAL, MAC, NEXT_POD, POD, POD_MAC, ProgramTables, VIEW};
use anyhow::{Context as _, ensure};
use arp_agent::dataplane::HookKind;
use arp_agent::dataplane::bpf::programs::{ProgramRun, actions};
use arp_agent::dataplane::bpf::trace::TraceReader;
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::deviation::{AnswerMode, Deviation, DeviationConfig};
use arp_common::fib::Entry;
use arp_common::maps::Counters;
use arp_common::trace::{RING_LEN, Told};
use arp_common::{ArpFrame, Lladdr, PackedArp, Reason};
use lab::needs_root;

const HOOKS: [HookKind; 3] = [HookKind::XdpSkb, HookKind::XdpVeth, HookKind::Clsact];
const ALL: u64 = u64::MAX;
const ANSWERS: u64 = 1;
const FAR: [u8; 4] = [10, 20, 0, 1];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];

fn request(spa: [u8; 4], tpa: [u8; 4]) -> ArpFrame {
    ArpFrame::request(POD_MAC, spa, tpa)
}

/// Runs the program on a frame; gives what it did, and what it counted.
fn run(tables: &mut ProgramTables, how: HookKind, frame: &ArpFrame) -> anyhow::Result<(ProgramRun, Counters)> {
    tables.bpf.trust_again();
    let before = tables.counters();
    let run = tables.bpf.run_on(how, INGRESS, &frame.to_bytes())?;
    let after = tables.counters();
    Ok((run, std::array::from_fn(|at| after[at] - before[at])))
}

fn next(reader: &mut TraceReader) -> anyhow::Result<Told> {
    reader.next().context("nothing was told")
}

/// What was told of a frame, but for times, which must be sane.
fn of(told: &Told) -> anyhow::Result<(u32, Option<Reason>, PackedArp, Option<Lladdr>)> {
    let now = arp_agent::clock::monotonic_ns();
    ensure!(told.time <= now && now - told.time < 60_000_000_000, "{told:?} at {now}");
    let reason = (told.reason != 0).then(|| Reason::from_raw(told.reason.into()));
    Ok((told.ifindex, reason, told.frame(), told.mac()))
}

#[test]
fn each_frame_is_told_and_nothing_else_changes() -> anyhow::Result<()> {
    needs_root!();
    for how in HOOKS {
        // Whether the hook is in use before the trace, or from then on.
        for is_in_use in [true, false] {
            let (mut plain, mut tables) = (ProgramTables::new()?, ProgramTables::new()?);
            if is_in_use {
                run(&mut tables, how, &request(POD, FAR))?;
            }
            let mut reader = tables.bpf.start_trace(ALL)?;
            assert_eq!(reader.next(), None, "{how:?}: nothing has come");
            let probe = ArpFrame::request(POD_MAC, [0; 4], FAR);
            for (frame, reason) in [
                (request(POD, FAR), None),
                (request(POD, LOCAL), None),
                (request(NEXT_POD, FAR), Some(Reason::NEIGHBOUR_UNKNOWN)),
                (request(POD, POD), Some(Reason::ANNOUNCEMENT)),
                (probe, Some(Reason::PROBE_NOT_LOCAL)),
            ] {
                let came = run(&mut tables, how, &frame)?;
                assert_eq!(came, run(&mut plain, how, &frame)?, "{how:?}: as without a trace");
                let told = next(&mut reader)?;
                let mac = reason.is_none().then(|| Lladdr::new(MAC));
                assert_eq!(of(&told)?, (INGRESS, reason, PackedArp::from(&frame), mac), "{how:?}");
                assert_eq!((told.policy, reader.next()), (0, None));
            }
            tables.bpf.stop_trace();
            let came = run(&mut tables, how, &request(POD, FAR))?;
            assert_eq!(came, run(&mut plain, how, &request(POD, FAR))?, "{how:?}: as before the trace");
            assert_eq!((reader.next(), reader.lost()), (None, 0), "{how:?}: nothing is told any more");
            // Once more.
            let mut reader = tables.bpf.start_trace(ALL)?;
            run(&mut tables, how, &request(POD, FAR))?;
            assert_eq!(of(&next(&mut reader)?)?.1, None, "{how:?}");
        }
    }
    Ok(())
}

#[test]
fn only_what_the_mask_has_is_told() -> anyhow::Result<()> {
    needs_root!();
    for how in HOOKS {
        let mut tables = ProgramTables::new()?;
        let mut reader = tables.bpf.start_trace(ANSWERS)?;
        run(&mut tables, how, &request(NEXT_POD, FAR))?;
        assert_eq!(reader.next(), None, "{how:?}: a pass");
        run(&mut tables, how, &request(POD, FAR))?;
        assert_eq!(of(&next(&mut reader)?)?.1, None, "{how:?}");
        tables.bpf.set_trace_mask(1 << Reason::NEIGHBOUR_UNKNOWN.raw());
        run(&mut tables, how, &request(POD, FAR))?;
        run(&mut tables, how, &request(POD, POD))?;
        assert_eq!(reader.next(), None, "{how:?}: an answer, and a pass for another reason");
        run(&mut tables, how, &request(NEXT_POD, FAR))?;
        assert_eq!(of(&next(&mut reader)?)?.1, Some(Reason::NEIGHBOUR_UNKNOWN), "{how:?}");
    }
    Ok(())
}

#[test]
fn an_answer_by_policy_names_the_policy() -> anyhow::Result<()> {
    needs_root!();
    for how in HOOKS {
        let mut tables = ProgramTables::deviating()?;
        tables.apply(&[
            Change::CommonView(Some(VIEW)),
            Change::Remove { view: VIEW, prefix: Prefix::new([0; 4], 0), cover: Entry::NONE, cover_len: 0 },
        ])?;
        tables.bpf.add_gateway(1, GATEWAY)?;
        ensure!(tables.bpf.configure_deviations(INGRESS, DeviationConfig::new(AnswerMode::Answer, AnswerMode::Off, 1)));
        let mut reader = tables.bpf.start_trace(ALL)?;
        let (came, _) = run(&mut tables, how, &request(POD, GATEWAY))?;
        assert_eq!(came.action, actions(how).1, "{how:?}");
        let told = next(&mut reader)?;
        assert_eq!((told.reason, told.policy), (0, Deviation::Gateway as u16 + 1), "{how:?}");
        run(&mut tables, how, &request(POD, LOCAL))?;
        assert_eq!(next(&mut reader)?.policy, 0, "{how:?}: the kernel would answer, too");
        run(&mut tables, how, &request(POD, FAR))?;
        let told = next(&mut reader)?;
        assert_eq!((told.reason, told.policy), (Reason::NO_ROUTE.raw() as u16, 0), "{how:?}");
    }
    Ok(())
}

#[test]
fn shadow_tells_what_it_would_answer() -> anyhow::Result<()> {
    needs_root!();
    for how in HOOKS {
        let mut tables = ProgramTables::shadowing()?;
        let mut reader = tables.bpf.start_trace(ALL)?;
        let (came, _) = run(&mut tables, how, &request(POD, FAR))?;
        assert_eq!(came.action, actions(how).0, "{how:?}");
        let (_, reason, _, mac) = of(&next(&mut reader)?)?;
        assert_eq!((reason, mac), (Some(Reason::SHADOW), Some(Lladdr::new(MAC))), "{how:?}");
        run(&mut tables, how, &request(NEXT_POD, FAR))?;
        let (_, reason, _, mac) = of(&next(&mut reader)?)?;
        assert_eq!((reason, mac), (Some(Reason::NEIGHBOUR_UNKNOWN), None), "{how:?}");
        assert_eq!(tables.bpf.samples()?.len(), 2, "{how:?}: both are compared all the same");
    }
    Ok(())
}

#[test]
fn what_finds_no_room_is_answered_and_counted_as_lost() -> anyhow::Result<()> {
    needs_root!();
    // A record has a header of 8 bytes.
    let room = u64::from(RING_LEN) / (size_of::<Told>() as u64 + 8);
    let mut tables = ProgramTables::new()?;
    let mut reader = tables.bpf.start_trace(ALL)?;
    let frame = request(POD, FAR).to_bytes();
    let before = tables.counters();
    for _ in 0..room + 10 {
        tables.bpf.run_on(HookKind::XdpSkb, INGRESS, &frame)?;
    }
    assert_eq!(tables.counters()[0] - before[0], room + 10, "each was answered");
    let told = reader.by_ref().count() as u64;
    assert_eq!((told + reader.lost(), tables.bpf.trace_lost()), (room + 10, reader.lost()));
    assert!((10..=12).contains(&reader.lost()), "{} are lost", reader.lost());
    tables.bpf.run_on(HookKind::XdpSkb, INGRESS, &frame)?;
    assert!(reader.next().is_some(), "there is room again");
    Ok(())
}
