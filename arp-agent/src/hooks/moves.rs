//! How often our program is moved out of the way of others: pure, with the time as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The pause after the first move; each later one doubles it. Another program may want to be the last one, too.
const FIRST: Duration = Duration::from_secs(2);
/// How often it is doubled.
const DOUBLINGS: u32 = 8;

/// The interfaces on which it was moved lately: how often, and when last.
#[derive(Debug, Default)]
pub(crate) struct Moves(BTreeMap<u32, (u32, Instant)>);

impl Moves {
    /// Whether the program may be moved on an interface now; notes that it is.
    pub(crate) fn may_move(&mut self, ifindex: u32, now: Instant) -> bool {
        let Some((times, last)) = self.0.get_mut(&ifindex) else {
            self.0.insert(ifindex, (0, now));
            return true;
        };
        let (pause, since) = (FIRST * 2_u32.pow(*times), now.saturating_duration_since(*last));
        if since < pause {
            return false;
        }
        // Whoever was in the way the last time has let it be since.
        *times = if since > 4 * pause { 0 } else { (*times + 1).min(DOUBLINGS) };
        *last = now;
        true
    }

    /// Forgets an interface that is gone.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.0.remove(&ifindex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_pushed_away_again_and_again_comes_back_ever_later() {
        let (mut moves, start) = (Moves::default(), Instant::now());
        let moved: Vec<u64> =
            (0..3000).filter(|&second| moves.may_move(1, start + Duration::from_secs(second))).collect();
        assert_eq!(moved, [0, 2, 6, 14, 30, 62, 126, 254, 510, 1022, 1534, 2046, 2558]);
        assert!(moves.may_move(2, start), "another interface");
        let late = start + Duration::from_secs(2558 + 4 * 512 + 1);
        assert!(moves.may_move(1, late));
        assert!(moves.may_move(1, late + FIRST), "after a long time it is as new");
        moves.forget(1);
        assert!(moves.may_move(1, start));
    }
}
