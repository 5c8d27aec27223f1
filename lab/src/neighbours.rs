//! A snapshot of a namespace's IPv4 neighbour table.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::namespace::Namespace;

/// What a neighbour entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address, if it has one.
    pub lladdr: Option<String>,
    /// Its state in the words of `ip neigh`, such as STALE.
    pub state: String,
}

/// The entries and static proxies by interface and address, as `ip neigh` writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The entries, without those that the kernel keeps for broadcast and multicast.
    pub entries: BTreeMap<(String, String), Neighbour>,
    /// The static proxy entries (pneigh).
    pub proxies: Vec<(String, String)>,
}

impl Neighbours {
    /// Reads the table.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let mut table = Neighbours::default();
        for entry in rows(&namespace.ip_json("-4 neigh show")?)? {
            let lladdr = entry["lladdr"].as_str().map(str::to_owned);
            let states = entry["state"].as_array().map(Vec::as_slice).unwrap_or_default();
            let state = states.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
            table.entries.insert((text(&entry, "dev")?, text(&entry, "dst")?), Neighbour { lladdr, state });
        }
        for entry in rows(&namespace.ip_json("-4 neigh show proxy")?)? {
            table.proxies.push((entry["dev"].as_str().unwrap_or("*").to_owned(), text(&entry, "dst")?));
        }
        table.proxies.sort();
        Ok(table)
    }

    /// The entry for an address on an interface.
    pub fn get(&self, interface: &str, address: &str) -> Option<&Neighbour> {
        self.entries.get(&(interface.to_owned(), address.to_owned()))
    }

    /// Without what timers change: an entry that can be used is VALID, one that cannot is gone.
    pub fn settled(mut self) -> Self {
        self.entries.retain(|_, entry| !matches!(entry.state.as_str(), "FAILED" | "INCOMPLETE"));
        for entry in self.entries.values_mut() {
            if matches!(entry.state.as_str(), "REACHABLE" | "STALE" | "DELAY" | "PROBE") {
                entry.state = "VALID".to_owned();
            }
        }
        self
    }

    /// Only the entries on one interface.
    pub fn on(mut self, interface: &str) -> Self {
        self.entries.retain(|(dev, _), _| dev == interface);
        self.proxies.retain(|(dev, _)| dev == interface);
        self
    }
}

impl fmt::Display for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((dev, address), Neighbour { lladdr, state }) in &self.entries {
            writeln!(f, "{address} dev {dev} lladdr {} {state}", lladdr.as_deref().unwrap_or("none"))?;
        }
        self.proxies.iter().try_for_each(|(dev, address)| writeln!(f, "{address} dev {dev} proxy"))
    }
}

fn rows(json: &Value) -> Result<Vec<Value>> {
    Ok(json.as_array().context("ip neigh gave no list")?.clone())
}

fn text(row: &Value, key: &str) -> Result<String> {
    Ok(row[key].as_str().with_context(|| format!("ip neigh gave an entry without {key}: {row}"))?.to_owned())
}
