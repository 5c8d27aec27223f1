//! The client's end of the control socket.

use super::access::GROUP;
use super::{PATIENCE, Request, Response, socket_path};
use anyhow::Context as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The outcome of a request.
#[derive(Debug)]
pub enum Answer {
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
pub fn ask(run_dir: &Path, request: &Request) -> anyhow::Result<Answer> {
    let path = socket_path(run_dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(Answer::NotRunning);
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
    match BufReader::new(stream).read_line(&mut answer) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(Answer::Silent),
        Err(error) => {
            return Err(error).with_context(|| format!("{}: the agent closed the connection", path.display()));
        }
    }
    let response = serde_json::from_str(&answer)
        .with_context(|| format!("{}: cannot read the agent's answer; is it another version?", path.display()))?;
    Ok(Answer::Response(response))
}

/// What to tell people when an agent is [`Answer::Silent`].
pub fn silent(run_dir: &Path) -> String {
    format!(
        "{}: an agent runs, but did not answer within {PATIENCE:?}: it is stopped or overloaded; without its heartbeat \
         every frame passes to the kernel",
        socket_path(run_dir).display()
    )
}
