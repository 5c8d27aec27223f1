//! A state in a file: what `arp-agent snapshot` writes and `explain --state` reads, on another machine.

use super::anonymise::Anonymiser;
use super::state::State;
use crate::event::Event;
use crate::kernel::{Listener, TableSize};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

/// Of the file: raised when it changes so that an older `explain` would read it wrongly.
pub(crate) const FORMAT: u32 = 1;

/// The file's only object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotFile {
    /// [`FORMAT`].
    pub arp_agent_snapshot: u32,
    /// The version of the `arp-agent` that wrote it.
    pub written_by: String,
    /// The kernel's release.
    pub kernel: String,
    /// What the kernel said, in order.
    pub events: Vec<Event>,
    /// Addresses of scope host, by interface.
    pub host_addresses: Vec<(u32, Ipv4Addr)>,
    /// How full the neighbour table was.
    pub table_size: Option<TableSize>,
    /// The listeners for ARP.
    pub listeners: Vec<Listener>,
    /// The programs of others, by interface.
    pub programs: BTreeMap<u32, String>,
    /// The base chains of nft's bridge family.
    #[serde(default)]
    pub bridge_chains: Vec<String>,
    /// What could not be read.
    pub not_seen: Vec<String>,
}

impl SnapshotFile {
    /// What was read of this node.
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub(crate) fn of(state: State) -> Result<Self> {
        let kernel = nix::sys::utsname::uname().context("uname")?;
        Ok(SnapshotFile {
            arp_agent_snapshot: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel.release().to_string_lossy().into_owned(),
            programs: state.programs()?,
            events: state.dump,
            host_addresses: state.host_addresses.into_iter().collect(),
            table_size: state.table_size,
            listeners: state.listeners,
            bridge_chains: state.bridge_chains,
            not_seen: state.not_seen,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no snapshot of this format.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("{shown}: cannot be read"))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("{shown}: is no snapshot, or is cut off; write one with `arp-agent snapshot`"))?;
        match value["arp_agent_snapshot"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => bail!(
                "{shown}: is a snapshot of format {format}, and this arp-agent ({}) reads format {FORMAT}; use the arp-agent \
                 that wrote it ({})",
                env!("CARGO_PKG_VERSION"),
                value["written_by"].as_str().unwrap_or("unknown")
            ),
            None => bail!("{shown}: is no snapshot; write one with `arp-agent snapshot`"),
        }
        serde_json::from_value(value)
            .with_context(|| format!("{shown}: is broken; write it again with `arp-agent snapshot`"))
    }

    /// The same with other addresses, and what became of those that people may ask about.
    pub(crate) fn anonymised(mut self, key: u64) -> (Self, BTreeMap<Ipv4Addr, Ipv4Addr>) {
        let mut anonymiser = Anonymiser::new(key);
        self.events.iter_mut().for_each(|event| anonymiser.event(event));
        for (_, addr) in &mut self.host_addresses {
            *addr = anonymiser.address(*addr);
        }
        (self, anonymiser.known())
    }

    /// The state to explain over; nobody can be asked any more.
    pub(crate) fn into_state(self) -> State {
        State {
            dump: self.events,
            lookups: None,
            listeners: self.listeners,
            table_size: self.table_size,
            host_addresses: self.host_addresses.into_iter().collect(),
            programs: self.programs,
            bridge_chains: self.bridge_chains,
            not_seen: self.not_seen,
        }
    }
}
