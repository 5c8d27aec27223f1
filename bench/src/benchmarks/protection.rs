//! One pod attacks, and another one is its victim: floods that fill the neighbour table of the kernel alone, against the
//! policies that drop them (docs/protection.md).
//!
//! The table is one for all network namespaces, so this runs while no other lab is there. The attacker is on the first core,
//! the victim on the last. The victim opens TCP connections that need an entry of the node's uplink, and asks from addresses
//! that the node does not know yet; the attacker asks from its own, too.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use arp_common::ArpFrame;
use bench::{Flood, Flooded, quantile};
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, Alone, Lab, Namespace, Neighbours, OnCore, Wire, netlink, wait_until};

use crate::context::Context;
use crate::findings::Findings;
use crate::samples::{Key, order};

/// A way to protect the node, or none.
struct Case {
    name: &'static str,
    rp_filter: u8,
    /// The agent's policies; `None` for the kernel alone.
    policies: Option<&'static [&'static str]>,
}

const CASES: [Case; 4] = [
    Case { name: "kernel, rp_filter 0", rp_filter: 0, policies: None },
    Case { name: "kernel, rp_filter 1", rp_filter: 1, policies: None },
    Case { name: "fast path, rp_filter 0", rp_filter: 0, policies: Some(&[]) },
    Case { name: "fast path with policies, rp_filter 0", rp_filter: 0, policies: Some(POLICIES) },
];
const POLICIES: &[&str] =
    &["--sender-guard", "*=drop", "--entry-limit", "*=drop", "--budget", "*=drop", "--sender-grace", "0"];

const ATTACKS: [&str; 5] = [
    "calm",
    "random senders",
    "random senders and MACs",
    "announcements of random senders",
    "senders of a /20 of its own",
];
/// Frames that a flood repeats: more senders than the neighbour table has room for.
const SENDERS: u32 = 8192;
/// Connections, and first requests, that the victim tries in a window. Fewer than `--entry-limit` and `--budget` allow.
const TRIES: u8 = 80;
/// Of those, how many between two flushes of their entries: fewer than `--entry-limit` allows.
const A_PASS: u8 = 40;
const CONNECT: Duration = Duration::from_millis(900);
const REPLY: Duration = Duration::from_millis(200);
/// The first of the addresses behind the uplink that are connected to.
const FAR: u8 = 128;

/// A pair of pods, number `2 * case` and the next.
struct Pair<'a> {
    case: &'a Case,
    attacker: u8,
    victim: u8,
    agent: Option<Agent>,
}

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _alone = Alone::wait()?;
    let (rounds, window) = context.either((5, 1500), (1, 300));
    let lab = build()?;
    let pairs: Vec<Pair<'_>> = CASES
        .iter()
        .zip(0..)
        .map(|(case, number)| pair(&lab, case, number * 2, number * 2 + 1))
        .collect::<Result<_>>()?;
    for round in 0..rounds {
        for attack in ATTACKS {
            for index in order(round, pairs.len()) {
                context.check()?;
                measure(&lab, &pairs[index], attack, Duration::from_millis(window), context, round, findings)?;
            }
        }
    }
    pairs.into_iter().filter_map(|pair| pair.agent).try_for_each(|mut agent| agent.stop().map(drop))?;
    findings.note(format!(
        "Each window is {window} ms or the time for {TRIES} connections and {TRIES} first requests, at most four times as \
         long; a connection is lost after {} ms, a request after {} ms. The attacker is on core {}, the victim on core {}.",
        CONNECT.as_millis(),
        REPLY.as_millis(),
        context.cores[0],
        context.core,
    ));
    Ok(())
}

/// A node with two pods for each case. The host behind the uplink has as many addresses as are connected to.
fn build() -> Result<Lab> {
    let lab = topology::calico(CASES.len() as u8 * 2)?;
    lab.host("external").namespace().ip(&format!("route add local 10.9.0.{FAR}/26 dev lo"))?;
    lab.host("external").namespace().ip("route add 10.244.235.0/24 via 10.9.0.1 dev eth0")?;
    lab.hosts().for_each(|host| host.close_sockets());
    Ok(lab)
}

fn pair<'a>(lab: &Lab, case: &'a Case, attacker: u8, victim: u8) -> Result<Pair<'a>> {
    for pod in [attacker, victim] {
        lab.node().sysctl(&format!("net.ipv4.conf.cali{pod}.rp_filter"), case.rp_filter)?;
    }
    lab.node().ip_each(&format!(
        "route add 10.66.{attacker}.0/20 dev cali{attacker} scope link
         route add 10.67.{victim}.0/24 dev cali{victim} scope link",
        attacker = u32::from(attacker) * 16,
    ))?;
    let agent = case.policies.map(|policies| start(lab, policies, [attacker, victim])).transpose()?;
    Ok(Pair { case, attacker, victim, agent })
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

/// The frames of an attack; none of `calm`.
fn frames(attack: &str, pod: u8, round: usize) -> Vec<ArpFrame> {
    let mut random = fastrand::Rng::with_seed(round as u64);
    let own = [0x02, 0, 0, 0, 0x02, pod];
    let frame = |random: &mut fastrand::Rng| {
        let [a, b, c, d] = random.u32(..).to_be_bytes();
        // 198.18.0.0/15 is for benchmarks (RFC 2544).
        let stranger = [198, 18 + (b & 1), c, d];
        match attack {
            "random senders" => ArpFrame::request(own, stranger, CALICO_GATEWAY),
            "random senders and MACs" => ArpFrame::request([2, 1, a, b, c, d], stranger, CALICO_GATEWAY),
            "announcements of random senders" => ArpFrame::request(own, stranger, stranger),
            _ => ArpFrame::request(own, [10, 66, pod * 16 + (c & 15), d], CALICO_GATEWAY),
        }
    };
    let count = if attack == "calm" { 0 } else { SENDERS };
    (0..count).map(|_| frame(&mut random)).collect()
}

fn measure(
    lab: &Lab,
    pair: &Pair<'_>,
    attack: &str,
    window: Duration,
    context: &Context,
    round: usize,
    findings: &mut Findings,
) -> Result<()> {
    let key = |what: &str| Key::new(&format!("{what}: {attack}"), pair.case.name);
    let (attacker, victim) = (lab.host(&format!("p{}", pair.attacker)), format!("cali{}", pair.victim));
    flush(lab)?;
    // Known senders, as in a node that has run for a while.
    for pod in [pair.attacker, pair.victim] {
        lab.host(&format!("p{pod}")).can_ping(topology::UPLINK_IP)?;
    }
    if let Some(agent) = &pair.agent {
        // Until the agent has followed.
        let _ = agent.command(&["status"])?;
        thread::sleep(Duration::from_millis(50));
    }
    let before = dropped(pair)?;
    let frames = frames(attack, pair.attacker, round);
    let flood = Flood::on(attacker.namespace(), context.cores[0])?;
    let done = AtomicBool::new(false);
    let (flooded, felt) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood_until(&flood, &frames, &done));
        let felt = feel(lab, pair, &victim, window, context);
        done.store(true, Ordering::Relaxed);
        let flooded = flooding.join().map_err(|_| anyhow!("the flood panicked"))??;
        anyhow::Ok((flooded, felt?))
    })?;
    if !frames.is_empty() {
        findings.push(key("frames handled a second"), "1/s", flooded.requests as f64 / flooded.elapsed.as_secs_f64());
        findings.push(key("entries of the attacker's interface"), "entries", entries(lab, pair.attacker)? as f64);
        if pair.case.policies.is_some_and(|policies| !policies.is_empty()) && !attack.contains("/20") {
            let uncounted = flooded.requests as f64 - (dropped(pair)? - before) as f64;
            findings.push(key("frames sent that no counter has"), "frames", uncounted);
        }
    }
    for (what, felt) in felt {
        findings.push(key(&format!("{what}, tried")), "", f64::from(felt.tried));
        findings.push(key(&format!("{what}, lost")), "", f64::from(felt.tried) - felt.micros.len() as f64);
        if !felt.micros.is_empty() {
            findings.push(key(&format!("{what}, p50")), "µs", quantile(&felt.micros, 0.5));
            findings.push(key(&format!("{what}, p99")), "µs", quantile(&felt.micros, 0.99));
        }
    }
    flush(lab)
}

/// Sends until the victim is done.
fn flood_until(flood: &Flood, frames: &[ArpFrame], done: &AtomicBool) -> Result<Flooded> {
    let mut sum = Flooded { requests: 0, elapsed: Duration::ZERO };
    while !done.load(Ordering::Relaxed) {
        if frames.is_empty() {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let some = flood.run(&frames[..frames.len()], Duration::from_millis(1))?;
        sum.requests += some.requests;
        sum.elapsed += some.elapsed;
    }
    Ok(sum)
}

/// What somebody felt.
#[derive(Default)]
struct Felt {
    tried: u32,
    /// How long those took that were answered.
    micros: Vec<f64>,
}

impl Felt {
    fn add(&mut self, answered: Option<Duration>) {
        self.tried += 1;
        self.micros.extend(answered.map(|time| time.as_secs_f64() * 1e6));
    }
}

/// Connects and asks, as the victim, and asks as the attacker.
fn feel(
    lab: &Lab,
    pair: &Pair<'_>,
    victim: &str,
    window: Duration,
    context: &Context,
) -> Result<BTreeMap<&'static str, Felt>> {
    let begin = Instant::now();
    let mut felt: BTreeMap<&'static str, Felt> = BTreeMap::new();
    let [own, other] = [pair.attacker, pair.victim].map(|pod| lab.host(&format!("p{pod}")));
    let [own_wire, wire] = [own, other].map(|host| Wire::open_for_arp(host.namespace(), "eth0"));
    let (own_wire, wire) = (own_wire?, wire?);
    let _core = OnCore::enter(context.core)?;
    for number in 0..TRIES {
        if begin.elapsed() > window * 4 {
            break;
        }
        if number % A_PASS == 0 {
            lab.node().ip(&format!("neigh flush dev eth0 to 10.9.0.{FAR}/26 nud all"))?;
            lab.node().ip(&format!("neigh flush dev {victim} to 10.67.{}.0/24 nud all", pair.victim))?;
        }
        let far = Ipv4Addr::new(10, 9, 0, FAR + number % A_PASS);
        felt.entry("fresh connections").or_default().add(connect(other.namespace(), far, context.core)?);
        let spa = [10, 67, pair.victim, 1 + number % A_PASS];
        let frame = ArpFrame::request(other.mac().bytes(), spa, CALICO_GATEWAY);
        felt.entry("first requests of others").or_default().add(ask(&wire, &frame)?);
        let frame = ArpFrame::request(own.mac().bytes(), own.ip(), CALICO_GATEWAY);
        felt.entry("the attacker's own requests").or_default().add(ask(&own_wire, &frame)?);
    }
    thread::sleep(window.saturating_sub(begin.elapsed()));
    Ok(felt)
}

/// How long a TCP connection takes until it is refused; `None` if nobody answers.
fn connect(from: &Namespace, to: Ipv4Addr, core: usize) -> Result<Option<Duration>> {
    const DISCARD: u16 = 9;
    from.run(|| {
        let _core = OnCore::enter(core)?;
        let begin = Instant::now();
        match TcpStream::connect_timeout(&SocketAddr::from((to, DISCARD)), CONNECT) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Some(begin.elapsed())),
            Err(error) if error.kind() == ErrorKind::TimedOut || error.kind() == ErrorKind::HostUnreachable => Ok(None),
            Err(error) => Err(error).context("connecting"),
            Ok(_) => Ok(Some(begin.elapsed())),
        }
    })?
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

/// How many entries an interface of the node has.
fn entries(lab: &Lab, pod: u8) -> Result<usize> {
    let index = lab.node().run(|| netlink::index(&format!("cali{pod}")))??;
    Ok(Neighbours::of(lab.node())?.entries.keys().filter(|(of, _)| *of == index).count())
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
