//! Foreign tc programs: tcx ones, and filters beside ours. On ingress they see a frame before ARP does, or not at all
//! once it is answered; on egress they see the kernel's reply. Neither attaching nor detaching a tcx program is notified,
//! so interfaces are asked in turns; and all of them once a BPF link has been made, by whomever, which is how most attach.

use super::bpf_syscalls::{link_after, tcx_programs};
use crate::event::Event;
use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

/// How many interfaces are asked in one turn, besides new ones: each takes two system calls, four times a second.
const A_TURN: usize = 8;
/// As many where a new link would have been seen and all are asked from time to time: what is left is what attaches
/// without one.
const A_SHORT_TURN: usize = 1;

/// Whose turn it is, and what was found last.
#[derive(Debug, Default)]
pub struct ForeignPrograms {
    last_asked: u32,
    /// The newest BPF link that was seen.
    newest_link: u32,
    found: BTreeMap<u32, ForeignTc>,
}

/// What was found on an interface.
#[derive(Clone, Copy, Debug)]
struct ForeignTc {
    program: bool,
    filter: bool,
}

impl ForeignTc {
    fn any(self) -> bool {
        self.program || self.filter
    }
}

impl ForeignPrograms {
    /// Forgets what was found: the next answers are all news.
    pub fn forget(&mut self) {
        self.found.clear();
    }

    /// Forgets what was found about an interface that vanished (another may get its index), or where it may be
    /// otherwise by now.
    pub fn forget_one(&mut self, ifindex: u32) {
        self.found.remove(&ifindex);
    }

    /// How many interfaces to ask this time: all of them if a BPF link has been made since the last time.
    /// `all_are_asked`: from time to time they are, whatever was made.
    pub fn turn(&mut self, all_are_asked: bool) -> usize {
        let before = self.newest_link;
        while let Some(next) = link_after(self.newest_link) {
            self.newest_link = next;
        }
        match self.newest_link {
            newest if newest != before => usize::MAX,
            // None was ever seen: it takes CAP_SYS_ADMIN, or none was ever made.
            0 => A_TURN,
            _ if all_are_asked => A_SHORT_TURN,
            _ => A_TURN,
        }
    }

    /// Of these interfaces, those that are attached to and were never asked. What is not attached to is forgotten.
    pub fn new_among(&mut self, interfaces: &BTreeSet<u32>, attached: &BTreeSet<u32>) -> Vec<u32> {
        let mut new = Vec::new();
        for ifindex in interfaces {
            if !attached.contains(ifindex) {
                self.found.remove(ifindex);
            } else if !self.found.contains_key(ifindex) {
                new.push(*ifindex);
            }
        }
        new
    }

    /// Of those that were asked before, the next `turn`.
    pub fn next(&mut self, turn: usize) -> Vec<u32> {
        let (before, after) = (self.found.range(..=self.last_asked), self.found.range(self.last_asked + 1..));
        let next: Vec<u32> = after.chain(before).map(|(&ifindex, _)| ifindex).take(turn).collect();
        self.last_asked = next.last().copied().unwrap_or_default();
        next
    }

    /// Asks interfaces. Says what is news. `own` gives our own program's identifier; `beside` says whether there are
    /// filters beside ours, which is notified and so asked only of interfaces that are new, or were forgotten. Says
    /// also from which of `by_tcx`, those that our own program was attached to by tcx, it has gone.
    pub fn ask(
        &mut self,
        interfaces: Vec<u32>,
        by_tcx: &BTreeSet<u32>,
        mut own: impl FnMut() -> Option<u32>,
        mut beside: impl FnMut(u32) -> bool,
    ) -> (Vec<Event>, Vec<u32>) {
        let (mut news, mut gone) = (Vec::new(), Vec::new());
        for ifindex in interfaces {
            let before = self.found.get(&ifindex).copied();
            let incoming = tcx_programs(ifindex, BPF_TCX_INGRESS);
            if by_tcx.contains(&ifindex)
                && let (Ok(programs), Some(own)) = (&incoming, own())
                && !programs.contains(&own)
            {
                gone.push(ifindex);
            }
            let found = ForeignTc {
                program: has_foreign(incoming, &mut own)
                    || has_foreign(tcx_programs(ifindex, BPF_TCX_EGRESS), &mut own),
                filter: before.map_or_else(|| beside(ifindex), |before| before.filter),
            };
            if before.map(ForeignTc::any) != Some(found.any()) {
                news.push(Event::Tcx { ifindex, present: found.any() });
            }
            self.found.insert(ifindex, found);
        }
        (news, gone)
    }
}

/// Whether there may be a program that is not our own: an answer that is not understood counts as one.
fn has_foreign(programs: io::Result<Vec<u32>>, mut own: impl FnMut() -> Option<u32>) -> bool {
    match programs {
        Ok(programs) if programs.is_empty() => false,
        Ok(programs) => {
            let own = own();
            programs.into_iter().any(|id| Some(id) != own)
        }
        // Before 6.6 there is no tcx, and the question is refused.
        Err(error) => error.kind() != ErrorKind::InvalidInput,
    }
}
