//! The attach self-test: a frame of our own, sent the way that replies go, must arrive.
//!
//! The frame is for nobody (no device has its destination, and its EtherType is one for experiments): the pod's stack drops
//! it as somebody else's. That it has arrived is seen from the veth's counters at the node end, which count what the
//! pod end has taken. Other traffic to the pod in the same moment could be mistaken for it, so a few frames of a length
//! of their own are sent, and as many frames and bytes must be counted.

use super::bpf::Bpf;
use super::choice::How;
use crate::event::Link;
use crate::kernel::Transmitted;
use arp_common::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How many frames a test sends.
const FRAMES: u32 = 3;
/// Their length: no ARP frame, and no small packet, is as long.
const LEN: usize = 251;
/// Their length after a failure: what the smallest MTU that IPv4 allows, 68, lets through.
const SHORT_LEN: usize = 82;
/// How long they may take.
const PATIENCE: Duration = Duration::from_millis(2);
/// When a test that failed is repeated: after so long, then twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// How many may fail in one go: whoever waits for them to fail does nothing else meanwhile, and the lease runs.
const FAILURES_AT_ONCE: u32 = 10;

/// To nobody (locally administered), from nobody, EtherType 0x88b5 (local experiments, IEEE 802).
const HEADER: [u8; 14] = [2, 0xa7, 0x9f, 0x0b, 0x0e, 0xfe, 2, 0xa7, 0x9f, 0x0b, 0x0e, 0xff, 0x88, 0xb5];

/// What is known of the interfaces' ways out.
pub struct Proofs {
    transmitted: Transmitted,
    by_ifindex: BTreeMap<u32, Proof>,
    /// Those of them that are to be tested again.
    failing: BTreeSet<u32>,
    failed: u32,
}

struct Proof {
    how: How,
    /// IFLA_CARRIER_CHANGES when it was tested: after a change nothing is known.
    carrier_changes: u32,
    /// Whether the other end took frames of XDP then.
    takes_xdp: bool,
    held: Option<Reason>,
    /// When to test again, if it failed.
    again: Option<(Instant, Duration)>,
}

impl Proofs {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Proofs {
            transmitted: Transmitted::new()?,
            by_ifindex: BTreeMap::new(),
            failing: BTreeSet::new(),
            failed: 0,
        })
    }

    /// Begins another go at the interfaces.
    pub fn begin(&mut self) {
        self.failed = 0;
    }

    /// Forgets an interface.
    pub fn forget(&mut self, ifindex: u32) {
        self.by_ifindex.remove(&ifindex);
        self.failing.remove(&ifindex);
    }

    /// Why the interface must not answer by this hook, as far as its way out is concerned. Tests it if it was never
    /// tested, if its carrier or its other end has changed since, or if the last test failed long enough ago; not
    /// before the next go, if too many have failed in this one.
    /// `takes_xdp`: its other end takes frames of XDP in driver mode.
    pub fn held(&mut self, bpf: &mut Bpf, link: &Link, how: How, takes_xdp: bool) -> Option<Reason> {
        let Link { ifindex, carrier_changes, .. } = *link;
        if link.kind.as_deref() != Some("veth") {
            // There is no other end to be asked, and what is sent would be on somebody's wire.
            return None;
        }
        if let Some(proof) = self.by_ifindex.get(&ifindex)
            && (proof.how, proof.carrier_changes, proof.takes_xdp) == (how, carrier_changes, takes_xdp)
            && proof.again.is_none_or(|(when, _)| Instant::now() < when)
        {
            return proof.held;
        }
        let mut postponed = false;
        let held = if !link.carrier {
            Some(Reason::HOOK_UNPROVEN)
        } else if how == How::XdpVeth && !takes_xdp {
            Some(Reason::PEER_DEAF)
        } else if self.failed >= FAILURES_AT_ONCE {
            postponed = true;
            Some(Reason::HOOK_UNPROVEN)
        } else {
            let pause = self.by_ifindex.get(&ifindex).and_then(|proof| Some(proof.again?.1));
            let has_failed = pause.is_some_and(|pause| !pause.is_zero());
            let tested = self.test(bpf, ifindex, how, if has_failed { SHORT_LEN } else { LEN });
            self.failed += u32::from(!matches!(tested, Ok(true)));
            match tested {
                Ok(true) => None,
                Ok(false) => Some(Reason::HOOK_UNPROVEN),
                Err(error) => {
                    log::warn!("{}: the self-test failed: {error:#}", link.name);
                    Some(Reason::HOOK_UNPROVEN)
                }
            }
        };
        let before = self.by_ifindex.get(&ifindex);
        if held.is_some() && before.and_then(|proof| proof.held) != held {
            log::info!("{}: no replies by {} {} for now", link.name, how.hook(), how.mode());
        }
        let pause = match before.and_then(|proof| proof.again) {
            // Not tested, so neither failed nor to wait: the next go is for it.
            last if postponed => last.map_or(Duration::ZERO, |(_, pause)| pause),
            Some((_, pause)) if before.is_some_and(|proof| proof.carrier_changes == carrier_changes) => {
                (2 * pause).clamp(FIRST_RETRY, LAST_RETRY)
            }
            _ => FIRST_RETRY,
        };
        let again = (held == Some(Reason::HOOK_UNPROVEN) && link.carrier).then(|| {
            let wait = if postponed { Duration::ZERO } else { pause };
            (Instant::now() + wait, pause)
        });
        if again.is_some() {
            self.failing.insert(ifindex);
        } else {
            self.failing.remove(&ifindex);
        }
        self.by_ifindex.insert(ifindex, Proof { how, carrier_changes, takes_xdp, held, again });
        held
    }

    /// The interfaces that are to be tested again.
    pub fn failing(&self) -> &BTreeSet<u32> {
        &self.failing
    }

    /// When an interface is to be tested again, if one is.
    pub fn due(&self) -> Option<Instant> {
        self.failing.iter().filter_map(|ifindex| Some(self.by_ifindex.get(ifindex)?.again?.0)).min()
    }

    fn test(&mut self, bpf: &mut Bpf, ifindex: u32, how: How, len: usize) -> anyhow::Result<bool> {
        let mut frame = vec![0; len];
        frame[..HEADER.len()].copy_from_slice(&HEADER);
        let (frames, bytes) = self.transmitted.by(ifindex)?;
        bpf.send_probes(how, ifindex, &frame, FRAMES)?;
        let sent = Instant::now();
        loop {
            let (frames_now, bytes_now) = self.transmitted.by(ifindex)?;
            let (more, longer) = (frames_now.wrapping_sub(frames), bytes_now.wrapping_sub(bytes));
            if more >= u64::from(FRAMES) && longer >= u64::from(FRAMES) * len as u64 {
                return Ok(true);
            }
            if sent.elapsed() > PATIENCE {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
