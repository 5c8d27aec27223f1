//! Under which conditions the benchmarks run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What every benchmark is given.
pub(crate) struct Context {
    /// Few rounds and small numbers.
    pub(crate) quick: bool,
    /// The core that generators, and with them the responders, run on: the last that this process may use.
    pub(crate) core: usize,
    /// All that it may use.
    pub(crate) cores: Vec<usize>,
    stop: Arc<AtomicBool>,
}

impl Context {
    /// Signals are caught from here on: a benchmark ends at its next [`Context::check`], and its lab with it.
    pub(crate) fn new(quick: bool) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stop.clone()).context("catching signals")?;
        }
        let cores = lab::allowed_cores()?;
        let core = *cores.last().context("no core to run on")?;
        Ok(Context { quick, core, cores, stop })
    }

    /// `full`, or `quick` in quick mode.
    pub(crate) fn either<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    pub(crate) fn is_asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// An error once a signal has come, to be called between turns.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_asked_to_stop() {
            bail!("interrupted");
        }
        Ok(())
    }
}
