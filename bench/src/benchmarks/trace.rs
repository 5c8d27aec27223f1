//! What `arp-agent trace` costs a frame: the program that tells against the one that does not, over the same tables, through
//! BPF_PROG_TEST_RUN behind `feed` (see [`super::decide`]).

use anyhow::{Result, ensure};
use arp_agent::clock::monotonic_ns;
use arp_agent::dataplane::Dataplane as _;
use arp_agent::dataplane::bpf::Bpf;
use arp_agent::dataplane::bpf::trace::TraceReader;
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::ArpFrame;
use arp_common::fib::Entry;
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use arp_common::reason::ANSWERED;
use aya::programs::ProgramFd;
use lab::OnCore;

use super::decide::{INGRESS, MAC, MINUTE, POD, POD_MAC, TO_POD, TO_UPLINK, VIEW, XDP_TX};
use crate::context::Context;
use crate::findings::Findings;
use crate::layout::Table;
use crate::programs::{LoadedPrograms, Targets};
use crate::report::GoalBound;
use crate::samples::{Key, order};

const TARGET: [u8; 4] = [10, 20, 30, 40];
/// Frames at once: fewer than the ring has room for, which is emptied in between.
const AT_ONCE: u32 = 10_000;
/// Bits of what is told: answers, or passes alone.
const ANSWERS: u64 = 1;
const PASSES: u64 = !ANSWERS;

const PER_FRAME: &str = "per frame";
const ADDED: &str = "added to a frame";
const OFF: &str = "no trace";
const SHOWN: &str = "trace, the frame is shown";
const LEFT_OUT: &str = "trace, the frame is left out by the filter";
const CASES: [&str; 3] = [OFF, SHOWN, LEFT_OUT];

pub(crate) const TABLES: &[Table] = &[];

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _core = OnCore::enter(context.core)?;
    let (rounds, turns) = context.either((31, 10), (2, 1));
    let mut bpf = Bpf::load()?;
    let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
    let neighbour = Neighbour { lladdr: POD_MAC, flags: Neighbour::ALWAYS };
    bpf.apply(&[
        Change::Oif(TO_POD, Oif { ifindex: INGRESS, medium_id: 0 }),
        Change::Oif(TO_UPLINK, Oif { ifindex: 9, medium_id: 0 }),
        Change::Insert(VIEW, Prefix::new(POD, 32), Entry::unicast(TO_POD)),
        Change::Insert(VIEW, Prefix::new([0; 4], 0), Entry::unicast(TO_UPLINK)),
        Change::Neighbour(IfaceAddr { ifindex: INGRESS, addr: POD }, Some(neighbour)),
        Change::Iface(INGRESS, Some(Iface { mac: MAC, flags, ..Iface::default() })),
    ])?;
    let plain = bpf.xdp()?.fd()?.try_clone()?;
    let mut reader = bpf.start_trace(ANSWERS)?;
    let telling = bpf.xdp()?.fd()?.try_clone()?;
    let mut own = LoadedPrograms::load()?;
    own.set_request(&ArpFrame::request(POD_MAC, POD, TARGET), &[TARGET])?;
    own.choose(Targets::Same)?;
    for round in 0..rounds {
        context.check()?;
        bpf.set_lease(monotonic_ns() + 10 * MINUTE)?;
        let mut ns = [0.0; CASES.len()];
        for case in order(round, CASES.len()) {
            bpf.set_trace_mask(if CASES[case] == LEFT_OUT { PASSES } else { ANSWERS });
            let program = if CASES[case] == OFF { &plain } else { &telling };
            let told = if CASES[case] == SHOWN { AT_ONCE } else { 0 };
            for _ in 0..turns {
                ns[case] += turn(&mut bpf, &mut own, program, &mut reader, told)? / f64::from(turns);
            }
        }
        for (case, name) in CASES.into_iter().enumerate() {
            findings.push(Key::new(PER_FRAME, name), "ns", ns[case]);
            if name != OFF {
                findings.push(Key::new(ADDED, name), "ns", ns[case] - ns[0]);
            }
        }
    }
    let added = findings.samples.values(&Key::new(ADDED, SHOWN)).to_vec();
    findings.goal("P14", ["added to a frame by a trace", "the frame is shown"], GoalBound::AtMost(80.0), "ns", &added);
    findings.note(format!(
        "CPU time of {AT_ONCE} runs in one BPF_PROG_TEST_RUN, {turns} times a case and round, on core {}; writing the request \
         is included. The ring is emptied on the same core in between.",
        context.core
    ));
    Ok(())
}

/// What a frame took in ns. Each must be answered, and so many told.
fn turn(
    bpf: &mut Bpf,
    own: &mut LoadedPrograms,
    program: &ProgramFd,
    reader: &mut TraceReader,
    expected: u32,
) -> Result<f64> {
    let before = bpf.counters(INGRESS)[ANSWERED];
    let runs = own.feed(program, INGRESS, AT_ONCE)?;
    let answered = bpf.counters(INGRESS)[ANSWERED] - before;
    let told = reader.by_ref().count();
    ensure!(
        runs.action == XDP_TX && answered == u64::from(AT_ONCE) && told == expected as usize && reader.lost() == 0,
        "of {AT_ONCE} requests {answered} were answered and {told} told, not {expected}"
    );
    Ok(runs.ns)
}
