//! Policies that drop (docs/protection.md): what they stop, whom they must never hurt, what happens without a lease, and
//! what is refused. The kernel alone says what would become of the same frames.

mod attacks;
mod binding;
mod clients;
mod lapses;
mod never_hurt;
mod refused;
mod reload;

use std::time::Duration;

use anyhow::Result;
use arp_common::ArpFrame;
use lab::{Agent, AgentOptions, Host, Lab, Neighbours, netlink, wait_until};

/// Every policy in `drop`, as an operator would have it: without a grace, so that nothing passes by it.
const ALL: &[&str] =
    &["--sender-guard", "cali*=drop", "--entry-limit", "cali*=drop", "--budget", "cali*=drop", "--sender-grace", "0"];

/// An agent with these policies, once its guard is in place.
fn start(lab: &Lab, policies: &[&str]) -> Result<Agent> {
    let agent = AgentOptions::new(&["cali*"]).args(policies).start(lab.node())?;
    await_guard(&agent)?;
    Ok(agent)
}

/// Waits until every interface with a policy is guarded.
fn await_guard(agent: &Agent) -> Result<()> {
    let is_guarded = || {
        let status = agent.status()?;
        let interfaces = status.0["interfaces"].as_array().cloned().unwrap_or_default();
        let is_attached = |guard: &serde_json::Value| guard.as_str().is_some_and(|guard| guard.starts_with("attached"));
        // Nothing is said of the guard where it is not wanted, or where the interface has not had its turn yet.
        let waits = |why: &serde_json::Value| why.as_str().is_some_and(|why| why.starts_with("waiting"));
        Ok(interfaces.iter().all(|interface| match &interface["guard"] {
            serde_json::Value::Null => !waits(&interface["reason"]),
            guard => is_attached(guard),
        }))
    };
    wait_until(Duration::from_secs(5), is_guarded, || "the guard is attached".to_owned())
}

/// How many frames of an interface policies have dropped, or would have (`dropped`, `would_drop`), for a reason.
fn count(agent: &Agent, interface: &str, what: &str, reason: &str) -> Result<u64> {
    Ok(agent.status()?.interface(interface)[what][reason].as_u64().unwrap_or_default())
}

/// How many neighbour entries the node has on an interface.
fn entries(lab: &Lab, interface: &str) -> Result<usize> {
    let index = lab.node().run(|| netlink::index(interface))??;
    Ok(Neighbours::of(lab.node())?.entries.keys().filter(|(of, _)| *of == index).count())
}

/// A broadcast request of a sender for a target.
fn request(host: &Host, spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    ArpFrame::request(host.mac().bytes(), spa, tpa).to_bytes().to_vec()
}

/// Sends frames one behind the other.
fn send(host: &Host, frames: &[Vec<u8>]) -> Result<()> {
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    host.exchange(&frames).map(drop)
}
