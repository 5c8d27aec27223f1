//! Frames in, frames out.

use crate::tables::{INGRESS, MAC, ProgramTables};
use arp_agent::clock::monotonic_ns;
use arp_agent::dataplane::HookKind;
use arp_agent::dataplane::bpf::programs::{ProgramRun, actions};
use arp_agent::mirror::Change;
use arp_common::Reason;
use arp_common::maps::{Iface, IfaceAddr};
use arp_common::reason::ANSWERED;
use lab::needs_root;

/// One of each program: their entry points differ, what they decide does not.
const HOOKS: [HookKind; 3] = [HookKind::XdpSkb, HookKind::XdpVeth, HookKind::Clsact];

/// The pod asks for 169.254.1.1, as its stack sends it.
const REQUEST: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 0x08, 0x06, // Ethernet
    0, 1, 0x08, 0, 6, 4, 0, 1, // htype ptype hlen plen oper
    2, 0, 0, 0, 0, 2, 10, 5, 0, 5, // sha spa
    0, 0, 0, 0, 0, 0, 169, 254, 1, 1, // tha tpa
];

/// What the kernel answers.
const REPLY: [u8; 42] = [
    2, 0, 0, 0, 0, 2, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x08, 0x06, //
    0, 1, 0x08, 0, 6, 4, 0, 2, //
    0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 169, 254, 1, 1, //
    2, 0, 0, 0, 0, 2, 10, 5, 0, 5,
];

enum Expect {
    Reply(Vec<u8>),
    Pass(Option<Reason>),
}

/// The request with some bytes put in at an offset.
fn with(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut frame = REQUEST.to_vec();
    for (at, bytes) in changes {
        frame[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    frame
}

/// The reply for another target.
fn reply_for(tpa: [u8; 4]) -> Vec<u8> {
    let mut frame = REPLY.to_vec();
    frame[28..32].copy_from_slice(&tpa);
    frame
}

fn padded(len: usize) -> Vec<u8> {
    let mut frame = REQUEST.to_vec();
    frame.resize(len, 0xaa);
    frame
}

#[test]
fn each_row_comes_out_as_written() -> anyhow::Result<()> {
    needs_root!();
    use Expect::{Pass, Reply};
    let pass = |reason| Pass(Some(reason));
    let rows = [
        ("the gateway", REQUEST.to_vec(), Reply(REPLY.to_vec())),
        ("padded to 60 bytes: trimmed", padded(60), Reply(REPLY.to_vec())),
        ("1000 bytes: trimmed", padded(1000), Reply(REPLY.to_vec())),
        ("unicast to the interface", with(&[(0, &MAC)]), Reply(REPLY.to_vec())),
        ("IPv4 multicast destination", with(&[(0, &[1, 0, 0x5e, 0, 0, 1])]), Reply(REPLY.to_vec())),
        ("htype 6: answered as 1", with(&[(14, &[0, 6])]), Reply(REPLY.to_vec())),
        ("tha is garbage", with(&[(32, &[9; 6])]), Reply(REPLY.to_vec())),
        ("Ethernet source is not sha", with(&[(6, &[9; 6])]), Reply(REPLY.to_vec())),
        ("a local address", with(&[(38, &[10, 77, 0, 1])]), Reply(reply_for([10, 77, 0, 1]))),
        ("240.0.0.1 is routed like any other", with(&[(38, &[240, 0, 0, 1])]), Reply(reply_for([240, 0, 0, 1]))),
        ("not ARP", with(&[(12, &[8, 0])]), Pass(None)),
        ("RARP", with(&[(12, &[0x80, 0x35])]), Pass(None)),
        ("802.1Q tag", with(&[(12, &[0x81, 0])]), Pass(None)),
        ("802.3 length instead of an EtherType", with(&[(12, &[0, 36])]), Pass(None)),
        ("41 bytes", REQUEST[..41].to_vec(), pass(Reason::TOO_SHORT)),
        ("14 bytes", REQUEST[..14].to_vec(), pass(Reason::TOO_SHORT)),
        ("htype 2", with(&[(14, &[0, 2])]), pass(Reason::BAD_HEADER)),
        ("hlen 8", with(&[(18, &[8])]), pass(Reason::BAD_HEADER)),
        ("a reply", with(&[(20, &[0, 2])]), pass(Reason::NOT_REQUEST)),
        ("another destination", with(&[(0, &[4; 6])]), pass(Reason::OTHER_DESTINATION)),
        ("target 0.0.0.0", with(&[(38, &[0; 4])]), pass(Reason::SPECIAL_TARGET)),
        ("sender multicast", with(&[(28, &[224, 0, 0, 9])]), pass(Reason::SPECIAL_SENDER)),
        ("an announcement", with(&[(38, &[10, 5, 0, 5])]), pass(Reason::ANNOUNCEMENT)),
        ("a probe for the gateway", with(&[(28, &[0; 4])]), pass(Reason::PROBE_NOT_LOCAL)),
        ("a sender without a neighbour entry", with(&[(28, &[10, 5, 0, 6])]), pass(Reason::NEIGHBOUR_UNKNOWN)),
        ("another sha than the neighbour's", with(&[(22, &[9; 6])]), pass(Reason::NEIGHBOUR_DIFFERS)),
        ("a target behind the same interface", with(&[(38, &[10, 5, 0, 6])]), pass(Reason::PVLAN_OFF)),
        ("a route that is not followed", with(&[(38, &[10, 66, 1, 1])]), pass(Reason::OPAQUE_ROUTE)),
        ("a route that is never answered", with(&[(38, &[10, 67, 7, 255])]), pass(Reason::UNANSWERABLE_ROUTE)),
    ];
    let mut tables = ProgramTables::new()?;
    for (case, frame, expect) in rows {
        check(&mut tables, case, &frame, &expect)?;
    }
    Ok(())
}

#[test]
fn a_probe_for_a_local_address_is_answered() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    let mut expected = reply_for([10, 77, 0, 1]);
    expected[38..42].fill(0);
    let probe = with(&[(28, &[0; 4]), (38, &[10, 77, 0, 1])]);
    check(&mut tables, "probe", &probe, &Expect::Reply(expected))
}

#[test]
fn without_a_lease_or_an_entry_everything_passes() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    tables.set_lease(false)?;
    check(&mut tables, "no lease", &REQUEST, &Expect::Pass(Some(Reason::LEASE_EXPIRED)))?;
    tables.set_lease(true)?;
    check(&mut tables, "with a lease again", &REQUEST, &Expect::Reply(REPLY.to_vec()))?;
    tables.apply(&[Change::Iface(INGRESS, None)])?;
    let before = tables.bpf.unknown_counters();
    check(&mut tables, "no entry", &REQUEST, &Expect::Pass(None))?;
    let after = tables.bpf.unknown_counters();
    let counter = Reason::INTERFACE_UNKNOWN.counter();
    assert_eq!(after[counter], before[counter] + HOOKS.len() as u64, "counted where no interface has its counters");
    Ok(())
}

#[test]
fn the_lease_runs_out_by_itself() -> anyhow::Result<()> {
    use arp_agent::dataplane::Dataplane as _;
    needs_root!();
    let mut tables = ProgramTables::new()?;
    // Each program is loaded when it is first used, which on an emulated machine takes longer than the lease.
    check(&mut tables, "loaded", &REQUEST, &Expect::Reply(REPLY.to_vec()))?;
    tables.bpf.set_lease(monotonic_ns() + 100_000_000)?;
    check(&mut tables, "at once", &REQUEST, &Expect::Reply(REPLY.to_vec()))?;
    std::thread::sleep(std::time::Duration::from_millis(120));
    check(&mut tables, "later", &REQUEST, &Expect::Pass(Some(Reason::LEASE_EXPIRED)))
}

#[test]
fn a_static_proxy_entry_counts_for_a_moment_after_it_was_read() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    let flags = Iface::FORWARDING | Iface::HAS_PROXIES;
    let iface = Iface { mac: MAC, flags, ..Iface::default() };
    let gateway = IfaceAddr { ifindex: INGRESS, addr: [169, 254, 1, 1] };
    tables.apply(&[Change::Iface(INGRESS, Some(iface)), Change::Proxy(gateway, true)])?;
    check(&mut tables, "confirmed", &REQUEST, &Expect::Reply(REPLY.to_vec()))?;
    let asked = tables.bpf.proxies_asked();
    assert_ne!(asked, 0, "the agent can see that it is asked");
    tables.bpf.confirm_proxies(monotonic_ns());
    check(&mut tables, "later", &REQUEST, &Expect::Pass(Some(Reason::PROXY_UNCONFIRMED)))?;
    assert_ne!(tables.bpf.proxies_asked(), asked, "a pass asks, too");
    // Nothing depends on the entry.
    tables.apply(&[Change::Iface(INGRESS, Some(Iface { flags: flags | Iface::PROXY_ARP, ..iface }))])?;
    check(&mut tables, "with proxy_arp", &REQUEST, &Expect::Reply(REPLY.to_vec()))
}

#[test]
fn requests_of_every_length_pass_untouched_or_are_answered() -> anyhow::Result<()> {
    needs_root!();
    let mut tables = ProgramTables::new()?;
    for len in 14..=1500 {
        let frame: Vec<u8> = if len <= REQUEST.len() { REQUEST[..len].to_vec() } else { padded(len) };
        let expect = if len < 42 { Expect::Pass(Some(Reason::TOO_SHORT)) } else { Expect::Reply(REPLY.to_vec()) };
        check(&mut tables, &format!("{len} bytes"), &frame, &expect)?;
    }
    Ok(())
}

/// Runs each program once: action, bytes and exactly one count, in the right place.
fn check(tables: &mut ProgramTables, case: &str, frame: &[u8], expect: &Expect) -> anyhow::Result<()> {
    // The kernel makes no socket buffer of a mere Ethernet header.
    let hooks = HOOKS.into_iter().filter(|how| how.is_xdp() || frame.len() > 14);
    hooks.into_iter().try_for_each(|how| check_one(tables, how, &format!("{case} ({how:?})"), frame, expect))
}

fn check_one(
    tables: &mut ProgramTables,
    how: HookKind,
    case: &str,
    frame: &[u8],
    expect: &Expect,
) -> anyhow::Result<()> {
    let (passes, replies) = actions(how);
    let before = tables.counters();
    // Nothing goes up from here.
    tables.bpf.trust_again();
    let ProgramRun { action, frame: out } = tables.bpf.run_on(how, INGRESS, frame)?;
    let after = tables.counters();
    let counted: Vec<usize> = (0..before.len()).filter(|&at| after[at] != before[at]).collect();
    let (expected_action, expected_frame, expected_count) = match expect {
        Expect::Reply(reply) => (replies, reply.as_slice(), Some(ANSWERED)),
        Expect::Pass(reason) => (passes, frame, reason.map(Reason::counter)),
    };
    assert_eq!(action, expected_action, "{case}: action");
    assert_eq!(out, expected_frame, "{case}: frame");
    assert_eq!(counted, Vec::from_iter(expected_count), "{case}: counters");
    Ok(())
}
