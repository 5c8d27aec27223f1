//! What a decision costs: the loaded program on whole frames, through BPF_PROG_TEST_RUN.
//!
//! A program that runs many times in one call gets the same packet each time; after the first run that packet is a
//! reply. So `feed` runs first: it writes a request and tail-calls the program. The cost of `feed` is the difference
//! between the empty program behind it and the empty program alone, and is subtracted. The null program needs no
//! request: it is measured in both ways, which shows whether the subtraction is right.

use anyhow::{Context as _, Result, ensure};
use arp_agent::clock::monotonic_ns;
use arp_agent::dataplane::Dataplane as _;
use arp_agent::dataplane::bpf::Bpf;
use arp_agent::dataplane::bpf::guards::Guarding;
use arp_agent::dataplane::bpf::programs::{Manner, TC_ACT_UNSPEC};
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::ArpFrame;
use arp_common::fib::Entry;
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use arp_common::reason::ANSWERED;
use aya::programs::ProgramFd;
use lab::OnCore;

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::programs::{LoadedPrograms, Runs, Targets, run as run_program, run_tc};
use crate::report::GoalBound;
use crate::samples::{Key, order};

/// `lo`, the first interface of every namespace.
pub(super) const INGRESS: u32 = 1;
pub(super) const MAC: [u8; 6] = [0xee; 6];
pub(super) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const POD: [u8; 4] = [192, 168, 7, 7];
pub(super) const VIEW: u16 = 0;
/// Slots of the two interfaces that routes leave by.
pub(super) const TO_POD: u16 = 0;
pub(super) const TO_UPLINK: u16 = 1;
/// enum xdp_action (include/uapi/linux/bpf.h).
const XDP_PASS: u32 = 2;
pub(super) const XDP_TX: u32 = 3;
/// The number of routes for which the cost of memory alone is measured too.
const WALL_ROUTES: u64 = 1_000_000;
pub(super) const MINUTE: u64 = 60_000_000_000;

const PER_FRAME: &str = "per frame";
const OVER_EMPTY: &str = "over the empty program";
const NOT_ARP: &str = "a frame that is not ARP, over the empty program";
const FULL: &str = "fast path";
const GUARD: &str = "the guard with all policies, table calm";
const NULL: &str = "null: swap and send";
const PARSE: &str = "parse only";
const LPM: &str = "parse only and one LPM trie lookup";
const WALLS: [(&str, &str); 2] =
    [("parse only and one look into 64 MiB", "wall"), ("parse only and one look into 4 MiB", "dense_wall")];
const SPARSE: &str = "fast path, each route in a /24 of its own";

/// The cases, and the programs that run behind `feed`.
const CASES: [(&str, &str); 5] = [("empty", "empty"), (NULL, "null"), (PARSE, "parse"), (LPM, "lpm"), (FULL, "")];

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Sizes,
    measures: &[(PER_FRAME, PER_FRAME)],
    cases: &[
        "null: swap and send, same target",
        "parse only and one LPM trie lookup, same target",
        "fast path, same target",
        "parse only and one LPM trie lookup, random targets",
        "parse only and one look into 4 MiB, random targets",
        "parse only and one look into 64 MiB, random targets",
        "fast path, random targets",
        "fast path, each route in a /24 of its own, random targets",
    ],
}];

/// How the targets of host routes are spread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// At random in 10.0.0.0/8: of a million, 16 share a /24, as pods of a large cluster do.
    Cluster,
    /// At random in all unicast space: of a million, nearly each has a /24, and so a node of the FIB, of its own.
    Sparse,
}

/// The tables of a node with a number of routes, and requests for it.
struct DecisionTables {
    routes: u64,
    layout: Layout,
    bpf: Bpf,
    program: ProgramFd,
    own: LoadedPrograms,
}

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _core = OnCore::enter(context.core)?;
    let (rounds, repeat) = context.either((21, 100_000), (2, 10_000));
    let sizes: &[u64] = context.either(&[1, 100, 10_000, 100_000, 1_000_000], &[1, 100]);
    let mut nodes = Vec::new();
    for &routes in sizes {
        context.check()?;
        nodes.push(DecisionTables::new(routes, Layout::Cluster)?);
    }
    if !context.quick {
        nodes.push(DecisionTables::new(1_000_000, Layout::Sparse)?);
    }
    let mut guard = Bpf::load_with(Guarding::ArpAndIp, Manner::AsTheKernel)?;
    for round in 0..rounds {
        for node in order(round, nodes.len()) {
            for targets in [Targets::Same, Targets::All] {
                context.check()?;
                nodes[node].measure(round, targets, repeat, findings)?;
            }
        }
        not_arp(&mut nodes[0], round, repeat, findings)?;
        not_arp_past_guard(&mut guard, &mut nodes[0].own, round, repeat, findings)?;
    }
    findings.compare(PER_FRAME, &case_name(Targets::Same, NULL));
    judge(sizes, findings)?;
    findings.note(format!(
        "CPU time of {repeat} runs in one BPF_PROG_TEST_RUN a case and round, on core {} of {}; writing the request is taken off.",
        context.core,
        context.cores.len()
    ));
    findings
        .note("Runs do not depend on each other, so that a CPU overlaps their cache misses: a lone frame costs more.");
    Ok(())
}

fn case_name(targets: Targets, case: &str) -> String {
    format!("{case}, {}", if targets == Targets::Same { "same target" } else { "random targets" })
}

fn key(measure: &str, targets: Targets, case: &str, routes: u64) -> Key {
    Key::new(measure, &case_name(targets, case)).at("routes", routes)
}

fn judge(sizes: &[u64], findings: &mut Findings) -> Result<()> {
    let per_frame = |targets, case, routes| key(PER_FRAME, targets, case, routes);
    let ratios = findings.samples.ratios(&per_frame(Targets::Same, FULL, 1), &per_frame(Targets::Same, NULL, 1))?;
    let what = "fast path against the null program";
    findings.goal("P1", [what, "1 route, same target"], GoalBound::AtMost(2.5), "×", &ratios);
    let most = *sizes.last().context("no sizes")?;
    let ratios = findings.samples.ratios(&per_frame(Targets::All, FULL, most), &per_frame(Targets::All, FULL, 1))?;
    let case = format!("{} routes against 1", bench::units::grouped(most));
    findings.goal("P2", ["fast path, random targets", &case], GoalBound::AtMost(1.25), "×", &ratios);
    for case in [FULL, GUARD] {
        let values = findings.samples.values(&Key::new(NOT_ARP, case)).to_vec();
        findings.goal("P8", [NOT_ARP, case], GoalBound::AtMost(3.0), "ns", &values);
    }
    Ok(())
}

/// Frames that are not ARP, without `feed`: no program changes them.
fn not_arp(node: &mut DecisionTables, round: usize, repeat: u32, findings: &mut Findings) -> Result<()> {
    let frame = ipv4_frame();
    let mut ns = [0.0; 2];
    for case in order(round, 2) {
        let program = if case == 0 { node.own.xdp("empty")? } else { node.bpf.xdp()? };
        let runs = run_program(program, INGRESS, &frame, repeat * 5)?;
        ensure!(runs.action == XDP_PASS, "a frame that is not ARP came to action {}", runs.action);
        ns[case] = runs.ns;
    }
    findings.push(Key::new(NOT_ARP, FULL), "ns", ns[1] - ns[0]);
    Ok(())
}

/// The same with the guard, which sees each packet before anybody else.
fn not_arp_past_guard(
    guard: &mut Bpf,
    own: &mut LoadedPrograms,
    round: usize,
    repeat: u32,
    findings: &mut Findings,
) -> Result<()> {
    let frame = ipv4_frame();
    let mut ns = [0.0; 2];
    for case in order(round, 2) {
        let program = if case == 0 { own.tc("empty_tc")? } else { guard.guard_program()? };
        let runs = run_tc(program, &frame, repeat * 5)?;
        ensure!(runs.action == TC_ACT_UNSPEC, "a frame that is not ARP came to action {}", runs.action);
        ns[case] = runs.ns;
    }
    findings.push(Key::new(NOT_ARP, GUARD), "ns", ns[1] - ns[0]);
    Ok(())
}

fn ipv4_frame() -> [u8; 60] {
    let mut frame = [0; 60];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    // A header of 20 bytes, as the kernel wants it of an IPv4 packet that it runs programs on.
    frame[14] = 0x45;
    frame
}

impl DecisionTables {
    fn new(routes: u64, layout: Layout) -> Result<Self> {
        let targets = hosts(routes, layout);
        let mut bpf = Bpf::load()?;
        let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
        let neighbour = Neighbour { lladdr: POD_MAC, flags: Neighbour::ALWAYS };
        let mut changes = vec![
            Change::Oif(TO_POD, Oif { ifindex: INGRESS, medium_id: 0 }),
            Change::Oif(TO_UPLINK, Oif { ifindex: 9, medium_id: 0 }),
            Change::Insert(VIEW, Prefix::new(POD, 32), Entry::unicast(TO_POD)),
            Change::Neighbour(IfaceAddr { ifindex: INGRESS, addr: POD }, Some(neighbour)),
            Change::Iface(INGRESS, Some(Iface { mac: MAC, flags, ..Iface::default() })),
        ];
        // A node of the FIB for each /24 of 10.0.0.0/8: what a million routes there need.
        let mut own =
            if routes == WALL_ROUTES { LoadedPrograms::load_with_blocks(65_536)? } else { LoadedPrograms::load()? };
        // One route is the default route, which random targets all fall to.
        let to_hosts = if routes == 1 { Vec::new() } else { targets.clone() };
        changes.push(Change::Insert(VIEW, Prefix::new([0; 4], 0), Entry::unicast(TO_UPLINK)));
        changes.extend(to_hosts.iter().map(|&to| Change::Insert(VIEW, Prefix::new(to, 32), Entry::unicast(TO_UPLINK))));
        bpf.apply(&changes)?;
        if layout == Layout::Cluster {
            own.add_route([0; 4], 0)?;
            to_hosts.iter().take((1 << 20) - 1).try_for_each(|&to| own.add_route(to, 32))?;
        }
        own.set_request(&ArpFrame::request(POD_MAC, POD, targets[0]), &targets)?;
        let program = bpf.xdp()?.fd()?.try_clone()?;
        Ok(DecisionTables { routes, layout, bpf, program, own })
    }

    /// Measures every case once, with these targets.
    fn measure(&mut self, round: usize, targets: Targets, repeat: u32, findings: &mut Findings) -> Result<()> {
        self.own.choose(targets)?;
        self.bpf.set_lease(monotonic_ns() + 10 * MINUTE)?;
        if self.layout == Layout::Sparse {
            let empty = self.own.feed_own("empty", INGRESS, repeat)?.ns;
            let alone = run_program(self.own.xdp("empty")?, INGRESS, &[0; ArpFrame::LEN], repeat)?.ns;
            let full = self.full(repeat)?.ns - (empty - alone);
            findings.push(key(PER_FRAME, targets, SPARSE, self.routes), "ns", full);
            return Ok(());
        }
        let mut ns = [0.0; CASES.len()];
        for case in order(round, CASES.len()) {
            let (name, program) = CASES[case];
            let runs =
                if program.is_empty() { self.full(repeat)? } else { self.own.feed_own(program, INGRESS, repeat)? };
            let expected = if program == "empty" { XDP_PASS } else { XDP_TX };
            ensure!(runs.action == expected, "{name} came to action {}, not {expected}", runs.action);
            ns[case] = runs.ns;
        }
        let alone = run_program(self.own.xdp("empty")?, INGRESS, &[0; ArpFrame::LEN], repeat)?.ns;
        let feeding = ns[0] - alone;
        if self.routes == WALL_ROUTES {
            for (name, program) in WALLS {
                let runs = self.own.feed_own(program, INGRESS, repeat)?;
                ensure!(runs.action == XDP_TX, "{name} came to action {}", runs.action);
                findings.push(key(PER_FRAME, targets, name, self.routes), "ns", runs.ns - feeding);
            }
        }
        for (case, (name, _)) in CASES.into_iter().enumerate().skip(1) {
            findings.push(key(PER_FRAME, targets, name, self.routes), "ns", ns[case] - feeding);
            if self.routes == 1 && targets == Targets::Same {
                findings.push(key(OVER_EMPTY, targets, name, self.routes), "ns", ns[case] - ns[0]);
            }
        }
        if self.routes == 1 && targets == Targets::Same {
            let null = run_program(self.own.xdp("null")?, INGRESS, &[0; ArpFrame::LEN], repeat)?.ns;
            findings.push(key(PER_FRAME, targets, "null, without the feeding", 1), "ns", null);
        }
        Ok(())
    }

    /// Runs the loaded program. It must answer every request, by its own counter.
    fn full(&mut self, repeat: u32) -> Result<Runs> {
        let before = self.bpf.counters(INGRESS)[ANSWERED];
        let runs = self.own.feed(&self.program, INGRESS, repeat)?;
        let answered = self.bpf.counters(INGRESS)[ANSWERED] - before;
        ensure!(
            answered == u64::from(repeat),
            "the fast path answered {answered} of {repeat} requests by its own counter: {:?}",
            self.bpf.counters(INGRESS)
        );
        Ok(runs)
    }
}

/// Distinct hosts; the same number always gives the same hosts.
fn hosts(count: u64, layout: Layout) -> Vec<[u8; 4]> {
    let mut random = fastrand::Rng::with_seed(count);
    // For a single route the targets are still many.
    let wanted = if count == 1 { 1 << 16 } else { count as usize };
    let mut seen = std::collections::HashSet::new();
    let mut hosts = Vec::new();
    while hosts.len() < wanted {
        let [a, b, c, d] = random.u32(..).to_be_bytes();
        let a = if layout == Layout::Cluster { 10 } else { a };
        // Not the pod's neighbourhood, and nothing that the kernel treats apart.
        if !(1..=223).contains(&a) || a == 127 || a == POD[0] {
            continue;
        }
        if seen.insert([a, b, c, d]) {
            hosts.push([a, b, c, d]);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_distinct_and_repeatable() {
        let some = hosts(1000, Layout::Cluster);
        assert_eq!(some, hosts(1000, Layout::Cluster));
        assert_eq!(some.iter().collect::<std::collections::BTreeSet<_>>().len(), 1000);
        assert!(some.iter().all(|host| host[0] == 10));
        let sparse = hosts(1000, Layout::Sparse);
        assert!(sparse.iter().all(|host| (1..=223).contains(&host[0]) && ![127, 192].contains(&host[0])));
    }
}
