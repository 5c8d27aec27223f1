//! 12.4: proxying. K87 (`medium_id`), K89, K90, K92 (static proxies) and K96 to K98 (`proxy_delay`) are in `changes`.

use std::time::Duration;

use anyhow::Result;
use tests::{Parity, needs_root, slack, stretched, topology};

use super::Ask::{For, From};
use super::Expect::{Answered, Fast, Kernel, Silent};
use super::{X, Y, check, row, when};

#[test]
fn k77_to_k81_proxy_arp() -> Result<()> {
    needs_root!();
    check(&[
        when("K77 off", &["v0.proxy_arp=0"], &[], For(X), Silent("proxy_arp_off")),
        when("K78 on for all", &["all.proxy_arp=1"], &[], For(X), Fast),
        when("K79 v0 does not forward", &["v0.forwarding=0"], &["v0.forwarding=1"], For(X), Silent("forwarding_off")),
        when("K80 no route", &["route del default"], &[], For([10, 20, 30, 40]), Silent("no_route")),
        row("K81 routed back, without pvlan", For(Y), Silent("pvlan_off")),
    ])
}

#[test]
fn k82_to_k85_pvlan() -> Result<()> {
    needs_root!();
    check(&[
        when("K82 with proxy_arp", &["v0.proxy_arp_pvlan=1"], &[], For(Y), Fast),
        when("K82 without", &["v0.proxy_arp=0"], &[], For(Y), Fast),
        row("K84 the sender's own address", From([10, 5, 0, 5], [10, 5, 0, 5]), Silent("announcement")),
        row("K85 routed elsewhere, without proxy_arp", For(X), Silent("proxy_arp_off")),
        when("K83 for all", &["v0.proxy_arp_pvlan=0", "all.proxy_arp_pvlan=1"], &[], For(Y), Fast),
    ])
}

#[test]
fn k86_and_k88_settings_that_do_not_count() -> Result<()> {
    needs_root!();
    check(&[
        when("K86 arp_ignore and arp_filter", &["v0.arp_ignore=8", "v0.arp_filter=1"], &[], For(X), Fast),
        when("K88 medium_id of all", &["all.medium_id=-1"], &["all.medium_id=0"], For(X), Fast),
    ])
}

#[test]
fn k89_to_k95_static_proxies() -> Result<()> {
    needs_root!();
    check(&[
        when("K89 without proxy_arp", &["v0.proxy_arp=0", "neigh add proxy 10.9.0.9 dev v0"], &[], For(X), Answered),
        when("K94 medium_id -1", &["v0.medium_id=-1"], &["v0.medium_id=0"], For(X), Answered),
        row("K95 an announcement", From(X, X), Kernel("announcement")),
        when("K91 routed back", &["neigh add proxy 10.5.0.6 dev v0"], &[], For(Y), Silent("pvlan_off")),
        when("K91 routed back, pvlan", &["v0.proxy_arp_pvlan=1"], &["v0.proxy_arp_pvlan=0"], For(Y), Fast),
        when("K90 forwarding off", &["v0.forwarding=0"], &["v0.forwarding=1"], For(X), Silent("forwarding_off")),
        when("K90 no route", &["route del default", "addr del 10.9.0.1/24 dev u0"], &[], For(X), Silent("no_route")),
    ])
}

#[test]
fn k99_the_proxy_queue_takes_65_of_a_burst() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    // In hundredths of a second: longer than the burst takes.
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", i64::from(10 * slack()))?;
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_qlen", 64)?;
    let before = parity.agent().status()?.passed("v0").get("proxy_delay").copied().unwrap_or(0);
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        let request = p0.who_has(X);
        let early = p0.exchange(&[&request[..]; 200])?.into_iter().filter(|frame| frame.get(21) == Some(&2)).count();
        let late = p0.collect(stretched(Duration::from_millis(250)))?.len();
        answers.push(early + late);
        Ok(())
    })?;
    let passed = parity.agent().status()?.passed("v0").get("proxy_delay").copied().unwrap_or(0) - before;
    assert_eq!(passed, 200);
    // A timer may fire within the burst, and make room for some more.
    assert!(answers.iter().all(|&count| (65..80).contains(&count)), "{answers:?}");
    Ok(())
}
