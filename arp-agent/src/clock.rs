//! The clocks that the agent and the kernel share.

use anyhow::{Context as _, bail};
use nix::time::{ClockId, clock_getres, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of leases.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has CLOCK_MONOTONIC");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// The length of a jiffy in nanoseconds: the resolution of the coarse clocks (`TICK_NSEC`, kernel/time/posix-timers.c).
pub(crate) fn tick_ns() -> anyhow::Result<u64> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context("asking for the length of a jiffy failed")?;
    let ns = u64::try_from(tick.tv_nsec()).unwrap_or(0);
    if tick.tv_sec() != 0 || ns == 0 {
        bail!("the kernel reports an impossible length of a jiffy: {}.{ns:09} s", tick.tv_sec());
    }
    Ok(ns)
}
