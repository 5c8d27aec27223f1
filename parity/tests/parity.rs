//! A minute of random scenarios (docs/parity.md): half of it the same ones each time, half of it new ones; and a shorter run
//! in which every policy counts. Apart from the lab's tests, because some of those fill the neighbour table that all
//! namespaces share.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lab::{agent_binary, needs_root};

/// For how many seconds scenarios are begun.
const HALF: u64 = 30;
const QUARTER: u64 = 15;
/// The least share that the fast path is to answer of what the decision procedure answers, of scenarios that are always the
/// same, and of new ones. A run as short as this has a hundred scenarios, or forty on a busy machine: one in which the agent is
/// careful about a rule or a next hop counts.
const COVERAGE: [f64; 2] = [0.995, 0.97];
/// The least number of scenarios, even on a busy machine, for the share to mean anything.
const SCENARIOS: u64 = 5;

#[test]
fn fixed_scenarios_show_no_difference() -> Result<()> {
    needs_root!();
    parity(HALF, &["--seed", "1"], COVERAGE[0])
}

#[test]
fn new_scenarios_show_no_difference() -> Result<()> {
    needs_root!();
    parity(HALF, &[], COVERAGE[1])
}

#[test]
fn policies_that_count_make_no_difference() -> Result<()> {
    needs_root!();
    parity(QUARTER, &["--count-policies"], COVERAGE[1])
}

fn parity(seconds: u64, arguments: &[&str], coverage: f64) -> Result<()> {
    let out = concat!(env!("CARGO_TARGET_TMPDIR"), "/parity");
    let output = Command::new(env!("CARGO_BIN_EXE_parity"))
        .args(["--seconds", &seconds.to_string(), "--out", out])
        .args(arguments)
        .env("ARP_AGENT_BIN", agent_binary()?)
        .output()
        .context("starting parity")?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let repeat = "the scenarios above, again and for longer: cargo xtask parity --seconds 60 --seed SEED; one script: \
                  cargo xtask parity --replay SCRIPT";
    ensure!(output.status.success(), "parity ended with {}; {repeat}", output.status);
    let last = text.lines().last().unwrap_or_default();
    let value = |key: &str| -> Result<f64> {
        let word = last.split_whitespace().find_map(|word| word.strip_prefix(key));
        word.with_context(|| format!("no {key} in {last:?}"))?.parse().with_context(|| format!("{key} in {last:?}"))
    };
    ensure!(value("scenarios=")? >= SCENARIOS as f64 * seconds as f64 / QUARTER as f64, "too few scenarios: {last}");
    ensure!(value("coverage=")? >= coverage, "the fast path passes what it is to answer: {last}; {repeat}");
    Ok(())
}
