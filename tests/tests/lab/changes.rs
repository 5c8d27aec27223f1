//! Changes while the agent runs: followed within the bound, and from then on no answer that the kernel would not give.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::topology::{self, LOCAL_TARGET, NODE_MAC, ROUTED_TARGET, SAME_INTERFACE_TARGET};
use tests::{AgentOptions, Answerer, Mac, Parity, needs_root, reply_bytes};

/// A target that only the default route covers at first.
const ELSEWHERE: [u8; 4] = [10, 30, 0, 1];

fn matrix_with_agent() -> Result<Parity> {
    Parity::start(topology::matrix, &["v0"])
}

fn who_has(parity: &mut Parity, tpa: [u8; 4]) -> Result<Answerer> {
    Ok(parity.ask("p0", |p0| p0.who_has(tpa))?.by)
}

#[test]
fn each_flag_is_followed_there_and_back() -> Result<()> {
    needs_root!();
    let rows = [
        ("conf.v0.proxy_arp", 1, 0, ROUTED_TARGET, "proxy_arp_off"),
        ("conf.v0.forwarding", 1, 0, ROUTED_TARGET, "forwarding_off"),
        ("conf.v0.arp_ignore", 0, 8, LOCAL_TARGET, "arp_ignore"),
        ("conf.all.arp_ignore", 0, 1, LOCAL_TARGET, "arp_ignore"),
        ("conf.v0.medium_id", 0, -1, ROUTED_TARGET, "medium_id"),
        ("conf.v0.proxy_arp_pvlan", 1, 0, SAME_INTERFACE_TARGET, "pvlan_off"),
    ];
    let mut parity = matrix_with_agent()?;
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp_pvlan", 1)?;
    for (key, on, off, tpa, reason) in rows {
        let key = format!("net.ipv4.{key}");
        assert_eq!(who_has(&mut parity, tpa)?, Answerer::FastPath, "before {key}");
        parity.node_sysctl(&key, off)?;
        assert_eq!(who_has(&mut parity, tpa)?, Answerer::nobody(reason), "{key} = {off}");
        parity.node_sysctl(&key, on)?;
        assert_eq!(who_has(&mut parity, tpa)?, Answerer::FastPath, "{key} = {on}");
    }
    Ok(())
}

#[test]
fn the_medium_ids_of_both_interfaces_are_followed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    for (ingress, out, answered) in
        [(1, 1, false), (1, 2, true), (1, 0, true), (1, -1, false), (0, -1, true), (-1, 2, false)]
    {
        parity.both(|lab| lab.node().sysctl("net.ipv4.conf.v0.medium_id", ingress))?;
        parity.node_sysctl("net.ipv4.conf.u0.medium_id", out)?;
        let expected = if answered { Answerer::FastPath } else { Answerer::nobody("medium_id") };
        assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, expected, "v0 {ingress}, u0 {out}");
    }
    Ok(())
}

#[test]
fn a_proxy_delay_leaves_broadcast_requests_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 20)?;
    let before = parity.agent().status()?;
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        answers.push(p0.ask_within(&p0.who_has(ROUTED_TARGET), Duration::from_millis(400))?);
        Ok(())
    })?;
    assert_eq!(answers[0].len(), 1, "the kernel alone answers within 200 ms");
    assert_eq!(answers[1], answers[0]);
    let after = parity.agent().status()?;
    assert_eq!(after.answered("v0"), before.answered("v0"));
    assert_eq!(after.passed("v0").get("proxy_delay"), Some(&1), "{:?}", after.passed("v0"));

    let unicast = parity.ask("p0", |p0| {
        let mut frame = p0.who_has(ROUTED_TARGET);
        frame[..6].copy_from_slice(&NODE_MAC.0);
        frame
    })?;
    assert_eq!(unicast.by, Answerer::FastPath, "a unicast request is not delayed");
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath, "a local target is not delayed");
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 0)?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_route_is_followed_when_added_replaced_and_removed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let rows = [
        ("route add 10.30.0.0/16 dev v0", Answerer::nobody("pvlan_off")),
        ("route add 10.30.0.1/32 via 10.9.0.254", Answerer::FastPath),
        ("route replace unreachable 10.30.0.1/32", Answerer::nobody("unanswerable_route")),
        ("route replace 10.30.0.1/32 dev u0", Answerer::FastPath),
        ("route replace blackhole 10.30.0.1/32", Answerer::nobody("unanswerable_route")),
        ("route del 10.30.0.1/32", Answerer::nobody("pvlan_off")),
        ("route replace 10.30.0.0/16 dev u0", Answerer::FastPath),
        ("route del 10.30.0.0/16", Answerer::FastPath),
        ("route del default", Answerer::nobody("no_route")),
        ("route add default via 10.9.0.254", Answerer::FastPath),
    ];
    for (command, expected) in rows {
        parity.node_ip(command)?;
        assert_eq!(who_has(&mut parity, ELSEWHERE)?, expected, "after {command}");
    }
    Ok(())
}

#[test]
fn a_multipath_route_is_left_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    // Both legs give the same verdict, so that the kernel's choice cannot differ between the labs.
    parity.node_ip("route add 10.30.0.0/16 nexthop via 10.9.0.254 nexthop via 10.9.0.253")?;
    assert_eq!(who_has(&mut parity, ELSEWHERE)?, Answerer::kernel("opaque_route"));
    parity.node_ip("route del 10.30.0.0/16")?;
    assert_eq!(who_has(&mut parity, ELSEWHERE)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_nexthop_object_is_followed_when_replaced_and_deleted() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.both(|lab| lab.node().ip("nexthop add id 7 via 10.9.0.254 dev u0").map(drop))?;
    let rows = [
        ("route add 10.30.0.0/16 nhid 7", Answerer::FastPath),
        ("nexthop replace id 7 dev v0", Answerer::nobody("pvlan_off")),
        ("nexthop replace id 7 blackhole", Answerer::nobody("unanswerable_route")),
        ("nexthop replace id 7 dev u0", Answerer::FastPath),
        // Its routes go with it, unnoticed; the default route answers then.
        ("nexthop del id 7", Answerer::FastPath),
        ("route del default", Answerer::nobody("no_route")),
    ];
    for (command, expected) in rows {
        parity.node_ip(command)?;
        assert_eq!(who_has(&mut parity, ELSEWHERE)?, expected, "after {command}");
    }
    Ok(())
}

#[test]
fn a_rule_leaves_everything_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("rule add from 10.5.0.5 lookup 100")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::kernel("custom_rules"));
    parity.both(|lab| lab.node().ip("route add unreachable 10.9.0.9 table 100").map(drop))?;
    parity.agent().in_step()?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("custom_rules"));
    parity.node_ip("rule del from 10.5.0.5 lookup 100")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn the_interface_s_new_address_is_in_the_replies() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let new = Mac([0x02, 0, 0, 0, 0x77, 0x77]);
    parity.node_ip(&format!("link set v0 address {new}"))?;
    // The kernel forgets the interface's neighbours with its address.
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(outcome.by, Answerer::kernel("neighbour_unknown"));
    parity.agent().in_step()?;
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    let p0 = parity.fast().host("p0");
    assert_eq!(outcome.replies, [reply_bytes(new, p0.mac(), p0.ip(), ROUTED_TARGET)]);
    assert_eq!(outcome.by, Answerer::FastPath);

    let to_old = parity.ask("p0", |p0| {
        let mut frame = p0.who_has(ROUTED_TARGET);
        frame[..6].copy_from_slice(&NODE_MAC.0);
        frame
    })?;
    assert_eq!(to_old.by, Answerer::nobody("other_destination"));
    Ok(())
}

#[test]
fn an_address_is_followed_when_added_and_removed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let probe = |parity: &mut Parity| Ok::<_, anyhow::Error>(parity.ask("p0", |p0| p0.probe(ELSEWHERE))?.by);
    assert_eq!(probe(&mut parity)?, Answerer::nobody("probe_not_local"));
    for interface in ["lo", "u0", "v0"] {
        parity.node_ip(&format!("addr add 10.30.0.1/32 dev {interface}"))?;
        assert_eq!(probe(&mut parity)?, Answerer::FastPath, "on {interface}");
        parity.node_ip(&format!("addr del 10.30.0.1/32 dev {interface}"))?;
        assert_eq!(probe(&mut parity)?, Answerer::nobody("probe_not_local"), "no longer on {interface}");
    }
    Ok(())
}

#[test]
fn the_uplink_takes_its_routes_with_it_when_it_goes_down() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    parity.node_ip("link set u0 down")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("no_route"));
    assert_eq!(who_has(&mut parity, topology::UPLINK_IP)?, Answerer::FastPath, "its address stays the node's");
    parity.node_ip("link set u0 up")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath, "the connected route is back");
    assert_eq!(who_has(&mut parity, ELSEWHERE)?, Answerer::nobody("no_route"), "the default route is not");
    Ok(())
}

#[test]
fn an_uplink_without_carrier_counts_unless_such_routes_are_to_be_ignored() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.change(|lab| lab.unplug("external"))?;
    let without = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(without.replies.len(), 1, "K109; by {:?}", without.by);
    parity.node_sysctl("net.ipv4.conf.u0.ignore_routes_with_linkdown", 1)?;
    let ignored = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(ignored.replies.len(), 0, "K110; by {:?}", ignored.by);
    parity.change(|lab| lab.plug("external"))?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn the_pod_s_link_works_again_after_it_was_down() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("link set v0 down")?;
    parity.node_ip("link set v0 up")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::kernel("sender_route"), "its routes are gone");
    parity.node_ip("route add 10.5.0.5/32 dev v0 scope link")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath, "the kernel has learnt the pod meanwhile");
    Ok(())
}

#[test]
fn noarp_and_a_bridge_leave_everything_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("link set v0 arp off")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::nobody("interface_noarp"));
    parity.node_ip("link set v0 arp on")?;
    parity.learn("p0", LOCAL_TARGET)?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath);

    parity.both(|lab| lab.node().ip_each("link add br0 type bridge forward_delay 0\n link set br0 up"))?;
    parity.node_ip("link set v0 master br0")?;
    let before = parity.agent().status()?;
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        answers.push(p0.ask_within(&p0.who_has(LOCAL_TARGET), Duration::from_millis(100))?.len());
        Ok(())
    })?;
    assert_eq!(answers[0], answers[1]);
    let after = parity.agent().status()?;
    assert_eq!(after.answered("v0"), before.answered("v0"));
    assert_eq!(after.passed("v0").get("interface_has_master"), Some(&1), "{:?}", after.passed("v0"));

    parity.node_ip("link set v0 nomaster")?;
    parity.learn("p0", LOCAL_TARGET)?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_static_proxy_entry_is_followed_when_added_and_removed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"));
    parity.node_ip("neigh add proxy 10.9.0.9 dev v0")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath, "K89");
    parity.node_sysctl("net.ipv4.conf.v0.forwarding", 0)?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("forwarding_off"), "K90");
    parity.node_sysctl("net.ipv4.conf.v0.forwarding", 1)?;
    parity.node_ip("neigh del proxy 10.9.0.9 dev v0")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"));
    parity.node_ip("neigh add proxy 10.9.0.9 dev u0")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"), "K92");
    Ok(())
}

#[test]
fn a_neighbour_entry_is_followed_when_it_changes_and_goes() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let rows = [
        ("neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud stale", Answerer::kernel("neighbour_differs")),
        // The kernel has learnt the pod's own address again from that.
        ("neigh change 10.5.0.5 dev v0 nud stale", Answerer::FastPath),
        ("neigh del 10.5.0.5 dev v0", Answerer::kernel("neighbour_unknown")),
        ("neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud permanent", Answerer::FastPath),
        ("neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud noarp", Answerer::FastPath),
    ];
    for (command, expected) in rows {
        parity.node_ip(command)?;
        assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, expected, "after {command}");
    }
    Ok(())
}

/// How long the fast path goes on answering after `key` was written so that the kernel would no longer.
fn time_to_follow(parity: &mut Parity, key: &str, value: i64, tpa: [u8; 4]) -> Result<Duration> {
    assert_eq!(who_has(parity, tpa)?, Answerer::FastPath);
    let fast = parity.fast();
    let p0 = fast.host("p0");
    fast.node().sysctl(key, value)?;
    let written = Instant::now();
    loop {
        let passed = written.elapsed();
        if p0.ask(&p0.who_has(tpa))?.is_empty() {
            return Ok(passed);
        }
        ensure!(passed < Duration::from_secs(3), "{key} = {value} is not followed within 3 s");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn settings_are_followed_within_the_default_bound_whether_the_kernel_notifies_or_not() -> Result<()> {
    needs_root!();
    // The agent's own bound, and what two busy cores may add to it.
    let bound = Duration::from_millis(250 + 100);
    let mut parity = Parity::start_with(topology::matrix, AgentOptions::new(&["v0"]).default_reread())?;
    for (key, off, on, tpa) in [
        ("net.ipv4.conf.v0.proxy_arp", 0, 1, ROUTED_TARGET),
        ("net.ipv4.conf.v0.forwarding", 0, 1, ROUTED_TARGET),
        ("net.ipv4.conf.v0.arp_ignore", 8, 0, LOCAL_TARGET),
        ("net.ipv4.conf.all.arp_ignore", 8, 0, LOCAL_TARGET),
        ("net.ipv4.conf.v0.medium_id", -1, 0, ROUTED_TARGET),
    ] {
        let took = time_to_follow(&mut parity, key, off, tpa)?;
        println!("{key} = {off} was followed after {} ms", took.as_millis());
        assert!(took <= bound, "{key} = {off} was followed after {took:?} only");
        parity.node_sysctl(key, on)?;
    }
    Ok(())
}
