//! What this node's kernel does with a request, as far as its state tells.
//!
//! A pass does not say what the kernel does. So the decision is made again over the kernel's state as it would be had
//! the kernel learnt the sender: by then only what makes the kernel answer or stay silent decides (`arp_process`,
//! net/ipv4/arp.c; `ip_route_input_slow` and `fib_validate_source`, net/ipv4; Linux 6.18). Where something that is not
//! mirrored decides (rules, rp_filter, other programs), nothing is claimed.

use super::kernel_view::{KernelView, interface, sysctl_name};
use super::{Answer, KernelAnswer, Question};
use crate::arp_rules::ArpRules;
use crate::event::Event;
use arp_common::fib::{self, Kind, LAST_VIEW};
use arp_common::{Reason, Tables as _, Verdict, decide, settings};
use std::net::Ipv4Addr;

/// What an answer takes besides what the tables say.
enum Assumption {
    /// The kernel learns the sender; true whenever it answers.
    Learnt { before: bool },
    /// Source validation accepts the sender.
    SourceAccepted,
    /// No ARP chain drops the request or the reply.
    NotFiltered,
}

impl KernelView {
    /// What this node's kernel does. `agents`: why the running agent passes the frame, which may know of more than this
    /// state has. `other`: a program that sees the frame before the kernel does, or the reply, if one was found.
    ///
    /// # Errors
    /// The FIB has more routes than fit.
    pub fn kernel_answer(
        &mut self,
        question: &Question,
        agents: Option<Reason>,
        other: Option<&str>,
    ) -> anyhow::Result<KernelAnswer> {
        let mut assumptions = Vec::new();
        let mut reverts = Vec::new();
        let verdict = loop {
            let verdict = decide(&(&question.frame()).into(), question.ifindex, self.tables());
            let (assumption, change, revert) = match verdict {
                Verdict::Pass(Reason::NEIGHBOUR_UNKNOWN) => {
                    let (change, revert) = self.learnt(question);
                    (Assumption::Learnt { before: false }, vec![change], vec![revert])
                }
                Verdict::Pass(Reason::NEIGHBOUR_DIFFERS) => {
                    let (change, revert) = self.learnt(question);
                    (Assumption::Learnt { before: true }, vec![change], vec![revert])
                }
                Verdict::Pass(Reason::SENDER_ROUTE) => {
                    let (change, revert) = self.routed_back(question);
                    (Assumption::SourceAccepted, vec![change], vec![revert])
                }
                Verdict::Pass(Reason::ARP_NETFILTER) => {
                    let (chains, held_back) = self.unfiltered();
                    (Assumption::NotFiltered, vec![chains.0, held_back.0], vec![chains.1, held_back.1])
                }
                verdict => break verdict,
            };
            // Each is assumed once: what does not help the first time never will.
            if assumptions.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(&assumption)) {
                break verdict;
            }
            assumptions.push(assumption);
            change.into_iter().try_for_each(|event| self.tell(event))?;
            reverts.extend(revert);
        };
        let answer = self.judge(question, verdict, &assumptions);
        reverts.into_iter().rev().try_for_each(|event| self.tell(event))?;
        Ok(restrained(answer, agents, other))
    }

    fn judge(&self, question: &Question, verdict: Verdict, assumptions: &[Assumption]) -> KernelAnswer {
        let delay = match verdict {
            Verdict::Reply(_) => None,
            Verdict::Pass(Reason::PROXY_DELAY) => match self.snapshot().proxy_delays.get(&question.ifindex) {
                Some(delay) => Some(*delay),
                None => return undecided(Reason::PROXY_DELAY, "its delay could not be read"),
            },
            Verdict::Pass(reason) => {
                return match self.silence(question, reason) {
                    Some(why) => KernelAnswer {
                        answer: Answer::Silent,
                        reason: Some(reason.name().to_owned()),
                        why: format!("this node's kernel stays silent: {why}"),
                    },
                    None => undecided(reason, reason.why()),
                };
            }
        };
        let mut learns = "";
        for assumption in assumptions {
            match assumption {
                Assumption::Learnt { before: false } => learns = ", and learns the sender",
                Assumption::Learnt { before: true } => {
                    learns = ", and changes its neighbour entry to the sender's link-layer address";
                }
                Assumption::SourceAccepted => {
                    let why = format!(
                        "its source validation does (rp_filter, accept_local and arp_filter of {}): the way back to {} does \
                         not surely leave by this interface",
                        question.interface, question.sender
                    );
                    return undecided(Reason::SENDER_ROUTE, &why);
                }
                Assumption::NotFiltered => {
                    return undecided(Reason::ARP_NETFILTER, "an ARP chain may drop the request or the reply");
                }
            }
        }
        match delay {
            None => KernelAnswer {
                answer: Answer::Answers,
                reason: None,
                why: format!("this node's kernel answers{learns}"),
            },
            Some(delay) => KernelAnswer {
                answer: Answer::AnswersAfterDelay,
                reason: Some(Reason::PROXY_DELAY.name().to_owned()),
                why: format!("this node's kernel answers after a random delay of up to {delay} ms{learns}"),
            },
        }
    }

    /// Why the kernel surely gives no answer, in words; `None` if that does not follow from the reason.
    fn silence(&self, question: &Question, reason: Reason) -> Option<String> {
        let Question { interface: name, ifindex, target, sender, .. } = question;
        let sysctl = |key: &str| format!("net.ipv4.conf.{}.{key}", sysctl_name(name));
        let snapshot = self.snapshot();
        let route = || self.route_to(*ifindex, *sender, *target).unwrap_or_else(|| "unknown".to_owned());
        Some(match reason {
            Reason::NO_ROUTE => format!("it has no route to {target}"),
            Reason::UNANSWERABLE_ROUTE => format!("its route to {target} is `{}`", route()),
            Reason::FORWARDING_OFF => format!("{target} is not its own, and {} is 0", sysctl(settings::FORWARDING)),
            Reason::PROXY_ARP_OFF => {
                format!(
                    "its route to {target} is `{}`, {} is off, and there is no static proxy entry",
                    route(),
                    sysctl(settings::PROXY_ARP)
                )
            }
            Reason::PVLAN_OFF => {
                format!(
                    "its route to {target}, `{}`, leads back out of {name}, and {} is off",
                    route(),
                    sysctl(settings::PROXY_ARP_PVLAN)
                )
            }
            Reason::MEDIUM_ID => {
                format!("{} and that of the interface behind which {target} is forbid it", sysctl(settings::MEDIUM_ID))
            }
            // Only the table local counts for a probe; what the mirror does not follow may be in there.
            Reason::PROBE_NOT_LOCAL if self.probe_is_opaque(*ifindex, *target) => return None,
            Reason::PROBE_NOT_LOCAL => format!("it answers probes for its own addresses only, and {target} is none"),
            Reason::ARP_IGNORE => {
                let own = snapshot.links.get(ifindex)?.settings?.arp_ignore;
                match own.max(snapshot.all?.arp_ignore) {
                    1 => format!("arp_ignore is 1, and {target} is no address of {name} inside one of its subnets"),
                    8 => "arp_ignore is 8".to_owned(),
                    _ => return None,
                }
            }
            // With route_localnet, loopback addresses are like others.
            Reason::SPECIAL_TARGET if !target.is_loopback() => format!("it never answers for {target}"),
            Reason::SPECIAL_SENDER if !sender.is_loopback() => format!("it never answers {sender}"),
            Reason::INTERFACE_DOWN => format!("{name} is down, so it takes no frames"),
            Reason::INTERFACE_NOARP => format!("{} does no ARP (NOARP)", interface(snapshot, *ifindex)),
            _ => return None,
        })
    }

    fn probe_is_opaque(&self, ifindex: u32, target: Ipv4Addr) -> bool {
        let view = self.tables().iface(ifindex).map_or(LAST_VIEW, |iface| iface.probe_view);
        matches!(fib::lookup(self.tables(), view, target.octets()).kind(), Kind::Opaque | Kind::OpaqueRule)
    }

    /// What has to be told so that no ARP chain is in the way, and what takes it back.
    fn unfiltered(&self) -> ((Event, Event), (Event, Event)) {
        let snapshot = self.snapshot();
        let held_back = snapshot.held_back.iter();
        let held_back = held_back.flat_map(|(name, addrs)| addrs.iter().map(|&addr| (name.clone(), addr))).collect();
        (
            (Event::ArpNetfilter(ArpRules::default()), Event::ArpNetfilter(snapshot.arp_netfilter.clone())),
            (Event::DroppedReplies(Vec::new()), Event::DroppedReplies(held_back)),
        )
    }
}

fn undecided(reason: Reason, why: &str) -> KernelAnswer {
    KernelAnswer {
        answer: Answer::Undecided,
        reason: Some(reason.name().to_owned()),
        why: format!("this node's kernel decides, and `explain` cannot say how: {why}"),
    }
}

/// Claims nothing where something sees the frame first that the kernel's state does not show.
fn restrained(answer: KernelAnswer, agents: Option<Reason>, other: Option<&str>) -> KernelAnswer {
    if let Some(other) = other {
        return undecided(Reason::INGRESS_HOOK, &format!("{other} sees the frame first, or the reply"));
    }
    match agents.map(Reason::name) {
        // These say nothing of the kernel, or what its state says better.
        None => answer,
        Some(agents) if SAY_NOTHING_OF_THE_KERNEL.contains(&agents) => answer,
        Some("ingress_hook") => undecided(Reason::INGRESS_HOOK, Reason::INGRESS_HOOK.why()),
        Some(_) if answer.answer == Answer::Silent => answer,
        // The agent knows of an obstacle, or of a state that was another one a moment ago.
        Some(reason) if answer.reason.as_deref() != Some(reason) => {
            agents.map_or(answer, |reason| undecided(reason, reason.why()))
        }
        Some(_) => answer,
    }
}

/// Reasons of the agent that are about the agent, or about what is read of the kernel's state here as well.
const SAY_NOTHING_OF_THE_KERNEL: [&str; 14] = [
    "updating",
    "lease_expired",
    "setting_written",
    "interface_unknown",
    "interface_unread",
    "interface_flapping",
    "self_test_pending",
    "peer_drops_xdp",
    "neighbour_unknown",
    "neighbour_differs",
    "neighbour_doubted",
    "proxy_unconfirmed",
    "arp_listener",
    "proxy_delay",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RoutingRule;
    use crate::mirror::tests::{CALI, POD, POD_MAC, cali, dump};

    fn question(target: &str) -> Question {
        let target = target.parse().unwrap();
        Question {
            interface: "cali0".into(),
            ifindex: CALI,
            target,
            sender: POD,
            sender_mac: arp_common::Lladdr::new(POD_MAC),
        }
    }

    fn gone() -> Event {
        Event::NeighbourGone { ifindex: CALI, addr: POD }
    }

    fn answer(events: impl IntoIterator<Item = Event>, question: &Question) -> KernelAnswer {
        let mut world = KernelView::new(dump(), CALI).unwrap();
        events.into_iter().for_each(|event| world.tell(event).unwrap());
        let state = |world: &KernelView| (world.explain(question).reason, world.facts(question));
        let before = state(&world);
        let answer = world.kernel_answer(question, None, None).unwrap();
        assert_eq!(state(&world), before, "what was assumed was taken back");
        answer
    }

    #[test]
    fn a_sender_that_is_not_learnt_does_not_make_the_kernel_answer() {
        let off = || cali(|_, settings| settings.proxy_arp = 0);
        let silent = answer([gone(), off()], &question("8.8.8.8"));
        assert_eq!(
            (silent.answer, silent.reason.as_deref()),
            (Answer::Silent, Some("proxy_arp_off")),
            "{}",
            silent.why
        );
        let answers = answer([gone()], &question("8.8.8.8"));
        assert_eq!((answers.answer, answers.reason.as_deref()), (Answer::Answers, None), "{}", answers.why);
        assert!(answers.why.ends_with("and learns the sender"), "{}", answers.why);
    }

    #[test]
    fn what_is_not_mirrored_is_left_open() {
        let rule = RoutingRule { priority: 7, unknown: true, ..RoutingRule::default() };
        let open = answer([gone(), Event::Rules(vec![rule])], &question("8.8.8.8"));
        assert_eq!((open.answer, open.reason.as_deref()), (Answer::Undecided, Some("opaque_rule")));
        let stranger = Question { sender: "9.9.9.9".parse().unwrap(), ..question("8.8.8.8") };
        let answers = answer([], &stranger);
        assert_eq!(answers.answer, Answer::Answers, "rp_filter is 0: {}", answers.why);
        let strict = || cali(|_, settings| settings.rp_filter = 1);
        let open = answer([strict()], &stranger);
        assert_eq!((open.answer, open.reason.as_deref()), (Answer::Undecided, Some("sender_route")));
        let off = cali(|_, settings| settings.proxy_arp = 0);
        assert_eq!(answer([off], &stranger).answer, Answer::Silent, "whatever rp_filter is");
    }

    #[test]
    fn a_chain_can_only_take_an_answer_away() {
        let open = answer([Event::ArpNetfilter(ArpRules::unread("test"))], &question("8.8.8.8"));
        assert_eq!((open.answer, open.reason.as_deref()), (Answer::Undecided, Some("arp_netfilter")));
        let off = cali(|_, settings| settings.forwarding = 0);
        assert_eq!(
            answer([Event::ArpNetfilter(ArpRules::unread("test")), off], &question("8.8.8.8")).answer,
            Answer::Silent
        );
    }

    #[test]
    fn a_program_that_comes_first_leaves_all_open() {
        let mut world = KernelView::new(dump(), CALI).unwrap();
        let question = question("8.8.8.8");
        let other = world.kernel_answer(&question, None, Some("program `x` (id 7)")).unwrap();
        assert_eq!(other.answer, Answer::Undecided);
        assert!(other.why.contains("program `x`"), "{}", other.why);
        for (agents, answer) in [
            (Reason::INGRESS_HOOK, Answer::Undecided),
            (Reason::INTERFACE_HAS_UPPER, Answer::Undecided),
            (Reason::SELF_TEST_PENDING, Answer::Answers),
            (Reason::LEASE_EXPIRED, Answer::Answers),
        ] {
            assert_eq!(world.kernel_answer(&question, Some(agents), None).unwrap().answer, answer, "{}", agents.name());
        }
    }

    #[test]
    fn sysctl_names_are_those_that_sysctl_takes() {
        assert_eq!(sysctl_name("eth0.100"), "eth0/100");
        assert_eq!(sysctl_name("cali0"), "cali0");
    }
}
