//! What the attacker does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use arp_common::ArpFrame;
use bench::Flood;
use lab::contacts::scan;
use lab::topology::CALICO_GATEWAY;
use lab::{Namespace, OnCore};

/// The kind of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttackKind {
    Nothing,
    /// ARP frames, as fast as they go.
    Flood,
    /// Datagrams to dead addresses, at a rate a second or as fast as they go.
    Scan(Option<u32>),
}

/// An attack, and what is felt of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) kind: AttackKind,
    /// The victim contacts many hosts at once, and nothing else: what it did before would count as its own use of the node.
    pub(super) at_once: bool,
}

pub(super) const CALM: &str = "calm";
pub(super) const OWN_ROUTE: &str = "senders of a /20 of its own";
pub(super) const FLIPS: &str = "its own address with random MACs";
pub(super) const ANNOUNCEMENTS: &str = "announcements of its own address";
/// Floods of senders that are not the attacker's.
pub(super) const SPOOFED: [&str; 3] = ["random senders", "random senders and MACs", "announcements of random senders"];
/// Floods that change the attacker's own entry, or could.
pub(super) const CHANGES: [&str; 2] = [FLIPS, ANNOUNCEMENTS];
pub(super) const SCANS: [&str; 2] = ["UDP scan, 10,000 a second", "UDP scan, as fast as it goes"];

pub(super) const ATTACKS: [Attack; 11] = [
    attack(CALM, AttackKind::Nothing),
    attack(SPOOFED[0], AttackKind::Flood),
    attack(SPOOFED[1], AttackKind::Flood),
    attack(SPOOFED[2], AttackKind::Flood),
    attack(OWN_ROUTE, AttackKind::Flood),
    attack(FLIPS, AttackKind::Flood),
    attack(ANNOUNCEMENTS, AttackKind::Flood),
    attack(SCANS[0], AttackKind::Scan(Some(10_000))),
    attack(SCANS[1], AttackKind::Scan(None)),
    Attack { at_once: true, ..attack(SCANS[0], AttackKind::Scan(Some(10_000))) },
    Attack { at_once: true, ..attack(SCANS[1], AttackKind::Scan(None)) },
];

/// Random senders alone.
pub(super) const SPOOFED_REQUESTS: Attack = attack(SPOOFED[0], AttackKind::Flood);

const fn attack(name: &'static str, kind: AttackKind) -> Attack {
    Attack { name, kind, at_once: false }
}

/// Frames that a flood repeats: more senders than the neighbour table has room for.
const SENDERS: u32 = 8192;
/// Nobody is in 10.10.0.0/20, behind the uplink.
const DEAD: [u8; 4] = [10, 10, 0, 0];
const DEAD_HOSTS: u32 = 4096;

/// Who attacks.
pub(super) struct Attacker<'a> {
    pub(super) namespace: &'a Namespace,
    /// The number of the pod.
    pub(super) pod: u8,
    pub(super) core: usize,
}

/// What the attacker has sent.
pub(super) struct AttackSent {
    pub(super) count: u64,
    pub(super) elapsed: Duration,
}

impl Attacker<'_> {
    /// Attacks until the victim is done. `round` is the seed of what is random.
    pub(super) fn attack_until(&self, done: &AtomicBool, attack: Attack, round: usize) -> Result<AttackSent> {
        match attack.kind {
            AttackKind::Nothing => {
                while !done.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(AttackSent { count: 0, elapsed: Duration::ZERO })
            }
            AttackKind::Flood => self.flood_while(attack, round, || !done.load(Ordering::Relaxed)),
            AttackKind::Scan(rate) => {
                let _core = OnCore::enter(self.core)?;
                let scanned = scan(self.namespace, DEAD, DEAD_HOSTS, rate, done)?;
                Ok(AttackSent { count: scanned.sent, elapsed: scanned.elapsed })
            }
        }
    }

    /// Floods for so long.
    pub(super) fn flood_for(&self, duration: Duration, attack: Attack, round: usize) -> Result<AttackSent> {
        let begin = Instant::now();
        self.flood_while(attack, round, || begin.elapsed() < duration)
    }

    fn flood_while(&self, attack: Attack, round: usize, goes_on: impl Fn() -> bool) -> Result<AttackSent> {
        let frames = frames(attack.name, self.pod, round);
        let flooded = Flood::on(self.namespace, self.core)?.run_while(&frames, goes_on)?;
        Ok(AttackSent { count: flooded.requests, elapsed: flooded.elapsed })
    }
}

/// The frames of a flood.
fn frames(attack: &str, pod: u8, round: usize) -> Vec<ArpFrame> {
    let mut random = fastrand::Rng::with_seed(round as u64);
    let (own_mac, own) = ([0x02, 0, 0, 0, 0x02, pod], [10, 244, 235, 132 + pod]);
    let [requests, with_macs, announcements] = SPOOFED;
    let frame = |random: &mut fastrand::Rng| {
        let [a, b, c, d] = random.u32(..).to_be_bytes();
        // 198.18.0.0/15 is for benchmarks (RFC 2544).
        let stranger = [198, 18 + (b & 1), c, d];
        let any_mac = [2, 1, a, b, c, d];
        match attack {
            _ if attack == requests => ArpFrame::request(own_mac, stranger, CALICO_GATEWAY),
            _ if attack == with_macs => ArpFrame::request(any_mac, stranger, CALICO_GATEWAY),
            _ if attack == announcements => ArpFrame::request(own_mac, stranger, stranger),
            ANNOUNCEMENTS => ArpFrame::request(own_mac, own, own),
            FLIPS => ArpFrame::request(any_mac, own, CALICO_GATEWAY),
            _ => ArpFrame::request(own_mac, [10, 66, pod * 16 + (c & 15), d], CALICO_GATEWAY),
        }
    };
    (0..SENDERS).map(|_| frame(&mut random)).collect()
}
