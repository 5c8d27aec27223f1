//! A pod that lies about who it is: each request has another sender, random, out of a range that the node routes
//! nowhere near the pod. The node takes them where `rp_filter` is 0, as Calico's eBPF mode sets it.
//!
//! The kernel learns every sender, and its neighbour table, one for all namespaces, is full after a thousand. The fast
//! path answers for known senders only, and passes these to the kernel: it does not make this better.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use arp_common::ArpFrame;
use bench::{Flood, Flooded, KERNEL, Requester, Responder, Stand, settled, stands};
use lab::{Lab, topology};

use super::reply;
use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::samples::{Key, order};

const RATE: &str = "replies a second, spoofed senders";
const BEFORE: &str = "neighbour entries of the node before the spoofed senders";
const AFTER: &str = "neighbour entries of the node after the spoofed senders";
/// Senders, more than the neighbour table has room for (`gc_thresh3` is 1,024 by default).
const SENDERS: u32 = 8192;

pub(super) const TABLE: Table = Table {
    columns: Columns::Measures,
    measures: &[
        (QUIET[0], "p50 of another pod, before"),
        (MEANWHILE[0], "during spoofed senders"),
        (QUIET[1], "p99, before"),
        (MEANWHILE[1], "during"),
        (RATE, "replies a second"),
        (AFTER, "neighbour entries after"),
    ],
    cases: &[],
};

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, window) = context.either((5, 250), (1, 50));
    let window = Duration::from_millis(window);
    // The liar, and another pod that asks meanwhile.
    let all = [Responder::Kernel, Responder::Kernel, Responder::Tcx, Responder::Tcx, Responder::Skb, Responder::Skb];
    let lab = topology::calico(all.len() as u8)?;
    let stands = stands(&lab, &all, 0, context.core, |who, why| {
        findings.skip(&format!("{}, spoofed senders", who.name()), &why);
    });
    let pairs: Vec<[&Stand; 2]> = stands
        .chunks(2)
        .filter_map(|pair| if let [a, b] = pair { (a.who == b.who).then_some([a, b]) } else { None })
        .collect();
    for index in 0..all.len() {
        lab.node().sysctl(&format!("net.ipv4.conf.cali{index}.rp_filter"), 0)?;
    }
    for round in 0..rounds {
        for index in order(round, pairs.len()) {
            context.check()?;
            let [liar, other] = pairs[index];
            measure(&lab, liar, other, context, window, round, findings)?;
        }
    }
    stands.into_iter().try_for_each(Stand::end)?;
    findings.compare(RATE, KERNEL);
    for measure in QUIET.into_iter().chain(MEANWHILE) {
        findings.compare(measure, KERNEL);
    }
    findings.note(format!(
        "Spoofed senders: {SENDERS} of them for {} ms a round, on core {}; the other pod asks on core {}.",
        window.as_millis(),
        context.cores[0],
        context.core
    ));
    Ok(())
}

const QUIET: [&str; 2] =
    ["p50 of another pod, before the spoofed senders", "p99 of another pod, before the spoofed senders"];
const MEANWHILE: [&str; 2] =
    ["p50 of another pod, during the spoofed senders", "p99 of another pod, during the spoofed senders"];

fn measure(
    lab: &Lab,
    liar: &Stand,
    other: &Stand,
    context: &Context,
    window: Duration,
    round: usize,
    findings: &mut Findings,
) -> Result<()> {
    let name = liar.who.name();
    let subject = &liar.subject;
    let key = |measure| Key::new(measure, name);
    findings.push(key(BEFORE), "entries", entries(lab)?);
    let latencies = other.subject.requester()?.one_at_a_time(other.subject.target, context.either(1000, 50))?;
    reply::add(name, &latencies, &[(QUIET[0], 0.5), (QUIET[1], 0.99)], findings);

    let mut random = fastrand::Rng::with_seed(round as u64);
    let requests: Vec<ArpFrame> = (0..SENDERS)
        .map(|_| {
            // 198.18.0.0/15 is for benchmarks (RFC 2544).
            let [_, b, c, d] = random.u32(..).to_be_bytes();
            ArpFrame::request([2, 1, b, c, d, 1], [198, 18 + (b & 1), c, d], subject.target)
        })
        .collect();
    let flood = Flood::on(&subject.namespace, context.cores[0])?;
    let before = subject.received()?;
    let (flooded, latencies) =
        during(&other.subject.requester()?, other.subject.target, || flood.run(&requests, window))?;
    let replies = settled(|| subject.received())? - before;
    findings.push(key(RATE), "1/s", replies as f64 / flooded.elapsed.as_secs_f64());
    findings.push(key(AFTER), "entries", entries(lab)?);
    reply::add(name, &latencies, &[(MEANWHILE[0], 0.5), (MEANWHILE[1], 0.99)], findings);
    // What the liar left behind would be the next one's beginning.
    lab.node().ip(&format!("neigh flush dev {}", liar.node_end))?;
    Ok(())
}

/// Asks one at a time while `flood` runs.
fn during(
    requester: &Requester,
    target: [u8; 4],
    flood: impl FnOnce() -> Result<Flooded> + Send,
) -> Result<(Flooded, Vec<Duration>)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let flooded = flood();
            done.store(true, Ordering::Relaxed);
            flooded
        });
        let mut latencies = Vec::new();
        let mut failed = Ok(());
        while !done.load(Ordering::Relaxed) && failed.is_ok() {
            match requester.one_at_a_time(target, 20) {
                Ok(some) => latencies.extend(some),
                Err(error) => failed = Err(error),
            }
        }
        let flooded = flooding.join().map_err(|_| anyhow!("the flood panicked"))??;
        failed.context("another pod, during the flood")?;
        Ok((flooded, latencies))
    })
}

/// How many IPv4 neighbour entries the node has.
fn entries(lab: &Lab) -> Result<f64> {
    Ok(lab.node().ip("-4 neigh show nud all")?.lines().count() as f64)
}
