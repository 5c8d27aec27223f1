//! Descriptors that run out hold back interfaces and clients, never the node.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, needs_root};

use super::turn;

/// The soft and the hard limit of a process's descriptors.
fn limits(agent: &Agent) -> Result<(u64, u64)> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid()))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no such limit")?;
    let mut numbers = line.split_whitespace().map(str::parse);
    Ok((numbers.next().context("no soft limit")??, numbers.next().context("no hard limit")??))
}

fn open_descriptors(agent: &Agent) -> Result<u64> {
    Ok(fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count() as u64)
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() -> Result<()> {
    needs_root!();
    let _turn = turn();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["cali*"]).after("ulimit -S -n 64").start(lab.node())?;
    let (soft, hard) = limits(&agent)?;
    assert_eq!(soft, hard);
    assert!(soft > 64, "this machine's hard limit is {hard}");
    Ok(())
}

/// With XDP each interface takes a descriptor, and there are more interfaces than descriptors.
#[test]
fn too_few_descriptors_hold_back_only_some_interfaces() -> Result<()> {
    const LIMIT: u64 = 128;
    const MORE: usize = 110;
    needs_root!();
    let _turn = turn();
    let lab = topology::calico(1)?;
    let links: String = (0..MORE).map(|n| format!("link add fill{n} type veth peer name peer{n}\n")).collect();
    lab.node().ip_each(&links)?;
    let options = AgentOptions::new(&["cali*", "fill*"]).args(&["--hook", "xdp", "--xdp-mode", "skb"]);
    let mut agent = options.after(&format!("ulimit -n {LIMIT}")).start(lab.node())?;
    let status = agent.status()?;
    let is_held_back = |name: &&str| {
        let reason = status.interface(name)["reason"].as_str().unwrap_or_default();
        status.interface(name)["state"] == "detached" && reason.contains("file descriptors")
    };
    let held_back = status.interfaces().iter().filter(|name| is_held_back(name)).count();
    let attached = status.interfaces().iter().filter(|name| status.interface(name)["hook"] == "xdp").count();
    assert!(held_back > 0 && attached > 0, "{held_back} held back, {attached} attached:\n{}", agent.log());
    assert_eq!(held_back + attached, MORE + 1, "{}", status.0);
    assert!(open_descriptors(&agent)? < LIMIT - LIMIT / 8, "some are left for the agent's own work");
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10, "the others are answered");
    // What changes is followed.
    lab.node().ip("link set fill0 up")?;
    lab.node().ip("route add 10.20.40.0/24 dev eth0 via 10.9.0.254")?;
    agent.in_sync()?;
    assert_eq!(agent.log().matches("not in sync").count(), 0, "{}", agent.log());
    assert_eq!(agent.stop()?.code(), Some(0));
    Ok(())
}

/// Idle connections come and stay; those who ask are served, and the node is followed.
#[test]
fn a_crowd_of_idle_clients_shuts_nobody_out() -> Result<()> {
    const CROWD: usize = 400;
    needs_root!();
    let _turn = turn();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).after("ulimit -n 128").start(lab.node())?;
    let socket = agent.run_dir().join("control.sock");
    let connect = || UnixStream::connect(&socket).context("connecting");
    let mut crowd = (0..CROWD).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for turn in 0..10 {
        // The crowd comes back as soon as it is sent away.
        crowd.drain(..40);
        crowd.extend((0..40).map(|_| connect()).collect::<Result<Vec<_>>>()?);
        let start = Instant::now();
        assert!(agent.status()?.ready(), "{}", agent.log());
        assert!(start.elapsed() < Duration::from_secs(4), "status took {:?}", start.elapsed());
        lab.node().ip(&format!("link set cali0 txqueuelen {}", 1000 + turn))?;
    }
    assert!(open_descriptors(&agent)? < 128);
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    assert_eq!(agent.log().matches("not in sync").count(), 0, "{}", agent.log());
    assert_eq!(agent.log().matches("Too many open files").count(), 0, "{}", agent.log());
    drop(crowd);
    assert_eq!(agent.stop()?.code(), Some(0));
    Ok(())
}
