//! Traffic that is not ARP: TCP and UDP over plain sockets in the namespaces of a lab, by two threads on named cores.
//!
//! What a veth sends is received on the sender's core, so that whatever is attached runs there.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use lab::{Namespace, OnCore};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

/// How long a load runs before it counts.
const WARM_UP: Duration = Duration::from_millis(40);
/// How long a receiver waits before it checks whether it must end.
const PATIENCE: Duration = Duration::from_millis(100);
/// Bytes in one write or read of bulk traffic.
const BLOCK: usize = 1 << 17;

/// Sender's and receiver's core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores(pub(crate) usize, pub(crate) usize);

/// The way from a namespace to an address in another.
pub(crate) struct Path<'a> {
    pub(crate) from: &'a Namespace,
    pub(crate) to: &'a Namespace,
    pub(crate) address: Ipv4Addr,
}

/// The count of a load, and the signal to end it.
#[derive(Default)]
struct Count {
    done: AtomicU64,
    stop: AtomicBool,
}

impl Count {
    fn add(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Path<'_> {
    /// Bytes a second that arrive over one TCP connection.
    pub(crate) fn tcp_bulk(&self, cores: Cores, duration: Duration) -> Result<f64> {
        let (mut client, mut server) = self.connection()?;
        let write = |count: &Count| -> Result<()> {
            let block = vec![0; BLOCK];
            while !count.stopped() {
                client.write_all(&block).context("sending bulk")?;
            }
            client.shutdown(std::net::Shutdown::Both).context("ending bulk")
        };
        let read = |count: &Count| -> Result<()> {
            let mut block = vec![0; BLOCK];
            loop {
                match server.read(&mut block) {
                    Ok(0) => return Ok(()),
                    Ok(len) => count.add(len as u64),
                    Err(error) => return Err(error).context("receiving bulk"),
                }
            }
        };
        measure(cores, duration, write, read)
    }

    /// Requests of one byte a second that are answered by one byte over one TCP connection, one at a time.
    pub(crate) fn tcp_requests(&self, cores: Cores, duration: Duration) -> Result<f64> {
        let (mut client, mut server) = self.connection()?;
        let ask = |count: &Count| -> Result<()> {
            while !count.stopped() {
                client.write_all(&[1]).context("sending a request")?;
                client.read_exact(&mut [0]).context("receiving a response")?;
                count.add(1);
            }
            client.shutdown(std::net::Shutdown::Both).context("ending requests")
        };
        let answer = |_: &Count| -> Result<()> {
            let mut byte = [0];
            while server.read(&mut byte).context("receiving a request")? > 0 {
                server.write_all(&byte).context("sending a response")?;
            }
            Ok(())
        };
        // Taking turns, they need no second core, and no interrupt from one to the other.
        measure(Cores(cores.0, cores.0), duration, ask, answer)
    }

    /// TCP connections a second, one after the other: each is made, closed by the server, and reset by the client.
    pub(crate) fn tcp_connections(&self, cores: Cores, duration: Duration) -> Result<f64> {
        let listener = self.listener()?;
        let address = SocketAddr::new(self.address.into(), listener.local_addr()?.port());
        listener.set_nonblocking(true).context("listening")?;
        let connect = |count: &Count| -> Result<()> {
            self.from.run(|| -> Result<()> {
                let _core = OnCore::enter(cores.0)?;
                while !count.stopped() {
                    let mut stream = TcpStream::connect(address).context("connecting")?;
                    // The end that the server makes of it: so no more connections wait there than one.
                    stream.set_read_timeout(Some(PATIENCE))?;
                    let ended = matches!(stream.read(&mut [0]), Ok(0));
                    // Closed by a reset, so that no port waits for a minute.
                    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
                    setsockopt(&stream, sockopt::Linger, &at_once).context("setting SO_LINGER")?;
                    count.add(u64::from(ended));
                }
                Ok(())
            })?
        };
        let accept = |count: &Count| -> Result<()> {
            while !count.stopped() {
                match listener.accept() {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => readable(&listener)?,
                    // Reset before it was taken.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error).context("accepting"),
                }
            }
            Ok(())
        };
        // Taking turns, as requests and responses do.
        measure(Cores(cores.0, cores.0), duration, connect, accept)
    }

    /// Datagrams of 64 bytes a second that arrive.
    pub(crate) fn udp_small(&self, cores: Cores, duration: Duration) -> Result<f64> {
        let receiver = self.to.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let sender = self.from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        sender.connect((self.address, receiver.local_addr()?.port()))?;
        let send = |count: &Count| -> Result<()> {
            while !count.stopped() {
                match sender.send(&[0; 64]) {
                    Ok(_) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(error).context("sending a datagram"),
                }
            }
            Ok(())
        };
        let receive = |count: &Count| -> Result<()> {
            let mut datagram = [0; 128];
            while !count.stopped() {
                match receiver.recv(&mut datagram) {
                    Ok(_) => count.add(1),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => return Err(error).context("receiving a datagram"),
                }
            }
            Ok(())
        };
        measure(cores, duration, send, receive)
    }

    fn listener(&self) -> Result<TcpListener> {
        self.to.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("listening")
    }

    /// A connection of its own: what a hook changes about offloads shows only in new ones.
    fn connection(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = self.listener()?;
        let address = SocketAddr::new(self.address.into(), listener.local_addr()?.port());
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(3));
        let client = self.from.run(connect)?.with_context(|| format!("connecting to {address}"))?;
        let (server, _) = listener.accept().context("accepting")?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        }
        Ok((client, server))
    }
}

/// Waits until a connection can be accepted, for a bounded time.
fn readable(listener: &TcpListener) -> Result<()> {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let wait = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], wait) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting for a connection"),
    }
}

/// Runs both ends, each on its core, and counts for `duration` once they are warm; what there was in a second.
fn measure(
    cores: Cores,
    duration: Duration,
    send: impl FnOnce(&Count) -> Result<()> + Send,
    receive: impl FnOnce(&Count) -> Result<()> + Send,
) -> Result<f64> {
    let count = Count::default();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let _core = OnCore::enter(cores.1)?;
            receive(&count)
        });
        let sender = scope.spawn(|| {
            let _core = OnCore::enter(cores.0)?;
            send(&count)
        });
        thread::sleep(WARM_UP);
        let (begin, before) = (Instant::now(), count.done.load(Ordering::Relaxed));
        thread::sleep(duration);
        let (took, done) = (begin.elapsed(), count.done.load(Ordering::Relaxed) - before);
        count.stop.store(true, Ordering::Relaxed);
        for thread in [sender, receiver] {
            thread.join().map_err(|_| anyhow!("a load's thread panicked"))??;
        }
        Ok(done as f64 / took.as_secs_f64())
    })
}
