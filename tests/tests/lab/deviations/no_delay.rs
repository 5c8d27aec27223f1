//! Answers at once, in spite of `proxy_delay`.

use super::{count, explained};
use anyhow::Result;
use lab::topology::{self, ROUTED_TARGET, matrix};
use lab::{AgentOptions, Lab, needs_root, reply_bytes};

/// The base of the matrix, with a delay of ten seconds at the most.
fn delayed() -> Result<Lab> {
    let lab = matrix()?;
    // In hundredths of a second.
    lab.node().sysctl("net.ipv4.neigh.v0.proxy_delay", 1000)?;
    Ok(lab)
}

fn with(policy: &str) -> AgentOptions {
    AgentOptions::new(&["v0"]).arg("--no-delay").arg(policy)
}

#[test]
fn what_the_kernel_delays_is_answered_at_once() -> Result<()> {
    needs_root!();
    let lab = delayed()?;
    let mut agent = with("v0=answer").start(lab.node())?;
    agent.in_sync()?;
    let p0 = lab.host("p0");
    for _ in 0..5 {
        let reply = reply_bytes(topology::NODE_MAC, p0.mac(), p0.ip(), ROUTED_TARGET);
        assert_eq!(p0.ask(&p0.who_has(ROUTED_TARGET))?, [reply]);
    }
    assert_eq!(count(&agent, "v0", "answered_by_policy", "no_delay")?, 5);
    assert_eq!(agent.status()?.answered("v0"), 0, "counted apart");
    let (sender, mac) = (std::net::Ipv4Addr::from(p0.ip()).to_string(), p0.mac().to_string());
    let target = std::net::Ipv4Addr::from(ROUTED_TARGET).to_string();
    let said = explained(&agent, &["v0", &target, "--sender", &sender, "--sender-mac", &mac, "--kernel"])?;
    for part in ["(proxy_delay)", "answers by policy no_delay: the kernel would delay", "counted for policy no_delay"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    Ok(())
}

#[test]
fn in_count_the_kernel_delays_it() -> Result<()> {
    needs_root!();
    let lab = delayed()?;
    let mut agent = with("v0=count").start(lab.node())?;
    agent.in_sync()?;
    let (p0, mut at_once) = (lab.host("p0"), 0);
    // The kernel draws each delay: nearly all of ten are more than a moment.
    for _ in 0..10 {
        at_once += p0.ask(&p0.who_has(ROUTED_TARGET))?.len();
    }
    assert!(at_once < 5, "{at_once} of 10 answers came at once");
    assert_eq!(count(&agent, "v0", "would_answer", "no_delay")?, 10);
    assert_eq!(agent.status()?.passed("v0").get("proxy_delay"), Some(&10));
    Ok(())
}

#[test]
fn what_the_kernel_would_not_answer_at_all_is_not_answered() -> Result<()> {
    needs_root!();
    let lab = delayed()?;
    lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    let mut agent = with("v0=answer").start(lab.node())?;
    agent.in_sync()?;
    let p0 = lab.host("p0");
    assert!(p0.ask(&p0.who_has(ROUTED_TARGET))?.is_empty());
    assert_eq!(count(&agent, "v0", "answered_by_policy", "no_delay")?, 0);
    Ok(())
}
