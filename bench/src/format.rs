//! How measured values are written.

/// Three digits; two below 0.01.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        // A ratio to nothing.
        return value.to_string();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    match magnitude {
        ..-2 => format!("{value:.*}", (1 - magnitude) as usize),
        -2..2 => format!("{value:.*}", (2 - magnitude) as usize),
        2 => format!("{value:.0}"),
        3..6 => format!("{} k", number(value / 1e3)),
        _ => format!("{} M", number(value / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0.00"),
            (0.000_123_4, "0.00012"),
            (0.853, "0.853"),
            (3.628, "3.63"),
            (48.61, "48.6"),
            (151.9, "152"),
            (1_234.0, "1.23 k"),
            (412_331.2, "412 k"),
            (1_500_000.0, "1.50 M"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
