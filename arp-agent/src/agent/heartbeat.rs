//! When the agent wakes up by itself: to keep the lease alive, and to look for what changes silently.

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};

/// Beats by a timer of the kernel's own, for both. tokio's timer would wake up three times for each quarter of a
/// second (its wheel turns in between), and at rest that costs more than all that is done then.
pub(super) struct Heartbeat {
    timer: AsyncFd<OwnedFd>,
    period: Duration,
    beats_per_look: u64,
    beats: u64,
}

/// What to do at a beat.
#[derive(Debug, PartialEq)]
pub(super) enum Tick {
    /// Renew the lease.
    Lease,
    /// Look for changes without notification, too.
    Poll,
}

impl Heartbeat {
    /// A look each `reread_interval`; between them as many beats as it takes for four to each `lease` at least. None of
    /// the two is zero.
    pub(super) fn start(lease: Duration, reread_interval: Duration) -> anyhow::Result<Self> {
        let beats_per_look = beats_per_look(lease, reread_interval);
        let period = reread_interval / beats_per_look;
        let spec = Timespec { tv_sec: period.as_secs().cast_signed(), tv_nsec: period.subsec_nanos().into() };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("creating a timer failed")?;
        let both = Itimerspec { it_interval: spec, it_value: spec };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &both).context("setting a timer failed")?;
        // SAFETY: the timer owns its descriptor, and neither replaces nor closes it while it lives.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Heartbeat { timer, period, beats_per_look: beats_per_look.into(), beats: 0 })
    }

    /// The time between two beats.
    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// The next beat; after a stall one stands for all that were missed. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> anyhow::Result<Tick> {
        loop {
            let mut ready = self.timer.readable().await?;
            // Before the reading: what comes after this wakes up again.
            ready.clear_ready();
            let mut expired = [0; 8];
            match rustix::io::read(&self.timer, &mut expired) {
                Ok(_) => {
                    self.beats += u64::from_ne_bytes(expired);
                    if self.beats < self.beats_per_look {
                        return Ok(Tick::Lease);
                    }
                    self.beats = 0;
                    return Ok(Tick::Poll);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context("reading a timer failed"),
            }
        }
    }
}

fn beats_per_look(lease: Duration, reread_interval: Duration) -> u32 {
    let beats = reread_interval.as_nanos().div_ceil((lease / 4).as_nanos());
    u32::try_from(beats).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_lease_has_four_beats_at_least_and_a_look_comes_after_a_whole_number_of_them() {
        let beats = |lease, reread| beats_per_look(Duration::from_millis(lease), Duration::from_millis(reread));
        assert_eq!([beats(1000, 250), beats(1000, 251), beats(1000, 10), beats(50, 60_000)], [1, 2, 1, 4800]);
    }

    #[tokio::test]
    async fn a_look_is_every_third_beat_and_a_stall_costs_no_look() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut heartbeat = Heartbeat::start(ms(80), ms(60)).unwrap();
        for beat in [Tick::Lease, Tick::Lease, Tick::Poll, Tick::Lease] {
            assert_eq!(heartbeat.next().await.unwrap(), beat);
        }
        assert!(start.elapsed() >= ms(80), "{:?}", start.elapsed());
        std::thread::sleep(ms(50));
        assert_eq!(heartbeat.next().await.unwrap(), Tick::Poll);
    }
}
