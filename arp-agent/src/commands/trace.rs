//! `arp-agent trace`: each frame that reaches the program, and what becomes of it.

use super::Exit;
use super::events::{Begun, begin};
use super::output::is_over;
use crate::cli;
use crate::control::client::{Lines, NextLine};
use crate::control::feed::LostLines;
use crate::control::{Request, Response};
use crate::trace::Shown;
use crate::trace::filter::Filter;
use crate::trace::pcapng::Capture;
use anyhow::{Context as _, bail};
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Prints frames as they come, until the agent ends or there are enough.
///
/// # Errors
/// The filter lets nothing through, the capture cannot be written, or what listens in the run directory is no agent that
/// knows traces.
pub fn trace(arguments: &cli::TraceArgs) -> anyhow::Result<Exit> {
    let filter = Filter {
        interfaces: arguments.interfaces.clone(),
        sender: arguments.sender,
        target: arguments.target,
        verdict: arguments.verdict,
        reasons: arguments.reasons.iter().map(|reason| reason.name().to_owned()).collect(),
    };
    filter.check()?;
    if arguments.pcapng.as_deref() == Some(Path::new("-")) && io::stdout().is_terminal() {
        bail!(
            "--pcapng -: standard output is a terminal, and a capture is no text (send it to a pipe, or name a file)"
        );
    }
    let began = Instant::now();
    let (response, lines) = match begin(&arguments.run_dir.path, &Request::Trace(filter), "trace", arguments.json)? {
        Begun::Response(response, lines) => (response, lines),
        Begun::Exit(exit) => return Ok(exit),
    };
    let (Response::Trace { interfaces }, Some(lines)) = (response, lines) else {
        bail!("the agent sent an unexpected answer");
    };
    match (interfaces, arguments.interfaces.as_slice()) {
        (0, []) => eprintln!("tracing, but the program runs on no interface (`arp-agent status` says why)"),
        (0, named) => eprintln!("tracing, but the program runs on no interface that matches {}", named.join(", ")),
        (1, _) => eprintln!("tracing 1 interface"),
        (count, _) => eprintln!("tracing {count} interfaces"),
    }
    let output = match (&arguments.pcapng, arguments.json) {
        (Some(path), _) => FrameSink::capture(path)?,
        (None, true) => FrameSink::Json,
        (None, false) => FrameSink::Text,
    };
    FrameWatch {
        output,
        lines,
        left: arguments.count,
        until: arguments.seconds.map(|seconds| began + seconds),
        lost: 0,
    }
    .run()
}

/// Where frames go to.
enum FrameSink {
    Text,
    Json,
    Capture(PathBuf, Box<Capture<Box<dyn Write>>>),
}

impl FrameSink {
    fn capture(path: &Path) -> anyhow::Result<Self> {
        let into: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).with_context(|| cannot_write(path))?)
        };
        let capture: Capture<Box<dyn Write>> =
            Capture::new(Box::new(BufWriter::new(into)) as Box<dyn Write>).with_context(|| cannot_write(path))?;
        Ok(FrameSink::Capture(path.to_owned(), Box::new(capture)))
    }

    /// Writes a frame; says whether whoever reads has gone.
    fn write(&mut self, shown: &Shown, line: &str) -> anyhow::Result<bool> {
        match self {
            FrameSink::Text => is_over(writeln!(io::stdout().lock(), "{}", shown.line())),
            FrameSink::Json => is_over(writeln!(io::stdout().lock(), "{line}")),
            FrameSink::Capture(path, capture) => is_capture_over(path, capture.write(shown)),
        }
    }

    fn flush(&mut self) -> anyhow::Result<bool> {
        match self {
            // A line is written when it is whole.
            FrameSink::Text | FrameSink::Json => Ok(false),
            FrameSink::Capture(path, capture) => is_capture_over(path, capture.flush().map_err(Into::into)),
        }
    }
}

fn is_capture_over(path: &Path, written: anyhow::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| cannot_write(path)),
    }
}

fn cannot_write(path: &Path) -> String {
    format!("--pcapng {}: it cannot be written", path.display())
}

/// Frames that come, until there are enough.
struct FrameWatch {
    output: FrameSink,
    lines: Lines,
    left: Option<u64>,
    until: Option<Instant>,
    lost: u64,
}

impl FrameWatch {
    fn run(mut self) -> anyhow::Result<Exit> {
        let mut line = String::new();
        let mut shown = 0_u64;
        loop {
            if !self.lines.is_there_more() && self.output.flush()? {
                return Ok(Exit::Ok);
            }
            let wait = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            match self.lines.next(&mut line, wait.map(|wait| wait.min(Duration::from_secs(3600))))? {
                NextLine::Line => {}
                NextLine::Nothing if wait.is_some_and(|wait| !wait.is_zero()) => continue,
                NextLine::Nothing => break,
                NextLine::Ended => {
                    self.output.flush()?;
                    eprintln!("the agent has ended, or has hung up because it waited for too long");
                    return Ok(Exit::NotRunning);
                }
            }
            if let Ok(LostLines { lost }) = serde_json::from_str(&line) {
                self.lose(lost);
            } else {
                let frame: Shown = serde_json::from_str(&line).context("the agent sent something else than a frame")?;
                if self.output.write(&frame, line.trim_end())? {
                    return Ok(Exit::Ok);
                }
                shown += 1;
                self.left = self.left.map(|left| left - 1);
                if self.left == Some(0) {
                    break;
                }
            }
            line.clear();
        }
        self.output.flush()?;
        eprintln!("{shown} frames shown, {} left out", self.lost);
        Ok(Exit::Ok)
    }

    fn lose(&mut self, lost: u64) {
        self.lost += lost;
        eprintln!("{lost} frames are left out: they came faster than they were read");
        if let FrameSink::Capture(_, capture) = &mut self.output {
            capture.lost(lost);
        }
    }
}
