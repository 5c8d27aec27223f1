//! Answers that go on: a document, then a line of JSON for each thing that happens, until either side hangs up.

use super::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// How many lines may wait for a client. What finds no room is left out, and counted.
const WAITING: usize = 256;

/// What a client is sent.
#[derive(Debug)]
pub(crate) struct Feed {
    /// The answer proper.
    pub first: Box<Response>,
    /// The lines.
    pub lines: mpsc::Receiver<String>,
}

/// The line that stands for those that were left out, because the client does not read fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostLines {
    /// How many.
    pub lost: u64,
}

/// The agent's end of a [`Feed`].
#[derive(Debug)]
pub(crate) struct Follower {
    lines: mpsc::Sender<String>,
    lost: u64,
}

impl Follower {
    /// A follower, and what its client is sent.
    pub(crate) fn new(first: Response) -> (Self, Feed) {
        let (sender, lines) = mpsc::channel(WAITING);
        (Follower { lines: sender, lost: 0 }, Feed { first: Box::new(first), lines })
    }

    /// Sends a line, or counts it as lost. Says whether the client is there still.
    pub(crate) fn send(&mut self, line: &str) -> bool {
        self.send_many(line, 1)
    }

    /// Counts lines as lost that could not even be made. They are told before the next that is sent.
    pub(crate) fn lose(&mut self, count: u64) {
        self.lost += count;
    }

    /// Tells what was lost, if there is room. Says whether the client is there still.
    pub(crate) fn tell_lost(&mut self) -> bool {
        if self.lost == 0 {
            return !self.is_gone();
        }
        let told = serde_json::to_string(&LostLines { lost: self.lost }).unwrap_or_default();
        match self.lines.try_send(told) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Closed(_)) => return false,
        }
        true
    }

    /// Sends `count` lines at once, with a line break between each two, or counts all of them as lost. Says whether the
    /// client is there still.
    pub(crate) fn send_many(&mut self, lines: &str, count: u64) -> bool {
        if !self.tell_lost() {
            return false;
        }
        if self.lost > 0 {
            // In their order, or not at all.
            self.lost += count;
            return true;
        }
        match self.lines.try_send(lines.to_owned()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost += count;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Whether its client has gone.
    pub(crate) fn is_gone(&self) -> bool {
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
        follower.lose(2);
        assert!(follower.send_many("a\nb", 2));
        assert_eq!(feed.lines.try_recv().ok().as_deref(), Some("{\"lost\":2}"));
        assert_eq!(feed.lines.try_recv().ok().as_deref(), Some("a\nb"));
        for _ in 0..WAITING {
            assert!(follower.send_many("a\nb", 2));
        }
        assert!(follower.send_many("a\nb", 2) && follower.tell_lost(), "there is no room, nor for what was lost");
        feed.lines.try_recv().unwrap();
        assert!(follower.tell_lost());
        let last = std::iter::from_fn(|| feed.lines.try_recv().ok()).last();
        assert_eq!(last.as_deref(), Some("{\"lost\":2}"), "each line of a message counts");
        drop(feed);
        assert!(!follower.send("nobody") && follower.is_gone());
    }
}
