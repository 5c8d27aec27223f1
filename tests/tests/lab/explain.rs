//! `explain` and `stats`: what they say of a decision is what the program does, and what the kernel keeps.

use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};
use arp_common::Lladdr;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, Lab, TestHook, needs_root, stretched};
use serde_json::Value;

use crate::matrix::run_all;

const REPLY: Option<i32> = Some(0);
const PASS: Option<i32> = Some(3);

fn explain(agent: &Agent, target: &str, more: &[&str]) -> Result<Output> {
    let question = ["explain", "--interface", "cali0", "--target", target];
    agent.command(&[&question[..], more].concat())
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

fn would_answer_if(explanation: &Value) -> Vec<&str> {
    explanation["would_answer_if"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn explain_says_who_answers_and_the_loaded_program_agrees() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let p0 = lab.host("p0");

    // Before its first request the kernel has not learnt the pod.
    let sender = ["--sender", "10.244.235.132", "--kernel", "--json"];
    let unknown = explain(&agent, "169.254.1.1", &sender)?;
    assert_eq!(unknown.status.code(), PASS, "{unknown:?}");
    let unknown = json(&unknown)?;
    assert_eq!(unknown["reason"], "neighbour_unknown");
    let counted = |explanation: &Value| {
        let program = explanation["program"].as_str().unwrap_or_default();
        program.rsplit_once("counted as ").map(|(_, reason)| reason.to_owned())
    };
    assert_eq!(counted(&unknown).as_deref(), Some("neighbour_unknown"), "{unknown}");
    let changes = would_answer_if(&unknown);
    assert!(changes.len() == 1 && changes[0].contains("after one request"), "{changes:?}");

    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    agent.in_sync()?;
    let known = explain(&agent, "169.254.1.1", &["--kernel", "--json"])?;
    assert_eq!(known.status.code(), REPLY, "{known:?}");
    let known = json(&known)?;
    assert_eq!((&known["verdict"], &known["tables"]), (&"reply".into(), &"agent".into()));
    assert_eq!(known["reply_mac"], "ee:ee:ee:ee:ee:ee");
    let action = match TestHook::chosen()? {
        TestHook::XdpSkb => "agrees: xdp action 3",
        TestHook::XdpDriver => "agrees: xdp action 4",
        TestHook::Tc => "agrees: tc action 7",
    };
    assert!(known["program"].as_str().is_some_and(|program| program.starts_with(action)), "{known}");
    assert_eq!(counted(&known).as_deref(), Some("answered"), "{known}");
    let before = agent.status()?.answered("cali0");
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    assert_eq!(agent.status()?.answered("cali0"), before + 1, "it is as explained");

    // Another pod's address would be behind cali0 only by this route.
    lab.node().ip("route add 10.244.235.200/32 dev cali0 scope link")?;
    agent.in_sync()?;
    let same_interface = json(&explain(&agent, "10.244.235.200", &["--kernel", "--json"])?)?;
    assert_eq!(same_interface["reason"], "pvlan_off");
    assert_eq!(counted(&same_interface).as_deref(), Some("pvlan_off"), "{same_interface}");
    assert_eq!(would_answer_if(&same_interface), ["net.ipv4.conf.cali0.proxy_arp_pvlan were 1"]);
    lab.node().sysctl("net.ipv4.conf.cali0.proxy_arp_pvlan", 1)?;
    agent.in_sync()?;
    assert_eq!(explain(&agent, "10.244.235.200", &["--kernel"])?.status.code(), REPLY, "what was said comes true");

    // Of a route by which the kernel does not answer, `explain` says which it is.
    lab.node().ip("route add blackhole 10.244.235.201/32")?;
    lab.node().ip("route add throw 10.244.235.202/32")?;
    agent.in_sync()?;
    for (target, reason, route) in
        [("10.244.235.201", "unanswerable_route", "blackhole 10.244.235.201"), ("10.244.235.202", "no_route", "none")]
    {
        let explained = json(&explain(&agent, target, &["--kernel", "--json"])?)?;
        assert_eq!(counted(&explained).as_deref(), Some(reason), "{explained}");
        let facts = explained["kernel_state"].as_array().into_iter().flatten();
        let found = facts.filter(|fact| fact["what"] == format!("ip route, to the target {target}"));
        assert_eq!(found.map(|fact| &fact["found"]).collect::<Vec<_>>(), [route]);
    }
    Ok(())
}

#[test]
fn explain_works_without_an_agent() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    agent.stop()?;
    lab.node().ip("neigh replace 10.244.235.132 lladdr 02:00:00:00:00:07 dev cali0 nud permanent")?;
    let explained = explain(&agent, "8.8.8.8", &["--json"])?;
    assert_eq!(explained.status.code(), REPLY, "{explained:?}");
    assert_eq!(json(&explained)?["tables"], "kernel");
    let refused = explain(&agent, "8.8.8.8", &["--kernel"])?;
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no agent runs"), "{stderr}");
    let unknown = agent.command(&["explain", "--interface", "nonesuch", "--target", "8.8.8.8"])?;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nonesuch: no such interface"), "{unknown:?}");
    Ok(())
}

#[test]
fn stats_counts_what_was_answered_and_passed() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let p0 = lab.host("p0");
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    agent.in_sync()?;
    for _ in 0..3 {
        p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    }
    let stats = json(&agent.command(&["stats", "--interface", "cali0", "--json"])?)?;
    assert_eq!(stats["answered"], 3, "{stats}");
    assert_eq!(stats["passed"]["neighbour_unknown"], 1, "{stats}");
    let elsewhere = agent.command(&["stats", "--interface", "nonesuch"])?;
    assert_eq!(elsewhere.status.code(), Some(1));
    Ok(())
}

const POD: &str = "10.244.235.132";
const HOST: [u8; 4] = [10, 20, 30, 40];
const NODE: [u8; 4] = [10, 9, 0, 1];
const GATEWAY: [u8; 4] = CALICO_GATEWAY;
const DEFAULT: &str = "route replace default via 10.9.0.254 dev eth0";
const NO_DEFAULT: &str = "route del default";
const FAILED: &str = "neigh replace 10.244.235.132 dev cali0 nud failed";
const OTHER: &str = "neigh replace 10.244.235.132 lladdr 02:00:00:00:00:07 dev cali0 nud stale";
/// With an interface's last address the kernel takes its routes away.
const POD_ROUTE: &str = "route replace 10.244.235.132/32 dev cali0 scope link";
const HOPS: &str = "route replace default nexthop via 10.9.0.254 dev eth0 nexthop via 10.9.0.253 dev eth0";

/// Situations of the node of [`topology::calico`]: what makes one and what takes it back (steps as of the matrix), the
/// target, what the kernel does with the request of a sender that it has not learnt, and the reason.
type Situation = (&'static [&'static str], &'static [&'static str], [u8; 4], &'static str, Option<&'static str>);

#[rustfmt::skip]
const SITUATIONS: [Situation; 22] = [
    // As Calico sets it up, and an address of the node's.
    (&[], &[], GATEWAY, "answers", None),
    (&[], &[], NODE, "answers", None),
    (&[NO_DEFAULT], &[DEFAULT], GATEWAY, "silent", Some("no_route")),
    (&[NO_DEFAULT, "route add 0.0.0.0/32 via 10.9.0.254 dev eth0"], &["route del 0.0.0.0/32", DEFAULT],
     GATEWAY, "silent", Some("no_route")),
    (&["cali0.proxy_arp=0"], &["cali0.proxy_arp=1"], GATEWAY, "silent", Some("proxy_arp_off")),
    (&["cali0.proxy_arp=0", "neigh add proxy 169.254.1.1 dev cali0"],
     &["neigh del proxy 169.254.1.1 dev cali0", "cali0.proxy_arp=1"], GATEWAY, "answers", None),
    (&["cali0.forwarding=0"], &["cali0.forwarding=1"], GATEWAY, "silent", Some("forwarding_off")),
    (&["route add blackhole 10.20.30.40"], &["route del blackhole 10.20.30.40"],
     HOST, "silent", Some("unanswerable_route")),
    (&["route add prohibit 10.20.30.40"], &["route del prohibit 10.20.30.40"],
     HOST, "silent", Some("unanswerable_route")),
    (&["route add 10.20.30.40 dev cali0"], &["route del 10.20.30.40 dev cali0"], HOST, "silent", Some("pvlan_off")),
    // A subnet's broadcast address.
    (&[], &[], [10, 9, 0, 255], "silent", Some("unanswerable_route")),
    // An address of another interface, and one with a peer.
    (&["all.arp_ignore=1"], &["all.arp_ignore=0"], NODE, "silent", Some("arp_ignore")),
    (&["all.arp_ignore=1", "addr add 10.8.0.1 peer 10.8.0.2 dev cali0"],
     &["addr del 10.8.0.1 peer 10.8.0.2 dev cali0", POD_ROUTE, "all.arp_ignore=0"],
     [10, 8, 0, 1], "silent", Some("arp_ignore")),
    (&["cali0.arp_ignore=8"], &["cali0.arp_ignore=0"], NODE, "silent", Some("arp_ignore")),
    (&[FAILED], &[], GATEWAY, "answers", None),
    (&[FAILED, NO_DEFAULT], &[DEFAULT], GATEWAY, "silent", Some("no_route")),
    (&[OTHER], &[], GATEWAY, "answers", None),
    (&[OTHER, NO_DEFAULT], &[DEFAULT], GATEWAY, "silent", Some("no_route")),
    (&["cali0.medium_id=-1"], &["cali0.medium_id=0"], GATEWAY, "silent", Some("medium_id")),
    (&["/net/ipv4/neigh/cali0/proxy_delay=10"], &["/net/ipv4/neigh/cali0/proxy_delay=0"],
     GATEWAY, "answers_after_delay", Some("proxy_delay")),
    (&["rule add from 10.99.0.0/16 lookup 100"], &["rule del from 10.99.0.0/16 lookup 100"],
     GATEWAY, "answers", None),
    (&[HOPS], &[DEFAULT], GATEWAY, "answers", None),
];

/// What the live kernel does with the first request of the pod, whose entry (if it is valid) holds another address.
fn live(lab: &Lab, target: [u8; 4]) -> Result<&'static str> {
    let pod = lab.host("p0");
    if !pod.ask(&pod.who_has(target))?.is_empty() {
        return Ok("answers");
    }
    let late = pod.collect(stretched(Duration::from_millis(300)))?;
    Ok(if late.is_empty() { "silent" } else { "answers_after_delay" })
}

#[test]
fn explain_says_what_the_kernel_does_meanwhile() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for (make, undo, target, kernel, reason) in SITUATIONS {
        let what = format!("{make:?}, {target:?}");
        lab.node().ip("neigh flush dev cali0 nud all")?;
        run_all(&lab, make)?;
        agent.in_sync()?;
        let address = Ipv4Addr::from(target).to_string();
        let mac = lab.host("p0").mac().to_string();
        let asked = ["--sender", POD, "--sender-mac", &mac, "--json"];
        let explained = json(&explain(&agent, &address, &asked)?)?;
        let said = &explained["kernel"];
        assert_eq!((&said["answer"], said["reason"].as_str()), (&kernel.into(), reason), "{what}: {said}");
        let text = String::from_utf8(explain(&agent, &address, &asked[..4])?.stdout)?;
        assert!(text.contains(said["decided_by"]["what"].as_str().unwrap_or("?")), "{what}: {text}");
        assert!(!text.contains("nobody"), "{what}: of the wire nothing is known: {text}");
        let alive = live(&lab, target)?;
        match kernel {
            // With a random delay of 0, too.
            "answers_after_delay" => assert_ne!(alive, "silent", "{what}"),
            "undecided" => {}
            kernel => assert_eq!(alive, kernel, "{what}: {said}"),
        }
        if kernel == "silent" && reason == Some("no_route") {
            let changes = would_answer_if(&explained);
            assert!(changes.iter().any(|change| change.contains("a route to")), "{what}: {changes:?}");
            let command = explained["remedies"][0]["command"].as_str().unwrap_or_default();
            assert!(command.starts_with(&format!("ip route add {address}/32 dev ")), "{what}: {command}");
        }
        run_all(&lab, undo)?;
    }
    Ok(())
}

#[test]
fn explain_names_settings_of_dotted_interfaces() -> Result<()> {
    needs_root!();
    let mut lab = topology::calico(1)?;
    lab.attach("q0", Lladdr::new([2, 0, 0, 0, 3, 1]), "lan.10", Lladdr::new([2, 0, 0, 0, 3, 2]))?;
    lab.node().ip("route add 10.3.0.1/32 dev lan.10")?;
    let agent = AgentOptions::new(&["lan.10"]).start(lab.node())?;
    let asked = ["explain", "--interface", "lan.10", "--target", "10.20.30.40", "--sender", "10.3.0.1", "--json"];
    let explained = json(&agent.command(&asked)?)?;
    assert_eq!(explained["kernel"]["reason"], "proxy_arp_off", "{explained}");
    let facts = explained["kernel_state"].as_array().into_iter().flatten();
    let names = facts.filter_map(|fact| fact["what"].as_str()).filter(|what| what.starts_with("net."));
    let named = would_answer_if(&explained).into_iter().filter_map(|change| change.split(' ').next());
    let names: Vec<&str> = names.chain(named.filter(|name| name.starts_with("net."))).collect();
    assert!(names.len() > 5, "{explained}");
    for name in names {
        lab.node().exec(&format!("sysctl -n {name}"))?;
    }
    Ok(())
}
