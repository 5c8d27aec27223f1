//! The kernel's verdict in words.

use super::kernel::{Beyond, Kernel, KernelLookup, KernelVerdict};
use super::kernel_view::KernelView;
use super::{Answer, Cause, KernelAnswer, Question};
use arp_common::Reason;
use arp_common::maps::IfaceAddr;
use nix::libc;

/// `__neigh_update` leaves them alone.
const NUD_FIXED: u16 = libc::NUD_PERMANENT | libc::NUD_NOARP;

impl KernelView {
    /// What this node's kernel does. `agents`: why the running agent passes the frame, which may know of a program that is not
    /// seen here.
    pub(crate) fn kernel_answer(
        &self,
        question: &Question,
        beyond: &Beyond,
        lookup: &dyn KernelLookup,
        agents: Option<Reason>,
    ) -> KernelAnswer {
        let mut verdict = Kernel { snapshot: self.snapshot(), beyond, lookup }.verdict(question);
        if agents == Some(Reason::INGRESS_HOOK) && !matches!(verdict.answer, Answer::Silent | Answer::Undecided) {
            let would = format!("without that it would answer, because {}", verdict.cause.what);
            let what = format!("the agent knows of a program or chain of others on {}; {would}", question.interface);
            verdict = KernelVerdict {
                answer: Answer::Undecided,
                reason: agents,
                within_ms: None,
                mac: None,
                cause: Cause::new("program", what).at("arp-agent status"),
            };
        }
        let why = format!("{}{}: {}", headline(&verdict), self.learns(question, &verdict), verdict.cause.what);
        KernelAnswer {
            answer: verdict.answer,
            reason: verdict.reason.map(|reason| reason.name().to_owned()),
            why,
            mac: verdict.mac,
            within_ms: verdict.within_ms,
            decided_by: verdict.cause,
        }
    }

    /// What an answer does to the neighbour entry of the sender.
    fn learns(&self, question: &Question, verdict: &KernelVerdict) -> &'static str {
        let answers = matches!(verdict.answer, Answer::Answers | Answer::AnswersAfterDelay);
        if !answers || question.sender.is_unspecified() {
            return "";
        }
        let key = IfaceAddr { ifindex: question.ifindex, addr: question.sender.octets() };
        match self.snapshot().neighbours.get(&key) {
            Some(entry) if entry.state & NUD_FIXED != 0 => "",
            Some(entry) if entry.lladdr == Some(question.sender_mac.bytes()) => "",
            Some(entry) if entry.lladdr.is_some() => " (and changes its neighbour entry to the sender's new address)",
            _ => " (and learns the sender)",
        }
    }
}

/// The verdict in a few words.
pub(crate) fn headline(verdict: &KernelVerdict) -> String {
    let mac = verdict.mac.map(|mac| format!(" with {mac}")).unwrap_or_default();
    match verdict.answer {
        Answer::Answers => format!("answers at once{mac}"),
        Answer::AnswersAfterDelay => {
            format!("answers{mac} after up to {} ms (proxy_delay)", verdict.within_ms.unwrap_or_default())
        }
        Answer::Silent => "stays silent".to_owned(),
        Answer::Sometimes => format!("answers some of the time{mac}"),
        Answer::Undecided => "may answer or not, nobody can say from here".to_owned(),
    }
}
