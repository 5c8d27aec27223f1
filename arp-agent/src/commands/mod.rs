//! The commands: each has a file of its name.
#![expect(clippy::print_stderr, reason = "what commands say besides their result is for people")]

pub mod check_config;
pub mod detach;
pub mod events;
pub mod explain;
pub mod metrics;
mod output;
pub mod preflight;
pub mod reload;
pub mod run;
pub mod snapshot;
pub mod stats;
pub mod status;
pub mod top;
pub mod trace;
mod turns;

/// A command's exit code, besides 1 for errors and 2 for bad usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success. `status`: the agent is ready, and answers on an interface, or none matches yet.
    Ok = 0,
    /// `preflight`: the agent cannot run here.
    Failed = 1,
    /// `run`: no interface is named.
    Usage = 2,
    /// `status`: the agent runs, but is not ready. `status`, `stats`, `events`, `trace`: it does not respond. `explain`: the frame is passed.
    /// `preflight`: not everything would be answered. `detach`: an agent still runs.
    No = 3,
    /// `status`, `stats`, `events`, `trace`: no agent runs.
    NotRunning = 4,
    /// `status`: the agent is ready, but answers on none of the interfaces that match.
    NoneAnswers = 5,
}
