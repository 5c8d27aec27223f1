//! Watches what an agent's program decides, without asking the agent: a thread in the node's namespace, on a core of
//! its own, runs the loaded program on a request again and again (BPF_PROG_TEST_RUN). It sees the decision itself,
//! including lease and sequence, and needs no work of the agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arp_common::ArpFrame;
use arp_common::maps::names;
use aya::programs::loaded_programs;
use lab::Agent;

use crate::process::Process;
use crate::programs::LoadedPrograms;

/// XDP_TX (include/uapi/linux/bpf.h): the reply is sent.
const XDP_TX: u32 = 3;

/// The agent's programs for socket buffers, which reply by XDP_TX.
fn is_ours(name: &str) -> bool {
    [names::XDP_FRAGS_PROGRAM, names::XDP_PROGRAM].contains(&name)
}

/// A running agent's program, and the request that it is asked about.
pub(crate) struct ProgramWatch {
    programs: LoadedPrograms,
}

impl ProgramWatch {
    /// Finds the XDP program that the agent has loaded.
    pub(crate) fn on(agent: &Agent) -> Result<Self> {
        let held = Process(agent.pid()).descriptor_fields("prog_id")?;
        let info = loaded_programs()
            .filter_map(Result::ok)
            .find(|info| held.contains(&u64::from(info.id())) && info.name_as_str().is_some_and(is_ours))
            .context("the agent has no XDP program loaded")?;
        let mut programs = LoadedPrograms::load()?;
        programs.place(&info.fd().context("opening the agent's program")?)?;
        Ok(ProgramWatch { programs })
    }

    /// Asks about this request from now on.
    pub(crate) fn about(&mut self, request: &ArpFrame) -> Result<()> {
        self.programs.set_frame(request)
    }

    /// Whether the request would be answered on that interface. To be called in the node's namespace.
    pub(crate) fn answers(&mut self, ifindex: u32) -> Result<bool> {
        Ok(self.programs.run_placed(ifindex)? == XDP_TX)
    }

    /// Waits until the request is answered on that interface (or no longer). Gives how long after `since` that was; it
    /// may be too long by one look.
    pub(crate) fn until(
        &mut self,
        ifindex: u32,
        answers: bool,
        since: Instant,
        patience: Duration,
    ) -> Result<Duration> {
        loop {
            let so = self.answers(ifindex)? == answers;
            let elapsed = since.elapsed();
            if so {
                return Ok(elapsed);
            }
            let what = if answers { "answered" } else { "passed" };
            ensure!(elapsed < patience, "interface {ifindex}: the request was not {what} within {patience:?}");
        }
    }

    /// What one look costs: the resolution of [`ProgramWatch::until`].
    pub(crate) fn resolution(&mut self, ifindex: u32) -> Result<Duration> {
        const LOOKS: u32 = 1000;
        let begin = Instant::now();
        for _ in 0..LOOKS {
            self.answers(ifindex)?;
        }
        Ok(begin.elapsed() / LOOKS)
    }
}
