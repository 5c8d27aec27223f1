//! The eBPF object: an entry point for each hook, one decision behind all.
//!
//! A frame's way: `stub`, which is what is attached → entry point → `classify` (is it ARP at all?) → `packet_access`
//! (the frame, in words) → `arp_common::decide` over the maps of `tables` → count → trim, reply in place, out of the
//! same interface. The hooks (`xdp`, `tc`) differ in how a frame arrives and how it leaves. A frame that is passed
//! leaves as it came.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For atomic additions, which `core` does not offer on this target; building for BPF is unstable anyway.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

// Before the others: they load by its macro.
#[cfg(target_arch = "bpf")]
#[macro_use]
mod packet_access;

#[cfg(target_arch = "bpf")]
mod binding;
#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod deviation;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod manner;
#[cfg(target_arch = "bpf")]
mod notices;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod shadow;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod stub;
#[cfg(target_arch = "bpf")]
mod sysctl;
#[cfg(target_arch = "bpf")]
mod tables;
#[cfg(target_arch = "bpf")]
mod tc;
#[cfg(target_arch = "bpf")]
mod time;
#[cfg(target_arch = "bpf")]
mod trace;
#[cfg(target_arch = "bpf")]
mod unresolved;
#[cfg(target_arch = "bpf")]
mod xdp;

/// On the host the object is nothing: so clippy, rustdoc and rust-analyzer can see the crate.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Some helpers are for programs with a GPL-compatible licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
