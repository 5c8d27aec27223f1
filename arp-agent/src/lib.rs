//! The agent as a library: the binary, and the tests, are made of it.

pub mod event;

/// The eBPF object.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/arp-ebpf"));
