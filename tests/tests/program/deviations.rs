//! The programs that answer by policies, too: with the bytes and the counters of an answer, by each hook.

use crate::tables::{INGRESS, LOCAL, MAC, NEXT_POD, POD, POD_MAC, ProgramTables, VIEW};
use anyhow::ensure;
use arp_agent::dataplane::HookKind;
use arp_agent::dataplane::bpf::deviations::PolicyReplies;
use arp_agent::dataplane::bpf::programs::actions;
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::deviation::{AnswerMode, Deviation, DeviationConfig, ROOM};
use arp_common::fib::Entry;
use arp_common::maps::Iface;
use arp_common::reason::ANSWERED;
use arp_common::{ArpFrame, Reason};
use lab::needs_root;

const HOOKS: [HookKind; 3] = [HookKind::XdpSkb, HookKind::XdpVeth, HookKind::Clsact];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const FAR: [u8; 4] = [10, 20, 0, 1];
const LIST: u32 = 1;

/// A node without a default route, with a list of one gateway.
fn tables(gateway: AnswerMode, no_delay: AnswerMode) -> anyhow::Result<ProgramTables> {
    let mut tables = ProgramTables::deviating()?;
    tables.apply(&[
        Change::CommonView(Some(VIEW)),
        Change::Remove { view: VIEW, prefix: Prefix::new([0; 4], 0), cover: Entry::NONE, cover_len: 0 },
    ])?;
    tables.bpf.add_gateway(LIST, GATEWAY)?;
    ensure!(tables.bpf.configure_deviations(INGRESS, DeviationConfig::new(gateway, no_delay, LIST)), "lo has no entry");
    Ok(tables)
}

/// With a route to everywhere and a delay.
fn delayed(gateway: AnswerMode, no_delay: AnswerMode) -> anyhow::Result<ProgramTables> {
    let mut tables = tables(gateway, no_delay)?;
    let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS | Iface::DELAYED;
    tables.apply(&[
        Change::Insert(VIEW, Prefix::new([0; 4], 0), Entry::unicast(1)),
        Change::Iface(INGRESS, Some(Iface { mac: MAC, flags, ..Iface::default() })),
    ])?;
    Ok(tables)
}

/// What came of a frame.
#[derive(Debug, PartialEq)]
enum Came {
    /// A reply, counted for this policy, or as one of the kernel's.
    Reply(Option<Deviation>),
    /// A pass for this reason; a policy would have answered.
    Pass(Reason, Option<Deviation>),
}

fn asked(tables: &mut ProgramTables, how: HookKind, spa: [u8; 4], tpa: [u8; 4]) -> anyhow::Result<Came> {
    let frame = ArpFrame::request(POD_MAC, spa, tpa);
    tables.bpf.trust_again();
    let (before, by_policy) = (tables.counters(), tables.bpf.answers_by_policy(INGRESS));
    let run = tables.bpf.run_on(how, INGRESS, &frame.to_bytes())?;
    let after = tables.counters();
    let counted: Vec<usize> = (0..after.len()).filter(|&at| after[at] != before[at]).collect();
    let now = tables.bpf.answers_by_policy(INGRESS);
    let rose = |before: [u64; ROOM], now: [u64; ROOM]| {
        Deviation::ALL.iter().copied().find(|&by| now[by as usize] == before[by as usize] + 1)
    };
    let answered = rose(by_policy.answered, now.answered);
    let would = rose(by_policy.would_answer, now.would_answer);
    let (passes, replies) = actions(how);
    if run.action == replies {
        // Written out as `arp_create` makes it (net/ipv4/arp.c).
        let mut reply = [&POD_MAC[..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MAC].concat();
        reply.extend([&tpa[..], &POD_MAC, &spa].concat());
        ensure!(run.frame == reply, "{how:?}: {:02x?}", run.frame);
        ensure!(counted == if answered.is_some() { vec![] } else { vec![ANSWERED] }, "{how:?}: {counted:?}");
        ensure!(would.is_none());
        return Ok(Came::Reply(answered));
    }
    ensure!(run.action == passes && run.frame == frame.to_bytes(), "{how:?}: {run:?}");
    let [counter] = counted[..] else { anyhow::bail!("{how:?}: {counted:?} were counted") };
    ensure!(answered.is_none());
    Ok(Came::Pass(Reason::from_raw(counter as u32), would))
}

#[test]
fn a_gateway_is_answered_or_counted_or_neither() -> anyhow::Result<()> {
    needs_root!();
    let (gateway, no_route) = (Some(Deviation::Gateway), Reason::NO_ROUTE);
    for how in HOOKS {
        for (mode, known, unknown) in [
            (AnswerMode::Off, Came::Pass(no_route, None), Came::Pass(Reason::NEIGHBOUR_UNKNOWN, None)),
            (AnswerMode::Count, Came::Pass(no_route, gateway), Came::Pass(Reason::NEIGHBOUR_UNKNOWN, gateway)),
            (AnswerMode::Answer, Came::Reply(gateway), Came::Reply(gateway)),
        ] {
            let mut tables = tables(mode, AnswerMode::Off)?;
            assert_eq!(asked(&mut tables, how, POD, GATEWAY)?, known, "{how:?} {mode:?}");
            assert_eq!(asked(&mut tables, how, NEXT_POD, GATEWAY)?, unknown, "{how:?} {mode:?}");
            assert_eq!(asked(&mut tables, how, POD, FAR)?, Came::Pass(no_route, None), "{how:?}: not listed");
            assert_eq!(asked(&mut tables, how, POD, LOCAL)?, Came::Reply(None), "{how:?}: the kernel would, too");
            let stranger = asked(&mut tables, how, [198, 18, 0, 1], GATEWAY)?;
            assert_eq!(stranger, Came::Pass(Reason::NEIGHBOUR_UNKNOWN, None), "{how:?}: not routed back");
        }
    }
    Ok(())
}

#[test]
fn what_is_delayed_is_answered_or_counted_or_neither() -> anyhow::Result<()> {
    needs_root!();
    let (no_delay, delay) = (Some(Deviation::NoDelay), Reason::PROXY_DELAY);
    for how in HOOKS {
        for (mode, expected) in [
            (AnswerMode::Off, Came::Pass(delay, None)),
            (AnswerMode::Count, Came::Pass(delay, no_delay)),
            (AnswerMode::Answer, Came::Reply(no_delay)),
        ] {
            let mut tables = delayed(AnswerMode::Answer, mode)?;
            assert_eq!(asked(&mut tables, how, POD, FAR)?, expected, "{how:?} {mode:?}");
            assert_eq!(asked(&mut tables, how, POD, GATEWAY)?, expected, "{how:?} {mode:?}: it has a route");
        }
    }
    Ok(())
}

#[test]
fn no_policy_answers_without_a_lease_or_while_a_batch_is_written() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(AnswerMode::Answer, AnswerMode::Answer)?;
    tables.set_lease(false)?;
    assert_eq!(asked(&mut tables, HookKind::XdpSkb, POD, GATEWAY)?, Came::Pass(Reason::LEASE_EXPIRED, None));
    tables.set_lease(true)?;
    assert_eq!(asked(&mut tables, HookKind::XdpSkb, POD, GATEWAY)?, Came::Reply(Some(Deviation::Gateway)));
    Ok(())
}

#[test]
fn counts_of_an_interface_that_is_gone_stay_in_the_total() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = tables(AnswerMode::Answer, AnswerMode::Off)?;
    asked(&mut tables, HookKind::XdpSkb, POD, GATEWAY)?;
    tables.apply(&[Change::Iface(INGRESS, None)])?;
    assert_eq!(tables.bpf.answers_by_policy(INGRESS), PolicyReplies::default());
    assert_eq!(tables.bpf.all_answers_by_policy().answered[Deviation::Gateway as usize], 1);
    let flags = Iface::PROXY_ARP | Iface::FORWARDING;
    tables.apply(&[Change::Iface(INGRESS, Some(Iface { mac: MAC, flags, ..Iface::default() }))])?;
    assert_eq!(asked(&mut tables, HookKind::XdpSkb, POD, GATEWAY)?, Came::Pass(Reason::NO_ROUTE, None), "off again");
    Ok(())
}
