//! The requests of pods, asked twice: of the kernel alone, and with the fast path attached.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use arp_common::Reason;
use lab::topology::{self, CALICO_GATEWAY, FAR_HOST, UPLINK_IP};
use lab::{Agent, Answerer, Counted, Host, Lab, Stop};

/// A second address behind p0's interface, as of a pod with two.
const SECOND_ADDRESS: [u8; 4] = [10, 244, 235, 140];
/// p2's `proxy_delay`, in units of 10 ms: the kernel answers within 0.1 s.
const DELAY: u32 = 10;
/// Longer than that.
const DELAYED: Duration = Duration::from_millis(200);

/// What the kernel alone sent back to each request.
pub(crate) type Replies = Vec<Vec<Vec<u8>>>;

struct DemoQuestion {
    pod: &'static str,
    kind: QuestionKind,
    target: [u8; 4],
    target_is: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum QuestionKind {
    WhoHas,
    Probe,
}

/// The first requests of p0 and p1: the kernel learns from them.
fn first_requests() -> [DemoQuestion; 2] {
    let first = |pod, target_is| DemoQuestion { pod, kind: QuestionKind::WhoHas, target: CALICO_GATEWAY, target_is };
    [first("p0", "its gateway, for the first time"), first("p1", "its gateway, for the first time")]
}

fn further_requests(lab: &Lab) -> Vec<DemoQuestion> {
    use QuestionKind::{Probe, WhoHas};
    let ip = |pod| lab.host(pod).ip();
    let rows = [
        ("p0", WhoHas, CALICO_GATEWAY, "its gateway again"),
        ("p0", WhoHas, ip("p1"), "another pod, p1"),
        ("p1", WhoHas, ip("p0"), "another pod, p0"),
        ("p0", WhoHas, FAR_HOST, "a host behind the uplink"),
        ("p0", WhoHas, UPLINK_IP, "the node itself"),
        ("p0", WhoHas, ip("p0"), "its own address"),
        ("p0", WhoHas, SECOND_ADDRESS, "routed back out of cali0"),
        ("p0", Probe, FAR_HOST, "the host behind the uplink"),
        ("p0", Probe, UPLINK_IP, "the node itself"),
        ("p2", WhoHas, CALICO_GATEWAY, "its gateway, with a proxy_delay"),
    ];
    rows.map(|(pod, kind, target, target_is)| DemoQuestion { pod, kind, target, target_is }).into()
}

/// A Calico node with four pods; p2's requests are answered with a delay, p3 is there for the benchmark.
pub(crate) fn node_with_four_pods() -> Result<Lab> {
    let lab = topology::calico(4)?;
    let (p0, p2) = (lab.host("p0"), lab.host("p2"));
    lab.node().ip_each(&format!(
        "route add {}/32 dev {} scope link
         neigh add {} lladdr {} dev {} nud permanent",
        Ipv4Addr::from(SECOND_ADDRESS),
        p0.node_end(),
        Ipv4Addr::from(p2.ip()),
        p2.mac(),
        p2.node_end(),
    ))?;
    lab.node().sysctl(&format!("net.ipv4.neigh.{}.proxy_delay", p2.node_end()), DELAY)?;
    Ok(lab)
}

/// Asks everything while no agent runs, and makes the node forget what it has learned from it.
pub(crate) fn ask_kernel_alone(lab: &Lab) -> Result<Replies> {
    let mut replies = Vec::new();
    for question in first_requests().iter().chain(&further_requests(lab)) {
        replies.push(question.ask(lab.host(question.pod))?);
    }
    for pod in ["p0", "p1"] {
        lab.node().ip(&format!("neigh flush dev {}", lab.host(pod).node_end()))?;
    }
    Ok(replies)
}

/// Asks everything again, and prints a line for each: who answered by the fast path's counters, and why not it. An
/// error if the replies differ from the kernel's own.
pub(crate) fn ask_with_agent(lab: &Lab, agent: &mut Agent, alone: &Replies, stop: &Stop) -> Result<()> {
    println!("{:<4} {:<23} {:<32} {:<13} {:<12} passed for", "pod", "asks", "that is", "kernel alone", "answered by");
    let mut reasons = BTreeSet::new();
    let first = first_requests();
    for (number, question) in first.iter().chain(&further_requests(lab)).enumerate() {
        stop.check()?;
        if number == first.len() {
            agent.in_sync()?;
        }
        let pod = lab.host(question.pod);
        let before = agent.status()?;
        let replies = question.ask(pod)?;
        let counted = Counted::between(&before, &agent.status()?, pod.node_end());
        let by = counted.answerer(!replies.is_empty())?;
        let expected = &alone[number];
        question.print(expected, &by);
        ensure!(
            replies == *expected,
            "the kernel alone sent {expected:02x?}, with the fast path there came {replies:02x?}"
        );
        if let Answerer::Kernel(reason) | Answerer::Nobody(reason) = by {
            reasons.insert(reason);
        }
    }
    println!("\nWith the fast path each request got what the kernel alone had sent, to the byte. The reasons:");
    for name in reasons {
        let why = Reason::ALL.iter().find(|reason| reason.name() == name).map_or("", |reason| reason.why());
        println!("  {name:<18} {why}");
    }
    Ok(())
}

impl DemoQuestion {
    fn ask(&self, pod: &Host) -> Result<Vec<Vec<u8>>> {
        let frame = match self.kind {
            QuestionKind::WhoHas => pod.who_has(self.target),
            QuestionKind::Probe => pod.probe(self.target),
        };
        if self.pod == "p2" { pod.ask_within(&frame, DELAYED) } else { pod.ask(&frame) }
    }

    fn print(&self, alone: &[Vec<u8>], by: &Answerer) {
        let kind = if self.kind == QuestionKind::WhoHas { "who-has" } else { "probe" };
        let asks = format!("{kind:<7} {}", Ipv4Addr::from(self.target));
        let alone = if alone.is_empty() { "silent" } else { "answers" };
        let (who, why) = match by {
            Answerer::FastPath => ("fast path", ""),
            Answerer::Kernel(reason) => ("kernel", reason.as_str()),
            Answerer::Nobody(reason) => ("nobody", reason.as_str()),
        };
        let line = format!("{:<4} {asks:<23} {:<32} {alone:<13} {who:<12} {why}", self.pod, self.target_is);
        println!("{}", line.trim_end());
    }
}
