//! What the service manager is told (sd_notify(3)): ready, alive, reloading, stopping, and the state in a line. Without a
//! service manager this does nothing.

use sd_notify::{NotifyState, notify, watchdog_enabled};
use std::time::{Duration, Instant};

pub(super) struct Supervisor {
    /// There is somebody to be told.
    is_there: bool,
    /// How often it wants to hear that the agent is alive.
    watchdog: Option<Duration>,
    told_alive: Option<Instant>,
    is_ready_told: bool,
    state: String,
}

impl Supervisor {
    /// As the environment says (`$NOTIFY_SOCKET`, `$WATCHDOG_USEC`).
    pub(super) fn from_environment() -> Self {
        Supervisor {
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
            watchdog: watchdog_enabled().filter(|interval| !interval.is_zero()),
            told_alive: None,
            is_ready_told: false,
            state: String::new(),
        }
    }

    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// The agent's loop turns. `is_in_sync`: it has read all of the kernel's state, and attaches.
    pub(super) fn turned(&mut self, is_in_sync: bool, now: Instant) {
        if !self.is_there {
            return;
        }
        if is_in_sync && !self.is_ready_told {
            self.is_ready_told = true;
            tell(&[NotifyState::Ready]);
        }
        if let Some(interval) = self.watchdog
            && self.told_alive.is_none_or(|told| now.duration_since(told) >= interval / 4)
        {
            self.told_alive = Some(now);
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// How often the loop must turn at least, if that is more often than `otherwise`.
    pub(super) fn awake(&self, otherwise: Duration) -> Duration {
        self.watchdog.map_or(otherwise, |interval| otherwise.min(interval / 4))
    }

    /// What the agent does now, for `systemctl status`.
    pub(super) fn state(&mut self, state: String) {
        if self.is_there && state != self.state {
            tell(&[NotifyState::Status(&state)]);
            self.state = state;
        }
    }

    /// The configuration is being read; [`Supervisor::reloaded`] must follow.
    pub(super) fn reloading(&self) {
        if self.is_there
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The settings that are in force now, old or new, are so until the next reload.
    pub(super) fn reloaded(&self) {
        if self.is_there {
            tell(&[NotifyState::Ready]);
        }
    }

    /// The agent ends.
    pub(super) fn stopping(&self) {
        if self.is_there {
            tell(&[NotifyState::Stopping]);
        }
    }
}

/// A service manager that cannot be told does without: it is no reason to stop answering.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        log::debug!("the service manager cannot be told {states:?}: {error}");
    }
}
