//! How measured values are written: three digits, thousands set apart, in the unit that a person would choose.

use crate::sample::Spread;

/// Three digits, two below 0.01; a comma between thousands.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        // A ratio to nothing.
        return value.to_string();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    // Rounded first: 999.6 has four digits before the point.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    match rounded.abs().log10().floor() as i32 {
        magnitude @ ..-2 => format!("{value:.*}", (1 - magnitude) as usize),
        magnitude @ -2..3 => format!("{value:.*}", (2 - magnitude) as usize),
        _ => format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped(rounded.abs() as u64)),
    }
}

/// A whole number with a comma between thousands.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A value and its unit.
pub fn with_unit(value: f64, unit: &str) -> String {
    joined(number(value), unit)
}

/// A row of values in short: the median of three or more rounds, both values of two, the value of one.
pub fn typical(unit: &str, value: &Spread) -> String {
    let (factor, unit) = scale(unit, value.median);
    match value.samples {
        2 => joined(range(value.spread.lowest, value.spread.highest, factor), unit),
        _ => with_unit(value.median / factor, unit),
    }
}

/// Median, quartiles and extremes, in the unit that suits the median; no more of them than there were rounds.
pub fn spread(unit: &str, value: &Spread) -> [String; 3] {
    let (factor, unit) = scale(unit, value.median);
    let of = |least, low, high| if value.samples < least { String::new() } else { range(low, high, factor) };
    let spread = &value.spread;
    [with_unit(value.median / factor, unit), of(3, spread.q1, spread.q3), of(2, spread.lowest, spread.highest)]
}

/// How many rounds [`typical`] is of.
pub fn rounds(least: usize, most: usize) -> String {
    match (least, most) {
        (1, 1) => "one run".to_owned(),
        (2, 2) => "lowest–highest of 2".to_owned(),
        _ if least == most => format!("median of {least}"),
        _ => format!("median of {least}–{most}"),
    }
}

/// `low` to `high`, each divided by `factor`.
pub fn range(low: f64, high: f64, factor: f64) -> String {
    let [low, high] = [low, high].map(|value| number(value / factor));
    if low == high { low } else { format!("{low}–{high}") }
}

/// The divisor for values of about this size, and the unit that they have then.
fn scale(unit: &str, value: f64) -> (f64, &str) {
    match unit {
        "ns" if value >= 1e6 => (1e6, "ms"),
        "ns" if value >= 1e3 => (1e3, "µs"),
        "µs" if value >= 1e7 => (1e6, "s"),
        "µs" if value >= 1e3 => (1e3, "ms"),
        "ms" if value >= 1e4 => (1e3, "s"),
        "ms" if value > 0.0 && value < 1.0 => (1e-3, "µs"),
        "B/s" if value >= 1e9 => (1e9, "GB/s"),
        "B/s" if value >= 1e6 => (1e6, "MB/s"),
        "1/s" => (1.0, "/s"),
        "of 1" => (0.01, "%"),
        "entries" => (1.0, ""),
        other => (1.0, other),
    }
}

fn joined(number: String, unit: &str) -> String {
    let space = if unit.is_empty() || unit == "/s" { "" } else { " " };
    format!("{number}{space}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_commas() {
        let cases = [
            (0.0, "0"),
            (0.000_123_4, "0.00012"),
            (0.853, "0.853"),
            (0.999_9, "1.00"),
            (-2.951, "-2.95"),
            (48.61, "48.6"),
            (151.9, "152"),
            (999.6, "1,000"),
            (1_191.3, "1,190"),
            (-1_234.0, "-1,230"),
            (412_331.2, "412,000"),
            (1_500_000.0, "1,500,000"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!([1, 100, 10_000, 1_000_000].map(grouped), ["1", "100", "10,000", "1,000,000"]);
    }

    #[test]
    fn a_unit_suits_its_value() {
        let cases = [
            ("µs", 480_000.0, "480 ms"),
            ("µs", 3.62, "3.62 µs"),
            ("ns", 1_320.0, "1.32 µs"),
            ("ms", 0.796, "796 µs"),
            ("ms", 1_190.0, "1,190 ms"),
            ("ms", 16_240.0, "16.2 s"),
            ("B/s", 3.59e9, "3.59 GB/s"),
            ("1/s", 429_300.0, "429,000/s"),
            ("of 1", 0.457, "45.7 %"),
            ("entries", 1024.0, "1,020"),
            ("", 1.0, "1.00"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(typical(unit, &Spread::of(&[value])), text);
        }
    }

    #[test]
    fn one_or_two_rounds_have_no_quartiles() {
        assert_eq!(spread("ms", &Spread::of(&[5.0])), ["5.00 ms", "", ""]);
        assert_eq!(spread("ms", &Spread::of(&[5.0, 7.0])), ["6.00 ms", "", "5.00–7.00"]);
        assert_eq!(spread("ms", &Spread::of(&[5.0, 6.0, 7.0])), ["6.00 ms", "5.00–7.00", "5.00–7.00"]);
        assert_eq!(typical("µs", &Spread::of(&[500.0, 2_500.0])), "0.500–2.50 ms");
        assert_eq!(typical("µs", &Spread::of(&[305.1, 305.2])), "305 µs");
        assert_eq!(
            [(1, 1), (2, 2), (5, 5), (5, 30)].map(|(least, most)| rounds(least, most)),
            ["one run", "lowest–highest of 2", "median of 5", "median of 5–30"]
        );
    }
}
