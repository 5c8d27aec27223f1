//! Which interfaces the agent takes, and the other end of each.

use anyhow::{Context, Result};
use aya::programs::TcAttachType;
use lab::topology::{self, CALICO_GATEWAY, add_calico_pod};
use lab::{Agent, AgentOptions, Answerer, Lab, SideBySide, TestHook, kernel_is_since, needs_root};
use serde_json::{Value, json};

use crate::foreign::{Does, TcProgram};

fn is_answering(interface: &Value) -> bool {
    interface["state"] == "answering"
}

#[test]
fn status_names_each_matching_interface_and_no_other() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let status = agent.status()?;
    assert_eq!(status.0["version"], 1);
    let mut names = status.interfaces();
    names.sort_unstable();
    assert_eq!(names, ["cali0", "cali1"], "not eth0, not lo");
    for name in names {
        let interface = status.interface(name);
        let (hook, mode) = match TestHook::chosen()? {
            TestHook::XdpSkb => ("xdp", "skb"),
            TestHook::XdpDriver => ("xdp", "driver"),
            TestHook::Tc if kernel_is_since(6, 6) => ("tc", "tcx"),
            TestHook::Tc => ("tc", "clsact"),
        };
        assert_eq!(interface["hook"], hook, "{interface}");
        assert_eq!(interface["mode"], mode, "{interface}");
        assert_eq!(interface["hook_why"], "requested", "{interface}");
        assert_eq!(interface["state"], "answering", "{interface}");
    }
    for key in ["answered", "routes", "neighbours", "resyncs", "overruns"] {
        assert!(status.0[key].is_u64(), "{key} in {}", status.0);
    }
    Ok(())
}

/// Attaching a tcx program is not notified, and with many interfaces each is asked about them seldom.
#[test]
fn a_foreign_tcx_program_is_seen_at_the_next_poll() -> Result<()> {
    needs_root!();
    const PODS: u8 = 48;
    let lab = topology::calico(PODS)?;
    let mut agent = AgentOptions::new(&["cali*"]).default_reread().start(lab.node())?;
    for pod in [3, 17, 30, 44] {
        let interface = format!("cali{pod}");
        let others = |agent: &Agent| Ok::<_, anyhow::Error>(agent.status()?.interface(&interface)["others"].clone());
        assert_eq!(others(&agent)?, json!([]), "{interface}, before");
        let _program = TcProgram::attach(lab.node(), &interface, TcAttachType::Egress, Does::Nothing)?;
        agent.in_sync()?;
        assert_eq!(others(&agent)?.as_array().map(Vec::len), Some(1), "{interface}");
        assert!(is_answering(agent.status()?.interface(&interface)), "{interface}: its replies go through the program");
    }
    Ok(())
}

#[test]
fn several_patterns_take_what_matches_any_of_them() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let agent = AgentOptions::new(&["cali1", "eth?"]).start(lab.node())?;
    let status = agent.status()?;
    let mut names = status.interfaces();
    names.sort_unstable();
    assert_eq!(names, ["cali1", "eth0"]);
    Ok(())
}

#[test]
fn a_pattern_that_matches_nothing_is_in_status() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["nosuch*"]).start(lab.node())?;
    let json = agent.status()?;
    assert!(json.ready() && json.interfaces().is_empty(), "{}", json.0);
    let text = agent.command(&["status"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("nosuch*"), "{text}");
    Ok(())
}

#[test]
fn interfaces_are_attached_and_detached_while_it_runs() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(1), &["cali*"])?;
    parity.both(|lab| add_calico_pod(lab, 1).map(drop))?;
    parity.agent().wait_for_interface("cali1", is_answering)?;
    parity.learn("p1", CALICO_GATEWAY)?;
    assert_eq!(parity.ask("p1", |p1| p1.who_has(CALICO_GATEWAY))?.by, Answerer::FastPath);

    parity.node_ip("link del cali1")?;
    parity.agent().wait_for_interface("cali1", Value::is_null)?;
    parity.learn("p0", CALICO_GATEWAY)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?.by, Answerer::FastPath, "the other goes on");
    Ok(())
}

#[test]
fn an_interface_made_again_is_taken_again() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(1), &["cali*"])?;
    for round in 0..3 {
        parity.both(|lab| {
            if round > 0 {
                lab.node().ip("link del cali1")?;
                lab.forget_host("p1");
            }
            add_calico_pod(lab, 1).map(drop)
        })?;
        parity.agent().in_sync()?;
        parity.agent().wait_for_interface("cali1", is_answering)?;
        parity.learn("p1", CALICO_GATEWAY)?;
        let outcome = parity.ask("p1", |p1| p1.who_has(CALICO_GATEWAY))?;
        assert_eq!(outcome.by, Answerer::FastPath, "round {round}");
    }
    Ok(())
}

#[test]
fn a_renamed_interface_follows_the_patterns() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    lab.node().ip_each("link set cali0 down\n link set cali0 name other0\n link set other0 up")?;
    agent.in_sync()?;
    agent.wait_for_interface("cali0", Value::is_null)?;
    agent.wait_for_interface("other0", Value::is_null)?;
    lab.node().ip_each("link set other0 down\n link set other0 name cali7\n link set cali7 up")?;
    agent.in_sync()?;
    agent.wait_for_interface("cali7", is_answering)
}

/// The index of a pod's `eth0`, as the pod's namespace says.
fn pod_end_index(lab: &Lab, pod: &str) -> Result<u64> {
    let link = lab.host(pod).namespace().ip_json("link show eth0")?;
    link[0]["ifindex"].as_u64().context("no ifindex")
}

#[test]
fn status_shows_the_pod_end_of_each_veth() -> Result<()> {
    needs_root!();
    let mut lab = topology::calico(1)?;
    // Something else first, so that the indices of the two pods differ.
    let p1 = lab.namespace("p1")?;
    p1.ip("link add unrelated type veth peer name unrelated2")?;
    let node = lab.node().clone();
    node.ip(&format!("link add cali1 type veth peer name eth0 netns {}", p1.name()))?;
    node.ip("link set cali1 up")?;
    lab.add_host("p1", p1, topology::NODE_MAC, "cali1")?;
    assert_ne!(pod_end_index(&lab, "p0")?, pod_end_index(&lab, "p1")?);

    let agent = AgentOptions::new(&["cali*"]).start(&node)?;
    let status = agent.status()?;
    for (node_end, pod) in [("cali0", "p0"), ("cali1", "p1")] {
        let peer = &status.interface(node_end)["peer"];
        assert_eq!(peer["ifindex"].as_u64(), Some(pod_end_index(&lab, pod)?), "{node_end}: {peer}");
        let as_ip_says = node.ip_json(&format!("link show {node_end}"))?;
        assert!(as_ip_says[0]["link_netnsid"].is_u64(), "{as_ip_says}");
        assert_eq!(peer["netnsid"], as_ip_says[0]["link_netnsid"], "{node_end}: {peer}");
        assert_eq!(peer["netns"], lab.host(pod).namespace().name(), "{node_end}: {peer}");
    }
    Ok(())
}

#[test]
fn a_nameless_namespace_has_an_id_only() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let index = pod_end_index(&lab, "p0")?;
    // The lab's handle keeps the namespace itself.
    lab.host("p0").namespace().remove();
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let status = agent.status()?;
    let peer = &status.interface("cali0")["peer"];
    assert_eq!(peer["ifindex"].as_u64(), Some(index), "{peer}");
    assert!(peer["netnsid"].is_u64() && peer["netns"].is_null(), "{peer}");
    Ok(())
}
