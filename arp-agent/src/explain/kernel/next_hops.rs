//! Targets that are elsewhere: the last part of `__mkroute_input` (net/ipv4/route.c) and `arp_fwd_proxy`, `arp_fwd_pvlan`
//! (net/ipv4/arp.c, 6.18). The kernel takes one of the route's next hops, by a hash over the request's bytes; the answer is
//! certain if all of them lead to the same one.

use super::sender::Accepted;
use super::settings::InterfaceSetting;
use super::{Answer, Cause, Destination, Kernel, KernelVerdict, Question, answers, interface, open, silent};
use crate::event::{Link, Settings};
use crate::explain::words::describe_route;
use arp_common::maps::IfaceAddr;
use arp_common::{Reason, settings as names};
use std::collections::BTreeSet;

impl Kernel<'_> {
    /// The target is behind one of these interfaces.
    pub(super) fn forwarded(
        &self,
        link: &Link,
        question: &Question,
        legs: &[u32],
        destination: &Destination<'_>,
    ) -> KernelVerdict {
        let legs: BTreeSet<u32> = legs.iter().copied().collect();
        let usable: BTreeSet<u32> = legs.iter().copied().filter(|&leg| self.snapshot.carries(leg)).collect();
        let verdicts: Vec<(u32, KernelVerdict)> =
            usable.iter().map(|&leg| (leg, self.by(link, question, leg, destination))).collect();
        let Some((_, first)) = verdicts.first() else {
            let cause = Cause::new("route", format!("no interface of the route to {} is up", question.target));
            return silent(Reason::NO_ROUTE, cause);
        };
        if let Some((_, unknown)) = verdicts.iter().find(|(_, verdict)| verdict.answer == Answer::Undecided) {
            return unknown.clone();
        }
        if verdicts.iter().all(|(_, verdict)| verdict.answer == first.answer) {
            return first.clone();
        }
        let by = |answer: bool| {
            let legs = verdicts.iter().filter(|(_, verdict)| (verdict.answer != Answer::Silent) == answer);
            legs.map(|&(leg, _)| interface(self.snapshot, leg)).collect::<Vec<_>>().join(", ")
        };
        let why = verdicts.iter().find(|(_, verdict)| verdict.answer == Answer::Silent);
        let why = why.map(|(_, verdict)| verdict.cause.what.clone()).unwrap_or_default();
        let what = format!(
            "the route to {} has several next hops, and a hash of the sender's addresses picks one: answered by {}, silent by {} \
             ({why})",
            question.target,
            by(true),
            by(false)
        );
        let answering = verdicts.iter().find(|(_, verdict)| verdict.answer != Answer::Silent);
        let one = answering.map_or(first, |(_, verdict)| verdict);
        KernelVerdict {
            answer: Answer::Sometimes,
            reason: Some(Reason::OPAQUE_ROUTE),
            within_ms: one.within_ms,
            mac: one.mac,
            cause: Cause::new("route", what).at(format!("ip route show {}", question.target)),
        }
    }

    /// What becomes of it by one interface.
    fn by(&self, link: &Link, question: &Question, oif: u32, destination: &Destination<'_>) -> KernelVerdict {
        let (name, target, sender) = (&link.name, question.target, question.sender);
        let out = interface(self.snapshot, oif);
        let Some(settings) = self.snapshot.links.get(&oif).and_then(|link| link.settings) else {
            let what = format!("the route to {target} leaves by {out}, which has no IPv4 (its MTU is below 68)");
            return silent(Reason::OPAQUE_ROUTE, Cause::new("link", what).at(format!("ip link show {out}")));
        };
        if !destination.is_validated {
            match self.source(link, question, oif) {
                Accepted::Yes => {}
                Accepted::No(reason, cause) => return silent(reason, cause),
                // Of several next hops the kernel would validate the one that it picks.
                Accepted::Unknown(cause) => {
                    let legs = destination.route.and_then(|route| self.legs(route));
                    return match legs.is_some_and(|legs| legs.len() > 1) {
                        true => open(Reason::SENDER_ROUTE, cause),
                        false => self.asked(link, question, cause),
                    };
                }
            }
        }
        let route = match destination.route {
            Some(route) => format!("the route `{}`", describe_route(self.snapshot, route)),
            None => format!("the kernel's route to {target}"),
        };
        if oif == link.ifindex {
            let pvlan = InterfaceSetting::of(self.snapshot, link, names::PROXY_ARP_PVLAN);
            let so = format!("and {route} leads back out of {name}");
            if !pvlan.is_on() {
                return silent(Reason::PVLAN_OFF, pvlan.cause(&so));
            }
            if sender == target {
                let what = format!("{sender} asks for itself, and {route} leads back out of {name}");
                return silent(Reason::ANNOUNCEMENT, Cause::new("frame", what));
            }
            return self.delayed(link, question, pvlan.cause(&so));
        }
        let proxy_arp = InterfaceSetting::of(self.snapshot, link, names::PROXY_ARP);
        let so = format!("and {route} leaves by another interface, {out}");
        let medium = medium_allows(link.settings, settings);
        if proxy_arp.is_on() && medium {
            return self.delayed(link, question, proxy_arp.cause(&so));
        }
        let is_static = |ifindex| self.snapshot.proxies.contains(&IfaceAddr { ifindex, addr: target.octets() });
        if is_static(link.ifindex) || is_static(0) {
            let on = if is_static(link.ifindex) { format!("on {name}") } else { "for all interfaces".to_owned() };
            let what = format!("there is a static proxy entry for {target} {on}, {so}");
            return self.delayed(link, question, Cause::new("static_proxy", what).at("ip neigh show proxy"));
        }
        if proxy_arp.is_on() {
            let medium = InterfaceSetting::of(self.snapshot, link, names::MEDIUM_ID);
            let so = format!("and that of {out} is {}: proxy_arp does not answer between them", settings.medium_id);
            return silent(Reason::MEDIUM_ID, medium.cause(&so));
        }
        silent(Reason::PROXY_ARP_OFF, proxy_arp.cause(&format!("there is no static proxy entry, {so}")))
    }

    /// It answers: at once, or later.
    fn delayed(&self, link: &Link, question: &Question, cause: Cause) -> KernelVerdict {
        let verdict = answers(link, cause);
        if question.destination.is_some_and(|to| !to.is_group()) {
            return verdict;
        }
        match self.snapshot.proxy_delays.get(&link.ifindex) {
            Some(0) => verdict,
            Some(&delay) => KernelVerdict {
                answer: Answer::AnswersAfterDelay,
                reason: Some(Reason::PROXY_DELAY),
                within_ms: Some(delay),
                ..verdict
            },
            None => open(Reason::PROXY_DELAY, Cause::new("sysctl", "proxy_delay could not be read")),
        }
    }
}

/// `arp_fwd_proxy`: an id of 0 on the ingress interface allows all, -1 nothing; else the ids must differ, and the other must
/// not be -1.
fn medium_allows(ingress: Option<Settings>, out: Settings) -> bool {
    match ingress.map_or(0, |settings| settings.medium_id) {
        0 => true,
        -1 => false,
        id => out.medium_id != id && out.medium_id != -1,
    }
}
