//! Which announced writes of settings have taken effect. Pure: time and values come in as arguments.
//!
//! The sysctl hook announces a write before it takes effect. It cannot say whether the write will succeed, nor, on
//! every kernel, whose setting it is. A write is done when its value can be read where another was before; otherwise
//! after a time that hardly any write takes. Writes given up in this way are watched for a while longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a write may take from the moment its announcement is seen until it has taken effect or failed. Nothing in
/// between waits; a writer can only be kept from its CPU, in kernels that preempt system calls. The announcement is
/// older than the moment it is seen, so the write really has longer than this.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_millis(250);

/// How long a setting is watched after its write was given up: a writer can be kept from its CPU, for example by a
/// cgroup limit. And how many settings are watched at most.
const LATE: Duration = Duration::from_secs(10);
const LATE_ONES: usize = 64;

/// With more writes than this, they are no longer told apart.
const REMEMBERED: usize = 1024;

/// An announced write; `None` stands for unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotedWrite {
    /// The path below /proc/sys.
    pub name: Option<String>,
    /// The value before.
    pub old: Option<i32>,
    /// The value that is written.
    pub new: Option<i32>,
}

/// What must be read again because of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StaleSettings {
    /// The settings of interfaces of these names.
    Interfaces(BTreeSet<String>),
    /// Everything.
    Everything,
}

impl Default for StaleSettings {
    fn default() -> Self {
        StaleSettings::Interfaces(BTreeSet::new())
    }
}

impl StaleSettings {
    /// With more interfaces than this, everything is read at once.
    const MOST: usize = 16;

    /// Adds a setting by its path below /proc/sys: `net/ipv4/conf/NAME/…` and `net/ipv4/neigh/NAME/…` are an
    /// interface's, the others concern all, as do those that are not known.
    pub(crate) fn add(&mut self, name: Option<&str>) {
        let StaleSettings::Interfaces(interfaces) = self else { return };
        match name.and_then(interface_of) {
            Some(interface) if interfaces.len() < Self::MOST || interfaces.contains(interface) => {
                interfaces.insert(interface.to_owned());
            }
            _ => *self = StaleSettings::Everything,
        }
    }
}

/// The interface that the setting belongs to, if it belongs to one.
fn interface_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("net/ipv4/conf/").or_else(|| name.strip_prefix("net/ipv4/neigh/"))?;
    let (interface, _) = rest.split_once('/')?;
    (!matches!(interface, "all" | "default")).then_some(interface)
}

/// The present value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// It can be read.
    Is(i32),
    /// It cannot be read.
    Unknown,
    /// There is no such setting in this network namespace, and has been none since the mirror last knew of its
    /// interface: whoever was writing has finished, because the kernel takes settings away only then.
    Gone,
}

/// Writes that may not have taken effect yet.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    by_name: BTreeMap<String, Vec<Announced>>,
    count: usize,
    /// Until when there are writes that are too little known to check them.
    unknown_until: Option<Instant>,
    /// Settings whose write was given up: their value then, and until when they are watched.
    late: BTreeMap<String, (Value, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Announced {
    old: Option<i32>,
    new: Option<i32>,
    until: Instant,
}

impl Announced {
    fn changes_nothing(self) -> bool {
        self.old.is_some() && self.old == self.new
    }

    fn is_followed_by(self, later: &NotedWrite) -> bool {
        !self.changes_nothing() && self.new.is_some() && later.old == self.new
    }
}

impl Writes {
    /// Notes an announcement.
    pub(crate) fn announced(&mut self, write: NotedWrite, now: Instant) {
        let until = now + SETTLE_LIMIT;
        let known = write.name.clone().filter(|_| self.count < REMEMBERED);
        let Some(name) = known else {
            self.unknown_until = Some(until);
            return;
        };
        let writes = self.by_name.entry(name).or_default();
        // Of a write that was alone, the next one's old value can tell that it is done.
        if let [only] = writes[..]
            && only.is_followed_by(&write)
        {
            writes.clear();
            self.count -= 1;
        }
        writes.push(Announced { old: write.old, new: write.new, until });
        self.count += 1;
    }

    /// Notes that announcements were lost.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.unknown_until = Some(now + SETTLE_LIMIT);
    }

    /// Whether all announced writes have taken effect, or never will. `read` gives the present value of a setting.
    pub(crate) fn are_done(&mut self, now: Instant, mut read: impl FnMut(&str) -> Value) -> bool {
        self.unknown_until = self.unknown_until.filter(|&until| now < until);
        let mut done = self.unknown_until.is_none();
        let late = &mut self.late;
        self.by_name.retain(|name, writes| {
            if writes.iter().any(|write| now >= write.until && !write.changes_nothing())
                && (late.len() < LATE_ONES || late.contains_key(name))
            {
                late.insert(name.clone(), (read(name), now + LATE));
            }
            writes.retain(|write| now < write.until);
            let Some(first) = writes.first() else { return false };
            // Those that change nothing are kept in mind all the same: another may come before they land.
            if writes.iter().all(|write| write.changes_nothing() && write.new == first.new) {
                return true;
            }
            let landed = match read(name) {
                Value::Gone => true,
                // Of several, a value does not tell which of them have landed.
                Value::Is(value) => writes.len() == 1 && first.new == Some(value) && !cascades(name),
                Value::Unknown => false,
            };
            done &= landed;
            !landed
        });
        self.count = self.by_name.values().map(Vec::len).sum();
        done
    }

    /// Whether a setting has changed since its write was given up. `read` gives the present value of a setting.
    pub(crate) fn late_ones(&mut self, now: Instant, mut read: impl FnMut(&str) -> Value) -> bool {
        let mut any = false;
        self.late.retain(|name, (value, until)| {
            let is = read(name);
            any |= is != std::mem::replace(value, is);
            now < *until
        });
        any
    }
}

/// How much time may be spent waiting for writes: for long, no more than a quarter of it. Time saved at one moment may
/// be spent at another.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The time spent beyond that quarter.
    above: Duration,
    noted: Instant,
    in_doubt: bool,
}

impl Budget {
    /// The most that may be spent beyond it: 3.3 s in a row without an answer, longer if writes come now and then.
    const MOST: Duration = Duration::from_millis(2500);

    /// A budget that starts now.
    pub(crate) fn new(now: Instant) -> Self {
        Budget { above: Duration::ZERO, noted: now, in_doubt: false }
    }

    /// Notes whether a write is being waited for from now on.
    pub(crate) fn note(&mut self, now: Instant, in_doubt: bool) {
        let elapsed = now.saturating_duration_since(self.noted);
        self.above = match self.in_doubt {
            true => self.above + elapsed * 3 / 4,
            false => self.above.saturating_sub(elapsed / 4),
        };
        (self.noted, self.in_doubt) = (now, in_doubt);
    }

    /// Whether too much time was spent.
    pub(crate) fn is_spent(&self) -> bool {
        self.above >= Self::MOST
    }
}

/// Whether writing the setting also changes others, after its own value can be read: `all.forwarding` those of every
/// interface, `default` those of the interfaces that follow it.
fn cascades(name: &str) -> bool {
    name.contains("/default/") || matches!(name, "net/ipv4/ip_forward" | "net/ipv4/conf/all/forwarding")
}

/// The hook's pause: no writes count, because too many came that could not be told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rest {
    /// Paused since this moment; the count of writes then.
    Since(Instant, u64),
    /// Writes count again; by this moment those made before have taken effect.
    Until(Instant),
}

/// The next step of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseStep {
    /// It goes on.
    Rest,
    /// Writes must count again.
    Count,
    /// It is over, and everything must be polled.
    Over,
}

impl Rest {
    /// The pause ends when fewer writes than this came within that time.
    const FEW: u64 = 5;
    const QUIET: Duration = Duration::from_secs(10);

    /// The next step, given the count of writes so far.
    pub(crate) fn next(&mut self, now: Instant, written: u64) -> PauseStep {
        match *self {
            Rest::Since(since, before) if now.saturating_duration_since(since) >= Self::QUIET => {
                if written - before < Self::FEW {
                    *self = Rest::Until(now + SETTLE_LIMIT);
                    return PauseStep::Count;
                }
                *self = Rest::Since(now, written);
                PauseStep::Rest
            }
            Rest::Until(then) if now >= then => PauseStep::Over,
            _ => PauseStep::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "net/ipv4/conf/v0/proxy_arp";

    struct Case {
        writes: Writes,
        start: Instant,
    }

    impl Case {
        fn new() -> Self {
            Case { writes: Writes::default(), start: Instant::now() }
        }

        fn write(&mut self, name: &str, old: impl Into<Option<i32>>, new: impl Into<Option<i32>>) {
            let write = NotedWrite { name: Some(name.into()), old: old.into(), new: new.into() };
            self.writes.announced(write, self.start);
        }

        fn done(&mut self, after_ms: u64, value: impl Into<Option<i32>>) -> bool {
            let value = value.into().map_or(Value::Unknown, Value::Is);
            self.writes.are_done(self.start + Duration::from_millis(after_ms), |_| value)
        }
    }

    #[test]
    fn settings_of_one_interface_are_read_for_it_alone() {
        let mut stale = StaleSettings::default();
        stale.add(Some(FLAG));
        stale.add(Some("net/ipv4/neigh/v1.5/proxy_delay"));
        stale.add(Some(FLAG));
        assert_eq!(stale, StaleSettings::Interfaces(["v0", "v1.5"].map(str::to_owned).into()));
        let others = ["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/neigh/default/proxy_delay"];
        for name in others.map(Some).into_iter().chain([None]) {
            let mut stale = stale.clone();
            stale.add(name);
            assert_eq!(stale, StaleSettings::Everything, "{name:?}");
            stale.add(Some(FLAG));
            assert_eq!(stale, StaleSettings::Everything, "{name:?}, then one interface's");
        }
        for number in 0..=StaleSettings::MOST {
            stale.add(Some(&format!("net/ipv4/conf/w{number}/proxy_arp")));
        }
        assert_eq!(stale, StaleSettings::Everything, "many are read together");
    }

    #[test]
    fn a_write_is_done_when_its_value_is_read() {
        let mut case = Case::new();
        assert!(case.done(0, 1));
        case.write(FLAG, 1, 0);
        assert!(!case.done(1, 1), "it has not landed");
        assert!(!case.done(2, None), "it cannot be read");
        assert!(case.done(3, 0));
        assert!(case.done(4, 1), "and then it is forgotten");
    }

    #[test]
    fn a_write_that_never_shows_is_given_up_after_the_bound() {
        let mut case = Case::new();
        case.write(FLAG, 1, 0);
        let bound = SETTLE_LIMIT.as_millis() as u64;
        assert!(!case.done(bound - 1, 1));
        assert!(case.done(bound, 1));
    }

    #[test]
    fn of_two_writers_no_value_tells_who_has_written() {
        let mut case = Case::new();
        case.write(FLAG, 1, 0);
        case.write(FLAG, 1, 0);
        assert!(!case.done(1, 0), "one may still be to come");
        case.write("net/ipv4/conf/v1/proxy_arp", 1, 0);
        assert!(!case.done(2, 0));
        assert!(case.done(SETTLE_LIMIT.as_millis() as u64, 0));
    }

    #[test]
    fn a_writer_that_turns_a_setting_back_and_forth_is_followed() {
        let mut case = Case::new();
        for (old, new) in [(1, 0), (0, 1), (1, 0)] {
            case.write(FLAG, old, new);
        }
        assert!(!case.done(1, 1));
        assert!(case.done(1, 0), "the old values show that the others have landed");
    }

    #[test]
    fn a_write_that_changes_nothing_holds_nobody_up_unless_another_comes() {
        let mut case = Case::new();
        case.write(FLAG, 1, 1);
        assert!(case.done(1, 1));
        case.write(FLAG, 1, 0);
        assert!(!case.done(2, 0), "the first may land after the second");
        assert!(case.done(SETTLE_LIMIT.as_millis() as u64, 0));
    }

    #[test]
    fn what_many_write_as_it_is_already_holds_nobody_up() {
        let mut case = Case::new();
        for _ in 0..3 {
            case.write("net/ipv4/conf/default/proxy_arp", 0, 0);
        }
        assert!(case.done(1, 0));
        case.write("net/ipv4/conf/default/proxy_arp", 1, 1);
        assert!(!case.done(2, 0), "elsewhere it is 1: one of them would change what the other's is");
    }

    #[test]
    fn a_setting_that_is_gone_is_written_no_more() {
        let mut case = Case::new();
        case.write(FLAG, 1, 0);
        case.write(FLAG, 1, 0);
        assert!(case.writes.are_done(case.start, |_| Value::Gone));
    }

    #[test]
    fn what_cascades_or_is_not_known_is_waited_for() {
        for name in [
            "net/ipv4/ip_forward",
            "net/ipv4/conf/all/forwarding",
            "net/ipv4/conf/default/proxy_arp",
            "net/ipv4/neigh/default/proxy_delay",
        ] {
            let mut case = Case::new();
            case.write(name, 1, 0);
            assert!(!case.done(1, 0), "{name}");
            assert!(case.done(SETTLE_LIMIT.as_millis() as u64, 0), "{name}");
        }
        let mut case = Case::new();
        case.write(FLAG, 1, None);
        assert!(!case.done(1, 0));
        let mut case = Case::new();
        case.writes.announced(NotedWrite { name: None, old: Some(1), new: Some(0) }, case.start);
        assert!(!case.done(1, 0));
        let mut case = Case::new();
        case.writes.lost(case.start);
        assert!(!case.done(1, 0));
        assert!(case.done(SETTLE_LIMIT.as_millis() as u64, 0));
    }

    #[test]
    fn a_write_that_was_given_up_is_found_when_it_lands_after_all() {
        let mut case = Case::new();
        let hold = SETTLE_LIMIT.as_millis() as u64;
        let late = |case: &mut Case, after_ms, value| {
            case.writes.late_ones(case.start + Duration::from_millis(after_ms), |_| Value::Is(value))
        };
        case.write(FLAG, 1, 0);
        assert!(case.done(hold, 1));
        assert!(!late(&mut case, hold + 1, 1), "it has not landed");
        assert!(late(&mut case, hold + 2, 0));
        assert!(!late(&mut case, hold + 3, 0), "that is known now");
        assert!(late(&mut case, hold + LATE.as_millis() as u64, 1), "at the end of the time");
        assert!(!late(&mut case, hold + LATE.as_millis() as u64 + 1, 0), "after that nobody looks");
        for number in 0..2 * LATE_ONES {
            case.write(&format!("net/ipv4/conf/v{number}/proxy_arp"), 1, 0);
        }
        assert!(case.done(hold, 1));
        assert_eq!(case.writes.late.len(), LATE_ONES);
    }

    #[test]
    fn a_budget_is_spent_by_writes_all_the_time_and_not_by_some() {
        // Milliseconds until it is spent, when of each period so many are in doubt.
        let spent_after = |of_doubt: u64, period: u64| {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            for from in (0..60_000).step_by(period as usize) {
                budget.note(start + Duration::from_millis(from), true);
                budget.note(start + Duration::from_millis(from + of_doubt), false);
                if budget.is_spent() {
                    return Some(from + of_doubt);
                }
            }
            None
        };
        assert_eq!(spent_after(16, 16), Some(3344), "all the time");
        assert_eq!(spent_after(250, 500), Some(9750), "twice a second");
        assert_eq!(spent_after(250, 1000), None, "each second");
        assert_eq!(spent_after(1, 100), None, "what settles at once");
    }

    #[test]
    fn a_rest_ends_when_it_has_been_quiet_and_what_was_under_way_has_landed() {
        let start = Instant::now();
        let mut rest = Rest::Since(start, 100);
        let mut next = |ms, written| rest.next(start + Duration::from_millis(ms), written);
        assert_eq!(next(9_999, 100), PauseStep::Rest, "it has not been quiet for long");
        assert_eq!(next(10_000, 105), PauseStep::Rest, "too many");
        assert_eq!(next(19_999, 105), PauseStep::Rest, "counted from there on");
        assert_eq!(next(20_000, 109), PauseStep::Count);
        assert_eq!(next(20_249, 109), PauseStep::Rest, "one may be under way");
        assert_eq!(next(20_250, 109), PauseStep::Over);
    }

    #[test]
    fn a_flood_is_remembered_in_bounded_memory() {
        let mut case = Case::new();
        for number in 0..2 * REMEMBERED {
            case.write(&format!("net/ipv4/conf/v{number}/proxy_arp"), 1, 0);
        }
        assert_eq!(case.writes.count, REMEMBERED);
        assert!(!case.done(1, 0), "those beyond are waited for");
        assert!(case.done(SETTLE_LIMIT.as_millis() as u64, 0));
    }
}
