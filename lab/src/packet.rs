//! Frames in and out of an interface, through AF_PACKET.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recvfrom, send, setsockopt, socket,
    sockopt,
};

use crate::namespace::Namespace;

/// EtherTypes of a [`Wire`].
pub const EVERY_FRAME: u16 = libc::ETH_P_ALL as u16;

/// Bytes; some twenty thousand frames.
const RECEIVE_BUFFER: usize = 16 << 20;

/// A raw socket on one interface: whole frames, without the interface's own outgoing ones.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    what: String,
}

impl Wire {
    /// A socket on `interface` that receives every frame.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open_for(namespace, interface, EVERY_FRAME)
    }

    /// A socket on `interface` that receives what the kernel's own ARP does: behind XDP and tc, not before them.
    pub fn open_for_arp(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open_for(namespace, interface, libc::ETH_P_ARP as u16)
    }

    /// The same on all interfaces at once, as most ARP daemons have it.
    pub fn open_for_arp_everywhere(namespace: &Namespace) -> Result<Self> {
        let ethertype = libc::ETH_P_ARP as u16;
        let open = || -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
            bind(socket.as_raw_fd(), &link_address(0, ethertype)?)?;
            Ok(socket)
        };
        let what = format!("all interfaces of {}", namespace.name());
        Ok(Wire { socket: namespace.run(open)?.with_context(|| format!("opening a packet socket on {what}"))?, what })
    }

    /// A socket on `interface` that receives the frames of one EtherType.
    pub fn open_for(namespace: &Namespace, interface: &str, ethertype: u16) -> Result<Self> {
        let what = format!("{interface} in {}", namespace.name());
        let socket = open_socket(namespace, interface, ethertype)?;
        Ok(Wire { socket, what })
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let length = frame.len();
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        sent.with_context(|| format!("sending {length} bytes from {}", self.what))?;
        Ok(())
    }

    /// The next frame that came in, waiting for it until `deadline`.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 65_536];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == libc::PACKET_OUTGOING => continue,
                Ok((length, _)) => return Ok(Some(buffer[..length].to_vec())),
                Err(Errno::EAGAIN) => {}
                // The interface went down once; the socket works again when it is up.
                Err(Errno::ENETDOWN | Errno::EINTR) => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("receiving on {}", self.what));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = PollTimeout::try_from(left.min(Duration::from_secs(10)) + Duration::from_millis(1));
            let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut sockets, wait.unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => bail!("waiting for a frame on {}: {error}", self.what),
            }
        }
    }

    /// Throws away what has come in so far.
    pub fn drain(&self) -> Result<()> {
        while self.receive(Instant::now())?.is_some() {}
        Ok(())
    }
}

/// A raw socket on `interface` that receives the frames of one EtherType and does not wait.
pub fn open_socket(namespace: &Namespace, interface: &str, ethertype: u16) -> Result<OwnedFd> {
    let open = || -> Result<OwnedFd> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        // Without a protocol it receives nothing before it is bound.
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        // Beside other traffic the default holds what comes in 30 ms: a reply would be lost here, not on the wire.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        bind(socket.as_raw_fd(), &link_address(if_nametoindex(interface)?, ethertype)?)?;
        Ok(socket)
    };
    namespace.run(open)?.with_context(|| format!("opening a packet socket on {interface} in {}", namespace.name()))
}

pub fn link_address(ifindex: u32, ethertype: u16) -> Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(ifindex).context("an ifindex above i32")?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer is to a whole sockaddr_ll that outlives the call, and `length` is its length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    address.context("nix refuses the packet socket address")
}
