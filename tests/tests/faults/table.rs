//! Who fills the neighbour table, which is one for all network namespaces: these tests run while no other lab is there.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use lab::contacts::{Scanned, connect_to_each, scan};
use lab::topology::{self, FAR_HOST};
use lab::{Agent, AgentOptions, Alone, Lab, Neighbours, needs_root, netlink, skip, stretched, wait_until};

/// A subnet of the node's in which nobody lives, larger than the table.
const DEAD: [u8; 4] = [10, 10, 0, 0];
const DEAD_HOSTS: u32 = 4096;
/// One in which everybody does: 10.11.0.0/23.
const LIVE: u32 = u32::from_be_bytes([10, 11, 0, 0]);
/// How long a fresh connection may take.
const CONNECT: Duration = Duration::from_millis(900);

/// How many entries the table has room for; a machine with another room is skipped: what is sent here would not fill it.
fn room() -> Result<u64> {
    let room = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
        .context("reading gc_thresh3, which only the initial network namespace has")?;
    Ok(room.trim().parse()?)
}

/// A node with two pods, and both subnets behind its uplink.
fn build() -> Result<Lab> {
    let lab = topology::calico(2)?;
    lab.node().ip_each("route add 10.10.0.0/20 dev eth0 scope link\n route add 10.11.0.0/23 dev eth0 scope link")?;
    let external = lab.host("external").namespace();
    external.ip("route add local 10.11.0.0/23 dev lo")?;
    for pod in ["p0", "p1"] {
        ensure!(lab.host(pod).can_ping(FAR_HOST)?, "{pod} reaches the world before");
    }
    Ok(lab)
}

fn start(lab: &Lab, policy: &str) -> Result<Agent> {
    let agent = AgentOptions::new(&["cali*"]).args(&["--unresolved-budget", policy]).start(lab.node())?;
    let is_attached = || {
        let status = agent.status()?;
        let guards = ["cali0", "cali1"].map(|name| status.interface(name)["guard"].clone());
        Ok(guards.iter().all(|guard| guard.as_str().is_some_and(|guard| guard.starts_with("attached"))))
    };
    wait_until(Duration::from_secs(5), is_attached, || "the guard is attached".to_owned())?;
    Ok(agent)
}

/// What others felt while p0 scanned.
#[derive(Debug)]
struct Felt {
    scanned: Scanned,
    /// Connections of p1, each to a host that the node had not resolved: tried, and lost.
    tried: usize,
    lost: usize,
    /// The same for many hosts at once.
    lost_at_once: usize,
    /// Most entries without an address that the uplink had.
    unresolved: usize,
    /// p0 itself reached a host that was resolved already.
    attacker_reaches: bool,
}

const AT_ONCE: u32 = 128;

impl Felt {
    /// Others lost connections, and most of many at once.
    fn succeeded(&self) -> bool {
        self.lost > 2 && self.lost_at_once > AT_ONCE as usize / 2
    }
}

/// Scans as p0, connects as p1.
fn attack(lab: &Lab, rate: Option<u32>) -> Result<Felt> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let scanning = scope.spawn(|| scan(lab.host("p0").namespace(), DEAD, DEAD_HOSTS, rate, &done));
        let felt = feel(lab);
        done.store(true, Ordering::Relaxed);
        let scanned = scanning.join().map_err(|_| anyhow!("the scan panicked"))??;
        felt.map(|felt| Felt { scanned, ..felt })
    })
}

fn feel(lab: &Lab) -> Result<Felt> {
    let scanned = Scanned { sent: 0, elapsed: Duration::ZERO };
    let mut felt = Felt { scanned, tried: 0, lost: 0, lost_at_once: 0, unresolved: 0, attacker_reaches: false };
    let p1 = lab.host("p1").namespace();
    // The table fills.
    thread::sleep(Duration::from_millis(500));
    let begin = Instant::now();
    while felt.tried < 40 && begin.elapsed() < Duration::from_secs(9) {
        let fresh = Ipv4Addr::from(LIVE + 1 + felt.tried as u32);
        felt.lost += connect_to_each(p1, &[fresh], CONNECT)?.iter().filter(|took| took.is_none()).count();
        felt.tried += 1;
        felt.unresolved = felt.unresolved.max(unresolved(lab)?);
        thread::sleep(Duration::from_millis(20));
    }
    let at_once: Vec<Ipv4Addr> = (0..AT_ONCE).map(|number| Ipv4Addr::from(LIVE + 256 + 1 + number)).collect();
    felt.lost_at_once = connect_to_each(p1, &at_once, CONNECT)?.iter().filter(|took| took.is_none()).count();
    felt.attacker_reaches = lab.host("p0").can_ping(FAR_HOST)?;
    Ok(felt)
}

/// How many entries of the node's uplink have no address.
fn unresolved(lab: &Lab) -> Result<usize> {
    let uplink = lab.node().run(|| netlink::index("eth0"))??;
    let entries = Neighbours::of(lab.node())?.entries;
    Ok(entries.iter().filter(|((of, _), entry)| *of == uplink && entry.lladdr.is_none()).count())
}

fn counted(agent: &Agent, what: &str) -> Result<u64> {
    Ok(agent.status()?.interface("cali0")[what]["unresolved_budget"].as_u64().unwrap_or_default())
}

#[test]
fn a_scan_of_the_subnet_takes_connections_from_nobody_where_the_budget_drops() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let room = room()?;
    if room > u64::from(DEAD_HOSTS) / 2 {
        skip(&format!("the neighbour table has room for {room} entries, and this would not fill it"));
        return Ok(());
    }
    let _alone = Alone::wait()?;
    // The kernel alone, and in `count`: the attack succeeds.
    let lab = build()?;
    let felt = attack(&lab, Some(10_000))?;
    println!("kernel alone: {felt:?}");
    ensure!(felt.succeeded(), "the scan succeeds against the kernel alone: {felt:?}");
    drop(lab);
    let lab = build()?;
    let agent = start(&lab, "cali*=count")?;
    let felt = attack(&lab, Some(10_000))?;
    println!("count: {felt:?}");
    ensure!(felt.succeeded(), "count changes nothing: {felt:?}");
    ensure!(counted(&agent, "dropped")? == 0 && counted(&agent, "would_drop")? > 1_000, "count counts");
    drop((agent, lab));
    for rate in [Some(10_000), None] {
        let lab = build()?;
        let agent = start(&lab, "cali*=drop")?;
        let felt = attack(&lab, rate)?;
        let dropped = counted(&agent, "dropped")?;
        println!("drop, rate {rate:?}: {felt:?}, {dropped} dropped");
        ensure!(felt.tried >= 20 && felt.lost == 0 && felt.lost_at_once == 0, "{felt:?}");
        ensure!(felt.unresolved as u64 * 100 <= room * 45, "at most 45 % of {room}: {felt:?}");
        ensure!(felt.attacker_reaches, "whoever is resolved is reached, also by who scans: {felt:?}");
        ensure!(dropped * 2 > felt.scanned.sent, "most of the scan was dropped: {felt:?}, {dropped}");
        let others = agent.status()?.interface("cali1")["dropped"].clone();
        ensure!(others.as_object().is_some_and(serde_json::Map::is_empty), "nothing of p1's was dropped: {others}");
        let warnings = agent.status()?.0["warnings"].to_string();
        ensure!(warnings.contains("unresolved-budget judges"), "it says that it is at work: {warnings}");
    }
    Ok(())
}

#[test]
fn without_pressure_no_packet_is_judged() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let _alone = Alone::wait()?;
    let lab = build()?;
    let agent = start(&lab, "cali*=drop:1/2")?;
    let room = room()?;
    // Far more than the budget, far less than the table.
    let some: Vec<Ipv4Addr> = (0..room as u32 / 16).map(|number| Ipv4Addr::from(LIVE + 1 + number)).collect();
    let took = connect_to_each(lab.host("p0").namespace(), &some, stretched(CONNECT))?;
    ensure!(took.iter().all(Option::is_some), "everybody is reached: {took:?}");
    ensure!(counted(&agent, "dropped")? == 0, "nothing was dropped");
    Ok(())
}

#[test]
fn the_budget_goes_on_while_the_agent_is_stopped_and_ends_with_it() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let _alone = Alone::wait()?;
    let lab = build()?;
    let mut agent = start(&lab, "cali*=drop")?;
    agent.signal(nix::sys::signal::Signal::SIGSTOP)?;
    let felt = attack(&lab, Some(10_000))?;
    agent.signal(nix::sys::signal::Signal::SIGCONT)?;
    ensure!(felt.lost == 0 && felt.lost_at_once == 0, "{felt:?}");
    agent.in_sync()?;
    ensure!(counted(&agent, "dropped")? > 1_000, "it dropped meanwhile");
    agent.kill()?;
    lab.node().ip("neigh flush dev eth0 nud all")?;
    // What waits for a reply is no longer held back.
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let scanning = scope.spawn(|| scan(lab.host("p0").namespace(), DEAD, DEAD_HOSTS, Some(10_000), &done));
        let is_full = || Ok(unresolved(&lab)? as u64 * 100 > room()? * 60);
        let filled = wait_until(Duration::from_secs(5), is_full, || "the table fills without an agent".to_owned());
        done.store(true, Ordering::Relaxed);
        scanning.join().map_err(|_| anyhow!("the scan panicked"))??;
        filled
    })
}
