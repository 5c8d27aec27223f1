//! With `--shadow`: finds what came of the requests that the programs have noted, and tells.

use super::Agent;
use crate::clock::monotonic_ns;
use crate::control::ShadowStatus;
use crate::control::figures::ShadowFigures;
use crate::dataplane::bpf::Bpf;
use crate::event::Link;
use crate::hooks::attachments::Attachments;
use crate::hooks::taps::Taps;
use crate::mirror::Change;
use crate::shadow::tally::{Fate, Tally};
use arp_common::Lladdr;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// How often the agent reads what came of requests.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often a disagreement is told in the log at the most.
const TELL: Duration = Duration::from_secs(60);

/// The comparison; `None` in the agent where it answers.
pub(super) struct Shadow {
    taps: Taps,
    tally: Tally,
    due: tokio::time::Interval,
    last_disagreement: Option<String>,
    told_at: Option<Instant>,
}

impl Shadow {
    /// Loads the program that sees what the kernel sends. To be called inside the tokio runtime.
    ///
    /// # Errors
    /// The verifier refuses it, or the kernel has no tcx.
    pub(super) fn start(bpf: &mut Bpf, attachments: &mut Attachments) -> anyhow::Result<Self> {
        let taps = Taps::new(bpf)?;
        attachments.know_tap(taps.id());
        let mut due = interval(INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Shadow { taps, tally: Tally::default(), due, last_disagreement: None, told_at: None })
    }

    /// How often the tap could not be attached.
    pub(super) fn failures(&self) -> u64 {
        self.taps.failures()
    }

    /// The identifier of the tap's program.
    pub(super) fn tap_id(&self) -> u32 {
        self.taps.id()
    }

    /// Waits until it is time to compare. May be dropped while it waits.
    pub(super) async fn tick(&mut self) {
        self.due.tick().await;
    }

    /// Counts what has come of the requests so far.
    fn compare(&mut self, bpf: &mut Bpf, links: &BTreeMap<u32, Link>) {
        let samples = match bpf.samples() {
            Ok(samples) => samples,
            Err(error) => {
                // The next comparison tries again: programs write there all the time.
                log::debug!("shadow: {error:#}");
                return;
            }
        };
        let now = monotonic_ns();
        for (asked, sample) in samples {
            if !self.taps.is_on(asked.ifindex) {
                // Nobody would see the reply.
                bpf.forget_sample(asked);
                continue;
            }
            let fate = self.tally.take(&sample, now);
            if fate == Fate::Waiting {
                continue;
            }
            bpf.forget_sample(asked);
            if let Fate::Disagreed(how) = fate {
                let name =
                    links.get(&asked.ifindex).map_or_else(|| asked.ifindex.to_string(), |link| link.name.clone());
                let (tpa, spa, sha) = (Ipv4Addr::from(asked.tpa), Ipv4Addr::from(asked.spa), Lladdr::new(asked.sha));
                let what = format!(
                    "{name}: who-has {tpa} tell {spa} at {sha}: the fast path would have answered, the kernel {}",
                    how.in_words()
                );
                self.tell(&what);
                self.last_disagreement = Some(what);
            }
        }
    }

    fn tell(&mut self, what: &str) {
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL) {
            self.told_at = Some(Instant::now());
            log::warn!("shadow: {what}");
        } else {
            log::debug!("shadow: {what}");
        }
    }
}

impl Agent {
    /// See [`Shadow::compare`].
    pub(super) fn compare(&mut self) {
        if let Some(shadow) = &mut self.shadow {
            shadow.compare(&mut self.bpf, &self.mirror.snapshot().links);
        }
    }

    /// Looks at what leaves by interfaces whose entry in the maps is new.
    pub(super) fn tap(&mut self, changes: &[Change]) {
        let Some(shadow) = &mut self.shadow else { return };
        for change in changes {
            let Change::Iface(ifindex, iface) = change else { continue };
            match self.mirror.snapshot().links.get(ifindex).filter(|_| iface.is_some()) {
                Some(link) => shadow.taps.attach(&mut self.bpf, *ifindex, &link.name),
                None => shadow.taps.forget(*ifindex),
            }
        }
    }

    /// The same for metrics.
    pub(super) fn shadow_figures(&self) -> Option<ShadowFigures> {
        let shadow = self.shadow.as_ref()?;
        Some(shadow.tally.figures(self.bpf.not_sampled(), shadow.taps.refused().count()))
    }

    /// What the comparison has come to; `None` where the agent answers.
    pub(super) fn shadow_status(&self) -> Option<ShadowStatus> {
        let shadow = self.shadow.as_ref()?;
        let name = |ifindex: u32| self.mirror.snapshot().links.get(&ifindex).map(|link| link.name.as_str());
        let not_seen = shadow.taps.refused().filter_map(|(ifindex, why)| Some(format!("{}: {why}", name(ifindex)?)));
        Some(shadow.tally.status(self.bpf.not_sampled(), not_seen.collect(), shadow.last_disagreement.clone()))
    }
}
