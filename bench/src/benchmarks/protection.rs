//! One pod attacks, and another one is its victim: floods and scans that fill the neighbour table of the kernel alone, against
//! the policies that drop them (docs/protection.md).
//!
//! The table is one for all network namespaces, so this runs while no other lab is there. The attacker is on the first core,
//! the victim on the last. The victim opens TCP connections that need an entry of the node's uplink, and asks from addresses
//! that the node does not know yet; the attacker asks from its own, too.

mod attacks;
mod costs;
mod results;
mod victim;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use bench::quantile;
use lab::netlink::{self, Notices};
use lab::{Agent, AgentOptions, Alone, Lab, topology, wait_until};

use self::attacks::{ATTACKS, Attack, AttackKind, AttackSent, Attacker, CHANGES};
use self::results::{AGENT, CHANGED, ENTRIES, HANDLED, UNRESOLVED};
use self::victim::{CONNECT, Felt, REPLY, TRIES, Victim};
use crate::context::Context;
use crate::findings::Findings;
use crate::process::Process;
use crate::programs::{LoadedPrograms, Tc};
use crate::samples::{Key, order};

pub(crate) use self::results::TABLES;

/// A way to protect the node, or none.
struct Case {
    name: &'static str,
    rp_filter: u8,
    by: By,
}

/// What protects it, besides `rp_filter`.
#[derive(Clone, Copy)]
enum By {
    Nothing,
    /// Rules of nft that let the pods' own senders through alone.
    Nft,
    /// A program that drops all ARP of the attacker: nobody can be quicker.
    Floor,
    /// The agent with these policies.
    Agent(&'static [&'static str]),
}

/// The case that the others are shown beside.
const KERNEL: &str = "kernel, rp_filter 0";
/// The case that is judged.
const POLICIES: &str = "fast path with policies, rp_filter 0";
const FLOOR: &str = "a program that drops all ARP";

const CASES: [Case; 6] = [
    Case { name: KERNEL, rp_filter: 0, by: By::Nothing },
    Case { name: "kernel, rp_filter 1", rp_filter: 1, by: By::Nothing },
    Case { name: "kernel with an nft guard, rp_filter 0", rp_filter: 0, by: By::Nft },
    Case { name: FLOOR, rp_filter: 0, by: By::Floor },
    Case { name: "fast path, rp_filter 0", rp_filter: 0, by: By::Agent(&[]) },
    Case { name: POLICIES, rp_filter: 0, by: By::Agent(ALL_DROP) },
];
const ALL_DROP: &[&str] = &[
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

/// A pair of pods, number `2 * case` and the next.
struct PodPair<'a> {
    case: &'a Case,
    attacker: u8,
    victim: u8,
    agent: Option<Agent>,
    /// Attached as long as it is held.
    _floor: Option<LoadedPrograms>,
}

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _alone = Alone::wait()?;
    let (rounds, window) = context.either((5, 600), (1, 200));
    let window = Duration::from_millis(window);
    let lab = build()?;
    let pairs: Vec<PodPair<'_>> = CASES
        .iter()
        .zip(0..)
        .map(|(case, number)| pair(&lab, case, number * 2, number * 2 + 1))
        .collect::<Result<_>>()?;
    for round in 0..rounds {
        for attack in ATTACKS {
            for index in order(round, pairs.len()) {
                context.check()?;
                AttackTurn { lab: &lab, pair: &pairs[index], attack, window, context, round }.measure(findings)?;
            }
        }
    }
    pairs.into_iter().filter_map(|pair| pair.agent).try_for_each(|mut agent| agent.stop().map(drop))?;
    drop(lab);
    costs::run(context, findings)?;
    results::judge(findings);
    findings.note(format!(
        "{rounds} rounds. Each window is {} ms, or the time for {TRIES} connections and {TRIES} first requests, of which no more are begun \
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

fn pair<'a>(lab: &Lab, case: &'a Case, attacker: u8, victim: u8) -> Result<PodPair<'a>> {
    for pod in [attacker, victim] {
        lab.node().sysctl(&format!("net.ipv4.conf.cali{pod}.rp_filter"), case.rp_filter)?;
    }
    lab.node().ip_each(&format!(
        "route add 10.66.{wide}.0/20 dev cali{attacker} scope link
         route add 10.67.{victim}.0/24 dev cali{victim} scope link",
        wide = u32::from(attacker) * 16,
    ))?;
    let (mut agent, mut floor) = (None, None);
    match case.by {
        By::Nothing => {}
        By::Nft => {
            nft_guard(lab, attacker)?;
            nft_guard(lab, victim)?;
        }
        By::Floor => {
            let mut programs = LoadedPrograms::load()?;
            programs.attach_tc("discard_arp_tc", lab.node(), &format!("cali{attacker}"), Tc::Tcx)?;
            floor = Some(programs);
        }
        By::Agent(policies) => agent = Some(start(lab, policies, [attacker, victim])?),
    }
    Ok(PodPair { case, attacker, victim, agent, _floor: floor })
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
    await_guard(&agent, &names, policies)?;
    Ok(agent)
}

fn await_guard(agent: &Agent, names: &[&str], policies: &[&str]) -> Result<()> {
    let is_guarded = || {
        let status = agent.status()?;
        let guards = names.iter().map(|name| status.interface(name)["guard"].clone());
        Ok(policies.is_empty()
            || guards.into_iter().all(|guard| guard.as_str().is_some_and(|it| it.starts_with("attached"))))
    };
    wait_until(Duration::from_secs(5), is_guarded, || "the guard is attached".to_owned())
}

/// One attack on one case.
struct AttackTurn<'a> {
    lab: &'a Lab,
    pair: &'a PodPair<'a>,
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

/// What a turn came to, apart from what the victim felt.
struct Effort {
    sent: AttackSent,
    /// Changes of the entries on the attacker's interface that were notified, if they were watched.
    changed: Option<u64>,
    /// The agent's share of a core, in %.
    agent: Option<f64>,
}

impl AttackTurn<'_> {
    fn measure(&self, findings: &mut Findings) -> Result<()> {
        let AttackTurn { lab, pair, attack, .. } = *self;
        let key = |what: &str| Key::new(&format!("{what}: {}", attack.name), pair.case.name);
        flush(lab)?;
        // Known senders, as in a node that has run for a while.
        for pod in [pair.attacker, pair.victim] {
            lab.host(&format!("p{pod}")).can_ping(topology::UPLINK_IP)?;
        }
        if let Some(agent) = &pair.agent {
            // Until the agent has followed.
            agent.ask(r#""sync""#)?;
        }
        let (effort, felt) = self.play()?;
        let Felt { of, entries, unresolved } = felt;
        for (what, answers) in of {
            findings.push(key(&format!("{what} lost")), "%", answers.lost());
            if !answers.micros.is_empty() {
                findings.push(key(&format!("{what}, p50")), "µs", quantile(&answers.micros, 0.5));
                findings.push(key(&format!("{what}, p99")), "µs", quantile(&answers.micros, 0.99));
            }
        }
        if !attack.at_once && attack.kind != AttackKind::Nothing {
            ensure!(effort.sent.count > 0, "{}: nothing was sent", attack.name);
            let rate = effort.sent.count as f64 / effort.sent.elapsed.as_secs_f64();
            findings.push(key(HANDLED), "/s", rate);
            findings.push(key(ENTRIES), "entries", entries as f64);
            if let Some(share) = effort.agent {
                findings.push(key(AGENT), "%", share);
            }
            if let Some(changed) = effort.changed {
                findings.push(key(CHANGED), "changes", changed as f64);
            }
            if matches!(attack.kind, AttackKind::Scan(_)) {
                findings.push(key(UNRESOLVED), "entries", unresolved as f64);
            }
        }
        flush(lab)
    }

    /// The attack, and beside it the victim.
    fn play(&self) -> Result<(Effort, Felt)> {
        let AttackTurn { lab, pair, attack, context, .. } = *self;
        let namespace = lab.host(&format!("p{}", pair.attacker)).namespace();
        let attacker = Attacker { namespace, pod: pair.attacker, core: context.cores[0] };
        let victim =
            Victim { lab, attacker: pair.attacker, victim: pair.victim, core: context.core, window: self.window };
        let watched = CHANGES.contains(&attack.name).then(|| Watched::begin(lab, pair.attacker)).transpose()?;
        let (cpu, begin, done) = (self.agent_cpu()?, Instant::now(), AtomicBool::new(false));
        let (sent, changed, felt) = thread::scope(|scope| {
            let attacking = scope.spawn(|| attacker.attack_until(&done, attack, self.round));
            let watching = watched.map(|watched| scope.spawn(|| watched.count_until(&done)));
            let ending = EndOnDrop(&done);
            let felt = if attack.at_once { victim.contact_many() } else { victim.feel() };
            drop(ending);
            let sent = attacking.join().map_err(|_| anyhow!("the attack panicked"))??;
            let changed = watching.map(|it| it.join().map_err(|_| anyhow!("the watcher panicked"))?).transpose()?;
            anyhow::Ok((sent, changed, felt?))
        })?;
        let agent = match (cpu, self.agent_cpu()?) {
            (Some(before), Some(after)) => Some((after - before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0),
            _ => None,
        };
        Ok((Effort { sent, changed, agent }, felt))
    }

    fn agent_cpu(&self) -> Result<Option<Duration>> {
        self.pair.agent.as_ref().map(|agent| Process(agent.pid()).cpu()).transpose()
    }
}

/// The changes of the entries on one interface, as the kernel notifies them.
struct Watched {
    notices: Notices,
    interface: u32,
}

impl Watched {
    fn begin(lab: &Lab, attacker: u8) -> Result<Self> {
        let interface = lab.node().run(|| netlink::index(&format!("cali{attacker}")))??;
        Ok(Watched { notices: Notices::of_neighbours(lab.node())?, interface })
    }

    /// How many there were until then. Those that found no room in the socket are not among them.
    fn count_until(mut self, done: &AtomicBool) -> Result<u64> {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            count += self.notices.count(self.interface)?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(count + self.notices.count(self.interface)?)
    }
}

/// Empties the node's table.
fn flush(lab: &Lab) -> Result<()> {
    lab.node().ip("neigh flush all").map(drop)
}
