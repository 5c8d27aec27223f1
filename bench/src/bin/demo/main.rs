//! `cargo xtask run`: the fast path at work on a lab of its own, each answer beside the kernel's, and a short benchmark.

mod compare;
mod questions;
mod report;
mod scan;
mod walk;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::{AgentOptions, Alone, INTERRUPTED, Lab, Stop};

/// The ARP fast path at work on a lab of its own: a node, four pods and an uplink in network namespaces.
#[derive(Parser)]
#[command(bin_name = "cargo xtask run", max_term_width = 110)]
struct Arguments {
    /// Only the requests and the walk, without the benchmark and the scan.
    #[arg(long)]
    no_bench: bool,
    /// Rounds of the benchmark, about 4 s each; in four, each pod has each role once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match demonstrate(&arguments, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        // Ctrl-C reaches the agent and the clients too: whatever failed, failed by that.
        Err(_) if stop.is_asked() => {
            eprintln!("\ninterrupted; the lab is gone");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let begin = Instant::now();
    // Before there is a lab: the scan fills a table that all labs share.
    let alone = Alone::now()?;
    let lab = questions::node_with_four_pods()?;
    let prefix = lab.prefix().to_owned();
    report::lab(&lab)?;
    stop.check()?;
    with_agent(&lab, stop)?;
    if !arguments.no_bench {
        compare(&lab, usize::from(arguments.rounds), stop)?;
        match alone {
            Some(_) => scan::show(&lab, stop).context("the scan")?,
            None => println!("\nNo scan is shown: it would fill the neighbour table of the other labs that are there."),
        }
    }
    drop(lab);
    let left = left_behind(&prefix)?;
    ensure!(left.is_empty(), "the lab left behind: {left:?}");
    println!("\nAgent ended, namespaces removed, nothing left behind. {:.1} s in all.", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The requests and the walk of a packet: first the kernel alone, then with the agent.
fn with_agent(lab: &Lab, stop: &Stop) -> Result<()> {
    let alone = questions::ask_kernel_alone(lab)?;
    stop.check()?;
    let begin = Instant::now();
    let mut agent = AgentOptions::new(&["cali*"]).default_reread().start(lab.node())?;
    report::agent(begin.elapsed());
    questions::ask_with_agent(lab, &mut agent, &alone, stop)?;
    stop.check()?;
    walk::walk(lab, &agent)?;
    stop.check()?;
    report::status(&agent)?;
    let exit = agent.stop()?;
    ensure!(exit.success(), "the agent ended with {exit}; its log:\n{}", agent.log());
    Ok(())
}

fn compare(lab: &Lab, rounds: usize, stop: &Stop) -> Result<()> {
    let mut begun = 0;
    let between = |round| {
        if round == begun {
            begun += 1;
            report::round(begun, rounds)?;
        }
        stop.check()
    };
    let comparison = compare::compare(lab, rounds, between).context("the benchmark")?;
    report::comparison(&comparison);
    Ok(())
}

/// The lab's namespaces that still have a name.
fn left_behind(prefix: &str) -> Result<Vec<String>> {
    let names = Path::new(lab::NAMES);
    let mut left = Vec::new();
    for entry in fs::read_dir(names).with_context(|| format!("reading {}", names.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{prefix}-")) {
            left.push(name);
        }
    }
    Ok(left)
}
