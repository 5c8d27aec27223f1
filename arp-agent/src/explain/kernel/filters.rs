//! What comes before and after `arp_process`: chains of netfilter, programs of others.

use super::{Answer, Cause, Kernel, KernelVerdict, Question, open, silent};
use crate::arp_rules::ChainHook;
use crate::arp_rules::frame::Ruling;
use crate::event::{ForeignTc, Link};
use arp_common::{PackedArp, Reason};

/// Bytes of the Ethernet header.
const ETHERNET: usize = 14;

impl Kernel<'_> {
    /// The verdict, with what chains and programs make of the request and the reply.
    pub(super) fn filtered(&self, link: &Link, question: &Question, verdict: KernelVerdict) -> KernelVerdict {
        let rules = &self.snapshot.arp_netfilter;
        if verdict.answer == Answer::Silent {
            return self.unless_marked(link, question, verdict);
        }
        let frame = PackedArp::from(&question.frame());
        let reply = verdict.mac.map(|mac| frame.reply(mac).to_bytes());
        let request = question.frame().to_bytes();
        let passages = [(ChainHook::Input, "the request", Some(request)), (ChainHook::Output, "the reply", reply)];
        let mut unknown = None;
        for (hook, what, bytes) in passages {
            let Some(bytes) = bytes else { continue };
            match rules.ruling(hook, link, &bytes[ETHERNET..]) {
                Ruling::Accepts => {}
                Ruling::Drops(rule) => {
                    return silent(Reason::ARP_NETFILTER, chain(format!("{rule} drops {what}"), &rule));
                }
                Ruling::Unknown(why) => unknown = unknown.or(Some(chain(why.clone(), &why))),
            }
        }
        let would = match verdict.answer {
            Answer::Undecided => String::new(),
            _ => format!("; without that it would answer, because {}", verdict.cause.what),
        };
        if let Some(mut cause) = unknown {
            cause.what += &would;
            return open(Reason::ARP_NETFILTER, cause);
        }
        let name = &link.name;
        if let Some(program) = &self.beyond.program {
            let what = format!(
                "{program} on {name} sees the frame before the kernel does, or the reply, and may do anything{would}"
            );
            return open(
                Reason::INGRESS_HOOK,
                Cause::new("program", what)
                    .at(format!("bpftool net show dev {name}; tc filter show dev {name} ingress")),
            );
        }
        if self.snapshot.ingress_hooks.contains(&link.ifindex)
            || self.snapshot.foreign_tc.get(&link.ifindex) == Some(&ForeignTc::After)
        {
            let what = format!(
                "a chain of nft's netdev family on {name}, or tc filters that it shares with others, sees the frame first, or the reply{would}"
            );
            return open(Reason::INGRESS_HOOK, Cause::new("program", what).at("nft list hooks"));
        }
        verdict
    }
}

impl Kernel<'_> {
    /// The verdict of a bridge, with what its own family of chains, and its ports, may make of it.
    pub(super) fn bridged(&self, link: &Link, verdict: KernelVerdict) -> KernelVerdict {
        let name = &link.name;
        let without = |verdict: &KernelVerdict| match verdict.answer {
            Answer::Undecided => String::new(),
            Answer::Silent => format!("; else it stays silent, because {}", verdict.cause.what),
            _ => format!("; else it answers, because {}", verdict.cause.what),
        };
        let answering =
            self.snapshot.links.values().find(|port| port.master == Some(link.ifindex) && port.bridge_answers);
        if let Some(port) = answering {
            let what = format!(
                "{} is a port of {name} with neigh_suppress or proxy_arp: {name} may answer by its neighbours and its \
                 forwarding table, before the node is asked{}",
                port.name,
                without(&verdict)
            );
            return open(
                Reason::INTERFACE_HAS_MASTER,
                Cause::new("link", what).at(format!("bridge -d link show dev {}", port.name)),
            );
        }
        match &self.beyond.bridge_chain {
            Some(rules) if verdict.answer != Answer::Silent => {
                let what = format!("{rules} sees the frame before {name} does, or the reply{}", without(&verdict));
                open(Reason::ARP_NETFILTER, Cause::new("chain", what).at("nft -a list ruleset bridge"))
            }
            _ => verdict,
        }
    }
}

impl Kernel<'_> {
    /// Silence, unless something may mark the request, and a routing rule asks for marks.
    fn unless_marked(&self, link: &Link, question: &Question, silence: KernelVerdict) -> KernelVerdict {
        if !self.snapshot.rules.list().any(|rule| rule.mark.is_some()) {
            return silence;
        }
        let request = question.frame().to_bytes();
        if let Ruling::Unknown(why) = self.snapshot.arp_netfilter.ruling(ChainHook::Input, link, &request[ETHERNET..]) {
            let what = format!(
                "{why}, as mark the frame, and a routing rule asks for marks; without a mark, {}",
                silence.cause.what
            );
            return open(Reason::ARP_NETFILTER, chain(what, &why));
        }
        let hooked = self.snapshot.ingress_hooks.contains(&link.ifindex);
        let by = self.beyond.program.clone().or_else(|| hooked.then(|| "a chain of nft's netdev family".to_owned()));
        let Some(by) = by else { return silence };
        let what = format!(
            "{by} may mark the frame, and a routing rule asks for marks; without a mark, {}",
            silence.cause.what
        );
        open(Reason::INGRESS_HOOK, Cause::new("program", what).at("ip rule"))
    }
}

fn chain(what: String, rule: &str) -> Cause {
    let shown = if rule.contains("arptables") { "arptables -nvL --line-numbers" } else { "nft -a list ruleset arp" };
    Cause::new("chain", what).at(shown)
}
