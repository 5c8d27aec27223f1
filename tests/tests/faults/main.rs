//! The fault catalogue: each test is one fault that this program once had, or could have, with its bound.
//!
//! A test whose name begins with `long_` does in minutes what another one does in seconds. Those are the tier `faults-long`, which
//! runs on demand.
//!
//! These tests put load beside the agent, kill it, starve it or attack it, so they take turns ([`turn`]).

mod descriptors;
mod flapping;
mod flips;
mod hooks;
mod looking;
mod pods;
mod sysctls;
mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this tier runs. Each test holds the result until it ends.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
