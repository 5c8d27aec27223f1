//! `arp-agent stats`: requests answered, and frames passed by reason.

use super::Exit;
use super::status::{self, Fetched};
use crate::cli;
use crate::control::Status;
use crate::control::client::silent;
use anyhow::bail;
use arp_common::Reason;
use serde::Serialize;
use std::collections::BTreeMap;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints the counters of one interface, or of all together.
///
/// # Errors
/// No agent runs, or it is not attached to that interface.
pub fn stats(arguments: &cli::Stats) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let status = match status::fetch(run_dir)? {
        Fetched::Status(status) => status,
        Fetched::NotRunning => bail!(status::not_running(run_dir)),
        Fetched::Silent => bail!(silent(run_dir)),
    };
    let document = document(&status, arguments.interface.as_deref())?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!("{}", render(&document));
    }
    Ok(Exit::Ok)
}

/// What `stats --json` prints.
///
/// # Errors
/// The agent is not attached to that interface.
pub fn document(status: &Status, interface: Option<&str>) -> anyhow::Result<Stats> {
    let (answered, passed) = match interface {
        None => (status.answered, &status.passed),
        Some(name) => match status.interfaces.iter().find(|interface| interface.name == name) {
            Some(interface) => (interface.answered, &interface.passed),
            None => bail!("{name}: the agent is not attached to such an interface (`arp-agent status` lists them)"),
        },
    };
    let interface = interface.map(str::to_owned);
    Ok(Stats { version: status.version, interface, answered, passed: passed.clone() })
}

/// What `stats --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// The interface; `null` for all of them together.
    pub interface: Option<String>,
    /// Requests answered.
    pub answered: u64,
    /// ARP frames passed, by reason.
    pub passed: BTreeMap<String, u64>,
}

fn render(stats: &Stats) -> String {
    let mut table = Builder::default();
    table.push_record(["answered", &stats.answered.to_string(), ""]);
    for (reason, count) in &stats.passed {
        let why = Reason::from_name(reason).map_or("", Reason::why);
        table.push_record([&format!("passed: {reason}"), &count.to_string(), why]);
    }
    let table = table.build().with(Style::blank()).to_string();
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
