//! The client's end of the control socket.

use super::access::GROUP;
use super::{PATIENCE, Request, Response, socket_path};
use anyhow::Context as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The outcome of a request.
#[derive(Debug)]
pub(crate) enum AgentAnswer {
    /// Nobody listens: no agent runs.
    NotRunning,
    /// An agent runs, but does not answer: it is stopped or overloaded, and its lease has run out or soon will.
    Silent,
    /// The agent answered.
    Response(Response),
}

/// Sends a request to the agent that uses this run directory, and waits for the answer.
///
/// # Errors
/// The directory cannot be read, or what listens there is no agent of this version.
pub(crate) fn ask(run_dir: &Path, request: &Request) -> anyhow::Result<AgentAnswer> {
    Ok(follow(run_dir, request)?.0)
}

/// The lines that follow an answer that goes on.
pub(crate) struct Lines {
    from: BufReader<UnixStream>,
}

impl Lines {
    /// The next line; `None` if there is none by now (`wait` is over), or the agent has ended.
    ///
    /// # Errors
    /// The connection fails.
    pub(crate) fn next(&mut self, into: &mut String, wait: Option<Duration>) -> anyhow::Result<NextLine> {
        // What has come of a line that is not whole yet stays in `into`.
        if wait.is_some_and(|wait| wait.is_zero()) {
            return Ok(NextLine::Nothing);
        }
        self.from.get_ref().set_read_timeout(wait)?;
        match self.from.read_line(into) {
            Ok(0) => Ok(NextLine::Ended),
            Ok(_) => Ok(NextLine::Line),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(NextLine::Nothing),
            Err(error) => Err(error).context("the agent closed the connection"),
        }
    }
}

impl Lines {
    /// Whether a line is here already.
    pub(crate) fn is_there_more(&self) -> bool {
        self.from.buffer().contains(&b'\n')
    }
}

/// What came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextLine {
    /// A line.
    Line,
    /// Nothing, within the time.
    Nothing,
    /// The end: the agent has ended, or hung up.
    Ended,
}

/// Sends a request whose answer goes on, and waits for its beginning. There are no lines unless there is a response.
///
/// # Errors
/// As [`ask`].
pub(crate) fn follow(run_dir: &Path, request: &Request) -> anyhow::Result<(AgentAnswer, Option<Lines>)> {
    let path = socket_path(run_dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok((AgentAnswer::NotRunning, None));
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "{}: cannot be connected to (run it as root or as a member of the group {GROUP}, or give the agent's \
                     --run-dir)",
                    path.display()
                )
            });
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream
        .write_all(&line)
        .with_context(|| format!("{}: the request could not be sent to the agent", path.display()))?;
    let mut answer = String::new();
    let mut from = BufReader::new(stream);
    match from.read_line(&mut answer) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Ok((AgentAnswer::Silent, None));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{}: the agent closed the connection", path.display()));
        }
    }
    let response = serde_json::from_str(&answer)
        .with_context(|| format!("{}: cannot read the agent's answer; is it another version?", path.display()))?;
    Ok((AgentAnswer::Response(response), Some(Lines { from })))
}

/// What to tell people when an agent is [`AgentAnswer::Silent`].
pub(crate) fn silent(run_dir: &Path) -> String {
    format!(
        "{}: an agent runs, but did not answer within {PATIENCE:?}: it is stopped or overloaded; without its heartbeat \
         every frame passes to the kernel",
        socket_path(run_dir).display()
    )
}
