//! Foreign tc programs: tcx ones, and filters beside ours. On ingress they see a frame before ARP does, or not at all
//! once it is answered; on egress they see the kernel's reply. Neither attaching nor detaching a tcx program is notified,
//! so interfaces are asked in turns.

use crate::event::Event;
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, SchedClassifier};
use std::collections::BTreeMap;

/// How many interfaces are asked in one turn, besides new ones: each takes some 8 µs of system calls, four times a
/// second.
pub const A_TURN: usize = 8;

/// Whose turn it is, and what was found last.
#[derive(Debug, Default)]
pub struct Tcx {
    last_asked: u32,
    found: BTreeMap<u32, bool>,
}

impl Tcx {
    /// Forgets what was found: the next answers are all news.
    pub fn forget(&mut self) {
        self.found.clear();
    }

    /// Forgets what was found about an interface that vanished: another may get its index.
    pub fn forget_one(&mut self, ifindex: u32) {
        self.found.remove(&ifindex);
    }

    /// Asks interfaces, by index and name: those that were never asked, and the next `turn` of the others. Says what is
    /// news. `own` is our own program's identifier; `beside` says whether there are filters beside ours.
    pub fn ask<'a>(
        &mut self,
        attached: impl Iterator<Item = (u32, &'a str)>,
        turn: usize,
        own: Option<u32>,
        mut beside: impl FnMut(u32) -> bool,
    ) -> Vec<Event> {
        let all: Vec<(u32, &str)> = attached.collect();
        // `all` is sorted, as interfaces come by index.
        self.found.retain(|ifindex, _| all.binary_search_by_key(ifindex, |&(known, _)| known).is_ok());
        let (mut in_turn, new): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(known, _)| self.found.contains_key(known));
        if in_turn.len() > turn {
            let start = in_turn.partition_point(|&(ifindex, _)| ifindex <= self.last_asked);
            in_turn.rotate_left(start);
            in_turn.truncate(turn);
        }
        if let Some(&(ifindex, _)) = in_turn.last() {
            self.last_asked = ifindex;
        }
        let mut news = Vec::new();
        for (ifindex, name) in new.into_iter().chain(in_turn) {
            let directions = [TcAttachType::Ingress, TcAttachType::Egress];
            let present = directions.into_iter().any(|direction| has_program(name, direction, own)) || beside(ifindex);
            if self.found.insert(ifindex, present) != Some(present) {
                news.push(Event::Tcx { ifindex, present });
            }
        }
        news
    }
}

/// Whether there may be a program that is not our own: an answer that is not understood counts as one.
fn has_program(name: &str, direction: TcAttachType, own: Option<u32>) -> bool {
    match SchedClassifier::query_tcx(name, direction) {
        Ok((_, programs)) => programs.iter().any(|program| Some(program.id()) != own),
        // Before 6.6 there is no tcx, and the question is refused.
        Err(ProgramError::SyscallError(error)) => error.io_error.kind() != std::io::ErrorKind::InvalidInput,
        Err(_) => true,
    }
}
