//! A stream of requests while the node's configuration changes: which were answered, and when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::agent::Agent;
use crate::host::Host;
use crate::slack::{stretched, wait_until};

/// How long the fast path may take until it answers again. Generous: the machine may have much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request of a stream.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// Before it was sent.
    pub sent: Instant,
    /// After all its replies had arrived.
    pub seen: Instant,
    /// The replies.
    pub frames: Vec<Vec<u8>>,
}

impl StreamRequest {
    /// How many replies there were.
    pub fn replies(&self) -> usize {
        self.frames.len()
    }
}

/// The requests before, during and after a change.
#[derive(Debug)]
pub struct Stream {
    /// The requests, in order.
    pub asked: Vec<StreamRequest>,
    /// Before the change began.
    pub before: Instant,
    /// After the command that made it had come back.
    pub changed: Instant,
}

impl Stream {
    /// Has `host` ask for `tpa` without pause, makes the change after a while, and goes on for `after` (stretched by
    /// the slack factor, because an emulated machine asks more slowly).
    pub fn around(host: &Host, tpa: [u8; 4], after: Duration, change: impl FnOnce() -> Result<()>) -> Result<Self> {
        let stop = AtomicBool::new(false);
        let frame = host.who_has(tpa);
        thread::scope(|scope| {
            let name = thread::current().name().unwrap_or("stream").to_owned();
            let asking = thread::Builder::new().name(name).spawn_scoped(scope, || {
                let mut asked = Vec::new();
                loop {
                    // One more after the end: on a busy machine it may be the only one since the change.
                    let is_last = stop.load(Ordering::Relaxed);
                    let sent = Instant::now();
                    let frames = host.ask(&frame)?;
                    asked.push(StreamRequest { sent, seen: Instant::now(), frames });
                    if is_last {
                        return Ok(asked);
                    }
                }
            });
            let asking = asking.context("starting a thread")?;
            thread::sleep(Duration::from_millis(5));
            let before = Instant::now();
            let done = change();
            let changed = Instant::now();
            thread::sleep(if done.is_ok() { stretched(after) } else { Duration::ZERO });
            stop.store(true, Ordering::Relaxed);
            let asked: Result<Vec<StreamRequest>> =
                asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done?;
            Ok(Stream { asked: asked?, before, changed })
        })
    }

    /// The requests whose replies had arrived before the change began.
    pub fn earlier(&self) -> impl Iterator<Item = &StreamRequest> {
        self.asked.iter().filter(|asked| asked.seen <= self.before)
    }

    /// The requests that were sent after the change was made.
    pub fn later(&self) -> impl Iterator<Item = &StreamRequest> {
        self.asked.iter().filter(|asked| asked.sent >= self.changed)
    }

    /// How many of the later requests were answered, and how long after the change the last of those was sent.
    pub fn answered_later(&self) -> (usize, Duration) {
        let answered: Vec<&StreamRequest> = self.later().filter(|asked| asked.replies() > 0).collect();
        let last = answered.last().map_or(Duration::ZERO, |asked| asked.sent - self.changed);
        (answered.len(), last)
    }
}

/// How many of a host's ten requests for `tpa` the fast path answered, once the kernel had learnt the host. An error if
/// a request is not answered by anybody.
pub fn answered_of_ten(agent: &mut Agent, host: &Host, tpa: [u8; 4]) -> Result<u64> {
    let frame = host.who_has(tpa);
    host.ask(&frame)?;
    agent.in_sync()?;
    let before = agent.status()?.answered(host.node_end());
    for number in 0..10 {
        let replies = host.ask(&frame)?.len();
        ensure!(replies == 1, "request {number} got {replies} replies");
    }
    Ok(agent.status()?.answered(host.node_end()) - before)
}

/// For how long a reply that was counted is waited for.
const LATE: Duration = Duration::from_millis(500);

/// Asks until the fast path answers.
pub fn until_fast(agent: &Agent, host: &Host, tpa: [u8; 4]) -> Result<()> {
    let frame = host.who_has(tpa);
    let is_fast = || {
        let before = answered(agent)?;
        let replied = !host.ask(&frame)?.is_empty();
        let fast = answered(agent)? > before;
        // On a busy machine the reply may come late.
        let replied = replied || fast && !host.collect(LATE)?.is_empty();
        ensure!(replied || !fast, "the fast path counts an answer for {tpa:?} that did not come");
        Ok(fast)
    };
    wait_until(PATIENCE, is_fast, || format!("the fast path answers for {tpa:?}: {:?}", agent.status()))
}

/// How many requests the fast path has answered, on all interfaces.
pub fn answered(agent: &Agent) -> Result<u64> {
    agent.ask(r#""status""#)?["status"]["answered"].as_u64().context("a status without `answered`")
}
