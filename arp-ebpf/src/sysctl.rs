//! The hook on writes of sysctls: it runs before a write takes effect, in whichever network namespace that is.

use crate::tables::{SETTING_WRITES, count_globally, global_word, set_global_word};
use arp_common::maps::{Global as Words, SettingWrite};
use arp_common::settings::{EVERYBODY, NAMES, NEIGH, NETNS_WAY, PREFIX, PackedName, Whose};
use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_SYSCTL_BASE_NAME, bpf_sysctl};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_sysctl_get_current_value, bpf_sysctl_get_name, bpf_sysctl_get_new_value};
use aya_ebpf::{macros::cgroup_sysctl, programs::SysctlContext};
use core::mem::MaybeUninit;
use zerocopy::FromBytes;

/// What lets the access go on.
const ALLOW: i32 = 1;

/// Where the members of [`NETNS_WAY`] lie in this kernel. The agent knows.
#[unsafe(no_mangle)]
static NETNS_OFFSETS: [Global<u32>; NETNS_WAY.len()] = [const { Global::new(0) }; NETNS_WAY.len()];

/// From a write on that matters to this network namespace, no frame is answered until the agent has read what came of it.
#[cgroup_sysctl]
pub(crate) fn arp_sysctl(ctx: SysctlContext) -> i32 {
    accessed(ctx.sysctl, true)
}

/// Where nobody can say whose a setting is (reading kernel memory takes CAP_PERFMON): everybody's writes matter.
#[cgroup_sysctl]
pub(crate) fn arp_sysctl_all(ctx: SysctlContext) -> i32 {
    accessed(ctx.sysctl, false)
}

#[inline(always)]
fn accessed(sysctl: *mut bpf_sysctl, knows_whose: bool) -> i32 {
    // SAFETY: the kernel's context, whose fields the verifier lets us read.
    let (write, position) = unsafe { ((*sysctl).write, (*sysctl).file_pos) };
    let is_asked = knows_whose && write == 0 && global_word(whose) == Whose::ASKED;
    if (write == 0 && !is_asked) || !matters(sysctl) {
        return ALLOW;
    }
    let mut announced = MaybeUninit::<Aligned<SettingWrite>>::uninit();
    let announced = zeroed(&mut announced);
    let announced = &mut announced.0;
    // SAFETY: the kernel's context, and a buffer with its length.
    let named = unsafe { bpf_sysctl_get_name(sysctl, announced.name.as_mut_ptr().cast(), 64, 0) } > 0;
    if !named {
        // What has no name could be any, and anybody's: it counts.
        announced.name[0] = 0;
    } else if !is_ipv4(&announced.name) {
        return ALLOW;
    }
    let is_neigh = is_neigh(&announced.name);
    let netns = if knows_whose && named { netns_of(sysctl, is_neigh).unwrap_or(0) } else { 0 };
    if write == 0 {
        set_global_word(whose, Whose { netns, is_neigh }.word());
        return ALLOW;
    }
    // SAFETY: it is a field of a live element; nothing is read or written here.
    let counts = global_word(|global| unsafe { &raw mut (*global).netns });
    let is_known = netns != 0 || counts > u64::from(u32::MAX);
    if counts != EVERYBODY && is_known && counts != u64::from(netns) {
        // SAFETY: as above.
        count_globally(|global| unsafe { &raw mut (*global).written_elsewhere });
        return ALLOW;
    }
    // SAFETY: as above.
    count_globally(|global| unsafe { &raw mut (*global).settings_written });
    // SAFETY: as for the name.
    if unsafe { bpf_sysctl_get_new_value(sysctl, announced.new.as_mut_ptr().cast(), 16) } <= 0 || position != 0 {
        announced.new[0] = 0;
    }
    // SAFETY: as for the name.
    if unsafe { bpf_sysctl_get_current_value(sysctl, announced.old.as_mut_ptr().cast(), 16) } <= 0 {
        announced.old[0] = 0;
    }
    if SETTING_WRITES.output(*announced, 0).is_err() {
        // SAFETY: as above.
        count_globally(|global| unsafe { &raw mut (*global).writes_lost });
    }
    // SAFETY: as above.
    count_globally(|global| unsafe { &raw mut (*global).writes_announced });
    ALLOW
}

#[inline(always)]
fn whose(global: *mut Words) -> *mut u64 {
    // SAFETY: it is a field of a live element; nothing is read or written here.
    unsafe { &raw mut (*global).whose }
}

/// The number of the network namespace whose setting it is, whoever writes it from wherever: a descriptor that was opened in
/// one namespace can be written from another. `None`: it cannot be read.
#[inline(always)]
fn netns_of(sysctl: *mut bpf_sysctl, is_neigh: bool) -> Option<u32> {
    let [table, extra2, parms_net, net_ns, inum] = &NETNS_OFFSETS;
    // What the kernel hands to the program is a `bpf_sysctl_kern`, of which the verifier shows only some members.
    let table: u64 = at(sysctl.cast::<u8>(), table.load())?;
    let mut net: u64 = at(table as *const u8, extra2.load())?;
    if is_neigh {
        net = at(net as *const u8, parms_net.load())?;
    }
    at(net as *const u8, net_ns.load().wrapping_add(inum.load()))
}

/// What lies so many bytes after an address of the kernel's. `None` where nothing can be read.
#[inline(always)]
fn at<T>(address: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper refuses what is no readable memory of the kernel's; it fills all of an integer.
    unsafe { bpf_probe_read_kernel(address.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

/// Whether the setting's own name, without the path, is one that matters.
#[inline(always)]
fn matters(sysctl: *mut bpf_sysctl) -> bool {
    let mut name = MaybeUninit::<Aligned<PackedName>>::uninit();
    let Aligned(name) = zeroed(&mut name);
    let flags = u64::from(BPF_F_SYSCTL_BASE_NAME);
    // SAFETY: the kernel's context, and a buffer with its length. A name that does not fit is none of those.
    let length =
        unsafe { bpf_sysctl_get_name(sysctl, name.as_mut_ptr().cast(), size_of::<PackedName>() as u64, flags) };
    let [a, b, c, d] = *name;
    // Word by word: a comparison of whole arrays would be a call.
    length > 0 && NAMES.iter().any(|known| known[0] == a && known[1] == b && known[2] == c && known[3] == d)
}

#[inline(always)]
fn is_ipv4(path: &[u8; 64]) -> bool {
    let [a, b, c, d, e, f, g, h, slash, ..] = *path;
    [a, b, c, d, e, f, g, h] == *PREFIX && slash == b'/'
}

#[inline(always)]
fn is_neigh(path: &[u8; 64]) -> bool {
    let [_, _, _, _, _, _, _, _, _, a, b, c, d, e, slash, ..] = *path;
    [a, b, c, d, e, slash] == *NEIGH
}

/// On the stack, where words can be written.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// Fills it with zeros, word by word: all at once would be a call of `memset`, which the verifier looks at alone, and
/// refuses.
#[inline(always)]
fn zeroed<T: FromBytes>(memory: &mut MaybeUninit<Aligned<T>>) -> &mut Aligned<T> {
    let words = memory.as_mut_ptr().cast::<u64>();
    for word in 0..size_of::<Aligned<T>>() / size_of::<u64>() {
        // SAFETY: inside the value, whose size is a multiple of its alignment, that of a word.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: all of it was written, and zeros are a value.
    unsafe { memory.assume_init_mut() }
}
