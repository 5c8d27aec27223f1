//! `explain --pcap` and `explain --listen`: a line for each request.

use super::super::Exit;
use super::super::output::{print_coloured, print_line};
use crate::cli;
use crate::explain::capture::{CaptureJudge, Captured, Line, PATIENCE, frames};
use crate::explain::state::State;
use crate::kernel::Tap;
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::stdin;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long it listens unless that is said.
const LISTEN: Duration = Duration::from_secs(10);
/// How old a state may be that a request on the wire is judged by.
const FRESH: Duration = Duration::from_millis(200);

/// The requests of a capture.
pub(super) fn file(arguments: &cli::ExplainArgs, state: &State, path: &Path) -> Result<Exit> {
    let shown = path.display();
    let (frames, read) = if path == Path::new("-") {
        frames(stdin().lock())
    } else {
        frames(File::open(path).with_context(|| format!("{shown}: cannot be opened"))?)
    };
    let given = arguments.interface().ok();
    // A name that is wrong is wrong for all frames.
    given.map(|name| state.on(name).map(drop)).transpose()?;
    for line in CaptureJudge::new(state, given).lines(&frames) {
        if print(arguments, &line)? {
            return Ok(Exit::Ok);
        }
    }
    let tagged = frames.iter().filter(|captured| captured.is_tagged_arp()).count();
    if tagged > 0 {
        eprintln!(
            "{shown}: {tagged} ARP frames have a VLAN tag and are left out: they come in by the VLAN's own device; capture there"
        );
    }
    read.with_context(|| format!("{shown}: not all of it was read"))?;
    Ok(Exit::Ok)
}

/// The requests on the wire, until the time is over.
pub(super) fn listen(arguments: &cli::ExplainArgs, name: &str) -> Result<Exit> {
    let mut state = State::read()?;
    let tap = Tap::open(state.on(name)?.link().ifindex)?;
    let begin = Instant::now();
    let end = begin + arguments.seconds.unwrap_or(LISTEN);
    let mut read = begin;
    // Those whose reply may still come.
    let mut open: Vec<(Instant, Line)> = Vec::new();
    while Instant::now() < end || !open.is_empty() {
        let frame = tap.next(Instant::now() + Tap::STEP)?;
        let now = Instant::now();
        if let Some(bytes) = frame {
            open.iter_mut().for_each(|(asked, line)| line.seen(&bytes, now - *asked));
            if now < end {
                if now - read > FRESH {
                    (state, read) = (State::read()?, now);
                }
                let captured = Captured { at: now - begin, interface: None, bytes };
                open.extend(CaptureJudge::new(&state, Some(name)).line(&captured).map(|line| (now, line)));
            }
        }
        let is_over = |(asked, line): &(Instant, Line)| line.replies > 0 || now - *asked > PATIENCE;
        while open.first().is_some_and(is_over) {
            if print(arguments, &open.remove(0).1)? {
                return Ok(Exit::Ok);
            }
        }
    }
    Ok(Exit::Ok)
}

/// Prints a line; says whether whoever reads has gone.
fn print(arguments: &cli::ExplainArgs, line: &Line) -> Result<bool> {
    if arguments.json {
        print_line(serde_json::to_string(line)?)
    } else {
        print_coloured(format_args!("{}\n", line.text()))
    }
}
