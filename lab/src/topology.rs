//! Ready-made labs. Each sets every value that decides about an answer, so that two of them are alike to the byte.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::lab::{Lab, take_xdp};
use crate::namespace::Namespace;
use crate::slack::wait_until;
use arp_common::Lladdr;

/// Address of every pod's node end, as Calico sets it.
pub const CALICO_MAC: Lladdr = Lladdr::new([0xee; 6]);
/// Address of the node's end of a LAN, and of `v0` in the matrix.
pub const NODE_MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x01, 0]);
/// Address of the node's uplink.
pub const UPLINK_MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x09, 0x01]);
/// The next hop that Calico gives its pods; nobody has this address.
pub const CALICO_GATEWAY: [u8; 4] = [169, 254, 1, 1];
/// The node's address on the uplink.
pub const UPLINK_IP: [u8; 4] = [10, 9, 0, 1];
/// The node's address on the second uplink, `u1`, of [`matrix_with_uplinks`]: U1 of the matrix.
pub const SECOND_UPLINK_IP: [u8; 4] = [10, 8, 0, 1];
/// The router that the node's default route names: the host `external`.
pub const ROUTER_IP: [u8; 4] = [10, 9, 0, 254];
/// A host somewhere behind that router (in the lab, the router itself).
pub const FAR_HOST: [u8; 4] = [10, 20, 30, 40];
/// The node's own address in the matrix, on `lo`: L.
pub const LOCAL_TARGET: [u8; 4] = [10, 77, 0, 1];
/// An address that the node routes out of its uplink: X of the matrix. Nobody has it.
pub const ROUTED_TARGET: [u8; 4] = [10, 9, 0, 9];

/// An address that the node routes back to the pod's interface in the matrix: Y. Nobody has it.
pub const SAME_INTERFACE_TARGET: [u8; 4] = [10, 5, 0, 6];

/// A node with `pods` pods as Calico sets them up: `p0` is 10.244.235.132, the next ones follow; the node ends are
/// `cali0`, `cali1`, … without an address. The uplink is `eth0`, with [`FAR_HOST`] behind it.
pub fn calico(pods: u8) -> Result<Lab> {
    let mut lab = Lab::new()?;
    uplink(&mut lab, "eth0")?;
    for pod in 0..pods {
        add_calico_pod(&mut lab, pod)?;
    }
    Ok(lab)
}

/// Adds pod number `pod` to a Calico node.
pub fn add_calico_pod(lab: &mut Lab, pod: u8) -> Result<&Host> {
    let (name, node_end) = (format!("p{pod}"), format!("cali{pod}"));
    let ip = (u32::from_be_bytes([10, 244, 235, 132]) + u32::from(pod)).to_be_bytes();
    lab.attach(&name, Lladdr::new([0x02, 0, 0, 0, 0x02, pod]), &node_end, CALICO_MAC)?;
    let host = with_ip(lab, &name, ip)?;
    let (ip, gateway) = (Ipv4Addr::from(ip), Ipv4Addr::from(CALICO_GATEWAY));
    host.namespace().ip_each(&format!(
        "addr add {ip}/32 dev eth0
         route add {gateway} dev eth0 scope link
         route add default via {gateway} dev eth0"
    ))?;
    // What Felix writes for a workload's interface.
    for (key, value) in [("proxy_arp", 1), ("rp_filter", 1), ("route_localnet", 1), ("forwarding", 1)] {
        lab.node().sysctl(&format!("net.ipv4.conf.{node_end}.{key}"), value)?;
    }
    lab.node().sysctl(&format!("net.ipv4.neigh.{node_end}.proxy_delay"), 0)?;
    lab.node().ip(&format!("route add {ip}/32 dev {node_end} scope link"))?;
    Ok(lab.host(&name))
}

/// A node on a LAN: its `eth0` is 192.168.0.1/24 with `proxy_arp`, the host `client` there is 192.168.0.2; the
/// default route leaves by the uplink `u0`, with [`FAR_HOST`] behind it.
pub fn lan() -> Result<Lab> {
    let mut lab = Lab::new()?;
    uplink(&mut lab, "u0")?;
    lab.attach("client", Lladdr::new([0x02, 0, 0, 0, 0x01, 2]), "eth0", NODE_MAC)?;
    lab.node().ip("addr add 192.168.0.1/24 dev eth0")?;
    lab.node().sysctl("net.ipv4.conf.eth0.proxy_arp", 1)?;
    lab.node().sysctl("net.ipv4.neigh.eth0.proxy_delay", 0)?;
    let client = with_ip(&mut lab, "client", [192, 168, 0, 2])?;
    client.namespace().ip("addr add 192.168.0.2/24 dev eth0")?;
    client.namespace().ip("route add default via 192.168.0.1")?;
    Ok(lab)
}

/// A private VLAN (RFC 3069): the node's `wifi0`, 192.168.0.1/24, leads to a switch whose ports are isolated from each
/// other; the hosts `c2` and `c3` there are 192.168.0.2 and .3. Neither `proxy_arp` nor `proxy_arp_pvlan` is set.
/// The uplink is `u0`, with [`FAR_HOST`] behind it.
pub fn private_vlan() -> Result<Lab> {
    let mut lab = Lab::new()?;
    uplink(&mut lab, "u0")?;
    let switch = lab.namespace("switch")?;
    // No forwarding delay, no snooping: the switch carries frames as soon as it is up.
    switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")?;
    switch.ip("link set br0 up")?;
    lab.node().ip_each(&format!(
        "link add wifi0 address {NODE_MAC} type veth peer name node netns {}
         link set wifi0 up
         addr add 192.168.0.1/24 dev wifi0",
        switch.name(),
    ))?;
    switch.ip_each("link set node master br0\n link set node up")?;
    take_xdp(&switch, "node")?;
    lab.node().sysctl("net.ipv4.neigh.wifi0.proxy_delay", 0)?;
    for number in [2, 3] {
        let (name, ip) = (format!("c{number}"), [192, 168, 0, number]);
        let mac = Lladdr::new([0x02, 0, 0, 0, 0x01, number]);
        let namespace = lab.namespace(&name)?;
        switch.ip_each(&format!(
            "link add {name} type veth peer name eth0 address {mac} netns {}
             link set {name} master br0
             link set {name} type bridge_slave isolated on
             link set {name} up",
            namespace.name(),
        ))?;
        namespace.ip_each(&format!(
            "link set eth0 up
             addr add {}/24 dev eth0
             route add default via 192.168.0.1",
            Ipv4Addr::from(ip),
        ))?;
        lab.add_host(&name, namespace, mac, "wifi0")?;
        with_ip(&mut lab, &name, ip)?;
    }
    await_forwarding(&switch, 3)?;
    Ok(lab)
}

/// Waits until a switch forwards on that many ports: the kernel opens a port some time after its link is up.
fn await_forwarding(switch: &Namespace, ports: usize) -> Result<()> {
    let forward = || {
        let links = switch.ip_json("-details link show type bridge_slave")?;
        let states = links.as_array().into_iter().flatten().map(|link| &link["linkinfo"]["info_slave_data"]["state"]);
        Ok(states.filter(|&state| state == "forwarding").count() == ports)
    };
    wait_until(Duration::from_secs(3), forward, || format!("{ports} ports of the switch forward"))
}

/// The base of the exactness matrix: `v0` without an address leads to the pod `p0`, 10.5.0.5; `u0` is the uplink;
/// [`LOCAL_TARGET`] is on `lo`; `proxy_arp` is on for `v0`, and its neighbour entry for the pod is valid.
pub fn matrix() -> Result<Lab> {
    let mut lab = Lab::new()?;
    uplink(&mut lab, "u0")?;
    let mac = Lladdr::new([0x02, 0, 0, 0, 0x05, 5]);
    lab.attach("p0", mac, "v0", NODE_MAC)?;
    lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 1)?;
    lab.node().sysctl("net.ipv4.neigh.v0.proxy_delay", 0)?;
    lab.node().ip_each(&format!(
        "addr add {}/32 dev lo
         route add 10.5.0.5/32 dev v0 scope link
         route add {}/32 dev v0 scope link
         neigh add 10.5.0.5 lladdr {mac} dev v0 nud stale",
        Ipv4Addr::from(LOCAL_TARGET),
        Ipv4Addr::from(SAME_INTERFACE_TARGET),
    ))?;
    let pod = with_ip(&mut lab, "p0", [10, 5, 0, 5])?;
    pod.namespace().ip("addr add 10.5.0.5/32 dev eth0")?;
    Ok(lab)
}

/// The base of the matrix's rows about rules, tables and several next hops: [`matrix`], and
/// - the pod `p1`, 10.5.0.7, behind `w0`, whose neighbour entry is valid and whose `proxy_arp` is off;
/// - two more links to the host `external`: `u1`, 10.8.0.1/24, with a gateway 10.8.0.254, and `u2` without an address.
///
/// The gateways' neighbour entries are permanent, so that no request of the node's own is under way.
pub fn matrix_with_uplinks() -> Result<Lab> {
    let mut lab = matrix()?;
    let mac = Lladdr::new([0x02, 0, 0, 0, 0x05, 7]);
    lab.attach("p1", mac, "w0", Lladdr::new([0x02, 0, 0, 0, 0x01, 1]))?;
    with_ip(&mut lab, "p1", [10, 5, 0, 7])?.namespace().ip("addr add 10.5.0.7/32 dev eth0")?;
    let external = lab.host("external");
    for (name, peer) in [("u1", "eth1"), ("u2", "eth2")] {
        let peer_of = external.namespace();
        lab.node().ip(&format!("link add {name} type veth peer name {peer} netns {}", peer_of.name()))?;
        peer_of.ip(&format!("link set {peer} up"))?;
    }
    lab.node().sysctl("net.ipv4.neigh.w0.proxy_delay", 0)?;
    lab.node().ip_each(&format!(
        "link set u1 up
         link set u2 up
         addr add {}/24 dev u1
         route add 10.5.0.7/32 dev w0 scope link
         neigh add 10.5.0.7 lladdr {mac} dev w0 nud stale
         neigh add {} lladdr {} dev u0 nud permanent
         neigh add 10.8.0.254 lladdr 02:00:00:00:08:fe dev u1 nud permanent",
        Ipv4Addr::from(SECOND_UPLINK_IP),
        Ipv4Addr::from(ROUTER_IP),
        external.mac(),
    ))?;
    Ok(lab)
}

/// Turns forwarding on and adds the uplink: the node's interface `name` is 10.9.0.1/24, the default route names the
/// host `external` behind it.
fn uplink(lab: &mut Lab, name: &str) -> Result<()> {
    lab.node().sysctl("net.ipv4.ip_forward", 1)?;
    lab.attach("external", Lladdr::new([0x02, 0, 0, 0, 0x09, 0xfe]), name, UPLINK_MAC)?;
    let [node, router, far] = [UPLINK_IP, ROUTER_IP, FAR_HOST].map(Ipv4Addr::from);
    lab.node().ip_each(&format!(
        "addr add {node}/24 dev {name}
         route add default via {router} dev {name}"
    ))?;
    let external = with_ip(lab, "external", ROUTER_IP)?;
    external.namespace().ip_each(&format!(
        "addr add {router}/24 dev eth0
         addr add {far}/32 dev lo
         route add default via {node} dev eth0"
    ))
}

fn with_ip<'lab>(lab: &'lab mut Lab, name: &str, ip: [u8; 4]) -> Result<&'lab Host> {
    let host = lab.host_mut(name).with_context(|| format!("no host {name} in this lab"))?;
    host.set_ip(ip);
    Ok(host)
}
