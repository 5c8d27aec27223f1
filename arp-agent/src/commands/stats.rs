//! `arp-agent stats`.

use super::Exit;
use super::status::{self, Fetched};
use crate::cli;
use crate::control::silent;
use anyhow::bail;
use serde_json::json;
use std::collections::BTreeMap;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints the counters, of all interfaces together or of one.
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
    let (answered, passed) = match &arguments.interface {
        None => (status.answered, status.passed),
        Some(name) => match status.interfaces.into_iter().find(|interface| interface.name == *name) {
            Some(interface) => (interface.answered, interface.passed),
            None => bail!("{name}: the agent is not attached to such an interface (`arp-agent status` lists them)"),
        },
    };
    if arguments.json {
        let document = json!({
            "version": status.version,
            "interface": arguments.interface,
            "answered": answered,
            "passed": passed,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!("{}", render(answered, &passed));
    }
    Ok(Exit::Ok)
}

fn render(answered: u64, passed: &BTreeMap<String, u64>) -> String {
    let mut table = Builder::default();
    table.push_record(["answered", &answered.to_string()]);
    for (reason, count) in passed {
        table.push_record([format!("passed: {reason}"), count.to_string()]);
    }
    table.build().with(Style::blank()).to_string()
}
