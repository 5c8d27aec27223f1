//! Frames in and out of an interface, or of all interfaces of a namespace, through AF_PACKET.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arp_common::Lladdr;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recvfrom, send, setsockopt, socket,
    sockopt,
};

use crate::namespace::Namespace;

/// The EtherType of a [`Wire`] that receives every frame.
pub const EVERY_FRAME: u16 = libc::ETH_P_ALL as u16;
/// The EtherType of ARP.
pub const ARP: u16 = libc::ETH_P_ARP as u16;
/// The EtherType of marker frames (IEEE 802: for local experiments): neither the kernel nor the program looks at them.
pub const MARKER: u16 = 0x88b5;

/// Bytes in the receive buffer: some twenty thousand frames.
const RECEIVE_BUFFER: usize = 16 << 20;

/// A packet socket that sends and receives whole frames.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    what: String,
}

impl Wire {
    /// A socket on `interface` that receives every frame.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open_for(namespace, Some(interface), EVERY_FRAME)
    }

    /// A socket on `interface` that receives what the kernel's own ARP receives: it comes after XDP and tc.
    pub fn open_for_arp(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open_for(namespace, Some(interface), ARP)
    }

    /// A socket on one interface, or on all at once (as most ARP daemons have it). It receives the frames of one
    /// EtherType, and no frames if that is 0.
    pub fn open_for(namespace: &Namespace, interface: Option<&str>, ethertype: u16) -> Result<Self> {
        let what = format!("{} of {}", interface.unwrap_or("all interfaces"), namespace.name());
        let open = || -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            // Without a protocol it receives nothing before it is bound.
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
            // Beside other traffic the default holds what comes in 30 ms: a reply would be lost here, not on the wire.
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            let index = interface.map_or(Ok(0), if_nametoindex)?;
            bind(socket.as_raw_fd(), &link_address(index, ethertype)?)?;
            Ok(socket)
        };
        Ok(Wire { socket: namespace.run(open)?.with_context(|| format!("opening a packet socket on {what}"))?, what })
    }

    /// The socket itself.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        sent.with_context(|| format!("sending {} bytes from {}", frame.len(), self.what))?;
        Ok(())
    }

    /// The next incoming frame (the interface's own outgoing frames are left out), waiting for it until `deadline`.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 65_536];
        while let Some((length, from)) = self.receive_into(&mut buffer, deadline)? {
            if from.pkttype() != libc::PACKET_OUTGOING {
                return Ok(Some(buffer[..length].to_vec()));
            }
        }
        Ok(None)
    }

    /// The next frame, incoming or outgoing, waiting for it until `deadline`: its length, and where it was seen.
    pub fn receive_into(&self, buffer: &mut [u8], deadline: Instant) -> Result<Option<(usize, LinkAddr)>> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
                Ok((length, Some(from))) => return Ok(Some((length, from))),
                // The interface went down once; the socket works again when it is up.
                Ok((_, None)) | Err(Errno::ENETDOWN | Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error).with_context(|| format!("receiving on {}", self.what)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).with_context(|| format!("waiting for a frame on {}", self.what)),
            }
        }
    }

    /// Throws away what has come in so far.
    pub fn drain(&self) -> Result<()> {
        while self.receive(Instant::now())?.is_some() {}
        Ok(())
    }
}

/// The address of an interface for a packet socket; the index 0 stands for all.
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

/// A marker: a broadcast frame of 60 bytes, different each time.
pub fn marker(src: Lladdr) -> Vec<u8> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut frame = vec![0xff; 6];
    frame.extend(src.bytes());
    frame.extend(MARKER.to_be_bytes());
    frame.extend(COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// The bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
