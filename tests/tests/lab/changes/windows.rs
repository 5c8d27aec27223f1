//! What the kernel does at once and tells afterwards, or not at all: under a stream of requests, how many are answered
//! in between that the kernel would not have answered; none once in sync.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::netlink::{KernelChange, Netlink, index};
use lab::stream::{Stream, until_fast};
use lab::topology::{self, LOCAL_TARGET, ROUTED_TARGET, SAME_INTERFACE_TARGET};
use lab::{Agent, AgentOptions, Lab, ioctl, needs_root, stretched};

/// How long a stream goes on after a change; what is not notified is read again every 50 ms in the lab.
const AFTER: Duration = Duration::from_millis(120);

/// A node with an agent, and one request after the other while its configuration changes.
struct Case {
    // Ends before its node goes.
    agent: Agent,
    lab: Lab,
}

impl Case {
    fn new() -> Result<Self> {
        let lab = topology::matrix()?;
        Ok(Case { agent: AgentOptions::new(&["v0"]).start(lab.node())?, lab })
    }

    /// Makes a change after which the kernel no longer answers `p0` for `tpa`, says how long it went on being answered,
    /// and wants silence once the agent is in sync.
    fn silenced_by(&mut self, what: &str, tpa: [u8; 4], change: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        let p0 = self.lab.host("p0");
        until_fast(&self.agent, p0, tpa)?;
        let stream = Stream::around(p0, tpa, AFTER, || change(&self.lab))?;
        ensure!(stream.earlier().all(|asked| asked.replies() == 1), "before {what}: {:?}", stream.asked);
        let (wrong, last) = stream.answered_later();
        println!(
            "{what}: {wrong} of {} requests answered after the command had come back, the last {} µs after it",
            stream.later().count(),
            last.as_micros()
        );
        self.agent.ask(r#""sync""#).context("sync")?;
        for _ in 0..20 {
            assert_eq!(p0.ask(&p0.who_has(tpa))?.len(), 0, "{what}: answered, though the agent is in sync");
        }
        let status = self.agent.status()?;
        assert!(status.ready(), "{what}: {}", status.0);
        Ok(())
    }

    fn ip_silences(&mut self, command: &str, tpa: [u8; 4]) -> Result<()> {
        self.silenced_by(command, tpa, |lab| lab.node().ip(command).map(drop))
    }

    /// Everything as before: the fast path answers again.
    fn again(&self, tpa: [u8; 4]) -> Result<()> {
        let p0 = self.lab.host("p0");
        // The kernel may have to learn the host once more.
        p0.ask(&p0.who_has(LOCAL_TARGET))?;
        until_fast(&self.agent, p0, tpa)
    }
}

#[test]
fn a_link_that_goes_down_takes_its_routes_along() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    for _ in 0..3 {
        case.ip_silences("link set u0 down", ROUTED_TARGET)?;
        case.lab.node().ip("link set u0 up")?;
        case.again(ROUTED_TARGET)?;
    }
    Ok(())
}

#[test]
fn a_lost_carrier_counts_where_linkdown_is_ignored() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    case.lab.node().sysctl("net.ipv4.conf.u0.ignore_routes_with_linkdown", 1)?;
    for _ in 0..3 {
        case.silenced_by("carrier lost", ROUTED_TARGET, |lab| lab.unplug("external"))?;
        case.lab.plug("external")?;
        case.again(ROUTED_TARGET)?;
    }
    Ok(())
}

#[test]
fn a_deleted_nexthop_object_takes_its_routes_along() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    case.lab.node().ip("route del default")?;
    let target = [10, 30, 0, 1];
    for _ in 0..3 {
        case.lab.node().ip_each("nexthop add id 7 via 10.9.0.254 dev u0\n route add 10.30.0.0/16 nhid 7")?;
        case.ip_silences("nexthop del id 7", target)?;
    }
    Ok(())
}

#[test]
fn routes_are_followed_when_they_are_removed_or_replaced() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    let target = [10, 30, 0, 1];
    for _ in 0..3 {
        case.lab.node().ip("route add 10.30.0.0/16 dev u0")?;
        case.ip_silences("route replace 10.30.0.0/16 dev v0", target)?;
        case.lab.node().ip("route replace 10.30.0.0/16 dev u0")?;
        case.ip_silences("route add unreachable 10.30.0.1", target)?;
        case.lab.node().ip_each("route del unreachable 10.30.0.1\n route del default")?;
        case.ip_silences("route del 10.30.0.0/16", target)?;
        case.lab.node().ip("route add default via 10.9.0.254")?;
    }
    Ok(())
}

#[test]
fn a_device_that_leaves_takes_its_routes_along() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    let elsewhere = case.lab.namespace("elsewhere")?;
    let target = [10, 30, 0, 1];
    for number in 0..3 {
        case.lab.node().ip_each(&format!(
            "link add w{number} type veth peer name x{number} netns {0}
             link set w{number} up
             route add 10.30.0.0/24 dev w{number}
             route replace 10.30.0.0/16 dev v0",
            elsewhere.name()
        ))?;
        case.ip_silences(&format!("link set w{number} netns {}", elsewhere.name()), target)?;
    }
    Ok(())
}

#[test]
fn a_removed_address_is_no_longer_local() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    let target = [10, 30, 0, 1];
    // With its last address an interface loses its routes as well, and the default route would answer.
    case.lab.node().ip("addr add 10.31.0.1/32 dev v0")?;
    for interface in ["lo", "u0", "v0"] {
        case.lab.node().ip_each(&format!(
            "addr add 10.30.0.1/32 dev {interface}
             route replace 10.30.0.0/16 dev v0"
        ))?;
        case.ip_silences(&format!("addr del 10.30.0.1/32 dev {interface}"), target)?;
    }
    Ok(())
}

/// With a neighbour entry that is gone or another's the kernel answers all the same, but learns: so it is the table
/// that tells whether the fast path has answered in its place.
#[test]
fn a_deleted_neighbour_is_learnt_again() -> Result<()> {
    needs_root!();
    let case = Case::new()?;
    let p0 = case.lab.host("p0");
    for _ in 0..5 {
        until_fast(&case.agent, p0, ROUTED_TARGET)?;
        let stream =
            Stream::around(p0, ROUTED_TARGET, AFTER, || case.lab.node().ip("neigh del 10.5.0.5 dev v0").map(drop))?;
        assert!(stream.asked.iter().all(|asked| asked.replies() == 1), "{:?}", stream.asked);
        let entry = case.lab.node().neighbour("v0", p0.ip())?;
        assert_eq!(entry.and_then(|entry| entry.lladdr), Some(p0.mac()), "{entry:?}");
    }
    Ok(())
}

#[test]
fn static_proxy_entries_are_followed_however_they_are_removed() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    case.lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    for _ in 0..3 {
        case.lab.node().ip("neigh add proxy 10.9.0.9 dev v0")?;
        case.ip_silences("neigh del proxy 10.9.0.9 dev v0", ROUTED_TARGET)?;
        case.lab.node().run(|| ioctl::publish(ROUTED_TARGET, "v0"))??;
        case.silenced_by("SIOCDARP of a published entry", ROUTED_TARGET, |lab| {
            lab.node().run(|| ioctl::unpublish(ROUTED_TARGET, [255; 4], "v0"))?
        })?;
    }
    Ok(())
}

/// The kernel tells nobody, and an agent with its default interval would look for it each 250 ms only.
#[test]
fn a_removed_static_proxy_is_hardly_answered_for() -> Result<()> {
    const ROUNDS: usize = 15;
    needs_root!();
    let lab = topology::matrix()?;
    let agent = AgentOptions::new(&["v0"]).default_reread().start(lab.node())?;
    lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    let p0 = lab.host("p0");
    let mut lasts = Vec::new();
    for _ in 0..ROUNDS {
        // By a call of this process: `ip` would take longer to end than the agent to follow.
        lab.node().run(|| ioctl::publish(ROUTED_TARGET, "v0"))??;
        until_fast(&agent, p0, ROUTED_TARGET)?;
        let remove = || lab.node().run(|| ioctl::unpublish(ROUTED_TARGET, [255; 4], "v0"))?;
        lasts.push(Stream::around(p0, ROUTED_TARGET, AFTER, remove)?.answered_later().1);
    }
    lasts.sort_unstable();
    println!(
        "the last answer after the removal, of {ROUNDS}: median {:?}, last {:?}",
        lasts[ROUNDS / 2],
        lasts[ROUNDS - 1]
    );
    assert!(lasts[ROUNDS / 2] <= stretched(Duration::from_millis(20)), "{lasts:?}");
    // What removes it may be kept from its CPU, too.
    assert!(lasts[ROUNDS - 1] <= stretched(Duration::from_millis(100)), "{lasts:?}");
    Ok(())
}

/// SIOCDARP with an empty netmask turns `proxy_arp` off, and tells nobody.
#[test]
fn proxy_arp_is_followed_when_siocdarp_turns_it_off() -> Result<()> {
    needs_root!();
    let mut case = Case::new()?;
    for _ in 0..3 {
        case.silenced_by("SIOCDARP of proxy_arp", ROUTED_TARGET, |lab| {
            lab.node().run(|| ioctl::unpublish([0; 4], [0; 4], "v0"))?
        })?;
        case.lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 1)?;
        case.again(ROUTED_TARGET)?;
    }
    Ok(())
}

#[test]
fn settings_that_rtm_setlink_writes_are_followed() -> Result<()> {
    needs_root!();
    // IPV4_DEVCONF_* (include/uapi/linux/ip.h).
    const PROXY_ARP: u16 = 3;
    const ARP_IGNORE: u16 = 19;
    const PROXY_ARP_PVLAN: u16 = 25;
    let mut case = Case::new()?;
    case.lab.node().sysctl("net.ipv4.conf.v0.proxy_arp_pvlan", 1)?;
    let v0 = case.lab.node().run(|| index("v0"))??;
    let mut netlink = Netlink::open(case.lab.node())?;
    for (what, key, on, off, tpa) in [
        ("proxy_arp", PROXY_ARP, 1, 0, ROUTED_TARGET),
        ("arp_ignore", ARP_IGNORE, 0, 8, LOCAL_TARGET),
        ("proxy_arp_pvlan", PROXY_ARP_PVLAN, 1, 0, SAME_INTERFACE_TARGET),
    ] {
        case.silenced_by(&format!("RTM_SETLINK of {what}"), tpa, |_| {
            netlink.change(KernelChange::set_link_setting(v0, key, off))
        })?;
        netlink.change(KernelChange::set_link_setting(v0, key, on))?;
        case.again(tpa)?;
    }
    Ok(())
}
