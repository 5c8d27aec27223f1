//! The measured values, round by round.

use anyhow::{Result, ensure};

/// What a row of values is of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    /// What is measured, such as `p50`.
    pub(crate) measure: String,
    /// Of whom, such as `kernel, proxy_delay 0`.
    pub(crate) case: String,
    /// At which size, where the benchmark varies one, such as 1000 routes.
    pub(crate) at: Option<At>,
}

/// A size.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
pub(crate) struct At {
    /// Of what: `routes`, `interfaces`.
    pub(crate) name: String,
    /// How many.
    pub(crate) value: u64,
}

impl Key {
    pub(crate) fn new(measure: &str, case: &str) -> Self {
        Key { measure: measure.to_owned(), case: case.to_owned(), at: None }
    }

    /// The same at a size.
    #[must_use]
    pub(crate) fn at(mut self, name: &str, value: u64) -> Self {
        self.at = Some(At { name: name.to_owned(), value });
        self
    }

    /// The same of another case.
    #[must_use]
    pub(crate) fn of(mut self, case: &str) -> Self {
        self.case = case.to_owned();
        self
    }
}

/// The values of one key, one a round.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) unit: &'static str,
    pub(crate) values: Vec<f64>,
}

/// Rows in the order in which their keys first came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    rows: Vec<Row>,
}

impl Samples {
    /// Adds the value of a round.
    pub(crate) fn push(&mut self, key: Key, unit: &'static str, value: f64) {
        match self.rows.iter_mut().find(|row| row.key == key) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { key, unit, values: vec![value] }),
        }
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The values of a key; none if it never came.
    pub(crate) fn values(&self, key: &Key) -> &[f64] {
        self.rows.iter().find(|row| row.key == *key).map_or(&[], |row| &row.values)
    }

    /// Round by round, the value of one key over that of another: what slows the machine for both goes.
    ///
    /// # Errors
    /// The two have not been measured in the same rounds.
    pub(crate) fn ratios(&self, key: &Key, base: &Key) -> Result<Vec<f64>> {
        let (values, bases) = (self.values(key), self.values(base));
        ensure!(
            !values.is_empty() && values.len() == bases.len(),
            "{} rounds of {key:?} cannot be compared with {} of {base:?}",
            values.len(),
            bases.len()
        );
        Ok(values.iter().zip(bases).map(|(value, base)| value / base).collect())
    }
}

/// The order of `count` cases in a round: each round begins with another one, and every second runs backwards, so that
/// no case always follows the same one.
pub(crate) fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|place| (place + round / 2) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let (kernel, fast) = (Key::new("p50", "kernel"), Key::new("p50", "fast path"));
        let mut samples = Samples::default();
        for (slow, quick) in [(4.0, 3.0), (40.0, 20.0)] {
            samples.push(kernel.clone(), "µs", slow);
            samples.push(fast.clone(), "µs", quick);
        }
        assert_eq!(samples.ratios(&fast, &kernel).unwrap(), [0.75, 0.5]);
        samples.push(fast.clone(), "µs", 1.0);
        assert!(samples.ratios(&fast, &kernel).is_err());
        assert!(samples.ratios(&fast, &Key::new("p50", "nobody")).is_err());
    }

    #[test]
    fn every_round_has_each_case_none_always_first() {
        for count in [1, 2, 5] {
            let mut first: Vec<usize> = Vec::new();
            for round in 0..2 * count {
                let mut order = order(round, count);
                first.push(order[0]);
                order.sort_unstable();
                assert_eq!(order, (0..count).collect::<Vec<_>>());
            }
            first.sort_unstable();
            first.dedup();
            assert_eq!(first.len(), count);
        }
    }
}
