//! The ARP frames of an interface as they pass by: a packet socket for every protocol, which only looks on. (One for ARP
//! alone would count as a program that may answer, and the fast path would pass all frames.)

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// Longer than any ARP frame.
const LONGEST: usize = 2048;

/// Sees the ARP frames of one interface.
pub struct Tap {
    socket: OwnedFd,
    ifindex: u32,
}

impl Tap {
    /// At an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket: it takes CAP_NET_RAW.
    pub fn open(ifindex: u32) -> Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("opening a packet socket (needs root, or CAP_NET_RAW)")?;
        Ok(Tap { socket, ifindex })
    }

    /// The next ARP frame that comes in by the interface or leaves by it; `None` if none does until the deadline.
    ///
    /// # Errors
    /// The socket fails.
    pub fn next(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let mut frame = [0; LONGEST];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Whole milliseconds, and not 0, which would be for ever.
            let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).clamp(1, 1000);
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(left))?;
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Ok((len, from)) => {
                    let is_here = from.is_some_and(|from| from.ifindex() == self.ifindex as usize);
                    if is_here && frame[12..14] == [8, 6] {
                        return Ok(Some(frame[..len].to_vec()));
                    }
                }
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).context("receiving from a packet socket"),
            }
        }
    }

    /// How long no frame is worth waiting for another time.
    pub const STEP: Duration = Duration::from_millis(100);
}
