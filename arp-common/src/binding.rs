//! The binding: whose an address is where several clients are behind one interface (docs/adr/0018-scans-and-owners.md). It
//! is whoever the kernel's neighbour entry names, until that one is silent when it is asked.

use crate::maps::IfaceAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// Names of the maps in the eBPF object.
pub mod names {
    /// `Array<Claim>`: [`CLAIMS`](super::CLAIMS) places for addresses that somebody else claims.
    pub const CLAIMS: &str = "CLAIMS";
}

/// Places where it is remembered who was asked.
pub const CLAIMS: u32 = 1 << 10;
/// How long an owner is waited for, in ns: less than the second between two requests of whoever claims the address.
pub const SILENT_FOR: u64 = 900_000_000;
/// How long its answer holds, in ns; then it is asked again.
pub const ASKED_FOR: u64 = 10_000_000_000;

/// How a binding comes about, and what ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum BindingKind {
    /// An address is its neighbour entry's, until the owner is silent when it is asked.
    #[default]
    Learn = 0,
    /// As long as there is the entry.
    Fixed = 1,
    /// The same, and the Ethernet source is the sender's link-layer address.
    Strict = 2,
}

/// An address that somebody else claims. Of two that share a place the last one stays: then both owners are asked again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Claim {
    /// The interface and the address; 0 for none.
    pub key: u64,
    /// When its owner was asked, in ns of CLOCK_MONOTONIC.
    pub asked: u64,
    /// Not 0: the owner has sent something since.
    pub seen: u64,
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFate {
    /// The owner is asked, and the claim refused.
    Ask,
    /// It is refused.
    Refuse,
    /// The owner is silent: it is let up, and the kernel learns it.
    Cede,
}

impl Claim {
    /// What becomes of another frame that claims the address.
    #[inline(always)]
    pub const fn next(&self, key: u64, now: u64) -> ClaimFate {
        let since = now.wrapping_sub(self.asked);
        if self.key != key || since >= ASKED_FOR {
            ClaimFate::Ask
        } else if self.seen == 0 && since >= SILENT_FOR {
            ClaimFate::Cede
        } else {
            ClaimFate::Refuse
        }
    }
}

/// An address as a key, and its place.
#[inline(always)]
pub fn place_of(of: IfaceAddr) -> (u64, u32) {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let key: u64 = transmute!(of);
    (key, ((key ^ key >> 32).wrapping_mul(ODD) >> 54) as u32)
}

const _: () = {
    assert!(CLAIMS == 1 << 10, "the upper bits of a hash are a place");
    assert!(size_of::<Claim>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 77_000_000_000;
    const ADDR: IfaceAddr = IfaceAddr { ifindex: 7, addr: [192, 168, 0, 2] };

    #[test]
    fn an_owner_is_asked_and_whoever_is_silent_cedes() {
        let (key, place) = place_of(ADDR);
        assert!(place < CLAIMS);
        assert_eq!(Claim::default().next(key, NOW), ClaimFate::Ask);
        let asked = Claim { key, asked: NOW, seen: 0 };
        assert_eq!(asked.next(key, NOW + SILENT_FOR - 1), ClaimFate::Refuse, "it may answer yet");
        assert_eq!(asked.next(key, NOW + SILENT_FOR), ClaimFate::Cede);
        let seen = Claim { seen: 1, ..asked };
        assert_eq!(seen.next(key, NOW + SILENT_FOR), ClaimFate::Refuse);
        for claim in [asked, seen] {
            assert_eq!(claim.next(key, NOW + ASKED_FOR), ClaimFate::Ask, "it was long ago");
            assert_eq!(claim.next(key + 1, NOW + SILENT_FOR), ClaimFate::Ask, "another address");
        }
    }
}
