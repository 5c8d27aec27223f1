//! Hash tables in flat arrays, which the program reads without a call: the arrays' elements are buckets of a few
//! entries, and a key has two buckets in which it may lie ([`choices`]).
//!
//! Only the agent writes, into mapped memory and inside its sequence, so a reader needs no lock: what it found while
//! something was written is not believed ([`crate::decide()`]). A key that finds both of its buckets full is refused;
//! without an entry, frames pass.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Entries in one bucket; of neighbours one less ([`NeighbourBucket`](crate::maps::NeighbourBucket)).
pub const PLACES: usize = 4;

/// Entries whose keys have a bucket in common: keys in front, so that they share a cache line. `WORDS` is the size of a
/// value in 8-byte words.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Bucket<const WORDS: usize> {
    /// The keys; 0 where nothing lies.
    pub keys: [u64; PLACES],
    /// The value of each key.
    pub values: [[u64; WORDS]; PLACES],
}

impl<const WORDS: usize> Bucket<WORDS> {
    /// The value of `key`, if it lies in this bucket.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<[u64; WORDS]> {
        // Written out, because the program may have no loop over packet-dependent state, and no panic path.
        let [k0, k1, k2, k3] = self.keys;
        let [v0, v1, v2, v3] = &self.values;
        if k0 == key {
            Some(*v0)
        } else if k1 == key {
            Some(*v1)
        } else if k2 == key {
            Some(*v2)
        } else if k3 == key {
            Some(*v3)
        } else {
            None
        }
    }
}

/// The two buckets, of `buckets` (a power of two, at most 65,536), in which `key` may lie. They may be the same one.
#[inline(always)]
pub const fn choices(key: u64, buckets: u32) -> [u32; 2] {
    // The golden ratio's bits (Knuth's multiplicative hashing); the upper half of the key, an address, is folded in
    // first, so that every bit of it reaches both choices.
    let mixed = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [(mixed >> 48) as u32 & (buckets - 1), (mixed >> 32) as u32 & (buckets - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_bucket_finds_each_of_its_keys_and_no_other() {
        let bucket = Bucket { keys: [3, 0, 7, 9], values: [[30], [0], [70], [90]] };
        for (key, value) in [(3, Some([30])), (7, Some([70])), (9, Some([90])), (8, None)] {
            assert_eq!(bucket.find(key), value, "key {key}");
        }
    }

    #[test]
    fn choices_lie_inside_the_table() {
        for key in [1, 7, u64::from(u32::MAX), u64::MAX] {
            assert!(choices(key, 16).into_iter().all(|bucket| bucket < 16));
        }
    }

    /// The keys of a node: interfaces numbered in a row, a host address behind each; and those of an uplink: many hosts
    /// behind one interface. Filled to half, hardly any key may find its bucket full, on either choice alone.
    #[test]
    fn keys_of_a_node_are_spread() {
        const BUCKETS: u32 = 1024;
        let key = |ifindex: u32, host: u32| {
            let [_, _, high, low] = host.to_be_bytes();
            let addr = u64::from(u32::from_ne_bytes([10, 244, high, low]));
            addr << 32 | u64::from(ifindex)
        };
        for world in ["pods", "uplink"] {
            let (mut filled, mut same) = ([HashMap::new(), HashMap::new()], 0);
            for host in 0..BUCKETS * 2 {
                let choices = choices(key(if world == "pods" { 1000 + host } else { 2 }, host), BUCKETS);
                same += u32::from(choices[0] == choices[1]);
                for (filled, bucket) in filled.iter_mut().zip(choices) {
                    *filled.entry(bucket).or_insert(0) += 1;
                }
            }
            for (choice, filled) in filled.into_iter().enumerate() {
                let turned_away: usize = filled.into_values().map(|keys: usize| keys.saturating_sub(PLACES)).sum();
                assert!(turned_away < BUCKETS as usize / 5, "{world}, choice {choice}: {turned_away} of 2048 keys");
            }
            assert!(same < BUCKETS / 50, "{world}: {same} of 2048 keys have one choice");
        }
    }

    #[test]
    fn every_bit_of_the_address_reaches_both_choices() {
        for ifindex in [1, 1000, u32::MAX] {
            let key = u64::from(ifindex);
            for bit in 32..64 {
                let (before, after) = (choices(key, 1 << 16), choices(key ^ 1 << bit, 1 << 16));
                assert!(before[0] != after[0] && before[1] != after[1], "bit {bit} on interface {ifindex}");
            }
        }
    }
}
