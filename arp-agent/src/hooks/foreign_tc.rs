//! Foreign tc programs: tcx ones, and filters beside ours. Those that see a frame before ours, or what leaves, are no
//! obstacle (docs/kernel-arp.md §15); one that would see it afterwards is. Neither attaching nor detaching a tcx program
//! is notified, so interfaces are asked in turns; and all of them once a BPF link has been made, by whomever, which is
//! how most attach.

use super::bpf_syscalls::{link_after, tcx_programs};
use crate::dataplane::HookKind;
use crate::event::{Event, ForeignTc};
use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

/// How many interfaces are queried in one turn, besides new ones: each takes two system calls, four times a second.
const A_TURN: usize = 8;
/// The same where new BPF links are seen and all interfaces are queried from time to time: only programs attached
/// without a link remain to be found.
const A_SHORT_TURN: usize = 1;
/// Of more interfaces than these, turns that short would take longer than a minute to come round, and within a minute all
/// are queried anyway.
const MOST_IN_TURNS: usize = 240;

/// Which interfaces are next, and what was found on each.
#[derive(Debug, Default)]
pub(crate) struct ForeignPrograms {
    last_asked: u32,
    /// The newest BPF link that was seen.
    newest_link: u32,
    found: BTreeMap<u32, Found>,
}

/// Where programs of others stand that may see ARP, as seen from ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// On ingress, before ours: it sees what they let through, as they leave it.
    pub before: bool,
    /// On ingress, after ours, or not known to be before it.
    pub after: bool,
    /// On egress.
    pub egress: bool,
}

impl Places {
    /// There may be some in every place: an answer of the kernel's that is not understood.
    pub(crate) const UNKNOWN: Places = Places { before: true, after: true, egress: true };

    /// The places of both.
    pub(crate) fn or(self, other: Places) -> Places {
        Places {
            before: self.before || other.before,
            after: self.after || other.after,
            egress: self.egress || other.egress,
        }
    }

    /// What that means where ours is attached so. A reply by XDP goes past what is on egress.
    pub(crate) fn judge(self, how: HookKind) -> ForeignTc {
        match self {
            Places { after: true, .. } => ForeignTc::After,
            Places { egress: true, .. } if how.is_xdp() => ForeignTc::After,
            Places { before: false, egress: false, .. } => ForeignTc::None,
            _ => ForeignTc::Around,
        }
    }
}

/// What was found on an interface.
#[derive(Clone, Copy, Debug)]
struct Found {
    filters: Places,
    judged: ForeignTc,
}

/// What came of asking.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// What is news.
    pub news: Vec<Event>,
    /// The interfaces from which our own program has gone.
    pub gone: Vec<u32>,
    /// The interfaces on which something may see a frame after ours, and where the filters of others stand there.
    pub behind: Vec<(u32, Places)>,
    /// At which place of the tcx programs the guard is on each interface, `None` if at none.
    pub guards: Vec<(u32, Option<usize>)>,
}

impl ForeignPrograms {
    /// Forgets what was found: the next results all count as changes.
    pub(crate) fn forget(&mut self) {
        self.found.clear();
    }

    /// Forgets what was found on an interface that vanished (another may get its index), or that may have changed.
    pub(crate) fn forget_one(&mut self, ifindex: u32) {
        self.found.remove(&ifindex);
    }

    /// How many interfaces to query this time: all of them if a BPF link was created since the last time.
    /// `all_are_asked`: all are queried from time to time anyway.
    pub(crate) fn turn(&mut self, all_are_asked: bool) -> usize {
        let before = self.newest_link;
        while let Some(next) = link_after(self.newest_link) {
            self.newest_link = next;
        }
        match self.newest_link {
            newest if newest != before => usize::MAX,
            // None was ever seen: it takes CAP_SYS_ADMIN, or none was ever made.
            0 => A_TURN,
            _ if all_are_asked && self.found.len() > MOST_IN_TURNS => 0,
            _ if all_are_asked => A_SHORT_TURN,
            _ => A_TURN,
        }
    }

    /// Of these interfaces, the attached ones that were never queried. Those that are not attached are forgotten.
    pub(crate) fn new_among(&mut self, interfaces: &BTreeSet<u32>, attached: &BTreeSet<u32>) -> Vec<u32> {
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

    /// The next `turn` of the interfaces that were queried before.
    pub(crate) fn next(&mut self, turn: usize) -> Vec<u32> {
        let (before, after) = (self.found.range(..=self.last_asked), self.found.range(self.last_asked + 1..));
        let next: Vec<u32> = after.chain(before).map(|(&ifindex, _)| ifindex).take(turn).collect();
        self.last_asked = next.last().copied().unwrap_or_default();
        next
    }

    /// Asks interfaces. `how` says how our own program is attached, `own` its identifier, `guard` and `tap` those of the
    /// guard and of what looks at egress; `beside` says where there are filters beside ours, which is notified and so asked only
    /// of interfaces that are new, or were forgotten.
    pub(crate) fn ask(
        &mut self,
        interfaces: Vec<u32>,
        how: impl Fn(u32) -> Option<HookKind>,
        mut own: impl FnMut() -> Option<u32>,
        [guard, tap]: [Option<u32>; 2],
        mut beside: impl FnMut(u32) -> Places,
    ) -> Asked {
        let mut asked = Asked::default();
        for ifindex in interfaces {
            let Some(how) = how(ifindex) else { continue };
            let before = self.found.get(&ifindex).copied();
            let mut incoming = tcx_programs(ifindex, BPF_TCX_INGRESS);
            let outgoing = without(tcx_programs(ifindex, BPF_TCX_EGRESS), tap);
            if let (Ok(incoming), Some(_)) = (&incoming, guard) {
                asked.guards.push((ifindex, incoming.iter().position(|id| Some(*id) == guard)));
            }
            incoming = without(incoming, guard);
            let is_any =
                [&incoming, &outgoing].iter().any(|programs| programs.as_ref().is_ok_and(|ids| !ids.is_empty()));
            let own = if is_any || how == HookKind::Tcx { own() } else { None };
            if how == HookKind::Tcx
                && let (Ok(programs), Some(own)) = (&incoming, own)
                && !programs.contains(&own)
            {
                asked.gone.push(ifindex);
            }
            let programs = places(incoming, outgoing, how, own);
            let filters = before.map_or_else(|| beside(ifindex), |before| before.filters);
            let judged = programs.or(filters).judge(how);
            if judged == ForeignTc::After {
                asked.behind.push((ifindex, filters));
            }
            if before.map(|before| before.judged) != Some(judged) {
                asked.news.push(Event::ForeignTc { ifindex, found: judged });
            }
            self.found.insert(ifindex, Found { filters, judged });
        }
        asked
    }
}

/// Where the tcx programs of others stand that these answers name, in the order in which they run.
fn places(incoming: io::Result<Vec<u32>>, outgoing: io::Result<Vec<u32>>, how: HookKind, own: Option<u32>) -> Places {
    let (Some(incoming), Some(outgoing)) = (understood(incoming), understood(outgoing)) else {
        return Places::UNKNOWN;
    };
    let is_other = |id: &u32| Some(*id) != own;
    let egress = outgoing.iter().any(is_other);
    let place = match how {
        HookKind::Tcx => incoming.iter().position(|id| !is_other(id)).unwrap_or(0),
        // Filters come after all programs of tcx.
        HookKind::Clsact => incoming.len(),
        HookKind::XdpSkb | HookKind::XdpDriver | HookKind::XdpVeth => 0,
    };
    let (before, after) = incoming.split_at(place);
    // Ours is still there by tcx, too, if it has just changed to a filter.
    let is_early = how != HookKind::Tcx && before.iter().any(|id| !is_other(id));
    Places { before: before.iter().any(is_other), after: is_early || after.iter().any(is_other), egress }
}

fn understood(programs: io::Result<Vec<u32>>) -> Option<Vec<u32>> {
    match programs {
        // Before 6.6 there is no tcx, and the question is refused.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Some(Vec::new()),
        programs => programs.ok(),
    }
}

/// The programs without one that is ours, too.
fn without(programs: io::Result<Vec<u32>>, ours: Option<u32>) -> io::Result<Vec<u32>> {
    programs.map(|programs| programs.into_iter().filter(|id| Some(*id) != ours).collect())
}

/// Where tcx programs stand that are neither this one nor the guard nor the tap, whatever ours is attached to.
pub(crate) fn tcx_around(ifindex: u32, guard: Option<u32>, tap: Option<u32>) -> Places {
    let incoming = without(tcx_programs(ifindex, BPF_TCX_INGRESS), guard);
    places(incoming, without(tcx_programs(ifindex, BPF_TCX_EGRESS), tap), HookKind::Tcx, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(incoming: &[u32], outgoing: &[u32], how: HookKind) -> ForeignTc {
        places(Ok(incoming.to_vec()), Ok(outgoing.to_vec()), how, Some(7)).judge(how)
    }

    #[test]
    fn the_last_of_tcx_and_every_filter_see_what_others_let_through() {
        use HookKind::{Clsact, Tcx};
        assert_eq!(placed(&[7], &[], Tcx), ForeignTc::None);
        assert_eq!(placed(&[1, 2, 7], &[], Tcx), ForeignTc::Around);
        assert_eq!(placed(&[1, 7, 2], &[], Tcx), ForeignTc::After);
        assert_eq!(placed(&[1, 2], &[], Tcx), ForeignTc::After, "ours is not there yet, or any more");
        assert_eq!(placed(&[7], &[3], Tcx), ForeignTc::Around);
        assert_eq!(placed(&[], &[], Clsact), ForeignTc::None);
        assert_eq!(placed(&[1, 2], &[3], Clsact), ForeignTc::Around);
        assert_eq!(placed(&[7], &[], Clsact), ForeignTc::After, "ours is in the other place, too");
        let filter = Places { after: true, ..Places::default() };
        assert_eq!(filter.or(Places { before: true, ..Places::default() }).judge(Tcx), ForeignTc::After);
    }

    #[test]
    fn by_xdp_everything_comes_after_ours() {
        for how in [HookKind::XdpSkb, HookKind::XdpDriver, HookKind::XdpVeth] {
            assert_eq!(placed(&[], &[], how), ForeignTc::None);
            assert_eq!(placed(&[1], &[], how), ForeignTc::After);
            assert_eq!(placed(&[], &[1], how), ForeignTc::After);
        }
    }

    #[test]
    fn an_answer_that_is_not_understood_counts_as_a_program_everywhere() {
        let refused = |kind| Err(io::Error::from(kind));
        let judged = |kind, how| places(refused(kind), Ok(Vec::new()), how, Some(7)).judge(how);
        assert_eq!(judged(ErrorKind::InvalidInput, HookKind::Clsact), ForeignTc::None, "there is no tcx");
        assert_eq!(judged(ErrorKind::PermissionDenied, HookKind::Clsact), ForeignTc::After);
    }
}
