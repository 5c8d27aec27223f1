//! Lets clients see each frame and what becomes of it. While there is one, programs that tell are in the place of the
//! others, and a thread reads what they tell: the agent's own loop is not kept from its work, however many frames come.

use super::Agent;
use crate::clock::monotonic_ns;
use crate::control::Response;
use crate::control::feed::{Feed, Follower};
use crate::dataplane::bpf::trace::TraceReader;
use crate::trace::Shown;
use crate::trace::filter::{CheckedFilter, Filter};
use anyhow::{Context as _, bail};
use arp_common::trace::Told;
use nix::net::if_::if_indextoname;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How many clients there may be.
const MOST: usize = 4;
/// How often the ring is read.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the agent checks whether clients have gone.
const INTERVAL: Duration = Duration::from_millis(100);
/// How many frames are sent at once at most.
const AT_ONCE: u64 = 32;
/// How long an interface's name is good for.
const NAME: Duration = Duration::from_secs(1);

/// The clients, and what there is only while there is one.
#[derive(Default)]
pub(super) struct Traces {
    clients: Vec<Present>,
    /// To the thread that reads; `None` while there is none.
    thread: Option<Sender<TraceClient>>,
    due: Option<Interval>,
}

/// A client, as the agent's loop knows it.
struct Present {
    mask: u64,
    has_gone: Arc<AtomicBool>,
}

/// The same, as the thread knows it.
struct TraceClient {
    wanted: CheckedFilter,
    follower: Follower,
    has_gone: Arc<AtomicBool>,
    lines: String,
    count: u64,
}

impl Traces {
    /// How many clients there are.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Waits until it is time for [`Agent::tend_traces`]; for ever while nobody traces. May be dropped while it waits.
    pub(super) async fn tick(&mut self) {
        match &mut self.due {
            Some(due) => drop(due.tick().await),
            None => std::future::pending().await,
        }
    }

    fn mask(&self) -> u64 {
        self.clients.iter().fold(0, |mask, client| mask | client.mask)
    }
}

impl Agent {
    /// Begins to show a client what fits its filter.
    pub(super) fn begin_trace(&mut self, filter: &Filter) -> anyhow::Result<Response> {
        let wanted = filter.check()?;
        self.tend_traces();
        if self.traces.clients.len() >= MOST {
            bail!("{MOST} clients trace already: end one of them (`arp-agent trace`)");
        }
        let links = &self.mirror.snapshot().links;
        let names = self.attachments.attached().iter().filter_map(|ifindex| links.get(ifindex));
        let interfaces = names.filter(|link| wanted.has_interface(&link.name)).count();
        let has_gone = Arc::new(AtomicBool::new(false));
        let (follower, feed): (Follower, Feed) = Follower::new(Response::Trace { interfaces });
        let present = Present { mask: wanted.mask(), has_gone: Arc::clone(&has_gone) };
        let client = TraceClient { wanted, follower, has_gone, lines: String::new(), count: 0 };
        match &self.traces.thread {
            Some(thread) => thread.send(client).ok().context("the thread that reads the trace has ended")?,
            None => {
                let reader = self.bpf.start_trace(present.mask)?;
                let (sender, clients) = channel();
                let started = thread::Builder::new().name("trace".into()).spawn(move || read(reader, clients));
                if let Err(error) = started {
                    self.bpf.stop_trace();
                    return Err(error).context("starting a thread failed");
                }
                let _ = sender.send(client);
                self.traces.thread = Some(sender);
                let mut due = interval(INTERVAL);
                due.set_missed_tick_behavior(MissedTickBehavior::Delay);
                self.traces.due = Some(due);
                log::info!("a trace begins: while it runs, the program tells of each frame");
            }
        }
        self.traces.clients.push(present);
        self.bpf.set_trace_mask(self.traces.mask());
        Ok(Response::Feed(feed))
    }

    /// Forgets clients that have gone, and unloads the programs if none is left.
    pub(super) fn tend_traces(&mut self) {
        let before = self.traces.clients.len();
        self.traces.clients.retain(|client| !client.has_gone.load(Ordering::Relaxed));
        let left = self.traces.clients.len();
        if left == before {
            return;
        }
        if left > 0 {
            self.bpf.set_trace_mask(self.traces.mask());
            return;
        }
        // The thread ends with this.
        self.traces.thread = None;
        self.traces.due = None;
        self.bpf.stop_trace();
        log::info!("the trace has ended");
    }
}

/// Reads what the programs tell, and passes it on, until the agent drops `clients`.
fn read(mut reader: TraceReader, arriving: Receiver<TraceClient>) {
    let mut clients: Vec<TraceClient> = Vec::new();
    let mut names = Names::default();
    let mut lost = reader.lost();
    loop {
        loop {
            match arriving.try_recv() {
                Ok(client) => clients.push(client),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let now_lost = reader.lost();
        let missing = now_lost - std::mem::replace(&mut lost, now_lost);
        if missing > 0 {
            clients.iter_mut().for_each(|client| client.follower.lose(missing));
        }
        let wall = wall_ahead();
        let now = Instant::now();
        // No more than what is there now: what comes meanwhile has its turn after those that arrive.
        let until = monotonic_ns();
        for told in reader.by_ref() {
            let name = names.of(told.ifindex, now);
            let mut line = None;
            for client in clients.iter_mut().filter(|client| client.wanted.has(&told, name)) {
                client.send(line.get_or_insert_with(|| json(&told, name, wall)));
            }
            if told.time > until {
                break;
            }
        }
        clients.retain_mut(|client| {
            let is_there = client.flush() && client.follower.tell_lost();
            client.has_gone.store(!is_there, Ordering::Relaxed);
            is_there
        });
        thread::sleep(PAUSE);
    }
}

fn json(told: &Told, interface: &str, wall: i128) -> String {
    serde_json::to_string(&Shown::new(told, interface, wall)).unwrap_or_default()
}

impl TraceClient {
    fn send(&mut self, line: &str) {
        if self.count > 0 {
            self.lines.push('\n');
        }
        self.lines.push_str(line);
        self.count += 1;
        if self.count == AT_ONCE {
            // Whether it is there still is asked at the end of the turn.
            let _ = self.flush();
        }
    }

    /// Says whether the client is there still.
    fn flush(&mut self) -> bool {
        if self.count == 0 {
            return !self.follower.is_gone();
        }
        let is_there = self.follower.send_many(&self.lines, self.count);
        self.lines.clear();
        self.count = 0;
        is_there
    }
}

/// What the wall clock is ahead of CLOCK_MONOTONIC, in ns.
fn wall_ahead() -> i128 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.as_nanos().cast_signed() - i128::from(monotonic_ns())
}

/// The names of interfaces, as the kernel says them.
#[derive(Default)]
struct Names(BTreeMap<u32, (String, Instant)>);

impl Names {
    fn of(&mut self, ifindex: u32, now: Instant) -> &str {
        let is_good = self.0.get(&ifindex).is_some_and(|(_, asked)| now.duration_since(*asked) < NAME);
        if !is_good {
            let name = if_indextoname(ifindex).ok().map(|name| name.to_string_lossy().into_owned());
            // One that has gone keeps the name that it had.
            let name = name.or_else(|| self.0.remove(&ifindex).map(|(name, _)| name));
            self.0.insert(ifindex, (name.unwrap_or_else(|| ifindex.to_string()), now));
        }
        self.0.get(&ifindex).map_or("", |(name, _)| name)
    }
}
