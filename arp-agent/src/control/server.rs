//! The agent's end of the control socket: accepts clients, and hands their requests to the agent.

use super::access::{Access, restrict};
use super::{PATIENCE, Request, Response};
use crate::descriptors;
use anyhow::Context as _;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The queue of requests to the agent, each with the channel on which its answer goes back.
pub(crate) type Requests = mpsc::Sender<(Request, oneshot::Sender<Response>)>;

/// Listens on a path, for this user and the group of [`super::access`].
///
/// # Errors
/// The socket cannot be made there.
pub(crate) fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("{}: cannot listen on this socket", socket.display()))?;
    restrict(socket, 0o600, 0o660)?;
    Ok(listener)
}

/// Accepts clients. If there are as many as may be, a new one replaces the oldest: so idle clients can neither shut
/// others out nor use up the descriptors that the agent needs.
pub(crate) async fn accept(listener: UnixListener, requests: Requests) {
    let most = descriptors::connections();
    let mut clients: VecDeque<JoinHandle<()>> = VecDeque::new();
    let mut told = false;
    loop {
        let accepted = listener.accept().await;
        clients.retain(|client| !client.is_finished());
        match accepted {
            Ok((stream, _)) => {
                told = false;
                if clients.len() >= most
                    && let Some(oldest) = clients.pop_front()
                {
                    send_away(oldest).await;
                }
                clients.push_back(tokio::spawn(converse(stream, requests.clone())));
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("the control socket cannot accept a client: {error}");
                }
                // Of descriptors there may be none left: somebody's must go.
                if let Some(oldest) = clients.pop_front() {
                    send_away(oldest).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Stops serving a client, and waits until its connection is closed.
async fn send_away(client: JoinHandle<()>) {
    client.abort();
    // How it ended is no matter: by this, or just before.
    let _ = client.await;
}

async fn converse(stream: UnixStream, requests: Requests) {
    let ended = match timeout(PATIENCE, answer(stream, requests)).await {
        Ok(Ok(Some(goes_on))) => goes_on.pass_on().await,
        Ok(Ok(None)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    };
    if let Err(error) = ended {
        log::debug!("a client of the control socket disconnected: {error:#}");
    }
}

/// A client whose answer goes on.
struct GoesOn {
    lines: mpsc::Receiver<String>,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl GoesOn {
    /// How many lines are written at once.
    const AT_ONCE: usize = 64;

    /// Passes lines on until the agent or the client hangs up, or the client does not read for a time.
    async fn pass_on(mut self) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        let mut said = [0; 64];
        loop {
            tokio::select! {
                count = self.lines.recv_many(&mut lines, Self::AT_ONCE) => {
                    if count == 0 {
                        return Ok(());
                    }
                    let mut text = lines.join("\n");
                    text.push('\n');
                    lines.clear();
                    timeout(PATIENCE, self.write.write_all(text.as_bytes())).await.context("it does not read")??;
                }
                // Whatever it says: only that it hangs up matters.
                read = self.read.read(&mut said) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }
}

async fn answer(stream: UnixStream, requests: Requests) -> anyhow::Result<Option<GoesOn>> {
    /// Longer than any request.
    const LONGEST: u64 = 4096;
    let access = Access::of(&stream).context("asking who a client is failed")?;
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(read.take(LONGEST));
    // Read in any case: who is hung up on while writing hears no reason.
    limited.read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => match access.refusal(&request) {
            Some(refusal) => Response::Error(refusal),
            None => {
                let (reply, response) = oneshot::channel();
                requests.send((request, reply)).await.context("the agent is ending")?;
                response.await?
            }
        },
        Err(error) => Response::Error(format!("not a request of this version: {error}")),
    };
    let (response, lines) = match response {
        Response::Feed(feed) => (*feed.first, Some(feed.lines)),
        response => (response, None),
    };
    respond(&mut write, &response).await?;
    let read = limited.into_inner().into_inner();
    Ok(lines.map(|lines| GoesOn { lines, read, write }))
}

async fn respond(write: &mut OwnedWriteHalf, response: &Response) -> anyhow::Result<()> {
    let mut document = serde_json::to_vec(response)?;
    document.push(b'\n');
    Ok(write.write_all(&document).await?)
}
