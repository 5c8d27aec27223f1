//! Which frames put the neighbour entry of their sender in doubt: those that go up and may change it, for whatever
//! reason they go up, and no others.

use crate::tables::{INGRESS, LOCAL, NEXT_POD, POD, POD_MAC, ProgramTables, neighbour};
use anyhow::ensure;
use arp_agent::dataplane::HookKind;
use arp_agent::dataplane::bpf::programs::actions;
use arp_agent::mirror::Change;
use arp_common::maps::{Iface, Neighbour};
use arp_common::reason::ANSWERED;
use arp_common::{ArpFrame, Reason};
use lab::needs_root;

const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HOOKS: [HookKind; 3] = [HookKind::XdpSkb, HookKind::XdpVeth, HookKind::Clsact];

/// A request from another host with the pod's address, with one thing different.
fn other(differ: impl FnOnce(&mut ArpFrame)) -> Vec<u8> {
    let mut frame = ArpFrame::request(OTHER, POD, LOCAL);
    differ(&mut frame);
    frame.to_bytes().to_vec()
}

fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    (0..tags).for_each(|_| drop(frame.splice(12..12, [0x81, 0, 0, 0])));
    frame
}

/// Whether the pod's own request is answered; if not, it must be passed for the doubt.
fn is_trusted(tables: &mut ProgramTables, how: HookKind) -> anyhow::Result<bool> {
    let own = ArpFrame::request(POD_MAC, POD, LOCAL).to_bytes();
    let before = tables.counters();
    let (_, replies) = actions(how);
    let run = tables.bpf.run_on(how, INGRESS, &own)?;
    let after = tables.counters();
    let counter = (0..after.len()).find(|&at| after[at] != before[at]);
    let expected = if run.action == replies { ANSWERED } else { Reason::NEIGHBOUR_DOUBTED.counter() };
    ensure!(counter == Some(expected), "counter {counter:?} moved");
    Ok(run.action == replies)
}

/// Sends a frame, and says whether the entry is in doubt afterwards.
fn doubts(tables: &mut ProgramTables, how: HookKind, frame: &[u8]) -> anyhow::Result<bool> {
    tables.bpf.trust_again();
    ensure!(is_trusted(tables, how)?, "not trusted at first");
    tables.bpf.run_on(how, INGRESS, frame)?;
    let doubted = !is_trusted(tables, how)?;
    ensure!(is_trusted(tables, how)? != doubted, "the doubt goes by itself");
    tables.bpf.trust_again();
    ensure!(is_trusted(tables, how)?, "not trusted again");
    Ok(doubted)
}

#[test]
fn frames_that_may_change_entries_cause_doubt() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    let of = |tpa: [u8; 4]| other(|frame| frame.arp.tpa = tpa);
    let yes = [
        ("another address", other(|_| {})),
        ("an announcement", of(POD)),
        ("a reply", other(|frame| frame.arp.oper = [0, 2])),
        ("a target that nobody answers", of([10, 67, 4, 1])),
        ("a special target", of([224, 0, 0, 1])),
        ("to somebody else", other(|frame| frame.dst = OTHER)),
        ("htype 6", other(|frame| frame.arp.htype = [0, 6])),
        ("padded", [other(|_| {}), vec![0; 18]].concat()),
    ];
    let no = [
        ("the same address", ArpFrame::request(POD_MAC, POD, [10, 67, 4, 1]).to_bytes().to_vec()),
        ("the same in a reply", other(|frame| (frame.arp.oper, frame.arp.sha) = ([0, 2], POD_MAC))),
        ("another sender", other(|frame| frame.arp.spa = NEXT_POD)),
        ("a probe", other(|frame| frame.arp.spa = [0; 4])),
        ("another operation", other(|frame| frame.arp.oper = [0, 3])),
        ("another protocol", other(|frame| frame.arp.ptype = [0x86, 0xdd])),
        ("not ARP", other(|frame| frame.ethertype = [8, 0])),
        ("too short", other(|_| {})[..41].to_vec()),
    ];
    for how in HOOKS {
        for (what, frame) in &yes {
            ensure!(doubts(&mut tables, how, frame)?, "{what} leaves the entry in trust ({how:?})");
        }
        for (what, frame) in &no {
            ensure!(!doubts(&mut tables, how, frame)?, "{what} puts the entry in doubt ({how:?})");
        }
    }
    // A tag of VLAN 0 is taken off; the runs of tc have none in the metadata.
    for how in [HookKind::XdpSkb, HookKind::XdpVeth] {
        for tags in 1..=3 {
            ensure!(doubts(&mut tables, how, &tagged(&other(|_| {}), tags))?, "{tags} tags ({how:?})");
        }
    }
    Ok(())
}

/// What is handed up before the neighbour is looked at is handed up all the same.
#[test]
fn whatever_the_reason() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
    let iface = |blocked| Some(Iface { mac: [0xee; 6], flags, blocked, ..Iface::default() });
    let frame = other(|_| {});
    for how in HOOKS {
        // The lease has run out.
        tables.set_lease(false)?;
        tables.bpf.run_on(how, INGRESS, &frame)?;
        tables.set_lease(true)?;
        ensure!(!is_trusted(&mut tables, how)?, "without a lease ({how:?})");
        tables.bpf.trust_again();
        // A setting was written.
        let written = tables.bpf.settings_written();
        tables.bpf.set_settings_read(written + 1);
        tables.bpf.run_on(how, INGRESS, &frame)?;
        tables.bpf.set_settings_read(written);
        ensure!(!is_trusted(&mut tables, how)?, "a setting written ({how:?})");
        tables.bpf.trust_again();
        // The interface is blocked, or not in the tables.
        for blocked in [iface(u16::try_from(Reason::ARP_NETFILTER.raw()).unwrap_or_default()), None] {
            tables.apply(&[Change::Iface(INGRESS, blocked)])?;
            tables.bpf.run_on(how, INGRESS, &frame)?;
            tables.apply(&[Change::Iface(INGRESS, iface(0))])?;
            ensure!(!is_trusted(&mut tables, how)?, "blocked ({how:?})");
            tables.bpf.trust_again();
        }
    }
    Ok(())
}

/// An entry that the agent does not know yet: the second sender changes what the first made.
#[test]
fn a_second_sender_of_an_address_is_doubted() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    let known = |there: bool| {
        Change::Neighbour(neighbour(POD), there.then_some(Neighbour { lladdr: POD_MAC, flags: Neighbour::ALWAYS }))
    };
    let own = ArpFrame::request(POD_MAC, POD, LOCAL).to_bytes();
    for how in HOOKS {
        for (others, trusted) in [(0, true), (1, false), (2, false)] {
            tables.apply(&[known(false)])?;
            // What was remembered of the last time.
            tables.bpf.run_on(how, INGRESS, &own)?;
            tables.bpf.trust_again();
            tables.bpf.run_on(how, INGRESS, &own)?;
            for _ in 0..others {
                tables.bpf.run_on(how, INGRESS, &other(|_| {}))?;
            }
            // The agent hears of the first, and moves entries while it writes.
            tables.apply(&[known(true)])?;
            ensure!(is_trusted(&mut tables, how)? == trusted, "{others} others ({how:?})");
        }
        tables.bpf.trust_again();
    }
    // What is fixed stays.
    tables.apply(&[Change::Neighbour(
        neighbour(POD),
        Some(Neighbour { lladdr: POD_MAC, flags: Neighbour::ALWAYS | Neighbour::FIXED }),
    )])?;
    let how = HookKind::XdpSkb;
    tables.bpf.run_on(how, INGRESS, &other(|_| {}))?;
    ensure!(is_trusted(&mut tables, how)?, "a fixed entry");
    Ok(())
}
