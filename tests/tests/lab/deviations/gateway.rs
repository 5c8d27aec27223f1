//! A pod's gateway that the node has no route to.

use super::{count, explained};
use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY, CALICO_MAC, FAR_HOST};
use lab::{AgentOptions, Lab, Neighbours, SideBySide, needs_root, netlink, reply_bytes};

/// Calico's pods on a node without a default route.
fn without_default_route() -> Result<Lab> {
    let lab = topology::calico(2)?;
    lab.node().ip("route del default")?;
    Ok(lab)
}

fn with(policy: &str) -> AgentOptions {
    AgentOptions::new(&["cali*"]).arg("--gateway").arg(policy)
}

#[test]
fn a_gateway_without_a_route_is_answered_though_the_kernel_is_silent() -> Result<()> {
    needs_root!();
    let mut both = SideBySide::start_with(without_default_route, with("cali*=169.254.1.1"))?;
    both.agent().in_sync()?;
    let frame = both.alone().host("p0").who_has(CALICO_GATEWAY);
    assert!(both.alone().host("p0").ask(&frame)?.is_empty(), "the kernel is silent");
    // The very first request of a sender that nobody knows; then the next ones.
    for number in 0..3 {
        let p0 = both.fast().host("p0");
        let reply = reply_bytes(CALICO_MAC, p0.mac(), p0.ip(), CALICO_GATEWAY);
        assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?, [reply], "request {number}");
    }
    assert_eq!(count(both.agent(), "cali0", "answered_by_policy", "gateway")?, 3);
    let status = both.agent().status()?;
    assert_eq!(status.answered("cali0"), 0, "counted apart: {}", status.0);
    assert_eq!(status.interface("cali0")["policies"][0], "gateway: answer 169.254.1.1");
    // The kernel has heard nothing of it, and has learnt nobody.
    both.compare_neighbours()?;
    let index = both.fast().node().run(|| netlink::index("cali0"))??;
    assert!(!Neighbours::of(both.fast().node())?.entries.keys().any(|(of, _)| *of == index));
    Ok(())
}

#[test]
fn a_pod_reaches_another_one_by_such_a_gateway() -> Result<()> {
    needs_root!();
    let lab = without_default_route()?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    assert!(!p0.can_ping(p1.ip())?, "without an agent the pod finds no gateway");
    p0.namespace().ip("neigh flush dev eth0")?;
    let mut agent = with("cali*=169.254.1.1").start(lab.node())?;
    agent.in_sync()?;
    assert!(p0.can_ping(p1.ip())?, "{}", agent.log());
    Ok(())
}

#[test]
fn nothing_but_the_listed_address_is_answered_and_only_where_it_is_listed() -> Result<()> {
    needs_root!();
    let lab = without_default_route()?;
    let mut agent = with("cali0=169.254.1.1").start(lab.node())?;
    agent.in_sync()?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    for silent in [[169, 254, 1, 2], FAR_HOST] {
        assert!(p0.ask(&p0.who_has(silent))?.is_empty(), "{silent:?}");
    }
    assert!(p1.ask(&p1.who_has(CALICO_GATEWAY))?.is_empty(), "cali1 has no such policy");
    assert!(p0.ask(&p0.probe(CALICO_GATEWAY))?.is_empty(), "a probe: the pod may take the address");
    let spoofed = arp_common::ArpFrame::request(p0.mac().bytes(), p1.ip(), CALICO_GATEWAY).to_bytes();
    assert!(p0.ask(&spoofed)?.is_empty(), "a sender that is routed elsewhere");
    assert_eq!(count(&agent, "cali0", "answered_by_policy", "gateway")?, 0);
    lab.node().sysctl("net.ipv4.conf.cali0.forwarding", 0)?;
    agent.in_sync()?;
    assert!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.is_empty(), "what does not forward is no gateway");
    Ok(())
}

#[test]
fn where_there_is_a_route_the_kernel_decides() -> Result<()> {
    needs_root!();
    // All of it is as without the policy: the default route leads to the gateway's address.
    let mut both = SideBySide::start_with(|| topology::calico(1), with("cali*=169.254.1.1"))?;
    both.learn("p0", CALICO_GATEWAY)?;
    both.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?;
    both.node_sysctl("net.ipv4.conf.cali0.proxy_arp", 0)?;
    both.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?;
    assert_eq!(count(both.agent(), "cali0", "answered_by_policy", "gateway")?, 0);
    // The route goes, and comes again.
    both.both(|lab| lab.node().ip("route del default").map(drop))?;
    both.agent().in_sync()?;
    let p0 = both.fast().host("p0");
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    assert_eq!(count(both.agent(), "cali0", "answered_by_policy", "gateway")?, 1);
    Ok(())
}

#[test]
fn by_routing_rules_each_sender_has_a_route_or_none() -> Result<()> {
    needs_root!();
    let build = || {
        let lab = without_default_route()?;
        lab.node().ip("rule add from 10.244.235.132 lookup 100")?;
        lab.node().ip("route add default via 10.9.0.254 dev eth0 table 100")?;
        Ok(lab)
    };
    let mut both = SideBySide::start_with(build, with("cali*=169.254.1.1"))?;
    both.learn("p0", topology::UPLINK_IP)?;
    both.learn("p1", topology::UPLINK_IP)?;
    // p0 has a route to the gateway's address by the table of its own: the kernel answers, and so does the fast path.
    assert_eq!(both.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?.replies.len(), 1);
    assert_eq!(count(both.agent(), "cali0", "answered_by_policy", "gateway")?, 0);
    // p1 has none.
    let frame = both.alone().host("p1").who_has(CALICO_GATEWAY);
    assert!(both.alone().host("p1").ask(&frame)?.is_empty(), "the kernel is silent");
    assert_eq!(both.fast().host("p1").ask(&frame)?.len(), 1);
    assert_eq!(count(both.agent(), "cali1", "answered_by_policy", "gateway")?, 1);
    Ok(())
}

#[test]
fn in_count_nothing_changes_but_the_counters() -> Result<()> {
    needs_root!();
    let mut both = SideBySide::start_with(without_default_route, with("cali*=count:169.254.1.1"))?;
    both.agent().in_sync()?;
    both.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?;
    assert_eq!(count(both.agent(), "cali0", "would_answer", "gateway")?, 1);
    assert_eq!(count(both.agent(), "cali0", "answered_by_policy", "gateway")?, 0);
    let said = explained(both.agent(), &["cali0", "169.254.1.1", "--sender", "10.244.235.132"])?;
    assert!(said.contains("policy gateway only counts it"), "{said}");
    Ok(())
}

#[test]
fn explain_and_stats_say_that_the_kernel_would_not_answer() -> Result<()> {
    needs_root!();
    let lab = without_default_route()?;
    let mut agent = with("cali*=169.254.1.1").start(lab.node())?;
    agent.in_sync()?;
    let p0 = lab.host("p0");
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    let (sender, mac) = (std::net::Ipv4Addr::from(p0.ip()).to_string(), p0.mac().to_string());
    let said = explained(&agent, &["cali0", "169.254.1.1", "--sender", &sender, "--sender-mac", &mac, "--kernel"])?;
    for part in ["stays silent", "answers by policy gateway: the kernel would not answer", "counted for policy gateway"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let stats = String::from_utf8_lossy(&agent.command(&["stats", "--interface", "cali0"])?.stdout).into_owned();
    assert!(stats.contains("answered by policy: gateway"), "{stats}");
    let status = String::from_utf8_lossy(&agent.command(&["status"])?.stdout).into_owned();
    assert!(status.contains("beyond the kernel: cali0, cali1: gateway: answer 169.254.1.1"), "{status}");
    Ok(())
}

#[test]
fn without_an_agent_the_gateway_is_silent_again() -> Result<()> {
    needs_root!();
    let lab = without_default_route()?;
    let mut agent = with("cali*=169.254.1.1").start(lab.node())?;
    agent.in_sync()?;
    let p0 = lab.host("p0");
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    agent.signal(nix::sys::signal::Signal::SIGKILL)?;
    agent.wait()?;
    assert!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.is_empty());
    Ok(())
}

#[test]
fn a_reload_changes_which_addresses_are_answered() -> Result<()> {
    needs_root!();
    let lab = without_default_route()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("arp-agent.toml");
    let write = |policies: &str| std::fs::write(&path, format!("interface = \"cali*\"\n{policies}"));
    write("gateway = [\"cali*=169.254.1.1\", \"cali1=10.9.9.9\"]\n")?;
    let mut agent = AgentOptions::new(&[]).arg("--config").arg(&path).start(lab.node())?;
    agent.in_sync()?;
    for (policies, in_words, answered, silent) in [
        (
            "gateway = [\"cali*=169.254.1.2\", \"cali1=10.9.9.9\"]\n",
            serde_json::json!(["gateway: answer 169.254.1.2"]),
            vec![[169, 254, 1, 2]],
            vec![CALICO_GATEWAY, [10, 9, 9, 9]],
        ),
        // The list that another interface had before.
        (
            "gateway = \"cali0=10.9.9.9\"\n",
            serde_json::json!(["gateway: answer 10.9.9.9"]),
            vec![[10, 9, 9, 9]],
            vec![CALICO_GATEWAY, [169, 254, 1, 2]],
        ),
        (
            "gateway = \"cali*=count:169.254.1.1\"\n",
            serde_json::json!(["gateway: count 169.254.1.1"]),
            vec![],
            vec![CALICO_GATEWAY, [10, 9, 9, 9]],
        ),
        ("", serde_json::json!([]), vec![], vec![CALICO_GATEWAY]),
        (
            "gateway = \"cali*=169.254.1.1\"\n",
            serde_json::json!(["gateway: answer 169.254.1.1"]),
            vec![CALICO_GATEWAY],
            vec![],
        ),
    ] {
        write(policies)?;
        let reloaded = agent.command(&["reload"])?;
        assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
        assert_eq!(agent.status()?.interface("cali0")["policies"], in_words);
        let p0 = lab.host("p0");
        for (targets, number) in [(answered, 1), (silent, 0)] {
            for target in targets {
                assert_eq!(p0.ask(&p0.who_has(target))?.len(), number, "{policies}: {target:?}");
            }
        }
    }
    assert_eq!(count(&agent, "cali0", "would_answer", "gateway")?, 1, "counted while it only counted");
    Ok(())
}
