//! The policies that protect the node: which of the frames that would go up to the kernel may (docs/adr/0015-protection.md).
//! By default there are none. Whatever is not known for certain goes up.

use crate::binding;
use crate::decide::{Verdict, decide};
use crate::fib::{Entry, LeafKind};
use crate::lladdr::Lladdr;
use crate::maps::{Iface, IfaceAddr};
use crate::packed::PackedArp;
use crate::reason::{COUNTERS, Reason};
use crate::sequence::{are_routes_certain, is_certain};
use crate::tables::Tables;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names of the guard's program and maps in the eBPF object.
pub mod names {
    /// `Array<Guard>`, mmapable: by the index of an interface's counters.
    pub const GUARDS: &str = "GUARDS";
    /// `LpmTrie<ListedPrefix, u64>`: the senders of each list that the sender-guard lets up.
    pub const ALLOWED: &str = "ALLOWED";
    /// The tc program that judges frames before all others.
    pub const GUARD_PROGRAM: &str = "arp_guard";
}

/// Places in `GUARDS` where there are policies: as many as interfaces can have counters.
pub const MAX_GUARDS: u32 = crate::maps::MAX_COUNTER_CHUNKS * crate::maps::CHUNK_COUNTERS;
/// How long a frame may take from the guard to the neighbour table, and its notification to the agent's socket, in ns.
pub const SETTLED_AFTER: u64 = 5_000_000;
/// Places where it is remembered which unknown senders have been counted.
pub const NOTED: u32 = 4_096;
/// Prefixes in `ALLOWED`, of all lists.
pub const MAX_ALLOWED: u32 = 65_536;
/// How many frames of senders without a route back pass during the grace after the link has come up.
pub const GRACE_FRAMES: u64 = 8;

/// Why a policy drops a frame. Numbers and names are ABI: never reused, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum DropReason {
    /// Sender-guard.
    SenderElsewhere = 0,
    /// Entry-limit.
    EntryLimit = 1,
    /// Budget, what the kernel may learn from.
    LearnBudget = 2,
    /// Budget, everything else.
    OtherBudget = 3,
    /// Unresolved-budget.
    UnresolvedBudget = 4,
    /// Binding.
    OtherOwner = 5,
}

impl DropReason {
    /// Every reason, by number.
    pub const ALL: &'static [Self] = &[
        Self::SenderElsewhere,
        Self::EntryLimit,
        Self::LearnBudget,
        Self::OtherBudget,
        Self::UnresolvedBudget,
        Self::OtherOwner,
    ];
    /// The counters of what was dropped begin here, among those of the interface; there is room for eight.
    const DROPPED: usize = 48;
    /// The counters of what `drop` would have dropped.
    const WOULD_DROP: usize = 56;

    /// The name that counters and `--json` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SenderElsewhere => "sender_elsewhere",
            Self::EntryLimit => "entry_limit",
            Self::LearnBudget => "learn_budget",
            Self::OtherBudget => "other_budget",
            Self::UnresolvedBudget => "unresolved_budget",
            Self::OtherOwner => "other_owner",
        }
    }

    /// The reason in a sentence, for people.
    pub const fn why(self) -> &'static str {
        match self {
            Self::SenderElsewhere => {
                "sender-guard: spa is not routed back by this interface, and not on its allow list"
            }
            Self::EntryLimit => {
                "entry-limit: the sender is unknown, and the interface has caused all entries that it may"
            }
            Self::LearnBudget => "budget: too many frames that the kernel may learn from",
            Self::OtherBudget => "budget: too many probes and frames without use",
            Self::UnresolvedBudget => {
                "unresolved-budget: too many IP packets to next hops that the node must resolve, while its table is filling"
            }
            Self::OtherOwner => "binding: the sender's address is another client's",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// The counter of frames that were dropped for it: always inside an interface's counters.
    #[inline(always)]
    pub const fn dropped(self) -> usize {
        (Self::DROPPED + self as usize) & (COUNTERS - 1)
    }

    /// The counter of frames that would have been dropped for it, where the policy only counts.
    #[inline(always)]
    pub const fn would_drop(self) -> usize {
        (Self::WOULD_DROP + self as usize) & (COUNTERS - 1)
    }
}

/// What a policy does on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum DropMode {
    /// Nothing.
    #[default]
    Off = 0,
    /// Counts the frames that `drop` would drop.
    Count = 1,
    /// Drops them.
    Drop = 2,
}

/// What the policies say of an interface. The agent writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Policy {
    /// Two bits for each of sender-guard, entry-limit, budget, unresolved-budget and binding, and two for the kind of
    /// binding, see [`Policy::modes_of`].
    pub modes: u32,
    /// The list of allowed senders in `ALLOWED`; 0 for none.
    pub list: u32,
    /// Most collectable neighbour entries that the interface may cause. The last eighth of them is for requests that come
    /// while the agent writes the tables.
    pub limit: u64,
    /// How many it has, as the mirror knows.
    pub entries: u64,
    /// The count of [`GuardState::let_up`] up to which `entries` holds what came of it.
    pub settled: u64,
    /// CLOCK_MONOTONIC in ns until which senders without a route back may pass.
    pub grace_until: u64,
    /// The count of [`GuardState::graced`] when that was set.
    pub graced_before: u64,
    /// The budget of frames that the kernel may learn from.
    pub learn: Rate,
    /// The budget of all others.
    pub other: Rate,
    /// The budget of IP packets whose next hop is not resolved.
    pub unresolved: Rate,
}

/// A budget.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Rate {
    /// ns for each frame.
    pub interval: u64,
    /// ns that may be used up in advance: `interval` times the burst.
    pub depth: u64,
}

/// What the program remembers of an interface. Only the program writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct GuardState {
    /// When the budget of frames to learn from is whole again, in ns of CLOCK_MONOTONIC.
    pub learn: u64,
    /// The same for the others.
    pub other: u64,
    /// The same for frames that are let up in doubt, see [`IN_DOUBT`].
    pub doubt: u64,
    /// How many unknown senders it has let up.
    pub let_up: u64,
    /// When the last of them was, in ns of CLOCK_MONOTONIC.
    pub let_up_at: u64,
    /// How many there had been when there was none for [`SETTLED_AFTER`] last.
    pub let_up_before: u64,
    /// How many frames it has let up by grace.
    pub graced: u64,
    /// When the budget of IP packets to what is not resolved is whole again, in ns of CLOCK_MONOTONIC.
    pub unresolved: u64,
}

/// An interface's guard, in cache lines of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Guard {
    /// Written by the agent.
    pub policy: Policy,
    /// 0.
    pub unused: [u64; 4],
    /// Written by the program.
    pub state: GuardState,
}

/// A prefix of a list: what follows `prefix_len` in a key of `ALLOWED`. The prefix's length counts the 32 bits of `list`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct ListedPrefix {
    /// The list, in network byte order.
    pub list: [u8; 4],
    /// The address.
    pub addr: [u8; 4],
}

const _: () = {
    assert!(size_of::<Policy>() == 96);
    assert!(size_of::<Guard>() == 192);
    assert!(core::mem::offset_of!(Guard, state) == 128);
    assert!(size_of::<ListedPrefix>() == 8);
};

const SENDER: u32 = 0;
const ENTRIES: u32 = 2;
const BUDGET: u32 = 4;
const UNRESOLVED: u32 = 6;
const BINDING: u32 = 8;
const KIND: u32 = 10;

impl Policy {
    /// The modes of sender-guard, entry-limit and budget in a word.
    pub const fn modes_of(sender: DropMode, entries: DropMode, budget: DropMode) -> u32 {
        (sender as u32) << SENDER | (entries as u32) << ENTRIES | (budget as u32) << BUDGET
    }

    /// The same word, and the mode of the unresolved-budget in it.
    pub const fn with_unresolved(modes: u32, unresolved: DropMode) -> u32 {
        modes | (unresolved as u32) << UNRESOLVED
    }

    /// The same word, and the binding's mode and kind in it.
    pub const fn with_binding(modes: u32, binding: DropMode, kind: binding::BindingKind) -> u32 {
        modes | (binding as u32) << BINDING | (kind as u32) << KIND
    }

    /// Whether the unresolved-budget does anything, and whether it drops.
    #[inline(always)]
    pub const fn unresolved_mode(&self) -> (bool, bool) {
        (is_on(self, UNRESOLVED), mode(self, UNRESOLVED) == DropMode::Drop as u32)
    }
}

/// What the program remembers of an interface, and what it asks for a judgement besides the tables.
pub trait GuardMemory {
    /// What the view that all senders share says of an address (wire order); an opaque leaf if there is none.
    fn route(&self, addr: [u8; 4]) -> Entry;
    /// The link-layer address from which a list allows a sender, in a word; 0 for any.
    fn allowed(&self, list: u32, spa: [u8; 4]) -> Option<u64>;
    /// Takes a frame from a budget; says whether it was there.
    fn take(&self, class: BudgetClass, rate: &Rate) -> bool;
    /// Whether the grace is not over, and has not been used up; if so, one frame of it is used.
    fn has_grace(&self, policy: &Policy) -> bool;
    /// How many unknown senders were let up so far.
    fn let_up(&self) -> u64;
    /// Counts an unknown sender that is let up, once as long as [`Policy::settled`] is the same.
    fn note(&self, spa: [u8; 4], policy: &Policy);
    /// Notes that the owner of an address has sent something.
    fn saw_owner(&self, of: IfaceAddr);
    /// Whether an address may move to another owner than this one; has it asked if nobody has.
    fn may_move(&self, of: IfaceAddr, owner: Lladdr) -> bool;
    /// Counts a frame that is let up, although a policy that only counts would drop it.
    fn would_drop(&self, reason: DropReason);
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetClass {
    /// Frames that the kernel may learn from.
    Learn,
    /// All others.
    Other,
    /// Frames that are let up because the agent was writing the tables at that moment.
    Doubt,
}

/// How many frames may be let up because the agent was writing: rightful ones are rare, and a client that makes the agent
/// write gets no more than these. Eight, and then one a second.
pub const IN_DOUBT: Rate = Rate { interval: 1_000_000_000, depth: 8_000_000_000 };

/// Of the entries that an interface may cause, those that are kept for senders that ask while the agent is writing, and that
/// may have their entry already: an eighth.
const fn kept_for_doubt(limit: u64) -> u64 {
    limit / 8
}

/// GCRA: when the budget will be whole again once a frame has been taken from it at `now`; `None` if there is none left.
/// `whole_at` is when it would be so without. All in ns.
#[inline(always)]
pub const fn take(whole_at: u64, now: u64, rate: &Rate) -> Option<u64> {
    let from = if whole_at > now { whole_at } else { now };
    let until = from + rate.interval;
    if until - now > rate.depth { None } else { Some(until) }
}

/// Judges a frame of EtherType ARP, without tags, that came in on `ingress`, whose entry is `iface`: why it is to be
/// dropped, if so.
#[inline(always)]
pub fn judge(
    frame: &PackedArp,
    ingress: u32,
    iface: &Iface,
    policy: &Policy,
    tables: &impl Tables,
    memory: &impl GuardMemory,
) -> Option<DropReason> {
    if policy.modes == 0 {
        return None;
    }
    if !has_arp_of_its_own(iface) {
        return None;
    }
    let sequence = tables.sequence();
    let spa = frame.spa();
    if !frame.is_ipv4_over_ethernet() || !frame.is_request_or_reply() {
        return charge(BudgetClass::Other, policy, memory);
    }
    if spa == [0; 4] {
        let is_answered = is_on(policy, BUDGET) && matches!(decide(frame, ingress, tables), Verdict::Reply(_));
        return if is_answered { None } else { charge(BudgetClass::Other, policy, memory) };
    }

    let is_request = frame.is_request();
    let is_announcement = spa == frame.tpa();
    let of = IfaceAddr { ifindex: ingress, addr: spa };
    // Three values that always are there: an `Option` that is kept would be stack that only one branch has written.
    let (is_known, is_same, owner) = match tables.neighbour(of) {
        Some(neighbour) => (true, neighbour.is_fixed() || neighbour.lladdr() == frame.sha(), neighbour.lladdr()),
        None => (false, false, Lladdr::of_word(0)),
    };
    let is_bound = is_on(policy, BINDING);
    let is_disguised =
        is_bound && mode(policy, KIND) == binding::BindingKind::Strict as u32 && frame.src() != frame.sha();
    if is_bound && is_same {
        memory.saw_owner(of);
    }
    if is_same && !is_announcement && !is_disguised {
        return None;
    }
    let is_trusted = tables.lease_is_valid();
    // While a batch is written, half of it may be seen.
    let has_no_doubt = |is_certain: bool| is_certain || !memory.take(BudgetClass::Doubt, &IN_DOUBT);

    if is_trusted
        && !is_same
        && is_on(policy, SENDER)
        && is_elsewhere(frame, ingress, policy, tables, memory)
        // A flood that makes the agent write its neighbour entries gains nothing by it.
        && has_no_doubt(are_routes_certain(sequence, tables.sequence_after()))
        && let Some(reason) = refuse(DropReason::SenderElsewhere, SENDER, policy, memory)
    {
        return Some(reason);
    }
    if is_trusted
        && is_bound
        // Certain enough while a batch is written: an entry that is read there was or will be. A frame that is dropped is sent
        // again; one that passes takes the address.
        && (is_disguised || is_known && !is_same && !is_listed(frame, policy, memory) && !is_ceded(of, owner, policy, memory))
        && let Some(reason) = refuse(DropReason::OtherOwner, BINDING, policy, memory)
    {
        return Some(reason);
    }
    if is_same && !is_announcement {
        return None;
    }
    let makes_entry = !is_known && is_request;
    if is_trusted
        && makes_entry
        && is_on(policy, ENTRIES)
        && let caused = policy.entries.wrapping_add(memory.let_up().wrapping_sub(policy.settled))
        && caused >= policy.limit - kept_for_doubt(policy.limit)
        // In doubt there is a little more room, and then there is none.
        && (caused >= policy.limit || has_no_doubt(is_certain(sequence, tables.sequence_after())))
        && let Some(reason) = refuse(DropReason::EntryLimit, ENTRIES, policy, memory)
    {
        return Some(reason);
    }
    // The node may wait for it: there is an entry without an address, which is not mirrored.
    let may_be_awaited = !is_request && !is_known && !is_announcement && !frame.dst().is_group();
    if !may_be_awaited && let Some(reason) = charge(BudgetClass::Learn, policy, memory) {
        return Some(reason);
    }
    if makes_entry {
        memory.note(spa, policy);
    }
    None
}

/// Whether what comes in on the interface is for its own ARP, and not for a device that it is part of, or that is on top.
#[inline(always)]
pub fn has_arp_of_its_own(iface: &Iface) -> bool {
    let blocked = Reason::from_raw(iface.blocked as u32);
    blocked != Reason::INTERFACE_HAS_MASTER
        && blocked != Reason::INTERFACE_HAS_UPPER
        && blocked != Reason::INTERFACE_TUNNEL
        && blocked != Reason::INTERFACE_NOT_ETHERNET
        && blocked != Reason::INTERFACE_NOARP
}

#[inline(always)]
const fn mode(policy: &Policy, which: u32) -> u32 {
    policy.modes >> which & 3
}

#[inline(always)]
const fn is_on(policy: &Policy, which: u32) -> bool {
    mode(policy, which) != DropMode::Off as u32
}

/// Whether the owner of an address has left it to whoever asks for it. Only who drops has the owner asked: to count changes
/// nothing.
#[inline(always)]
fn is_ceded(of: IfaceAddr, owner: Lladdr, policy: &Policy, memory: &impl GuardMemory) -> bool {
    let asks =
        mode(policy, KIND) == binding::BindingKind::Learn as u32 && mode(policy, BINDING) == DropMode::Drop as u32;
    asks && memory.may_move(of, owner)
}

/// Drops the frame, or counts it and lets it go on.
#[inline(always)]
fn refuse(reason: DropReason, which: u32, policy: &Policy, memory: &impl GuardMemory) -> Option<DropReason> {
    if mode(policy, which) == DropMode::Drop as u32 {
        return Some(reason);
    }
    memory.would_drop(reason);
    None
}

#[inline(always)]
fn charge(class: BudgetClass, policy: &Policy, memory: &impl GuardMemory) -> Option<DropReason> {
    if !is_on(policy, BUDGET) {
        return None;
    }
    let (rate, reason) = match class {
        BudgetClass::Learn => (&policy.learn, DropReason::LearnBudget),
        BudgetClass::Other => (&policy.other, DropReason::OtherBudget),
        // No policy's.
        BudgetClass::Doubt => return None,
    };
    if memory.take(class, rate) { None } else { refuse(reason, BUDGET, policy, memory) }
}

/// Whether the sender is surely routed otherwise than back by the interface, and nothing else speaks for it.
#[inline(always)]
fn is_elsewhere(
    frame: &PackedArp,
    ingress: u32,
    policy: &Policy,
    tables: &impl Tables,
    memory: &impl GuardMemory,
) -> bool {
    let spa = frame.spa();
    let route = memory.route(spa);
    let is_accepted = match route.kind() {
        LeafKind::Opaque | LeafKind::OpaqueRule | LeafKind::Fall => true,
        LeafKind::Unicast => match tables.oif(route.slot()) {
            Some(oif) => oif.ifindex == ingress || oif.ifindex == 0 || oif.is_several(),
            None => true,
        },
        LeafKind::None | LeafKind::Local | LeafKind::Unanswerable => false,
    };
    if is_accepted {
        return false;
    }
    !is_listed(frame, policy, memory) && !memory.has_grace(policy)
}

/// Whether the list of allowed senders has the sender, with this link-layer address or any.
#[inline(always)]
fn is_listed(frame: &PackedArp, policy: &Policy, memory: &impl GuardMemory) -> bool {
    policy.list != 0
        && match memory.allowed(policy.list, frame.spa()) {
            Some(0) => true,
            Some(lladdr) => Lladdr::of_word(lladdr) == frame.sha(),
            None => false,
        }
}

#[cfg(test)]
mod tests;
