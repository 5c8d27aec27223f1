//! When the agent wakes up by itself: to keep the lease alive, and to poll for changes without notification.

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
    ticks_per_poll: u64,
    ticks: u64,
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
    /// A poll each `reread_interval`; between them as many ticks as it takes for four to each `lease` at least. None of
    /// the two is zero.
    pub(super) fn start(lease: Duration, reread_interval: Duration) -> anyhow::Result<Self> {
        let ticks_per_poll = ticks_per_poll(lease, reread_interval);
        let period = reread_interval / ticks_per_poll;
        let spec = Timespec { tv_sec: period.as_secs().cast_signed(), tv_nsec: period.subsec_nanos().into() };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("creating a timer failed")?;
        let both = Itimerspec { it_interval: spec, it_value: spec };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &both).context("setting a timer failed")?;
        // SAFETY: the timer owns its descriptor, and neither replaces nor closes it while it lives.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Heartbeat { timer, period, ticks_per_poll: ticks_per_poll.into(), ticks: 0 })
    }

    /// The time between two ticks.
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
                    self.ticks += u64::from_ne_bytes(expired);
                    if self.ticks < self.ticks_per_poll {
                        return Ok(Tick::Lease);
                    }
                    self.ticks = 0;
                    return Ok(Tick::Poll);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context("reading a timer failed"),
            }
        }
    }
}

fn ticks_per_poll(lease: Duration, reread_interval: Duration) -> u32 {
    let ticks = reread_interval.as_nanos().div_ceil((lease / 4).as_nanos());
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_lease_has_four_ticks_and_polls_come_after_whole_numbers_of_them() {
        let ticks = |lease, reread| ticks_per_poll(Duration::from_millis(lease), Duration::from_millis(reread));
        assert_eq!([ticks(1000, 250), ticks(1000, 251), ticks(1000, 10), ticks(50, 60_000)], [1, 2, 1, 4800]);
    }

    #[tokio::test]
    async fn every_third_tick_polls_and_a_stall_costs_no_poll() {
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
