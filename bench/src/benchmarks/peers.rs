//! The alternatives that people use: `reply` and `storm` for an ebtables rule on a bridge, Open vSwitch with an ARP
//! responder flow (in userspace: not every kernel has its datapath), and a daemon.
//!
//! Each is set up here from Debian's packages, in a namespace of its own with one pod behind a veth. What cannot run is
//! skipped and reported. Daemons are children, ended by their process id.

mod others;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bench::{KERNEL, Responder, Stand, stands};
use lab::{Lab, topology};

use super::reply;
use super::storm::{self, Dropped};
use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::samples::{Key, order};
use others::OtherResponder;

const SHARE: &str = "share of a storm's requests that got a reply";

/// Our own responders, measured here too for comparison.
const OURS: [Responder; 4] = [Responder::DelayedKernel, Responder::Kernel, Responder::Tcx, Responder::Skb];

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Measures,
    measures: &[
        ("p50", "p50"),
        ("p99", "p99"),
        (storm::RATE, "replies a second in a storm"),
        (SHARE, "requests that got one"),
        (storm::COST, "host cost of a reply"),
    ],
    cases: &[],
}];

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, requests, window) = context.either((11, 1000, 150), (2, 50, 20));
    let window = Duration::from_millis(window);
    let lab = topology::calico(OURS.len() as u8 + 1)?;
    let drop = Dropped::on(&lab, OURS.len(), context)?;
    let stands = stands(&lab, &OURS, 0, context.core, |who, why| findings.skip(who.name(), &why));
    let mut lab_of_others = Lab::new()?;
    let mut peers = Vec::new();
    for (name, start) in others::ALL {
        context.check()?;
        match start(&mut lab_of_others, name, context.core).and_then(awake) {
            Ok(peer) => peers.push(peer),
            Err(error) => findings.skip(name, &format!("{error:#}")),
        }
    }
    for round in 0..rounds {
        let floor = drop.measure(window, context.core)?;
        for index in order(round, stands.len() + peers.len()) {
            context.check()?;
            match stands.get(index) {
                Some(stand) => ours(stand, requests, window, floor, round, context, findings)?,
                None => theirs(&peers[index - stands.len()], requests, window, floor, context, findings)?,
            }
        }
    }
    stands.into_iter().try_for_each(Stand::end)?;
    for measure in ["p50", "p99", "p99.9", storm::RATE, storm::TIME, storm::COST] {
        findings.compare(measure, KERNEL);
    }
    for peer in &peers {
        findings.note(format!("{}: {}.", peer.subject.name, peer.version));
    }
    findings.note(format!(
        "{requests} requests one at a time and a storm of {} ms a round. The pods' side is on core {} of {}; daemons run where the kernel puts them, so that no cost of a reply can be told.",
        window.as_millis(),
        context.core,
        context.cores.len()
    ));
    Ok(())
}

/// Waits until a peer answers: daemons look for the owner of an address first.
fn awake(peer: OtherResponder) -> Result<OtherResponder> {
    const TRIES: usize = 20;
    for attempt in 1..=TRIES {
        match peer.subject.requester().and_then(|requester| requester.one_at_a_time(peer.subject.target, 1)) {
            Ok(_) => return Ok(peer),
            Err(error) if attempt == TRIES => {
                return Err(error)
                    .with_context(|| format!("it did not answer one of {TRIES} requests; {}", peer.said()));
            }
            Err(_) => {}
        }
    }
    bail!("it was not asked")
}

fn ours(
    stand: &Stand,
    requests: usize,
    window: Duration,
    floor: f64,
    round: usize,
    context: &Context,
    findings: &mut Findings,
) -> Result<()> {
    let (subject, name) = (&stand.subject, stand.who.name());
    if stand.who == Responder::DelayedKernel {
        // A round of it takes a second, and it is measured by `reply` and `storm` in full.
        return if round < 3 { reply::delayed(&subject.requester()?, name, findings) } else { Ok(()) };
    }
    let before = stand.answered()?;
    reply::ask(&subject.requester()?, name, subject.target, requests, findings)?;
    let storm = storm::send(subject, window, context.core, true)?;
    stand.check(before, requests as u64 + storm.requests)?;
    findings.push(Key::new(storm::RATE, name), "1/s", storm.rate());
    findings.push(Key::new(SHARE, name), "of 1", storm.replies as f64 / storm.requests as f64);
    storm::add(name, &storm, floor, findings);
    Ok(())
}

fn theirs(
    peer: &OtherResponder,
    requests: usize,
    window: Duration,
    floor: f64,
    context: &Context,
    findings: &mut Findings,
) -> Result<()> {
    let (subject, name) = (&peer.subject, peer.subject.name.as_str());
    // One that takes a hundredth of a second for each would take all day.
    let requests = requests.min(peer.patience);
    let before = peer.answered()?;
    reply::ask(&subject.requester()?, name, subject.target, requests, findings)?;
    if !peer.storms {
        return Ok(());
    }
    let storm = storm::send(subject, window, context.core, true)?;
    ensure!(storm.replies > 0, "{name}: not one reply in a storm of {} requests", storm.requests);
    if let (Some(before), Some(after)) = (before, peer.settled()?) {
        let (answered, replies) = (after - before, requests as u64 + storm.replies);
        ensure!(answered >= replies, "{name}: {replies} replies, but {answered} by its own counter");
    }
    findings.push(Key::new(storm::RATE, name), "1/s", storm.rate());
    findings.push(Key::new(SHARE, name), "of 1", storm.replies as f64 / storm.requests as f64);
    if peer.shares_the_core {
        storm::add(name, &storm, floor, findings);
    }
    Ok(())
}
