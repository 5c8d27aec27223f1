//! `proxy_arp_pvlan`: clients that are isolated from each other reach each other through the node (RFC 3069).

use anyhow::Result;
use lab::topology::{self, FAR_HOST, NODE_MAC};
use lab::{Answerer, SideBySide, needs_root, reply_bytes};

const NODE: [u8; 4] = [192, 168, 0, 1];
const C2: [u8; 4] = [192, 168, 0, 2];
const C3: [u8; 4] = [192, 168, 0, 3];

fn private_vlan_with_agent() -> Result<SideBySide> {
    let mut parity = SideBySide::start(topology::private_vlan, &["wifi0"])?;
    parity.learn("c2", NODE)?;
    Ok(parity)
}

#[test]
fn pvlan_answers_for_clients_and_proxy_arp_for_others() -> Result<()> {
    needs_root!();
    let mut parity = private_vlan_with_agent()?;
    for (proxy_arp, pvlan) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        parity.both(|lab| lab.node().sysctl("net.ipv4.conf.wifi0.proxy_arp", proxy_arp))?;
        parity.node_sysctl("net.ipv4.conf.wifi0.proxy_arp_pvlan", pvlan)?;
        let case = format!("proxy_arp {proxy_arp}, proxy_arp_pvlan {pvlan}");

        let client = parity.ask("c2", |c2| c2.who_has(C3))?;
        let mac = parity.fast().host("c2").mac();
        if pvlan == 1 {
            assert_eq!(client.replies, [reply_bytes(NODE_MAC, mac, C2, C3)], "{case}");
            assert_eq!(client.by, Answerer::FastPath, "{case}");
        } else {
            assert_eq!(client.by, Answerer::nobody("pvlan_off"), "{case}");
        }

        let world = parity.ask("c2", |c2| c2.who_has(FAR_HOST))?;
        if proxy_arp == 1 {
            assert_eq!(world.replies, [reply_bytes(NODE_MAC, mac, C2, FAR_HOST)], "{case}");
            assert_eq!(world.by, Answerer::FastPath, "{case}");
        } else {
            assert_eq!(world.by, Answerer::nobody("proxy_arp_off"), "{case}");
        }
    }
    Ok(())
}

#[test]
fn with_pvlan_no_client_hears_its_own_address() -> Result<()> {
    needs_root!();
    let mut parity = private_vlan_with_agent()?;
    parity.node_sysctl("net.ipv4.conf.wifi0.proxy_arp_pvlan", 1)?;
    assert_eq!(parity.ask("c2", |c2| c2.who_has(C2))?.by, Answerer::nobody("announcement"));
    assert_eq!(parity.ask("c2", |c2| c2.probe(C2))?.by, Answerer::nobody("probe_not_local"));
    Ok(())
}

#[test]
fn with_pvlan_clients_ping_through_the_node() -> Result<()> {
    needs_root!();
    let mut parity = private_vlan_with_agent()?;
    parity.both(|lab| {
        assert!(!lab.host("c2").can_ping(C3)?, "without pvlan, the clients are isolated");
        lab.host("c2").namespace().ip("neigh flush all").map(drop)
    })?;
    parity.node_sysctl("net.ipv4.conf.wifi0.proxy_arp_pvlan", 1)?;

    let before = parity.agent().status()?.answered("wifi0");
    parity.both(|lab| {
        let c2 = lab.host("c2");
        assert!(c2.can_ping(C3)?);
        assert_eq!(c2.neighbour(C3)?, Some(NODE_MAC), "through the node");
        Ok(())
    })?;
    assert!(parity.agent().status()?.answered("wifi0") > before, "the fast path answered none of it");
    parity.compare_neighbours()
}
