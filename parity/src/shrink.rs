//! From a scenario that shows something wrong to the smallest script that does.

use std::time::{Duration, Instant};

use crate::check::{self, Finding};
use crate::pair::{FastPath, Pair, ScriptStep};
use anyhow::Result;
use lab::Stop;

/// For how long a script is made smaller.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a script that did not show it again is tried before it is given up.
const TRIALS: usize = 3;

/// What came of it.
pub(crate) struct Shrunk {
    pub(crate) steps: Vec<ScriptStep>,
    /// `None` if it was not seen again.
    pub(crate) finding: Option<Finding>,
    pub(crate) trials: usize,
}

struct Trials<'a> {
    stop: &'a Stop,
    fast_path: Option<FastPath>,
    core: usize,
    count: usize,
    start: Instant,
}

/// Looks for the smallest part of `steps` that shows something wrong on a fresh pair; if none does, of `history` and
/// `steps`.
pub(crate) fn shrink(
    history: &[ScriptStep],
    steps: Vec<ScriptStep>,
    fast_path: Option<FastPath>,
    core: usize,
    stop: &Stop,
) -> Result<Shrunk> {
    let mut trials = Trials { stop, fast_path, core, count: 0, start: Instant::now() };
    let with_history: Vec<ScriptStep> = history.iter().cloned().chain(steps.iter().cloned()).collect();
    for _ in 0..TRIALS {
        for candidate in [&steps, &with_history] {
            if let Some(finding) = trials.shows(candidate)? {
                return trials.minimise(candidate.clone(), finding);
            }
        }
    }
    Ok(Shrunk { steps: with_history, finding: None, trials: trials.count })
}

impl Trials<'_> {
    fn shows(&mut self, steps: &[ScriptStep]) -> Result<Option<Finding>> {
        self.count += 1;
        check::play(&mut Pair::new(self.fast_path, self.core)?, steps)
    }

    fn is_over(&self) -> bool {
        self.stop.is_asked() || self.start.elapsed() > PATIENCE
    }

    /// Leaves out halves, quarters, … single steps, as long as what is left still shows it.
    fn minimise(mut self, mut steps: Vec<ScriptStep>, mut finding: Finding) -> Result<Shrunk> {
        let mut size = steps.len().div_ceil(2);
        loop {
            let mut at = 0;
            let mut smaller = false;
            while at < steps.len() && !self.is_over() {
                let end = (at + size).min(steps.len());
                let mut candidate = steps.clone();
                candidate.drain(at..end);
                match self.shows(&candidate)? {
                    Some(found) => {
                        (steps, finding, smaller) = (candidate, found, true);
                    }
                    None => at = end,
                }
            }
            if self.is_over() || (size == 1 && !smaller) {
                return Ok(Shrunk { steps, finding: Some(finding), trials: self.count });
            }
            if size > 1 {
                size = size.div_ceil(2);
            }
        }
    }
}
