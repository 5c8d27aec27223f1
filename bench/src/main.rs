//! `cargo xtask bench`: named benchmarks, each interleaved, with ratios and their spread. docs/performance.md says how
//! to read what comes out; [`report`] is the JSON.

mod benchmarks;
mod context;
mod crowd;
mod document;
mod findings;
mod layout;
mod loads;
mod machine;
mod plots;
mod process;
mod programs;
mod report;
mod samples;
mod table;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use benchmarks::{BENCHMARKS, Benchmark};
use context::Context;
use findings::Findings;
use report::{Ran, Report};

/// Measures the fast path against the kernel and against everyone else, in network namespaces of its own.
///
/// Exit code 1 if a benchmark failed; a goal that is not met is no failure.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", max_term_width = 110)]
struct Arguments {
    /// Which benchmarks; all without a name
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(benchmarks::names()))]
    names: Vec<String>,
    /// Few rounds and small numbers: shows that everything works, measures nothing
    #[arg(long)]
    quick: bool,
    /// Write what was measured as one JSON document
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep what the JSON document has of benchmarks that do not run now; each says of which run it is
    #[arg(long, requires = "json")]
    keep: bool,
    /// Draw everything that was measured into this folder (SVG)
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Fill the tables, figures and plots of this Markdown file; may be given several times
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Measure nothing: take the results from this JSON document
    #[arg(long, value_name = "FILE", conflicts_with_all = ["names", "quick"])]
    from: Option<PathBuf>,
    /// Have the metrics of every agent scraped each second, as by Prometheus
    #[arg(long, conflicts_with = "from")]
    scrape: bool,
    /// List the benchmarks, and do nothing
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for Benchmark { name, what, .. } in BENCHMARKS {
            println!("{name:<8} {what}");
        }
        return ExitCode::SUCCESS;
    }
    let context = match Context::new(arguments.quick) {
        Ok(context) => context,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match run(&arguments, &context) {
        Ok(code) => code,
        Err(_) if context.stop.is_asked() => {
            eprintln!("\ninterrupted; the labs are gone");
            ExitCode::from(lab::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode> {
    if let Some(path) = &arguments.from {
        let report = Report::read(path)?;
        table::print(&report);
        write(arguments, &report)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(missing) = lab::missing_privilege() {
        bail!("cannot measure: {missing}");
    }
    if arguments.scrape {
        lab::scrape_all();
    }
    let chosen = |benchmark: &&Benchmark| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == benchmark.name)
    };
    let before = match &arguments.json {
        Some(path) if arguments.keep => Some(Report::read(path)?),
        _ => None,
    };
    let mut report = Report::begin(arguments.quick)?;
    println!("{}\n", report.headline());
    for benchmark in BENCHMARKS.iter().filter(chosen) {
        println!("{}: {}", benchmark.name, benchmark.what);
        let begin = Instant::now();
        let mut findings = Findings::new(benchmark.name);
        let failed = (benchmark.run)(context, &mut findings).err();
        context.check()?;
        if let Some(error) = &failed {
            eprintln!("FAILED: {}: {error:#}", benchmark.name);
        }
        findings.report(
            Ran {
                name: benchmark.name.to_owned(),
                what: benchmark.what.to_owned(),
                seconds: begin.elapsed().as_secs_f64().round(),
                failed: failed.map(|error| format!("{error:#}")),
                notes: Vec::new(),
            },
            &mut report,
        );
        table::print_benchmark(&report, benchmark.name);
        // After each, so that an interruption loses only the one that it falls into.
        if let Some(path) = &arguments.json {
            report.write(path)?;
        }
    }
    if let Some(before) = before {
        report.keep(before, benchmarks::names())?;
    }
    table::print_goals(&report);
    write(arguments, &report)?;
    Ok(if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What comes of the results besides the tables on the terminal.
fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    if let Some(path) = &arguments.json {
        report.write(path)?;
        println!("wrote {}", path.display());
    }
    if let Some(folder) = &arguments.plots {
        for path in plots::draw(report, folder)? {
            println!("wrote {}", path.display());
        }
    }
    for path in &arguments.report {
        document::rewrite(report, path).with_context(|| format!("rewriting {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
