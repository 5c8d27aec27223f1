//! One pod scans the node's subnet, and another one feels it: with the kernel alone, and with a policy.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use lab::contacts::{connect_to_each, scan};
use lab::topology::CALICO_GATEWAY;
use lab::{Agent, AgentOptions, Lab, Neighbours, Stop, wait_until};

/// Nobody lives in this /20 behind the uplink, everybody in 10.11.0.0/24.
const DEAD: [u8; 4] = [10, 10, 0, 0];
const DEAD_HOSTS: u32 = 4096;
const RATE: u32 = 10_000;
/// How long p0 scans.
const WINDOW: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_millis(900);
const POLICY: [&str; 2] = ["--unresolved-budget", "cali*=drop"];

/// Shows both.
pub(crate) fn show(lab: &Lab, stop: &Stop) -> Result<()> {
    lab.node().ip_each("route add 10.10.0.0/20 dev eth0 scope link\n route add 10.11.0.0/24 dev eth0 scope link")?;
    lab.host("external").namespace().ip("route add local 10.11.0.0/24 dev lo")?;
    println!(
        "\np0 sends {RATE} datagrams a second to dead addresses of the node's subnet, without any privilege; p1 opens connections to
  hosts that the node must resolve. The neighbour table is one for this whole machine, and full for {} s:",
        WINDOW.as_secs()
    );
    line("the kernel alone", lab)?;
    stop.check()?;
    let mut agent = AgentOptions::new(&["cali*"]).default_reread().args(&POLICY).start(lab.node())?;
    await_guard(&agent)?;
    line(&format!("arp-agent run {} '{}'", POLICY[0], POLICY[1]), lab)?;
    agent.stop().map(drop)
}

fn line(what: &str, lab: &Lab) -> Result<()> {
    lab.node().ip("neigh flush all")?;
    // Both are known, as in a node that has run for a while.
    for pod in ["p0", "p1"] {
        lab.host(pod).can_ping(CALICO_GATEWAY)?;
        lab.node().can_ping(lab.host(pod).ip())?;
    }
    let done = AtomicBool::new(false);
    let (tried, lost, waiting) = thread::scope(|scope| {
        let scanning = scope.spawn(|| scan(lab.host("p0").namespace(), DEAD, DEAD_HOSTS, Some(RATE), &done));
        let felt = feel(lab);
        done.store(true, Ordering::Relaxed);
        scanning.join().map_err(|_| anyhow!("the scan panicked"))??;
        felt
    })?;
    println!("  {what:<48} {lost:>2} of {tried:>2} connections of p1 lost   {waiting:>5} entries wait for a reply");
    lab.node().ip("neigh flush all").map(drop)
}

fn feel(lab: &Lab) -> Result<(usize, usize, usize)> {
    let begin = Instant::now();
    thread::sleep(Duration::from_millis(300));
    let (mut tried, mut lost, mut waiting) = (0, 0, 0);
    while begin.elapsed() < WINDOW {
        let fresh = Ipv4Addr::new(10, 11, 0, 1 + tried as u8 % 250);
        lost +=
            connect_to_each(lab.host("p1").namespace(), &[fresh], CONNECT)?.iter().filter(|it| it.is_none()).count();
        tried += 1;
        let table = Neighbours::of(lab.node())?.entries;
        waiting = waiting.max(table.values().filter(|entry| entry.lladdr.is_none()).count());
        thread::sleep(Duration::from_millis(20));
    }
    Ok((tried, lost, waiting))
}

fn await_guard(agent: &Agent) -> Result<()> {
    let is_attached = || {
        let status = agent.status()?;
        let guards = ["cali0", "cali1"].map(|name| status.interface(name)["guard"].clone());
        Ok(guards.iter().all(|guard| guard.as_str().is_some_and(|guard| guard.starts_with("attached"))))
    };
    wait_until(Duration::from_secs(5), is_attached, || "the guard is attached".to_owned())
}
