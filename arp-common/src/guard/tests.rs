//! Each exit of the judgement, on a node with a pod behind interface 7 and an uplink, number 3. What the kernel would do
//! with the frame stands in docs/adr/0015-protection.md; what must never be dropped in docs/protection.md.

use super::*;
use crate::ArpFrame;
use crate::maps::{Neighbour, Oif};
use crate::sequence;
use crate::tables::lookup;
use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

const CALI: u32 = 7;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const IFACE_MAC: [u8; 6] = [0xee; 6];
const POD: [u8; 4] = [10, 5, 0, 5];
/// Routed to the pod's interface, and not known yet.
const NEW: [u8; 4] = [10, 5, 0, 6];
/// Behind the uplink, as everything that is not named.
const STRANGER: [u8; 4] = [198, 18, 0, 1];
const NODE: [u8; 4] = [10, 77, 0, 1];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const SECOND: u64 = 1_000_000_000;

struct GuardTables {
    sequence: RefCell<Vec<u64>>,
    lease: bool,
    iface: Iface,
    neighbours: BTreeMap<[u8; 4], Neighbour>,
    routes: BTreeMap<[u8; 4], Entry>,
    oifs: [Oif; 3],
    view: u16,
    allowed: BTreeMap<[u8; 4], u64>,
    policy: Policy,
    grace: Cell<u64>,
    state: Cell<GuardState>,
    now: Cell<u64>,
    would: RefCell<Vec<DropReason>>,
    claims: RefCell<BTreeMap<[u8; 4], binding::Claim>>,
    asked: RefCell<Vec<Lladdr>>,
}

impl Tables for GuardTables {
    fn sequence(&self) -> u64 {
        self.sequence.borrow_mut().pop().unwrap_or(2)
    }
    fn lease_is_valid(&self) -> bool {
        self.lease
    }
    fn settings_are_read(&self) -> bool {
        true
    }
    fn iface(&self, _: u32) -> Option<Iface> {
        Some(self.iface)
    }
    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        self.neighbours.get(&key.addr).copied()
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
    fn oif(&self, slot: u16) -> Option<Oif> {
        self.oifs.get(usize::from(slot)).copied()
    }
    // A node holds how many bytes of the address were read, and those bytes, of which the first two are left out: no two
    // addresses here differ in them alone.
    fn fib_root(&self, view: u16, index: u8) -> Entry {
        if view == 0 { Entry::node(u32::from(index)) } else { Entry::OPAQUE }
    }
    fn fib_node(&self, node: u32, index: u8) -> Entry {
        let [_, read, a, b] = node.to_be_bytes();
        if read < 2 {
            return Entry::node(u32::from_be_bytes([0, read + 1, b, index]));
        }
        let host = |addr: &&[u8; 4]| addr[1..] == [a, b, index];
        self.routes.keys().find(host).map_or(Entry::unicast(1), |addr| self.routes[addr])
    }
}

impl GuardTables {
    fn change(&self, change: impl FnOnce(&mut GuardState)) {
        let mut state = self.state.get();
        change(&mut state);
        self.state.set(state);
    }

    fn judge(&self, frame: &ArpFrame) -> Option<DropReason> {
        judge(&PackedArp::from(frame), CALI, &self.iface, &self.policy, self, self)
    }
}

impl GuardMemory for GuardTables {
    fn route(&self, addr: [u8; 4]) -> Entry {
        lookup(self, self.view, addr)
    }
    fn allowed(&self, list: u32, spa: [u8; 4]) -> Option<u64> {
        assert_eq!(list, 1);
        self.allowed.get(&spa).copied()
    }
    fn take(&self, class: BudgetClass, rate: &Rate) -> bool {
        let mut taken = None;
        self.change(|state| {
            let word = match class {
                BudgetClass::Learn => &mut state.learn,
                BudgetClass::Other => &mut state.other,
                BudgetClass::Doubt => &mut state.doubt,
            };
            taken = take(*word, self.now.get(), rate);
            *word = taken.unwrap_or(*word);
        });
        taken.is_some()
    }
    fn has_grace(&self, _: &Policy) -> bool {
        let left = self.grace.get();
        self.grace.set(left.saturating_sub(1));
        left > 0
    }
    fn let_up(&self) -> u64 {
        self.state.get().let_up
    }
    fn note(&self, _: [u8; 4], _: &Policy) {
        self.change(|state| state.let_up += 1);
    }
    fn saw_owner(&self, of: IfaceAddr) {
        if let Some(claim) = self.claims.borrow_mut().get_mut(&of.addr) {
            claim.seen = 1;
        }
    }
    fn may_move(&self, of: IfaceAddr, owner: Lladdr) -> bool {
        let mut claims = self.claims.borrow_mut();
        let claim = claims.entry(of.addr).or_default();
        let (key, _) = binding::place_of(of);
        let next = claim.next(key, self.now.get());
        if next == binding::ClaimFate::Ask {
            *claim = binding::Claim { key, asked: self.now.get(), seen: 0 };
            self.asked.borrow_mut().push(owner);
        }
        next == binding::ClaimFate::Cede
    }
    fn would_drop(&self, reason: DropReason) {
        self.would.borrow_mut().push(reason);
    }
}

fn world(sender: DropMode, entries: DropMode, budget: DropMode) -> GuardTables {
    let rate = Rate { interval: SECOND / 50, depth: SECOND / 50 * 4 };
    GuardTables {
        sequence: Vec::new().into(),
        lease: true,
        iface: Iface { mac: IFACE_MAC, flags: Iface::LOCAL_ALWAYS, ..Iface::default() },
        neighbours: BTreeMap::from([(POD, Neighbour { lladdr: POD_MAC, flags: 0 })]),
        routes: BTreeMap::from([
            (POD, Entry::unicast(0)),
            (NEW, Entry::unicast(0)),
            (NODE, Entry::LOCAL),
            ([10, 6, 1, 1], Entry::NONE),
            ([10, 6, 1, 2], Entry::UNANSWERABLE),
            ([10, 6, 1, 3], Entry::OPAQUE),
            ([10, 6, 1, 4], Entry::OPAQUE_RULE),
            ([10, 6, 1, 5], Entry::unicast(2)),
        ]),
        oifs: [
            Oif { ifindex: CALI, medium_id: 0 },
            Oif { ifindex: 3, medium_id: 0 },
            Oif { ifindex: Oif::SEVERAL, medium_id: 0 },
        ],
        view: 0,
        allowed: BTreeMap::new(),
        policy: Policy {
            modes: Policy::modes_of(sender, entries, budget),
            limit: 4,
            learn: rate,
            other: rate,
            ..Policy::default()
        },
        grace: Cell::new(0),
        state: Cell::default(),
        now: Cell::new(SECOND),
        would: RefCell::default(),
        claims: RefCell::default(),
        asked: RefCell::default(),
    }
}

fn from(spa: [u8; 4]) -> ArpFrame {
    ArpFrame::request(POD_MAC, spa, GATEWAY)
}

fn with_oper(mut frame: ArpFrame, oper: u8) -> ArpFrame {
    frame.arp.oper = [0, oper];
    frame
}

/// A reply to the node.
fn reply(spa: [u8; 4], sha: [u8; 6]) -> ArpFrame {
    with_oper(ArpFrame { dst: IFACE_MAC, ..ArpFrame::request(sha, spa, NODE) }, 2)
}

/// The sequence while a batch is written that changes more than neighbour entries, and after one.
const WRITING: u64 = sequence::begun(2, true);
const WRITTEN: u64 = sequence::ended(WRITING, true);

#[test]
fn senders_that_are_routed_elsewhere_are_dropped() {
    let world = world(DropMode::Drop, DropMode::Off, DropMode::Off);
    let dropped = Some(DropReason::SenderElsewhere);
    for (what, frame, expected) in [
        ("a known sender", from(POD), None),
        ("routed back by the interface", from(NEW), None),
        ("behind the uplink", from(STRANGER), dropped),
        ("an announcement of a stranger", ArpFrame::request(POD_MAC, STRANGER, STRANGER), dropped),
        ("an announcement of its own", ArpFrame::request(POD_MAC, POD, POD), None),
        ("the node's own address", from(NODE), dropped),
        ("nowhere", from([10, 6, 1, 1]), dropped),
        ("a blackhole", from([10, 6, 1, 2]), dropped),
        ("a route that is not followed", from([10, 6, 1, 3]), None),
        ("a rule that is not followed", from([10, 6, 1, 4]), None),
        ("several next hops", from([10, 6, 1, 5]), None),
        ("a probe", from([0; 4]), None),
        ("a reply of a stranger", reply(STRANGER, OTHER_MAC), dropped),
        ("a reply of its own", reply(POD, POD_MAC), None),
        ("a restart: the same address, a new MAC", ArpFrame::request(OTHER_MAC, POD, GATEWAY), None),
        ("of no use", with_oper(from(STRANGER), 9), None),
    ] {
        assert_eq!(world.judge(&frame), expected, "{what}");
    }
    let count = self::world(DropMode::Count, DropMode::Off, DropMode::Off);
    assert_eq!(count.judge(&from(STRANGER)), None);
    assert_eq!(*count.would.borrow(), [DropReason::SenderElsewhere]);
    assert_eq!(self::world(DropMode::Off, DropMode::Off, DropMode::Off).judge(&from(STRANGER)), None);
}

#[test]
fn in_doubt_the_sender_guard_lets_up() {
    let drop = || world(DropMode::Drop, DropMode::Off, DropMode::Off);
    for (what, world) in [
        ("no lease", GuardTables { lease: false, ..drop() }),
        ("the agent writes", GuardTables { sequence: std::vec![WRITING, WRITING].into(), ..drop() }),
        ("the agent has written meanwhile", GuardTables { sequence: std::vec![WRITTEN, 2].into(), ..drop() }),
        ("no common view", GuardTables { view: u16::MAX, ..drop() }),
        ("a route in change", GuardTables { oifs: [Oif::default(); 3], ..drop() }),
        ("a port of a bridge", GuardTables { iface: blocked(Reason::INTERFACE_HAS_MASTER), ..drop() }),
        ("a VLAN on top", GuardTables { iface: blocked(Reason::INTERFACE_HAS_UPPER), ..drop() }),
    ] {
        assert_eq!(world.judge(&from(STRANGER)), None, "{what}");
    }
    for reason in [Reason::INGRESS_HOOK, Reason::ARP_NETFILTER, Reason::INTERFACE_FLAPPING, Reason::SELF_TEST_PENDING] {
        let world = GuardTables { iface: blocked(reason), ..drop() };
        assert_eq!(world.judge(&from(STRANGER)), Some(DropReason::SenderElsewhere), "{reason:?} is about answers");
    }
}

/// A client can make the agent write: that opens the guard for a few frames, and no more.
#[test]
fn while_the_agent_writes_few_frames_pass() {
    let writing = || std::vec![WRITING; 100].into();
    let senders = GuardTables { sequence: writing(), ..world(DropMode::Drop, DropMode::Off, DropMode::Off) };
    let mut entries = GuardTables { sequence: writing(), ..world(DropMode::Off, DropMode::Drop, DropMode::Off) };
    entries.policy.limit = 128;
    entries.change(|state| state.let_up = 112);
    for (world, reason) in [(senders, DropReason::SenderElsewhere), (entries, DropReason::EntryLimit)] {
        for number in 0..12 {
            let expected = if number < 8 { None } else { Some(reason) };
            assert_eq!(world.judge(&from(STRANGER)), expected, "number {number}");
        }
        assert_eq!(world.judge(&from(POD)), None, "{reason:?}");
        world.now.set(world.now.get() + SECOND);
        assert_eq!(world.judge(&from(STRANGER)), None, "one more each second");
        assert_eq!(world.judge(&from(STRANGER)), Some(reason));
    }
}

#[test]
fn while_the_agent_writes_neighbours_no_stranger_passes() {
    for sequence in [std::vec![3, 3], std::vec![3, 2], std::vec![4, 2]] {
        let world =
            GuardTables { sequence: sequence.clone().into(), ..world(DropMode::Drop, DropMode::Off, DropMode::Off) };
        assert_eq!(world.judge(&from(STRANGER)), Some(DropReason::SenderElsewhere), "{sequence:?}");
    }
}

fn blocked(reason: Reason) -> Iface {
    Iface { blocked: u16::try_from(reason.raw()).unwrap(), ..Iface::default() }
}

#[test]
fn allowed_senders_and_the_first_frames_of_a_new_link_pass() {
    let mut world = world(DropMode::Drop, DropMode::Off, DropMode::Off);
    let vip = [198, 18, 0, 2];
    world.allowed = BTreeMap::from([(STRANGER, 0), (vip, Lladdr::new(OTHER_MAC).word())]);
    assert_eq!(world.judge(&from(STRANGER)), Some(DropReason::SenderElsewhere), "it has no list");
    world.policy.list = 1;
    assert_eq!(world.judge(&from(STRANGER)), None, "from any address");
    assert_eq!(world.judge(&from(vip)), Some(DropReason::SenderElsewhere), "from another address");
    assert_eq!(world.judge(&ArpFrame::request(OTHER_MAC, vip, vip)), None);
    world.grace.set(1);
    assert_eq!(world.judge(&from(vip)), None, "it may be routed soon");
    assert_eq!(world.judge(&from(vip)), Some(DropReason::SenderElsewhere), "the grace is used up");
}

#[test]
fn unknown_senders_are_limited_and_nothing_else() {
    let mut world = world(DropMode::Off, DropMode::Drop, DropMode::Off);
    world.policy.entries = 2;
    let unknown = |last: u8| from([10, 5, 1, last]);
    assert_eq!(world.judge(&unknown(1)), None);
    assert_eq!(world.judge(&unknown(2)), None, "two that are mirrored, and the one before");
    let dropped = Some(DropReason::EntryLimit);
    assert_eq!(world.judge(&unknown(3)), dropped);
    assert_eq!(world.judge(&from(POD)), None, "it has its entry");
    assert_eq!(world.judge(&ArpFrame::request(OTHER_MAC, POD, GATEWAY)), None, "as before");
    assert_eq!(world.judge(&reply([10, 5, 1, 4], POD_MAC)), None, "the node may wait for it");
    assert_eq!(world.judge(&from([0; 4])), None, "a probe makes none");
    // The mirror has followed, and one entry has gone.
    (world.policy.entries, world.policy.settled) = (3, 2);
    assert_eq!(world.judge(&unknown(3)), None);
    assert_eq!(world.judge(&unknown(5)), dropped);
    world.lease = false;
    assert_eq!(world.judge(&unknown(5)), None, "the mirror may be behind");
}

#[test]
fn the_last_eighth_of_the_entries_is_for_requests_that_come_while_the_agent_writes() {
    let mut world = world(DropMode::Off, DropMode::Drop, DropMode::Off);
    (world.policy.limit, world.policy.entries) = (16, 14);
    let unknown = |last: u8| from([10, 5, 1, last]);
    let dropped = Some(DropReason::EntryLimit);
    assert_eq!(world.judge(&unknown(1)), dropped, "nothing is in doubt");
    let in_doubt = |last| {
        world.sequence.borrow_mut().extend([WRITING; 3]);
        world.judge(&unknown(last))
    };
    assert_eq!((in_doubt(2), in_doubt(3)), (None, None));
    assert_eq!(in_doubt(4), dropped, "there are sixteen");
    world.now.set(world.now.get() + 60 * SECOND);
    assert_eq!(in_doubt(5), dropped, "and there is no more room a minute later");
}

#[test]
fn a_budget_is_for_what_the_kernel_may_learn_from() {
    let world = world(DropMode::Off, DropMode::Off, DropMode::Drop);
    for number in 0..20 {
        assert_eq!(world.judge(&from(POD)), None, "known senders are free");
        assert_eq!(world.judge(&reply(POD, POD_MAC)), None, "so are their replies");
        assert_eq!(world.judge(&reply(NEW, POD_MAC)), None, "and replies that the node may wait for");
        let probe = ArpFrame::request(POD_MAC, [0; 4], NODE);
        assert_eq!(world.judge(&probe), None, "and probes that the fast path answers");
        let flip = ArpFrame::request([2, 0, 0, 0, 1, number], POD, GATEWAY);
        let expected = if number < 4 { None } else { Some(DropReason::LearnBudget) };
        assert_eq!(world.judge(&flip), expected, "number {number}");
        let of_no_use = with_oper(from(POD), 9);
        let expected = if number < 4 { None } else { Some(DropReason::OtherBudget) };
        assert_eq!(world.judge(&of_no_use), expected, "number {number}");
    }
    let announcement = ArpFrame::request(POD_MAC, POD, POD);
    assert_eq!(world.judge(&announcement), Some(DropReason::LearnBudget));
    world.now.set(world.now.get() + SECOND / 50);
    assert_eq!(world.judge(&announcement), None, "one more each 20 ms");
    assert_eq!(world.judge(&announcement), Some(DropReason::LearnBudget));
}

#[test]
fn a_budget_goes_on_without_a_lease() {
    let world = GuardTables { lease: false, ..world(DropMode::Drop, DropMode::Drop, DropMode::Drop) };
    let judged: Vec<_> = (0..6).map(|_| world.judge(&from(STRANGER))).collect();
    assert_eq!(judged[..4], [None; 4], "the guard is open");
    assert_eq!(judged[4..], [Some(DropReason::LearnBudget); 2]);
}

#[test]
fn counting_changes_nothing_for_later_frames() {
    let world = world(DropMode::Count, DropMode::Count, DropMode::Count);
    for _ in 0..6 {
        assert_eq!(world.judge(&from(STRANGER)), None);
    }
    let would = world.would.borrow();
    let times = |reason| would.iter().filter(|&&would| would == reason).count();
    assert_eq!(times(DropReason::SenderElsewhere), 6);
    assert_eq!(times(DropReason::EntryLimit), 2);
    assert_eq!(times(DropReason::LearnBudget), 2);
}

#[test]
fn gcra_gives_the_burst_and_then_the_rate() {
    let rate = Rate { interval: 10, depth: 30 };
    let mut whole_at = 0;
    let mut taken = Vec::new();
    for now in [100, 100, 100, 100, 109, 110, 111, 1000, 1000, 1000, 1000] {
        let until = take(whole_at, now, &rate);
        taken.push(until.is_some());
        whole_at = until.unwrap_or(whole_at);
    }
    assert_eq!(taken, [true, true, true, false, false, true, false, true, true, true, false]);
}

#[test]
fn counters_of_drops_and_passes_are_apart() {
    let mut all: Vec<usize> = Reason::ALL.iter().map(|reason| reason.counter()).collect();
    all.extend(DropReason::ALL.iter().flat_map(|reason| [reason.dropped(), reason.would_drop()]));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(all.iter().all(|&counter| counter < COUNTERS && counter != crate::reason::ANSWERED));
    assert_eq!(DropReason::SenderElsewhere.dropped(), 48, "numbers are ABI");
    assert_eq!(DropReason::OtherBudget.would_drop(), 59);
}

/// One policy, the binding.
fn bound(mode: DropMode, kind: binding::BindingKind) -> GuardTables {
    let mut world = world(DropMode::Off, DropMode::Off, DropMode::Off);
    world.policy.modes = Policy::with_binding(0, mode, kind);
    world
}

fn claim() -> ArpFrame {
    ArpFrame::request(OTHER_MAC, POD, GATEWAY)
}

#[test]
fn an_address_stays_with_its_owner_until_it_is_silent() {
    let other = Some(DropReason::OtherOwner);
    let world = bound(DropMode::Drop, binding::BindingKind::Learn);
    for frame in [claim(), reply(POD, OTHER_MAC), ArpFrame::request(OTHER_MAC, POD, POD)] {
        assert_eq!(world.judge(&frame), other, "{frame:?}");
    }
    assert_eq!(*world.asked.borrow(), [Lladdr::new(POD_MAC)], "the owner, once");
    assert_eq!(world.judge(&from(POD)), None, "the owner");
    assert_eq!(world.judge(&ArpFrame::request(POD_MAC, POD, POD)), None);
    assert_eq!(world.judge(&ArpFrame::request(OTHER_MAC, NEW, GATEWAY)), None, "nobody's yet");
    world.now.set(world.now.get() + 2 * SECOND);
    assert_eq!(world.judge(&claim()), other, "the owner has been heard");
    world.now.set(world.now.get() + 10 * SECOND);
    assert_eq!(world.judge(&claim()), other);
    assert_eq!(world.asked.borrow().len(), 2, "it is asked again");
    world.now.set(world.now.get() + SECOND);
    assert_eq!(world.judge(&claim()), None, "it is silent");
}

#[test]
fn a_fixed_binding_asks_nobody_and_a_strict_one_looks_at_the_ethernet_source() {
    let other = Some(DropReason::OtherOwner);
    for kind in [binding::BindingKind::Fixed, binding::BindingKind::Strict] {
        let world = bound(DropMode::Drop, kind);
        for _ in 0..3 {
            assert_eq!(world.judge(&claim()), other, "{kind:?}");
            world.now.set(world.now.get() + 20 * SECOND);
        }
        assert!(world.asked.borrow().is_empty());
        assert_eq!(world.judge(&from(POD)), None, "{kind:?}");
        let disguised = ArpFrame { src: OTHER_MAC, ..from(POD) };
        assert_eq!(world.judge(&disguised), other.filter(|_| kind == binding::BindingKind::Strict), "{kind:?}");
    }
}

#[test]
fn a_binding_that_counts_asks_nobody_and_one_without_a_lease_is_open() {
    let world = bound(DropMode::Count, binding::BindingKind::Learn);
    assert_eq!(world.judge(&claim()), None);
    assert_eq!(*world.would.borrow(), [DropReason::OtherOwner]);
    assert!(world.asked.borrow().is_empty());
    let mut world = bound(DropMode::Drop, binding::BindingKind::Learn);
    world.lease = false;
    assert_eq!(world.judge(&claim()), None);
    world.lease = true;
    world.neighbours.insert(POD, Neighbour { lladdr: POD_MAC, flags: Neighbour::FIXED });
    assert_eq!(world.judge(&claim()), None, "no frame changes a permanent entry");
}

#[test]
fn an_address_of_the_allow_list_moves_without_a_question() {
    for kind in [binding::BindingKind::Learn, binding::BindingKind::Fixed] {
        let mut world = bound(DropMode::Drop, kind);
        let claim = ArpFrame::request(OTHER_MAC, POD, GATEWAY);
        world.policy.list = 1;
        assert_eq!(world.judge(&claim), Some(DropReason::OtherOwner), "{kind:?}: it is on no list");
        world.allowed = BTreeMap::from([(POD, 0)]);
        assert_eq!(world.judge(&claim), None, "{kind:?}");
        world.allowed = BTreeMap::from([(POD, Lladdr::new(OTHER_MAC).word())]);
        assert_eq!(world.judge(&claim), None, "{kind:?}: from the address that is listed");
        let third = ArpFrame::request([2, 0, 0, 0, 0, 0x77], POD, GATEWAY);
        assert_eq!(world.judge(&third), Some(DropReason::OtherOwner), "{kind:?}: from another one");
    }
}
