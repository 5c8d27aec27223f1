//! The writer's side of the hash tables in flat arrays ([`arp_common::buckets`]).

use super::memory::Words;
use arp_common::buckets::{PLACES, choices};
use arp_common::maps::NEIGHBOUR_PLACES;
use std::sync::atomic::{AtomicU64, Ordering};

/// A table of `BUCKETS` buckets, whose values have `WORDS` words of 8 bytes.
#[derive(Debug)]
pub(super) struct BucketTable<const WORDS: usize> {
    words: Words,
    /// A bit for each bucket that holds a key, if the program looks at that first.
    occupied: Option<Words>,
    buckets: u32,
    /// In how many places of a bucket keys may lie.
    places: usize,
    /// How many keys there are.
    used: u32,
}

/// Both buckets of a key are full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<const WORDS: usize> BucketTable<WORDS> {
    /// The table in this memory, which holds `buckets` buckets and nothing but zeros. Keys lie in the first `places`
    /// places of a bucket.
    pub(super) fn new(words: Words, buckets: u32, places: usize) -> Self {
        BucketTable { words, occupied: None, buckets, places: places.min(PLACES), used: 0 }
    }

    /// The same with a bit for each bucket in this memory, which holds nothing but zeros.
    pub(super) fn with_occupied(self, bits: Words) -> Self {
        BucketTable { occupied: Some(bits), ..self }
    }

    /// How many keys there are, and how many places. Not every key finds a place in a table that is more than three
    /// quarters full.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.used, self.buckets * self.places as u32)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: u64) -> Option<[u64; WORDS]> {
        let (bucket, place) = self.find(key)?;
        Some(std::array::from_fn(|word| {
            self.words.long(value_at::<WORDS>(bucket, place) + word).load(Ordering::Relaxed)
        }))
    }

    /// Sets the value of a key, which is not 0. Readers may see a part of it: only inside a write sequence.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub(super) fn insert(&mut self, key: u64, value: [u64; WORDS]) -> Result<(), Full> {
        let (bucket, place) = match self.find(key) {
            Some(found) => found,
            None => {
                let place = self.free_place(key).or_else(|| self.make_place(key)).ok_or(Full)?;
                self.used += 1;
                place
            }
        };
        self.put(bucket, place, key, value);
        Ok(())
    }

    /// Takes a key away, if it is there.
    pub(super) fn remove(&mut self, key: u64) {
        if let Some((bucket, place)) = self.find(key) {
            self.words.long(key_at::<WORDS>(bucket, place)).store(0, Ordering::Relaxed);
            self.used -= 1;
            // After the key: whoever finds no bit would have found no key.
            if (0..self.places).all(|place| self.key(bucket, place) == 0) {
                self.occupy(bucket, false);
            }
        }
    }

    fn key(&self, bucket: u32, place: usize) -> u64 {
        self.words.long(key_at::<WORDS>(bucket, place)).load(Ordering::Relaxed)
    }

    fn value(&self, bucket: u32, place: usize) -> [u64; WORDS] {
        std::array::from_fn(|word| self.words.long(value_at::<WORDS>(bucket, place) + word).load(Ordering::Relaxed))
    }

    fn put(&mut self, bucket: u32, place: usize, key: u64, value: [u64; WORDS]) {
        // Before the key, for the same reason.
        self.occupy(bucket, true);
        for (word, value) in value.into_iter().enumerate() {
            self.words.long(value_at::<WORDS>(bucket, place) + word).store(value, Ordering::Relaxed);
        }
        self.words.long(key_at::<WORDS>(bucket, place)).store(key, Ordering::Relaxed);
    }

    fn occupy(&self, bucket: u32, is_occupied: bool) {
        if let Some(bits) = &self.occupied {
            let (word, bit) = (bits.long((bucket / u64::BITS) as usize), 1 << (bucket % u64::BITS));
            if is_occupied {
                word.fetch_or(bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    fn find(&self, key: u64) -> Option<(u32, usize)> {
        let each = self.places;
        let mut places =
            choices(key, self.buckets).into_iter().flat_map(|bucket| (0..each).map(move |at| (bucket, at)));
        places.find(|&(bucket, place)| self.key(bucket, place) == key)
    }

    /// A free place in the emptier one of the key's buckets: so that they fill evenly.
    fn free_place(&self, key: u64) -> Option<(u32, usize)> {
        let free = |bucket: u32| (0..self.places).filter(move |&place| self.key(bucket, place) == 0);
        let [first, second] = choices(key, self.buckets);
        let emptier = if free(second).count() > free(first).count() { second } else { first };
        free(emptier).next().map(|place| (emptier, place))
    }

    /// A place in one of the key's full buckets, from which another key could be moved to its other bucket.
    fn make_place(&mut self, key: u64) -> Option<(u32, usize)> {
        for bucket in choices(key, self.buckets) {
            for place in 0..self.places {
                let moved = self.key(bucket, place);
                if let Some((to, at)) = self.free_place(moved) {
                    let value = self.value(bucket, place);
                    self.put(to, at, moved, value);
                    return Some((bucket, place));
                }
            }
        }
        None
    }
}

impl BucketTable<1> {
    /// In a bucket of neighbours, the word that counts doubts, which the program writes, and the one up to which they
    /// are settled ([`arp_common::maps::NeighbourBucket`]).
    pub(super) fn doubt(&self, bucket: u32) -> [&AtomicU64; 2] {
        [key_at::<1>(bucket, NEIGHBOUR_PLACES), value_at::<1>(bucket, NEIGHBOUR_PLACES)].map(|at| self.words.long(at))
    }

    /// How many buckets there are.
    pub(super) fn buckets(&self) -> u32 {
        self.buckets
    }
}

fn key_at<const WORDS: usize>(bucket: u32, place: usize) -> usize {
    bucket as usize * PLACES * (1 + WORDS) + place
}

fn value_at<const WORDS: usize>(bucket: u32, place: usize) -> usize {
    key_at::<WORDS>(bucket, PLACES) + place * WORDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use arp_common::maps::{Neighbour, NeighbourBucket};

    fn table(buckets: u32) -> BucketTable<1> {
        let words = Words::anonymous(buckets as usize * size_of::<NeighbourBucket>()).unwrap();
        BucketTable::new(words, buckets, NEIGHBOUR_PLACES)
    }

    #[test]
    fn what_was_set_is_found_until_it_is_taken_away() {
        let mut table = table(16);
        table.insert(7, [70]).unwrap();
        table.insert(8, [80]).unwrap();
        table.insert(7, [71]).unwrap();
        assert_eq!((table.get(7), table.get(8), table.get(9)), (Some([71]), Some([80]), None));
        table.remove(7);
        table.remove(9);
        assert_eq!((table.get(7), table.get(8)), (None, Some([80])));
        assert_eq!(table.size(), (1, 16 * NEIGHBOUR_PLACES as u32));
    }

    /// The layout is the one that the program reads: the same bytes, looked at as a bucket.
    #[test]
    fn the_program_reads_the_bucket_that_was_written() {
        let mut table = table(1);
        for key in 1..=NEIGHBOUR_PLACES as u64 {
            table.insert(key, [key * 10]).unwrap();
        }
        let [doubts, settled] = table.doubt(0);
        doubts.store(8, Ordering::Relaxed);
        settled.store(9, Ordering::Relaxed);
        let words: Vec<u64> = (0..8).map(|at| table.words.long(at).load(Ordering::Relaxed)).collect();
        let bucket: NeighbourBucket = zerocopy::transmute!(<[u64; 8]>::try_from(words).unwrap());
        assert_eq!((bucket.doubts, bucket.settled), (8, 9));
        for key in 1..=NEIGHBOUR_PLACES as u64 {
            let value = |neighbour: Neighbour| zerocopy::transmute!(Neighbour { flags: 0, ..neighbour });
            let found: Option<u64> = bucket.find(key).map(value);
            assert_eq!(found, Some(key * 10));
            assert_eq!(bucket.find(key).map(|neighbour| neighbour.is_doubted()), Some(true));
        }
        assert_eq!(table.insert(5, [50]), Err(Full));
        assert_eq!(table.size(), (NEIGHBOUR_PLACES as u32, NEIGHBOUR_PLACES as u32));
        assert_eq!(bucket.find(5).or(bucket.find(8)).or(bucket.find(9)), None);
        let settled = NeighbourBucket { settled: 8, ..bucket };
        assert_eq!(settled.find(1).map(|neighbour| neighbour.flags), Some(0));
    }

    /// A bucket's bit says whether it holds any key, also after keys were moved to make room.
    #[test]
    fn a_bit_is_set_for_each_bucket_that_holds_a_key_and_no_other() {
        const BUCKETS: u32 = 128;
        let bits = Words::anonymous(BUCKETS as usize / 8).unwrap();
        let mut table = table(BUCKETS).with_occupied(bits);
        let check = |table: &BucketTable<1>| {
            for bucket in 0..BUCKETS {
                let bits = table.occupied.as_ref().unwrap().long((bucket / 64) as usize).load(Ordering::Relaxed);
                let holds_any = (0..NEIGHBOUR_PLACES).any(|place| table.key(bucket, place) != 0);
                assert_eq!(bits >> (bucket % 64) & 1 != 0, holds_any, "bucket {bucket}");
            }
        };
        let keys = 1..=u64::from(BUCKETS) * NEIGHBOUR_PLACES as u64;
        let fit: Vec<u64> = keys.filter(|&key| table.insert(key, [key]).is_ok()).collect();
        check(&table);
        for (number, key) in fit.into_iter().enumerate() {
            table.remove(key);
            if number % 16 == 0 {
                check(&table);
            }
        }
        check(&table);
        assert_eq!(table.size().0, 0);
    }

    /// Also those that were moved to make room are found afterwards.
    #[test]
    fn three_quarters_of_the_places_can_be_counted_on() {
        const BUCKETS: u32 = 4096;
        let mut table = table(BUCKETS);
        let key = |host: u32| {
            let addr = u64::from(u32::from_ne_bytes([10, 244, (host >> 8) as u8, host as u8]));
            addr << 32 | u64::from(1000 + host % 977)
        };
        let room = 0..BUCKETS * NEIGHBOUR_PLACES as u32 * 3 / 4;
        let refused = room.clone().filter(|&host| table.insert(key(host), [u64::from(host)]).is_err());
        assert_eq!(refused.count(), 0);
        assert!(room.into_iter().all(|host| table.get(key(host)) == Some([u64::from(host)])));
    }
}
