//! Drives the self-tests of the interfaces' reply paths: sends their frames, reads the counters.

use super::Agent;
use crate::dataplane::HookKind;
use crate::dataplane::bpf::Bpf;
use crate::event::{Event, Link};
use crate::hooks::link_counters::LinkCounters;
use crate::hooks::self_test::{FRAMES, SelfTestAction, SelfTests, frame};
use arp_common::Reason;
use std::collections::BTreeSet;
use std::time::Instant;

impl Agent {
    /// Runs the self-test of these interfaces, as far as it is due. Returns an event for each result that changed.
    pub(super) fn self_test_news(&mut self, interfaces: &BTreeSet<u32>) -> Vec<Event> {
        let snapshot = self.mirror.snapshot();
        let mut news = Vec::new();
        for &ifindex in interfaces.intersection(self.attachments.attached()) {
            let (Some(link), Some(how)) = (snapshot.links.get(&ifindex), self.attachments.how(ifindex)) else {
                continue;
            };
            if snapshot.flapping.contains(&ifindex) {
                // It is tested when it is followed again; until then nothing is due.
                self.self_tests.forget(ifindex);
                continue;
            }
            let takes_xdp = how == HookKind::XdpVeth && snapshot.takes_xdp(ifindex);
            let first = self.self_tests.check(link, how, takes_xdp, Instant::now());
            let reason = drive(&mut self.self_tests, first, &mut self.bpf, &mut self.link_counters, link, how);
            if snapshot.blocked.get(&ifindex).copied() != reason {
                news.push(Event::Blocked { ifindex, reason });
            }
        }
        news
    }
}

/// Does what the test of an interface asks for, until it has to wait. Gives why the interface must not answer.
fn drive(
    tests: &mut SelfTests,
    first: SelfTestAction,
    bpf: &mut Bpf,
    counters: &mut LinkCounters,
    link: &Link,
    how: HookKind,
) -> Option<Reason> {
    let ifindex = link.ifindex;
    let mut next = first;
    while next != SelfTestAction::Nothing {
        next = match act(tests, next, bpf, counters, ifindex, how) {
            Ok(next) => next,
            Err(error) => {
                if tests.failures(ifindex) == 0 {
                    log::warn!("{}: the self-test failed: {error:#}", link.name);
                }
                tests.failed(ifindex, Instant::now());
                SelfTestAction::Nothing
            }
        };
    }
    if first != SelfTestAction::Nothing && tests.failures(ifindex) == 1 {
        log::debug!("{}: no replies by {} {} for now", link.name, how.hook(), how.mode());
    }
    tests.blocked(ifindex)
}

fn act(
    tests: &mut SelfTests,
    action: SelfTestAction,
    bpf: &mut Bpf,
    counters: &mut LinkCounters,
    ifindex: u32,
    how: HookKind,
) -> anyhow::Result<SelfTestAction> {
    Ok(match action {
        SelfTestAction::Nothing => SelfTestAction::Nothing,
        SelfTestAction::Send { len } => {
            let before = counters.transmitted(ifindex)?;
            bpf.send_probes(how, ifindex, &frame(len), FRAMES)?;
            // Now: the first call loads the program, and the kernel sets up memory for live frames in each.
            tests.sent(ifindex, before, Instant::now())
        }
        SelfTestAction::ReadCounters => {
            let counted = counters.transmitted(ifindex)?;
            tests.counted(ifindex, counted, Instant::now())
        }
    })
}
