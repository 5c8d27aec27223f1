//! One side of the pair: a node, and a namespace with the peers of all its ports.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendto, setsockopt, sockopt};

use super::frames::Frame;
use super::script::ScriptStep;
use arp_common::Lladdr;
use lab::netlink::{KernelChange, Netlink, index};
use lab::packet::{EVERY_FRAME, MARKER, Wire, link_address, marker};
use lab::{Lab, Namespace, Neighbours, TestHook, wait_until};

/// How many ports each node has: its `v0`, `v1` … lead to `p0`, `p1` … of the peers.
pub const PORTS: u8 = 6;
/// The index of `v0`; those of the others follow. Not that of `p0`: the kernel takes its time, up to a second, to act
/// on the carrier of a device whose index is that of its other end (`linkwatch_urgent_event`, net/core/link_watch.c).
const FIRST_PORT: u32 = 101;
/// The link that carries markers only.
const MARKER_LINK: (&str, &str) = ("w0", "q0");
/// Who sends the markers.
const MARKER_SENDER: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0, 0x77]);
/// How long a marker may take before the link counts as broken.
const MARKER_WAIT: Duration = Duration::from_secs(5);
/// After how long a bridge without a forwarding delay surely forwards.
const BRIDGE_TIMER: Duration = Duration::from_millis(50);
/// How many frames go at once into the queue of a link, which holds 256.
const LINK_BURST: usize = 64;
/// Bytes in a socket's receive buffer: enough for all frames of a batch and their replies.
const RECEIVE_BUFFER: usize = 32 << 20;
/// The settings under `net/ipv4/neigh/<interface>` that keep timers from changing anything.
const STILL: [(&str, &str); 6] = [
    ("base_reachable_time_ms", "36000000"),
    ("delay_first_probe_time", "36000"),
    ("retrans_time_ms", "36000000"),
    ("gc_stale_time", "36000"),
    ("locktime", "8000000"),
    ("proxy_delay", "0"),
];

/// The address of the node's `v<port>`, before anything changes it.
pub const NODE_MAC: fn(u8) -> Lladdr = |port| Lladdr::new([0x02, 0, 0, 0, 0xaa, port]);

#[derive(Debug)]
pub(super) struct Side {
    lab: Lab,
    peers: Namespace,
    netlink: Netlink,
    peers_netlink: Netlink,
    hook: TestHook,
    node_tap: FrameSocket,
    /// The tap at which the markers arrive, if the node's tap does not see them.
    node_markers: Option<FrameSocket>,
    peer_tap: FrameSocket,
    /// The socket that frames are sent through: a tap does not see what was sent through itself.
    sender: FrameSocket,
    first_peer: u32,
    marker_link: (u32, u32),
}

/// A frame as a tap saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tapped {
    pub(super) ifindex: u32,
    pub(super) bytes: Vec<u8>,
}

/// What a node did with frames.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeSaw {
    /// Frames that came in on the node, except those that XDP took.
    pub(super) passed: Vec<Tapped>,
    /// Frames that came back, each with the index of the last frame that had been sent by then.
    pub(super) replies: Vec<(usize, Tapped)>,
}

impl Side {
    pub(super) fn new(hook: TestHook) -> Result<Self> {
        let mut lab = Lab::new()?;
        let peers = lab.namespace("peers")?;
        let ends = (0..PORTS).map(|port| (format!("v{port}"), format!("p{port}"), NODE_MAC(port)));
        let markers = (MARKER_LINK.0.to_owned(), MARKER_LINK.1.to_owned(), Lladdr::new([0x02, 0, 0, 0, 0xaa, 0xff]));
        let (mut node, mut other) = (String::new(), String::new());
        for ((v, p, mac), index) in ends.chain([markers]).zip(FIRST_PORT..) {
            let peer_mac = Lladdr::new([mac.bytes()[0], 0, 0, 0, 0x10, mac.bytes()[5]]);
            node += &format!(
                "link add {v} index {index} address {mac} type veth peer name {p} address {peer_mac} netns {}\n",
                peers.name()
            );
            // The peers' stack is to be silent: all frames are made here.
            other += &format!("link set {p} arp off up\n");
        }
        lab.node().ip_each(&format!("{node}link set {} up", MARKER_LINK.0))?;
        peers.ip_each(&other)?;
        let index = |namespace: &Namespace, name: &str| namespace.run(|| index(name))?;
        let first_peer = index(&peers, "p0")?;
        for port in 0..PORTS {
            let indexes = (index(lab.node(), &format!("v{port}"))?, index(&peers, &format!("p{port}"))?);
            let expected = (FIRST_PORT + u32::from(port), first_peer + u32::from(port));
            ensure!(indexes == expected, "v{port} and p{port} have the indexes {indexes:?}, not {expected:?}");
        }
        let marker_link = (index(lab.node(), MARKER_LINK.0)?, index(&peers, MARKER_LINK.1)?);
        lab.node().run(still)??;
        if hook.queues_by_link() {
            queue_by_link(lab.node(), &peers)?;
        }
        Ok(Side {
            hook,
            node_tap: FrameSocket::open(lab.node(), hook.tapped())?,
            node_markers: match hook.tapped() {
                EVERY_FRAME => None,
                _ => Some(FrameSocket::open(lab.node(), MARKER)?),
            },
            netlink: Netlink::open(lab.node())?,
            peers_netlink: Netlink::open(&peers)?,
            peer_tap: FrameSocket::open(&peers, EVERY_FRAME)?,
            sender: FrameSocket::open(&peers, 0)?,
            first_peer,
            marker_link,
            lab,
            peers,
        })
    }

    pub(super) fn node(&self) -> &Namespace {
        self.lab.node()
    }

    /// The ifindex of `v<port>`.
    pub(super) fn ifindex(&self, port: u8) -> u32 {
        FIRST_PORT + u32::from(port)
    }

    /// The indexes of the ports whose both ends are up.
    pub(super) fn running(&mut self) -> Result<BTreeSet<u32>> {
        let (node, peers) = (self.netlink.running()?, self.peers_netlink.running()?);
        let ends = (0..PORTS).map(|port| (FIRST_PORT + u32::from(port), self.first_peer + u32::from(port)));
        Ok(ends.filter(|(v, p)| node.contains(v) && peers.contains(p)).map(|(v, _)| v).collect())
    }

    pub(super) fn neighbours(&mut self) -> Result<Neighbours> {
        Ok(self.netlink.neighbours()?.settled())
    }

    /// Starts steps of one kind, none of them a frame.
    pub(super) fn begin(&mut self, steps: &[ScriptStep]) -> Result<Doing> {
        let node = self.lab.node();
        let batch = |program: &str, arguments: &[&str], namespace: &Namespace| {
            let lines: String = steps.iter().map(command_line).collect();
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = namespace.run(|| command.spawn())?.with_context(|| format!("starting {program}"))?;
            if let Some(mut pipe) = child.stdin.take() {
                pipe.write_all(lines.as_bytes()).with_context(|| format!("feeding {program}"))?;
            }
            Ok(Doing::Child(child))
        };
        match steps.first() {
            Some(ScriptStep::Ip(_)) => batch("ip", &["-force", "-batch", "-"], node),
            Some(ScriptStep::Peer(_)) => batch("ip", &["-force", "-batch", "-"], &self.peers),
            // One at a time: nft gives up a whole file for one bad line. There are few.
            Some(ScriptStep::Nft(_)) => batch("sh", &["-c", "while read -r line; do nft \"$line\"; done"], node),
            Some(ScriptStep::Sysctl(..)) => node.run(|| {
                let refused = steps.iter().filter(|step| match step {
                    ScriptStep::Sysctl(path, value) => fs::write(format!("/proc/sys/{path}"), value).is_err(),
                    _ => false,
                });
                Ok(Doing::Done(refused.map(|step| format!("{step}\n")).collect()))
            })?,
            Some(ScriptStep::Frame(_)) => bail!("a frame is no step of configuration"),
            Some(ScriptStep::AnyProxy { .. }) => {
                let mut complaints = String::new();
                for step in steps {
                    let ScriptStep::AnyProxy { add, ip } = step else { continue };
                    let change = if *add { KernelChange::add_proxy } else { KernelChange::delete_proxy };
                    if self.netlink.change(change(ip.octets(), 0)).is_err() {
                        complaints += &format!("{step}\n");
                    }
                }
                Ok(Doing::Done(complaints))
            }
            Some(ScriptStep::Settle) => {
                thread::sleep(BRIDGE_TIMER);
                Ok(Doing::Done(String::new()))
            }
            Some(ScriptStep::Restart) | None => Ok(Doing::Done(String::new())),
        }
    }

    /// Waits until the kernel has acted on every change of carrier; until then it neither sends by the interface nor
    /// updates its routes. It acts at once if a link comes up, and up to a second later if one goes down.
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut settled = || Ok(self.netlink.carriers_are_settled()? && self.peers_netlink.carriers_are_settled()?);
        wait_until(Duration::from_secs(4), &mut settled, || "the kernel acts on a carrier".to_owned())
    }

    /// Waits until the kernel has freed the routes that were removed or refused. It frees them after an RCU grace
    /// period, which may last longer than a batch of frames. Until then a route with a realm still counts, and while
    /// any counts the kernel validates every sender in full (`free_fib_info`, net/ipv4/fib_semantics.c;
    /// `fib_validate_source`, net/ipv4/fib_frontend.c). Deleting an interface waits for everything that was to be freed
    /// (`netdev_run_todo`, net/core/dev.c).
    pub(super) fn free_routes(&self) -> Result<()> {
        self.peers.ip_each("link add f0 type veth peer name f1\nlink del f0")
    }

    /// Sends frames, and gives what came of them. To be called on one core: then frames and answers go through its
    /// queue in order, and everything is done when a marker that was sent after them is back.
    pub(super) fn send(&mut self, frames: &[Frame]) -> Result<NodeSaw> {
        let mut seen = NodeSaw::default();
        if !self.hook.queues_by_link() {
            self.send_some(0, frames, &[self.marker_link], &mut seen)?;
            return Ok(seen);
        }
        for (part, frames) in frames.chunks(LINK_BURST).enumerate() {
            let running = self.running()?;
            let ports = frames.iter().map(|frame| frame.port).collect::<BTreeSet<u8>>();
            let ends = ports.into_iter().map(|port| (self.ifindex(port), self.first_peer + u32::from(port)));
            let mut links: Vec<(u32, u32)> = ends.filter(|(v, _)| running.contains(v)).collect();
            links.push(self.marker_link);
            self.send_some(part * LINK_BURST, frames, &links, &mut seen)?;
        }
        Ok(seen)
    }

    /// Sends frames, the first of which has the number `first`, then a marker there and back on each of `links`.
    fn send_some(&mut self, first: usize, frames: &[Frame], links: &[(u32, u32)], seen: &mut NodeSaw) -> Result<()> {
        for frame in frames {
            self.sender.send(self.first_peer + u32::from(frame.port), &frame.bytes)?;
        }
        let ports = self.ifindex(0)..self.ifindex(PORTS);
        let there = marker(MARKER_SENDER);
        for &(_, p) in links {
            self.sender.send(p, &there)?;
        }
        // What is seen again on a bridge or a macvlan follows from what the port passed.
        let passed = |tapped: Tapped, outgoing: bool| {
            if !outgoing && ports.contains(&tapped.ifindex) {
                seen.passed.push(tapped);
            }
        };
        let arrivals = links.iter().map(|&(v, _)| v).collect();
        match &mut self.node_markers {
            None => self.node_tap.until(&there, arrivals, passed)?,
            Some(tap) => {
                tap.until(&there, arrivals, |_, _| {})?;
                self.node_tap.rest(passed)?;
            }
        }
        let back = marker(MARKER_SENDER);
        for &(v, _) in links {
            self.node_tap.send(v, &back)?;
        }
        let first_peer = self.first_peer;
        let mut order = frames.iter().enumerate();
        let mut current = 0;
        let peers = first_peer..first_peer + u32::from(PORTS);
        let arrivals = links.iter().map(|&(_, p)| p).collect();
        self.peer_tap.until(&back, arrivals, |mut tapped, outgoing| {
            if !peers.contains(&tapped.ifindex) {
            } else if outgoing {
                // A frame whose link is down leaves no trace.
                let same = |(_, frame): &(usize, &Frame)| {
                    first_peer + u32::from(frame.port) == tapped.ifindex && frame.bytes == tapped.bytes
                };
                current = order.find(same).map_or(current, |(index, _)| index);
            } else if !is_request_of_the_node(&tapped) && !is_self_test(&tapped) {
                // By the node's end of the link.
                tapped.ifindex = tapped.ifindex - first_peer + FIRST_PORT;
                seen.replies.push((first + current, tapped));
            }
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // A scenario may end in the middle.
        if let Err(error) = self.netlink.forget_proxies_on_any() {
            eprintln!("static proxies of a node may be left in the kernel: {error:#}");
        }
    }
}

/// Whether it is a frame of the agent's self-test: EtherType 0x88b5, for nobody.
fn is_self_test(tapped: &Tapped) -> bool {
    tapped.bytes.get(12..14) == Some(&[0x88, 0xb5])
}

/// Whether it is a request by which the node itself looks for a neighbour: timers decide when it does so.
fn is_request_of_the_node(tapped: &Tapped) -> bool {
    let node = NODE_MAC(0).bytes();
    tapped.bytes.get(12..14) == Some(&[0x08, 0x06])
        && tapped.bytes.get(20..22) == Some(&[0, 1])
        && tapped.bytes.get(6..11) == Some(&node[..5])
}

/// The steps that keep an interface's timers from changing anything, for an interface that a scenario adds. Otherwise
/// it has the settings of the machine's own namespace, where a proxied answer is delayed by a random time.
pub fn stillness(interface: &str) -> impl Iterator<Item = ScriptStep> {
    STILL
        .into_iter()
        .map(move |(key, value)| ScriptStep::Sysctl(format!("net/ipv4/neigh/{interface}/{key}"), value.to_owned()))
}

fn still() -> Result<()> {
    let interfaces = (0..PORTS).map(|port| format!("v{port}")).chain(["lo".to_owned(), MARKER_LINK.0.to_owned()]);
    for step in interfaces.flat_map(|interface| stillness(&interface).collect::<Vec<_>>()) {
        if let ScriptStep::Sysctl(path, value) = step {
            fs::write(format!("/proc/sys/{path}"), &value).with_context(|| format!("writing {value} to {path}"))?;
        }
    }
    // Since 6.11; before, the seed is the machine's, and so the same for both.
    let _ = fs::write("/proc/sys/net/ipv4/fib_multipath_hash_seed", "2718281828");
    Ok(())
}

/// In driver mode a peer takes replies only if it has a queue of its own, which GRO gives it. Segmentation is switched
/// off at the node's ends, so that the kernel's own frames go through that queue too, in order with the replies.
fn queue_by_link(node: &Namespace, peers: &Namespace) -> Result<()> {
    for port in 0..PORTS {
        for (namespace, features) in [(peers, format!("p{port} gro on")), (node, format!("v{port} tso off"))] {
            namespace.exec(&format!("ethtool -K {features}"))?;
        }
    }
    Ok(())
}

fn command_line(step: &ScriptStep) -> String {
    match step {
        ScriptStep::Ip(command) | ScriptStep::Peer(command) | ScriptStep::Nft(command) => format!("{command}\n"),
        ScriptStep::Sysctl(..)
        | ScriptStep::AnyProxy { .. }
        | ScriptStep::Settle
        | ScriptStep::Restart
        | ScriptStep::Frame(_) => String::new(),
    }
}

/// What `ip` says of a device that a step names and that is not there.
const GONE: &str = "Cannot find device";

/// Steps under way.
pub(super) enum Doing {
    Child(Child),
    Done(String),
}

impl Doing {
    /// Waits until the steps are done, and gives the errors.
    pub(super) fn finish(self) -> Result<String> {
        match self {
            Doing::Done(complaints) => Ok(complaints),
            Doing::Child(child) => {
                let output = child.wait_with_output().context("waiting for a step of configuration")?;
                let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
                // What `ip` cannot parse ends it, and the steps behind are lost. A next hop by a device that is gone is
                // no mistake of the scenario: the steps are lost on both nodes.
                let is_lost = output.status.code() == Some(255) && !complaints.contains(GONE);
                ensure!(!is_lost, "`ip` does not understand a step: {complaints}");
                Ok(complaints)
            }
        }
    }
}

/// A packet socket on all interfaces of a namespace.
#[derive(Debug)]
struct FrameSocket {
    wire: Wire,
    buffer: Vec<u8>,
}

impl FrameSocket {
    /// A tap for one EtherType; 0: a socket that receives nothing. A tap does not see what was sent through itself.
    fn open(namespace: &Namespace, ethertype: u16) -> Result<Self> {
        let wire = Wire::open_for(namespace, None, ethertype)?;
        setsockopt(wire.socket(), sockopt::RcvBufForce, &RECEIVE_BUFFER).context("setting SO_RCVBUFFORCE")?;
        Ok(FrameSocket { wire, buffer: vec![0; 65_536] })
    }

    /// Sends a frame, unless the interface does not take it: an end is down, or the frame is too short or too long.
    fn send(&self, ifindex: u32, bytes: &[u8]) -> Result<()> {
        let to = link_address(ifindex, 0)?;
        match sendto(self.wire.socket().as_raw_fd(), bytes, &to, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::ENETDOWN | Errno::EINVAL | Errno::EMSGSIZE) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending {} bytes", bytes.len())),
        }
    }

    /// Hands over the frames until `marker` has arrived on all of `links`, and whether each was an outgoing one.
    fn until(&mut self, marker: &[u8], mut links: BTreeSet<u32>, mut each: impl FnMut(Tapped, bool)) -> Result<()> {
        let deadline = Instant::now() + MARKER_WAIT;
        while !links.is_empty() {
            let next = self.receive(deadline)?;
            match next.with_context(|| format!("a marker was lost on the interfaces {links:?}"))? {
                (tapped, outgoing) if tapped.bytes == marker => {
                    if !outgoing {
                        links.remove(&tapped.ifindex);
                    }
                }
                (tapped, outgoing) => each(tapped, outgoing),
            }
        }
        Ok(())
    }

    /// Hands over what has arrived by now.
    fn rest(&mut self, mut each: impl FnMut(Tapped, bool)) -> Result<()> {
        while let Some((tapped, outgoing)) = self.receive(Instant::now())? {
            each(tapped, outgoing);
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Option<(Tapped, bool)>> {
        let Some((length, from)) = self.wire.receive_into(&mut self.buffer, deadline)? else { return Ok(None) };
        let ifindex = u32::try_from(from.ifindex()).unwrap_or_default();
        let tapped = Tapped { ifindex, bytes: self.buffer[..length].to_vec() };
        Ok(Some((tapped, from.pkttype() == libc::PACKET_OUTGOING)))
    }
}
