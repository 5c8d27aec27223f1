//! Whose an address is behind an interface with several clients: c2 and c3 of a private VLAN, the world behind the uplink.

use std::time::{Duration, Instant};
use std::{net::Ipv4Addr, thread};

use anyhow::{Context as _, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use lab::topology::{self, NODE_MAC, ROUTER_IP, UPLINK_MAC};
use lab::{Agent, AgentOptions, Host, Lab, needs_root};

use super::{await_guard, count, send};

const NODE: [u8; 4] = [192, 168, 0, 1];
const C2: [u8; 4] = [192, 168, 0, 2];
/// How often an address is claimed, in three ways each time; and less often where each loses a ping, which takes a second.
const CLAIMS: u64 = 100;
const CLAIMS_THAT_SUCCEED: u64 = 10;
const THIEF: [u8; 6] = [0x02, 0, 0, 0, 0x66, 0x66];

fn start(lab: &Lab, policy: &str) -> Result<Agent> {
    let agent = AgentOptions::new(&["wifi0", "u0"]).args(&["--binding", policy]).start(lab.node())?;
    await_guard(&agent)?;
    Ok(agent)
}

/// What a thief of an address sends to the node: a reply, a request, an announcement.
fn claims(of: [u8; 4], node: [u8; 4], node_mac: Lladdr) -> Vec<Vec<u8>> {
    let request = ArpFrame::request(THIEF, of, node);
    let mut reply = ArpFrame { dst: node_mac.bytes(), ..request };
    reply.arp.oper = [0, 2];
    reply.arp.tha = node_mac.bytes();
    [reply, request, ArpFrame::request(THIEF, of, of)].map(|frame| frame.to_bytes().to_vec()).to_vec()
}

/// Claims an address from a host, again and again, while the node pings its owner: how many of these were lost, and
/// whether the entry was ever another's than `owner`.
fn steal(
    lab: &Lab,
    thief: &Host,
    interface: &str,
    of: [u8; 4],
    claims: &[Vec<u8>],
    owner: Lladdr,
    times: u64,
) -> Result<(u64, bool)> {
    let (mut lost, mut moved) = (0, false);
    for _ in 0..times {
        send(thief, claims)?;
        let entry = lab.node().neighbour(interface, of)?;
        moved |= entry.and_then(|entry| entry.lladdr) != Some(owner);
        let ping = format!("ping -n -q -c 1 -W 1 {}", Ipv4Addr::from(of));
        lost += u64::from(!lab.node().output(&ping)?.status.success());
        thread::sleep(Duration::from_millis(10));
    }
    Ok((lost, moved))
}

#[test]
fn nobody_takes_a_client_address_where_the_binding_drops() -> Result<()> {
    needs_root!();
    let owner = |lab: &Lab| lab.host("c2").mac();
    for (policy, is_safe) in
        [(None, false), (Some("wifi0=count"), false), (Some("wifi0=drop"), true), (Some("wifi0=drop:fixed"), true)]
    {
        let lab = topology::private_vlan()?;
        lab.node().sysctl("net.ipv4.neigh.wifi0.locktime", 0)?;
        let agent = policy.map(|policy| start(&lab, policy)).transpose()?;
        ensure!(lab.host("c2").can_ping(NODE)?);
        if let Some(agent) = &agent {
            agent.ask("\"sync\"")?;
        }
        let times = if is_safe { CLAIMS } else { CLAIMS_THAT_SUCCEED };
        let (lost, moved) = steal(&lab, lab.host("c3"), "wifi0", C2, &claims(C2, NODE, NODE_MAC), owner(&lab), times)?;
        println!("{policy:?}: {lost} of {times} lost, moved: {moved}");
        ensure!((lost == 0) == is_safe && moved != is_safe, "{policy:?}: {lost} of {times} lost, moved: {moved}");
        if let Some(agent) = agent {
            let [dropped, would_drop] =
                ["dropped", "would_drop"].map(|what| count(&agent, "wifi0", what, "other_owner"));
            let (dropped, would_drop) = (dropped?, would_drop?);
            ensure!((dropped == 3 * CLAIMS) == is_safe && (would_drop > 0) != is_safe, "{dropped}, {would_drop}");
        }
    }
    Ok(())
}

#[test]
fn nobody_takes_the_gateway_address_on_the_uplink() -> Result<()> {
    needs_root!();
    let lab = topology::private_vlan()?;
    let agent = start(&lab, "u0=drop:fixed")?;
    ensure!(lab.node().can_ping(ROUTER_IP)?);
    agent.ask("\"sync\"")?;
    let external = lab.host("external");
    let claims = claims(ROUTER_IP, topology::UPLINK_IP, UPLINK_MAC);
    let (lost, moved) = steal(&lab, external, "u0", ROUTER_IP, &claims, external.mac(), CLAIMS)?;
    ensure!(lost == 0 && !moved, "{lost} of {CLAIMS} lost, moved: {moved}");
    Ok(())
}

#[test]
fn an_address_moves_once_its_owner_is_silent() -> Result<()> {
    needs_root!();
    let lab = topology::private_vlan()?;
    lab.node().sysctl("net.ipv4.neigh.wifi0.locktime", 0)?;
    let agent = start(&lab, "wifi0=drop")?;
    let (c2, c3) = (lab.host("c2"), lab.host("c3"));
    ensure!(c2.can_ping(NODE)?);
    agent.ask("\"sync\"")?;
    // The client goes, and comes back elsewhere with the same address.
    c2.namespace().ip("link set eth0 down")?;
    let begin = Instant::now();
    let claim = ArpFrame::request(c3.mac().bytes(), C2, NODE).to_bytes().to_vec();
    // Whoever asks does so every second.
    let mut answered_after = None;
    for _ in 0..4 {
        if !c3.ask(&claim)?.is_empty() {
            answered_after = Some(begin.elapsed());
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    let after = answered_after.context("the address has not moved within four requests")?;
    ensure!(after >= Duration::from_millis(900), "its owner had {after:?} to answer");
    let entry = lab.node().neighbour("wifi0", C2)?.context("no entry")?;
    ensure!(entry.lladdr == Some(c3.mac()), "{entry:?}");
    Ok(())
}

#[test]
fn an_owner_that_is_asked_answers_and_keeps_its_address() -> Result<()> {
    needs_root!();
    let lab = topology::private_vlan()?;
    let agent = start(&lab, "wifi0=drop")?;
    let (c2, c3) = (lab.host("c2"), lab.host("c3"));
    ensure!(c2.can_ping(NODE)?);
    agent.ask("\"sync\"")?;
    let claim = ArpFrame::request(c3.mac().bytes(), C2, NODE).to_bytes().to_vec();
    for _ in 0..4 {
        ensure!(c3.ask(&claim)?.is_empty(), "the node answers the thief");
        thread::sleep(Duration::from_secs(1));
    }
    let entry = lab.node().neighbour("wifi0", C2)?.context("no entry")?;
    ensure!(entry.lladdr == Some(c2.mac()), "{entry:?}");
    Ok(())
}
