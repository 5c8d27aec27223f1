//! The tables of docs/performance.md.

use std::path::Path;

use anyhow::Result;

use crate::report::Report;

pub(crate) fn rewrite(_report: &Report, _path: &Path, _plots: Option<&Path>) -> Result<()> {
    Ok(())
}
