//! Polls for what changes without notification: settings, foreign programs.

use super::shadow::Shadow;
use super::{Agent, SWEEP};
use crate::clock::monotonic_ns;
use crate::dataplane::HookKind;
use crate::event::{Event, IfSet, Link};
use crate::hooks::clsact::OtherFilters;
use crate::hooks::foreign_tc::{Asked, Places};
use crate::hooks::owners::Programs;
use crate::hooks::sysctl_writes::StaleSettings;
use crate::kernel::has_settings;
use crate::mirror::Change;
use arp_common::{Reason, Tables as _};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// With the sysctl hook, full polls take at most this part of the time, and come at least so often.
const PART_OF_THE_TIME: u32 = 10_000;
const RARELY: Duration = Duration::from_secs(60);
/// How long after a write has settled the agent polls fully once more.
const AFTERWARDS: Duration = Duration::from_secs(1);

impl Agent {
    /// If all that was written under /proc/sys has taken effect, brings it into the maps, and lets them be trusted again.
    pub(super) fn settle_writes(&mut self) -> anyhow::Result<()> {
        if self.bpf.settings_are_read() {
            return Ok(());
        }
        let links = &self.mirror.snapshot().links;
        let is_link = |name: &str| links.values().any(|link| link.name == name);
        let Some(written) = self.sysctl_hook.poll(&self.bpf, is_link) else { return Ok(()) };
        let start = Instant::now();
        match self.interfaces_written() {
            Some(interfaces) => self.read_settings_of(interfaces)?,
            None => self.poll_fully()?,
        }
        if self.in_sync.is_ok() {
            self.sysctl_hook.settled(&mut self.bpf, written);
            // Should a writer have been kept from its CPU for long between the hook and the effect.
            self.full_poll_at = self.full_poll_at.min(Instant::now() + AFTERWARDS);
        }
        self.sysctl_hook.rest_since(start);
        Ok(())
    }

    /// The interfaces, with their names, whose settings are all that was written; `None` if more was, or if there are some that
    /// the mirror does not know.
    fn interfaces_written(&self) -> Option<Vec<(u32, String)>> {
        let StaleSettings::Interfaces(names) = self.sysctl_hook.stale() else { return None };
        let links = &self.mirror.snapshot().links;
        let mut interfaces = Vec::new();
        for name in names {
            match links.values().find(|link| link.name == *name) {
                Some(link) => interfaces.push((link.ifindex, name.clone())),
                // Another namespace's, or gone: nothing to read.
                None if !has_settings(name) => {}
                None => return None,
            }
        }
        Some(interfaces)
    }

    /// Reads the settings of some interfaces again. Should a name be another one's by now, it is everything.
    fn read_settings_of(&mut self, interfaces: Vec<(u32, String)>) -> anyhow::Result<()> {
        let which = IfSet::These(interfaces.iter().map(|&(ifindex, _)| ifindex).collect());
        let events = match self.reader.links(&which) {
            Ok(events) => events,
            Err(error) => {
                self.doubt(format!("re-reading the kernel's settings failed: {error:#}"));
                return Ok(());
            }
        };
        let is_named_so = |(ifindex, name): &(u32, String)| {
            events
                .iter()
                .any(|event| matches!(event, Event::Link(link) if link.ifindex == *ifindex && link.name == *name))
        };
        let all_are = interfaces.iter().all(is_named_so);
        if self.fold(events)? {
            self.reread_routes()?;
        }
        if all_are { Ok(()) } else { self.poll_fully() }
    }

    /// One poll, each interval of re-reading. Writes of settings that are hooked need no poll, and those are nearly
    /// all. The rest costs the same however many interfaces there are. From time to time everything is polled, in case
    /// something changes in another way (docs/adr/0008-polling.md).
    pub(super) fn poll(&mut self) -> anyhow::Result<()> {
        self.lease.check(monotonic_ns());
        let links = &self.mirror.snapshot().links;
        let late = self.sysctl_hook.has_late_ones(|name| links.values().any(|link| link.name == name));
        if self.sysctl_hook.came_back(&self.bpf) || late {
            self.poll_fully()
        } else if self.sysctl_hook.is_attached() && Instant::now() < self.full_poll_at && !self.lease.was_stopped() {
            self.poll_for(Poll::Cheap)
        } else {
            self.poll_fully()
        }
    }

    /// Polls for everything that changes without notification.
    pub(super) fn poll_fully(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        self.poll_for(Poll::Full)?;
        self.take_in()?;
        let pause = (start.elapsed() * PART_OF_THE_TIME).min(RARELY);
        self.full_poll_at = Instant::now() + pause.max(self.options().reread_interval.duration());
        Ok(())
    }

    /// Tries again what there was no room for.
    fn take_in(&mut self) -> anyhow::Result<()> {
        let left_out = self.bpf.left_out().keys();
        let again = left_out.filter_map(|&ifindex| Some(Change::Iface(ifindex, Some(*self.mirror.iface(ifindex)?))));
        let again: Vec<Change> = again.collect();
        self.apply(&again)
    }

    fn poll_for(&mut self, poll: Poll) -> anyhow::Result<()> {
        self.lease.polled(monotonic_ns());
        self.sweep();
        let is_turn = matches!(poll, Poll::Cheap) && self.is_turn_of_rarer_ones();
        let events = match poll {
            Poll::Cheap if is_turn => self.reader.unnotified_changes_of_the_node().and_then(|mut events| {
                events.extend(self.reader.changed_proxies()?);
                Ok(events)
            }),
            Poll::Cheap => self.reader.unnotified_changes_of_the_node(),
            Poll::Full => self.reader.unnotified_changes(),
        };
        let routes = match events {
            Ok(mut events) => {
                let some_polls_are_rare = self.sysctl_hook.is_attached();
                let turn = self.tcx.turn(some_polls_are_rare);
                let is_rare = matches!(poll, Poll::Full) && some_polls_are_rare;
                let interfaces = self.tcx.next(if is_rare { usize::MAX } else { turn });
                // A full poll has asked for these already.
                if is_turn {
                    events.extend(self.uppers_news(&interfaces));
                }
                events.extend(self.ask_for_tc(interfaces));
                if matches!(poll, Poll::Full) {
                    events.extend(self.lost_xdp());
                }
                let routes = self.fold(events)?;
                self.detach_where_the_peer_drops_xdp();
                let again = std::mem::take(&mut self.again);
                if !again.is_empty() {
                    self.attach(again)?;
                }
                routes
            }
            Err(error) => {
                self.doubt(format!("re-reading the kernel's settings failed: {error:#}"));
                false
            }
        };
        if routes { self.reread_routes() } else { Ok(()) }
    }

    /// Searches for what agents left that died meanwhile, if it is time.
    fn sweep(&mut self) {
        if Instant::now() >= self.sweep_at {
            self.sweep_at = Instant::now() + SWEEP;
            self.attachments.find_left();
            self.attachments.clear_left();
        }
    }

    /// Driver mode takes a pod's segmentation offload even while it only passes, so it is detached where it cannot answer. At
    /// a poll, not at once: however often a pod switches its GRO, it is attached once a poll at most.
    fn detach_where_the_peer_drops_xdp(&mut self) {
        let dropping = |(ifindex, reason): (&u32, &Reason)| (*reason == Reason::PEER_DROPS_XDP).then_some(*ifindex);
        let attached = self.attachments.attached();
        // At rest nothing is blocked, while all interfaces are attached to.
        let blocked = self.mirror.snapshot().blocked.iter();
        let dropping: Vec<u32> = blocked.filter_map(dropping).filter(|ifindex| attached.contains(ifindex)).collect();
        for ifindex in dropping {
            self.attachments.forget(ifindex);
            self.again.insert(ifindex);
        }
    }

    /// What is news of foreign tc programs on those of the interfaces that are new, or were forgotten.
    pub(super) fn tcx_news(&mut self, interfaces: &BTreeSet<u32>) -> Vec<Event> {
        let interfaces = self.tcx.new_among(interfaces, self.attachments.attached());
        let uppers = self.uppers_news(&interfaces);
        let mut news = self.ask_for_tc(interfaces);
        news.extend(uppers);
        news
    }

    /// What is news of foreign tc programs. Of an interface from which somebody removed ours, the agent lets go.
    fn ask_for_tc(&mut self, interfaces: Vec<u32>) -> Vec<Event> {
        let mut lost = Vec::new();
        let links = &self.mirror.snapshot().links;
        let name =
            |ifindex: u32| links.get(&ifindex).map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone());
        let (bpf, attachments) = (&mut self.bpf, &mut self.attachments);
        let hows: BTreeMap<u32, HookKind> =
            interfaces.iter().filter_map(|&ifindex| Some((ifindex, attachments.how(ifindex)?))).collect();
        let ours = [self.protection.guard_id(), self.shadow.as_ref().map(Shadow::tap_id)];
        let Asked { news, gone, behind, guards } = self.tcx.ask(
            interfaces,
            |ifindex| hows.get(&ifindex).copied(),
            || bpf.tc_id(),
            ours,
            |ifindex| match attachments.beside(ifindex) {
                Ok(None) => Places::default(),
                Ok(Some(OtherFilters::Found(places))) => places,
                Ok(Some(OtherFilters::Gone)) => {
                    lost.push(ifindex);
                    Places::UNKNOWN
                }
                Err(error) => {
                    log::warn!("{}: its tc filters could not be read: {error:#}", name(ifindex));
                    Places::UNKNOWN
                }
            },
        );
        lost.extend(gone);
        self.protection.note_places(guards);
        for ifindex in lost {
            log::warn!("{}: another program detached the fast path; it is attached again", name(ifindex));
            self.attachments.forget(ifindex);
            self.tcx.forget_one(ifindex);
            self.again.insert(ifindex);
        }
        for (ifindex, filters) in behind {
            self.step_behind(ifindex, filters);
        }
        news
    }

    /// Something of others may see frames after our program on an interface: puts it where it is the last one, if its
    /// hook can be chosen. Until it is there, and has been asked again, every frame passes.
    fn step_behind(&mut self, ifindex: u32, filters: Places) {
        let Some(link) = self.mirror.snapshot().links.get(&ifindex) else { return };
        let is_better_elsewhere = self.attachments.is_better_elsewhere(link, filters);
        let is_by_tcx = self.attachments.how(ifindex) == Some(HookKind::Tcx);
        // Two agents would overtake each other for ever; and the last one answers.
        let can_be_moved =
            is_by_tcx && !filters.after && !Programs::default().only_agents_follow(ifindex, self.bpf.tc_id());
        if !(is_better_elsewhere || can_be_moved) || !self.moves.may_move(ifindex, Instant::now()) {
            return;
        }
        log::debug!("{}: a tc program of others comes after ours, which is moved behind it", link.name);
        if is_better_elsewhere {
            self.attachments.detach_from(ifindex);
            self.again.insert(ifindex);
        } else if let Err(error) = self.attachments.move_to_end(&mut self.bpf, ifindex) {
            log::warn!("{}: cannot be moved behind other programs: {error:#}", link.name);
        }
        self.tcx.forget_one(ifindex);
    }

    /// Whether this cheap poll also looks for devices elsewhere and for new static proxy entries: that costs as much as the
    /// rest of it, so one in a few does. A proxy entry that has gone allows no answer meanwhile (docs/adr/0010).
    fn is_turn_of_rarer_ones(&mut self) -> bool {
        const EACH: u32 = 4;
        self.cheap_polls = self.cheap_polls.wrapping_add(1);
        self.cheap_polls.is_multiple_of(EACH)
    }

    /// What is news of devices elsewhere that are stacked on these interfaces.
    fn uppers_news(&mut self, interfaces: &[u32]) -> Option<Event> {
        if interfaces.is_empty() {
            return None;
        }
        self.reader.uppers_elsewhere(interfaces).unwrap_or_else(|error| {
            self.doubt(format!("reading what is stacked on interfaces failed: {error:#}"));
            None
        })
    }

    /// Detaches from the interfaces on which the links that were read last show another XDP program than ours, or none:
    /// somebody took it away, or it is another interface of the same index. Gives these links.
    pub(super) fn lost_xdp(&mut self) -> Vec<Event> {
        let mut lost = Vec::new();
        for (ifindex, program) in self.attachments.xdp_programs() {
            // Of several programs only one is told.
            let is_lost = |link: &&Link| link.xdp_program != Some(program) && !link.xdp_multiple;
            lost.extend(self.reader.link(ifindex).filter(is_lost).cloned());
        }
        for link in &lost {
            log::warn!("{}: another program detached the fast path; it is attached again", link.name);
            self.attachments.forget(link.ifindex);
            self.again.insert(link.ifindex);
        }
        lost.into_iter().map(Event::Link).collect()
    }
}

/// How much is polled.
#[derive(Clone, Copy)]
enum Poll {
    /// What no hook sees, but for what is asked of each interface.
    Cheap,
    /// Everything.
    Full,
}
