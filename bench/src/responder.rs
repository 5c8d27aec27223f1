//! A pod that asks, and who answers it: what `reply`, `storm` and `peers` measure.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use arp_common::Lladdr;
use lab::topology::CALICO_GATEWAY;
use lab::{Agent, AgentOptions, Host, Lab, Namespace, kernel_is_since};

use crate::requester::Requester;

/// A pod that asks.
#[derive(Debug)]
pub struct Subject {
    /// Who answers it, as tables and plots say.
    pub name: String,
    /// Where the pod's `eth0` is.
    pub namespace: Namespace,
    /// Its link-layer address.
    pub mac: Lladdr,
    /// Its address.
    pub ip: [u8; 4],
    /// What it asks for.
    pub target: [u8; 4],
    /// Where it asks, and its stack takes the replies.
    pub core: usize,
}

/// Who answers: the kernel, or the fast path by one of its hooks over a kernel with `proxy_delay` 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Responder {
    /// The kernel, which waits before it answers: `proxy_delay` as the kernel sets it.
    DelayedKernel,
    /// The kernel with `proxy_delay` 0.
    Kernel,
    /// The fast path, XDP in skb mode.
    Skb,
    /// The fast path, tc by tcx: the default.
    Tcx,
    /// The fast path, tc by clsact: what kernels without tcx have.
    Clsact,
    /// The fast path, XDP in the veth driver, GRO on at the pod's end.
    Driver,
}

/// The kernel's own default of `proxy_delay`, in units of 10 ms (net/ipv4/arp.c).
pub const DEFAULT_DELAY: u32 = 80;

impl Responder {
    /// All of them.
    pub const ALL: [Responder; 6] = [
        Responder::DelayedKernel,
        Responder::Kernel,
        Responder::Tcx,
        Responder::Clsact,
        Responder::Skb,
        Responder::Driver,
    ];

    /// The fast path by tc as it is attached by default.
    pub fn default_tc() -> Self {
        if kernel_is_since(6, 6) { Responder::Tcx } else { Responder::Clsact }
    }

    /// As tables and plots name it.
    pub fn name(self) -> &'static str {
        match self {
            Responder::DelayedKernel => "kernel, proxy_delay 80 (default)",
            Responder::Kernel => KERNEL,
            Responder::Skb => "fast path, xdp skb",
            Responder::Tcx => "fast path, tcx (default)",
            Responder::Clsact => "fast path, clsact (fallback)",
            Responder::Driver => "fast path, xdp driver, pod GRO on",
        }
    }

    /// Whether it is the fast path.
    pub fn is_fast_path(self) -> bool {
        self.options().is_some()
    }

    /// The agent's options; hook and mode as `status` must name them.
    fn options(self) -> Option<(&'static [&'static str], [&'static str; 2])> {
        match self {
            Responder::DelayedKernel | Responder::Kernel => None,
            Responder::Skb => Some((&["--hook", "xdp", "--xdp-mode", "skb"], ["xdp", "skb"])),
            Responder::Tcx => Some((&["--hook", "tc", "--tc-attach", "tcx"], ["tc", "tcx"])),
            Responder::Clsact => Some((&["--hook", "tc", "--tc-attach", "clsact"], ["tc", "clsact"])),
            Responder::Driver => Some((&["--hook", "xdp", "--xdp-mode", "driver"], ["xdp", "driver"])),
        }
    }
}

/// The responder that all others are compared with.
pub const KERNEL: &str = "kernel, proxy_delay 0";

/// A pod of a Calico node with its responder, ready to measure.
#[derive(Debug)]
pub struct Stand {
    /// Who answers.
    pub who: Responder,
    /// The pod.
    pub subject: Subject,
    /// The node's interface to it.
    pub node_end: String,
    agent: Option<Agent>,
}

impl Stand {
    /// Makes `who` the responder of a pod. The node's neighbour entry for it becomes permanent, as Calico makes them.
    ///
    /// # Errors
    /// Also if this agent or this kernel does not have the hook.
    pub fn prepare(lab: &Lab, pod: &str, who: Responder, core: usize) -> Result<Self> {
        let host = lab.host(pod);
        host.close_sockets();
        host.namespace().ip("neigh flush all")?;
        let (ip, mac, node_end) = (Ipv4Addr::from(host.ip()), host.mac(), host.node_end().to_owned());
        lab.node().ip(&format!("neigh replace {ip} lladdr {mac} dev {node_end} nud permanent"))?;
        let delay = if who == Responder::DelayedKernel { DEFAULT_DELAY } else { 0 };
        lab.node().sysctl(&format!("net.ipv4.neigh.{node_end}.proxy_delay"), delay)?;
        // The driver's replies need NAPI on the pod's end.
        gro(host.namespace(), "eth0", who == Responder::Driver)?;
        let agent = match who.options() {
            None => None,
            Some((arguments, mode)) => Some(start(lab, &node_end, arguments, mode)?),
        };
        Ok(Stand { who, subject: Subject::new(who.name(), host, CALICO_GATEWAY, core), node_end, agent })
    }

    /// How many requests the fast path has answered here by its own counter; 0 where it is not.
    pub fn answered(&self) -> Result<u64> {
        Ok(match &self.agent {
            Some(agent) => agent.status()?.answered(&self.node_end),
            None => 0,
        })
    }

    /// Fails unless the fast path has answered exactly `requests` since its counter was `before`; none if the kernel
    /// answers here.
    pub fn check(&self, before: u64, requests: u64) -> Result<()> {
        let (answered, expected) = (self.answered()? - before, if self.agent.is_some() { requests } else { 0 });
        ensure!(
            answered == expected,
            "{}: the fast path answered {answered} requests by its own counter, not {expected} of {requests}",
            self.who.name()
        );
        Ok(())
    }

    /// The hook as `status` names it; empty for the kernel.
    pub fn mode(&self) -> Result<String> {
        let Some(agent) = &self.agent else { return Ok(String::new()) };
        let status = agent.status()?;
        let said = status.interface(&self.node_end);
        Ok(format!("{} {}", said["hook"].as_str().unwrap_or("?"), said["mode"].as_str().unwrap_or("?")))
    }

    /// Ends the agent, if there is one.
    pub fn end(mut self) -> Result<()> {
        if let Some(agent) = &mut self.agent {
            let exit = agent.stop()?;
            ensure!(exit.success(), "the agent ended with {exit}; its log:\n{}", agent.log());
        }
        Ok(())
    }
}

fn start(lab: &Lab, node_end: &str, arguments: &[&str], [hook, mode]: [&str; 2]) -> Result<Agent> {
    let mut agent = AgentOptions::new(&[node_end]).default_reread().args(arguments).start(lab.node())?;
    // An interface may be proved and attached after the agent is ready.
    agent.in_sync()?;
    let status = agent.status()?;
    let said = status.interface(node_end);
    let is_that = said["hook"] == hook && (mode.is_empty() || said["mode"] == mode);
    if said["state"] != "answering" || !is_that {
        bail!("the fast path does not answer on {node_end} by {hook} {mode}: {said}");
    }
    Ok(agent)
}

/// Switches GRO on one end of a veth, and with it NAPI.
pub fn gro(namespace: &Namespace, interface: &str, on: bool) -> Result<()> {
    namespace.exec(&format!("ethtool -K {interface} gro {}", if on { "on" } else { "off" })).map(drop)
}

impl Subject {
    /// A host that asks for `target`.
    pub fn new(name: &str, host: &Host, target: [u8; 4], core: usize) -> Self {
        let (namespace, mac, ip) = (host.namespace().clone(), host.mac(), host.ip());
        Subject { name: name.to_owned(), namespace, mac, ip, target, core }
    }

    /// A requester for this pod. As long as it exists it receives a copy of each reply, which costs time.
    pub fn requester(&self) -> Result<Requester> {
        Requester::open(&self.namespace, &self.name, self.mac, self.ip, self.core)
    }

    /// How many frames have come in on the pod's `eth0`.
    pub fn received(&self) -> Result<u64> {
        received(&self.namespace, "eth0")
    }
}

/// The value of a counter once it has stopped moving: what waits in a queue is handled in less than the pause.
pub fn settled(read: impl Fn() -> Result<u64>) -> Result<u64> {
    const PAUSE: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut last = read()?;
    loop {
        thread::sleep(PAUSE);
        let now = read()?;
        if now == last || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

/// How many frames have come in on an interface.
pub fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    let table = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?.context("reading net/dev")?;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    count.with_context(|| format!("net/dev says nothing of {interface}"))
}

/// Gives each pod of a Calico node one of the responders `all`: with each `turn` they move on by one pod. A responder
/// that is not possible here is left out and reported to `missing`.
pub fn stands(
    lab: &Lab,
    all: &[Responder],
    turn: usize,
    core: usize,
    mut missing: impl FnMut(Responder, String),
) -> Vec<Stand> {
    let mut stands = Vec::new();
    for (index, &who) in all.iter().enumerate() {
        let pod = format!("p{}", (index + turn) % all.len());
        match Stand::prepare(lab, &pod, who, core) {
            Ok(stand) => stands.push(stand),
            Err(error) => missing(who, format!("{error:#}")),
        }
    }
    stands
}
