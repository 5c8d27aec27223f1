//! Under which conditions the benchmarks run.

use anyhow::{Context as _, Result};
use lab::Stop;

/// What every benchmark is given.
pub(crate) struct Context {
    /// Few rounds and small numbers.
    pub(crate) quick: bool,
    /// The core that generators, and with them the responders, run on: the last that this process may use.
    pub(crate) core: usize,
    /// All that it may use.
    pub(crate) cores: Vec<usize>,
    /// A benchmark ends at its next [`Context::check`], and its lab with it.
    pub(crate) stop: Stop,
}

impl Context {
    pub(crate) fn new(quick: bool) -> Result<Self> {
        let cores = lab::allowed_cores()?;
        let core = *cores.last().context("no core to run on")?;
        Ok(Context { quick, core, cores, stop: Stop::on_signals()? })
    }

    /// `full`, or `quick` in quick mode.
    pub(crate) fn either<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// An error once a signal has come, to be called between turns.
    pub(crate) fn check(&self) -> Result<()> {
        self.stop.check()
    }
}
