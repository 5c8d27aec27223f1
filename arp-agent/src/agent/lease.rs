//! How long the program may trust the maps, whether the agent was stopped, what may be replayed on top of a dump, and
//! when routes are dumped again.
//! Pure: time comes in as an argument, in nanoseconds of `CLOCK_MONOTONIC`.

use crate::event::{Event, Placement};
use crate::kernel::Batch;
use std::time::Duration;

/// The lease. It is dated by the moment at which a check of the notifications began, never by a later one: an agent that
/// is stopped after the check and goes on later would else vouch for what it has not seen.
pub(super) struct Lease {
    length: u64,
    reread_interval: u64,
    /// Until when it lasts; 0 while it is withdrawn.
    until: u64,
    /// When the last check began.
    checked: u64,
    /// When the agent last polled for changes without notification.
    polled_at: u64,
    /// Since when it has not been valid, if it was withdrawn.
    withdrawn: Option<u64>,
    /// For how long it was not valid, all in all.
    without: u64,
}

impl Lease {
    /// Withdrawn. The agent polled for changes without notification at `now`.
    pub(super) fn new(length: Duration, reread_interval: Duration, now: u64) -> Self {
        let [length, reread_interval] = [length, reread_interval].map(|time| time.as_nanos() as u64);
        Lease { length, reread_interval, until: 0, checked: now, polled_at: now, withdrawn: Some(now), without: 0 }
    }

    /// The settings have changed. A lease that was given keeps its end.
    pub(super) fn set(&mut self, length: Duration, reread_interval: Duration) {
        [self.length, self.reread_interval] = [length, reread_interval].map(|time| time.as_nanos() as u64);
    }

    /// A check begins: whether notifications are left, and whether the agent was stopped, is asked after `now`.
    pub(super) fn check(&mut self, now: u64) {
        self.checked = now;
    }

    /// The check has found nothing left to apply. Gives until when the lease lasts now.
    pub(super) fn renew(&mut self) -> u64 {
        self.without += self.lapse(self.checked);
        self.withdrawn = None;
        self.until = self.checked + self.length;
        self.until
    }

    /// How long it has not been valid at `now`, if it is not.
    fn lapse(&self, now: u64) -> u64 {
        now.saturating_sub(self.withdrawn.unwrap_or(self.until))
    }

    /// For how long frames could not be answered since the start, until `now`.
    pub(super) fn time_without(&self, now: u64) -> Duration {
        Duration::from_nanos(self.without + if self.is_valid(now) { 0 } else { self.lapse(now) })
    }

    /// The lease ends at `now`.
    pub(super) fn withdraw(&mut self, now: u64) {
        if self.withdrawn.is_none() {
            // It may have run out before.
            self.withdrawn = Some(now.min(self.until));
        }
        self.until = 0;
    }

    /// A poll for changes without notification begins at `now`.
    pub(super) fn polled(&mut self, now: u64) {
        self.polled_at = now;
    }

    /// Whether frames may be answered at `now`.
    pub(super) fn is_valid(&self, now: u64) -> bool {
        now < self.until
    }

    /// Whether, when the check began, the agent had not run, or not renewed the lease, for longer than the lease lasts.
    pub(super) fn was_stopped(&self) -> bool {
        let since_the_poll = self.checked.saturating_sub(self.polled_at);
        // One that is withdrawn has not run out: a link that comes between two polls far apart withdraws it, too.
        let ran_out = self.until != 0 || since_the_poll > self.reread_interval;
        ran_out && self.checked > self.until && since_the_poll > self.length
    }
}

/// Whether notifications that are older than the last dump of the routes may still be queued.
#[derive(Default)]
pub(super) struct Replay {
    is_open: bool,
}

impl Replay {
    /// The routes were dumped.
    pub(super) fn dumped(&mut self) {
        self.is_open = true;
    }

    /// Takes note of a batch before it is folded. Says whether the routes must be dumped once more: a replacement cannot be
    /// replayed on top of a dump that already shows what came after it, because it would take another route's place.
    pub(super) fn is_in_vain(&mut self, batch: &Batch) -> bool {
        let replaces = |event: &Event| matches!(event, Event::Route(_, Placement::Replace));
        let in_vain = self.is_open && batch.events.iter().any(replaces);
        // Only an empty queue shows that nothing older is left: one batch takes a bounded part of it.
        self.is_open &= !batch.is_empty();
        in_vain
    }
}

/// When routes that are not trusted are dumped again. Whoever makes interfaces come and go must not make that take more
/// than one part in [`PARTS`](Self::PARTS) of the time, because nothing is answered meanwhile.
#[derive(Default)]
pub(super) struct Redump {
    due: Option<u64>,
    not_before: u64,
    /// From when on an interface that is up again is not waited for.
    calm_from: u64,
}

impl Redump {
    const PARTS: u64 = 200;
    /// How long routes by an interface that is up again are passed at least, if others were up again shortly before: they
    /// may come up and go down several times.
    const FIRST: u64 = 250_000_000;
    /// So long after a dump nobody is expected to go on like that.
    const CALM: u64 = 1_000_000_000;
    /// The same for one that is down: it may be about to be deleted, and then needs no dump.
    const FIRST_DOWN: u64 = 5_000_000_000;
    const LAST: u64 = 10_000_000_000;

    /// Whether routes are not trusted, at `now`; and whether some are by an interface that is not just down.
    pub(super) fn set(&mut self, is_wanted: bool, is_up: bool, now: u64) {
        let pause = match is_up {
            true if now >= self.calm_from => 0,
            true => Self::FIRST,
            false => Self::FIRST_DOWN,
        };
        let due = self.not_before.max(now + pause);
        self.due = is_wanted.then(|| self.due.map_or(due, |known| known.min(due)));
    }

    /// When the next dump is due, if one is.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Routes were dumped, which began and ended at these times.
    pub(super) fn dumped(&mut self, began: u64, ended: u64) {
        self.due = None;
        self.not_before = ended + (ended.saturating_sub(began) * Self::PARTS).min(Self::LAST);
        self.calm_from = ended + Self::CALM;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Route, RouteKind};
    use crate::prefix::Prefix;

    const LENGTH: u64 = 1_000;
    const REREAD: u64 = 250;

    fn lease() -> Lease {
        Lease::new(Duration::from_nanos(LENGTH), Duration::from_nanos(REREAD), 0)
    }

    #[test]
    fn lease_is_dated_before_the_check() {
        let mut lease = lease();
        lease.check(10);
        // Stopped between the check and the renewal, for however long: there is no later time to date it by.
        assert_eq!(lease.renew(), 10 + LENGTH);
        assert!(lease.is_valid(9 + LENGTH) && !lease.is_valid(10 + LENGTH));
        lease.withdraw(11);
        assert!(!lease.is_valid(11));
    }

    #[test]
    fn time_without_a_lease_is_summed() {
        let mut lease = lease();
        let without = |lease: &Lease, now| lease.time_without(now).as_nanos();
        assert_eq!(without(&lease, 40), 40, "from the start");
        lease.check(50);
        lease.renew();
        assert_eq!(without(&lease, 50 + LENGTH - 1), 50);
        assert_eq!(without(&lease, 50 + LENGTH + 7), 57, "it has run out");
        lease.check(50 + LENGTH + 10);
        lease.renew();
        let renewed = 50 + LENGTH + 10;
        assert_eq!(without(&lease, renewed), 60);
        lease.withdraw(renewed + 100);
        lease.withdraw(renewed + 200);
        assert_eq!(without(&lease, renewed + 300), 260, "since the first withdrawal");
        lease.check(renewed + 300);
        lease.renew();
        lease.withdraw(renewed + 300 + LENGTH + 5);
        assert_eq!(without(&lease, renewed + 300 + LENGTH + 6), 266, "it had run out before it was withdrawn");
    }

    #[test]
    fn a_stop_after_the_check_shows_at_the_next_one() {
        let mut lease = lease();
        lease.check(10);
        assert!(!lease.was_stopped());
        lease.renew();
        lease.check(6_000);
        assert!(lease.was_stopped());
        lease.polled(6_000);
        assert!(!lease.was_stopped());
        assert_eq!(lease.renew(), 6_000 + LENGTH);
    }

    #[test]
    fn a_withdrawn_lease_has_not_run_out_until_a_poll_is_due() {
        let mut lease = Lease::new(Duration::from_nanos(100), Duration::from_nanos(REREAD), 0);
        lease.check(200);
        assert!(!lease.was_stopped());
        lease.check(300);
        assert!(lease.was_stopped());
    }

    #[test]
    fn dumps_of_doubted_routes_take_a_small_part_of_the_time() {
        let mut redump = Redump::default();
        redump.set(true, false, 0);
        assert_eq!(redump.due(), Some(Redump::FIRST_DOWN));
        redump.set(true, true, 7);
        assert_eq!(redump.due(), Some(7), "nothing came up shortly before");
        redump.dumped(7, 8);
        redump.set(true, true, 1_000);
        redump.set(true, true, 2_000);
        assert_eq!(redump.due(), Some(1_000 + Redump::FIRST), "more of them do not put it off");
        redump.set(false, false, 3_000);
        assert_eq!(redump.due(), None, "the interface was deleted");
        redump.set(true, true, 8 + Redump::CALM);
        assert_eq!(redump.due(), Some(8 + Redump::CALM), "nobody goes on");
        let took = 10_000_000;
        redump.dumped(0, took);
        redump.set(true, true, took);
        assert_eq!(redump.due(), Some(took + Redump::PARTS * took));
        redump.dumped(0, 1_000 * took);
        redump.set(true, true, 1_000 * took);
        assert_eq!(redump.due(), Some(1_000 * took + Redump::LAST));
    }

    fn batch(placement: Option<Placement>) -> Batch {
        let route = Route {
            table: 254,
            prefix: Prefix { addr: 0, len: 0 },
            tos: 0,
            metric: 0,
            kind: RouteKind::Unicast,
            oif: Some(2),
            gateway: None,
            nexthop: None,
            hops: Box::default(),
            encap: false,
            rest: 0,
        };
        Batch {
            events: placement.map(|placement| Event::Route(route, placement)).into_iter().collect(),
            ..Batch::default()
        }
    }

    #[test]
    fn a_replacement_behind_a_dump_is_found_however_deep_it_is_queued() {
        let mut replay = Replay::default();
        assert!(!replay.is_in_vain(&batch(Some(Placement::Replace))), "no dump came before");
        replay.dumped();
        assert!(!replay.is_in_vain(&batch(Some(Placement::First))));
        // All that this one took was of no interest, and there is more.
        assert!(!replay.is_in_vain(&Batch { more: true, ..Batch::default() }));
        assert!(replay.is_in_vain(&batch(Some(Placement::Replace))));
        assert!(!replay.is_in_vain(&Batch::default()));
        assert!(!replay.is_in_vain(&batch(Some(Placement::Replace))), "what comes now is newer than the dump");
    }
}
