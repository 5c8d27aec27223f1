//! The two nodes together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use arp_common::maps::IfaceAddr;
use arp_common::{ArpFrame, Lladdr, Reason};
use serde_json::Value;

use super::frames::Frame;
use super::script::ScriptStep;
use super::side::{NodeSaw, Side, Tapped};
use lab::packet::hex;
use lab::{Agent, AgentOptions, Class, Namespace, Neighbours, OnCore, TestHook};

/// How many frames are sent together, whatever they change.
const MIXED: usize = 64;
/// How long the agent may take to be in sync.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how much of it is waited until it has tested the interfaces' reply paths.
const PROOF_PATIENCE: Duration = Duration::from_secs(5);

/// Every policy in `count`, which judges each frame and changes nothing.
const COUNTED: [&str; 12] = [
    "--sender-guard",
    "*=count",
    "--entry-limit",
    "*=count:4",
    "--budget",
    "*=count:10/4,10/4",
    "--binding",
    "*=count",
    "--unresolved-budget",
    "*=count",
    "--gateway=*=count:169.254.1.1,10.0.0.1",
    "--no-delay=*=count",
];

/// How the agent beside one of the nodes is to run.
#[derive(Clone, Copy, Debug)]
pub struct FastPath {
    /// Where it answers.
    pub hook: TestHook,
    /// Every policy is in `count`.
    pub count_policies: bool,
}

/// The two nodes, and the agent beside one of them.
#[derive(Debug)]
pub struct Pair {
    // Dropped first: the agent ends before its node goes.
    agent: Option<Agent>,
    alone: Side,
    beside: Side,
    core: usize,
    hook: TestHook,
    fast_path: Option<FastPath>,
    /// Ports whose reply path the agent could not test in good time.
    given_up: BTreeSet<u32>,
    /// How often the kernel had cleared the neighbour table when the two nodes' tables were last read.
    collections: Vec<String>,
    /// The routes with a realm that may be there.
    realms: Vec<String>,
    spent: BTreeMap<&'static str, Duration>,
}

/// Frames that were sent together, and what the kernel alone knew before.
#[derive(Debug)]
pub struct FrameBatch<'a> {
    /// The neighbour table of the kernel alone before the first of the frames. No frame changes what the verdict on
    /// another depends on.
    pub neighbours: &'a Neighbours,
    /// The frames.
    pub seen: &'a [Seen<'a>],
    /// The agent, if there is one.
    pub agent: Option<&'a Agent>,
    /// What it said of itself right before, in sync: `status` as JSON.
    pub before: &'a Value,
    /// The kernel cleared the neighbour table meanwhile, or since the batch before.
    pub collected: bool,
}

/// A frame, and what became of it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The frame.
    pub frame: &'a Frame,
    /// The kernel alone answered it.
    pub answered: bool,
    /// The fast path took it; `None` if that cannot be told, because the frame did not reach the node.
    pub taken: Option<bool>,
}

/// What the two did differently.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// What differs, for people.
    pub what: String,
    /// The frames after which it showed.
    pub frames: Vec<Frame>,
    /// The kernel cleared the neighbour table meanwhile, which is one for all namespaces of the machine: it may have
    /// done so between one node's frames and the other's.
    pub collected: bool,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Pair {
    /// Builds the two nodes; one of them gets an agent, if there is to be one. Frames are sent from `core`.
    pub fn new(fast_path: Option<FastPath>, core: usize) -> Result<Self> {
        let start = Instant::now();
        let kind = fast_path.map(|fast_path| fast_path.hook).unwrap_or_default();
        let (alone, beside) = (Side::new(kind)?, Side::new(kind)?);
        ensure!(alone.ifindex(0) == beside.ifindex(0), "the two nodes' interfaces are numbered differently");
        let agent = fast_path.map(|fast_path| start_agent(fast_path, &beside)).transpose()?;
        let spent = BTreeMap::from([("building nodes", start.elapsed())]);
        Ok(Pair {
            agent,
            alone,
            beside,
            core,
            hook: kind,
            fast_path,
            given_up: BTreeSet::new(),
            collections: garbage_collections(),
            realms: Vec::new(),
            spent,
        })
    }

    /// The node with the kernel alone.
    pub fn node(&self) -> &Namespace {
        self.alone.node()
    }

    /// What the time went into so far.
    pub fn spent(&self) -> &BTreeMap<&'static str, Duration> {
        &self.spent
    }

    fn spend(&mut self, on: &'static str, since: Instant) {
        *self.spent.entry(on).or_default() += since.elapsed();
    }

    /// The agent, if there is one.
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// The index of the node's `v<port>`.
    pub fn ifindex(&self, port: u8) -> u32 {
        self.alone.ifindex(port)
    }

    /// Does steps of configuration to both, and gives the number of those that the kernel refused.
    pub fn apply(&mut self, steps: &[ScriptStep]) -> Result<usize> {
        let mut refused = 0;
        let start = Instant::now();
        for group in steps.chunk_by(|one, other| std::mem::discriminant(one) == std::mem::discriminant(other)) {
            let doing = [self.alone.begin(group)?, self.beside.begin(group)?];
            let [one, other] = doing.map(|doing| doing.finish());
            let (one, other) = (one?, other?);
            let settling = Instant::now();
            self.alone.settle()?;
            self.beside.settle()?;
            self.spend("settling", settling);
            ensure!(one == other, "the two took a step differently:\n{one}\nand\n{other}");
            let complaint =
                |line: &&str| ["Command failed", "sysctl", "proxy"].iter().any(|begin| line.starts_with(begin));
            refused += one.lines().filter(complaint).count();
        }
        self.spend("steps", start);
        if steps.contains(&ScriptStep::Restart)
            && let (Some(mut agent), Some(fast_path)) = (self.agent.take(), self.fast_path)
        {
            let start = Instant::now();
            agent.stop()?;
            drop(agent);
            self.agent = Some(start_agent(fast_path, &self.beside)?);
            self.spend("restarts", start);
        }
        let mut realms = !self.realms.is_empty();
        for (verb, route) in steps.iter().filter_map(ScriptStep::realm) {
            realms = true;
            match self.realms.iter().position(|known| known == route) {
                Some(known) if verb == "del" => drop(self.realms.swap_remove(known)),
                None if verb == "del" => {}
                _ => self.realms.push(route.to_owned()),
            }
        }
        if realms {
            // One may have gone, with or without a word, or have been refused.
            let freeing = Instant::now();
            self.alone.free_routes()?;
            self.beside.free_routes()?;
            self.spend("freeing routes", freeing);
        }
        Ok(refused)
    }

    /// Waits until the agent has followed everything that was done before the call, and gives its `status`.
    pub fn sync(&mut self) -> Result<Value> {
        let start = Instant::now();
        loop {
            let Some(agent) = &self.agent else { return Ok(Value::Null) };
            let status = agent.ask("\"sync\"")?["status"].take();
            let ready = status["ready"] == true;
            ensure!(ready || start.elapsed() < PATIENCE, "the agent is not in sync; its log:\n{}", agent.log());
            // It tests the reply path of an interface whose carrier came, and on a busy machine it tests in vain now and then.
            let unproven = self.unproven(&status)?;
            self.given_up.retain(|ifindex| unproven.contains(ifindex));
            if ready && unproven.is_subset(&self.given_up) {
                return Ok(status);
            }
            if ready && start.elapsed() > PROOF_PATIENCE {
                self.given_up.extend(unproven);
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The ports whose both ends are up, but which the agent does not answer on because it has not seen a frame of its own
    /// arrive.
    fn unproven(&mut self, status: &Value) -> Result<BTreeSet<u32>> {
        let interfaces = status["interfaces"].as_array().into_iter().flatten();
        let unproven = interfaces.filter(|interface| interface["reason"] == Reason::SELF_TEST_PENDING.why());
        let indexes = unproven.filter_map(|interface| interface["ifindex"].as_u64()?.try_into().ok());
        let indexes: BTreeSet<u32> = indexes.collect();
        if indexes.is_empty() {
            return Ok(indexes);
        }
        Ok(indexes.intersection(&self.beside.running()?).copied().collect())
    }

    /// Sends frames to both, in batches, the agent in sync before each: first so that no two in a batch are about one
    /// neighbour entry if one of them may change it, which is told to `each`; then all of them again in their order,
    /// whatever they change. Stops at the first difference.
    pub fn exchange(&mut self, frames: &[Frame], mut each: impl FnMut(&FrameBatch<'_>)) -> Result<Option<Divergence>> {
        if let Some(divergence) = self.exchange_apart(frames, &mut each)? {
            return Ok(Some(divergence));
        }
        self.exchange_mixed(frames)
    }

    /// Sends frames in their order, so that one of them changes the entry on which the verdict on the next depends.
    fn exchange_mixed(&mut self, frames: &[Frame]) -> Result<Option<Divergence>> {
        for frames in frames.chunks(MIXED) {
            let start = Instant::now();
            let status = self.sync()?;
            self.spend("sync", start);
            let start = Instant::now();
            // With clsact the program is not asked about tagged frames (docs/semantics.md).
            let tags_are_seen = !status.to_string().contains("\"clsact\"");
            let frames = frames.iter().filter(|frame| tags_are_seen || !frame.is_tagged());
            let frames: &[Frame] = &frames.cloned().collect::<Vec<_>>();
            let _core = OnCore::enter(self.core)?;
            let [alone, beside] = [self.alone.send(frames)?, self.beside.send(frames)?];
            let (tables, collected) = self.tables()?;
            let sent: Vec<&Frame> = frames.iter().collect();
            let what = match taken(&sent, self.hook, |port| self.alone.ifindex(port), &alone, &beside) {
                Ok(_) => difference(&alone, &beside, &tables),
                Err(what) => Some(what),
            };
            if let Some(what) = what {
                let what = format!("in frames that change what others depend on: {what}");
                return Ok(Some(Divergence { what, frames: frames.to_vec(), collected }));
            }
            self.spend("mixed frames", start);
        }
        Ok(None)
    }

    fn exchange_apart(
        &mut self,
        frames: &[Frame],
        mut each: impl FnMut(&FrameBatch<'_>),
    ) -> Result<Option<Divergence>> {
        let mut waiting: Vec<&Frame> = frames.iter().collect();
        while !waiting.is_empty() {
            let start = Instant::now();
            let before = self.sync()?;
            self.spend("sync", start);
            let start = Instant::now();
            let table = self.alone.neighbours()?;
            let (mut now, later) = self.schedule(&waiting, &table);
            // While the agent applies what one frame has changed, the program passes the others.
            now.sort_by_key(|frame| frame.teaches().is_some() && !self.leaves_as_it_is(frame, &table));
            waiting = later;
            let _core = OnCore::enter(self.core)?;
            let now_frames: Vec<Frame> = now.iter().map(|&frame| frame.clone()).collect();
            let [alone, beside] = [self.alone.send(&now_frames)?, self.beside.send(&now_frames)?];
            let (tables, collected) = self.tables()?;
            let taken = match taken(&now, self.hook, |port| self.alone.ifindex(port), &alone, &beside) {
                Ok(taken) => taken,
                Err(what) => return Ok(Some(Divergence { what, frames: now_frames, collected })),
            };
            if let Some(what) = difference(&alone, &beside, &tables) {
                return Ok(Some(Divergence { what, frames: now_frames, collected }));
            }
            let answered = answered(&now, |port| self.alone.ifindex(port), &alone);
            let seen: Vec<Seen<'_>> = now
                .iter()
                .zip(answered)
                .zip(taken)
                .map(|((&frame, answered), taken)| Seen { frame, answered, taken })
                .collect();
            *self.spent.entry("frames").or_default() += start.elapsed();
            each(&FrameBatch {
                neighbours: &table,
                seen: &seen,
                agent: self.agent.as_ref(),
                before: &before,
                collected,
            });
        }
        Ok(None)
    }

    /// The neighbour tables, and whether the kernel has cleared the machine's since they were last read: it may have taken an
    /// entry from one of them only, also between two batches.
    fn tables(&mut self) -> Result<([Neighbours; 2], bool)> {
        let before = garbage_collections();
        let tables = [self.alone.neighbours()?, self.beside.neighbours()?];
        let collected = self.collections != garbage_collections();
        self.collections = before;
        Ok((tables, collected))
    }

    /// Does steps and sends frames in their order, up to the first divergence.
    pub fn play(&mut self, steps: &[ScriptStep]) -> Result<Option<Divergence>> {
        for part in steps.chunk_by(|one, other| one.frame().is_some() == other.frame().is_some()) {
            let frames: Vec<Frame> = part.iter().filter_map(ScriptStep::frame).cloned().collect();
            if frames.is_empty() {
                self.apply(part)?;
            } else if let Some(divergence) = self.exchange(&frames, |_| {})? {
                return Ok(Some(divergence));
            }
        }
        Ok(None)
    }

    /// The frames that can be sent now, and those that must wait: two that can change the same neighbour entry, or of
    /// which one does and the other depends on it, are never in one batch, because the agent would follow in between.
    fn schedule<'a>(&self, frames: &[&'a Frame], table: &Neighbours) -> (Vec<&'a Frame>, Vec<&'a Frame>) {
        let mut changed: BTreeSet<IfaceAddr> = BTreeSet::new();
        let mut used: BTreeSet<IfaceAddr> = BTreeSet::new();
        frames.iter().copied().partition(|frame| {
            let Some(key) = frame.teaches() else { return true };
            let changes = !self.leaves_as_it_is(frame, table);
            let waits = changed.contains(&key) || (changes && used.contains(&key));
            // One that waits must not be overtaken by those of the same sender.
            if changes || waits {
                changed.insert(key);
            }
            used.insert(key);
            !waits
        })
    }

    /// Whether the frame surely changes no neighbour entry.
    fn leaves_as_it_is(&self, frame: &Frame, table: &Neighbours) -> bool {
        let Some(arp) = frame.arp() else { return false };
        if arp.arp.spa == [0; 4] {
            return true;
        }
        match table.entries.get(&(self.ifindex(frame.port), arp.arp.spa.into())) {
            Some(entry) => match entry.class() {
                Class::Fixed => true,
                Class::Valid => entry.lladdr == Some(Lladdr::new(arp.arp.sha)),
                Class::Invalid => false,
            },
            None => false,
        }
    }
}

fn start_agent(fast_path: FastPath, beside: &Side) -> Result<Agent> {
    // The tap for ARP must not make it pass everything.
    let options = AgentOptions::new(&["v*"]).default_reread().args(&["--lease", "10000", "--arp-listeners", "ignore"]);
    let options = options.args(fast_path.hook.arguments());
    let options = if fast_path.count_policies { options.args(&COUNTED) } else { options };
    options.start(beside.node())
}

/// How often the kernel has cleared the neighbour table, or found it full: the last columns but one of each core's line.
/// Nothing if it does not say so here.
fn garbage_collections() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/stat/arp_cache").unwrap_or_default();
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().skip(9));
    lines.flat_map(|columns| [0, 1, 3].map(|at| columns.clone().nth(at).unwrap_or_default().to_owned())).collect()
}

/// Which of the frames were answered. A reply comes right after its request, or, if the kernel was busy, later: then
/// it is that of the first request which has none yet and asks for what it says.
fn answered(frames: &[&Frame], ifindex: impl Fn(u8) -> u32, seen: &NodeSaw) -> Vec<bool> {
    let mut answered = vec![false; frames.len()];
    for (latest, reply) in &seen.replies {
        let Some(reply_arp) = ArpFrame::from_bytes(&reply.bytes).filter(ArpFrame::is_arp) else { continue };
        let asks = |at: usize| {
            let request = ArpFrame::from_bytes(&frames[at].without_tags());
            ifindex(frames[at].port) == reply.ifindex
                && request.is_some_and(|request| {
                    (request.arp.sha, request.arp.spa, request.arp.tpa)
                        == (reply_arp.arp.tha, reply_arp.arp.tpa, reply_arp.arp.spa)
                })
        };
        let at = if asks(*latest) { Some(*latest) } else { (0..*latest).find(|&at| !answered[at] && asks(at)) };
        at.into_iter().for_each(|at| answered[at] = true);
    }
    answered
}

/// Which of the frames were taken before they reached the taps of the node with the fast path. What its taps see
/// must be what those of the other node see, byte by byte, without the frames that were taken.
fn taken(
    frames: &[&Frame],
    hook: TestHook,
    ifindex: impl Fn(u8) -> u32,
    alone: &NodeSaw,
    beside: &NodeSaw,
) -> Result<Vec<Option<bool>>, String> {
    let mut passed = beside.passed.iter().peekable();
    let arrived = alone.passed.iter().map(|tapped| (tapped, passed.next_if(|&other| other == tapped).is_none()));
    let arrived: Vec<(&Tapped, bool)> = arrived.collect();
    if let Some(left) = passed.next() {
        let shown = hex(&left.bytes);
        return Err(format!("the node with the fast path saw a frame on {} as nobody sent it: {shown}", left.ifindex));
    }
    let mut arrived = arrived.into_iter().peekable();
    let taken = frames.iter().map(|frame| {
        let (ifindex, bytes) = (ifindex(frame.port), frame.at_the_tap(hook.tapped()));
        let arrival = arrived.next_if(|(tapped, _)| tapped.ifindex == ifindex && tapped.bytes == bytes);
        arrival.map(|(_, taken)| taken)
    });
    Ok(taken.collect())
}

fn difference(alone: &NodeSaw, beside: &NodeSaw, tables: &[Neighbours; 2]) -> Option<String> {
    let by_interface = |seen: &NodeSaw| {
        let mut replies: Vec<Tapped> = seen.replies.iter().map(|(_, reply)| reply.clone()).collect();
        // In order on each interface; between interfaces there is none.
        replies.sort_by_key(|reply| reply.ifindex);
        replies
    };
    let (expected, got) = (by_interface(alone), by_interface(beside));
    let [one, other] = tables;
    let learned = (one != other)
        .then(|| format!("neighbour tables differ (- kernel alone, + with the fast path):\n{}", one.difference(other)));
    if expected != got {
        let first = expected.iter().zip(&got).take_while(|(one, other)| one == other).count();
        let show = |replies: &[Tapped]| match replies.get(first) {
            Some(reply) => format!("{} on interface {}", hex(&reply.bytes), reply.ifindex),
            None => "nothing".to_owned(),
        };
        return Some(format!(
            "replies differ: {} from the kernel alone, {} beside the fast path; the first that differs:\n\
             kernel alone   {}\nwith fast path {}\n{}",
            expected.len(),
            got.len(),
            show(&expected),
            show(&got),
            learned.as_deref().unwrap_or("neighbour tables are the same"),
        ));
    }
    learned
}
