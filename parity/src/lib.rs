//! Random scenarios: the kernel alone against the kernel with the fast path (`cargo xtask parity`).

mod check;
mod explained;
mod frames;
mod mutations;
mod oracle;
pub mod pair;
mod plan;
mod report;
mod rng;
mod run;
mod scenario;
mod shapes;
mod shrink;
mod state;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use lab::{Stop, TestHook};
use pair::FastPath;

/// Random configurations and frames: the kernel alone against the kernel with the fast path.
///
/// Exit code 1 if they differ anywhere, or if the kernel is silent where the oracle is sure of an answer.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// For how long scenarios are begun
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same seed gives the same scenarios; a new one each time by default
    #[arg(long)]
    seed: Option<u64>,
    /// Frames of each scenario
    #[arg(long, default_value_t = 520)]
    frames: usize,
    /// End after so many scenarios
    #[arg(long)]
    scenarios: Option<u64>,
    /// Begin with this one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// No fast path: checks that two kernels alone do not differ, and the oracle against them
    #[arg(long)]
    kernel_vs_kernel: bool,
    /// Where the fast path answers; by default as ARP_TEST_HOOK says, else tc
    #[arg(long, value_enum)]
    hook: Option<TestHook>,
    /// Every policy of the agent is in `count`: it counts, and changes nothing
    #[arg(long)]
    count_policies: bool,
    /// Scenarios at the same time; as many as there are cores by default
    #[arg(long)]
    jobs: Option<usize>,
    /// Print the first scenario, and do nothing
    #[arg(long)]
    print: bool,
    /// Do not shrink what diverges
    #[arg(long)]
    no_shrink: bool,
    /// Play these scripts instead, one after the other
    #[arg(long, num_args = 1..)]
    replay: Vec<PathBuf>,
    /// Where scripts that diverge are written
    #[arg(long, default_value = "target/parity")]
    out: PathBuf,
}

impl Args {
    /// The fast path, if there is one.
    fn fast_path(&self) -> Result<Option<FastPath>> {
        let hook = match self.hook {
            _ if self.kernel_vs_kernel => return Ok(None),
            None => TestHook::chosen()?,
            Some(hook) => hook,
        };
        Ok(Some(FastPath { hook, count_policies: self.count_policies }))
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The program: parses the command line and runs. Exit code 1 if a scenario diverged, 2 if a run failed.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match Stop::on_signals().and_then(|stop| run::run(&args, &stop)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
