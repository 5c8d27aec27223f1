//! Answers that go on: a document, then a line of JSON for each thing that happens, until either side hangs up.

use super::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// How many lines may wait for a client. What finds no room is left out, and counted.
const WAITING: usize = 256;

/// What a client is sent.
#[derive(Debug)]
pub struct Feed {
    /// The answer proper.
    pub first: Box<Response>,
    /// The lines.
    pub lines: mpsc::Receiver<String>,
}

/// The line that stands for those that were left out, because the client does not read fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many.
    pub lost: u64,
}

/// The agent's end of a [`Feed`].
#[derive(Debug)]
pub struct Follower {
    lines: mpsc::Sender<String>,
    lost: u64,
}

impl Follower {
    /// A follower, and what its client is sent.
    pub fn new(first: Response) -> (Self, Feed) {
        let (sender, lines) = mpsc::channel(WAITING);
        (Follower { lines: sender, lost: 0 }, Feed { first: Box::new(first), lines })
    }

    /// Sends a line, or counts it as lost. Says whether the client is there still.
    pub fn send(&mut self, line: &str) -> bool {
        if self.lost > 0 {
            let told = serde_json::to_string(&Lost { lost: self.lost }).unwrap_or_default();
            match self.lines.try_send(told) {
                Ok(()) => self.lost = 0,
                Err(TrySendError::Full(_)) => {
                    self.lost += 1;
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.lines.try_send(line.to_owned()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Whether its client has gone.
    pub fn is_gone(&self) -> bool {
        self.lines.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_said() {
        let (mut follower, mut feed) = Follower::new(Response::Error(String::new()));
        for number in 0..WAITING + 3 {
            assert!(follower.send(&number.to_string()));
        }
        for number in 0..WAITING {
            assert_eq!(feed.lines.try_recv().ok(), Some(number.to_string()));
        }
        assert!(follower.send("next"));
        assert_eq!(feed.lines.try_recv().ok().as_deref(), Some("{\"lost\":3}"));
        assert_eq!(feed.lines.try_recv().ok().as_deref(), Some("next"));
        drop(feed);
        assert!(!follower.send("nobody") && follower.is_gone());
    }
}
