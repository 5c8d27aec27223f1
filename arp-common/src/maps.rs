//! What lies in the BPF maps. Flat on purpose: integers and byte arrays, no padding (zerocopy checks it), sizes
//! asserted, because the agent and the program are compiled by two compilers. IPv4 and link-layer addresses are in wire order, everything
//! else in the machine's.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names of the maps and programs in the eBPF object.
pub mod names {
    /// `Array<Global>` with one element, mmapable.
    pub const GLOBAL: &str = "GLOBAL";
    /// `HashMap<u32 (ifindex), Iface>`: the interfaces that the program is attached to.
    pub const IFACES: &str = "IFACES";
    /// `HashMap<IfaceAddr, Neighbour>`: valid neighbour entries of those interfaces.
    pub const NEIGHBOURS: &str = "NEIGHBOURS";
    /// `HashMap<IfaceAddr, u32>`: static proxy entries (pneigh); ifindex 0 stands for any interface.
    pub const PROXIES: &str = "PROXIES";
    /// `HashMap<IfaceAddr, u32>`: targets that `arp_ignore` 1 lets the interface answer for.
    pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
    /// `Array<Oif>`, mmapable: the interfaces that routes leave by, by slot.
    pub const OIFS: &str = "OIFS";
    /// `Array<FibNode>` of 256 elements, mmapable: FIB entries by the address's upper 16 bits.
    pub const FIB_ROOT: &str = "FIB_ROOT";
    /// `ArrayOfMaps` of mmapable `Array<FibNode>`: the FIB's nodes, in chunks that the agent adds when needed.
    pub const FIB_NODES: &str = "FIB_NODES";
    /// `PerCpuHashMap<u32 (ifindex), Counters>`; [`UNKNOWN_INGRESS`](super::UNKNOWN_INGRESS) for all others.
    pub const COUNTERS: &str = "COUNTERS";
    /// `RingBuf<SettingWrite>`: writes of settings that are about to take effect.
    pub const SETTING_WRITES: &str = "SETTING_WRITES";
    /// The XDP program.
    pub const XDP_PROGRAM: &str = "arp_xdp";
    /// The program on writes of sysctls.
    pub const SYSCTL_PROGRAM: &str = "arp_sysctl";
}

/// The counters' key for frames of interfaces that have no counters of their own (no interface has index 0).
pub const UNKNOWN_INGRESS: u32 = 0;
/// Most interfaces that the program can be attached to.
pub const MAX_IFACES: u32 = 16_384;
/// Most entries of each map keyed by interface and address.
pub const MAX_IFACE_ADDRS: u32 = 131_072;
/// Slots for interfaces that routes leave by; a route that finds none is stored opaque.
pub const MAX_OIFS: u32 = 16_384;

/// What the program asks before anything else.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Global {
    /// Odd while the agent writes the tables; moves by two with each batch.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC` nanoseconds until which the tables may be trusted; 0 while they may not.
    pub lease_until: u64,
    /// How many writes of settings were about to take effect so far. The sysctl hook counts, before they do.
    pub settings_written: u64,
    /// The count up to which what was written is in the tables: while the two differ, frames pass.
    pub settings_read: u64,
    /// How many of the writes that were counted have been announced, or could not be.
    pub writes_announced: u64,
    /// How many of them could not be announced.
    pub writes_lost: u64,
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
    pub blocked: u32,
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

/// A valid neighbour entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Neighbour {
    /// Its link-layer address.
    pub lladdr: [u8; 6],
    /// 1 if the kernel never changes it on a request (PERMANENT, NOARP), else 0.
    pub fixed: u16,
}

/// An interface that routes leave by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Oif {
    /// Its index; 0 while routes by it are not followed (opaque).
    pub ifindex: u32,
    /// Its `medium_id`; -1 without IPv4 settings.
    pub medium_id: i32,
}

/// 256 FIB entries, indexed by the next 8 bits of the address.
pub type FibNode = [u32; 256];

/// An interface's counters: answers at [`ANSWERED`](crate::reason::ANSWERED), passes at
/// [`Reason::counter`](crate::Reason::counter).
pub type Counters = [u64; crate::reason::COUNTERS];

const _: () = {
    assert!(size_of::<Global>() == 48);
    assert!(size_of::<SettingWrite>() == 96);
    assert!(size_of::<Iface>() == 16);
    assert!(size_of::<IfaceAddr>() == 8);
    assert!(size_of::<Neighbour>() == 8);
    assert!(size_of::<Oif>() == 8);
    assert!(size_of::<FibNode>() == 1024);
    assert!(size_of::<Counters>() == 512);
};
