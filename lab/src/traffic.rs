//! Traffic that must not suffer while something else happens: ARP requests of a pod, and datagrams both ways.

use std::net::{Ipv4Addr, UdpSocket};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::bytes::reply_bytes;
use crate::lab::Lab;
use crate::slack::slack;
use crate::topology::{CALICO_GATEWAY, CALICO_MAC, UPLINK_IP};

/// How much goes over the link each second: requests, and datagrams each way.
const REQUESTS: u32 = 1000;
const DATAGRAMS: u32 = 4000;

/// What went over a link while something else happened.
#[derive(Debug, Default)]
struct Traffic {
    asked: AtomicU64,
    unanswered: AtomicU64,
    duplicate: AtomicU64,
    wrong: AtomicU64,
    /// Datagrams: node → pod, pod → node.
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
}

/// A pair of sockets, the sender's connected to the receiver's.
fn datagrams(lab: &Lab, to_pod: bool) -> Result<(UdpSocket, UdpSocket)> {
    let (node, pod) = (lab.node(), lab.host("p0").namespace());
    let (from, to) = if to_pod { (node, pod) } else { (pod, node) };
    let address = if to_pod { lab.host("p0").ip() } else { UPLINK_IP };
    let receiver = to.run(|| UdpSocket::bind((Ipv4Addr::from(address), 0)))??;
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20))?;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let sender = from.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    sender.connect(receiver.local_addr()?)?;
    Ok((sender, receiver))
}

/// Keeps that many cores busy while `work` runs, as far as there are so many.
///
/// # Errors
/// That of `work`.
pub fn beside_busy_loops<T>(busy: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..busy {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _stops = StopsWhenDropped(&stop);
        work()
    })
}

/// Also where `work` panics: the scope would wait for ever.
struct StopsWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps ARP requests (1 kHz) and datagrams (4 kHz each way) going between a node as of
/// [`topology::calico`](crate::topology::calico) and its pod `p0`, with that many busy loops beside, while `meanwhile` runs;
/// then nothing may be lost, doubled or wrong, and at least half of that must have gone: a machine that is kept busy sends
/// in bursts, and not all.
///
/// # Errors
/// That of `meanwhile`, or what was lost.
pub fn under_traffic(lab: &Lab, what: &str, busy: usize, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let pairs = [datagrams(lab, true)?, datagrams(lab, false)?];
    // Who asks for whom first is not what is tested.
    ensure!(lab.node().can_ping(lab.host("p0").ip())?, "the node does not reach its pod");
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let traffic = Traffic::default();
    let took = beside_busy_loops(busy, || {
        thread::scope(|scope| -> Result<Duration> {
            let mut threads: Vec<ScopedJoinHandle<'_, Result<()>>> = Vec::new();
            for (way, (sender, receiver)) in pairs.iter().enumerate() {
                let (traffic, stop, over) = (&traffic, &stop, &over);
                threads.push(scope.spawn(move || {
                    let mut due = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        sender.send(&[0; 64])?;
                        traffic.sent[way].fetch_add(1, Ordering::Relaxed);
                        due += Duration::from_secs(1) / DATAGRAMS;
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                    Ok(())
                }));
                threads.push(scope.spawn(move || {
                    let mut buffer = [0; 128];
                    loop {
                        match receiver.recv(&mut buffer) {
                            Ok(_) => drop(traffic.received[way].fetch_add(1, Ordering::Relaxed)),
                            // All has been sent by now, and nothing more was there.
                            Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
                            Err(_) => {}
                        }
                    }
                }));
            }
            threads.push(scope.spawn(|| {
                let p0 = lab.host("p0");
                let reply = reply_bytes(CALICO_MAC, p0.mac(), p0.ip(), CALICO_GATEWAY);
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    // An error is what was sent to find the end of the replies, and got lost itself.
                    let replies = p0.ask(&p0.who_has(CALICO_GATEWAY)).unwrap_or_default();
                    traffic.asked.fetch_add(1, Ordering::Relaxed);
                    if replies.is_empty() {
                        traffic.unanswered.fetch_add(1, Ordering::Relaxed);
                    } else if replies.iter().any(|one| *one != reply) {
                        traffic.wrong.fetch_add(1, Ordering::Relaxed);
                    } else if replies.len() > 1 {
                        traffic.duplicate.fetch_add(1, Ordering::Relaxed);
                    }
                    due += Duration::from_secs(1) / REQUESTS;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                Ok(())
            }));
            let begin = Instant::now();
            thread::sleep(Duration::from_millis(100));
            let done = meanwhile();
            thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            let took = begin.elapsed();
            thread::sleep(Duration::from_millis(200));
            over.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            done?;
            Ok(took)
        })
    })?;
    println!("{what}, {took:?}: {traffic:?}");
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let half = |rate: u32| (took.as_secs_f64() * f64::from(rate) / f64::from(2 * slack())) as u64;
    ensure!(count(&traffic.asked) >= half(REQUESTS), "{what}, {took:?}: {traffic:?}");
    let faults = [&traffic.unanswered, &traffic.duplicate, &traffic.wrong];
    ensure!(faults.into_iter().all(|fault| count(fault) == 0), "{what}: {traffic:?}");
    for way in 0..2 {
        ensure!(count(&traffic.sent[way]) >= half(DATAGRAMS), "{what}, {took:?}: {traffic:?}");
        ensure!(count(&traffic.sent[way]) == count(&traffic.received[way]), "{what}, datagrams lost: {traffic:?}");
    }
    Ok(())
}
