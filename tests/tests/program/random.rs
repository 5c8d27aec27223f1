//! The program in the kernel against the same decision in userspace, over tables in plain memory: two compilers, two
//! memories, one verdict. (That the decision itself is right is for the lab, where the kernel is the oracle.)

use crate::tables::{INGRESS, LOCAL, MAC, NEXT_POD, OTHER_VIEW, POD, POD_MAC, ProgramTables, VIEW, neighbour};
use arp_agent::dataplane::HookKind;
use arp_agent::dataplane::bpf::programs::actions;
use arp_agent::mirror::Change;
use arp_common::maps::{Counters, Iface, Neighbour, Oif};
use arp_common::reason::{ANSWERED, COUNTERS};
use arp_common::{ArpFrame, PackedArp, Reason, Verdict, decide};
use fastrand::Rng;
use lab::needs_root;

const FRAMES: usize = 200_000;
const NODES: usize = 200;
/// tc first: see where it is left out.
const HOOKS: [HookKind; 3] = [HookKind::Clsact, HookKind::XdpSkb, HookKind::XdpVeth];

#[test]
fn random_frames_are_decided_alike() -> anyhow::Result<()> {
    needs_root!();
    let seed =
        std::env::var("ARP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (ARP_TEST_SEED repeats it)");
    let mut rng = Rng::with_seed(seed);
    let mut tables = ProgramTables::new()?;
    let before = tables.counters();
    let mut expected: Counters = [0; COUNTERS];
    for _ in 0..NODES {
        let changes = change(&mut rng);
        tables.apply(&changes)?;
        for _ in 0..FRAMES / NODES {
            let bytes = frame(&mut rng);
            // The kernel makes no socket buffer of a mere Ethernet header.
            let hooks = if bytes.len() > 14 { HOOKS.as_slice() } else { &HOOKS[1..] };
            let how = *pick(&mut rng, hooks);
            let (action, out, counter) = userspace(&tables, how, &bytes);
            // Nothing goes up from here.
            tables.bpf.trust_again();
            let run = tables.bpf.run_on(how, INGRESS, &bytes)?;
            assert_eq!(
                (run.action, &run.frame),
                (action, &out),
                "seed {seed}, {how:?}: {bytes:02x?} after {changes:?}"
            );
            if let Some(counter) = counter {
                expected[counter] += 1;
            }
        }
    }
    let counted: Vec<u64> = tables.counters().iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(counted, expected, "seed {seed}: counters");
    let seen = Reason::ALL.iter().filter(|reason| expected[reason.counter()] > 0).count();
    println!("{} answered; {seen} reasons to pass seen", expected[ANSWERED]);
    // The frames must not all fall at the first hurdle.
    assert!(expected[ANSWERED] > FRAMES as u64 / 50, "only {} of {FRAMES} answered", expected[ANSWERED]);
    for reason in [
        Reason::PVLAN_OFF,
        Reason::MEDIUM_ID,
        Reason::PROXY_DELAY,
        Reason::ARP_IGNORE,
        Reason::NEIGHBOUR_DIFFERS,
        Reason::SENDER_ROUTE,
        Reason::OPAQUE_RULE,
        Reason::ARP_FILTER,
    ] {
        assert!(expected[reason.counter()] > 0, "no frame passed for {}", reason.name());
    }
    Ok(())
}

/// What must come of a frame: the action, the bytes, and what is counted.
fn userspace(tables: &ProgramTables, how: HookKind, bytes: &[u8]) -> (u32, Vec<u8>, Option<usize>) {
    let (passes, replies) = actions(how);
    let pass = |counter| (passes, bytes.to_vec(), counter);
    if bytes[12..14] != [8, 6] {
        return pass(None);
    }
    let Some(frame) = ArpFrame::from_bytes(bytes) else {
        return pass(Some(Reason::TOO_SHORT.counter()));
    };
    let frame = PackedArp::from(&frame);
    match decide(&frame, INGRESS, &tables.fake) {
        Verdict::Pass(reason) => pass(Some(reason.counter())),
        Verdict::Reply(mac) => (replies, frame.reply(mac).to_bytes().to_vec(), Some(ANSWERED)),
    }
}

/// Other settings, neighbours and proxies.
fn change(rng: &mut Rng) -> Vec<Change> {
    let iface = Iface {
        mac: MAC,
        flags: rng.u16(..) | if rng.bool() { Iface::FORWARDING | Iface::PROXY_ARP } else { 0 },
        blocked: if rng.u8(..) < 8 { u16::try_from(Reason::ARP_NETFILTER.raw()).unwrap_or_default() } else { 0 },
        probe_view: *pick(rng, &[VIEW, VIEW, OTHER_VIEW]),
        medium_id: *pick(rng, &[0, 0, 0, 1, 2, -1]),
    };
    let accepted =
        *pick(rng, &[0, Neighbour::ALWAYS, Neighbour::ALWAYS, Neighbour::ALWAYS, Neighbour::PLAIN, Neighbour::PLAIN]);
    let view = *pick(rng, &[VIEW, VIEW, VIEW, OTHER_VIEW]) << Neighbour::VIEW_SHIFT;
    let flags = view | accepted | if rng.bool() { Neighbour::FIXED } else { 0 };
    let entry =
        |addr, there: bool| Change::Neighbour(neighbour(addr), there.then_some(Neighbour { lladdr: POD_MAC, flags }));
    vec![
        Change::Iface(INGRESS, Some(iface)),
        entry(POD, rng.u8(..) > 8),
        entry(NEXT_POD, rng.bool()),
        Change::Proxy(neighbour([169, 254, 1, 1]), rng.bool()),
        Change::OwnAddress(neighbour(LOCAL), rng.bool()),
        Change::Oif(
            1,
            Oif {
                ifindex: *pick(rng, &[9, 9, 9, 9, Oif::SEVERAL, Oif::MIXED, 0]),
                medium_id: *pick(rng, &[0, 1, 2, -1]),
            },
        ),
    ]
}

/// Mostly a request that could be answered, with a few fields drawn from what makes a difference, and now and then a
/// flipped byte or another length.
fn frame(rng: &mut Rng) -> Vec<u8> {
    let spa = *pick(rng, &[POD, POD, POD, NEXT_POD, [0; 4], LOCAL, [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]]);
    let any = rng.u32(..).to_be_bytes();
    let tpa = *pick(
        rng,
        &[
            [169, 254, 1, 1],
            [169, 254, 1, 1],
            LOCAL,
            LOCAL,
            POD,
            NEXT_POD,
            any,
            [10, 66, any[0], any[1]],
            [10, 67, any[0], any[1]],
            [0; 4],
            [255; 4],
            [127, 0, 0, 1],
            [239, 0, 0, 1],
            [240, 0, 0, 1],
        ],
    );
    let mut frame = ArpFrame::request(*pick(rng, &[POD_MAC, POD_MAC, POD_MAC, [0; 6], [0xff; 6]]), spa, tpa);
    frame.dst =
        *pick(rng, &[[0xff; 6], [0xff; 6], MAC, [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0; 6], POD_MAC]);
    frame.arp.htype = *pick(rng, &[[0, 1], [0, 1], [0, 1], [0, 6], [0, 2]]);
    let mut bytes = frame.to_bytes().to_vec();
    if rng.u8(..) < 32 {
        let at = rng.usize(..bytes.len());
        bytes[at] = rng.u8(..);
    }
    match rng.u8(..) {
        0..=31 => bytes.resize(60, 0),
        32..=47 => bytes.resize(rng.usize(14..=1500), rng.u8(..)),
        _ => {}
    }
    bytes
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}
