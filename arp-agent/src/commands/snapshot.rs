//! `arp-agent snapshot`: the node's state as a file, for `explain --state` on another machine.

use super::Exit;
use super::output::print_line;
use crate::cli;
use crate::explain::snapshot::SnapshotFile;
use crate::explain::state::State;
use anyhow::Result;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// Prints the state as one JSON document.
///
/// # Errors
/// The kernel gives no answer.
pub fn snapshot(arguments: &cli::SnapshotArgs) -> Result<Exit> {
    let mut snapshot = SnapshotFile::of(State::read()?)?;
    if arguments.anonymise {
        // Another key each time: nobody can turn it back.
        let (other, addresses) = snapshot.anonymised(RandomState::new().build_hasher().finish());
        snapshot = other;
        eprintln!("keep this: which address stands for which in the snapshot");
        addresses.iter().filter(|(one, other)| one != other).for_each(|(one, other)| eprintln!("{one} is {other}"));
    }
    print_line(serde_json::to_string(&snapshot)?)?;
    Ok(Exit::Ok)
}
