//! Many requests at once: how many replies a second, and what each costs the host.
//!
//! The generator, the responder and the pod's stack, which throws the replies away, share one core, so a request's
//! time is the sum of what all of them do. What is left of it over a program that drops every request is the
//! responder, and the way back of its reply.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arp_common::ArpFrame;
use aya::programs::xdp::XdpMode;
use bench::{Flood, KERNEL, Responder, Stand, Subject, gro, settled, stands};
use lab::{Lab, OnCore, topology};

use super::{reply, spoof};
use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::programs::{LoadedPrograms, Tc, live};
use crate::report::GoalBound;
use crate::samples::{Key, order};

pub(crate) const RATE: &str = "replies a second, AF_PACKET";
pub(crate) const TIME: &str = "time of a request, AF_PACKET";
pub(crate) const COST: &str = "host cost of a reply over the drop floor, AF_PACKET";
const LIVE_RATE: &str = "replies a second, XDP live frames";
const LIVE_TIME: &str = "time of a request, XDP live frames";
pub(crate) const DROP: &str = "drop";
const NULL: &str = "null responder, xdp driver";
/// The null responders: their names, programs, and how they are attached.
const NULLS: [(&str, &str, Null); 4] = [
    ("null responder, xdp skb", "reflect_frags", Null::Skb),
    ("null responder, xdp skb, whole frames only", "reflect", Null::Skb),
    ("null responder, tcx", "reflect_tc", Null::Tc(Tc::Tcx)),
    ("null responder, clsact", "reflect_tc", Null::Tc(Tc::Clsact)),
];

pub(crate) const TABLES: &[Table] = &[
    Table {
        columns: Columns::Measures,
        measures: &[(RATE, "replies a second"), (TIME, "time of a request"), (COST, "host cost of a reply")],
        cases: &[],
    },
    spoof::TABLE,
];

#[derive(Clone, Copy)]
enum Null {
    Skb,
    Tc(Tc),
}

/// How long a storm on the delayed kernel takes: its longest delay.
const DELAYED: Duration = Duration::from_millis(800);

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    packets(context, findings).context("AF_PACKET, own sender")?;
    live_frames(context, findings).context("XDP live frames")?;
    spoof::run(context, findings).context("spoofed senders")?;
    Ok(())
}

/// AF_PACKET, own sender.
fn packets(context: &Context, findings: &mut Findings) -> Result<()> {
    let (turns, rounds, window) = context.either((5, 5, 200), (1, 2, 20));
    let window = Duration::from_millis(window);
    // More pods: one whose requests are dropped, and those who get whatever reply.
    let lab = topology::calico((Responder::ALL.len() + 1 + NULLS.len()) as u8)?;
    let drop = Dropped::on(&lab, Responder::ALL.len(), context)?;
    let mut nulls = Vec::new();
    for (pod, (name, program, by)) in (Responder::ALL.len() + 1..).zip(NULLS) {
        let host = lab.host(&format!("p{pod}"));
        host.close_sockets();
        let mut programs = LoadedPrograms::load()?;
        match by {
            Null::Skb => programs.attach(program, lab.node(), host.node_end(), XdpMode::Skb)?,
            Null::Tc(by) => programs.attach_tc(program, lab.node(), host.node_end(), by)?,
        }
        nulls.push((Subject::new(name, host, topology::CALICO_GATEWAY, context.core), programs));
    }
    for turn in 0..turns {
        let stands = stands(&lab, &Responder::ALL, turn, context.core, |who, why| {
            findings.skip(who.name(), &why);
        });
        for round in 0..rounds {
            let floor = drop.measure(window, context.core)?;
            findings.push(Key::new(TIME, DROP), "ns", floor);
            for (null, _) in &nulls {
                let storm = send(null, window, context.core, true)?;
                ensure!(storm.replies == storm.requests, "{}: {} replies", null.name, storm.replies);
                findings.push(Key::new(RATE, &null.name), "1/s", storm.rate());
                add(&null.name, &storm, floor, findings);
            }
            for index in order(round, stands.len()) {
                context.check()?;
                let stand = &stands[index];
                // Its queue takes 64 requests and drops the others: a number of replies is all that can be said.
                let is_delayed = stand.who == Responder::DelayedKernel;
                if is_delayed && round > 0 {
                    continue;
                }
                let before = stand.answered()?;
                let window = if is_delayed { DELAYED } else { window };
                let storm = send(&stand.subject, window, context.core, !is_delayed)?;
                findings.push(Key::new(RATE, stand.who.name()), "1/s", storm.rate());
                if is_delayed {
                    continue;
                }
                stand.check(before, storm.requests)?;
                add(stand.who.name(), &storm, floor, findings);
            }
        }
        stands.into_iter().try_for_each(Stand::end)?;
    }
    for measure in [RATE, TIME, COST] {
        findings.compare(measure, KERNEL);
    }
    for (id, measure, goals) in [
        ("P4", RATE, [(Responder::Tcx, GoalBound::AtLeast(1.55)), (Responder::Skb, GoalBound::AtLeast(1.3))]),
        ("P5", COST, [(Responder::Tcx, GoalBound::AtMost(0.22)), (Responder::Skb, GoalBound::AtMost(0.5))]),
    ] {
        for (who, bound) in goals {
            let what = format!("{measure}, {}", who.name());
            reply::judge(id, [&what, "against the kernel"], measure, who, bound, findings);
        }
    }
    findings.note(format!(
        "AF_PACKET: sendmmsg of 64 requests, {} ms a round; `drop` is an XDP program in skb mode. A null responder makes every frame a \
         reply, with no table and no question: less than it no program of its hook can cost.",
        window.as_millis()
    ));
    Ok(())
}

/// A storm, and what came of it.
pub(crate) struct Storm {
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) elapsed: Duration,
}

impl Storm {
    pub(crate) fn rate(&self) -> f64 {
        self.replies as f64 / self.elapsed.as_secs_f64()
    }

    /// Of a request, in ns.
    fn time(&self) -> f64 {
        self.elapsed.as_secs_f64() * 1e9 / self.requests as f64
    }

    /// Of a reply, in ns, over what every request costs that is dropped.
    fn cost(&self, floor: f64) -> f64 {
        (self.time() - floor) * self.requests as f64 / self.replies as f64
    }
}

/// Adds time and cost of a storm.
pub(crate) fn add(name: &str, storm: &Storm, floor: f64, findings: &mut Findings) {
    findings.push(Key::new(TIME, name), "ns", storm.time());
    findings.push(Key::new(COST, name), "ns", storm.cost(floor));
}

/// Sends a pod's own request as fast as it goes. With `settle`, replies that are still on their way count too.
pub(crate) fn send(subject: &Subject, window: Duration, core: usize, settle: bool) -> Result<Storm> {
    let flood = Flood::on(&subject.namespace, core)?;
    let request = ArpFrame::request(subject.mac.bytes(), subject.ip, subject.target);
    let before = subject.received()?;
    let flooded = flood.run(&[request; 64], window)?;
    let after = if settle { settled(|| subject.received())? } else { subject.received()? };
    Ok(Storm { requests: flooded.requests, replies: after - before, elapsed: flooded.elapsed })
}

/// A pod whose requests a program drops at the node's end.
pub(crate) struct Dropped {
    subject: Subject,
    programs: LoadedPrograms,
}

impl Dropped {
    pub(crate) fn on(lab: &Lab, pod: usize, context: &Context) -> Result<Self> {
        let host = lab.host(&format!("p{pod}"));
        host.close_sockets();
        let mut programs = LoadedPrograms::load()?;
        programs.attach("discard", lab.node(), host.node_end(), XdpMode::Skb)?;
        Ok(Dropped { subject: Subject::new(DROP, host, topology::CALICO_GATEWAY, context.core), programs })
    }

    /// What a request costs that is dropped, in ns.
    pub(crate) fn measure(&self, window: Duration, core: usize) -> Result<f64> {
        let before = self.programs.discarded()?;
        let storm = send(&self.subject, window, core, true)?;
        let dropped = self.programs.discarded()? - before;
        ensure!(dropped == storm.requests, "the program dropped {dropped} of {} requests", storm.requests);
        Ok(storm.time())
    }
}

/// The generator as an XDP program whose frames enter the pod's `eth0` as if it had sent them: hardly a cost of its
/// own, which no pod could reach.
fn live_frames(context: &Context, findings: &mut Findings) -> Result<()> {
    let (turns, rounds, frames) = context.either((4, 5, 200_000), (1, 2, 10_000));
    let all = [Responder::Kernel, Responder::Skb, Responder::Driver];
    let lab = topology::calico(all.len() as u8 + 2)?;
    let _core = OnCore::enter(context.core)?;
    let mut generator = LoadedPrograms::load()?;
    let [drop, null] = [(DROP, "discard"), (NULL, "reflect")].map(|(name, program)| -> Result<_> {
        let host = lab.host(&format!("p{}", all.len() + usize::from(name == NULL)));
        host.close_sockets();
        let mut programs = LoadedPrograms::load()?;
        gro(host.namespace(), "eth0", true)?;
        programs.attach(program, lab.node(), host.node_end(), XdpMode::Driver)?;
        Ok((Subject::new(name, host, topology::CALICO_GATEWAY, context.core), programs))
    });
    let (drop, null) = (drop?, null?);
    for turn in 0..turns {
        let stands = stands(&lab, &all, turn, context.core, |who, why| {
            findings.skip(&format!("{}, live frames", who.name()), &why);
        });
        for pod in 0..all.len() {
            // Frames that skip the socket buffer need NAPI where they arrive, which GRO switches on.
            let host = lab.host(&format!("p{pod}"));
            gro(host.namespace(), "eth0", true)?;
            gro(lab.node(), host.node_end(), true)?;
        }
        // What the pod's stack does with a reply is no part of this: a program drops it as it comes in.
        let subjects: Vec<&Subject> = stands.iter().map(|stand| &stand.subject).chain([&drop.0, &null.0]).collect();
        let mut ends = Vec::new();
        for subject in &subjects {
            let mut end = LoadedPrograms::load()?;
            end.attach("discard", &subject.namespace, "eth0", XdpMode::Driver)?;
            ends.push(end);
        }
        for round in 0..rounds {
            for index in order(round, subjects.len()) {
                context.check()?;
                let (stand, subject) = (stands.get(index), subjects[index]);
                let before = stand.map(Stand::answered).transpose()?.unwrap_or_default();
                let dropped = drop.1.discarded()?;
                let request = ArpFrame::request(subject.mac.bytes(), subject.ip, subject.target);
                generator.set_frame(&request)?;
                let storm = live_storm(subject, &ends[index], &mut generator, frames)?;
                let key = |measure| Key::new(measure, &subject.name);
                findings.push(key(LIVE_TIME), "ns", storm.time());
                if subject.name == DROP {
                    let dropped = drop.1.discarded()? - dropped;
                    ensure!(
                        dropped * 100 >= storm.requests * 99,
                        "{dropped} of {} requests were dropped",
                        storm.requests
                    );
                    continue;
                }
                // Live frames outrun the queues of the slower ones.
                ensure!(storm.replies > 0, "{}: not one reply to {} requests", subject.name, storm.requests);
                if let Some(stand) = stand.filter(|stand| stand.who.is_fast_path()) {
                    let answered = stand.answered()? - before;
                    ensure!(
                        answered >= storm.replies,
                        "{}: {} replies, but {answered} answers",
                        subject.name,
                        storm.replies
                    );
                }
                findings.push(key(LIVE_RATE), "1/s", storm.rate());
            }
        }
        stands.into_iter().try_for_each(Stand::end)?;
    }
    findings.compare(LIVE_RATE, KERNEL);
    findings.compare(LIVE_TIME, KERNEL);
    for (base, bound) in [(KERNEL, 4.0), (NULL, 0.9)] {
        let driver = Key::new(LIVE_RATE, Responder::Driver.name());
        let ratios = findings.samples.ratios(&driver, &Key::new(LIVE_RATE, base));
        let what = format!("{LIVE_RATE}, {}", Responder::Driver.name());
        findings.goal(
            "P6",
            [&what, &format!("against {base}")],
            GoalBound::AtLeast(bound),
            "×",
            &ratios.unwrap_or_default(),
        );
    }
    findings.note(format!(
        "Live frames: BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES in the pod, {frames} a round; GRO, and so NAPI, on at both ends; an XDP program drops the replies as they come into the pod."
    ));
    Ok(())
}

/// Live frames out of a pod, at whose `eth0` the program `discard` of `end` counts the replies.
fn live_storm(subject: &Subject, end: &LoadedPrograms, generator: &mut LoadedPrograms, frames: u32) -> Result<Storm> {
    let before = end.discarded()?;
    let program = generator.xdp("generate")?;
    let elapsed = subject.namespace.run(|| live(program, "eth0", frames))??;
    let after = settled(|| end.discarded())?;
    Ok(Storm { requests: u64::from(frames), replies: after - before, elapsed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_what_exceeds_the_drop_floor() {
        let storm = Storm { requests: 1000, replies: 1000, elapsed: Duration::from_micros(1700) };
        assert!((storm.cost(1200.0) - 500.0).abs() < 1e-6);
        assert!((storm.rate() - 588_235.294).abs() < 0.01);
        let lossy = Storm { replies: 500, ..storm };
        assert!((lossy.cost(1200.0) - 1000.0).abs() < 1e-6);
    }
}
