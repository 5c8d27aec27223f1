//! Sends requests from a pod as fast as the socket takes them, and ignores the replies.

use std::fmt;
use std::io::IoSlice;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arp_common::ArpFrame;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, sendmmsg};

use lab::Namespace;
use lab::OnCore;
use lab::Wire;

/// How many frames one system call sends: few enough for the kernel's queues.
const BATCH: usize = 64;
/// How long a full queue may stay full.
const PATIENCE: Duration = Duration::from_secs(1);

/// A packet socket on an `eth0` that only sends, in batches (sendmmsg).
pub struct Flood {
    wire: Wire,
    core: usize,
}

/// The result of a flood.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// How many requests were sent.
    pub requests: u64,
    /// In what time.
    pub elapsed: Duration,
}

impl Flood {
    /// A flood out of the namespace's `eth0`, that runs on one core while it sends.
    pub fn on(namespace: &Namespace, core: usize) -> Result<Self> {
        // Protocol 0: the socket gets no copy of any frame.
        Ok(Flood { wire: Wire::open_for(namespace, Some("eth0"), 0)?, core })
    }

    /// Sends these requests, over and over, for at least `window`.
    pub fn run(&self, requests: &[ArpFrame], window: Duration) -> Result<Flooded> {
        let begin = Instant::now();
        self.run_while(requests, || begin.elapsed() < window)
    }

    /// Sends these requests, over and over, until `go_on` says no; it is asked before each batch of 64.
    pub fn run_while(&self, requests: &[ArpFrame], go_on: impl Fn() -> bool) -> Result<Flooded> {
        let frames: Vec<[u8; ArpFrame::LEN]> = requests.iter().map(ArpFrame::to_bytes).collect();
        let frames: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
        let _core = OnCore::enter(self.core)?;
        let begin = Instant::now();
        let mut sent = 0;
        for batch in frames.chunks(BATCH).cycle() {
            if !go_on() {
                break;
            }
            sent += self.send(&mut headers, batch)?;
        }
        Ok(Flooded { requests: sent, elapsed: begin.elapsed() })
    }

    /// Sends a batch, all of it.
    fn send(&self, headers: &mut MultiHeaders<()>, frames: &[[IoSlice<'_>; 1]]) -> Result<u64> {
        const NOTHING: [ControlMessage<'_>; 0] = [];
        let mut done = 0;
        let mut full_since = None;
        while done < frames.len() {
            let rest = &frames[done..];
            let addresses = vec![None::<()>; rest.len()];
            match sendmmsg(self.wire.socket().as_raw_fd(), headers, rest, addresses, NOTHING, MsgFlags::empty()) {
                Ok(results) => {
                    done += results.count();
                    full_since = None;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        bail!("the interface has taken no frame for {PATIENCE:?}");
                    }
                    std::thread::yield_now();
                }
                Err(error) => return Err(error).context("sending a batch of requests"),
            }
        }
        Ok(done as u64)
    }
}

impl fmt::Debug for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flood").field("core", &self.core).finish_non_exhaustive()
    }
}
