//! Tables that the program and plain memory both get: a Calico-like node whose one interface stands for the pod's
//! veth. BPF_PROG_TEST_RUN takes any interface of the namespace as ingress; a new namespace has only `lo`.

use anyhow::ensure;
use arp_agent::clock::monotonic_ns;
use arp_agent::dataplane::Dataplane;
use arp_agent::dataplane::bpf::Bpf;
use arp_agent::dataplane::bpf::guards::Guarding;
use arp_agent::dataplane::bpf::programs::Manner;
use arp_agent::dataplane::fake::Fake;
use arp_agent::mirror::Change;
use arp_agent::prefix::Prefix;
use arp_common::Lladdr;
use arp_common::fib::Entry;
use arp_common::maps::{Counters, Iface, IfaceAddr, Neighbour, Oif};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

/// `lo`, which is the first interface of every namespace.
pub(crate) const INGRESS: u32 = 1;
pub(crate) const MAC: [u8; 6] = [0xee; 6];
pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const POD: [u8; 4] = [10, 5, 0, 5];
pub(crate) const NEXT_POD: [u8; 4] = [10, 5, 0, 6];
pub(crate) const LOCAL: [u8; 4] = [10, 77, 0, 1];

const TO_POD: u16 = 0;
const TO_UPLINK: u16 = 1;

/// The view of senders and of probes; a second one has but a local address and a route that differs.
pub(crate) const VIEW: u16 = 0;
pub(crate) const OTHER_VIEW: u16 = 200;

/// The tables of a node with a default route by the uplink, in the program's maps and in plain memory.
pub(crate) struct ProgramTables {
    pub(crate) bpf: Bpf,
    pub(crate) fake: Fake,
}

impl ProgramTables {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with_room_for(Guarding::Nothing, Manner::AsTheKernel)
    }

    /// The same, with room for the guard's policies.
    pub(crate) fn guarded() -> anyhow::Result<Self> {
        Self::with_room_for(Guarding::Arp, Manner::AsTheKernel)
    }

    /// The same, for IP packets, too.
    pub(crate) fn guarded_with_ip() -> anyhow::Result<Self> {
        Self::with_room_for(Guarding::ArpAndIp, Manner::AsTheKernel)
    }

    /// The same, with the programs that answer by policies, too.
    pub(crate) fn deviating() -> anyhow::Result<Self> {
        Self::with_room_for(Guarding::Nothing, Manner::ByPolicy)
    }

    /// The same, with the programs that answer nothing.
    pub(crate) fn shadowing() -> anyhow::Result<Self> {
        Self::with_room_for(Guarding::Nothing, Manner::Shadow)
    }

    fn with_room_for(guarding: Guarding, manner: Manner) -> anyhow::Result<Self> {
        // This thread's own, gone with it.
        unshare(CloneFlags::CLONE_NEWNET)?;
        // As if frames to the interface came in on it: what they are for is noted before a tc program sees them.
        let mac = Lladdr::new(MAC);
        let set = Command::new("ip").args(["link", "set", "lo", "address", &mac.to_string()]).status()?;
        ensure!(set.success(), "lo does not take the address {mac}");
        let mut tables = ProgramTables { bpf: Bpf::load_with(guarding, manner)?, fake: Fake::default() };
        let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
        tables.apply(&[
            Change::Oif(TO_POD, Oif { ifindex: INGRESS, medium_id: 0 }),
            Change::Oif(TO_UPLINK, Oif { ifindex: 9, medium_id: 0 }),
            Change::Insert(VIEW, Prefix::new([0; 4], 0), Entry::unicast(TO_UPLINK)),
            Change::Insert(VIEW, Prefix::new(POD, 32), Entry::unicast(TO_POD)),
            Change::Insert(VIEW, Prefix::new(NEXT_POD, 32), Entry::unicast(TO_POD)),
            Change::Insert(VIEW, Prefix::new(LOCAL, 32), Entry::LOCAL),
            Change::Insert(VIEW, Prefix::new([10, 66, 0, 0], 16), Entry::OPAQUE),
            Change::Insert(VIEW, Prefix::new([10, 67, 4, 0], 22), Entry::UNANSWERABLE),
            Change::Insert(OTHER_VIEW, Prefix::new([0; 4], 0), Entry::unicast(TO_UPLINK).with_difference()),
            Change::Insert(OTHER_VIEW, Prefix::new([10, 66, 0, 0], 16), Entry::OPAQUE_RULE),
            Change::Insert(OTHER_VIEW, Prefix::new(LOCAL, 32), Entry::LOCAL_ELSEWHERE),
            Change::Neighbour(neighbour(POD), Some(Neighbour { lladdr: POD_MAC, flags: Neighbour::ALWAYS })),
            Change::Iface(INGRESS, Some(Iface { mac: MAC, flags, ..Iface::default() })),
        ])?;
        tables.set_lease(true)?;
        Ok(tables)
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        self.bpf.apply(changes)?;
        self.fake.apply(changes)
    }

    pub(crate) fn set_lease(&mut self, valid: bool) -> anyhow::Result<()> {
        const MINUTE: u64 = 60_000_000_000;
        if valid {
            self.bpf.set_lease(monotonic_ns() + 10 * MINUTE)?;
            self.bpf.confirm_proxies(monotonic_ns() + 10 * MINUTE);
            self.fake.set_lease(1)
        } else {
            self.bpf.withdraw_lease();
            self.fake.withdraw_lease();
            Ok(())
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.bpf.counters(INGRESS)
    }
}

pub(crate) fn neighbour(addr: [u8; 4]) -> IfaceAddr {
    IfaceAddr { ifindex: INGRESS, addr }
}
