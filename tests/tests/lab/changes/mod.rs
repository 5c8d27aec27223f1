//! Changes while the agent runs: followed within the bound, and from then on no answer that the kernel would not give.

mod links;
mod routes;
mod rules;
mod settings;
mod windows;
mod written;

use anyhow::Result;
use lab::{Answerer, SideBySide, topology};

/// A target that only the default route covers at first.
const ELSEWHERE: [u8; 4] = [10, 30, 0, 1];

fn matrix_with_agent() -> Result<SideBySide> {
    SideBySide::start(topology::matrix, &["v0"])
}

fn who_has(parity: &mut SideBySide, tpa: [u8; 4]) -> Result<Answerer> {
    Ok(parity.ask("p0", |p0| p0.who_has(tpa))?.by)
}
