//! IPv4 prefixes.

use serde::{Deserialize, Serialize};

/// An IPv4 prefix; host bits are 0. Packed, because a mirrored route is found by two of them, and there may be a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(Rust, packed)]
pub struct Prefix {
    /// The address, as a number: so prefixes sort with those inside right after those outside.
    pub addr: u32,
    /// Length in bits, 0–32.
    pub len: u8,
}

impl Prefix {
    /// The prefix with the address's host bits cleared.
    pub fn new(addr: [u8; 4], len: u8) -> Self {
        Prefix { addr: u32::from_be_bytes(addr) & mask(len), len }
    }

    /// The prefix of `len` bits that covers this one; `len` is not above its own.
    #[must_use]
    pub fn shortened(self, len: u8) -> Self {
        Prefix { addr: self.addr & mask(len), len }
    }

    /// The last address inside.
    pub fn last(self) -> u32 {
        self.addr | !mask(self.len)
    }

    /// Whether `addr` lies inside.
    pub fn contains(self, addr: u32) -> bool {
        addr & mask(self.len) == self.addr
    }
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}
