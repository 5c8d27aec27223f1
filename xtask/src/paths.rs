//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The folder of the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    // `cargo run` sets the variable anew each time, so that a binary in a shared target folder serves the right tree.
    let xtask = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&xtask).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// What setup installs for this project alone; never in version control.
pub(crate) fn tools() -> PathBuf {
    root().join(".tools")
}
