//! Traffic that no policy may hurt: with all of them in `drop`, the node does what the kernel alone does.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::topology::{self, CALICO_GATEWAY, FAR_HOST, UPLINK_IP};
use lab::{AgentOptions, Host, Lab, SideBySide, Wire, needs_root, wait_until};

use super::{ALL, await_guard, request};

/// A node alone, and one with every policy in `drop` and these.
fn pair(build: impl Fn() -> Result<Lab>, further: &[&str]) -> Result<SideBySide> {
    let options = AgentOptions::new(&["cali*"]).args(ALL).args(further);
    let mut pair = SideBySide::start_with(build, options)?;
    await_guard(pair.agent())?;
    Ok(pair)
}

/// Nothing was dropped so far.
fn nothing_dropped(pair: &mut SideBySide) -> Result<()> {
    let dropped = pair.agent().status()?.0["dropped"].clone();
    ensure!(dropped.as_object().is_some_and(serde_json::Map::is_empty), "dropped: {dropped}");
    Ok(())
}

#[test]
fn conflict_detection_before_an_address_is_routed() -> Result<()> {
    needs_root!();
    let mut pair = pair(|| topology::calico(2), &[])?;
    // A DHCP client or RFC 5227: probes for an address that the node does not route yet, then for one of the node's.
    let [new, taken] = [[10, 244, 235, 200], UPLINK_IP];
    for _ in 0..3 {
        pair.ask("p0", |p0| p0.probe(new))?;
    }
    assert_eq!(pair.ask("p0", |p0| p0.probe(taken))?.replies.len(), 1, "the node defends its address");
    // The route comes, then the announcements, then the first request.
    pair.node_ip("route add 10.244.235.200/32 dev cali0 scope link")?;
    for _ in 0..2 {
        pair.ask("p0", |p0| request(p0, new, new))?;
    }
    assert_eq!(pair.ask("p0", |p0| request(p0, new, CALICO_GATEWAY))?.replies.len(), 1);
    nothing_dropped(&mut pair)
}

#[test]
fn a_restart_with_the_same_address_and_a_new_mac() -> Result<()> {
    needs_root!();
    let mut pair = pair(|| topology::calico(2), &[])?;
    pair.learn("p0", CALICO_GATEWAY)?;
    pair.both(|lab| {
        let pod = lab.host("p0").namespace();
        pod.ip_each(&format!(
            "link set eth0 down
             link set eth0 address 02:00:00:00:02:72
             link set eth0 up
             route replace {gateway} dev eth0 scope link
             route replace default via {gateway} dev eth0",
            gateway = Ipv4Addr::from(CALICO_GATEWAY)
        ))?;
        ensure!(pod.can_ping(FAR_HOST)?, "the pod reaches the world");
        ensure!(lab.node().can_ping(lab.host("p0").ip())?, "the node reaches the pod");
        Ok(())
    })?;
    nothing_dropped(&mut pair)
}

/// p0's address moves to p1: the route and the announcement in either order.
fn migrate(route_first: bool) -> Result<()> {
    // A second is enough: the route comes at once here.
    let mut pair = pair(|| topology::calico(2), &["--sender-allow", "cali*=10.244.235.132"])?;
    pair.learn("p0", CALICO_GATEWAY)?;
    let moved = pair.fast().host("p0").ip();
    let route = format!("route replace {}/32 dev cali1 scope link", Ipv4Addr::from(moved));
    if route_first {
        pair.node_ip(&route)?;
    }
    for _ in 0..3 {
        pair.ask("p1", |p1| request(p1, moved, moved))?;
    }
    if !route_first {
        pair.node_ip(&route)?;
    }
    assert_eq!(pair.ask("p1", |p1| request(p1, moved, CALICO_GATEWAY))?.replies.len(), 1);
    nothing_dropped(&mut pair)
}

#[test]
fn a_migration_whose_route_comes_first() -> Result<()> {
    needs_root!();
    migrate(true)
}

#[test]
fn a_migration_that_is_announced_first() -> Result<()> {
    needs_root!();
    migrate(false)
}

#[test]
fn a_new_link_whose_route_comes_later() -> Result<()> {
    needs_root!();
    // With the grace, and without an allow list: frames before the route pass, as the kernel alone has them.
    let policies = ["--sender-guard", "cali*=drop", "--sender-grace", "60000"];
    let options = AgentOptions::new(&["cali*"]).args(&policies);
    let mut pair = SideBySide::start_with(|| topology::calico(1), options)?;
    await_guard(pair.agent())?;
    let early = [10, 244, 235, 201];
    for _ in 0..3 {
        pair.ask("p0", |p0| request(p0, early, early))?;
    }
    pair.node_ip("route add 10.244.235.201/32 dev cali0 scope link")?;
    assert_eq!(pair.ask("p0", |p0| request(p0, early, CALICO_GATEWAY))?.replies.len(), 1);
    nothing_dropped(&mut pair)
}

#[test]
fn a_virtual_router_that_is_on_the_allow_list() -> Result<()> {
    needs_root!();
    let virtual_mac = [0, 0, 0x5e, 0, 1, 7];
    let mut pair = pair(|| topology::calico(1), &["--sender-allow", "cali*=10.99.0.0/24=00:00:5e:00:01:07"])?;
    let announce = |_: &Host| arp_common::ArpFrame::request(virtual_mac, [10, 99, 0, 1], [10, 99, 0, 1]).to_bytes();
    for _ in 0..5 {
        pair.ask("p0", announce)?;
    }
    nothing_dropped(&mut pair)?;
    // From another link-layer address it is nobody's.
    pair.ask("p0", |p0| request(p0, [10, 99, 0, 1], [10, 99, 0, 1]))?;
    assert_eq!(super::count(pair.agent(), "cali0", "dropped", "sender_elsewhere")?, 1);
    Ok(())
}

#[test]
fn fifty_addresses_announced_ten_times_at_once() -> Result<()> {
    needs_root!();
    let build = || {
        let lab = topology::calico(1)?;
        lab.node().ip("route add 10.99.0.0/26 dev cali0 scope link")?;
        Ok(lab)
    };
    let mut pair = pair(build, &[])?;
    let announcements = |host: &Host| -> Vec<Vec<u8>> {
        (0..10).flat_map(|_| (1..=50).map(|last| request(host, [10, 99, 0, last], [10, 99, 0, last]))).collect()
    };
    pair.both(|lab| super::send(lab.host("p0"), &announcements(lab.host("p0"))))?;
    nothing_dropped(&mut pair)?;
    // And each of them asks, once the budget has come back.
    std::thread::sleep(Duration::from_millis(1_200));
    let (replied, _) =
        pair.ask_all("p0", |p0| (1..=50).map(|last| request(p0, [10, 99, 0, last], CALICO_GATEWAY)).collect())?;
    assert_eq!(replied, 50);
    nothing_dropped(&mut pair)
}

#[test]
fn a_pod_without_a_gateway_asks_for_everybody() -> Result<()> {
    needs_root!();
    let mut pair = pair(|| topology::calico(1), &[])?;
    pair.learn("p0", CALICO_GATEWAY)?;
    let (replied, _) =
        pair.ask_all("p0", |p0| (1..=200).map(|last| request(p0, p0.ip(), [10, 30, 0, last])).collect())?;
    assert_eq!(replied, 200);
    nothing_dropped(&mut pair)
}

#[test]
fn pods_that_start_at_once() -> Result<()> {
    needs_root!();
    const PODS: u8 = 40;
    let lab = topology::calico(0)?;
    // With the grace: a pod may send before its route is in the tables.
    let policies = ["--sender-guard", "cali*=drop", "--entry-limit", "cali*=drop", "--budget", "cali*=drop"];
    let agent = super::start(&lab, &policies)?;
    let mut lab = lab;
    for pod in 0..PODS {
        topology::add_calico_pod(&mut lab, pod)?;
        let p = lab.host(&format!("p{pod}"));
        // Its route is there already, the guard may not be, or not know it: in either case it is answered.
        ensure!(p.namespace().can_ping(FAR_HOST)?, "p{pod} reaches the world at once");
    }
    await_guard(&agent)?;
    let status = agent.status()?;
    for pod in 0..PODS {
        ensure!(status.interface(&format!("cali{pod}"))["guard"].is_string(), "cali{pod} is guarded");
    }
    ensure!(status.0["dropped"].as_object().is_some_and(serde_json::Map::is_empty), "{}", status.0["dropped"]);
    Ok(())
}

#[test]
fn replies_that_the_node_waits_for_are_never_charged() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = super::start(&lab, &["--budget", "cali*=drop:1/1,1/1", "--entry-limit", "cali*=drop:1"])?;
    let p0 = lab.host("p0");
    // What the pod itself asks is charged like its announcements: so it has nothing to ask.
    let gateway = Ipv4Addr::from(CALICO_GATEWAY);
    p0.namespace().ip(&format!("neigh replace {gateway} lladdr {} dev eth0 nud permanent", topology::CALICO_MAC))?;
    let announcements = vec![request(p0, p0.ip(), p0.ip()); 50];
    for number in 0..20 {
        super::send(p0, &announcements)?;
        // Without an entry, and with one that is to be confirmed.
        lab.node().ip(match number % 2 {
            0 => "neigh flush dev cali0 nud all",
            _ => "neigh change 10.244.235.132 dev cali0 lladdr 02:00:00:00:02:00 nud probe",
        })?;
        ensure!(lab.node().can_ping(p0.ip())?, "number {number}: the node reaches the pod");
    }
    // By the limit where the agent has not heard yet that the entry is gone.
    let refused = super::count(&agent, "cali0", "dropped", "learn_budget")?
        + super::count(&agent, "cali0", "dropped", "entry_limit")?;
    ensure!(refused > 900, "{refused} announcements were over the budget");
    Ok(())
}

#[test]
fn a_bridge_port_is_not_guarded() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    lab.node().sysctl("net.ipv4.conf.cali0.rp_filter", 0)?;
    let agent = super::start(&lab, ALL)?;
    let p0 = lab.host("p0");
    let spoofed = request(p0, [198, 18, 0, 1], CALICO_GATEWAY);
    p0.ask(&spoofed)?;
    assert_eq!(super::count(&agent, "cali0", "dropped", "sender_elsewhere")?, 1);
    lab.node().ip_each("link add br0 type bridge\n link set br0 up\n link set cali0 master br0")?;
    let passes = || {
        let before = super::count(&agent, "cali0", "dropped", "sender_elsewhere")?;
        p0.ask_within(&spoofed, Duration::from_millis(20))?;
        Ok(super::count(&agent, "cali0", "dropped", "sender_elsewhere")? == before)
    };
    wait_until(Duration::from_secs(5), passes, || "frames of a bridge's port pass".to_owned())
}

#[test]
fn reverse_arp_of_a_migrated_machine_reaches_the_node() -> Result<()> {
    needs_root!();
    const RARP: u16 = 0x8035;
    let lab = topology::calico(1)?;
    let agent = super::start(&lab, ALL)?;
    let p0 = lab.host("p0");
    // What QEMU sends for a machine that has moved (RFC 903): its own link-layer address twice, no IP address.
    let mut frame = arp_common::ArpFrame::request(p0.mac().bytes(), [0; 4], [0; 4]).to_bytes();
    frame[12..14].copy_from_slice(&RARP.to_be_bytes());
    frame[20..22].copy_from_slice(&[0, 3]);
    frame[32..38].copy_from_slice(&p0.mac().bytes());
    let listener = Wire::open_for(lab.node(), Some("cali0"), RARP)?;
    // More than any budget.
    let frames = vec![frame.to_vec(); 1_000];
    super::send(p0, &frames)?;
    let deadline = std::time::Instant::now() + Duration::from_millis(500);
    let mut arrived = 0;
    while let Some(received) = listener.receive(deadline)? {
        arrived += usize::from(received == frame);
        if arrived == frames.len() {
            break;
        }
    }
    ensure!(arrived >= 200, "{arrived} of them arrived, and the listener's queue holds at least 200");
    ensure!(agent.status()?.0["dropped"].as_object().is_some_and(serde_json::Map::is_empty), "some were dropped");
    Ok(())
}
