//! The kernel alone and the fast path, side by side: the same lab twice, an agent on one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::agent::{Agent, AgentOptions, AgentStatus};
use crate::host::Host;
use crate::lab::Lab;
use crate::neighbours::Neighbours;
use crate::packet::hex;

/// Two labs built alike. Whatever happens to one happens to the other; only one has an agent.
#[derive(Debug)]
pub struct SideBySide {
    // Dropped first: the agent ends before its node goes.
    agent: Agent,
    alone: Lab,
    fast: Lab,
}

/// In place of a reason: the program did not count the frame, because it is not ARP to it.
pub const UNCOUNTED: &str = "uncounted";

/// In place of a reason: the fast path answered, and something on the way out took the reply.
pub const LOST: &str = "answered, and lost on the way out";

/// Who answered a request, by the fast path's own counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The fast path.
    FastPath,
    /// The kernel, after the fast path had passed the request for this reason.
    Kernel(String),
    /// Nobody: the fast path passed it for this reason, and the kernel was silent.
    Nobody(String),
}

impl Answerer {
    /// The kernel, after a pass for `reason`.
    pub fn kernel(reason: &str) -> Self {
        Answerer::Kernel(reason.to_owned())
    }

    /// Nobody, after a pass for `reason`.
    pub fn nobody(reason: &str) -> Self {
        Answerer::Nobody(reason.to_owned())
    }
}

/// What both labs did with a request; they did the same.
#[derive(Clone, Debug)]
pub struct SameOutcome {
    /// The frames that came back.
    pub replies: Vec<Vec<u8>>,
    /// Who sent them in the lab with the agent.
    pub by: Answerer,
}

impl SideBySide {
    /// Builds both labs and starts an agent for `interfaces` on one.
    pub fn start(build: impl Fn() -> Result<Lab>, interfaces: &[&str]) -> Result<Self> {
        Self::start_with(build, AgentOptions::new(interfaces))
    }

    /// Builds both labs and starts the agent on one.
    pub fn start_with(build: impl Fn() -> Result<Lab>, options: AgentOptions) -> Result<Self> {
        let (alone, fast) = (build()?, build()?);
        let agent = options.start(fast.node())?;
        Ok(SideBySide { agent, alone, fast })
    }

    /// The lab without an agent.
    pub fn alone(&self) -> &Lab {
        &self.alone
    }

    /// The lab with the agent.
    pub fn fast(&self) -> &Lab {
        &self.fast
    }

    /// The agent.
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// Does the same to both labs, without waiting for the agent to follow.
    pub fn both(&mut self, mut change: impl FnMut(&mut Lab) -> Result<()>) -> Result<()> {
        change(&mut self.alone)?;
        change(&mut self.fast)
    }

    /// Does the same to both labs, and waits until the agent has followed.
    pub fn change(&mut self, change: impl FnMut(&mut Lab) -> Result<()>) -> Result<()> {
        self.both(change)?;
        self.agent.in_sync()
    }

    /// Runs an `ip` command on both nodes, and waits until the agent has followed.
    pub fn node_ip(&mut self, command: &str) -> Result<()> {
        self.change(|lab| lab.node().ip(command).map(drop))
    }

    /// Writes a sysctl on both nodes, and waits until the agent has followed.
    pub fn node_sysctl(&mut self, key: &str, value: i64) -> Result<()> {
        self.change(|lab| lab.node().sysctl(key, value))
    }

    /// Lets the kernel of both nodes learn the host's address, as its first request does, and the agent follow.
    pub fn learn(&mut self, host: &str, tpa: [u8; 4]) -> Result<()> {
        self.change(|lab| {
            let host = lab.host(host);
            ensure!(!host.ask(&host.who_has(tpa))?.is_empty(), "the node does not answer {} for {tpa:?}", host.name());
            Ok(())
        })
    }

    /// Sends the same frame in both labs. An error if the replies, at the asker or elsewhere, or the neighbour tables differ, or
    /// if the counters account for more than this frame.
    ///
    /// A static proxy entry is read again by the agent once a request has needed it: until then the kernel answers, and
    /// who answers is asked again.
    pub fn ask<B: AsRef<[u8]>>(&mut self, host: &str, frame: impl Fn(&Host) -> B) -> Result<SameOutcome> {
        const TIMES: usize = 20;
        for _ in 1..TIMES {
            let outcome = self.ask_once(host, &frame)?;
            if outcome.by != Answerer::kernel("proxy_unconfirmed") {
                return Ok(outcome);
            }
        }
        self.ask_once(host, frame)
    }

    fn ask_once<B: AsRef<[u8]>>(&mut self, host: &str, frame: impl Fn(&Host) -> B) -> Result<SameOutcome> {
        let (alone, fast) = (self.alone.host(host), self.fast.host(host));
        let ingress = fast.node_end();
        let frame = frame(fast);
        let frame = frame.as_ref();
        for lab in [&self.alone, &self.fast] {
            heard_elsewhere(lab, host)?;
        }
        let expected = alone.ask(frame)?;
        let before = self.agent.status()?;
        let replies = fast.ask(frame)?;
        let after = self.agent.status()?;
        let counted = Counted::between(&before, &after, ingress);
        ensure!(
            replies == expected,
            "the same frame, two answers (counters: {counted:?})\n frame {}\n kernel alone {}\n with the fast path {}",
            hex(frame),
            all_hex(&expected),
            all_hex(&replies),
        );
        let (alone, fast) = (heard_elsewhere(&self.alone, host)?, heard_elsewhere(&self.fast, host)?);
        ensure!(fast == alone, "other hosts heard of it: kernel alone {alone:02x?}, with the fast path {fast:02x?}");
        self.compare_neighbours()?;
        let by = counted.answerer(!replies.is_empty())?;
        Ok(SameOutcome { replies, by })
    }

    /// Sends several frames of a host, one after another, in both labs: how many of them were answered, and by how much the
    /// counters moved. The errors are those of [`ask`](Self::ask), but for the counters.
    pub fn ask_all(&mut self, host: &str, frames: impl Fn(&Host) -> Vec<Vec<u8>>) -> Result<(usize, Counted)> {
        let (alone, fast) = (self.alone.host(host), self.fast.host(host));
        let before = self.agent.status()?;
        let mut replied = 0;
        for frame in frames(fast) {
            let (expected, replies) = (alone.ask(&frame)?, fast.ask(&frame)?);
            ensure!(
                replies == expected,
                "the same frame, two answers\n frame {}\n kernel alone {}\n with the fast path {}",
                hex(&frame),
                all_hex(&expected),
                all_hex(&replies),
            );
            replied += usize::from(!replies.is_empty());
        }
        let mut counted = Counted::between(&before, &self.agent.status()?, fast.node_end());
        // The host's own stack may have replied to the node meanwhile.
        counted.passed.remove("not_request");
        self.compare_neighbours()?;
        Ok((replied, counted))
    }

    /// An error if the nodes' neighbour tables differ.
    pub fn compare_neighbours(&self) -> Result<()> {
        let alone = Neighbours::of(self.alone.node())?.settled().usable();
        let fast = Neighbours::of(self.fast.node())?.settled().usable();
        ensure!(alone == fast, "two neighbour tables\nkernel alone:\n{alone}with the fast path:\n{fast}");
        Ok(())
    }
}

/// The replies that have come in at other hosts than the one that asks, by their names.
fn heard_elsewhere(lab: &Lab, asker: &str) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
    let others = lab.hosts().filter(|host| host.name() != asker);
    others.map(|host| Ok((host.name().to_owned(), host.collect(Duration::ZERO)?))).collect()
}

/// By how much an interface's counters moved.
#[derive(Debug)]
pub struct Counted {
    /// Requests answered.
    pub answered: u64,
    /// Frames passed, by reason; without those of which there were none.
    pub passed: BTreeMap<String, u64>,
}

impl Counted {
    /// Between two readings of the agent's status.
    pub fn between(before: &AgentStatus, after: &AgentStatus, interface: &str) -> Self {
        let old = before.passed(interface);
        let mut passed = after.passed(interface);
        for (reason, count) in &mut passed {
            *count -= old.get(reason).copied().unwrap_or_default();
        }
        passed.retain(|_, &mut count| count != 0);
        Counted { answered: after.answered(interface) - before.answered(interface), passed }
    }

    /// Who answered the one request in between; an error if the counters moved by more than one.
    pub fn answerer(mut self, replied: bool) -> Result<Answerer> {
        if self.passed.len() + usize::from(self.answered != 0) > 1 {
            // The host's own stack may have replied to the node meanwhile.
            self.passed.remove("not_request");
        }
        let passed: Vec<(String, u64)> = self.passed.into_iter().collect();
        Ok(match (self.answered, passed.as_slice()) {
            (1, []) if replied => Answerer::FastPath,
            (1, []) => Answerer::nobody(LOST),
            (0, []) if replied => Answerer::kernel(UNCOUNTED),
            (0, []) => Answerer::nobody(UNCOUNTED),
            (0, [(reason, 1)]) if replied => Answerer::Kernel(reason.clone()),
            (0, [(reason, 1)]) => Answerer::Nobody(reason.clone()),
            (answered, passed) => {
                bail!(
                    "one frame, but the counters moved by: answered {answered}, passed {passed:?} (replied: {replied})"
                )
            }
        })
    }
}

fn all_hex(frames: &[Vec<u8>]) -> String {
    if frames.is_empty() { "nothing".to_owned() } else { frames.iter().map(|frame| hex(frame) + " ").collect() }
}
