//! The BPF maps and the program in the kernel.

use super::Dataplane;
use super::memory::{MappedFib, Words};
use super::trie::{Entries as _, Trie};
use crate::mirror::Change;
use anyhow::{Context as _, anyhow};
use arp_common::fib::Entry;
use arp_common::maps::{Counters, Global, Iface, IfaceAddr, Neighbour, Oif, UNKNOWN_INGRESS, names};
use arp_common::reason::COUNTERS;
use arp_common::{ArpFrame, Tables};
use aya::maps::{ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{Ordering, fence};
use zerocopy::transmute;

/// The eBPF object, as `build.rs` made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/arp-ebpf"));

/// The global that `aya-log-ebpf` reads: lines above this level are not even in the verified program.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// A hash map whose keys and values cross the kernel boundary as bytes.
type Bytes<const K: usize, const V: usize> = HashMap<MapData, [u8; K], [u8; V]>;

/// Loaded maps and program. Dropped, the program detaches from everything, and all is gone.
pub struct Bpf {
    ebpf: Ebpf,
    global: Words,
    oifs: Words,
    ifaces: HashMap<MapData, u32, [u8; 16]>,
    neighbours: Bytes<8, 8>,
    proxies: Bytes<8, 4>,
    own_addresses: Bytes<8, 4>,
    counters: PerCpuHashMap<MapData, u32, Counters>,
    fib: MappedFib,
    trie: Trie,
    /// Counters of interfaces that are gone.
    gone: Counters,
    /// Entries for which a map had no room: their frames are passed.
    refused: u64,
}

/// What the loaded program did with a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// XDP_PASS, XDP_TX …
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Bpf {
    /// Loads the object. With `trace`, the program logs a line for each decision.
    ///
    /// # Errors
    /// The kernel refuses: no CAP_BPF, too old, or without BPF.
    pub fn load(trace: bool) -> anyhow::Result<Self> {
        let level = if trace { aya_log::Level::Trace as u8 } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .override_global(LOG_LEVEL, &level, true)
            .load(OBJECT)
            .context("loading the eBPF object failed: it needs CAP_BPF and CAP_NET_ADMIN, and Linux 5.15 with BPF")?;
        let program: &mut Xdp = program(&mut ebpf)?;
        program.load().context("the kernel's verifier refused the XDP program")?;

        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the eBPF object has no map {name}"));
        let global = Words::new(array(take(names::GLOBAL)?)?, size_of::<Global>())?;
        let oifs = Words::new(array(take(names::OIFS)?)?, size_of::<Oif>())?;
        let fib = MappedFib::new(array(take(names::FIB_ROOT)?)?, ArrayOfMaps::try_from(take(names::FIB_NODES)?)?)?;
        let mut bpf = Bpf {
            global,
            oifs,
            ifaces: HashMap::try_from(take(names::IFACES)?)?,
            neighbours: HashMap::try_from(take(names::NEIGHBOURS)?)?,
            proxies: HashMap::try_from(take(names::PROXIES)?)?,
            own_addresses: HashMap::try_from(take(names::OWN_ADDRESSES)?)?,
            counters: PerCpuHashMap::try_from(take(names::COUNTERS)?)?,
            fib,
            trie: Trie::default(),
            gone: [0; COUNTERS],
            refused: 0,
            ebpf,
        };
        bpf.make_counters(UNKNOWN_INGRESS)?;
        Ok(bpf)
    }

    /// The object, for its log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The XDP program.
    ///
    /// # Errors
    /// The object has none.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        program(&mut self.ebpf)
    }

    /// Nodes of the FIB in use.
    pub fn fib_nodes(&self) -> u32 {
        self.trie.nodes()
    }

    /// How many writes of settings the sysctl hook has counted.
    pub fn settings_written(&self) -> u64 {
        self.global.long(2).load(Ordering::SeqCst)
    }

    /// How many of those it has announced, or could not announce.
    pub fn writes_announced(&self) -> u64 {
        self.global.long(4).load(Ordering::SeqCst)
    }

    /// How many it could not announce.
    pub fn writes_lost(&self) -> u64 {
        self.global.long(5).load(Ordering::SeqCst)
    }

    /// Lets decisions trust the settings again, unless more were written than this.
    pub fn set_settings_read(&mut self, written: u64) {
        self.global.long(3).store(written, Ordering::Release);
    }

    /// Entries for which a map had no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The counters of an interface, summed over the CPUs; zeros for one that is not known.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self, ifindex: u32) -> anyhow::Result<Counters> {
        match self.counters.get(&ifindex, 0) {
            Ok(per_cpu) => Ok(sum(per_cpu.iter())),
            Err(MapError::KeyNotFound) => Ok([0; COUNTERS]),
            Err(error) => Err(error).with_context(|| format!("reading the counters of interface {ifindex} failed")),
        }
    }

    /// The counters of all interfaces, also of those that are gone.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn total_counters(&self) -> anyhow::Result<Counters> {
        let mut total = self.gone;
        for ifindex in self.counters.keys() {
            let counters = self.counters(ifindex.context("reading the counters failed")?)?;
            total = sum([total, counters].iter());
        }
        Ok(total)
    }

    /// Runs the loaded program on a frame, as if it had come in on `ingress` (BPF_PROG_TEST_RUN; the context needs
    /// Linux 5.15). The program counts the frame like any other.
    ///
    /// # Errors
    /// The kernel refuses: the interface is not in this namespace, or the frame is shorter than 14 bytes.
    pub fn run(&mut self, ingress: u32, frame: &[u8]) -> anyhow::Result<Run> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u8; 24] = transmute!([0, frame.len() as u32, 0, ingress, 0, 0]);
        let mut out = vec![0; frame.len().max(ArpFrame::LEN)];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = self.xdp()?.test_run(options).context("running the loaded program on a frame failed")?;
        out.truncate(result.data_size_out as usize);
        Ok(Run { action: result.return_value, frame: out })
    }

    fn apply_one(&mut self, change: &Change) -> anyhow::Result<()> {
        match *change {
            Change::Iface(ifindex, iface) => self.apply_iface(ifindex, iface)?,
            Change::Neighbour(key, neighbour) => {
                put(&mut self.neighbours, key, neighbour.map(|value| transmute!(value)), &mut self.refused)?;
            }
            Change::Proxy(key, present) => put(&mut self.proxies, key, present.then_some([0; 4]), &mut self.refused)?,
            Change::OwnAddress(key, present) => {
                put(&mut self.own_addresses, key, present.then_some([0; 4]), &mut self.refused)?;
            }
            Change::Oif(slot, oif) => self.oifs.long(usize::from(slot)).store(transmute!(oif), Ordering::Relaxed),
            Change::Insert(prefix, leaf) => self.trie.insert(&mut self.fib, prefix, leaf)?,
            Change::Remove { prefix, cover, cover_len } => {
                self.trie.remove(&mut self.fib, prefix, cover, cover_len)?;
            }
        }
        Ok(())
    }

    fn apply_iface(&mut self, ifindex: u32, iface: Option<Iface>) -> anyhow::Result<()> {
        let Some(iface) = iface else {
            self.gone = sum([self.gone, self.counters(ifindex)?].iter());
            absent_is_fine(self.counters.remove(&ifindex)).context("removing counters failed")?;
            return absent_is_fine(self.ifaces.remove(&ifindex)).context("removing an interface's entry failed");
        };
        let bytes: [u8; 16] = transmute!(iface);
        self.ifaces
            .insert(ifindex, bytes, 0)
            .with_context(|| format!("no room for the entry of interface {ifindex}"))?;
        self.make_counters(ifindex)
    }

    fn make_counters(&mut self, ifindex: u32) -> anyhow::Result<()> {
        if matches!(self.counters.get(&ifindex, 0), Err(MapError::KeyNotFound)) {
            let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
            let zeros = PerCpuValues::try_from(vec![[0; COUNTERS]; cpus])?;
            self.counters.insert(ifindex, zeros, 0).with_context(|| format!("no room for counters of {ifindex}"))?;
        }
        Ok(())
    }
}

impl Dataplane for Bpf {
    fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let sequence = self.global.long(0);
        let before = sequence.load(Ordering::Relaxed);
        sequence.store(before | 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // A batch that fails stays open: the sequence remains odd, and every frame passes until the agent has ended.
        for change in changes {
            self.apply_one(change)?;
        }
        fence(Ordering::SeqCst);
        self.global.long(0).store((before | 1) + 1, Ordering::Relaxed);
        Ok(())
    }

    fn set_lease(&mut self, until: u64) {
        self.global.long(1).store(until, Ordering::Relaxed);
    }
}

impl Tables for Bpf {
    fn sequence(&self) -> u64 {
        self.global.long(0).load(Ordering::SeqCst)
    }

    fn lease_is_valid(&self) -> bool {
        monotonic_ns() < self.global.long(1).load(Ordering::Relaxed)
    }

    fn settings_are_read(&self) -> bool {
        self.global.long(3).load(Ordering::Relaxed) == self.settings_written()
    }

    fn iface(&self, ifindex: u32) -> Option<Iface> {
        self.ifaces.get(&ifindex, 0).ok().map(|bytes| transmute!(bytes))
    }

    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        self.neighbours.get(&transmute!(key), 0).ok().map(|bytes| transmute!(bytes))
    }

    fn proxied(&self, key: IfaceAddr) -> bool {
        self.proxies.get(&transmute!(key), 0).is_ok()
    }

    fn owned(&self, key: IfaceAddr) -> bool {
        self.own_addresses.get(&transmute!(key), 0).is_ok()
    }

    fn oif(&self, slot: u16) -> Option<Oif> {
        Some(transmute!(self.oifs.long(usize::from(slot)).load(Ordering::Relaxed)))
    }

    fn fib_root(&self, index: u16) -> Entry {
        self.fib.root(u32::from(index))
    }

    fn fib_node(&self, node: u32, index: u8) -> Entry {
        self.fib.node(node, u32::from(index))
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of leases.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has CLOCK_MONOTONIC");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

fn program(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    let program = ebpf.program_mut(names::XDP_PROGRAM).ok_or_else(|| anyhow!("the eBPF object has no XDP program"))?;
    Ok(program.try_into()?)
}

/// The map behind an array, whatever its elements.
fn array(map: Map) -> anyhow::Result<MapData> {
    match map {
        Map::Array(data) => Ok(data),
        other => Err(anyhow!("the eBPF object has {other:?} where an array is wanted")),
    }
}

/// Sets or removes an entry. One that finds no room is left out and counted: without it, frames pass.
fn put<const V: usize>(
    map: &mut Bytes<8, V>,
    key: IfaceAddr,
    value: Option<[u8; V]>,
    refused: &mut u64,
) -> anyhow::Result<()> {
    let key: [u8; 8] = transmute!(key);
    let Some(value) = value else {
        return absent_is_fine(map.remove(&key)).context("removing an entry failed");
    };
    if map.insert(key, value, 0).is_err() {
        *refused += 1;
        // What was there before must not outlive the change.
        absent_is_fine(map.remove(&key)).context("removing an entry failed")?;
    }
    Ok(())
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Counters>) -> Counters {
    let mut sum = [0; COUNTERS];
    for counters in all {
        for (total, count) in sum.iter_mut().zip(counters) {
            *total += count;
        }
    }
    sum
}

const _: fn() = || {
    fn crosses_as_it_is<T: Pod>() {}
    crosses_as_it_is::<Counters>();
};
