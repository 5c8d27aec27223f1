//! A pod with `default dev eth0`: it asks for every destination. What that costs it in neighbour entries.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY, CALICO_MAC};
use lab::{Host, Lab, Neighbours, SideBySide, needs_root};

/// Few enough for the neighbour table that all namespaces share.
const DESTINATIONS: u8 = 64;

fn destination(number: u8) -> [u8; 4] {
    [10, 30, 0, number + 1]
}

/// Sends one datagram to each destination from the pod's own stack.
fn send_to_all(pod: &Host) -> Result<()> {
    pod.namespace().run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for number in 0..DESTINATIONS {
            socket.send_to(b"hello", SocketAddr::from((destination(number), 9)))?;
        }
        anyhow::Ok(())
    })?
}

/// A node whose pod `p0` has no gateway, and `p1` has one; what they send ends in the world behind the uplink.
fn one_pod_without_a_gateway() -> Result<Lab> {
    let lab = topology::calico(2)?;
    lab.host("external").namespace().ip("route add blackhole 10.30.0.0/16")?;
    let p0 = lab.host("p0").namespace();
    p0.ip("route del default")?;
    p0.ip(&format!("route del {}", std::net::Ipv4Addr::from(CALICO_GATEWAY)))?;
    p0.ip("route add default dev eth0")?;
    Ok(lab)
}

#[test]
fn a_pod_without_gateway_pays_an_entry_per_destination() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(one_pod_without_a_gateway, &["cali*"])?;
    for pod in ["p0", "p1"] {
        parity.learn(pod, CALICO_GATEWAY)?;
    }
    let before = parity.agent().status()?;
    let mut cost = Vec::new();
    parity.both(|lab| {
        for pod in [lab.host("p0"), lab.host("p1")] {
            send_to_all(pod)?;
            let table = Neighbours::of(pod.namespace())?;
            assert!(table.entries.values().all(|entry| entry.lladdr == Some(CALICO_MAC)), "{table}");
            cost.push(table.entries.len());
        }
        Ok(())
    })?;
    let after = parity.agent().status()?;
    let many = usize::from(DESTINATIONS);
    assert_eq!(cost, [many, 1, many, 1], "entries of p0 and p1, kernel alone and with the fast path");
    println!(
        "{many} destinations cost a pod without a gateway {} neighbour entries, one with a gateway {}",
        cost[0], cost[1]
    );

    let answered = |node_end| after.answered(node_end) - before.answered(node_end);
    assert_eq!(answered("cali0"), u64::from(DESTINATIONS), "passed: {:?}", after.passed("cali0"));
    assert_eq!(answered("cali1"), 1, "passed: {:?}", after.passed("cali1"));
    let on_node = parity.fast().node().ip("-4 neigh show dev cali0")?;
    assert_eq!(on_node.lines().count(), 1, "the node keeps one entry, the pod's:\n{on_node}");
    assert!(on_node.starts_with("10.244.235.132 "), "{on_node}");
    parity.compare_neighbours()
}
