//! One of the twins: a node, and a namespace with the peers of all its ports.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, recvfrom, sendto, setsockopt, socket, sockopt,
};

use super::frames::Frame;
use super::neighbours::{Asker, NeighbourTable};
use super::script::Step;
use crate::bytes::Mac;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::packet::{EVERY_FRAME, link_address};

/// How many ports each node has: its `v0`, `v1` … lead to `p0`, `p1` … of the peers.
pub const PORTS: u8 = 6;
/// The link that carries markers only.
const MARKER_LINK: (&str, &str) = ("w0", "q0");
/// EtherType of the marker frames (IEEE 802: for local experiments).
const MARKER: [u8; 2] = [0x88, 0xb5];
/// How long a marker may take before the link counts as broken.
const MARKER_WAIT: Duration = Duration::from_secs(5);
/// After how long a bridge without a forwarding delay surely forwards.
const BRIDGE_TIMER: Duration = Duration::from_millis(50);
/// Room for what a batch of frames leaves in a socket.
const RECEIVE_BUFFER: usize = 32 << 20;
/// What keeps timers from changing anything: files of `net/ipv4/neigh/<interface>`, and values.
const STILL: [(&str, &str); 6] = [
    ("base_reachable_time_ms", "36000000"),
    ("delay_first_probe_time", "36000"),
    ("retrans_time_ms", "36000000"),
    ("gc_stale_time", "36000"),
    ("locktime", "8000000"),
    ("proxy_delay", "0"),
];

/// The address of the node's `v<port>`, before anything changes it.
pub const NODE_MAC: fn(u8) -> Mac = |port| Mac([0x02, 0, 0, 0, 0xaa, port]);

#[derive(Debug)]
pub(super) struct Twin {
    lab: Lab,
    peers: Namespace,
    neighbours: Asker,
    links: [Asker; 2],
    node_tap: Tap,
    peer_tap: Tap,
    /// Another socket, for a tap does not see what was sent through it.
    sender: Tap,
    markers: u64,
    first_port: u32,
    marker_link: (u32, u32),
}

/// A frame as a tap saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tapped {
    pub(super) ifindex: u32,
    pub(super) bytes: Vec<u8>,
}

/// What a twin did with frames.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// What came in on the node and was not taken by XDP.
    pub(super) passed: Vec<Tapped>,
    /// What came back: the index of the last frame that had been sent by then, and the frame.
    pub(super) replies: Vec<(usize, Tapped)>,
}

impl Twin {
    pub(super) fn new() -> Result<Self> {
        let mut lab = Lab::new()?;
        let peers = lab.namespace("peers")?;
        let ends = (0..PORTS).map(|port| (format!("v{port}"), format!("p{port}"), NODE_MAC(port)));
        let markers = (MARKER_LINK.0.to_owned(), MARKER_LINK.1.to_owned(), Mac([0x02, 0, 0, 0, 0xaa, 0xff]));
        let (mut node, mut other) = (String::new(), String::new());
        for (v, p, mac) in ends.chain([markers]) {
            let peer_mac = Mac([mac.0[0], 0, 0, 0, 0x10, mac.0[5]]);
            node += &format!(
                "link add {v} address {mac} type veth peer name {p} address {peer_mac} netns {}\n",
                peers.name()
            );
            // The peers' stack is to be silent: all frames are made here.
            other += &format!("link set {p} arp off up\n");
        }
        lab.node().ip_each(&format!("{node}link set {} up", MARKER_LINK.0))?;
        peers.ip_each(&other)?;
        let index = |namespace: &Namespace, name: &str| -> Result<u32> {
            namespace.run(|| if_nametoindex(name))?.with_context(|| format!("the index of {name}"))
        };
        let first_port = index(lab.node(), "v0")?;
        for port in 0..PORTS {
            let indexes = (index(lab.node(), &format!("v{port}"))?, index(&peers, &format!("p{port}"))?);
            let expected = first_port + u32::from(port);
            ensure!(
                indexes == (expected, expected),
                "v{port} and p{port} have the indexes {indexes:?}, not {expected}"
            );
        }
        let marker_link = (index(lab.node(), MARKER_LINK.0)?, index(&peers, MARKER_LINK.1)?);
        lab.node().run(still)??;
        Ok(Twin {
            neighbours: Asker::open(lab.node())?,
            node_tap: Tap::open(lab.node())?,
            links: [Asker::open(lab.node())?, Asker::open(&peers)?],
            peer_tap: Tap::open(&peers)?,
            sender: Tap::open_to_send(&peers)?,
            markers: 0,
            first_port,
            marker_link,
            lab,
            peers,
        })
    }

    pub(super) fn node(&self) -> &Namespace {
        self.lab.node()
    }

    /// The ifindex of `v<port>`, and of `p<port>`.
    pub(super) fn ifindex(&self, port: u8) -> u32 {
        self.first_port + u32::from(port)
    }

    pub(super) fn neighbours(&mut self) -> Result<NeighbourTable> {
        self.neighbours.table()
    }

    /// Starts doing steps of one kind, none of them a frame.
    pub(super) fn begin(&self, steps: &[Step]) -> Result<Doing> {
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
            Some(Step::Ip(_)) => batch("ip", &["-force", "-batch", "-"], node),
            Some(Step::Peer(_)) => batch("ip", &["-force", "-batch", "-"], &self.peers),
            // One at a time: nft gives up a whole file for one bad line. There are few.
            Some(Step::Nft(_)) => batch("sh", &["-c", "while read -r line; do nft \"$line\"; done"], node),
            Some(Step::Sysctl(..)) => node.run(|| {
                let refused = steps.iter().filter(|step| match step {
                    Step::Sysctl(path, value) => fs::write(format!("/proc/sys/{path}"), value).is_err(),
                    _ => false,
                });
                Ok(Doing::Done(refused.map(|step| format!("{step}\n")).collect()))
            })?,
            Some(Step::Frame(_)) => bail!("a frame is no step of configuration"),
            Some(Step::Settle) => {
                thread::sleep(BRIDGE_TIMER);
                Ok(Doing::Done(String::new()))
            }
            None => Ok(Doing::Done(String::new())),
        }
    }

    /// Waits until the kernel has acted on every carrier: until then it neither sends by the interface nor tells the
    /// routes. It does so at once when a link comes up, and up to a second later when one goes down.
    pub(super) fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(4);
        for links in &mut self.links {
            while !links.carriers_are_settled()? {
                ensure!(Instant::now() < deadline, "the kernel has not acted on a carrier within 4 s");
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Sends frames, and gives what became of them. To be called on one core, so that the frames and their answers go
    /// through its queue in order: when a marker that was sent after them is back, all is done.
    pub(super) fn send(&mut self, frames: &[Frame]) -> Result<Seen> {
        for frame in frames {
            self.sender.send(self.ifindex(frame.port), &frame.bytes)?;
        }
        let (w, q) = self.marker_link;
        let ports = self.ifindex(0)..self.ifindex(PORTS);
        let mut seen = Seen::default();
        let marker = self.marker();
        self.sender.send(q, &marker)?;
        self.node_tap.until(&marker, |tapped, outgoing| {
            // What is seen again on a bridge or a macvlan follows from what the port passed.
            if !outgoing && ports.contains(&tapped.ifindex) {
                seen.passed.push(tapped);
            }
        })?;
        let back = self.marker();
        self.node_tap.send(w, &back)?;
        let first = self.first_port;
        let mut order = frames.iter().enumerate();
        let mut current = 0;
        self.peer_tap.until(&back, |tapped, outgoing| {
            if tapped.ifindex == q {
            } else if outgoing {
                // A frame whose link is down leaves no trace.
                let same = |(_, frame): &(usize, &Frame)| {
                    first + u32::from(frame.port) == tapped.ifindex && frame.bytes == tapped.bytes
                };
                current = order.find(same).map_or(current, |(index, _)| index);
            } else if !is_request_of_the_node(&tapped) && !is_self_test(&tapped) {
                seen.replies.push((current, tapped));
            }
        })?;
        Ok(seen)
    }

    /// A frame of 60 bytes, different each time.
    fn marker(&mut self) -> Vec<u8> {
        self.markers += 1;
        let mut frame = vec![0xff; 6];
        frame.extend([0x02, 0, 0, 0, 0, 0x77]);
        frame.extend(MARKER);
        frame.extend(self.markers.to_be_bytes());
        frame.resize(60, 0);
        frame
    }
}

/// A frame of the agent's self-test: for nobody, EtherType 0x88b5.
fn is_self_test(tapped: &Tapped) -> bool {
    tapped.bytes.get(12..14) == Some(&[0x88, 0xb5])
}

/// A request with which the node itself looks for somebody: when it does so is a matter of timers.
fn is_request_of_the_node(tapped: &Tapped) -> bool {
    let node = NODE_MAC(0).0;
    tapped.bytes.get(12..14) == Some(&[0x08, 0x06])
        && tapped.bytes.get(20..22) == Some(&[0, 1])
        && tapped.bytes.get(6..11) == Some(&node[..5])
}

fn still() -> Result<()> {
    let interfaces = (0..PORTS).map(|port| format!("v{port}")).chain(["lo".to_owned(), MARKER_LINK.0.to_owned()]);
    for interface in interfaces {
        for (key, value) in STILL {
            let path = format!("/proc/sys/net/ipv4/neigh/{interface}/{key}");
            fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
        }
    }
    // Since 6.11; before, the seed is the machine's, and so the same for both.
    let _ = fs::write("/proc/sys/net/ipv4/fib_multipath_hash_seed", "2718281828");
    Ok(())
}

fn command_line(step: &Step) -> String {
    match step {
        Step::Ip(command) | Step::Peer(command) | Step::Nft(command) => format!("{command}\n"),
        Step::Sysctl(..) | Step::Settle | Step::Frame(_) => String::new(),
    }
}

/// Steps under way.
pub(super) enum Doing {
    Child(Child),
    Done(String),
}

impl Doing {
    /// Waits for the end, and gives the complaints.
    pub(super) fn finish(self) -> Result<String> {
        match self {
            Doing::Done(complaints) => Ok(complaints),
            Doing::Child(child) => {
                let output = child.wait_with_output().context("waiting for a step of configuration")?;
                Ok(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        }
    }
}

/// A packet socket on all interfaces of a namespace.
#[derive(Debug)]
struct Tap {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Tap {
    fn open(namespace: &Namespace) -> Result<Self> {
        let open = || -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            bind(socket.as_raw_fd(), &link_address(0, EVERY_FRAME)?)?;
            Ok(socket)
        };
        let socket =
            namespace.run(open)?.with_context(|| format!("opening a packet socket in {}", namespace.name()))?;
        Ok(Tap { socket, buffer: vec![0; 65_536] })
    }

    /// A socket that receives nothing.
    fn open_to_send(namespace: &Namespace) -> Result<Self> {
        let open = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
        let socket =
            namespace.run(open)?.with_context(|| format!("opening a packet socket in {}", namespace.name()))?;
        Ok(Tap { socket, buffer: Vec::new() })
    }

    /// Sends a frame, unless the interface does not take it: an end is down, or the frame is too short or too long.
    fn send(&self, ifindex: u32, bytes: &[u8]) -> Result<()> {
        let to = link_address(ifindex, 0)?;
        match sendto(self.socket.as_raw_fd(), bytes, &to, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::ENETDOWN | Errno::EINVAL | Errno::EMSGSIZE) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending {} bytes", bytes.len())),
        }
    }

    /// Hands over the frames up to `marker`, and whether each was an outgoing one.
    fn until(&mut self, marker: &[u8], mut each: impl FnMut(Tapped, bool)) -> Result<()> {
        let deadline = Instant::now() + MARKER_WAIT;
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((length, Some(from))) => {
                    let outgoing = from.pkttype() == libc::PACKET_OUTGOING;
                    let bytes = &self.buffer[..length];
                    if bytes == marker && !outgoing {
                        return Ok(());
                    }
                    let ifindex = u32::try_from(from.ifindex()).unwrap_or_default();
                    each(Tapped { ifindex, bytes: bytes.to_vec() }, outgoing);
                }
                Ok((_, None)) | Err(Errno::ENETDOWN | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    ensure!(Instant::now() < deadline, "a marker was lost");
                    let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut sockets, PollTimeout::from(100u8)) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error).context("waiting for a frame"),
                    }
                }
                Err(error) => return Err(error).context("receiving a frame"),
            }
        }
    }
}
