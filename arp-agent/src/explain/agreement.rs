//! Whether the loaded program did with a frame what `explain` says of it: its action, the frame's bytes, and what it
//! counted.

use super::{Explanation, Question};
use crate::dataplane::HookKind;
use crate::dataplane::bpf::deviations::PolicyReplies;
use crate::dataplane::bpf::programs::{ProgramRun, actions};
use anyhow::bail;
use arp_common::deviation::Deviation;
use arp_common::maps::Counters;
use arp_common::reason::ANSWERED;
use arp_common::{PackedArp, Reason};

/// What the program did, in a few words. `before` and `after` are the counters that the frame counts in, read around the
/// run, and `by_policy` the counts of policies that answer. Other traffic may count there meanwhile, so more may have risen
/// than the one that must.
///
/// # Errors
/// It is not what was decided here.
pub(crate) fn agree(
    how: HookKind,
    question: &Question,
    explanation: &Explanation,
    run: &ProgramRun,
    (before, after): (&Counters, &Counters),
    by_policy: (&PolicyReplies, &PolicyReplies),
) -> anyhow::Result<String> {
    let (passes, replies) = actions(how);
    let hook = how.hook();
    let frame = PackedArp::from(&question.frame());
    let (action, frame) = match explanation.reply_mac {
        Some(mac) => (replies, frame.reply(mac)),
        None => (passes, frame),
    };
    let differ = |did: String| {
        format!(
            "the loaded program and `explain` differ on who-has {} tell {} on {}: explain says {} ({}), the program {did}; \
             please report this with the output of `explain --json`",
            question.target, question.sender, question.interface, explanation.verdict, explanation.why
        )
    };
    if run.action != action {
        bail!(differ(format!("returned {hook} action {}", run.action)));
    }
    if run.frame != frame.to_bytes() {
        bail!(differ(format!("returned {hook} action {action} with other bytes, {:02x?}", run.frame)));
    }
    if let Some(policy) = explanation.policy.as_ref().filter(|policy| policy.answers) {
        let by = Deviation::from_name(&policy.name).map_or(0, |by| by as usize);
        if by_policy.0.answered[by] == by_policy.1.answered[by] {
            bail!(differ(format!("returned {hook} action {action} but did not count policy {}", policy.name)));
        }
        return Ok(format!("agrees: {hook} action {action}, the same reply, counted for policy {}", policy.name));
    }
    let counter = match &explanation.reason {
        None => ANSWERED,
        Some(name) => match Reason::from_name(name) {
            Some(reason) => reason.counter(),
            None => bail!("`explain` gave a reason that has no counter, {name}"),
        },
    };
    if after[counter] == before[counter] {
        let rose: Vec<&str> = (0..after.len()).filter(|&at| after[at] != before[at]).map(name).collect();
        let rose = if rose.is_empty() { "nothing".to_owned() } else { rose.join(", ") };
        bail!(differ(format!(
            "returned {hook} action {action} but did not count {}: it counted {rose}",
            name(counter)
        )));
    }
    let did = if action == replies { "the same reply" } else { "frame untouched" };
    Ok(format!("agrees: {hook} action {action}, {did}, counted as {}", name(counter)))
}

fn name(counter: usize) -> &'static str {
    if counter == ANSWERED { "answered" } else { Reason::from_raw(counter as u32).name() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::bpf::programs::{XDP_PASS, XDP_TX};
    use crate::event::Event;
    use crate::explain::kernel_view::KernelView;
    use crate::mirror::tests::{CALI, POD, POD_MAC, dump};
    use arp_common::Lladdr;
    use arp_common::reason::COUNTERS;

    fn explained(event: Option<Event>) -> (Question, Explanation) {
        let target = "8.8.8.8".parse().unwrap();
        let question = Question {
            interface: "cali0".into(),
            ifindex: CALI,
            target,
            sender: POD,
            sender_mac: Lladdr::new(POD_MAC),
            destination: None,
        };
        let events = dump().into_iter().chain(event).collect();
        let explanation = KernelView::new(events, CALI).unwrap().explain(&question);
        (question, explanation)
    }

    /// What comes of a run that returns `action` and `frame`, while the counters rise by `counted`.
    fn after(
        (question, explanation): &(Question, Explanation),
        action: u32,
        frame: &[u8],
        counted: &[(usize, u64)],
    ) -> Result<String, String> {
        let before = [5; COUNTERS];
        let mut after = before;
        for &(counter, count) in counted {
            after[counter] += count;
        }
        let run = ProgramRun { action, frame: frame.to_vec() };
        let none = PolicyReplies::default();
        agree(HookKind::XdpSkb, question, explanation, &run, (&before, &after), (&none, &none))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_pass_must_be_counted_for_its_reason() {
        let off = explained(Some(Event::ProxyDelays(vec![(CALI, 800)])));
        let frame = off.0.frame().to_bytes();
        let (delay, no_route) = (Reason::PROXY_DELAY.counter(), Reason::NO_ROUTE.counter());
        assert_eq!(
            after(&off, XDP_PASS, &frame, &[(delay, 1)]).as_deref(),
            Ok("agrees: xdp action 2, frame untouched, counted as proxy_delay")
        );
        assert!(after(&off, XDP_PASS, &frame, &[(delay, 1), (no_route, 3)]).is_ok(), "others may count meanwhile");
        let differs = after(&off, XDP_PASS, &frame, &[(no_route, 1)]).unwrap_err();
        assert!(differs.contains("did not count proxy_delay: it counted no_route"), "{differs}");
        let differs = after(&off, XDP_PASS, &frame, &[]).unwrap_err();
        assert!(differs.contains("did not count proxy_delay: it counted nothing"), "{differs}");
    }

    #[test]
    fn a_reply_must_be_the_same_and_counted_as_answered() {
        let on = explained(None);
        let mac = on.1.reply_mac.unwrap();
        let reply = PackedArp::from(&on.0.frame()).reply(mac).to_bytes();
        assert_eq!(
            after(&on, XDP_TX, &reply, &[(ANSWERED, 1)]).as_deref(),
            Ok("agrees: xdp action 3, the same reply, counted as answered")
        );
        let differs = after(&on, XDP_TX, &reply, &[(Reason::NO_ROUTE.counter(), 1)]).unwrap_err();
        assert!(differs.contains("did not count answered: it counted no_route"), "{differs}");
        let differs = after(&on, XDP_PASS, &on.0.frame().to_bytes(), &[(ANSWERED, 1)]).unwrap_err();
        assert!(differs.contains("the program returned xdp action 2;"), "{differs}");
        let mut other = reply;
        other[41] ^= 1;
        let differs = after(&on, XDP_TX, &other, &[(ANSWERED, 1)]).unwrap_err();
        assert!(differs.contains("with other bytes"), "{differs}");
    }
}
