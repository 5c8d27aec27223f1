//! The configuration file: TOML whose keys are the names of the settings. Reads text, no files.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A key of the file, with its value as the command line would have it.
#[derive(Debug, PartialEq)]
pub(super) struct FileKey {
    /// The line of the key, from 1 on.
    pub(super) line: usize,
    pub(super) name: String,
    /// The value, or the values of a list; an error says what it is instead.
    pub(super) values: Result<Vec<String>, &'static str>,
    /// Whether the value is a list.
    pub(super) is_list: bool,
}

/// The entries of a file, in the order of the lines.
///
/// # Errors
/// The text is no TOML: the line and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Vec<FileKey>, (usize, String)> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line(text, at), error.message().to_owned())
    })?;
    let mut entries: Vec<FileKey> =
        table.get_ref().iter().map(|(key, value)| entry(text, key.span().start, key.get_ref(), value)).collect();
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn entry(text: &str, at: usize, name: &str, value: &Spanned<DeValue<'_>>) -> FileKey {
    let (values, is_list) = match value.get_ref() {
        DeValue::Array(values) => (values.iter().map(|value| scalar(value.get_ref())).collect(), true),
        value => (scalar(value).map(|value| vec![value]), false),
    };
    FileKey { line: line(text, at), name: name.to_owned(), values, is_list }
}

/// A single value as text.
fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(_) => Err("must be a decimal number"),
        DeValue::Float(_) => Err("must not be a fraction"),
        DeValue::Datetime(_) => Err("must not be a date"),
        DeValue::Array(_) => Err("must not be a list in a list"),
        DeValue::Table(_) => Err("must not be a table: this file has none"),
    }
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_their_lines_and_values_as_text() {
        let text = "# a comment\nlease = 1_000\n\ninterface = [\"cali*\",\n  \"eth0\"]\nhook = 'tc'\nrun-dir = 1.5\n";
        let read: Vec<_> =
            parse(text).unwrap().into_iter().map(|entry| (entry.line, entry.name, entry.values)).collect();
        let values = |values: &[&str]| Ok(values.iter().map(|&value| value.to_owned()).collect());
        assert_eq!(
            read,
            [
                (2, "lease".to_owned(), values(&["1000"])),
                (4, "interface".to_owned(), values(&["cali*", "eth0"])),
                (6, "hook".to_owned(), values(&["tc"])),
                (7, "run-dir".to_owned(), Err("must not be a fraction")),
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        assert_eq!(parse("lease = 1000\nhook = tc\n").unwrap_err().0, 2);
        assert_eq!(parse("lease = 1\n\nlease = 2\n").unwrap_err().0, 3);
        assert_eq!(parse("lease = 1\ninterface = [\n").unwrap_err().0, 2);
    }
}
