//! What the fast path is measured against: programs that do less. No part of the product.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

/// The product's own way to packet memory: what is compared with it must not be slower for another.
#[cfg(target_arch = "bpf")]
#[path = "../../arp-ebpf/src/packet_access.rs"]
mod packet_access;
#[cfg(target_arch = "bpf")]
mod programs;

/// On the host the object is nothing: so clippy, rustdoc and rust-analyzer can see the crate.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
