//! The clocks that programs read.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

/// CLOCK_MONOTONIC in ns.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The time in jiffies: the verifier makes a load of it, where every other clock is a call, which on CPUs that must
/// guard their returns costs as much as the two lookups of a decision.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: a helper without arguments (5.6).
    unsafe { bpf_jiffies64() }
}
