//! Changes to the kernel's state as netlink messages of our own: `ip` takes longer to start than an agent to follow,
//! and twenty microseconds for each route.

use anyhow::{Context as _, Result, bail, ensure};
use lab::Namespace;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

/// How many bytes of messages are sent at once.
const AT_ONCE: usize = 1 << 15;
/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// Larger than any part of a dump.
const RECEIVE_LEN: usize = 1 << 16;
const AF_INET: u8 = libc::AF_INET as u8;
/// RTPROT_STATIC.
const STATIC: u8 = 4;
/// RTPROT_UNSPEC: the one to be deleted may be anyone's, `ip`'s too.
const WHOEVER: u8 = 0;
/// NUD_PERMANENT.
const PERMANENT: u16 = 0x80;

/// A change that the kernel can be asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// A route to one host by an interface.
    AddRoute([u8; 4], u32),
    /// That route gone.
    DeleteRoute([u8; 4], u32),
    /// A permanent neighbour entry on an interface.
    SetNeighbour([u8; 4], u32, [u8; 6]),
    /// A neighbour entry gone.
    DeleteNeighbour([u8; 4], u32),
    /// A link up, or down.
    SetUp(u32, bool),
}

/// A socket of rtnetlink in a namespace.
pub(crate) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    pub(crate) fn of(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.run(|| -> Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            Ok(socket)
        })?;
        Ok(Kernel { socket: socket.context("opening a netlink socket")?, sequence: 0, buffer: Vec::new() })
    }

    /// Makes one change, and waits until it is made.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn change(&mut self, change: Change) -> Result<()> {
        self.change_all([change])
    }

    /// Makes many changes, a buffer full at a time.
    ///
    /// # Errors
    /// The kernel refuses one; those before it in the buffer, and perhaps those after it, are made.
    pub(crate) fn change_all(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<()> {
        let mut changes = changes.into_iter().peekable();
        let mut buffer = Vec::with_capacity(AT_ONCE + 128);
        while let Some(change) = changes.next() {
            let last = buffer.len() >= AT_ONCE || changes.peek().is_none();
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut buffer, change, self.sequence, last);
            if last {
                self.socket.send_to(&buffer, &SocketAddr::new(0, 0), 0).context("sending changes")?;
                buffer.clear();
                self.acknowledged()?;
            }
        }
        Ok(())
    }

    /// Lets the kernel dump its IPv4 routes, and looks at nothing of it; how many bytes there were.
    pub(crate) fn dump_routes(&mut self) -> Result<usize> {
        let mut payload = [0; 12];
        payload[0] = AF_INET;
        let mut buffer = Vec::new();
        self.sequence = self.sequence.wrapping_add(1);
        message(&mut buffer, libc::RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, &payload);
        self.socket.send_to(&buffer, &SocketAddr::new(0, 0), 0).context("asking for the routes")?;
        let mut total = 0;
        loop {
            self.receive()?;
            total += self.buffer.len();
            // The end comes in a buffer of its own, or last in one.
            if self.kinds().any(|(kind, _)| kind == NLMSG_DONE) {
                return Ok(total);
            }
        }
    }

    /// Waits for the acknowledgement of the last change that was sent.
    fn acknowledged(&mut self) -> Result<()> {
        loop {
            self.receive()?;
            let errors: Vec<(u32, i32)> = self
                .kinds()
                .filter(|&(kind, _)| kind == NLMSG_ERROR)
                .map(|(_, at)| (u32_at(&self.buffer, at + 8), u32_at(&self.buffer, at + HEADER_LEN) as i32))
                .collect();
            for (sequence, error) in errors {
                ensure!(error == 0, "the kernel refused a change: {}", std::io::Error::from_raw_os_error(-error));
                if sequence == self.sequence {
                    return Ok(());
                }
            }
        }
    }

    fn receive(&mut self) -> Result<()> {
        self.buffer.clear();
        self.buffer.reserve(RECEIVE_LEN);
        self.socket.recv_from(&mut self.buffer, 0).context("receiving the kernel's answer")?;
        if self.buffer.len() < HEADER_LEN {
            bail!("the kernel answered {} bytes", self.buffer.len());
        }
        Ok(())
    }

    /// Type and place of each message received.
    fn kinds(&self) -> impl Iterator<Item = (u16, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let here = at;
            let header = self.buffer.get(here..here + HEADER_LEN)?;
            let len = u32_at(header, 0) as usize;
            at += len.max(HEADER_LEN).next_multiple_of(4);
            Some((u16::from_ne_bytes([header[4], header[5]]), here))
        })
    }
}

fn append(buffer: &mut Vec<u8>, change: Change, sequence: u32, acknowledge: bool) {
    let acknowledge = if acknowledge { NLM_F_ACK } else { 0 };
    let (kind, flags, payload) = match change {
        Change::AddRoute(to, oif) => (libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route(STATIC, to, oif)),
        Change::DeleteRoute(to, oif) => (libc::RTM_DELROUTE, 0, route(WHOEVER, to, oif)),
        Change::SetNeighbour(addr, ifindex, lladdr) => {
            let mut payload = neighbour(addr, ifindex);
            attribute(&mut payload, 2, &lladdr);
            (libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, payload)
        }
        Change::DeleteNeighbour(addr, ifindex) => (libc::RTM_DELNEIGH, 0, neighbour(addr, ifindex)),
        Change::SetUp(ifindex, up) => (libc::RTM_NEWLINK, 0, link(ifindex, up)),
    };
    message(buffer, kind, NLM_F_REQUEST | acknowledge | flags, sequence, &payload);
}

/// `struct rtmsg` of table main, scope link, unicast; RTA_DST and RTA_OIF.
fn route(protocol: u8, to: [u8; 4], oif: u32) -> Vec<u8> {
    let mut payload = vec![AF_INET, 32, 0, 0, 254, protocol, 253, 1, 0, 0, 0, 0];
    attribute(&mut payload, 1, &to);
    attribute(&mut payload, 4, &oif.to_ne_bytes());
    payload
}

/// `struct ndmsg` and NDA_DST.
fn neighbour(addr: [u8; 4], ifindex: u32) -> Vec<u8> {
    let mut payload = vec![AF_INET, 0, 0, 0];
    payload.extend(ifindex.to_ne_bytes());
    payload.extend(PERMANENT.to_ne_bytes());
    payload.extend([0, 0]);
    attribute(&mut payload, 1, &addr);
    payload
}

/// `struct ifinfomsg`: IFF_UP or not, and no other flag touched.
fn link(ifindex: u32, up: bool) -> Vec<u8> {
    let mut payload = vec![0; 4];
    payload.extend(ifindex.to_ne_bytes());
    payload.extend(u32::from(up).to_ne_bytes());
    payload.extend(1_u32.to_ne_bytes());
    payload
}

fn attribute(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    payload.extend((4 + value.len() as u16).to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(payload.len().next_multiple_of(4), 0);
}

fn message(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    buffer.extend(((HEADER_LEN + payload.len()) as u32).to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(flags.to_ne_bytes());
    buffer.extend(sequence.to_ne_bytes());
    buffer.extend([0; 4]);
    buffer.extend(payload);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}
