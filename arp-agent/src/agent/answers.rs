//! What the agent answers to those who ask it.

use super::Agent;
use crate::control::{InterfaceStatus, Peer, Request, Response, Status};
use crate::dataplane::attach::{Attached, Attachment};
use crate::dataplane::bpf::monotonic_ns;
use crate::dataplane::choice::How;
use crate::event::Link;
use crate::explain::agreement::agree;
use crate::explain::{Explanation, Question, TablesFrom, explain};
use crate::kernel::namespace_names;
use arp_common::maps::Counters;
use arp_common::reason::ANSWERED;
use arp_common::{Reason, Tables as _};
use std::collections::BTreeMap;

impl Agent {
    pub(super) fn respond(&mut self, request: Request) -> Response {
        let response = match request {
            Request::Status | Request::Sync => self.status().map(|status| Response::Status(Box::new(status))),
            Request::Explain { question, run_program } => {
                self.explain(&question, run_program).map(|explanation| Response::Explanation(Box::new(explanation)))
            }
        };
        response.unwrap_or_else(|error| Response::Error(format!("{error:#}")))
    }

    fn explain(&mut self, question: &Question, run_program: bool) -> anyhow::Result<Explanation> {
        let mut explanation = explain(question, &self.bpf, TablesFrom::Agent);
        if run_program {
            let how = self.attachments.how(question.ifindex).unwrap_or(How::XdpSkb);
            let before = self.counters_of_frames_on(question.ifindex);
            let run = self.bpf.run_on(how, question.ifindex, &question.frame().to_bytes())?;
            let after = self.counters_of_frames_on(question.ifindex);
            explanation.program = Some(agree(how, question, &explanation, &run, (&before, &after))?);
        }
        Ok(explanation)
    }

    /// The counters that a frame adds to which comes in on the interface.
    fn counters_of_frames_on(&self, ifindex: u32) -> Counters {
        match self.bpf.iface(ifindex) {
            Some(_) => self.bpf.counters(ifindex),
            None => self.bpf.unknown_counters(),
        }
    }

    fn status(&self) -> anyhow::Result<Status> {
        let names = namespace_names().unwrap_or_default();
        let links = &self.mirror.snapshot().links;
        let interfaces = self.attachments.iter().filter_map(|(ifindex, attachment)| {
            let link = links.get(&ifindex)?;
            Some(self.interface_status(link, attachment, &names))
        });
        let total = self.bpf.total_counters();
        let ready = self.in_step.is_ok() && self.lease.is_valid(monotonic_ns());
        Ok(Status {
            version: crate::DOCUMENT_VERSION,
            ready,
            not_ready_because: self.in_step.as_ref().err().cloned(),
            pid: std::process::id(),
            patterns: self.attachments.matches(links),
            interfaces: interfaces.collect::<anyhow::Result<_>>()?,
            answered: total[ANSWERED],
            passed: passed(&total),
            routes: self.mirror.prefixes(),
            neighbours: self.mirror.neighbours(),
            fib_nodes: self.bpf.fib_nodes(),
            refused_entries: self.bpf.refused(),
            resyncs: self.resyncs,
            overruns: self.overruns,
            sysctl_hook: self.sysctl_hook.state(),
            settings_written: self.bpf.settings_written(),
            settings_written_elsewhere: self.bpf.written_elsewhere(),
            reread_interval_ms: self.options.reread_interval.as_millis() as u64,
            lease_ms: self.options.lease.as_millis() as u64,
        })
    }

    fn interface_status(
        &self,
        link: &Link,
        attachment: &Attachment,
        names: &BTreeMap<i32, String>,
    ) -> anyhow::Result<InterfaceStatus> {
        let blocked = self.mirror.iface(link.ifindex).map(|iface| iface.blocked).filter(|&reason| reason != 0);
        let (state, reason) = match (attachment, blocked) {
            (Attachment::Refused(why), _) => ("detached", Some(why.clone())),
            (Attachment::Attached(_), Some(reason)) => ("passing", Some(Reason::from_raw(reason).why().to_owned())),
            (Attachment::Attached(_), None) => ("answering", None),
        };
        let (hook, mode, hook_why) = match attachment {
            Attachment::Attached(Attached { choice, instead, .. }) => {
                let instead = if instead.is_empty() { String::new() } else { format!(" ({instead})") };
                (choice.how.hook(), choice.how.mode(), format!("{}{instead}", choice.why))
            }
            Attachment::Refused(_) => ("none", "none", "detached".to_owned()),
        };
        let counters = self.bpf.counters(link.ifindex);
        let peer = link.link.filter(|_| link.kind.as_deref() == Some("veth")).map(|ifindex| Peer {
            ifindex,
            netnsid: link.link_netnsid,
            netns: link.link_netnsid.and_then(|id| names.get(&id).cloned()),
        });
        Ok(InterfaceStatus {
            name: link.name.clone(),
            ifindex: link.ifindex,
            hook: hook.into(),
            mode: mode.into(),
            hook_why,
            state: state.into(),
            reason,
            answered: counters[ANSWERED],
            passed: passed(&counters),
            peer,
        })
    }
}

fn passed(counters: &Counters) -> BTreeMap<String, u64> {
    let reasons = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), counters[reason.counter()]));
    reasons.filter(|&(_, count)| count > 0).collect()
}
