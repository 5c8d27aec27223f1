//! Ends a run on a signal, so that its labs are dropped and removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Exit code of a run that a signal has ended, as shells have it for SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Whether a signal has asked the process to end. The process goes on until it asks [`Stop::check`].
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGHUP, SIGINT and SIGTERM from here on.
    pub fn on_signals() -> Result<Self> {
        let stop = Stop::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stop.0.clone()).context("catching signals")?;
        }
        Ok(stop)
    }

    /// Whether a signal has come.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if a signal has come; to be called between steps.
    pub fn check(&self) -> Result<()> {
        if self.is_asked() {
            bail!("interrupted");
        }
        Ok(())
    }
}
