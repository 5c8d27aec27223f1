//! A host at the other end of one of the node's links: a pod, a machine on the LAN, the world behind the uplink.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arp_common::ArpFrame;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::namespace::Namespace;
use crate::packet::{MARKER, Wire, marker};
use crate::slack::stretched;
use arp_common::Lladdr;

/// How long a marker may take to the node and back before the link counts as broken.
const MARKER_WAIT: Duration = Duration::from_secs(2);

/// A host, its `eth0`, and how to ask from there.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    mac: Lladdr,
    ip: [u8; 4],
    node_end: String,
    wires: Mutex<Option<Wires>>,
}

#[derive(Debug)]
struct Wires {
    /// The host's `eth0`.
    host: Wire,
    /// The node's end, for markers only.
    node: Wire,
    /// The core that frames are sent from; see [`Host::exchange`].
    core: usize,
}

impl Host {
    pub(crate) fn new(name: &str, namespace: Namespace, mac: Lladdr, node: &Namespace, node_end: &str) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let allowed = allowed_cores()?;
        let core = allowed[NEXT.fetch_add(1, Ordering::Relaxed) % allowed.len()];
        let wires =
            Wires { host: Wire::open(&namespace, "eth0")?, node: Wire::open_for(node, Some(node_end), MARKER)?, core };
        let (name, node_end) = (name.to_owned(), node_end.to_owned());
        Ok(Host { name, namespace, mac, ip: [0; 4], node_end, wires: Mutex::new(Some(wires)) })
    }

    pub(crate) fn set_ip(&mut self, ip: [u8; 4]) {
        self.ip = ip;
    }

    pub(crate) fn set_node_end(&mut self, name: &str) {
        name.clone_into(&mut self.node_end);
    }

    /// What the lab calls the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The address of its `eth0`.
    pub fn mac(&self) -> Lladdr {
        self.mac
    }

    /// Its IPv4 address; 0.0.0.0 before it has one.
    pub fn ip(&self) -> [u8; 4] {
        self.ip
    }

    /// The node's interface that leads to this host.
    pub fn node_end(&self) -> &str {
        &self.node_end
    }

    /// The broadcast request that the host's own stack would send for `tpa`.
    pub fn who_has(&self, tpa: [u8; 4]) -> [u8; 42] {
        ArpFrame::request(self.mac.bytes(), self.ip, tpa).to_bytes()
    }

    /// A broadcast probe for `tpa`: a request from 0.0.0.0 (RFC 5227).
    pub fn probe(&self, tpa: [u8; 4]) -> [u8; 42] {
        ArpFrame::request(self.mac.bytes(), [0; 4], tpa).to_bytes()
    }

    /// Sends a frame to the node and gives the ARP frames that came back, in order, without the node's own requests.
    /// Silence is certain, and costs no wait: see [`exchange`](Self::exchange).
    pub fn ask(&self, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.exchange(&[frame])?.into_iter().filter(|frame| is_answer(frame)).collect())
    }

    /// Sends a frame to the node and gives the ARP frames, other than requests, that come back within `wait`; for
    /// answers that the kernel delays, and for links that carry no marker.
    pub fn ask_within(&self, frame: &[u8], wait: Duration) -> Result<Vec<Vec<u8>>> {
        {
            let wires = self.wires();
            let wires = self.open(&wires)?;
            wires.host.drain()?;
            wires.host.send(frame)?;
        }
        self.collect(wait)
    }

    /// The ARP frames, other than requests, that come in within `wait`.
    pub fn collect(&self, wait: Duration) -> Result<Vec<Vec<u8>>> {
        let wires = self.wires();
        let wires = self.open(&wires)?;
        let deadline = Instant::now() + wait;
        let mut answers = Vec::new();
        while let Some(frame) = wires.host.receive(deadline)? {
            if is_answer(&frame) {
                answers.push(frame);
            }
        }
        Ok(answers)
    }

    /// Sends frames to the node and gives all that came back until a marker, sent after them, had gone to the node
    /// and back.
    ///
    /// All of it is sent from one core, so it goes through that core's backlog in order: when the marker is at the node,
    /// the frames have been handled, and their answers are queued ahead of the marker's way back.
    pub fn exchange(&self, frames: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let wires = self.wires();
        let wires = self.open(&wires)?;
        let _core = OnCore::enter(wires.core)?;
        wires.host.drain()?;
        for frame in frames {
            wires.host.send(frame)?;
        }
        let deadline = Instant::now() + stretched(MARKER_WAIT);
        let marker = marker(self.mac);
        wires.host.send(&marker)?;
        await_marker(&wires.node, &marker, deadline, |_| ()).with_context(|| self.lost("to the node"))?;
        wires.node.send(&marker)?;
        let mut received = Vec::new();
        await_marker(&wires.host, &marker, deadline, |frame| received.push(frame))
            .with_context(|| self.lost("back from the node"))?;
        Ok(received)
    }

    /// Marks all that [`ask`](Self::ask) and its like send from now on (SO_MARK), as a socket of the host's may.
    pub fn mark(&self, mark: u32) -> Result<()> {
        let wires = self.wires();
        setsockopt(self.open(&wires)?.host.socket(), sockopt::Mark, &mark).context("setting SO_MARK")
    }

    /// Closes the sockets on both ends of the link: each takes a copy of every frame, which would cost whoever measures.
    /// From then on only the host's own stack can ask.
    pub fn close_sockets(&self) {
        *self.wires() = None;
    }

    fn wires(&self) -> MutexGuard<'_, Option<Wires>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open<'a>(&self, wires: &'a Option<Wires>) -> Result<&'a Wires> {
        wires.as_ref().with_context(|| format!("the sockets of {} are closed", self.name))
    }

    fn lost(&self, direction: &str) -> String {
        format!("the link between {} and the node's {} carried no marker {direction}", self.name, self.node_end)
    }

    /// Whether one ping to `address` is answered within two seconds.
    pub fn can_ping(&self, address: [u8; 4]) -> Result<bool> {
        self.namespace.can_ping(address)
    }

    /// The link-layer address that the host's own neighbour table has for `address`, if any.
    pub fn neighbour(&self, address: [u8; 4]) -> Result<Option<Lladdr>> {
        Ok(self.namespace.neighbour("eth0", address)?.and_then(|entry| entry.lladdr))
    }
}

fn await_marker(wire: &Wire, marker: &[u8], deadline: Instant, mut other: impl FnMut(Vec<u8>)) -> Result<()> {
    while let Some(frame) = wire.receive(deadline)? {
        if frame == marker {
            return Ok(());
        }
        other(frame);
    }
    bail!("nothing came within {} s", stretched(MARKER_WAIT).as_secs())
}

/// ARP, and not a request of the node's own.
fn is_answer(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x06]) && frame.get(20..22) != Some(&[0, 1])
}

/// The cores that the calling thread may run on.
pub fn allowed_cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("reading the allowed cores")?;
    Ok((0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true)).collect())
}

/// Keeps the calling thread on one core while it lives.
#[derive(Debug)]
pub struct OnCore(CpuSet);

impl OnCore {
    /// Moves the calling thread to that core.
    pub fn enter(core: usize) -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).context("reading the allowed cores")?;
        let mut one = CpuSet::new();
        one.set(core).context("naming a core")?;
        sched_setaffinity(this, &one).with_context(|| format!("moving to core {core}"))?;
        Ok(OnCore(before))
    }
}

impl Drop for OnCore {
    fn drop(&mut self) {
        // Failing, the thread merely stays where it is.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}
