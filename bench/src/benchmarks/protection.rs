//! One pod attacks, and another one is its victim: floods and scans that fill the neighbour table of the kernel alone, against
//! the policies that drop them (docs/protection.md).
//!
//! The table is one for all network namespaces, so this runs while no other lab is there. The attacker is on the first core,
//! the victim on the last. The victim opens TCP connections that need an entry of the node's uplink, and asks from addresses
//! that the node does not know yet; the attacker asks from its own, too.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use arp_common::ArpFrame;
use bench::{Flood, quantile};
use lab::contacts::{connect_to_each, scan};
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, Alone, Lab, Neighbours, OnCore, Wire, netlink, wait_until};

use crate::context::Context;
use crate::findings::Findings;
use crate::process::Process;
use crate::samples::{Key, order};

/// A way to protect the node, or none.
struct Case {
    name: &'static str,
    rp_filter: u8,
    /// Rules of nft that let the pods' own senders through alone.
    nft: bool,
    /// The agent's policies; `None` for the kernel alone.
    policies: Option<&'static [&'static str]>,
}

const CASES: [Case; 5] = [
    Case { name: "kernel, rp_filter 0", rp_filter: 0, nft: false, policies: None },
    Case { name: "kernel, rp_filter 1", rp_filter: 1, nft: false, policies: None },
    Case { name: "kernel with an nft guard, rp_filter 0", rp_filter: 0, nft: true, policies: None },
    Case { name: "fast path, rp_filter 0", rp_filter: 0, nft: false, policies: Some(&[]) },
    Case { name: "fast path with policies, rp_filter 0", rp_filter: 0, nft: false, policies: Some(POLICIES) },
];
const POLICIES: &[&str] = &[
    "--sender-guard",
    "*=drop",
    "--entry-limit",
    "*=drop",
    "--budget",
    "*=drop",
    "--unresolved-budget",
    "*=drop",
    "--sender-grace",
    "0",
];

/// What the attacker does.
#[derive(Clone, Copy)]
enum Attack {
    Nothing,
    /// ARP frames, as fast as they go.
    Flood,
    /// Datagrams to dead addresses, at a rate a second or as fast as they go.
    Scan(Option<u32>),
}

const ATTACKS: [(&str, Attack); 9] = [
    ("calm", Attack::Nothing),
    ("random senders", Attack::Flood),
    ("random senders and MACs", Attack::Flood),
    ("announcements of random senders", Attack::Flood),
    (OWN_ROUTE, Attack::Flood),
    (FLIPS, Attack::Flood),
    ("announcements of its own address", Attack::Flood),
    ("UDP scan, 10,000 a second", Attack::Scan(Some(10_000))),
    ("UDP scan, as fast as it goes", Attack::Scan(None)),
];
const OWN_ROUTE: &str = "senders of a /20 of its own";
const FLIPS: &str = "its own address with random MACs";
/// Frames that a flood repeats: more senders than the neighbour table has room for.
const SENDERS: u32 = 8192;
/// How many of them are sent before the attacker looks whether it is to end: against the kernel alone a frame takes 300 µs.
const A_LOOK: usize = 256;
/// Connections, and first requests, that the victim tries in a window. Fewer than `--entry-limit` and `--budget` allow.
const TRIES: u8 = 80;
/// Of those, how many between two flushes of their entries: fewer than `--entry-limit` allows.
const A_PASS: u8 = 40;
const CONNECT: Duration = Duration::from_millis(900);
const REPLY: Duration = Duration::from_millis(200);
/// Behind the uplink, everybody in 10.11.0.0/23 is there, and nobody in 10.10.0.0/20.
const LIVE: [u8; 2] = [10, 11];
const DEAD: [u8; 4] = [10, 10, 0, 0];
const DEAD_HOSTS: u32 = 4096;
/// How many hosts the victim contacts at once while the subnet is scanned.
const AT_ONCE: u8 = 128;

/// A pair of pods, number `2 * case` and the next.
struct Pair<'a> {
    case: &'a Case,
    attacker: u8,
    victim: u8,
    agent: Option<Agent>,
}

impl Pair<'_> {
    fn has_policies(&self) -> bool {
        self.case.policies.is_some_and(|policies| !policies.is_empty())
    }
}

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _alone = Alone::wait()?;
    let (rounds, window) = context.either((5, 600), (1, 200));
    let window = Duration::from_millis(window);
    let lab = build()?;
    let pairs: Vec<Pair<'_>> = CASES
        .iter()
        .zip(0..)
        .map(|(case, number)| pair(&lab, case, number * 2, number * 2 + 1))
        .collect::<Result<_>>()?;
    for round in 0..rounds {
        for (name, attack) in ATTACKS {
            for index in order(round, pairs.len()) {
                context.check()?;
                Turn { lab: &lab, pair: &pairs[index], name, attack, window, context, round }.measure(findings)?;
            }
        }
    }
    pairs.into_iter().filter_map(|pair| pair.agent).try_for_each(|mut agent| agent.stop().map(drop))?;
    findings.note(format!(
        "Each window is {} ms, or the time for {TRIES} connections and {TRIES} first requests, of which no more are begun \
         after twice as long; a connection is lost after {} ms, a request after {} ms. The attacker is on core {}, the \
         victim on core {}.",
        window.as_millis(),
        CONNECT.as_millis(),
        REPLY.as_millis(),
        context.cores[0],
        context.core,
    ));
    Ok(())
}

/// A node with two pods for each case, and the two subnets behind the uplink.
fn build() -> Result<Lab> {
    let lab = topology::calico(CASES.len() as u8 * 2)?;
    lab.node().ip_each("route add 10.10.0.0/20 dev eth0 scope link\n route add 10.11.0.0/23 dev eth0 scope link")?;
    lab.host("external").namespace().ip("route add local 10.11.0.0/23 dev lo")?;
    lab.hosts().for_each(|host| host.close_sockets());
    Ok(lab)
}

fn pair<'a>(lab: &Lab, case: &'a Case, attacker: u8, victim: u8) -> Result<Pair<'a>> {
    for pod in [attacker, victim] {
        lab.node().sysctl(&format!("net.ipv4.conf.cali{pod}.rp_filter"), case.rp_filter)?;
    }
    lab.node().ip_each(&format!(
        "route add 10.66.{wide}.0/20 dev cali{attacker} scope link
         route add 10.67.{victim}.0/24 dev cali{victim} scope link",
        wide = u32::from(attacker) * 16,
    ))?;
    if case.nft {
        nft_guard(lab, attacker)?;
        nft_guard(lab, victim)?;
    }
    let agent = case.policies.map(|policies| start(lab, policies, [attacker, victim])).transpose()?;
    Ok(Pair { case, attacker, victim, agent })
}

/// What an administrator could write: a chain for a pod that lets its own senders through alone.
fn nft_guard(lab: &Lab, pod: u8) -> Result<()> {
    let own = format!("10.244.235.{}, 10.66.{}.0/20, 10.67.{pod}.0/24, 0.0.0.0", 132 + pod, u32::from(pod) * 16);
    for command in [
        format!("nft add table netdev guard{pod}"),
        format!("nft add chain netdev guard{pod} in {{ type filter hook ingress device cali{pod} priority 0 ; }}"),
        format!("nft add rule netdev guard{pod} in arp saddr ip != {{ {own} }} drop"),
    ] {
        lab.node().exec(&command)?;
    }
    Ok(())
}

fn start(lab: &Lab, policies: &[&str], pods: [u8; 2]) -> Result<Agent> {
    let names = pods.map(|pod| format!("cali{pod}"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let agent = AgentOptions::new(&names).default_reread().sysctl_hook().args(policies).start(lab.node())?;
    let is_guarded = || {
        let status = agent.status()?;
        let guards = names.iter().map(|name| status.interface(name)["guard"].clone());
        Ok(policies.is_empty()
            || guards.into_iter().all(|guard| guard.as_str().is_some_and(|it| it.starts_with("attached"))))
    };
    wait_until(Duration::from_secs(5), is_guarded, || "the guard is attached".to_owned())?;
    Ok(agent)
}

/// The frames of a flood.
fn frames(attack: &str, pod: u8, round: usize) -> Vec<ArpFrame> {
    let mut random = fastrand::Rng::with_seed(round as u64);
    let (own_mac, own) = ([0x02, 0, 0, 0, 0x02, pod], [10, 244, 235, 132 + pod]);
    let frame = |random: &mut fastrand::Rng| {
        let [a, b, c, d] = random.u32(..).to_be_bytes();
        // 198.18.0.0/15 is for benchmarks (RFC 2544).
        let stranger = [198, 18 + (b & 1), c, d];
        let any_mac = [2, 1, a, b, c, d];
        match attack {
            "random senders" => ArpFrame::request(own_mac, stranger, CALICO_GATEWAY),
            "random senders and MACs" => ArpFrame::request(any_mac, stranger, CALICO_GATEWAY),
            "announcements of random senders" => ArpFrame::request(own_mac, stranger, stranger),
            "announcements of its own address" => ArpFrame::request(own_mac, own, own),
            FLIPS => ArpFrame::request(any_mac, own, CALICO_GATEWAY),
            _ => ArpFrame::request(own_mac, [10, 66, pod * 16 + (c & 15), d], CALICO_GATEWAY),
        }
    };
    (0..SENDERS).map(|_| frame(&mut random)).collect()
}

/// One attack on one case.
struct Turn<'a> {
    lab: &'a Lab,
    pair: &'a Pair<'a>,
    name: &'static str,
    attack: Attack,
    window: Duration,
    context: &'a Context,
    round: usize,
}

/// Ends the attack whatever becomes of its victim.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the attacker has sent.
struct Sent {
    count: u64,
    elapsed: Duration,
}

impl Turn<'_> {
    fn measure(&self, findings: &mut Findings) -> Result<()> {
        let Turn { lab, pair, .. } = *self;
        let key = |what: &str| Key::new(&format!("{what}: {}", self.name), pair.case.name);
        flush(lab)?;
        // Known senders, as in a node that has run for a while.
        for pod in [pair.attacker, pair.victim] {
            lab.host(&format!("p{pod}")).can_ping(topology::UPLINK_IP)?;
        }
        if let Some(agent) = &pair.agent {
            // Until the agent has followed.
            agent.ask(r#""sync""#)?;
        }
        let (before, cpu) = (dropped(pair)?, self.agent_cpu()?);
        let begin = Instant::now();
        let done = AtomicBool::new(false);
        let (sent, felt) = thread::scope(|scope| {
            let attacking = scope.spawn(|| self.attack_until(&done));
            let ending = EndOnDrop(&done);
            let felt = self.feel();
            drop(ending);
            let sent = attacking.join().map_err(|_| anyhow!("the attack panicked"))??;
            anyhow::Ok((sent, felt?))
        })?;
        if let (Some(before), Some(after)) = (cpu, self.agent_cpu()?) {
            let share = (after - before).as_secs_f64() / begin.elapsed().as_secs_f64();
            findings.push(key("the agent's share of a core"), "%", share * 100.0);
        }
        if !matches!(self.attack, Attack::Nothing) {
            let rate = sent.count as f64 / sent.elapsed.as_secs_f64();
            findings.push(key("sent and handled a second"), "1/s", rate);
        }
        if pair.has_policies() && !matches!(self.attack, Attack::Nothing) {
            let up = sent.count.saturating_sub(dropped(pair)? - before);
            findings.push(key("not dropped"), "frames", up as f64);
        }
        let Felt { of, entries, unresolved } = felt;
        if !matches!(self.attack, Attack::Nothing) {
            findings.push(key("entries of the attacker's interface"), "entries", entries as f64);
        }
        if matches!(self.attack, Attack::Scan(_)) {
            findings.push(key("entries of the uplink without an address"), "entries", unresolved as f64);
        }
        for (what, answers) in of {
            findings.push(key(&format!("{what}, tried")), "", f64::from(answers.tried));
            findings.push(key(&format!("{what}, lost")), "", f64::from(answers.tried) - answers.micros.len() as f64);
            if !answers.micros.is_empty() {
                findings.push(key(&format!("{what}, p50")), "µs", quantile(&answers.micros, 0.5));
                findings.push(key(&format!("{what}, p99")), "µs", quantile(&answers.micros, 0.99));
            }
        }
        flush(lab)
    }

    fn agent_cpu(&self) -> Result<Option<Duration>> {
        self.pair.agent.as_ref().map(|agent| Process(agent.pid()).cpu()).transpose()
    }

    /// Attacks until the victim is done.
    fn attack_until(&self, done: &AtomicBool) -> Result<Sent> {
        let attacker = self.lab.host(&format!("p{}", self.pair.attacker)).namespace();
        let core = self.context.cores[0];
        match self.attack {
            Attack::Nothing => {
                while !done.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(Sent { count: 0, elapsed: Duration::ZERO })
            }
            Attack::Flood => {
                let (flood, frames) = (Flood::on(attacker, core)?, frames(self.name, self.pair.attacker, self.round));
                let mut sum = Sent { count: 0, elapsed: Duration::ZERO };
                for some in frames.chunks(A_LOOK).cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let flooded = flood.run(some, Duration::ZERO)?;
                    sum.count += flooded.requests;
                    sum.elapsed += flooded.elapsed;
                }
                Ok(sum)
            }
            Attack::Scan(rate) => {
                let _core = OnCore::enter(core)?;
                let scanned = scan(attacker, DEAD, DEAD_HOSTS, rate, done)?;
                Ok(Sent { count: scanned.sent, elapsed: scanned.elapsed })
            }
        }
    }

    /// Connects and asks, as the victim, and asks as the attacker.
    fn feel(&self) -> Result<Felt> {
        let Turn { lab, pair, window, context, .. } = *self;
        // The attack has begun, and the table is as full as it gets.
        thread::sleep(window / 4);
        let begin = Instant::now();
        let mut felt = Felt::default();
        let [own, other] = [pair.attacker, pair.victim].map(|pod| lab.host(&format!("p{pod}")));
        let [own_wire, wire] = [own, other].map(|host| Wire::open_for_arp(host.namespace(), "eth0"));
        let (own_wire, wire) = (own_wire?, wire?);
        let _core = OnCore::enter(context.core)?;
        for number in 0..TRIES {
            if begin.elapsed() > window * 2 {
                break;
            }
            if number % A_PASS == 0 {
                lab.node().ip("neigh flush dev eth0 to 10.11.0.0/23 nud all")?;
                lab.node().ip(&format!("neigh flush dev cali{v} to 10.67.{v}.0/24 nud all", v = pair.victim))?;
            }
            let far = Ipv4Addr::new(LIVE[0], LIVE[1], 0, 1 + number % A_PASS);
            felt.add("fresh connections", &connect_to_each(other.namespace(), &[far], CONNECT)?);
            let spa = [10, 67, pair.victim, 1 + number % A_PASS];
            let frame = ArpFrame::request(other.mac().bytes(), spa, CALICO_GATEWAY);
            felt.add("first requests of others", &[ask(&wire, &frame)?]);
            let frame = ArpFrame::request(own.mac().bytes(), own.ip(), CALICO_GATEWAY);
            felt.add("the attacker's own requests", &[ask(&own_wire, &frame)?]);
        }
        felt.look(lab, pair)?;
        if matches!(self.attack, Attack::Scan(_)) {
            let at_once: Vec<Ipv4Addr> = (1..=AT_ONCE).map(|host| Ipv4Addr::new(LIVE[0], LIVE[1], 1, host)).collect();
            felt.add("hosts contacted at once", &connect_to_each(other.namespace(), &at_once, CONNECT)?);
        }
        thread::sleep(window.saturating_sub(begin.elapsed()));
        felt.look(lab, pair)?;
        Ok(felt)
    }
}

/// What was felt.
#[derive(Default)]
struct Felt {
    of: BTreeMap<&'static str, Answers>,
    /// Most entries that the attacker's interface had.
    entries: usize,
    /// Most entries without an address that the uplink had.
    unresolved: usize,
}

#[derive(Default)]
struct Answers {
    tried: u32,
    /// How long those took that were answered.
    micros: Vec<f64>,
}

impl Felt {
    fn add(&mut self, what: &'static str, took: &[Option<Duration>]) {
        let answers = self.of.entry(what).or_default();
        answers.tried += took.len() as u32;
        answers.micros.extend(took.iter().flatten().map(|time| time.as_secs_f64() * 1e6));
    }

    /// Looks at the node's table.
    fn look(&mut self, lab: &Lab, pair: &Pair<'_>) -> Result<()> {
        let index = |name: &str| lab.node().run(|| netlink::index(name))?;
        let (attacker, uplink) = (index(&format!("cali{}", pair.attacker))?, index("eth0")?);
        let table = Neighbours::of(lab.node())?.entries;
        self.entries = self.entries.max(table.keys().filter(|(of, _)| *of == attacker).count());
        let unresolved = table.iter().filter(|((of, _), entry)| *of == uplink && entry.lladdr.is_none()).count();
        self.unresolved = self.unresolved.max(unresolved);
        Ok(())
    }
}

/// How long a reply takes; `None` if none comes.
fn ask(wire: &Wire, frame: &ArpFrame) -> Result<Option<Duration>> {
    wire.drain()?;
    let begin = Instant::now();
    wire.send(&frame.to_bytes())?;
    while let Some(reply) = wire.receive(begin + REPLY)? {
        // To this sender, of this target.
        if reply.get(20..22) == Some(&[0, 2])
            && reply.get(28..32) == Some(&frame.arp.tpa)
            && reply.get(38..42) == Some(&frame.arp.spa)
        {
            return Ok(Some(begin.elapsed()));
        }
    }
    Ok(None)
}

/// How many frames policies have dropped on the attacker's interface.
fn dropped(pair: &Pair<'_>) -> Result<u64> {
    let Some(agent) = &pair.agent else { return Ok(0) };
    let status = agent.status()?;
    let dropped = status.interface(&format!("cali{}", pair.attacker))["dropped"].clone();
    Ok(dropped.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum())
}

/// Empties the node's table.
fn flush(lab: &Lab) -> Result<()> {
    lab.node().ip("neigh flush all").map(drop)
}
