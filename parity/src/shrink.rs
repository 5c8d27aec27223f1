//! From a scenario that diverges to the smallest script that does.

use std::time::{Duration, Instant};

use crate::pair::{Divergence, Pair, Step};
use anyhow::Result;
use lab::{Hook, Stop};

/// For how long a script is made smaller.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a script that did not diverge again is tried before it is given up.
const TRIALS: usize = 3;

/// What came of it.
pub(crate) struct Shrunk {
    pub(crate) steps: Vec<Step>,
    /// `None` if it was not seen again.
    pub(crate) divergence: Option<Divergence>,
    pub(crate) trials: usize,
}

struct Trials<'a> {
    stop: &'a Stop,
    hook: Option<Hook>,
    core: usize,
    count: usize,
    start: Instant,
}

/// Looks for the smallest part of `steps` that diverges on a fresh pair; if none does, of `history` and `steps`.
pub(crate) fn shrink(
    history: &[Step],
    steps: Vec<Step>,
    hook: Option<Hook>,
    core: usize,
    stop: &Stop,
) -> Result<Shrunk> {
    let mut trials = Trials { stop, hook, core, count: 0, start: Instant::now() };
    let with_history: Vec<Step> = history.iter().cloned().chain(steps.iter().cloned()).collect();
    for _ in 0..TRIALS {
        for candidate in [&steps, &with_history] {
            if let Some(divergence) = trials.diverges(candidate)? {
                return trials.minimise(candidate.clone(), divergence);
            }
        }
    }
    Ok(Shrunk { steps: with_history, divergence: None, trials: trials.count })
}

impl Trials<'_> {
    fn diverges(&mut self, steps: &[Step]) -> Result<Option<Divergence>> {
        self.count += 1;
        Pair::new(self.hook, self.core)?.play(steps)
    }

    fn is_over(&self) -> bool {
        self.stop.is_asked() || self.start.elapsed() > PATIENCE
    }

    /// Leaves out halves, quarters, … single steps, as long as what is left still diverges.
    fn minimise(mut self, mut steps: Vec<Step>, mut divergence: Divergence) -> Result<Shrunk> {
        let mut size = steps.len().div_ceil(2);
        loop {
            let mut at = 0;
            let mut smaller = false;
            while at < steps.len() && !self.is_over() {
                let end = (at + size).min(steps.len());
                let mut candidate = steps.clone();
                candidate.drain(at..end);
                match self.diverges(&candidate)? {
                    Some(found) => {
                        (steps, divergence, smaller) = (candidate, found, true);
                    }
                    None => at = end,
                }
            }
            if self.is_over() || (size == 1 && !smaller) {
                return Ok(Shrunk { steps, divergence: Some(divergence), trials: self.count });
            }
            if size > 1 {
                size = size.div_ceil(2);
            }
        }
    }
}
