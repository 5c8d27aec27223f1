//! The hook on writes of sysctls: it runs before a write takes effect, in whichever network namespace that is.

use crate::tables::{SETTING_WRITES, count_globally};
use arp_common::maps::SettingWrite;
use arp_common::settings::{NAMES, PREFIX, Word};
use aya_ebpf::bindings::{BPF_F_SYSCTL_BASE_NAME, bpf_sysctl};
use aya_ebpf::helpers::generated::{bpf_sysctl_get_current_value, bpf_sysctl_get_name, bpf_sysctl_get_new_value};
use aya_ebpf::{macros::cgroup_sysctl, programs::SysctlContext};
use core::mem::MaybeUninit;
use zerocopy::FromBytes;

/// What lets the access go on.
const ALLOW: i32 = 1;

/// From a write that matters on, no frame is answered until the agent has read what came of it.
#[cgroup_sysctl]
pub(crate) fn arp_sysctl(ctx: SysctlContext) -> i32 {
    let sysctl = ctx.sysctl;
    // SAFETY: the kernel's context, whose fields the verifier lets us read.
    let (write, position) = unsafe { ((*sysctl).write, (*sysctl).file_pos) };
    if write == 0 || !matters(sysctl) {
        return ALLOW;
    }
    let mut announced = MaybeUninit::<Aligned<SettingWrite>>::uninit();
    let announced = zeroed(&mut announced);
    let announced = &mut announced.0;
    // SAFETY: the kernel's context, and a buffer with its length.
    let named = unsafe { bpf_sysctl_get_name(sysctl, announced.name.as_mut_ptr().cast(), 64, 0) } > 0;
    if !named {
        // What has no name could be any: it counts.
        announced.name[0] = 0;
    } else if !is_ipv4(&announced.name) {
        return ALLOW;
    }
    // SAFETY: it is a field of a live element; nothing is read or written here.
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

/// Whether the setting's own name, without the path, is one that matters.
#[inline(always)]
fn matters(sysctl: *mut bpf_sysctl) -> bool {
    let mut name = MaybeUninit::<Aligned<Word>>::uninit();
    let Aligned(name) = zeroed(&mut name);
    let flags = u64::from(BPF_F_SYSCTL_BASE_NAME);
    // SAFETY: the kernel's context, and a buffer with its length. A name that does not fit is none of those.
    let length = unsafe { bpf_sysctl_get_name(sysctl, name.as_mut_ptr().cast(), size_of::<Word>() as u64, flags) };
    let [a, b, c, d] = *name;
    // Word by word: a comparison of whole arrays would be a call.
    length > 0 && NAMES.iter().any(|known| known[0] == a && known[1] == b && known[2] == c && known[3] == d)
}

#[inline(always)]
fn is_ipv4(path: &[u8; 64]) -> bool {
    let [a, b, c, d, e, f, g, h, slash, ..] = *path;
    [a, b, c, d, e, f, g, h] == *PREFIX && slash == b'/'
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
