//! Summarises many measurements.

use serde::{Deserialize, Serialize};

/// The value below which `share` of the values lie (nearest rank); 0 without values.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Median and spread of some rounds, one value each; all 0 without rounds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Spread {
    /// How many rounds.
    pub samples: usize,
    /// The round in the middle; the mean of the two there if their number is even.
    pub median: f64,
    /// The extremes, and the quartiles between.
    pub spread: Quartiles,
}

/// Extremes and quartiles.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Quartiles {
    /// The lowest.
    pub lowest: f64,
    /// The lower quartile.
    pub q1: f64,
    /// The upper quartile.
    pub q3: f64,
    /// The highest.
    pub highest: f64,
}

impl Spread {
    /// Of one value per round.
    pub fn of(rounds: &[f64]) -> Self {
        let samples = rounds.len();
        let mut rounds = rounds.to_vec();
        rounds.sort_by(f64::total_cmp);
        let [Some(&lowest), Some(&highest)] = [rounds.first(), rounds.last()] else {
            return Spread { samples, median: 0.0, spread: Quartiles::default() };
        };
        let median = f64::midpoint(rounds[(samples - 1) / 2], rounds[samples / 2]);
        let [q1, q3] = [0.25, 0.75].map(|share| quantile(&rounds, share));
        Spread { samples, median, spread: Quartiles { lowest, q1, q3, highest } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 100.0);
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&values, 1.0), 200.0);
        assert_eq!(quantile(&[7.0], 0.01), 7.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_spread_does_not_depend_on_the_order() {
        let spread = Quartiles { lowest: 1.0, q1: 1.0, q3: 3.0, highest: 9.0 };
        assert_eq!(Spread::of(&[9.0, 1.0, 3.0, 2.0]), Spread { samples: 4, median: 2.5, spread });
        assert_eq!(Spread::of(&[3.0, 1.0, 9.0]).median, 3.0);
        assert_eq!(Spread::of(&[]).spread.highest, 0.0);
    }
}
