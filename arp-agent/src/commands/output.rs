//! Writes what a command has found. The library's macros would panic where the disk is full or the reader has gone.

use anyhow::Context as _;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

/// Prints text and a new line. Says whether whoever reads the output has gone, as `head` does.
///
/// # Errors
/// It cannot be written for another reason.
pub(super) fn print_line(text: impl Display) -> anyhow::Result<bool> {
    print(format_args!("{text}\n"))
}

/// Prints text that ends its own lines.
///
/// # Errors
/// As [`print_line`].
pub(super) fn print(text: impl Display) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    is_over(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Prints text with colours, which only a terminal gets.
///
/// # Errors
/// As [`print_line`].
pub(super) fn print_coloured(text: impl Display) -> anyhow::Result<bool> {
    let mut out = anstream::stdout().lock();
    is_over(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Whether whoever reads the output has gone.
///
/// # Errors
/// It cannot be written for another reason.
pub(super) fn is_over(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error).context("standard output cannot be written (is the disk full?)"),
    }
}
