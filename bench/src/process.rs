//! Reads from /proc what a process costs.

use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use lab::{Agent, AgentOptions, Namespace};
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How long an agent may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts an agent with its default options and these arguments, but without pins. Gives how long it took to be ready,
/// to the millisecond.
pub(crate) fn started(patterns: &[&str], arguments: &[&str], node: &Namespace) -> Result<(Agent, Duration)> {
    start(AgentOptions::new(patterns).sysctl_hook().args(arguments), node)
}

/// The same with these options.
pub(crate) fn start(options: AgentOptions, node: &Namespace) -> Result<(Agent, Duration)> {
    let begin = Instant::now();
    let agent = options.spawn(node)?;
    loop {
        // At first there is no socket.
        let answer = agent.ask(r#""status""#);
        let elapsed = begin.elapsed();
        if answer.as_ref().is_ok_and(|answer| answer["status"]["ready"] == true) {
            return Ok((agent, elapsed));
        }
        ensure!(
            elapsed < PATIENCE,
            "the agent was not ready within {PATIENCE:?}: {answer:?}; its log:\n{}",
            agent.log()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// A process that is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Keeps all its threads off a core, which a watcher has for itself: one that never sleeps makes whoever is woken
    /// beside it wait for the end of its time slice.
    pub(crate) fn keep_off(self, core: usize) -> Result<()> {
        let mut cores = sched_getaffinity(Pid::from_raw(0)).context("asking for the cores")?;
        cores.unset(core)?;
        for thread in fs::read_dir(format!("/proc/{}/task", self.0)).context("listing the agent's threads")? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse().context("a thread's name is its number")?;
            sched_setaffinity(Pid::from_raw(thread), &cores).context("choosing the agent's cores")?;
        }
        Ok(())
    }

    /// CPU time of all its threads so far, exact to the nanosecond (schedstat).
    pub(crate) fn cpu(self) -> Result<Duration> {
        let mut total = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.0)).context("listing the agent's threads")? {
            // A thread may have ended meanwhile.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            let spent = text.split(' ').next().context("an empty schedstat")?;
            total += spent.parse::<u64>().context("schedstat is no number")?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// A size of /proc/PID/status in KiB, such as `VmRSS` or `RssAnon`.
    pub(crate) fn kib(self, field: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0)).context("reading the agent's status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("the agent's status has no {field}"))
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0)).context("listing the agent's descriptors")?.count())
    }

    /// A field of the fdinfo of each descriptor that has it, as a number: `prog_id`, `map_id`, `memlock`.
    pub(crate) fn descriptor_fields(self, field: &str) -> Result<Vec<u64>> {
        let mut values = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.0)).context("listing the agent's descriptors")? {
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse::<u64>().ok());
            values.extend(value);
        }
        Ok(values)
    }
}
