//! Times in options: with a unit, and within bounds.

use std::str::FromStr;
use std::time::Duration;

/// A time between so many milliseconds and so many. As text `250ms`, `1s`, or a bare number of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval<const MIN: u64, const MAX: u64> {
    ms: u64,
}

impl<const MIN: u64, const MAX: u64> Interval<MIN, MAX> {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// In milliseconds.
    pub fn as_ms(self) -> u64 {
        self.ms
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Interval<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = &text[..text.len() - unit.len()];
        let factor = match unit.trim_start() {
            "" | "ms" => 1,
            "s" => 1000,
            _ => return Err("is no time: write a number of ms, or one with its unit, such as 250ms or 1s".to_owned()),
        };
        // A number too large for 64 bits is out of every range.
        let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        match ms.filter(|ms| (MIN..=MAX).contains(ms)) {
            Some(ms) => Ok(Interval { ms }),
            None => Err(format!("must be between {} and {}", in_words(MIN), in_words(MAX))),
        }
    }
}

fn in_words(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        let ms = |text: &str| text.parse::<Interval<50, 60_000>>().map(Interval::as_ms);
        assert_eq!(["250", "250ms", "250 ms", "1s", "60s"].map(ms), [250, 250, 250, 1000, 60_000].map(Ok));
        for text in ["49", "61s", "99999999999999999999", "99999999999999999999s", ""] {
            assert_eq!(ms(text), Err("must be between 50 ms and 60 s".to_owned()), "{text}");
        }
        for text in ["1m", "-5", "x", "1.5s"] {
            assert!(ms(text).is_err_and(|why| why.starts_with("is no time")), "{text}");
        }
    }
}
