//! `arp-agent preflight`: what an agent would answer here, before it is installed.

use super::Exit;
use super::output::{print, print_line};
use crate::cli;
use crate::config::HookConfig;
use crate::preflight::interfaces::Foreseen;
use crate::preflight::{Preflight, PreflightOptions};
use anyhow::bail;
use std::collections::BTreeMap;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints what would be answered and why not. Attaches nothing.
///
/// # Errors
/// The agent could not run here, a pattern is not a glob, or options contradict each other.
pub fn preflight(arguments: &cli::PreflightArgs) -> anyhow::Result<Exit> {
    let hooks = HookConfig { hook: arguments.hook, xdp_mode: arguments.xdp_mode, tc_attach: arguments.tc_attach };
    if let Some(contradiction) = hooks.contradiction() {
        bail!("{contradiction}");
    }
    let wanted = PreflightOptions { patterns: &arguments.interfaces, hooks, bpffs: &arguments.bpffs };
    let preflight = Preflight::new(&wanted)?;
    if arguments.json {
        print_line(serde_json::to_string_pretty(&preflight)?)?;
    } else {
        print(render(&preflight))?;
    }
    Ok(match (preflight.can_run, preflight.answers_all()) {
        (false, _) => Exit::Failed,
        (true, true) => Exit::Ok,
        (true, false) => Exit::No,
    })
}

/// The answer in one line.
fn verdict(preflight: &Preflight) -> String {
    let cannot: Vec<&str> =
        preflight.checks.iter().filter(|check| check.needed && !check.ok).map(|check| check.found.as_str()).collect();
    if !cannot.is_empty() {
        return format!("the agent cannot run here: {}", cannot.join("; "));
    }
    let (answering, all) =
        (preflight.interfaces.iter().filter(|of| of.is_answering()).count(), preflight.interfaces.len());
    let mut others: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    for interface in preflight.interfaces.iter().filter(|of| !of.is_answering()) {
        *others.entry((&interface.state, interface.reason_id.as_deref())).or_default() += 1;
    }
    let others: Vec<String> = others
        .into_iter()
        .map(|((state, id), count)| {
            let does = if state == "passing" { "would pass" } else { "would stay detached" };
            format!("{count} {does}{}", id.map(|id| format!(" ({id})")).unwrap_or_default())
        })
        .collect();
    let colon = if others.is_empty() { "" } else { ": " };
    format!("would answer on {answering} of {all} interfaces{colon}{}", others.join(", "))
}

fn render(preflight: &Preflight) -> String {
    let mut text =
        format!("arp-agent {}, Linux {}: {}\n\n", preflight.agent_version, preflight.kernel, verdict(preflight));
    for check in &preflight.checks {
        let ok = match (check.ok, check.needed) {
            (true, _) => "yes",
            (false, true) => "NO ",
            (false, false) => "no ",
        };
        text += &format!(" {ok}  {:<13} {}\n", check.check, check.found);
    }
    for (pattern, _) in preflight.patterns.iter().filter(|(_, matches)| **matches == 0) {
        text += &format!("\nno interface matches `{pattern}` now\n");
    }
    if preflight.interfaces.is_empty() {
        return text;
    }
    let mut table = Builder::default();
    table.push_record(["interface", "hook", "would be", "why"]);
    for Foreseen { name, hook, mode, state, reason_id, reason, limits, .. } in &preflight.interfaces {
        let id = reason_id.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
        let hook = if hook == "none" { String::new() } else { format!("{hook} {mode}") };
        let state = format!("{state}{id}");
        table.push_record([name.clone(), hook, state, reason.clone().unwrap_or_default()]);
        for limit in limits {
            let but = format!("but not ({})", limit.reason_id);
            table.push_record(["", "", &but, &limit.reason]);
        }
    }
    let table = table.build().with(Style::blank()).to_string();
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    text + "\n" + &lines.join("\n") + "\n"
}
