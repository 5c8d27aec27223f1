//! `explain` and `stats`: what they say of a decision is what the program does, and what the kernel keeps.

use std::process::Output;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::topology::{self, CALICO_GATEWAY};
use tests::{Agent, AgentOptions, Hook, needs_root};

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

    // Before its first request the pod is not known: the kernel answers, and learns.
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
    agent.in_step()?;
    let known = explain(&agent, "169.254.1.1", &["--kernel", "--json"])?;
    assert_eq!(known.status.code(), REPLY, "{known:?}");
    let known = json(&known)?;
    assert_eq!((&known["verdict"], &known["tables"]), (&"reply".into(), &"agent".into()));
    assert_eq!(known["reply_mac"], "ee:ee:ee:ee:ee:ee");
    let action = match Hook::chosen()? {
        Hook::XdpSkb => "agrees: xdp action 3",
        Hook::XdpDriver => "agrees: xdp action 4",
        Hook::Tc => "agrees: tc action 7",
    };
    assert!(known["program"].as_str().is_some_and(|program| program.starts_with(action)), "{known}");
    assert_eq!(counted(&known).as_deref(), Some("answered"), "{known}");
    let before = agent.status()?.answered("cali0");
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    assert_eq!(agent.status()?.answered("cali0"), before + 1, "it is as explained");

    // Another pod's address would be behind cali0 only by this route.
    lab.node().ip("route add 10.244.235.200/32 dev cali0 scope link")?;
    agent.in_step()?;
    let same_interface = json(&explain(&agent, "10.244.235.200", &["--kernel", "--json"])?)?;
    assert_eq!(same_interface["reason"], "pvlan_off");
    assert_eq!(counted(&same_interface).as_deref(), Some("pvlan_off"), "{same_interface}");
    assert_eq!(would_answer_if(&same_interface), ["net.ipv4.conf.cali0.proxy_arp_pvlan were 1"]);
    lab.node().sysctl("net.ipv4.conf.cali0.proxy_arp_pvlan", 1)?;
    agent.in_step()?;
    assert_eq!(explain(&agent, "10.244.235.200", &["--kernel"])?.status.code(), REPLY, "what was said comes true");

    // Of a route that nobody answers by, `explain` says what the kernel says.
    lab.node().ip("route add blackhole 10.244.235.201/32")?;
    lab.node().ip("route add throw 10.244.235.202/32")?;
    agent.in_step()?;
    for (target, reason, route) in [
        ("10.244.235.201", "unanswerable_route", "blackhole 10.244.235.201"),
        ("10.244.235.202", "opaque_route", "throw 10.244.235.202"),
    ] {
        let explained = json(&explain(&agent, target, &["--kernel", "--json"])?)?;
        assert_eq!(counted(&explained).as_deref(), Some(reason), "{explained}");
        let facts = explained["kernel_state"].as_array().into_iter().flatten();
        let found = facts.filter(|fact| fact["what"] == format!("ip route, to the target {target}"));
        assert_eq!(found.map(|fact| &fact["found"]).collect::<Vec<_>>(), [route]);
    }
    Ok(())
}

#[test]
fn explain_works_without_an_agent_from_the_kernel_s_state() -> Result<()> {
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
    agent.in_step()?;
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
