//! `proxy_arp` on a LAN.

use anyhow::Result;
use lab::topology::{self, FAR_HOST, NODE_MAC};
use lab::{Answerer, SideBySide, needs_root, reply_bytes};

const NODE: [u8; 4] = [192, 168, 0, 1];
const SAME_LAN: [u8; 4] = [192, 168, 0, 100];

fn lan_with_agent() -> Result<SideBySide> {
    let mut parity = SideBySide::start(topology::lan, &["eth0"])?;
    parity.learn("client", NODE)?;
    Ok(parity)
}

#[test]
fn a_host_behind_the_default_route_is_answered_for() -> Result<()> {
    needs_root!();
    let mut parity = lan_with_agent()?;
    let outcome = parity.ask("client", |client| client.who_has(FAR_HOST))?;
    let client = parity.fast().host("client");
    assert_eq!(outcome.replies, [reply_bytes(NODE_MAC, client.mac(), client.ip(), FAR_HOST)]);
    assert_eq!(outcome.by, Answerer::FastPath);
    Ok(())
}

#[test]
fn no_answer_for_a_host_on_the_lan() -> Result<()> {
    needs_root!();
    let mut parity = lan_with_agent()?;
    assert_eq!(parity.ask("client", |client| client.who_has(SAME_LAN))?.by, Answerer::nobody("pvlan_off"));
    Ok(())
}

#[test]
fn a_host_without_a_route_is_not_answered_for() -> Result<()> {
    needs_root!();
    let mut parity = lan_with_agent()?;
    parity.node_ip("route del default")?;
    assert_eq!(parity.ask("client", |client| client.who_has(FAR_HOST))?.by, Answerer::nobody("no_route"));
    // The node itself is, still.
    assert_eq!(parity.ask("client", |client| client.who_has(NODE))?.by, Answerer::FastPath);
    Ok(())
}

#[test]
fn without_proxy_arp_only_the_node_is_answered_for() -> Result<()> {
    needs_root!();
    let mut parity = lan_with_agent()?;
    parity.node_sysctl("net.ipv4.conf.eth0.proxy_arp", 0)?;
    assert_eq!(parity.ask("client", |client| client.who_has(FAR_HOST))?.by, Answerer::nobody("proxy_arp_off"));
    assert_eq!(parity.ask("client", |client| client.who_has(NODE))?.by, Answerer::FastPath);
    Ok(())
}
