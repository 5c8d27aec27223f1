//! The BPF maps and the program in the kernel.

pub mod deviations;
pub mod guards;
mod notices;
pub mod pressure;
pub mod programs;
mod shadow;
pub mod trace;

use super::Dataplane;
use super::buckets::{BucketTable, Full};
use super::counters::CounterPool;
use super::doubts::{DoubtedBuckets, PAUSE};
use super::layout::{netns_offsets, table_offsets};
use super::memory::{Chunks, MappedFib, Words};
use super::refusal;
use super::trie::{Entries as _, Trie};
use crate::clock::{monotonic_ns, tick_ns};
use crate::mirror::Change;
use anyhow::{Context as _, anyhow};
use arp_common::Tables;
use arp_common::buckets::{PLACES, choices};
use arp_common::fib::{CHUNK_NODES, Entry, MAX_CHUNKS};
use arp_common::maps::{
    CHUNK_COUNTERS, Counters, DOUBTED as DOUBTED_LEN, Global, IFACE_BUCKETS, Iface, IfaceAddr, IfaceBucket, IfaceEntry,
    MAX_IFACE_ADDRS, NEIGHBOUR_BUCKETS, NEIGHBOUR_PLACES, Neighbour, NeighbourBucket, Oif, names,
};
use arp_common::notice;
use arp_common::settings::Whose;
use arp_common::shadow::{MAX_SAMPLES, names as shadow_names};
use arp_common::trace::names as trace_names;
use arp_common::{deviation, guard, sequence, unresolved};
use aya::maps::{ArrayOfMaps, HashMap, Map, MapData, MapError};
use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use deviations::DeviationMaps;
use guards::{GuardMaps, Guarding};
use notices::NoticeMaps;
pub use programs::ProgramRun;
use programs::{Manner, Stubs};
use shadow::ShadowMaps;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use trace::TraceMaps;
use zerocopy::transmute;

/// The eBPF object, as `build.rs` made it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/arp-ebpf"));

// The words of `Global`.
const SEQUENCE: usize = offset_of!(Global, sequence) / 8;
const LEASE: usize = offset_of!(Global, lease_until) / 8;
const CLOCK: usize = offset_of!(Global, clock) / 8;
const SETTINGS_WRITTEN: usize = offset_of!(Global, settings_written) / 8;
const SETTINGS_READ: usize = offset_of!(Global, settings_read) / 8;
const WRITES_ANNOUNCED: usize = offset_of!(Global, writes_announced) / 8;
const WRITES_LOST: usize = offset_of!(Global, writes_lost) / 8;
const WHOSE: usize = offset_of!(Global, whose) / 8;
const NETNS: usize = offset_of!(Global, netns) / 8;
const WRITTEN_ELSEWHERE: usize = offset_of!(Global, written_elsewhere) / 8;
const DOUBTED: usize = offset_of!(Global, doubted) / 8;
const PROXIES_UNTIL: usize = offset_of!(Global, proxies_until) / 8;
const PROXIES_ASKED: usize = offset_of!(Global, proxies_asked) / 8;
const COMMON_VIEW: usize = offset_of!(Global, common_view) / 8;

/// A map of interfaces' addresses, without values.
struct Addresses {
    map: HashMap<MapData, [u8; 8], [u8; 4]>,
    entries: u32,
}

impl Addresses {
    fn new(map: Map) -> anyhow::Result<Self> {
        Ok(Addresses { map: HashMap::try_from(map)?, entries: 0 })
    }

    /// Adds or removes an address. Gives 1 if it finds no room: without it, frames pass.
    fn put(&mut self, key: IfaceAddr, present: bool) -> anyhow::Result<u64> {
        /// BPF_NOEXIST (include/uapi/linux/bpf.h): the entry must be new.
        const NEW: u64 = 1;
        let key: [u8; 8] = transmute!(key);
        if !present {
            self.entries -= u32::from(removed(self.map.remove(&key))?);
            return Ok(0);
        }
        match self.map.insert(key, [0; 4], NEW) {
            Ok(()) => self.entries += 1,
            Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => {}
            Err(_) => return Ok(1),
        }
        Ok(0)
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSize {
    /// What it holds.
    pub name: &'static str,
    /// How many of them.
    pub entries: u32,
    /// How many there is room for.
    pub most: u32,
}

/// Loaded maps and program. Dropped, the program detaches from everything, and all is gone.
pub struct Bpf {
    ebpf: Ebpf,
    global: Words,
    oifs: Words,
    ifaces: BucketTable<3>,
    neighbours: BucketTable<1>,
    /// The buckets of neighbours that have come into doubt, as the program notes them.
    doubted: Words,
    /// How many of those have been read.
    doubted_read: u64,
    doubts: DoubtedBuckets,
    proxies: Addresses,
    own_addresses: Addresses,
    counters: CounterPool,
    guards: GuardMaps,
    deviations: DeviationMaps,
    shadow: ShadowMaps,
    manner: Manner,
    /// Whether the programs that tell of each frame are in place.
    is_traced: bool,
    trace: TraceMaps,
    pressure: Words,
    /// Why the neighbour table cannot be watched, where that is wanted.
    cannot_watch: Option<String>,
    notices: NoticeMaps,
    fib: MappedFib,
    trie: Trie,
    /// Entries for which a map had no room: their frames are passed.
    refused: u64,
    /// The interfaces among them, and why.
    left_out: BTreeMap<u32, String>,
    /// `CLOCK_MONOTONIC` nanoseconds until which the tables may be trusted; 0 while they may not.
    lease_until: u64,
    /// Nanoseconds of a jiffy.
    tick_ns: u64,
    knows_frags: bool,
    /// Why the sysctl hook cannot know whose a setting is.
    cannot_tell_whose: Option<String>,
    stubs: Stubs,
}

impl Bpf {
    /// Loads the object.
    ///
    /// # Errors
    /// The kernel refuses: capabilities are missing, or it is too old, or without BPF.
    pub fn load() -> anyhow::Result<Self> {
        Self::load_with(Guarding::Nothing, Manner::AsTheKernel)
    }

    /// The same, with room for the guard's policies, and with the programs that answer in this manner.
    ///
    /// # Errors
    /// As there.
    pub fn load_with(guarding: Guarding, manner: Manner) -> anyhow::Result<Self> {
        let (offsets, cannot_tell_whose) = match netns_offsets() {
            Ok(offsets) => (offsets, None),
            Err(error) => (Default::default(), Some(format!("{error:#}"))),
        };
        let guarded = if guarding == Guarding::Nothing { 1 } else { guard::MAX_GUARDS };
        let (admitted, (table, cannot_watch)) = match guarding {
            Guarding::ArpAndIp => {
                let table = table_offsets();
                let cannot = table.as_ref().err().map(|error| format!("{error:#}"));
                (unresolved::ADMITTED, (table.unwrap_or_default(), cannot))
            }
            Guarding::Nothing | Guarding::Arp => (1, Default::default()),
        };
        // Of both lists there is room for those of a change, too, while those before it are still there.
        let (deviating, gateways) =
            if manner == Manner::ByPolicy { (guard::MAX_GUARDS, 2 * deviation::MAX_GATEWAYS) } else { (1, 1) };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(guard::names::GUARDS, guarded)
            .map_max_entries(guard::names::ALLOWED, 2 * guard::MAX_ALLOWED)
            .map_max_entries(unresolved::names::ADMITTED, admitted)
            .override_global(unresolved::names::TABLE_OFFSETS, &table, true)
            .map_max_entries(deviation::names::DEVIATIONS, deviating)
            .map_max_entries(deviation::names::GATEWAYS, gateways)
            .map_max_entries(shadow_names::SAMPLES, if manner == Manner::Shadow { MAX_SAMPLES } else { 1 })
            .map_max_entries(notice::names::EVENT_MARKS, guarded)
            .override_global(names::NETNS_OFFSETS, &offsets, true)
            .load(OBJECT)
            .map_err(|error| refusal::of_object(&error))?;
        let knows_frags = load_xdp(&mut ebpf)?;

        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the eBPF object has no map {name}"));
        let global = Words::new(array(take(names::GLOBAL)?)?, size_of::<Global>())?;
        let oifs = Words::new(array(take(names::OIFS)?)?, size_of::<Oif>())?;
        let fib = MappedFib::new(array(take(names::FIB_ROOT)?)?, ArrayOfMaps::try_from(take(names::FIB_NODES)?)?)?;
        let ifaces = Words::new(array(take(names::IFACES)?)?, size_of::<IfaceBucket>())?;
        let neighbours = Words::new(array(take(names::NEIGHBOURS)?)?, size_of::<NeighbourBucket>())?;
        let occupied = Words::new(array(take(names::OCCUPIED)?)?, size_of::<u64>())?;
        let doubted = Words::new(array(take(names::DOUBTED)?)?, size_of::<u64>())?;
        let counters = ArrayOfMaps::try_from(take(names::COUNTERS)?)?;
        let counters = Chunks::new("interfaces' counters", counters, CHUNK_COUNTERS, size_of::<Counters>());
        let guards = array(take(guard::names::GUARDS)?)?;
        let guards = GuardMaps::new(guarding, guards, guarded, take(guard::names::ALLOWED)?)?;
        let pressure = Words::new(array(take(unresolved::names::PRESSURE)?)?, size_of::<unresolved::Pressure>())?;
        let deviations = array(take(deviation::names::DEVIATIONS)?)?;
        let deviations = DeviationMaps::new(deviations, deviating, take(deviation::names::GATEWAYS)?)?;
        let not_sampled = array(take(shadow_names::NOT_SAMPLED)?)?;
        let shadow = ShadowMaps::new(take(shadow_names::SAMPLES)?, not_sampled)?;
        let control = array(take(notice::names::NOTICE_CONTROL)?)?;
        let marks = array(take(notice::names::EVENT_MARKS)?)?;
        let rings = ArrayOfMaps::try_from(take(notice::names::NOTICES)?)?;
        let notices = NoticeMaps::new(control, marks, guarded, rings)?;
        let control = array(take(trace_names::TRACE_CONTROL)?)?;
        let trace_maps = TraceMaps::new(control, ArrayOfMaps::try_from(take(trace_names::TRACES)?)?)?;
        Ok(Bpf {
            deviations,
            shadow,
            manner,
            is_traced: false,
            trace: trace_maps,
            global,
            oifs,
            ifaces: BucketTable::new(ifaces, IFACE_BUCKETS, PLACES),
            neighbours: BucketTable::new(neighbours, NEIGHBOUR_BUCKETS, NEIGHBOUR_PLACES).with_occupied(occupied),
            doubted,
            doubted_read: 0,
            doubts: DoubtedBuckets::default(),
            proxies: Addresses::new(take(names::PROXIES)?)?,
            own_addresses: Addresses::new(take(names::OWN_ADDRESSES)?)?,
            counters: CounterPool::new(counters)?,
            guards,
            pressure,
            cannot_watch,
            notices,
            fib,
            trie: Trie::default(),
            refused: 0,
            left_out: BTreeMap::new(),
            lease_until: 0,
            tick_ns: tick_ns()?,
            knows_frags,
            cannot_tell_whose,
            stubs: Stubs::default(),
            ebpf,
        })
    }

    /// The object.
    pub(crate) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The time in jiffies, as the programs see it.
    fn jiffies(&mut self) -> anyhow::Result<u64> {
        // The shortest frame that BPF_PROG_TEST_RUN takes.
        let frame = [0; 14];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let clock: &mut Xdp = self.program(names::CLOCK_PROGRAM)?.try_into()?;
        clock.test_run(options)?;
        Ok(self.global.long(CLOCK).load(Ordering::Relaxed))
    }

    /// 1 more than the number of the view that all senders share; 0 if there is none.
    fn common_view_number(&self) -> u16 {
        self.global.long(COMMON_VIEW).load(Ordering::Relaxed) as u16
    }

    /// Lets answers depend on static proxy entries until then, in nanoseconds of CLOCK_MONOTONIC.
    pub fn confirm_proxies(&mut self, until: u64) {
        self.global.long(PROXIES_UNTIL).store(until, Ordering::Release);
    }

    /// When a decision last depended on a static proxy entry, in nanoseconds of CLOCK_MONOTONIC; 0: none has.
    pub fn proxies_asked(&self) -> u64 {
        self.global.long(PROXIES_ASKED).load(Ordering::Relaxed)
    }

    /// In which manner the programs answer.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// Whether the kernel knows XDP programs that take frames in several buffers.
    fn knows_frags(&self) -> bool {
        self.knows_frags
    }

    /// A program of the object, loaded or not.
    pub(crate) fn program(&mut self, name: &str) -> anyhow::Result<&mut Program> {
        self.ebpf.program_mut(name).ok_or_else(|| anyhow!("the eBPF object has no program {name}"))
    }

    /// Nodes of the FIB in use.
    pub fn fib_nodes(&self) -> u32 {
        self.trie.nodes()
    }

    /// How many writes of settings the sysctl hook has counted.
    pub fn settings_written(&self) -> u64 {
        self.global.long(SETTINGS_WRITTEN).load(Ordering::SeqCst)
    }

    /// How many of those it has announced, or could not announce.
    pub fn writes_announced(&self) -> u64 {
        self.global.long(WRITES_ANNOUNCED).load(Ordering::SeqCst)
    }

    /// How many it could not announce.
    pub fn writes_lost(&self) -> u64 {
        self.global.long(WRITES_LOST).load(Ordering::SeqCst)
    }

    /// Why the sysctl hook cannot know whose a setting is, if that is known before it is tried.
    pub(crate) fn cannot_tell_whose(&self) -> Option<&str> {
        self.cannot_tell_whose.as_deref()
    }

    /// Has the sysctl hook say whose the next setting is that anybody reads ([`Bpf::told_whose`]).
    pub(crate) fn ask_whose(&self) {
        self.global.long(WHOSE).store(Whose::ASKED, Ordering::SeqCst);
    }

    /// What the sysctl hook has said, as [`Whose::word`]; it is asked no more.
    pub(crate) fn told_whose(&self) -> u64 {
        self.global.long(WHOSE).swap(0, Ordering::SeqCst)
    }

    /// Has only writes of settings of this network namespace count, or [`EVERYBODY`](arp_common::settings::EVERYBODY)'s,
    /// or [`NOBODY`](arp_common::settings::NOBODY)'s.
    pub(crate) fn set_netns(&self, netns: u64) {
        self.global.long(NETNS).store(netns, Ordering::SeqCst);
    }

    /// How many writes of settings did not count because of that.
    pub fn written_elsewhere(&self) -> u64 {
        self.global.long(WRITTEN_ELSEWHERE).load(Ordering::SeqCst)
    }

    /// Lets decisions trust the settings again, unless more were written than this.
    pub fn set_settings_read(&mut self, written: u64) {
        self.global.long(SETTINGS_READ).store(written, Ordering::Release);
    }

    /// Trusts the neighbour entries again that were in doubt for long enough. To be called when everything that the
    /// kernel had notified by `since_drained` has been applied.
    pub fn settle_doubts(&mut self, since_drained: Instant) {
        self.note_doubts();
        let neighbours = &self.neighbours;
        self.doubts.settle(since_drained, None, |bucket| neighbours.doubt(bucket));
    }

    /// The same for all that have waited for the shortest time that will do, however often they came into doubt. Says
    /// whether none is in doubt.
    pub fn settle_all_doubts(&mut self, since_drained: Instant) -> bool {
        self.note_doubts();
        let neighbours = &self.neighbours;
        self.doubts.settle(since_drained, Some(PAUSE), |bucket| neighbours.doubt(bucket));
        self.doubts.due().is_none()
    }

    /// Trusts every neighbour entry again: for tests of the program, where no frame reaches a kernel.
    pub fn trust_again(&mut self) {
        self.note_doubts();
        let neighbours = &self.neighbours;
        self.doubts.settle(Instant::now(), Some(Duration::ZERO), |bucket| neighbours.doubt(bucket));
    }

    /// When neighbour entries are to be trusted again, if some that the agent knows of are in doubt.
    pub fn doubts_due(&self) -> Option<Instant> {
        self.doubts.due()
    }

    /// Reads which buckets have come into doubt.
    fn note_doubts(&mut self) {
        let doubted = self.global.long(DOUBTED).load(Ordering::SeqCst);
        if doubted == self.doubted_read {
            return;
        }
        let now = Instant::now();
        if doubted - self.doubted_read > u64::from(DOUBTED_LEN) {
            // Some of them have been written over.
            for bucket in 0..self.neighbours.buckets() {
                self.doubts.note(bucket, self.neighbours.doubt(bucket), now);
            }
            self.doubted_read = doubted;
            return;
        }
        while self.doubted_read < doubted {
            let number = self.doubted_read;
            let noted = self.doubted.long(number as usize % DOUBTED_LEN as usize).load(Ordering::SeqCst);
            let bucket = (noted as u32).checked_sub(1).filter(|_| noted >> 32 == number & u64::from(u32::MAX));
            // Else its CPU is about to write it.
            let Some(bucket) = bucket else { return };
            self.doubts.note(bucket, self.neighbours.doubt(bucket), now);
            self.doubted_read += 1;
        }
    }

    /// How many entries each map has that follows the kernel's state, and how many it may have.
    pub fn map_sizes(&self) -> [MapSize; 6] {
        let size = |name, (entries, most)| MapSize { name, entries, most };
        [
            size("counters", self.counters.size()),
            size("fib_nodes", (self.trie.nodes(), CHUNK_NODES * MAX_CHUNKS)),
            size("interfaces", self.ifaces.size()),
            size("neighbours", self.neighbours.size()),
            size("own_addresses", (self.own_addresses.entries, MAX_IFACE_ADDRS)),
            size("proxies", (self.proxies.entries, MAX_IFACE_ADDRS)),
        ]
    }

    /// Entries for which a map had no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The interfaces for which there was no room, and why: their frames pass.
    pub fn left_out(&self) -> &BTreeMap<u32, String> {
        &self.left_out
    }

    /// The counters of an interface; zeros for one that is not known.
    pub fn counters(&self, ifindex: u32) -> Counters {
        self.counters.on(ifindex)
    }

    /// The counters of frames that came in on interfaces without counters of their own.
    pub fn unknown_counters(&self) -> Counters {
        self.counters.on_unknown()
    }

    /// The counters of all interfaces, also of those that are gone.
    pub fn total_counters(&self) -> Counters {
        self.counters.total()
    }

    fn apply_one(&mut self, change: &Change) -> anyhow::Result<()> {
        match *change {
            Change::Iface(ifindex, iface) => self.apply_iface(ifindex, iface),
            Change::Neighbour(key, neighbour) => {
                self.apply_neighbour(key, neighbour);
            }
            Change::Proxy(key, present) => self.refused += self.proxies.put(key, present)?,
            Change::OwnAddress(key, present) => self.refused += self.own_addresses.put(key, present)?,
            Change::Oif(slot, oif) => self.oifs.long(usize::from(slot)).store(transmute!(oif), Ordering::Relaxed),
            Change::Insert(view, prefix, leaf) => self.trie.insert(&mut self.fib, view, prefix, leaf)?,
            Change::Forget(view) => self.trie.forget(&mut self.fib, view),
            Change::CommonView(view) => {
                self.global.long(COMMON_VIEW).store(view.map_or(0, |view| u64::from(view) + 1), Ordering::Relaxed);
            }
            Change::Remove { view, prefix, cover, cover_len } => {
                self.trie.remove(&mut self.fib, view, prefix, cover, cover_len)?;
            }
        }
        Ok(())
    }

    fn apply_iface(&mut self, ifindex: u32, iface: Option<Iface>) {
        self.left_out.remove(&ifindex);
        let Some(iface) = iface else {
            self.ifaces.remove(u64::from(ifindex));
            if let Some(index) = self.counters.index(ifindex) {
                self.guards.clear(index);
                self.deviations.clear(index);
                self.notices.clear(index);
            }
            self.counters.give_back(ifindex);
            return;
        };
        // What is wrong with one interface holds back that one: without an entry its frames pass.
        let refused = match self.counters.take(ifindex) {
            Ok(counters) => {
                let entry = IfaceEntry { iface, counters, unused: 0 };
                let inserted = self.ifaces.insert(u64::from(ifindex), transmute!(entry));
                inserted.err().map(|Full| "the table of interfaces is full".to_owned())
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(why) = refused {
            self.ifaces.remove(u64::from(ifindex));
            self.counters.give_back(ifindex);
            self.refused += 1;
            self.left_out.insert(ifindex, why);
        }
    }

    fn apply_neighbour(&mut self, key: IfaceAddr, neighbour: Option<Neighbour>) {
        let key: u64 = transmute!(key);
        match neighbour {
            Some(neighbour) => {
                let refused = self.neighbours.insert(key, transmute!(neighbour)) == Err(Full);
                self.refused += u64::from(refused);
            }
            None => self.neighbours.remove(key),
        }
    }
}

impl Dataplane for Bpf {
    fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let sequence = self.global.long(SEQUENCE);
        let routes = changes.iter().any(|change| !matches!(change, Change::Neighbour(..)));
        let begun = sequence::begun(sequence.load(Ordering::Relaxed), routes);
        sequence.store(begun, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // A batch that fails stays open: the sequence remains odd, and every frame passes until the agent has ended.
        for change in changes {
            self.apply_one(change)?;
        }
        fence(Ordering::SeqCst);
        self.global.long(SEQUENCE).store(sequence::ended(begun, routes), Ordering::Relaxed);
        Ok(())
    }

    fn set_lease(&mut self, until: u64) -> anyhow::Result<()> {
        let jiffies = match self.jiffies() {
            Ok(jiffies) => jiffies,
            Err(error) => {
                self.withdraw_lease();
                return Err(error.context("reading the program's clock failed"));
            }
        };
        let ticks = until.saturating_sub(monotonic_ns()) / self.tick_ns;
        self.lease_until = until;
        self.global.long(LEASE).store(jiffies + ticks, Ordering::Relaxed);
        Ok(())
    }

    fn withdraw_lease(&mut self) {
        self.lease_until = 0;
        self.global.long(LEASE).store(0, Ordering::Relaxed);
    }
}

impl Tables for Bpf {
    fn sequence(&self) -> u64 {
        self.global.long(SEQUENCE).load(Ordering::SeqCst)
    }

    fn lease_is_valid(&self) -> bool {
        monotonic_ns() < self.lease_until
    }

    fn proxies_are_confirmed(&self) -> bool {
        monotonic_ns() < self.global.long(PROXIES_UNTIL).load(Ordering::Relaxed)
    }

    fn settings_are_read(&self) -> bool {
        self.global.long(SETTINGS_READ).load(Ordering::Relaxed) == self.settings_written()
    }

    fn iface(&self, ifindex: u32) -> Option<Iface> {
        let entry: IfaceEntry = transmute!(self.ifaces.get(u64::from(ifindex))?);
        Some(entry.iface)
    }

    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        let mut neighbour: Neighbour = transmute!(self.neighbours.get(transmute!(key))?);
        // Where it lies is not told; an entry is not trusted either while the other of its buckets is in doubt, as
        // both always are.
        let doubted = choices(transmute!(key), NEIGHBOUR_BUCKETS).into_iter().any(|bucket| {
            let [doubts, settled] = self.neighbours.doubt(bucket);
            doubts.load(Ordering::Relaxed) != settled.load(Ordering::Relaxed)
        });
        if doubted {
            neighbour.flags |= Neighbour::DOUBTED;
        }
        Some(neighbour)
    }

    fn proxied(&self, key: IfaceAddr) -> bool {
        self.proxies.map.get(&transmute!(key), 0).is_ok()
    }

    fn owned(&self, key: IfaceAddr) -> bool {
        self.own_addresses.map.get(&transmute!(key), 0).is_ok()
    }

    fn oif(&self, slot: u16) -> Option<Oif> {
        Some(transmute!(self.oifs.long(usize::from(slot)).load(Ordering::Relaxed)))
    }

    fn fib_root(&self, view: u16, index: u8) -> Entry {
        self.fib.root(view, u32::from(index))
    }

    fn fib_node(&self, node: u32, index: u8) -> Entry {
        self.fib.node(node, u32::from(index))
    }
}

/// Loads the clock and the XDP program; says whether that is the one that takes frames in several buffers. An older kernel does not
/// know the flag (EINVAL) and gets the other one.
fn load_xdp(ebpf: &mut Ebpf) -> anyhow::Result<bool> {
    load(ebpf, names::CLOCK_PROGRAM)?.map_err(|error| refusal::of_program(names::CLOCK_PROGRAM, &error))?;
    match load(ebpf, names::XDP_FRAGS_PROGRAM)? {
        Ok(()) => Ok(true),
        Err(error) => {
            let refused = refusal::of_program(names::XDP_FRAGS_PROGRAM, &error);
            if refusal::is_for_privilege(&error) {
                return Err(refused);
            }
            log::info!("XDP programs see whole frames only: {refused}");
            load(ebpf, names::XDP_PROGRAM)?.map_err(|error| refusal::of_program(names::XDP_PROGRAM, &error))?;
            Ok(false)
        }
    }
}

/// Loads an XDP program of the object; inside, what the kernel says.
fn load(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Result<(), ProgramError>> {
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    Ok(program.load())
}

/// The map behind an array, whatever its elements.
fn array(map: Map) -> anyhow::Result<MapData> {
    match map {
        Map::Array(data) => Ok(data),
        other => Err(anyhow!("the eBPF object has {other:?} where an array is wanted")),
    }
}

/// Whether there was something to remove.
fn removed(removed: Result<(), MapError>) -> anyhow::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("removing an entry failed"),
    }
}
