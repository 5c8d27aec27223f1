//! What the agent answers to those who ask it.

use super::Agent;
use super::deviations::by_name;
use super::shadow::Shadow;
use crate::clock::monotonic_ns;
use crate::control::{HOSTS_SHOWN, InterfaceStatus, Peer, Request, Response, Status};
use crate::dataplane::HookKind;
use crate::event::Link;
use crate::explain::agreement::agree;
use crate::explain::{Explanation, Question, TablesFrom, explain};
use crate::hooks::attachments::{Attached, Attachment};
use crate::hooks::clsact::filters_of_others;
use crate::hooks::owners::Programs;
use crate::kernel::namespace_names;
use arp_common::guard::DropReason;
use arp_common::maps::Counters;
use arp_common::reason::ANSWERED;
use arp_common::{Reason, Tables as _};
use std::collections::BTreeMap;

impl Agent {
    pub(super) fn respond(&mut self, request: Request) -> Response {
        let response = match request {
            Request::Status | Request::Sync => self.status().map(|status| Response::Status(Box::new(status))),
            Request::Figures => Ok(Response::Figures(Box::new(self.figures()))),
            Request::Events { follow } => Ok(self.events.answer(follow)),
            Request::Trace(filter) => self.begin_trace(&filter),
            Request::Reload => self.reload().map(Response::Reloaded),
            Request::Explain { question, run_program } => {
                self.explain(&question, run_program).map(|explanation| Response::Explanation(Box::new(explanation)))
            }
        };
        response.unwrap_or_else(|error| Response::Error(format!("{error:#}")))
    }

    fn explain(&mut self, question: &Question, run_program: bool) -> anyhow::Result<Explanation> {
        let mut explanation = explain(question, &self.bpf, TablesFrom::Agent);
        let reason = explanation.reason.as_deref().and_then(Reason::from_name);
        if let Some((by, mode, mac)) =
            reason.and_then(|reason| self.bpf.deviates(question.ifindex, &question.frame(), reason))
        {
            explanation.deviate(by, mode, mac);
        }
        if self.shadow.is_some() {
            explanation.shadow();
        }
        if run_program {
            let how = self.attachments.how(question.ifindex).unwrap_or(HookKind::XdpSkb);
            let before = self.counters_of_frames_on(question.ifindex);
            let by_policy = self.bpf.answers_by_policy(question.ifindex);
            let run = self.bpf.run_on(how, question.ifindex, &question.frame().to_bytes())?;
            if self.shadow.is_some() {
                // The kernel has not seen this frame.
                self.bpf.forget_request(question.ifindex, &question.frame());
            }
            let after = self.counters_of_frames_on(question.ifindex);
            let by_policy = (&by_policy, &self.bpf.answers_by_policy(question.ifindex));
            explanation.program = Some(agree(how, question, &explanation, &run, (&before, &after), by_policy)?);
        }
        Ok(explanation)
    }

    /// The counters for frames that arrive on the interface.
    fn counters_of_frames_on(&self, ifindex: u32) -> Counters {
        match self.bpf.iface(ifindex) {
            Some(_) => self.bpf.counters(ifindex),
            None => self.bpf.unknown_counters(),
        }
    }

    fn status(&mut self) -> anyhow::Result<Status> {
        let around = Around {
            namespaces: namespace_names().unwrap_or_default(),
            programs: Programs::default(),
            own_tc: [self.bpf.tc_id(), self.protection.guard_id(), self.shadow.as_ref().map(Shadow::tap_id)],
        };
        let links = &self.mirror.snapshot().links;
        let interfaces = self.attachments.iter().filter_map(|(ifindex, attachment)| {
            let link = links.get(&ifindex)?;
            Some(self.interface_status(link, attachment, &around))
        });
        let total = self.bpf.total_counters();
        let by_policy = self.bpf.all_answers_by_policy();
        let (ready, not_ready_because) = self.readiness();
        Ok(Status {
            version: crate::DOCUMENT_VERSION,
            running: true,
            ready,
            not_ready_because,
            warnings: self.warnings(),
            pid: std::process::id(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            up_seconds: self.started.elapsed().as_secs(),
            patterns: self.attachments.matches(links),
            interfaces: interfaces.collect::<anyhow::Result<_>>()?,
            answered: total[ANSWERED],
            passed: passed(&total),
            answered_by_policy: by_name(&by_policy.answered),
            would_answer: by_name(&by_policy.would_answer),
            dropped: refused(&total, DropReason::dropped),
            would_drop: refused(&total, DropReason::would_drop),
            shadow: self.shadow_status(),
            routes: self.mirror.prefixes(),
            neighbours: self.mirror.neighbours(),
            views: self.mirror.views(),
            fib_nodes: self.bpf.fib_nodes(),
            refused_entries: self.bpf.refused(),
            resyncs: self.resyncs,
            overruns: self.overruns,
            held_back: self.damper.held().map(|who| self.name(who)).collect(),
            times_held_back: self.damper.times(),
            sysctl_hook: self.sysctl_hook.state(),
            settings_written: self.bpf.settings_written(),
            settings_written_elsewhere: self.bpf.written_elsewhere(),
            reread_interval_ms: self.options().reread_interval.as_ms(),
            lease_ms: self.options().lease.as_ms(),
        })
    }

    /// Whether the agent is ready; why not, if it is known.
    pub(super) fn readiness(&self) -> (bool, Option<String>) {
        let starting = self.attachments.is_starting().then(|| {
            let (attached, all) = (self.attachments.attached().len(), self.attachments.iter().count());
            format!("attached to {attached} of {all} interfaces so far; the kernel answers on the others")
        });
        let ready = self.in_sync.is_ok() && self.lease.is_valid(monotonic_ns()) && starting.is_none();
        (ready, self.in_sync.as_ref().err().map(|why| format!("every frame passes: {why}")).or(starting))
    }

    /// What an interface does, the reason if all of its frames pass, and why it does not answer, for people.
    pub(super) fn state(
        &self,
        ifindex: u32,
        attachment: &Attachment,
    ) -> (&'static str, Option<Reason>, Option<String>) {
        let blocked = self.mirror.iface(ifindex).map(|iface| u32::from(iface.blocked)).filter(|&reason| reason != 0);
        match (attachment, blocked.map(Reason::from_raw)) {
            (Attachment::Refused(why), _) => ("detached", None, Some(why.clone())),
            (Attachment::Waiting(_), _) => ("detached", None, Some("waiting to be attached".to_owned())),
            (Attachment::Arriving, _) => {
                ("detached", None, Some("waiting to be attached: it has just come, and has no carrier yet".to_owned()))
            }
            (Attachment::Attached(_), Some(reason)) => ("passing", Some(reason), Some(reason.why().to_owned())),
            (Attachment::Attached(_), None) => match self.bpf.left_out().get(&ifindex) {
                Some(why) => ("passing", None, Some(why.clone())),
                None if self.shadow.is_some() => {
                    ("passing", Some(Reason::SHADOW), Some(Reason::SHADOW.why().to_owned()))
                }
                None => ("answering", None, None),
            },
        }
    }

    /// By index, each interface's name and what it does, as the log tells it.
    pub(super) fn states_in_words(&self) -> BTreeMap<u32, (String, String)> {
        let links = &self.mirror.snapshot().links;
        let interfaces = self.attachments.iter().filter_map(|(ifindex, attachment)| {
            let name = &links.get(&ifindex)?.name;
            let by = match attachment {
                Attachment::Attached(Attached { candidate, instead, .. }) => {
                    // Why it is not the first choice is worth a word.
                    let instead =
                        if instead.is_empty() { String::new() } else { format!(" ({}: {instead})", candidate.why) };
                    format!(" by {} {}{instead}", candidate.how.hook(), candidate.how.mode())
                }
                _ => String::new(),
            };
            let (state, reason, why) = self.state(ifindex, attachment);
            let id = reason.map(|reason| format!(" ({})", reason.name())).unwrap_or_default();
            // A refusal begins with the interface's name.
            let why = why.as_deref().map(|why| why.strip_prefix(&format!("{name}: ")).unwrap_or(why));
            let why = why.map(|why| format!(": {why}{id}")).unwrap_or_default();
            Some((ifindex, (name.clone(), format!("{state}{by}{why}"))))
        });
        interfaces.collect()
    }

    /// The tc programs of others on an interface, for people.
    fn others(&self, ifindex: u32, around: &Around) -> Vec<String> {
        let mut others = around.programs.tcx_besides(ifindex, &around.own_tc);
        others.extend(filters_of_others(ifindex, self.attachments.name()).unwrap_or_default());
        others
    }

    fn interface_status(
        &self,
        link: &Link,
        attachment: &Attachment,
        around: &Around,
    ) -> anyhow::Result<InterfaceStatus> {
        let (state, blocked, mut reason) = self.state(link.ifindex, attachment);
        let has_others = self.mirror.snapshot().foreign_tc.contains_key(&link.ifindex);
        let others = if has_others { self.others(link.ifindex, around) } else { Vec::new() };
        if let Some(reason) = reason.as_mut().filter(|_| blocked == Some(Reason::INGRESS_HOOK))
            && !others.is_empty()
        {
            *reason += &format!(": {}", others.join(", "));
        }
        if let Some(reason) = reason.as_mut().filter(|_| blocked == Some(Reason::ARP_NETFILTER)) {
            // If there is none, a rule only drops some replies.
            let concern = self.mirror.snapshot().arp_netfilter.concern(link);
            *reason += &concern.map(|concern| format!(": {concern}")).unwrap_or_default();
        }
        let (hook, mode, hook_why) = match attachment {
            Attachment::Attached(Attached { candidate, instead, .. }) => {
                let instead = if instead.is_empty() { String::new() } else { format!(" ({instead})") };
                (candidate.how.hook(), candidate.how.mode(), format!("{}{instead}", candidate.why))
            }
            Attachment::Refused(_) | Attachment::Waiting(_) | Attachment::Arriving => {
                ("none", "none", "detached".to_owned())
            }
        };
        let counters = self.bpf.counters(link.ifindex);
        let by_policy = self.bpf.answers_by_policy(link.ifindex);
        let (mut policies, guard) = self.protection.in_words(link.ifindex);
        policies.extend(self.deviations.in_words(link.ifindex));
        let peer = link.link.filter(|_| link.kind.as_deref() == Some("veth")).map(|ifindex| Peer {
            ifindex,
            netnsid: link.link_netnsid,
            netns: link.link_netnsid.and_then(|id| around.namespaces.get(&id).cloned()),
        });
        let hosts = peer.iter().flat_map(|_| self.mirror.snapshot().routes.hosts_by(link.ifindex));
        let hosts = hosts.take(HOSTS_SHOWN).collect();
        Ok(InterfaceStatus {
            name: link.name.clone(),
            ifindex: link.ifindex,
            hook: hook.into(),
            mode: mode.into(),
            hook_why,
            state: state.into(),
            reason_id: blocked.map(|reason| reason.name().to_owned()),
            reason,
            others,
            answered: counters[ANSWERED],
            passed: passed(&counters),
            answered_by_policy: by_name(&by_policy.answered),
            would_answer: by_name(&by_policy.would_answer),
            policies,
            guard,
            dropped: refused(&counters, DropReason::dropped),
            would_drop: refused(&counters, DropReason::would_drop),
            peer,
            hosts,
        })
    }
}

/// What an interface's status takes besides the agent's own state.
struct Around {
    /// The named network namespaces, by identifier.
    namespaces: BTreeMap<i32, String>,
    programs: Programs,
    /// Our own tc program, the guard and the tap, as far as they are loaded.
    own_tc: [Option<u32>; 3],
}

pub(super) fn passed(counters: &Counters) -> BTreeMap<String, u64> {
    let reasons = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), counters[reason.counter()]));
    reasons.filter(|&(_, count)| count > 0).collect()
}

fn refused(counters: &Counters, counter: fn(DropReason) -> usize) -> BTreeMap<String, u64> {
    let reasons = DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), counters[counter(reason)]));
    reasons.filter(|&(_, count)| count > 0).collect()
}
