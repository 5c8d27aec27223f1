//! One file a command, of the same name.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what commands print is their result")]

pub mod detach;
pub mod explain;
pub mod run;
pub mod stats;
pub mod status;

/// A command's exit code, besides 1 for failures and 2 for bad usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// As it should be. `status`: ready, and answering on an interface, or none matches yet.
    Ok = 0,
    /// `status`: no agent runs.
    NotRunning = 1,
    /// `status`: running, but not ready. `explain`: pass. `detach`: an agent still runs.
    No = 3,
    /// `status`: ready, but of the interfaces that match none answers.
    NoneAnswers = 4,
}
