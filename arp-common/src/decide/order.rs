//! The order of a decision's reads, in every way in which the memory model of C11 and Rust lets loads and stores be seen:
//! [`loom`] tries them all. An emulated arm64 on an x86 machine shows none of them (docs/adr/0019-order-of-reads.md).
//!
//! A batch leads from one state of the tables to the other. In the first, the interface has one address and the target
//! is local; in the second, it has another and the target is not answered. So nobody may be told the second address.

use super::*;
use crate::fib::Entry;
use crate::maps::Neighbour;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use loom::thread;

const ADDRESSES: [[u8; 6]; 2] = [[0x0a; 6], [0x0c; 6]];
const ROUTES: [Entry; 2] = [Entry::LOCAL, Entry::UNANSWERABLE];
const POD: [u8; 4] = [10, 5, 0, 5];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What a batch changes, each a word of mapped memory: which of the two states it is in.
struct Mapped {
    sequence: AtomicU64,
    address: AtomicUsize,
    route: AtomicUsize,
}

/// The tables as the program reads them: with both of its barriers, or with one left out.
struct Reader<'a> {
    mapped: &'a Mapped,
    barriers: [bool; 2],
}

impl Mapped {
    fn new(state: usize) -> Self {
        Mapped { sequence: AtomicU64::new(2), address: AtomicUsize::new(state), route: AtomicUsize::new(state) }
    }

    /// As `Bpf::apply` writes a batch (arp-agent/src/dataplane/bpf.rs); `barriers` as there.
    fn write(&self, state: usize, barriers: [bool; 2]) {
        self.sequence.store(3, Ordering::Relaxed);
        if barriers[0] {
            fence(Ordering::SeqCst);
        }
        self.address.store(state, Ordering::Relaxed);
        self.route.store(state, Ordering::Relaxed);
        if barriers[1] {
            fence(Ordering::SeqCst);
        }
        self.sequence.store(4, Ordering::Relaxed);
    }
}

impl Tables for Reader<'_> {
    fn sequence(&self) -> u64 {
        let sequence = self.mapped.sequence.load(Ordering::Relaxed);
        if self.barriers[0] {
            fence(Ordering::SeqCst);
        }
        sequence
    }
    fn sequence_after(&self) -> u64 {
        if self.barriers[1] {
            fence(Ordering::SeqCst);
        }
        self.mapped.sequence.load(Ordering::Relaxed)
    }
    fn iface(&self, _: u32) -> Option<Iface> {
        let state = self.mapped.address.load(Ordering::Relaxed);
        Some(Iface { mac: ADDRESSES[state], flags: Iface::LOCAL_ALWAYS, ..Iface::default() })
    }
    fn fib_root(&self, _: u16, _: u8) -> Entry {
        ROUTES[self.mapped.route.load(Ordering::Relaxed)]
    }
    fn fib_node(&self, _: u32, _: u8) -> Entry {
        Entry::OPAQUE
    }
    fn neighbour(&self, _: IfaceAddr) -> Option<Neighbour> {
        Some(Neighbour { lladdr: POD_MAC, flags: Neighbour::ALWAYS })
    }
    fn lease_is_valid(&self) -> bool {
        true
    }
    fn settings_are_read(&self) -> bool {
        true
    }
    fn proxied(&self, _: IfaceAddr) -> bool {
        false
    }
    fn proxies_are_confirmed(&self) -> bool {
        true
    }
    fn owned(&self, _: IfaceAddr) -> bool {
        false
    }
    fn oif(&self, _: u16) -> Option<Oif> {
        None
    }
}

/// Whether a frame beside a batch from `from` to the other state is ever told the second address.
fn is_ever_torn(from: usize, writes: [bool; 2], reads: [bool; 2]) -> bool {
    let torn = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = torn.clone();
    loom::model(move || {
        let mapped = Arc::new(Mapped::new(from));
        let writer = thread::spawn({
            let mapped = mapped.clone();
            move || mapped.write(1 - from, writes)
        });
        let frame = PackedArp::from(&crate::ArpFrame::request(POD_MAC, POD, [192, 0, 2, 7]));
        let verdict = decide(&frame, 7, &Reader { mapped: &mapped, barriers: reads });
        if verdict == Verdict::Reply(Lladdr::new(ADDRESSES[1])) {
            seen.store(true, Ordering::Relaxed);
        }
        writer.join().unwrap();
    });
    torn.load(Ordering::Relaxed)
}

const BOTH: [bool; 2] = [true, true];

#[test]
fn no_decision_sees_half_of_a_batch() {
    for from in [0, 1] {
        assert!(!is_ever_torn(from, BOTH, BOTH), "from state {from}");
    }
}

#[test]
fn without_any_one_of_the_barriers_one_does() {
    for left_out in [[false, true], [true, false]] {
        assert!(
            [0, 1].into_iter().any(|from| is_ever_torn(from, BOTH, left_out)),
            "the program's barriers {left_out:?} would do"
        );
        assert!(
            [0, 1].into_iter().any(|from| is_ever_torn(from, left_out, BOTH)),
            "the agent's barriers {left_out:?} would do"
        );
    }
}
