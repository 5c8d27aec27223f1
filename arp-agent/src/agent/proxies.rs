//! Static proxy entries. The kernel notifies nobody that one is removed, and whoever removes one hands the address to
//! another host, which answers at once. So an answer that only such an entry allows needs a reading a moment old; the
//! program notes when it would need one, and only then are they read often (docs/adr/0010-static-proxy-entries.md).

use super::Agent;
use crate::clock::monotonic_ns;
use std::time::{Duration, Instant};

/// How often they are read while answers depend on them.
const EACH: Duration = Duration::from_millis(8);
/// Should there be very many, reading them takes at most so small a part of the time, up to a pause of [`ASKED_FOR`].
const PART: u32 = 16;
/// How long after the beginning of a reading answers may depend on it.
const CONFIRMED_FOR: Duration = Duration::from_millis(20);
/// How long after the last answer that depended on one they are read on.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// When static proxy entries are read next: pure, with the time as an argument.
#[derive(Debug)]
pub(super) struct ProxyReadings {
    /// The program's note, as it was seen last: nanoseconds.
    asked: u64,
    /// Until when they are read.
    until: Instant,
    /// When the next reading is due, while they are.
    due: Instant,
}

impl ProxyReadings {
    /// Nobody has asked yet.
    pub(super) fn new(now: Instant) -> Self {
        ProxyReadings { asked: 0, until: now, due: now }
    }

    /// Takes the program's note.
    fn note(&mut self, asked: u64, now: Instant) {
        if asked != self.asked {
            self.asked = asked;
            self.until = now + ASKED_FOR;
        }
    }

    /// They were read from `start` to `end`.
    fn read(&mut self, start: Instant, end: Instant) {
        // The agent may have been kept from its CPU meanwhile.
        self.due = start + EACH.max((end - start) * PART).min(ASKED_FOR);
    }

    /// When they are to be read next, if answers depend on them.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.due < self.until).then_some(self.due)
    }
}

impl Agent {
    /// Looks whether a decision depended on a static proxy entry since the last time.
    pub(super) fn note_proxies_asked(&mut self) {
        self.proxies.note(self.bpf.proxies_asked(), Instant::now());
    }

    /// Reads them, and lets answers depend on them for a moment.
    pub(super) fn read_proxies(&mut self) -> anyhow::Result<()> {
        let (start, start_ns) = (Instant::now(), monotonic_ns());
        match self.reader.changed_proxies() {
            Ok(events) => {
                if self.fold(events)? {
                    self.reread_routes()?;
                }
                self.bpf.confirm_proxies(start_ns + CONFIRMED_FOR.as_nanos() as u64);
            }
            Err(error) => self.doubt(format!("re-reading the kernel's static proxy entries failed: {error:#}")),
        }
        self.note_proxies_asked();
        self.proxies.read(start, Instant::now());
        Ok(())
    }

    /// Reads them if there are any, and goes on as if an answer had just depended on one.
    pub(super) fn confirm_proxies(&mut self) -> anyhow::Result<()> {
        if self.mirror.snapshot().proxies.is_empty() {
            return Ok(());
        }
        self.proxies.until = Instant::now() + ASKED_FOR;
        self.read_proxies()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn they_are_read_while_answers_depend_on_them() {
        let start = Instant::now();
        let mut readings = ProxyReadings::new(start);
        assert_eq!(readings.due(), None, "nobody asked");
        readings.note(0, start);
        assert_eq!(readings.due(), None);
        readings.note(4711, start);
        assert_eq!(readings.due(), Some(start), "at once");
        readings.read(start, start + MS / 10);
        assert_eq!(readings.due(), Some(start + EACH));
        readings.note(4711, start + 999 * MS);
        readings.read(start + 995 * MS, start + 996 * MS);
        assert_eq!(readings.due(), None, "nobody has asked for a second");
        readings.note(4712, start + 1_000 * MS);
        assert!(readings.due().is_some());
    }

    #[test]
    fn many_take_a_bounded_part_of_the_time() {
        let start = Instant::now();
        let mut readings = ProxyReadings::new(start);
        readings.note(1, start);
        readings.read(start, start + 10 * MS);
        assert_eq!(readings.due(), Some(start + 160 * MS));
        readings.note(2, start + 200 * MS);
        readings.read(start + 160 * MS, start + 360 * MS);
        assert_eq!(readings.due(), Some(start + 1_160 * MS), "not 3 s later, for the agent may have been stopped");
    }
}
