//! What a run says of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::pair::{Frame, FrameBatch, Pair};
use arp_common::Lladdr;
use lab::packet::hex;
use serde_json::{Value, json};

use crate::check::Finding;
use crate::oracle::Expectation;
use crate::scenario::Scenario;

/// How many frames that should have been answered are shown.
const SHOWN: usize = 8;

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) scenarios: u64,
    /// Configurations: the scenarios' first ones, and each change to one.
    pub(crate) configurations: u64,
    pub(crate) frames: u64,
    /// Frames that the kernel alone answered.
    pub(crate) answered: u64,
    /// Of these, those that the fast path answered.
    pub(crate) taken: u64,
    /// Of `answered`, those that §10 would answer.
    expected: u64,
    /// Of these, those that the fast path answered.
    expected_and_taken: u64,
    /// Answered by the fast path, although §10 does not ask for it.
    beyond: BTreeMap<&'static str, u64>,
    /// Answered by the kernel and passed by the fast path: why §10 would pass.
    reasons: BTreeMap<&'static str, u64>,
    /// Of `expected`, those that the fast path passed, and why, as `explain` says right after.
    missed: BTreeMap<String, u64>,
    /// Scenarios in which §10 would answer, and the kernel alone was silent: a mistake in §10 or in the oracle.
    pub(crate) contradictions: u64,
    /// Frames of which `explain` said what the kernel does.
    pub(crate) explained: u64,
    /// Frames of which it said that it cannot be said.
    pub(crate) explained_openly: u64,
    /// Scenarios in which it said what the kernel did not do.
    pub(crate) explained_wrongly: u64,
    /// Frames that arrived nowhere.
    lost: u64,
    pub(crate) steps: u64,
    pub(crate) refused_steps: u64,
    pub(crate) divergences: u64,
    /// Differences that did not show again, in a batch during which the kernel cleared the neighbour table.
    pub(crate) collected: u64,
    features: BTreeMap<&'static str, (u64, u64)>,
    /// Frames about which §10 and the fast path, or §10 and the kernel, do not agree.
    samples: BTreeMap<&'static str, Vec<String>>,
    /// What the program counted, over all agents.
    counters: BTreeMap<String, u64>,
    /// What policies in `count` would have dropped, by reason.
    would_drop: BTreeMap<String, u64>,
    /// What the workers' time went into.
    pub(crate) spent: BTreeMap<&'static str, Duration>,
}

impl Progress {
    pub(crate) fn scenario(&mut self, scenario: &Scenario) {
        self.scenarios += 1;
        self.configurations += scenario.phases.len() as u64;
        for (&name, &count) in &scenario.features {
            let (scenarios, times) = self.features.entry(name).or_default();
            *scenarios += 1;
            *times += count as u64;
        }
    }

    /// Counts a batch, with what the oracle says of each frame; `first` is the index of `v0`.
    pub(crate) fn batch(
        &mut self,
        batch: &FrameBatch<'_>,
        verdicts: &[Option<Expectation>],
        first: u32,
        scenario: u64,
    ) {
        for (seen, verdict) in batch.seen.iter().zip(verdicts) {
            self.frames += 1;
            self.answered += u64::from(seen.answered);
            let Some(taken) = seen.taken else {
                self.lost += 1;
                continue;
            };
            self.taken += u64::from(taken);
            match (verdict, seen.answered, taken) {
                (Some(Ok(())), true, taken) => {
                    self.expected += 1;
                    self.expected_and_taken += u64::from(taken);
                    if !taken && batch.agent.is_some() {
                        let reason = agents_reason(batch, first + u32::from(seen.frame.port), seen.frame);
                        *self.missed.entry(reason).or_default() += 1;
                        self.sample("passed, although §10 answers", scenario, seen.frame);
                    }
                }
                (Some(Ok(())), false, _) => self.sample("silence, although §10 answers", scenario, seen.frame),
                (Some(Err(why)), true, true) => {
                    *self.beyond.entry(why).or_default() += 1;
                    self.sample("answered, although §10 does not ask for it", scenario, seen.frame);
                }
                (Some(Err(why)), true, false) => *self.reasons.entry(why).or_default() += 1,
                (Some(Err(_)), false, _) | (None, ..) => {}
            }
        }
    }

    /// Counts a finding; one that does not count was not seen again.
    pub(crate) fn finding(&mut self, finding: &Finding, counts: bool) {
        match finding {
            _ if !counts => self.collected += 1,
            Finding::Difference(_) => self.divergences += 1,
            Finding::Silence(_) => self.contradictions += 1,
            Finding::Explained(..) => self.explained_wrongly += 1,
        }
    }

    fn sample(&mut self, what: &'static str, scenario: u64, frame: &Frame) {
        let samples = self.samples.entry(what).or_default();
        if samples.len() < SHOWN {
            samples.push(format!(
                "scenario {scenario}, v{} {}",
                frame.port,
                hex(&frame.bytes[..frame.bytes.len().min(42)])
            ));
        }
    }

    /// Adds what an agent's program has counted, and what the pair spent their time on.
    pub(crate) fn agent(&mut self, pair: &Pair) {
        for (&on, &time) in pair.spent() {
            *self.spent.entry(on).or_default() += time;
        }
        let status = pair.agent().and_then(|agent| agent.ask("\"status\"").ok());
        for (what, counted) in [("passed", &mut self.counters), ("would_drop", &mut self.would_drop)] {
            let counts = status.as_ref().and_then(|status| status["status"][what].as_object());
            for (reason, count) in counts.into_iter().flatten() {
                *counted.entry(reason.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
        }
    }

    /// Of the frames that the kernel and §10 answer, the share that the fast path answered.
    fn coverage(&self) -> f64 {
        share(self.expected_and_taken, self.expected)
    }

    /// The summary; its last line is for machines.
    pub(crate) fn summary(&self, seed: u64, elapsed: Duration, fast_path: bool, count_policies: bool) -> String {
        let mut text = String::new();
        let mut line = |line: String| text += &format!("{line}\n");
        let (scenarios, frames) = (self.scenarios, self.frames);
        line(format!(
            "seed {seed}: {scenarios} scenarios, {} configurations, {frames} frames in {:.0} s",
            self.configurations,
            elapsed.as_secs_f64()
        ));
        line(format!("steps of configuration: {}, of which the kernel refused {}", self.steps, self.refused_steps));
        line(format!(
            "the kernel alone answered {} frames ({:.1} %); {} reached no port that is up",
            self.answered,
            100.0 * share(self.answered, frames),
            self.lost
        ));
        line(format!(
            "differences when the kernel cleared the neighbour table, not seen again and not counted: {}",
            self.collected
        ));
        if fast_path {
            line(format!(
                "of these the fast path answered {} ({:.1} %)",
                self.taken,
                100.0 * share(self.taken, self.answered)
            ));
            line(format!(
                "§10 would answer {}, of which the fast path answered {} ({:.3} %)",
                self.expected,
                self.expected_and_taken,
                100.0 * self.coverage()
            ));
            line(table("answered by the kernel, passed by the fast path; why §10 passes", &self.reasons));
            line(table(
                "passed by the fast path, although §10 answers; what `explain` says after it, else what was counted",
                &self.missed,
            ));
            line(table("answered by the fast path, although §10 does not ask for it", &self.beyond));
            line(table("passed, as the program counted it", &self.counters));
            if count_policies {
                line(table("counted by policies, which would drop it", &self.would_drop));
            }
        } else {
            line(format!("§10 would answer {} of these", self.expected));
            line(table("answered by the kernel; why §10 passes", &self.reasons));
        }
        line(format!(
            "`explain` was asked about {} frames, and left {} of them open; scenarios in which it was wrong: {}",
            self.explained + self.explained_openly,
            self.explained_openly,
            self.explained_wrongly
        ));
        line(format!("scenarios with silence of the kernel where §10 would answer: {}", self.contradictions));
        let spent: Vec<String> =
            self.spent.iter().map(|(on, time)| format!("{on} {:.0} s", time.as_secs_f64())).collect();
        line(format!("the workers' time: {}", spent.join(", ")));
        let features =
            self.features.iter().map(|(name, &(scenarios, times))| (format!("{name} ({scenarios} scenarios)"), times));
        line(table("what occurred in the configurations", &features.collect()));
        for (what, samples) in &self.samples {
            samples.iter().for_each(|sample| line(format!("note: {what}: {sample}")));
        }
        let _ = writeln!(
            text,
            "parity: scenarios={scenarios} frames={frames} answered={} divergences={} silences={} coverage={:.5}",
            self.answered,
            self.divergences,
            self.contradictions,
            self.coverage()
        );
        text
    }
}

/// Why the agent would pass the request that the frame is about; if it would not, what the program counted meanwhile.
fn agents_reason(batch: &FrameBatch<'_>, ingress: u32, frame: &Frame) -> String {
    let (Some(agent), Some(arp)) = (batch.agent, frame.arp()) else { return "no agent".to_owned() };
    let [sender, target] = [arp.arp.spa, arp.arp.tpa].map(|addr| Ipv4Addr::from(addr).to_string());
    let question = json!({"interface": format!("v{}", frame.port), "ifindex": ingress, "target": target,
                          "sender": sender, "sender_mac": Lladdr::new(arp.arp.sha).to_string()});
    let answer = agent.ask(&json!({"explain": {"question": question, "run_program": false}}).to_string());
    match answer {
        Err(error) => format!("{error:#}"),
        Ok(answer) => match answer["explanation"]["reason"].as_str() {
            Some(reason) => reason.to_owned(),
            None => format!("would be answered; counted meanwhile: {}", passing_reasons(batch, ingress)),
        },
    }
}

/// Of the reasons to pass that are about the moment, not the frame: those that were counted since the batch began.
fn passing_reasons(batch: &FrameBatch<'_>, ingress: u32) -> String {
    let after = batch.agent.and_then(|agent| agent.ask("\"status\"").ok()).unwrap_or_default();
    let count = |status: &Value, reason: &str| {
        let interfaces = status["interfaces"].as_array().into_iter().flatten();
        let mut of_ingress = interfaces.filter(|interface| interface["ifindex"] == ingress);
        of_ingress.next().and_then(|interface| interface["passed"][reason].as_u64()).unwrap_or_default()
    };
    let moment = ["updating", "lease_expired", "interface_unknown", "neighbour_unknown", "proxy_unconfirmed"];
    let counted = moment.into_iter().filter(|reason| count(&after["status"], reason) > count(batch.before, reason));
    let counted: Vec<&str> = counted.collect();
    if counted.is_empty() { "none of these".to_owned() } else { counted.join(", ") }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A title and counts, the largest first, several to a line.
fn table<K: std::fmt::Display>(title: &str, counts: &BTreeMap<K, u64>) -> String {
    let mut rows: Vec<(&K, &u64)> = counts.iter().collect();
    rows.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    let rows: Vec<String> = rows.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let mut text = format!("{title}:");
    for chunk in rows.chunks(4) {
        let _ = write!(text, "\n  {}", chunk.join(", "));
    }
    text
}
