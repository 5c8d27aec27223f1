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
use crate::topology::{CALICO_GATEWAY, CALICO_MAC, UPLINK_IP};

/// What went over a link while something else happened.
#[derive(Debug, Default)]
struct Traffic {
    asked: AtomicU64,
    unanswered: AtomicU64,
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

/// Keeps ARP requests and datagrams going between a node as of [`topology::calico`](crate::topology::calico) and its pod
/// `p0`, with that many busy loops beside, while `meanwhile` runs; then nothing may be lost, doubled or wrong.
///
/// # Errors
/// That of `meanwhile`, or what was lost.
pub fn under_traffic(lab: &Lab, what: &str, busy: usize, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let pairs = [datagrams(lab, true)?, datagrams(lab, false)?];
    // Who asks for whom first is not what is tested.
    ensure!(lab.node().can_ping(lab.host("p0").ip())?, "the node does not reach its pod");
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let traffic = Traffic::default();
    thread::scope(|scope| -> Result<()> {
        let mut threads: Vec<ScopedJoinHandle<'_, Result<()>>> = Vec::new();
        for _ in 0..busy {
            threads.push(scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                Ok(())
            }));
        }
        for (way, (sender, receiver)) in pairs.iter().enumerate() {
            let (traffic, stop, over) = (&traffic, &stop, &over);
            threads.push(scope.spawn(move || {
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    sender.send(&[0; 64])?;
                    traffic.sent[way].fetch_add(1, Ordering::Relaxed);
                    due += Duration::from_micros(250);
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
            while !stop.load(Ordering::Relaxed) {
                // An error is what was sent to find the end of the replies, and got lost itself.
                let replies = p0.ask(&p0.who_has(CALICO_GATEWAY)).unwrap_or_default();
                traffic.asked.fetch_add(1, Ordering::Relaxed);
                if replies.is_empty() {
                    traffic.unanswered.fetch_add(1, Ordering::Relaxed);
                } else if replies != [reply.clone()] {
                    traffic.wrong.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_micros(500));
            }
            Ok(())
        }));
        thread::sleep(Duration::from_millis(100));
        let done = meanwhile();
        thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(200));
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        done
    })?;
    println!("{what}: {traffic:?}");
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    ensure!(count(&traffic.asked) > 20, "{what}: {traffic:?}");
    ensure!(count(&traffic.unanswered) == 0 && count(&traffic.wrong) == 0, "{what}: {traffic:?}");
    for way in 0..2 {
        ensure!(count(&traffic.sent[way]) > 100, "{what}: {traffic:?}");
        ensure!(count(&traffic.sent[way]) == count(&traffic.received[way]), "{what}, datagrams lost: {traffic:?}");
    }
    Ok(())
}
