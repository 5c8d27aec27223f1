//! Commands that look again and again: a status each turn, and what lies between two of them.

use super::Exit;
use super::status::{self, Fetched};
use crate::control::Status;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Asks for the status in turns.
pub(super) struct Turns<'a> {
    run_dir: &'a Path,
    json: bool,
    /// Between two turns; `None`: there is one.
    pause: Option<Duration>,
    /// How many are left; `None`: as many as the agent lives.
    left: Option<u64>,
    last: Option<(Instant, Box<Status>)>,
    has_begun: bool,
}

/// A turn.
pub(super) struct Turn {
    /// What the agent says now.
    pub(super) now: Box<Status>,
    /// What the same agent said in the turn before, and how long ago that was.
    pub(super) before: Option<(Duration, Box<Status>)>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(run_dir: &'a Path, json: bool, pause: Option<Duration>, count: Option<u64>) -> Self {
        Turns { run_dir, json, pause, left: count, last: None, has_begun: false }
    }

    /// The next turn, after the pause; the exit code when there is no more, or no agent.
    ///
    /// # Errors
    /// What listens in the run directory is no agent of this version.
    pub(super) fn next(&mut self) -> anyhow::Result<Result<Turn, Exit>> {
        if self.has_begun {
            match self.pause {
                Some(pause) if self.left != Some(0) => sleep(pause),
                _ => return Ok(Err(Exit::Ok)),
            }
        }
        self.has_begun = true;
        self.left = self.left.map(|left| left.saturating_sub(1));
        let at = Instant::now();
        let now = match status::fetch(self.run_dir)? {
            Fetched::Status(status) => status,
            absent => return Ok(Err(status::without(&absent, self.run_dir, self.json)?)),
        };
        let before = self.last.replace((at, now.clone()));
        let before = before.filter(|(_, before)| before.pid == now.pid).map(|(then, before)| (at - then, before));
        Ok(Ok(Turn { now, before }))
    }
}

/// How much a counter moves in a second, to a tenth; `None` if it began anew.
pub(super) fn rate(now: u64, before: u64, passed: Duration) -> Option<f64> {
    let difference = now.checked_sub(before)? as f64;
    Some((difference / passed.as_secs_f64() * 10.0).round() / 10.0)
}
