//! What lies in the BPF maps. Flat on purpose: integers and byte arrays, no padding (zerocopy checks it), sizes
//! asserted, because the agent and the program are compiled by two compilers. IPv4 and link-layer addresses are in
//! wire order, everything else in the machine's.

use crate::buckets::{Bucket, PLACES};
use crate::lladdr::Lladdr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// Names of the maps and programs in the eBPF object.
pub mod names {
    /// `Array<Global>` with one element, mmapable.
    pub const GLOBAL: &str = "GLOBAL";
    /// `Array<IfaceBucket>`, mmapable: the interfaces that the program is attached to, by ifindex.
    pub const IFACES: &str = "IFACES";
    /// `Array<NeighbourBucket>`, mmapable: valid neighbour entries of those interfaces.
    pub const NEIGHBOURS: &str = "NEIGHBOURS";
    /// `Array<u64>`, mmapable: a bit for each bucket of neighbours that holds any. It is small enough to stay in a CPU's first
    /// cache while a flood of strangers is looked up.
    pub const OCCUPIED: &str = "OCCUPIED";
    /// `Array<u64>`, mmapable: [`DOUBTED`](super::DOUBTED) places for the buckets of neighbours that have come into
    /// doubt.
    pub const DOUBTED: &str = "DOUBTED";
    /// `HashMap<IfaceAddr, u32>`: static proxy entries (pneigh); ifindex 0 stands for any interface.
    pub const PROXIES: &str = "PROXIES";
    /// `HashMap<IfaceAddr, u32>`: targets that `arp_ignore` 1 lets the interface answer for.
    pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
    /// `Array<Oif>`, mmapable: what routes leave by, by slot.
    pub const OIFS: &str = "OIFS";
    /// `Array<FibNode>`, mmapable: the root of each view, by its number.
    pub const FIB_ROOT: &str = "FIB_ROOT";
    /// `ArrayOfMaps` of mmapable `Array<FibNode>`: the FIB's nodes, in chunks that the agent adds when needed.
    pub const FIB_NODES: &str = "FIB_NODES";
    /// `ArrayOfMaps` of mmapable `Array<Counters>`, in chunks that the agent adds when needed: an interface's entry says
    /// which counters are its own; [`UNKNOWN_INGRESS`](super::UNKNOWN_INGRESS) are those of all others.
    pub const COUNTERS: &str = "COUNTERS";
    /// `RingBuf<SettingWrite>`: writes of settings that are about to take effect.
    pub const SETTING_WRITES: &str = "SETTING_WRITES";
    /// The arrays of one program through which the stubs jump.
    pub const JUMP_TC: &str = "JUMP_TC";
    /// See [`JUMP_TC`].
    pub const JUMP_XDP: &str = "JUMP_XDP";
    /// See [`JUMP_TC`].
    pub const JUMP_XDP_FRAGS: &str = "JUMP_XDP_FRAGS";
    /// See [`JUMP_TC`].
    pub const JUMP_XDP_VETH: &str = "JUMP_XDP_VETH";
    /// What is attached in the place of [`TC_PROGRAM`], and hands ARP frames to it while there is an agent.
    pub const TC_STUB: &str = "arp_tc_stub";
    /// The same for [`XDP_PROGRAM`].
    pub const XDP_STUB: &str = "arp_xdp_stub";
    /// The same for [`XDP_FRAGS_PROGRAM`].
    pub const XDP_FRAGS_STUB: &str = "arp_xdpf_stub";
    /// The same for [`XDP_VETH_PROGRAM`].
    pub const XDP_VETH_STUB: &str = "arp_xdpv_stub";
    /// The XDP program.
    pub const XDP_PROGRAM: &str = "arp_xdp";
    /// The program on writes of sysctls, which knows whose a setting is.
    pub const SYSCTL_PROGRAM: &str = "arp_sysctl";
    /// The same for where that cannot be known: it counts the writes of every network namespace.
    pub const SYSCTL_ALL_PROGRAM: &str = "arp_sysctl_all";
    /// `[u32; 5]`, which the agent sets before it loads the object: where the members of
    /// [`NETNS_WAY`](crate::settings::NETNS_WAY) lie.
    pub const NETNS_OFFSETS: &str = "NETNS_OFFSETS";
    /// The program that tells the agent what time it is in jiffies. It is run, never attached.
    pub const CLOCK_PROGRAM: &str = "arp_clock";
    /// The XDP program for kernels that know frames in several buffers (5.18).
    pub const XDP_FRAGS_PROGRAM: &str = "arp_xdp_frags";
    /// The XDP program for veths in driver mode.
    pub const XDP_VETH_PROGRAM: &str = "arp_xdp_veth";
    /// The tc program.
    pub const TC_PROGRAM: &str = "arp_tc";
    /// The self-test's program for veths in driver mode.
    pub const XDP_PROBE: &str = "arp_xdp_probe";
    /// The self-test's program for the other hooks.
    pub const TC_PROBE: &str = "arp_tc_probe";
}

/// The counters for frames of interfaces that have none of their own.
pub const UNKNOWN_INGRESS: u32 = 0;
/// Interfaces whose counters lie in one chunk (512 KiB): few nodes need a second one, for which the kernel lets the agent
/// wait until no program may be running (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c, 6.18).
pub const CHUNK_COUNTERS: u32 = 1024;
/// Most chunks of counters: as many counters as interfaces have room.
pub const MAX_COUNTER_CHUNKS: u32 = 16;
/// Buckets of interfaces: room for 16,384 at the most, of which three quarters can be counted on (512 KiB).
pub const IFACE_BUCKETS: u32 = 4_096;
/// Buckets of neighbours: room for 98,304 at the most, of which three quarters can be counted on (2 MiB).
pub const NEIGHBOUR_BUCKETS: u32 = 32_768;
/// Words of the bits that say which buckets of neighbours hold any.
pub const OCCUPIED: u32 = NEIGHBOUR_BUCKETS / u64::BITS;
/// How many buckets may come into doubt before the agent must look through all of them.
pub const DOUBTED: u32 = 1_024;
/// Places where it is remembered who sent last for an address without a neighbour entry.
pub const STRANGERS: u32 = 4_096;
/// Most entries of each hash map keyed by interface and address.
pub const MAX_IFACE_ADDRS: u32 = 131_072;
/// Slots for what routes leave by; a route that finds none is stored opaque.
pub const MAX_OIFS: u32 = 16_384;

/// What the program asks before anything else.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Global {
    /// Whether the agent writes the tables: see [`crate::sequence`].
    pub sequence: u64,
    /// Jiffies (`bpf_jiffies64`) until which the tables may be trusted; 0 while they may not.
    pub lease_until: u64,
    /// Jiffies when the clock program ran last.
    pub clock: u64,
    /// How many writes of settings were about to take effect so far. The sysctl hook counts, before they do.
    pub settings_written: u64,
    /// The count up to which what was written is in the tables: while the two differ, frames pass.
    pub settings_read: u64,
    /// How many of the writes that were counted have been announced, or could not be.
    pub writes_announced: u64,
    /// How many of them could not be announced.
    pub writes_lost: u64,
    /// [`Whose::ASKED`](crate::settings::Whose::ASKED) while the agent wants to know whose the next setting is that
    /// anybody reads; then the answer, a [`Whose`](crate::settings::Whose).
    pub whose: u64,
    /// Whose writes count: [`EVERYBODY`](crate::settings::EVERYBODY)'s, [`NOBODY`](crate::settings::NOBODY)'s, or those
    /// of settings of the network namespace of this number.
    pub netns: u64,
    /// How many writes of settings did not count because of that. In another cache line than what decisions ask.
    pub written_elsewhere: u64,
    /// How many buckets of neighbours have come into doubt so far; number `n` is noted in `DOUBTED` at `n` modulo its
    /// length.
    pub doubted: u64,
    /// Nanoseconds of CLOCK_MONOTONIC until which an answer may depend on a static proxy entry: the agent has read all of
    /// them a moment ago.
    pub proxies_until: u64,
    /// Nanoseconds of CLOCK_MONOTONIC when a decision last depended on one. While it moves, the agent reads them often.
    pub proxies_asked: u64,
    /// 1 more than the number of the view that all senders share; 0 if there is none, or nobody wants it.
    pub common_view: u64,
}

/// A write of a setting that is about to take effect, or to fail. Text ends at the first 0; empty: not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct SettingWrite {
    /// The path below /proc/sys.
    pub name: [u8; 64],
    /// What is written.
    pub new: [u8; 16],
    /// What was read before.
    pub old: [u8; 16],
}

/// One ingress interface: its address and effective settings (`all` and interface combined, see
/// include/linux/inetdevice.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Iface {
    /// The device's address, which replies carry.
    pub mac: [u8; 6],
    /// The constants of this type, or-ed.
    pub flags: u16,
    /// 0, or the [`Reason`](crate::Reason) why no frame of this interface is answered.
    pub blocked: u16,
    /// The view that probes ask: that of table local alone, or one that says the same of what is local.
    pub probe_view: u16,
    /// `medium_id`.
    pub medium_id: i32,
}

impl Iface {
    /// `proxy_arp` is effective.
    pub const PROXY_ARP: u16 = 1 << 0;
    /// `proxy_arp_pvlan` is effective.
    pub const PVLAN: u16 = 1 << 1;
    /// `forwarding` is on.
    pub const FORWARDING: u16 = 1 << 2;
    /// `proxy_delay` is not 0: proxied answers to broadcast and multicast frames are delayed.
    pub const DELAYED: u16 = 1 << 3;
    /// `arp_ignore` lets every local target be answered (0, 4–7, above 8, negative).
    pub const LOCAL_ALWAYS: u16 = 1 << 4;
    /// `arp_ignore` is 1: the targets in `OWN_ADDRESSES` are answered.
    pub const LOCAL_OWN: u16 = 1 << 5;
    /// `PROXIES` holds an entry that may apply to this interface.
    pub const HAS_PROXIES: u16 = 1 << 6;
    /// tc: replies may be put right into the pod end's input (`bpf_redirect_peer`).
    pub const TO_PEER: u16 = 1 << 7;
    /// `arp_filter` is effective: local targets must be in table local.
    pub const ARP_FILTER: u16 = 1 << 8;
    /// Some route with several next hops has this interface among them: which one the kernel takes decides.
    pub const NEXT_HOP: u16 = 1 << 9;
    /// A routing rule asks for marks.
    pub const MARKS_MATTER: u16 = 1 << 10;

    /// [`Iface::mac`] in a word.
    #[inline(always)]
    pub fn lladdr(&self) -> Lladdr {
        let [word, _]: [u64; 2] = transmute!(*self);
        Lladdr::of_word(word)
    }

    /// Whether `flag` is set.
    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// An IPv4 address on an interface: the key of neighbours, static proxy entries and own addresses.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
pub struct IfaceAddr {
    /// The interface; 0 stands for any, where the map allows it.
    pub ifindex: u32,
    /// The address.
    pub addr: [u8; 4],
}

/// A valid neighbour entry, with what was decided about the sender.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Neighbour {
    /// Its link-layer address.
    pub lladdr: [u8; 6],
    /// The constants of this type, or-ed; from bit [`Neighbour::VIEW_SHIFT`] on the number of the view in which its
    /// targets are looked up.
    pub flags: u16,
}

impl Neighbour {
    /// No frame changes it (PERMANENT, NOARP).
    pub const FIXED: u16 = 1 << 0;
    /// A frame that went up to the kernel may have changed it, and the agent has not heard yet whether it did. Not
    /// part of what the agent writes: it is its bucket that is in doubt.
    pub const DOUBTED: u16 = 1 << 1;
    /// Source validation accepts the sender, whatever the target.
    pub const ALWAYS: u16 = 1 << 2;
    /// Source validation accepts the sender for targets whose leaf does not say that it
    /// [differs](crate::fib::Entry::differs).
    pub const PLAIN: u16 = 1 << 3;
    /// Where the view's number begins.
    pub const VIEW_SHIFT: u32 = 4;

    /// The view in which the sender's targets are looked up.
    #[inline(always)]
    pub const fn view(&self) -> u16 {
        self.flags >> Self::VIEW_SHIFT
    }

    /// Whether source validation is sure to accept the sender, for targets that differ or do not.
    #[inline(always)]
    pub const fn is_accepted(&self, target_differs: bool) -> bool {
        self.flags & Self::ALWAYS != 0 || self.flags & Self::PLAIN != 0 && !target_differs
    }

    /// Whether no frame changes it.
    #[inline(always)]
    pub const fn is_fixed(&self) -> bool {
        self.flags & Self::FIXED != 0
    }

    /// Whether a frame may have changed it.
    #[inline(always)]
    pub const fn is_doubted(&self) -> bool {
        self.flags & Self::DOUBTED != 0
    }

    /// [`Neighbour::lladdr`] in a word.
    #[inline(always)]
    pub fn lladdr(&self) -> Lladdr {
        Lladdr::of_word(transmute!(*self))
    }
}

/// What a bucket holds of an interface, whose key is its index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct IfaceEntry {
    /// Its address and settings.
    pub iface: Iface,
    /// The index of its counters.
    pub counters: u32,
    /// 0.
    pub unused: u32,
}

/// A bucket of interfaces.
pub type IfaceBucket = Bucket<3>;
/// Neighbours in a bucket.
pub const NEIGHBOUR_PLACES: usize = PLACES - 1;

/// A bucket of neighbours: a `Bucket<1>` whose last place says whether the others can be trusted
/// (docs/adr/0009-doubt.md). Doubt is the bucket's, not the entry's, because a bucket stays where it is while the
/// agent moves entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, KnownLayout)]
pub struct NeighbourBucket {
    /// The keys; 0 where nothing lies.
    pub keys: [u64; NEIGHBOUR_PLACES],
    /// How often the program has seen a frame go up that may change an entry which belongs here. Only the program
    /// writes it.
    pub doubts: u64,
    /// The value of each key.
    pub values: [u64; NEIGHBOUR_PLACES],
    /// The count up to which the entries hold what came of it: while the two differ, they are in doubt. Only the agent
    /// writes it.
    pub settled: u64,
}

impl NeighbourBucket {
    /// The neighbour with this key, if it lies in this bucket.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<Neighbour> {
        let ([k0, k1, k2], [v0, v1, v2]) = (self.keys, &self.values);
        let value = if k0 == key {
            *v0
        } else if k1 == key {
            *v1
        } else if k2 == key {
            *v2
        } else {
            return None;
        };
        let mut neighbour: Neighbour = transmute!(value);
        if self.doubts != self.settled {
            neighbour.flags |= Neighbour::DOUBTED;
        }
        Some(neighbour)
    }
}

const _: () = {
    use core::mem::offset_of;
    // Where the agent's writer of tables has them.
    assert!(offset_of!(NeighbourBucket, doubts) == NEIGHBOUR_PLACES * 8);
    assert!(offset_of!(NeighbourBucket, values) == PLACES * 8);
    assert!(offset_of!(NeighbourBucket, settled) == (PLACES + NEIGHBOUR_PLACES) * 8);
};

/// What routes leave by: one interface, or several of which the kernel takes one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Oif {
    /// The interface's index; 0 while routes by it are not followed (opaque); [`Oif::SEVERAL`], [`Oif::MIXED`].
    pub ifindex: u32,
    /// Its `medium_id`, or that of all of them.
    pub medium_id: i32,
}

impl Oif {
    /// Several interfaces with the same `medium_id`.
    pub const SEVERAL: u32 = u32::MAX;
    /// Several interfaces with different ones.
    pub const MIXED: u32 = u32::MAX - 1;

    /// Whether it stands for several interfaces.
    #[inline(always)]
    pub const fn is_several(&self) -> bool {
        self.ifindex >= Self::MIXED
    }
}

/// 256 FIB entries, indexed by the next 8 bits of the address.
pub type FibNode = [u32; 256];

/// An interface's counters: answers at [`ANSWERED`](crate::reason::ANSWERED), passes at
/// [`Reason::counter`](crate::Reason::counter).
pub type Counters = [u64; crate::reason::COUNTERS];

const _: () = {
    assert!(size_of::<Global>() == 112);
    assert!(size_of::<SettingWrite>() == 96);
    assert!(size_of::<Iface>() == 16);
    assert!(size_of::<IfaceAddr>() == 8);
    assert!(size_of::<Neighbour>() == 8);
    assert!(size_of::<IfaceEntry>() == 24);
    assert!(size_of::<IfaceBucket>() == 128);
    assert!(size_of::<NeighbourBucket>() == 64);
    assert!(size_of::<Oif>() == 8);
    assert!(size_of::<FibNode>() == 1024);
    assert!(size_of::<Counters>() == 512);
};
