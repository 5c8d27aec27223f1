//! Settings, static proxies and neighbour entries.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::topology::{self, LOCAL_TARGET, ROUTED_TARGET};
use lab::{AgentOptions, Answerer, SideBySide, needs_root, stretched};

use super::{matrix_with_agent, who_has};
use crate::matrix::Ask::For;
use crate::matrix::Expect::{Fast, Silent};
use crate::matrix::{L, X, Y, ask, rows, when};

rows! {
    each_flag_is_followed_there_and_back: [
        when(&["v0.proxy_arp_pvlan=1"], For(X), Fast),
        when(&["v0.proxy_arp=0"], For(X), Silent("proxy_arp_off")), when(&["v0.proxy_arp=1"], For(X), Fast),
        when(&["v0.forwarding=0"], For(X), Silent("forwarding_off")), when(&["v0.forwarding=1"], For(X), Fast),
        ask(For(L), Fast),
        when(&["v0.arp_ignore=8"], For(L), Silent("arp_ignore")), when(&["v0.arp_ignore=0"], For(L), Fast),
        when(&["all.arp_ignore=1"], For(L), Silent("arp_ignore")), when(&["all.arp_ignore=0"], For(L), Fast),
        when(&["v0.medium_id=-1"], For(X), Silent("medium_id")), when(&["v0.medium_id=0"], For(X), Fast),
        ask(For(Y), Fast),
        when(&["v0.proxy_arp_pvlan=0"], For(Y), Silent("pvlan_off")), when(&["v0.proxy_arp_pvlan=1"], For(Y), Fast),
    ];
    both_medium_ids_are_followed: [
        when(&["v0.medium_id=1", "u0.medium_id=1"], For(X), Silent("medium_id")),
        when(&["u0.medium_id=2"], For(X), Fast),
        when(&["u0.medium_id=0"], For(X), Fast),
        when(&["u0.medium_id=-1"], For(X), Silent("medium_id")),
        when(&["v0.medium_id=0"], For(X), Fast),
        when(&["v0.medium_id=-1", "u0.medium_id=2"], For(X), Silent("medium_id")),
    ];
    // K089, K090, K092.
    a_static_proxy_is_followed_coming_and_going: [
        when(&["v0.proxy_arp=0"], For(X), Silent("proxy_arp_off")),
        when(&["neigh add proxy 10.9.0.9 dev v0"], For(X), Fast),
        when(&["v0.forwarding=0"], For(X), Silent("forwarding_off")),
        when(&["v0.forwarding=1", "neigh del proxy 10.9.0.9 dev v0"], For(X), Silent("proxy_arp_off")),
        when(&["neigh add proxy 10.9.0.9 dev u0"], For(X), Silent("proxy_arp_off")),
    ];
}

#[test]
fn a_neighbour_entry_is_followed() -> Result<()> {
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
fn time_to_follow(parity: &mut SideBySide, key: &str, value: i64, tpa: [u8; 4]) -> Result<Duration> {
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
        ensure!(passed < stretched(Duration::from_secs(3)), "{key} = {value} is not followed within 3 s");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn settings_are_followed_within_the_default_bound() -> Result<()> {
    needs_root!();
    // The agent's own bound, and what two busy cores may add to it.
    let bound = Duration::from_millis(250) + stretched(Duration::from_millis(100));
    let mut parity = SideBySide::start_with(topology::matrix, AgentOptions::new(&["v0"]).default_reread())?;
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
