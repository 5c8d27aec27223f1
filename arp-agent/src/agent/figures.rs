//! The figures of metrics and probes.

use super::Agent;
use super::status::passed;
use crate::clock::monotonic_ns;
use crate::config::MetricsInterfaces;
use crate::control::figures::{Figures, InterfaceCounts, InterfaceGroup};
use crate::hooks::attachments::{Attached, Attachment};
use arp_common::Reason;
use arp_common::deviation::{Deviation, ROOM};
use arp_common::guard::DropReason;
use arp_common::reason::ANSWERED;
use std::collections::BTreeMap;

/// All of them from the start, too.
fn each_policy(counts: &[u64; ROOM]) -> BTreeMap<String, u64> {
    Deviation::ALL.iter().map(|&by| (by.name().to_owned(), counts[by as usize])).collect()
}

/// Each reason from the start, for the same reason as those of passes.
fn refused(counters: &arp_common::maps::Counters, counter: fn(DropReason) -> usize) -> BTreeMap<String, u64> {
    DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), counters[counter(reason)])).collect()
}

impl Agent {
    /// Figures as they are now.
    pub(super) fn figures(&self) -> Figures {
        let total = self.bpf.total_counters();
        let by_policy = self.bpf.all_answers_by_policy();
        let links = &self.mirror.snapshot().links;
        let (ready, not_ready_because) = self.readiness();
        let name = |ifindex| links.get(&ifindex).map(|link| link.name.clone());
        let each = |(ifindex, _): (u32, &Attachment)| {
            let counters = self.bpf.counters(ifindex);
            Some(InterfaceCounts { name: name(ifindex)?, answered: counters[ANSWERED], passed: passed(&counters) })
        };
        let each_interface = (self.options().metrics_interfaces == MetricsInterfaces::On)
            .then(|| self.attachments.iter().filter_map(each));
        Figures {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: super::process::figures(self.started_at),
            ready,
            not_ready_because,
            answered: total[ANSWERED],
            // All of them from the start: a rate needs a 0 first.
            passed: Reason::ALL.iter().map(|reason| (reason.name().to_owned(), total[reason.counter()])).collect(),
            answered_by_policy: each_policy(&by_policy.answered),
            would_answer: each_policy(&by_policy.would_answer),
            interfaces: self.interface_groups(),
            each_interface: each_interface.into_iter().flatten().collect(),
            patterns: self.attachments.matches(links),
            routes: self.mirror.prefixes(),
            neighbours: self.mirror.neighbours(),
            views: self.mirror.views(),
            fib_nodes: self.bpf.fib_nodes(),
            refused_entries: self.bpf.refused(),
            resyncs: self.resyncs,
            resync_seconds: self.resync_time.as_secs_f64(),
            overruns: self.overruns,
            out_of_step_seconds: self.lease.time_without(monotonic_ns()).as_secs_f64(),
            held_back: self.damper.held().count(),
            times_held_back: self.damper.times(),
            sysctl_hook: self.sysctl_hook.state().starts_with("attached"),
            settings_written: self.bpf.settings_written(),
            settings_written_elsewhere: self.bpf.written_elsewhere(),
            config_stale: self.config_stale,
            dropped: refused(&total, DropReason::dropped),
            would_drop: refused(&total, DropReason::would_drop),
            events: self.events.counts(),
            events_lost: self.bpf.events_lost(),
            trace_clients: self.traces.clients(),
            trace_lost: self.bpf.trace_lost(),
            neighbour_table: self.events.table(),
            shadow: self.shadow_figures(),
            attach_failures: self.attach_failures(),
            maps: self.bpf.map_sizes().map(|map| (map.name.to_owned(), [map.entries, map.most])).into(),
        }
    }

    /// How often each kind of program could not be attached.
    fn attach_failures(&self) -> BTreeMap<String, u64> {
        let mut failures = BTreeMap::from([
            ("answer".to_owned(), self.attachments.failures()),
            ("guard".to_owned(), self.protection.failures()),
        ]);
        failures.extend(self.shadow.as_ref().map(|shadow| ("shadow".to_owned(), shadow.failures())));
        failures
    }

    fn interface_groups(&self) -> Vec<InterfaceGroup> {
        let mut groups = BTreeMap::new();
        for (ifindex, attachment) in self.attachments.iter() {
            let (state, reason, _) = self.state(ifindex, attachment);
            let (hook, mode) = match attachment {
                Attachment::Attached(Attached { candidate, .. }) => (candidate.how.hook(), candidate.how.mode()),
                Attachment::Refused(_) | Attachment::Waiting(_) | Attachment::Arriving => ("none", "none"),
            };
            let reason = reason.map(|reason| reason.name()).unwrap_or_default();
            *groups.entry((hook, mode, state, reason)).or_insert(0) += 1;
        }
        let group = |((hook, mode, state, reason), count): ((&str, &str, &str, &str), usize)| InterfaceGroup {
            hook: hook.to_owned(),
            mode: mode.to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
            count,
        };
        groups.into_iter().map(group).collect()
    }
}
