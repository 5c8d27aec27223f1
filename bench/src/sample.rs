//! What is made of many measurements.

/// The value below which `share` of the values lie (nearest rank); 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The median of some rounds, their quartiles, and their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The round in the middle; the mean of the two there if their number is even.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// A quarter of the rounds are not above it.
    pub q1: f64,
    /// Three quarters of the rounds are not above it.
    pub q3: f64,
    /// The highest.
    pub highest: f64,
}

impl Spread {
    /// Of one value per round; all 0 without rounds.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        let [Some(&lowest), Some(&highest)] = [rounds.first(), rounds.last()] else {
            return Spread { median: 0.0, lowest: 0.0, q1: 0.0, q3: 0.0, highest: 0.0 };
        };
        let median = f64::midpoint(rounds[(rounds.len() - 1) / 2], rounds[rounds.len() / 2]);
        Spread { median, lowest, q1: quantile(&rounds, 0.25), q3: quantile(&rounds, 0.75), highest }
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
        let spread = Spread { median: 2.5, lowest: 1.0, q1: 1.0, q3: 3.0, highest: 9.0 };
        assert_eq!(Spread::of([9.0, 1.0, 3.0, 2.0]), spread);
        assert_eq!(Spread::of([3.0, 1.0, 9.0]).median, 3.0);
        assert_eq!(Spread::of([]).highest, 0.0);
    }
}
