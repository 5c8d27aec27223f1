//! Who contacts many addresses: datagrams to all of a range, one after the other, and connections to many at once.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, socket, sockopt};

use crate::namespace::Namespace;

/// A port that nobody listens on: whoever has the address refuses the connection.
const DISCARD: u16 = 9;
/// Longer than any scan is meant to take, should nobody end it.
const ENOUGH: Duration = Duration::from_secs(60);
/// How often the end is looked for, and the rate is kept.
const A_TURN: Duration = Duration::from_micros(200);

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Scanned {
    /// Datagrams.
    pub sent: u64,
    /// In what time.
    pub elapsed: Duration,
}

/// Sends a datagram to each of `count` addresses from `base` on, over and over, at a rate a second or as fast as it goes,
/// until `done`. It takes no privilege.
///
/// # Errors
/// No socket can be had.
pub fn scan(from: &Namespace, base: [u8; 4], count: u32, rate: Option<u32>, done: &AtomicBool) -> Result<Scanned> {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding a UDP socket")?;
        socket.set_nonblocking(true)?;
        let (begin, base) = (Instant::now(), u32::from_be_bytes(base));
        let (mut sent, mut next) = (0, 0);
        while !done.load(Ordering::Relaxed) && begin.elapsed() < ENOUGH {
            let due = rate.map_or(sent + 64, |rate| (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64);
            while sent < due {
                // What the socket does not take is as good as sent: a full queue drops, too.
                let _ = socket.send_to(&[0; 8], (Ipv4Addr::from(base + next), DISCARD));
                (sent, next) = (sent + 1, (next + 1) % count);
            }
            if rate.is_some() {
                thread::sleep(A_TURN);
            }
        }
        Ok(Scanned { sent, elapsed: begin.elapsed() })
    })?
}

/// Opens a TCP connection to each of these addresses at once; gives how long each one took until it was refused, or `None`
/// where nobody had answered in time.
///
/// # Errors
/// No socket can be had, or connecting fails otherwise.
pub fn connect_to_each(from: &Namespace, to: &[Ipv4Addr], within: Duration) -> Result<Vec<Option<Duration>>> {
    from.run(|| {
        let begin = Instant::now();
        let mut took = vec![None; to.len()];
        let mut waiting: Vec<(usize, OwnedFd)> = Vec::new();
        for (number, addr) in to.iter().enumerate() {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
            match connect(socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(*addr, DISCARD))) {
                Err(Errno::EINPROGRESS) => waiting.push((number, socket)),
                result => took[number] = ended(result.err())?.then(|| begin.elapsed()),
            }
        }
        while !waiting.is_empty() && begin.elapsed() < within {
            let left = within.saturating_sub(begin.elapsed()).as_millis() as u16;
            let mut polled: Vec<PollFd<'_>> =
                waiting.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT)).collect();
            match poll(&mut polled, PollTimeout::from(left)) {
                Err(Errno::EINTR) => continue,
                result => result.context("waiting for connections")?,
            };
            let is_ready: Vec<bool> = polled.iter().map(|one| one.any().unwrap_or(true)).collect();
            let mut still = Vec::new();
            for ((number, socket), is_ready) in waiting.into_iter().zip(is_ready) {
                if is_ready {
                    let error = getsockopt(&socket, sockopt::SocketError)?;
                    took[number] = ended((error != 0).then(|| Errno::from_raw(error)))?.then(|| begin.elapsed());
                } else {
                    still.push((number, socket));
                }
            }
            waiting = still;
        }
        Ok(took)
    })?
}

/// Whether a connection that ended so was answered by the address's owner.
fn ended(error: Option<Errno>) -> Result<bool> {
    match error {
        None | Some(Errno::ECONNREFUSED) => Ok(true),
        Some(Errno::EHOSTUNREACH | Errno::ETIMEDOUT | Errno::ENETUNREACH | Errno::ENOBUFS) => Ok(false),
        // What connect(2) says where no entry can be made for the gateway.
        Some(Errno::EINVAL) => Ok(false),
        Some(error) => bail!("connecting: {}", io::Error::from(error)),
    }
}
