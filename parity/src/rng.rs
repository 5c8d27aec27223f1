//! Random numbers from a seed.

use std::net::Ipv4Addr;

/// A seeded source of choices: the same seed gives the same choices.
#[derive(Clone, Debug)]
pub(crate) struct Rng(fastrand::Rng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(fastrand::Rng::with_seed(seed))
    }

    /// The generator of scenario `scenario` of a run.
    pub(crate) fn of_scenario(seed: u64, scenario: u64) -> Self {
        let mut rng = Rng::new(seed ^ scenario.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.0.u64(..);
        rng
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end.max(1))
    }

    /// A number from `low` to `high`, both possible.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        self.0.usize(low..=high)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.u8(..)
    }

    /// True in `percent` of cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there are none: a mistake in the caller.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// One of `choices`, by their weights.
    pub(crate) fn weighted<'a, T>(&mut self, choices: &'a [(usize, T)]) -> &'a T {
        let mut left = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return choice,
            }
        }
        &choices[0].1
    }

    /// An address inside a prefix: often its first, its last, or one beside them.
    pub(crate) fn address_in(&mut self, prefix: Ipv4Addr, len: u8) -> Ipv4Addr {
        let host_bits = u32::MAX.checked_shr(len.into()).unwrap_or(0);
        let first = u32::from(prefix) & !host_bits;
        let offset = match self.below(8) {
            0 => 0,
            1 => 1,
            2 => host_bits,
            3 => host_bits.saturating_sub(1),
            _ => self.0.u32(..) & host_bits,
        };
        (first | (offset & host_bits)).into()
    }
}
