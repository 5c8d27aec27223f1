//! The agent's own interface is of another kind than a veth: a netkit device, a port of a macvlan or ipvlan parent, the end
//! of a tunnel. The kernel alone answers on all of them; on a tunnel the fast path leaves that to it.
//!
//! A test skips where the kernel cannot make its devices; `cargo xtask vm` has kernels that can.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use lab::netlink::{KernelChange, Netlink};
use lab::{Answerer, Lab, Namespace, SideBySide, stretched, topology};

use super::devices::needs_devices;
use super::{L, X};

/// The node's interface under test, and the host `t0` behind it.
pub(super) const DEVICE: &str = "dev0";
const NODE_MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x06, 1]);
const HOST_MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x06, 5]);
/// Of `wire`, where it is not the `eth0` itself.
const WIRE_MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x06, 0x15]);
const HOST_IP: [u8; 4] = [10, 6, 0, 5];
/// Nobody's: it is behind the host.
const BEHIND_HOST: [u8; 4] = [10, 6, 0, 6];

/// A name of the test, the kind it needs, and the commands that make [`DEVICE`] and the host's `eth0` over the two ends of a
/// veth: `w0` of the node, `wire` of the host.
macro_rules! over_a_veth {
    ($test:ident; $($name:ident: $kind:literal, $node:expr, $host:expr;)+) => {$(
        #[test]
        fn $name() -> Result<()> {
            needs_devices!($kind);
            $test(|| over_veths($node, $host))
        }
    )+};
}

/// The host's end is its `eth0` itself.
const PLAIN_HOST: &[&str] = &["link set wire down", "link set wire name eth0"];

over_a_veth! {
    answered_as_on_a_veth;
    a_macvlan_port: "macvlan",
        &["link set w0 arp off", "link add link w0 name dev0 address 02:00:00:00:06:07 type macvlan mode bridge"],
        PLAIN_HOST;
    a_macvlan_port_that_has_its_parent_alone: "macvlan",
        &["link set w0 arp off", "link add link w0 name dev0 type macvlan mode passthru"],
        PLAIN_HOST;
    an_ipvlan_port: "ipvlan", &["link set w0 arp off", "link add link w0 name dev0 type ipvlan mode l2"], PLAIN_HOST;
}

/// Addresses of the two ends of the veth that a tunnel goes by.
const UNDER: [&str; 2] = ["addr add 10.61.0.1/24 dev w0", "addr add 10.61.0.2/24 dev wire"];

over_a_veth! {
    passed_as_a_tunnel;
    // The addresses that it has learnt look like those of devices stacked on it from other namespaces.
    a_vxlan_tunnel: "vxlan",
        &[
            UNDER[0],
            "link add dev0 address 02:00:00:00:06:07 type vxlan id 5 remote 10.61.0.2 local 10.61.0.1 dev w0 dstport 4789",
        ],
        &[UNDER[1], "link add eth0 type vxlan id 5 remote 10.61.0.1 local 10.61.0.2 dev wire dstport 4789"];
    a_vxlan_tunnel_with_metadata: "vxlan",
        &[UNDER[0], "link add dev0 address 02:00:00:00:06:07 type vxlan external dstport 4789"],
        &[UNDER[1], "link add eth0 type vxlan id 5 remote 10.61.0.1 local 10.61.0.2 dev wire dstport 4789"];
    a_geneve_tunnel: "geneve",
        &[UNDER[0], "link add dev0 address 02:00:00:00:06:07 type geneve id 5 remote 10.61.0.2"],
        &[UNDER[1], "link add eth0 type geneve id 5 remote 10.61.0.1"];
    a_gre_tunnel: "gretap",
        &[UNDER[0], "link add dev0 address 02:00:00:00:06:07 type gretap local 10.61.0.1 remote 10.61.0.2"],
        &[UNDER[1], "link add eth0 type gretap local 10.61.0.2 remote 10.61.0.1"];
    a_gre_tunnel_with_metadata: "gretap",
        &[UNDER[0], "link add dev0 address 02:00:00:00:06:07 type gretap external"],
        &[UNDER[1], "link add eth0 type gretap local 10.61.0.2 remote 10.61.0.1 key 5"];
}

#[test]
fn a_netkit_device() -> Result<()> {
    needs_devices!("netkit");
    answered_as_on_a_veth(|| {
        let mut lab = topology::matrix()?;
        let namespace = lab.namespace("t0")?;
        let host = namespace.run(|| std::fs::File::open("/proc/thread-self/ns/net"))??;
        Netlink::open(lab.node())?.change(KernelChange::add_netkit(DEVICE, &host))?;
        lab.node().ip(&format!("link set {DEVICE} address {NODE_MAC}"))?;
        joined(lab, namespace)
    })
}

/// A team with a mode, for which it needs its daemon, or what this does in its place.
#[test]
fn a_team_with_one_active_port() -> Result<()> {
    needs_devices!("team");
    answered_as_on_a_veth(|| {
        let mut lab = topology::matrix()?;
        let namespace = lab.namespace("t0")?;
        let node = lab.node();
        node.ip_each(&format!(
            "link add w0 type veth peer name eth0 netns {}
             link add {DEVICE} address {NODE_MAC} type team",
            namespace.name(),
        ))?;
        lab::team::set_mode(node, DEVICE, "activebackup")?;
        node.ip(&format!("link set w0 master {DEVICE}"))?;
        lab::team::set_active_port(node, DEVICE, "w0")?;
        node.ip("link set w0 up")?;
        joined(lab, namespace)
    })
}

/// The matrix's base with `w0` and `wire`, and what these commands make of them.
fn over_veths(node: &[&str], host: &[&str]) -> Result<Lab> {
    let mut lab = topology::matrix()?;
    let namespace = lab.namespace("t0")?;
    lab.node().ip_each(&format!(
        "link add w0 address {NODE_MAC} type veth peer name wire address {WIRE_MAC} netns {}
         link set w0 up",
        namespace.name(),
    ))?;
    namespace.ip("link set wire up")?;
    lab.node().ip_each(&node.join("\n"))?;
    namespace.ip_each(&host.join("\n"))?;
    joined(lab, namespace)
}

/// The host `t0` in this namespace, whose `eth0` leads to [`DEVICE`].
pub(super) fn joined(mut lab: Lab, namespace: Namespace) -> Result<Lab> {
    namespace.ip_each(&format!("link set eth0 address {HOST_MAC}\n link set eth0 up"))?;
    let node = lab.node();
    node.ip(&format!("link set {DEVICE} up"))?;
    node.sysctl(&format!("net.ipv4.conf.{DEVICE}.proxy_arp"), 1)?;
    node.sysctl(&format!("net.ipv4.neigh.{DEVICE}.proxy_delay"), 0)?;
    let [host, behind] = [HOST_IP, BEHIND_HOST].map(Ipv4Addr::from);
    node.ip_each(&format!(
        "route add {host}/32 dev {DEVICE} scope link
         route add {behind}/32 dev {DEVICE} scope link
         neigh add {host} lladdr {HOST_MAC} dev {DEVICE} nud stale"
    ))?;
    lab.add_host("t0", namespace, HOST_MAC, DEVICE)?;
    Ok(lab)
}

pub(super) fn request(tpa: [u8; 4]) -> Vec<u8> {
    ArpFrame::request(HOST_MAC.bytes(), HOST_IP, tpa).to_bytes().to_vec()
}

pub(super) fn probe(tpa: [u8; 4]) -> Vec<u8> {
    ArpFrame::request(HOST_MAC.bytes(), [0; 4], tpa).to_bytes().to_vec()
}

/// The fast path answers what the kernel alone answers, with the same bytes, and is silent where that is; it follows a
/// setting and an address; after it has ended, the kernel answers again.
fn answered_as_on_a_veth(build: impl Fn() -> Result<Lab>) -> Result<()> {
    let mut parity = SideBySide::start(build, &[DEVICE])?;
    let mut answer = Vec::new();
    for frame in [request(X), probe(L), request(L)] {
        let outcome = parity.ask("t0", |_| frame.clone())?;
        ensure!(outcome.by == Answerer::FastPath && outcome.replies.len() == 1, "{outcome:02x?} to {frame:02x?}");
        answer = outcome.replies;
    }
    let silent = |parity: &mut SideBySide, frame: Vec<u8>, reason: &str| {
        let outcome = parity.ask("t0", |_| frame.clone())?;
        ensure!(outcome.by == Answerer::nobody(reason), "{outcome:02x?}, not {reason}");
        Ok(())
    };
    silent(&mut parity, request(BEHIND_HOST), "pvlan_off")?;
    parity.node_sysctl(&format!("net.ipv4.conf.{DEVICE}.proxy_arp"), 0)?;
    silent(&mut parity, request(X), "proxy_arp_off")?;
    let local = Ipv4Addr::from(L);
    parity.node_ip(&format!("addr del {local}/32 dev lo"))?;
    silent(&mut parity, request(L), "proxy_arp_off")?;
    parity.node_ip(&format!("addr add {local}/32 dev lo"))?;
    ensure!(parity.ask("t0", |_| request(L))?.by == Answerer::FastPath, "with the address again");

    parity.agent().stop()?;
    let after = parity.fast().host("t0").ask(&request(L))?;
    ensure!(after == answer, "without the agent {after:02x?}, with it {answer:02x?}");
    Ok(())
}

/// The fast path passes every frame because it came by a tunnel; the kernel's answers are as without it, and arrive.
fn passed_as_a_tunnel(build: impl Fn() -> Result<Lab>) -> Result<()> {
    let reason = "interface_tunnel";
    let mut parity = SideBySide::start(build, &[DEVICE])?;
    let frames = [request(L), request(X), probe(L), request(BEHIND_HOST)];
    let before = parity.agent().status()?;
    for (frame, answers) in frames.iter().zip([1, 1, 1, 0]) {
        // A tunnel with metadata carries no marker, which has none.
        let wait = stretched(Duration::from_millis(100));
        let alone = parity.alone().host("t0").ask_within(frame, wait)?;
        let fast = parity.fast().host("t0").ask_within(frame, wait)?;
        ensure!(alone == fast, "the kernel alone {alone:02x?}\nwith the fast path {fast:02x?}");
        ensure!(alone.len() == answers, "{} answers to {frame:02x?}", alone.len());
    }
    parity.compare_neighbours()?;
    let after = parity.agent().status()?;
    ensure!(after.answered(DEVICE) == 0, "the fast path answered: {}", after.0);
    let passed = |passed: std::collections::BTreeMap<String, u64>| passed.get(reason).copied().unwrap_or_default();
    let counted = passed(after.passed(DEVICE)) - passed(before.passed(DEVICE));
    ensure!(counted >= frames.len() as u64, "{counted} frames passed for {reason}: {}", after.0);
    let state = after.interface(DEVICE)["state"].as_str().context("no state")?;
    ensure!(state == "passing", "{state}");
    Ok(())
}
