//! The guard's policies in the kernel, by interface ([`arp_common::guard`]).

use super::Bpf;
use super::programs::{EntryProgram, ProgramRun, run_tc};
use crate::dataplane::memory::Words;
use crate::dataplane::refusal;
use crate::prefix::Prefix;
use anyhow::Context as _;
use arp_common::Lladdr;
use arp_common::guard::{Guard, GuardState, ListedPrefix, Policy, Rate, SETTLED_AFTER, names};
use arp_common::unresolved;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::transmute;

/// What is configured for an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardConfig {
    /// [`Policy::modes_of`].
    pub modes: u32,
    /// The list of allowed senders; 0 for none.
    pub list: u32,
    /// Most entries.
    pub limit: u64,
    /// The budget of frames to learn from.
    pub learn: Rate,
    /// The budget of all others.
    pub other: Rate,
    /// The budget of IP packets whose next hop is not resolved.
    pub unresolved: Rate,
}

/// Which of the guard's programs there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarding {
    /// None.
    #[default]
    Nothing,
    /// The one that judges ARP.
    Arp,
    /// The one that judges IP packets, too.
    ArpAndIp,
}

impl Guarding {
    /// The program's name in the eBPF object.
    fn program(self) -> &'static str {
        match self {
            Guarding::Nothing | Guarding::Arp => names::GUARD_PROGRAM,
            Guarding::ArpAndIp => unresolved::names::GUARD_IP_PROGRAM,
        }
    }
}

/// The maps of the guard.
pub(super) struct GuardMaps {
    words: Words,
    /// How many interfaces there is room for; 1, which no interface has, where nothing is to be guarded.
    len: u32,
    allowed: LpmTrie<MapData, [u8; 8], u64>,
    guarding: Guarding,
}

impl GuardMaps {
    /// In these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses the mapping.
    pub(super) fn new(guarding: Guarding, guards: MapData, len: u32, allowed: Map) -> anyhow::Result<Self> {
        let words = Words::new(guards, size_of::<Guard>())?;
        Ok(GuardMaps { words, len, allowed: LpmTrie::try_from(allowed)?, guarding })
    }

    /// Forgets all of a place.
    pub(super) fn clear(&self, index: u32) {
        for offset in (0..size_of::<Guard>()).step_by(size_of::<u64>()) {
            self.word(index, offset, |word| word.store(0, Ordering::Relaxed));
        }
    }

    /// One word of a place; nothing where there is no such place.
    fn word<T: Default>(&self, index: u32, offset: usize, with: impl FnOnce(&AtomicU64) -> T) -> T {
        if index >= self.len {
            return T::default();
        }
        with(self.words.long((index as usize * size_of::<Guard>() + offset) / size_of::<u64>()))
    }

    fn set(&self, index: u32, offset: usize, value: u64) {
        self.word(index, offset, |word| word.store(value, Ordering::Release));
    }

    fn get(&self, index: u32, offset: usize) -> u64 {
        self.word(index, offset, |word| word.load(Ordering::Acquire))
    }
}

const POLICY: usize = offset_of!(Guard, policy);
const STATE: usize = offset_of!(Guard, state);

impl Bpf {
    /// Which of the guard's programs there is room for.
    pub fn guarding(&self) -> Guarding {
        self.guards.guarding
    }

    /// The guard's program.
    ///
    /// # Errors
    /// The verifier refuses.
    pub fn guard(&mut self) -> anyhow::Result<EntryProgram> {
        let name = self.guards.guarding.program();
        let program: &mut SchedClassifier = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(|error| refusal::of_program(name, &error))?;
        }
        let (fd, id) = (program.fd()?.try_clone()?, program.info()?.id());
        Ok(EntryProgram { program: Arc::new(fd), id })
    }

    /// The identifier of the guard's program, if it is loaded.
    pub fn guard_id(&mut self) -> Option<u32> {
        let name = self.guards.guarding.program();
        let program: &mut SchedClassifier = self.program(name).ok()?.try_into().ok()?;
        program.fd().is_ok().then(|| program.info().ok().map(|info| info.id())).flatten()
    }

    /// Runs the guard on a frame, as if it had come in on `ingress` (BPF_PROG_TEST_RUN). It counts the frame like any other.
    ///
    /// # Errors
    /// The verifier or the kernel refuses.
    pub fn run_guard(&mut self, ingress: u32, frame: &[u8]) -> anyhow::Result<ProgramRun> {
        run_tc(self.guard_program()?, ingress, frame)
    }

    /// The guard's program itself, loaded.
    ///
    /// # Errors
    /// The verifier refuses.
    pub fn guard_program(&mut self) -> anyhow::Result<&mut SchedClassifier> {
        self.guard()?;
        let name = self.guards.guarding.program();
        Ok(self.program(name)?.try_into()?)
    }

    /// Sets the policies of an interface that has an entry; says whether it has.
    pub fn configure_guard(&mut self, ifindex: u32, configured: &GuardConfig) -> bool {
        let Some(index) = self.counters.index(ifindex) else { return false };
        let GuardConfig { modes, list, limit, learn, other, unresolved } = *configured;
        let set = |offset, value| self.guards.set(index, POLICY + offset, value);
        // Nothing is dropped by values that are half written.
        set(offset_of!(Policy, modes), 0);
        set(offset_of!(Policy, limit), limit);
        let rates = [
            (offset_of!(Policy, learn), learn),
            (offset_of!(Policy, other), other),
            (offset_of!(Policy, unresolved), unresolved),
        ];
        for (at, rate) in rates {
            set(at + offset_of!(Rate, interval), rate.interval);
            set(at + offset_of!(Rate, depth), rate.depth);
        }
        // Modes last; they share a word with the list.
        let first: [u32; 2] = [modes, list];
        set(offset_of!(Policy, modes), transmute!(first));
        true
    }

    /// Has the budgets of an interface begin whole whose numbers are others now than before.
    pub fn refill_changed(&mut self, ifindex: u32, before: &GuardConfig, now: &GuardConfig) {
        let Some(index) = self.counters.index(ifindex) else { return };
        for (at, is_changed) in [
            (offset_of!(GuardState, learn), before.learn != now.learn),
            (offset_of!(GuardState, other), before.other != now.other),
            (offset_of!(GuardState, unresolved), before.unresolved != now.unresolved),
        ] {
            if is_changed {
                self.guards.set(index, STATE + at, 0);
            }
        }
    }

    /// Lets some frames of senders without a route back pass until then, in ns of CLOCK_MONOTONIC.
    pub fn set_grace(&mut self, ifindex: u32, until: u64) {
        let Some(index) = self.counters.index(ifindex) else { return };
        let graced = self.guards.get(index, STATE + offset_of!(GuardState, graced));
        self.guards.set(index, POLICY + offset_of!(Policy, graced_before), graced);
        self.guards.set(index, POLICY + offset_of!(Policy, grace_until), until);
    }

    /// How many unknown senders the guard has let up on an interface.
    pub fn let_up(&self, ifindex: u32) -> u64 {
        self.counters.index(ifindex).map_or(0, |index| self.guards.get(index, STATE + offset_of!(GuardState, let_up)))
    }

    /// How many of these were let up long enough before `now`, in ns of CLOCK_MONOTONIC, that whatever the kernel has made of
    /// them has been notified.
    pub fn let_up_before(&self, ifindex: u32, now: u64) -> u64 {
        let Some(index) = self.counters.index(ifindex) else { return 0 };
        let state = |offset| self.guards.get(index, STATE + offset);
        // In this order: if the last one is old by now, so are all that were counted before.
        let let_up = state(offset_of!(GuardState, let_up));
        if state(offset_of!(GuardState, let_up_at)) + SETTLED_AFTER <= now {
            return let_up;
        }
        state(offset_of!(GuardState, let_up_before))
    }

    /// Tells the guard how many entries an interface has, with those that came of the first `settled` unknown senders.
    pub fn set_entries(&mut self, ifindex: u32, entries: u64, settled: u64) {
        let Some(index) = self.counters.index(ifindex) else { return };
        // In this order: between the two stores some are counted twice, none is left out.
        self.guards.set(index, POLICY + offset_of!(Policy, entries), entries);
        self.guards.set(index, POLICY + offset_of!(Policy, settled), settled);
    }

    /// Adds a prefix to a list of allowed senders, from any link-layer address or from one.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn allow(&mut self, list: u32, prefix: Prefix, lladdr: Option<Lladdr>) -> anyhow::Result<()> {
        self.guards
            .allowed
            .insert(&listed(list, prefix), lladdr.map_or(0, Lladdr::word), 0)
            .context("the kernel has no room for the senders that sender-allow lists")
    }

    /// Removes a prefix from a list of allowed senders.
    pub fn disallow(&mut self, list: u32, prefix: Prefix) {
        if let Err(error) = self.guards.allowed.remove(&listed(list, prefix)) {
            log::debug!("removing a prefix from a list of allowed senders failed: {error}");
        }
    }
}

/// The key of a prefix of a list.
fn listed(list: u32, prefix: Prefix) -> Key<[u8; 8]> {
    let key: [u8; 8] = transmute!(ListedPrefix { list: list.to_be_bytes(), addr: prefix.addr.to_be_bytes() });
    Key::new(u32::BITS + u32::from(prefix.len), key)
}
