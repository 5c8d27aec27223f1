//! `arp-agent check-config`: the settings as `run` would read them.

use super::Exit;
use super::output::print_line;
use crate::config::sources::{Setting, SourcedSettings, Sources};
use serde::Serialize;
use std::path::PathBuf;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints each setting with its value and where it comes from.
///
/// # Errors
/// Those of [`Sources::read`]; no interface is named.
pub fn check_config(sources: &Sources, json: bool) -> anyhow::Result<Exit> {
    let settings = sources.read()?;
    settings.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    settings.need_interfaces()?;
    let document = document(settings);
    if json {
        print_line(serde_json::to_string_pretty(&document)?)?;
    } else {
        print_line(render(&document.settings))?;
    }
    Ok(Exit::Ok)
}

/// What `check-config --json` prints.
#[derive(Debug, Serialize)]
pub struct CheckedConfig {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// The file that was read; `null`: none.
    pub file: Option<PathBuf>,
    /// Each setting.
    pub settings: Vec<Setting>,
}

/// The document of these settings.
pub fn document(settings: SourcedSettings) -> CheckedConfig {
    CheckedConfig { version: crate::DOCUMENT_VERSION, file: settings.file, settings: settings.each }
}

fn render(settings: &[Setting]) -> String {
    let mut table = Builder::default();
    table.push_record(["setting", "value", "from"]);
    for setting in settings {
        table.push_record([&setting.name, &setting.in_short(), &setting.from]);
    }
    let table = table.build().with(Style::blank()).to_string();
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
