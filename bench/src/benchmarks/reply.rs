//! How long a pod waits for a reply: one request at a time, from `send()` of a who-has until `recv()` of its reply.

use std::time::Duration;

use anyhow::Result;
use bench::{KERNEL, Requester, Responder, Stand, quantile, stands};
use lab::topology;

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::report::GoalBound;
use crate::samples::{Key, order};

/// How many requests the delayed kernel has in flight: all that its queue takes (`proxy_qlen`).
const IN_FLIGHT: u8 = 64;
/// How long it is kept busy: its longest delay.
const DELAYED: Duration = Duration::from_millis(800);

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Measures,
    measures: &[("p50", "p50"), ("p99", "p99"), ("p99.9", "p99.9")],
    cases: &[],
}];

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    // In each turn every responder has another pod, so that none has the better one throughout.
    let (turns, rounds, requests) = context.either((5, 6, 2_000), (1, 2, 100));
    let lab = topology::calico(Responder::ALL.len() as u8)?;
    let mut modes = Vec::new();
    for turn in 0..turns {
        let stands = stands(&lab, &Responder::ALL, turn, context.core, |who, why| {
            findings.skip(who.name(), &why);
        });
        for round in 0..rounds {
            for index in order(round, stands.len()) {
                context.check()?;
                let stand = &stands[index];
                // Once a turn: a round of it takes a second.
                if stand.who != Responder::DelayedKernel {
                    measure(stand, requests, findings)?;
                } else if round == 0 {
                    delayed(&stand.subject.requester()?, stand.who.name(), findings)?;
                }
            }
        }
        modes = stands.iter().map(Stand::mode).collect::<Result<Vec<_>>>()?;
        stands.into_iter().try_for_each(Stand::end)?;
    }
    for measure in ["p50", "p99", "p99.9"] {
        findings.compare(measure, KERNEL);
    }
    for (who, bound) in [(Responder::Tcx, 0.80), (Responder::Skb, 0.87)] {
        for (measure, bound) in [("p50", bound), ("p99", 1.0)] {
            let what = format!("{measure} of a reply, {}", who.name());
            judge("P3", [&what, "against the kernel"], measure, who, GoalBound::AtMost(bound), findings);
        }
    }
    modes.retain(|mode| !mode.is_empty());
    findings.note(format!(
        "{requests} requests a round, one at a time; under the delay {IN_FLIGHT} at once, {} ms a turn. Pod and responder share core {} of {}.",
        DELAYED.as_millis(),
        context.core,
        context.cores.len()
    ));
    findings.note(format!("Hooks as `status` names them: {}.", modes.join(", ")));
    Ok(())
}

/// Judges a measure by its ratio to the kernel's; clsact stands beside tcx.
pub(crate) fn judge(
    id: &str,
    what: [&str; 2],
    measure: &str,
    who: Responder,
    bound: GoalBound,
    findings: &mut Findings,
) {
    let ratios = |findings: &Findings, who: Responder| {
        // Nothing to compare is a goal not met.
        findings.samples.ratios(&Key::new(measure, who.name()), &Key::new(measure, KERNEL)).unwrap_or_default()
    };
    let values = ratios(findings, who);
    findings.goal(id, what, bound, "×", &values);
    if who == Responder::Tcx {
        let values = ratios(findings, Responder::Clsact);
        findings.beside("clsact", &values);
    }
}

/// A round of a responder that does not delay its replies.
fn measure(stand: &Stand, requests: usize, findings: &mut Findings) -> Result<()> {
    let before = stand.answered()?;
    ask(&stand.subject.requester()?, &stand.subject.name, stand.subject.target, requests, findings)?;
    stand.check(before, requests as u64)
}

/// Asks one at a time, and adds a round.
pub(crate) fn ask(
    requester: &Requester,
    name: &str,
    target: [u8; 4],
    requests: usize,
    findings: &mut Findings,
) -> Result<()> {
    let latencies = requester.one_at_a_time(target, requests)?;
    add(name, &latencies, &[("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)], findings);
    Ok(())
}

/// A round of the kernel that delays each answer by up to 0.8 s.
pub(crate) fn delayed(requester: &Requester, name: &str, findings: &mut Findings) -> Result<()> {
    // A target for each, to tell their replies apart.
    let targets: Vec<[u8; 4]> = (1..=IN_FLIGHT).map(|number| [10, 30, 0, number]).collect();
    let asked = requester.in_flight(&targets, DELAYED)?;
    // Too few for a p99.9.
    add(name, &asked.latencies, &[("p50", 0.5), ("p99", 0.99)], findings);
    Ok(())
}

/// Adds a round: these quantiles, each under the name of its measure.
pub(super) fn add(name: &str, latencies: &[Duration], quantiles: &[(&str, f64)], findings: &mut Findings) {
    let micros: Vec<f64> = latencies.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    for &(measure, share) in quantiles {
        findings.push(Key::new(measure, name), "µs", quantile(&micros, share));
    }
}
