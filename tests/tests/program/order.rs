//! Frames beside a writer that changes the tables again and again: no answer is made of two batches.
//!
//! Two states of the tables follow each other. In each of them one of two targets is answered, with the state's own
//! link-layer address. An answer with the other one was read half before and half after a batch.
//! docs/adr/0019-order-of-reads.md says what keeps the reads in order.

use crate::tables::{INGRESS, POD, POD_MAC, ProgramTables, VIEW, neighbour};
use anyhow::{Context as _, ensure};
use arp_agent::dataplane::Dataplane as _;
use arp_agent::dataplane::HookKind;
use arp_agent::dataplane::bpf::programs::actions;
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::ArpFrame;
use arp_common::fib::Entry;
use arp_common::maps::{Iface, Neighbour};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use lab::{BpfFs, needs_root, stretched};
use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is answered in each state, and with which address.
const TARGETS: [[u8; 4]; 2] = [[192, 0, 2, 7], [198, 51, 100, 9]];
const MACS: [[u8; 6]; 2] = [[0x0a; 6], [0x0c; 6]];

/// Answers that must have been seen for each target; to see none would prove nothing.
const ANSWERS: u64 = 500;
/// For so long at least.
const AT_LEAST: Duration = Duration::from_secs(2);
/// … and so long at most.
const AT_MOST: Duration = Duration::from_secs(60);

/// The batch that leads to a state.
fn batch(state: usize) -> [Change; 3] {
    let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
    let other = 1 - state;
    // A frame reads the interface first and the routes last. The batches write them in both orders.
    let iface = Change::Iface(INGRESS, Some(Iface { mac: MACS[state], flags, ..Iface::default() }));
    let answered = Change::Insert(VIEW, Prefix::new(TARGETS[state], 32), Entry::LOCAL);
    let passed = Change::Insert(VIEW, Prefix::new(TARGETS[other], 32), Entry::UNANSWERABLE);
    if state == 0 { [iface, answered, passed] } else { [answered, passed, iface] }
}

/// What came of the frames of one thread.
#[derive(Default)]
struct Seen {
    frames: u64,
    answers: [u64; 2],
}

#[test]
fn no_answer_is_made_of_two_batches() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    // Fixed: a frame that meets a batch half written puts every other entry in doubt, and here is no agent to settle it.
    let flags = Neighbour::ALWAYS | Neighbour::FIXED;
    tables.apply(&[Change::Neighbour(neighbour(POD), Some(Neighbour { lladdr: POD_MAC, flags }))])?;
    // Before the first frame: what the tables hold to begin with answers, too, and with an address of its own.
    tables.bpf.apply(&batch(0))?;
    let folder = BpfFs::mount()?;
    let pinned = folder.path().join("program");
    tables.bpf.tc()?.pin(&pinned).context("pinning the program")?;
    let readers = thread::available_parallelism().map_or(1, |cpus| cpus.get().saturating_sub(1)).clamp(1, 3);
    let done = AtomicBool::new(false);
    let (seen, batches) = thread::scope(|scope| {
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    let seen =
                        SchedClassifier::from_pin(&pinned).map_err(Into::into).and_then(|program| send(&program));
                    done.store(true, Ordering::Relaxed);
                    seen
                })
            })
            .collect();
        let (mut batches, mut result) = (1_u64, Ok(()));
        while !done.load(Ordering::Relaxed) && result.is_ok() {
            result = tables.bpf.apply(&batch((batches % 2) as usize));
            batches += 1;
            // A decision that is to be answered must fit between two batches.
            (0..fastrand::u32(..1024)).for_each(|_| hint::spin_loop());
        }
        let seen = readers.into_iter().map(|reader| reader.join().expect("a frame's thread panicked"));
        (seen.collect::<anyhow::Result<Vec<Seen>>>(), result.map(|()| batches))
    });
    let (seen, batches) = (seen?, batches?);
    let frames: u64 = seen.iter().map(|seen| seen.frames).sum();
    let answers: Vec<[u64; 2]> = seen.iter().map(|seen| seen.answers).collect();
    println!("{batches} batches, {frames} frames, answers {answers:?}");
    Ok(())
}

/// Sends frames until enough were answered.
fn send(program: &SchedClassifier) -> anyhow::Result<Seen> {
    let (_, replies) = actions(HookKind::Clsact);
    let requests = TARGETS.map(|tpa| ArpFrame::request(POD_MAC, POD, tpa).to_bytes());
    // RFC 826, written out: the state's address answers for its target.
    let expected: Vec<Vec<u8>> = (0..2)
        .map(|state| {
            let (mac, target) = (MACS[state], TARGETS[state]);
            let header = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
            [&POD_MAC[..], &mac, &header, &mac, &target, &POD_MAC, &POD].concat()
        })
        .collect();
    let (mut seen, start) = (Seen::default(), Instant::now());
    while start.elapsed() < AT_LEAST || seen.answers.iter().any(|answers| *answers < ANSWERS) {
        ensure!(
            start.elapsed() < stretched(AT_MOST),
            "in {:?} only {:?} of {} frames were answered",
            start.elapsed(),
            seen.answers,
            seen.frames
        );
        // The clock is slower than the program.
        for _ in 0..64 {
            for (target, request) in requests.iter().enumerate() {
                let mut out = [0; ArpFrame::LEN];
                let options =
                    TestRunOptions { data_in: Some(request), data_out: Some(&mut out), ..TestRunOptions::default() };
                let run = program.test_run(options).context("running the program on a frame")?;
                seen.frames += 1;
                if run.return_value == replies {
                    ensure!(
                        out == *expected[target],
                        "an answer of two batches, for {:?}: {out:02x?}",
                        TARGETS[target]
                    );
                    seen.answers[target] += 1;
                } else {
                    ensure!(out == *request, "a frame that passes is touched: {out:02x?}");
                }
            }
        }
    }
    Ok(seen)
}
