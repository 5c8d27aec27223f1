//! Keeps the guard on the interfaces that policies name, and tells it what the mirror knows.

use super::Agent;
use crate::clock::monotonic_ns;
use crate::dataplane::bpf::Bpf;
use crate::dataplane::bpf::guards::{GuardConfig, Guarding};
use crate::event::Link;
use crate::hooks::attachments::Attachments;
use crate::hooks::guards::Guards;
use crate::hooks::worker::JobDone;
use crate::mirror::Change;
use crate::mirror::snapshot::Snapshot;
use crate::protection::policies::{InterfaceProtection, Policies};
use anyhow::bail;
use arp_common::maps::IfaceAddr;
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often entries are counted at most.
const COUNT_PAUSE: Duration = Duration::from_millis(10);
/// What the kernel never throws out for others.
const NUD_FIXED: u16 = libc::NUD_PERMANENT | libc::NUD_NOARP;

/// The policies, and what is guarded because of them.
pub(super) struct Protection {
    policies: Policies,
    /// `None` where every policy is off.
    guards: Option<Guards>,
    /// The number of the last list of allowed senders that the kernel has got.
    lists: u32,
    interfaces: BTreeMap<u32, Guarded>,
    counted_at: Instant,
    /// When entries are to be counted that were not, because they had been right before.
    pub(super) recount_at: Option<Instant>,
}

/// An interface with policies.
struct Guarded {
    held: InterfaceProtection,
    carrier_changes: u32,
    unsettled: Unsettled,
}

/// Which of the unknown senders that were let up have made their entry.
#[derive(Clone, Copy, Debug, Default)]
struct Unsettled {
    /// What the mirror had counted of entries that came.
    arrivals: u64,
    /// How many entries have come, each of which may stand for an unknown sender that was let up.
    came: u64,
}

impl Unsettled {
    /// Of how many senders the entries that are there now hold what came of them. `arrivals`: entries that came since the
    /// last dump; `let_up`: senders so far; `by_time`: those whose entry would have been notified by now.
    fn settle(&mut self, arrivals: u64, let_up: u64, by_time: u64) -> u64 {
        // Not by how many more there are: meanwhile others may have gone. After a dump the count begins anew.
        self.came += arrivals.saturating_sub(self.arrivals);
        self.arrivals = arrivals;
        if by_time == let_up {
            // Whoever was let up long enough ago has an entry by now, or gets none.
            self.came = let_up;
        }
        by_time.max(self.came).min(let_up)
    }
}

impl Protection {
    /// Loads the guard if a policy is on, and watches the neighbour table if one asks for it.
    ///
    /// # Errors
    /// The verifier refuses a program, or the kernel does not let its table be watched.
    pub(super) fn start(policies: Policies, bpf: &mut Bpf, attachments: &mut Attachments) -> anyhow::Result<Self> {
        if policies.judge_ip() {
            bpf.watch_pressure(policies.unresolved_of_the_node())?;
        }
        let guards = if policies.are_off() { None } else { Some(Guards::new(bpf, attachments.filters())?) };
        if let Some(guards) = &guards {
            bpf.want_events()?;
            attachments.know_guard(guards.id());
        }
        let (interfaces, counted_at) = (BTreeMap::new(), Instant::now());
        Ok(Protection { policies, guards, lists: 0, interfaces, counted_at, recount_at: None })
    }

    /// Whether a policy is on.
    pub(super) fn is_on(&self) -> bool {
        self.guards.is_some()
    }

    /// What there must be room for.
    pub(super) fn guarding(policies: &Policies) -> Guarding {
        match (policies.are_off(), policies.judge_ip()) {
            (true, _) => Guarding::Nothing,
            (false, false) => Guarding::Arp,
            (false, true) => Guarding::ArpAndIp,
        }
    }

    /// Makes room for other policies on these interfaces. They hold from [`Protection::change`] on.
    ///
    /// # Errors
    /// One of them needs a program that is not loaded, or the kernel has no room: then all is as before.
    pub(super) fn prepare(
        &mut self,
        mut policies: Policies,
        bpf: &mut Bpf,
        links: &[&Link],
    ) -> anyhow::Result<Policies> {
        const RESTART: &str = "is not loaded, because none that needs it was on when the agent started; restart it \
                               (systemctl restart arp-agent)";
        match (bpf.guarding(), Self::guarding(&policies)) {
            (Guarding::Nothing, Guarding::Arp | Guarding::ArpAndIp) => {
                bail!("{}: the program of policies that drop {RESTART}", policies.on().join(", "))
            }
            (Guarding::Arp, Guarding::ArpAndIp) => bail!("unresolved-budget: the program of this policy {RESTART}"),
            _ => {}
        }
        policies.keep_lists_of(&self.policies);
        for link in links {
            policies.of(&link.name);
        }
        for (list, allowed) in policies.lists().after(self.lists) {
            if let Err(error) = bpf.allow(list, allowed.prefix, allowed.lladdr) {
                self.discard(policies, bpf);
                return Err(error);
            }
        }
        Ok(policies)
    }

    /// Drops policies that were prepared.
    pub(super) fn discard(&self, mut policies: Policies, bpf: &mut Bpf) {
        for (list, allowed) in policies.lists().after(self.lists) {
            bpf.disallow(list, allowed.prefix);
        }
    }

    /// From here on these policies hold, which were prepared for these interfaces. What is counted and remembered of an
    /// interface stays; only budgets whose numbers have changed begin whole.
    pub(super) fn change(&mut self, policies: Policies, bpf: &mut Bpf, links: &[&Link]) {
        if bpf.guarding() == Guarding::ArpAndIp
            && policies.unresolved_of_the_node() != self.policies.unresolved_of_the_node()
        {
            bpf.set_budget_of_the_node(policies.unresolved_of_the_node());
        }
        self.policies = policies;
        self.lists = self.policies.lists().last();
        for link in links {
            let before = self.interfaces.get(&link.ifindex).map(|guarded| &guarded.held);
            if before != self.policies.of(&link.name).as_ref() {
                self.configure(bpf, link);
            }
        }
        let used = self.interfaces.values().map(|guarded| guarded.held.configured.list).collect();
        for (list, allowed) in self.policies.lists().keep(&used) {
            bpf.disallow(list, allowed.prefix);
        }
        // Where there is a limit now, the entries have not been counted yet.
        self.recount_at = Some(Instant::now());
    }

    /// How often the guard could not be attached.
    pub(super) fn failures(&self) -> u64 {
        self.guards.as_ref().map_or(0, Guards::failures)
    }

    /// The identifier of the guard's program.
    pub(super) fn guard_id(&self) -> Option<u32> {
        self.guards.as_ref().map(Guards::id)
    }

    /// Waits until the next interface is guarded.
    pub(super) async fn done(&mut self) -> JobDone {
        match &mut self.guards {
            Some(guards) => guards.done().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the result of [`Protection::done`].
    pub(super) fn complete(&mut self, done: JobDone) {
        if let Some(guards) = &mut self.guards {
            guards.complete(done);
        }
    }

    /// Guards an interface no more.
    pub(super) fn forget(&mut self, ifindex: u32) {
        self.interfaces.remove(&ifindex);
        self.guards.iter_mut().for_each(|guards| guards.forget(ifindex));
    }

    /// Notes at which place of its tcx programs the guard is on each of these interfaces.
    pub(super) fn note_places(&mut self, places: Vec<(u32, Option<usize>)>) {
        let Some(guards) = &mut self.guards else { return };
        for (ifindex, place) in places.into_iter().filter(|(ifindex, _)| self.interfaces.contains_key(ifindex)) {
            guards.note_place(ifindex, place);
        }
    }

    /// Whether the sender-guard drops on an interface.
    pub(super) fn drops_senders(&self, ifindex: u32) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|guarded| guarded.held.drops_senders)
    }

    /// The policies of an interface and the state of its guard, for people.
    pub(super) fn in_words(&self, ifindex: u32) -> (Vec<String>, Option<String>) {
        let words = self.interfaces.get(&ifindex).map(|guarded| guarded.held.words.clone()).unwrap_or_default();
        (words, self.guards.as_ref().and_then(|guards| guards.state(ifindex)))
    }

    /// Configures the guard for an interface that has an entry in the maps.
    fn configure(&mut self, bpf: &mut Bpf, link: &Link) {
        let (ifindex, Some(guards)) = (link.ifindex, &mut self.guards) else { return };
        let Some(held) = self.policies.of(&link.name) else {
            if self.interfaces.remove(&ifindex).is_some() {
                bpf.configure_guard(ifindex, &GuardConfig::default());
                guards.forget(ifindex);
            }
            return;
        };
        for (list, allowed) in self.policies.lists().after(self.lists) {
            if let Err(error) = bpf.allow(list, allowed.prefix, allowed.lladdr) {
                log::warn!("{}: not guarded: {error:#}", link.name);
                return;
            }
        }
        self.lists = self.policies.lists().last();
        let before = self.interfaces.get(&ifindex);
        let has_come_up = before.is_none_or(|before| before.carrier_changes != link.carrier_changes);
        let had_limit = before.is_some_and(|before| before.held.configured.limit > 0);
        let let_up = bpf.let_up(ifindex);
        if let Some(before) = before {
            bpf.refill_changed(ifindex, &before.held.configured, &held.configured);
        }
        if !had_limit {
            // What was counted for an earlier limit is old: senders are let up until entries have been counted.
            bpf.set_entries(ifindex, 0, let_up);
        }
        if !bpf.configure_guard(ifindex, &held.configured) {
            return;
        }
        if has_come_up {
            bpf.set_grace(ifindex, monotonic_ns() + self.policies.grace().as_nanos() as u64);
        }
        let unsettled = match before {
            Some(before) if had_limit => before.unsettled,
            _ => Unsettled { arrivals: 0, came: let_up },
        };
        self.interfaces.insert(ifindex, Guarded { held, carrier_changes: link.carrier_changes, unsettled });
        guards.guard(ifindex);
    }

    /// Counts the entries of interfaces with a limit. To be called when everything that the kernel had notified by
    /// `since_drained` has been applied.
    fn count(&mut self, bpf: &mut Bpf, snapshot: &Snapshot, since_drained: Instant) {
        if self.interfaces.values().all(|guarded| guarded.held.configured.limit == 0) {
            return;
        }
        let next = self.counted_at + COUNT_PAUSE;
        if next > since_drained {
            self.recount_at = Some(next);
            return;
        }
        (self.counted_at, self.recount_at) = (since_drained, None);
        let since_drained_ns = monotonic_ns() - since_drained.elapsed().as_nanos() as u64;
        for (&ifindex, guarded) in &mut self.interfaces {
            if guarded.held.configured.limit == 0 {
                continue;
            }
            let all = IfaceAddr { ifindex, addr: [0; 4] }..=IfaceAddr { ifindex, addr: [255; 4] };
            let entries = snapshot.neighbours.range(all).filter(|(_, entry)| entry.state & NUD_FIXED == 0).count();
            let (entries, let_up) = (entries as u64, bpf.let_up(ifindex));
            let by_time = bpf.let_up_before(ifindex, since_drained_ns);
            let arrivals = snapshot.arrivals.get(&ifindex).copied().unwrap_or_default();
            bpf.set_entries(ifindex, entries, guarded.unsettled.settle(arrivals, let_up, by_time));
        }
    }
}

impl Agent {
    /// Configures the guard for interfaces whose entry in the maps is new.
    pub(super) fn guard(&mut self, changes: &[Change]) {
        for change in changes {
            let Change::Iface(ifindex, iface) = change else { continue };
            match self.mirror.snapshot().links.get(ifindex).filter(|_| iface.is_some()) {
                Some(link) => self.protection.configure(&mut self.bpf, link),
                None => self.protection.forget(*ifindex),
            }
        }
    }

    /// The same for interfaces of which something was told that their entries do not hold: their name, by which policies
    /// are given, or that the link came up again.
    pub(super) fn guard_links(&mut self, links: &BTreeSet<u32>) {
        for ifindex in links.iter().filter(|&&ifindex| self.mirror.iface(ifindex).is_some()) {
            if let Some(link) = self.mirror.snapshot().links.get(ifindex) {
                self.protection.configure(&mut self.bpf, link);
            }
        }
    }

    /// See [`Protection::count`].
    pub(super) fn count_entries(&mut self, since_drained: Instant) {
        self.protection.count(&mut self.bpf, self.mirror.snapshot(), since_drained);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_that_came_stands_for_a_sender_also_where_others_have_gone() {
        let mut unsettled = Unsettled::default();
        // Thirty were let up right now, and twenty of their entries have come.
        assert_eq!(unsettled.settle(20, 30, 0), 20);
        // The rest came, while as many of the others went.
        assert_eq!(unsettled.settle(30, 30, 0), 30);
        // Entries that the node itself has caused stand for nobody who was not let up.
        assert_eq!(unsettled.settle(50, 35, 0), 35);
    }

    #[test]
    fn senders_that_got_no_entry_are_settled_by_time() {
        let mut unsettled = Unsettled::default();
        assert_eq!(unsettled.settle(0, 8, 0), 0);
        assert_eq!(unsettled.settle(0, 8, 8), 8);
        // A dump begins the count anew.
        assert_eq!(unsettled.settle(3, 9, 8), 9);
        assert_eq!(unsettled.settle(1, 12, 9), 11);
    }
}
