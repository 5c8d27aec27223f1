//! Ports, carriers, and devices beside the ports.

use crate::pair::ScriptStep;
use arp_common::Lladdr;

use crate::plan::Plan;

pub(super) fn port_down(plan: &mut Plan) {
    let port = plan.port();
    plan.ip_undone(format!("link set v{port} down"), format!("link set v{port} up"));
}

pub(super) fn port_flap(plan: &mut Plan) {
    let port = plan.port();
    plan.ip(format!("link set v{port} down"));
    plan.ip(format!("link set v{port} up"));
}

pub(super) fn port_noarp(plan: &mut Plan) {
    let port = plan.port();
    plan.ip_undone(format!("link set v{port} arp off"), format!("link set v{port} arp on"));
}

pub(super) fn port_mac(plan: &mut Plan) {
    let port = plan.port();
    let mac = Lladdr::new([0x02, 0, 0, 0, 0xaa, 0x40 + (plan.rng.byte() & 0x3f)]);
    let before = crate::pair::NODE_MAC(port);
    plan.ip_undone(format!("link set v{port} address {mac}"), format!("link set v{port} address {before}"));
    plan.macs[usize::from(port)] = mac;
}

pub(super) fn stacked(plan: &mut Plan) {
    let port = plan.port();
    if plan.rng.chance(50) {
        plan.ip_undone(
            format!("link add link v{port} name mv{port} address 02:00:00:00:bb:0{port} type macvlan mode bridge"),
            format!("link del mv{port}"),
        );
        // It stays down: up, it answers too, but later, from a queue of its own.
        return;
    }
    plan.ip_undone(
        "link add br0 address 02:00:00:00:bb:ff type bridge forward_delay 0 mcast_snooping 0",
        "link del br0",
    );
    crate::pair::stillness("br0").for_each(|step| plan.step(step, None));
    plan.ip("link set br0 up");
    plan.ip(format!("link set v{port} master br0"));
    plan.step(ScriptStep::Settle, None);
}

pub(super) fn carrier(plan: &mut Plan) {
    let port = plan.port();
    let undo = Some(ScriptStep::Peer(format!("link set p{port} up")));
    plan.step(ScriptStep::Peer(format!("link set p{port} down")), undo);
}

/// What goes with the carrier does not come back with it. In between the kernel gets the time to see that it is gone:
/// whether it would otherwise is a matter of luck.
pub(super) fn carrier_flap(plan: &mut Plan) {
    let port = plan.port();
    plan.step(ScriptStep::Peer(format!("link set p{port} down")), None);
    plan.step(ScriptStep::Settle, None);
    plan.step(ScriptStep::Peer(format!("link set p{port} up")), None);
}

/// What does not matter to ARP, but is told like what does.
pub(super) fn port_flags(plan: &mut Plan) {
    let port = plan.port();
    let flag = *plan.rng.pick(&["promisc", "allmulticast", "multicast"]);
    let (first, then) = if flag == "multicast" { ("off", "on") } else { ("on", "off") };
    plan.ip_undone(format!("link set v{port} {flag} {first}"), format!("link set v{port} {flag} {then}"));
}

/// Not below 237: the agent's own frames, with which it tests the reply path in driver mode, would not pass.
pub(super) fn port_mtu(plan: &mut Plan) {
    let (port, mtu) = (plan.port(), *plan.rng.pick(&[256, 576, 1400, 9000]));
    plan.ip_undone(format!("link set v{port} mtu {mtu}"), format!("link set v{port} mtu 1500"));
}

/// A device that nobody asks by, with routes, which go with it.
pub(super) fn device_added(plan: &mut Plan) {
    plan.ip_undone("link add x0 type veth peer name x1", "link del x0");
    crate::pair::stillness("x0").for_each(|step| plan.step(step, None));
    plan.ip("link set x0 up");
    if plan.rng.chance(80) {
        plan.ip("link set x1 up");
    }
    if plan.rng.chance(40) {
        let ip = plan.some_address();
        plan.address(ip, 24, "x0", "");
    }
    for _ in 0..plan.rng.between(1, 3) {
        let prefix = plan.some_prefix();
        plan.route_to(prefix, "", "dev x0");
    }
}

pub(super) fn device_removed(plan: &mut Plan) {
    plan.ip("link del x0");
}

/// The name goes with it; rules and commands that name it then mean another device, or none.
pub(super) fn device_renamed(plan: &mut Plan) {
    let (one, other) = *plan.rng.pick(&[("x0", "x9"), ("x9", "x0")]);
    plan.ip_undone(format!("link set {one} name {other}"), "link del x9");
}

/// The group is what rules may suppress.
pub(super) fn port_group(plan: &mut Plan) {
    let port = plan.port();
    plan.ip_undone(format!("link set v{port} group 5"), format!("link set v{port} group default"));
}

/// Too small for IPv4: the device loses its settings, and keeps its routes.
pub(super) fn device_without_ipv4(plan: &mut Plan) {
    plan.ip_undone("link add i0 type ifb", "link del i0");
    plan.ip("link set i0 up");
    for _ in 0..plan.rng.between(1, 2) {
        let prefix = plan.some_prefix();
        plan.route_to(prefix, "", "dev i0");
    }
    if plan.rng.chance(30) {
        let (prefix, port) = (plan.some_prefix(), plan.port());
        plan.route_to(prefix, "", &format!("nexthop dev i0 nexthop dev v{port}"));
    }
    plan.ip("link set i0 mtu 60");
    if plan.rng.chance(20) {
        plan.ip("link set i0 mtu 1500");
    }
}

/// Many changes at once.
pub(super) fn flush(plan: &mut Plan) {
    let (what, port) = (*plan.rng.pick(&["addr", "neigh", "route"]), plan.port());
    plan.ip(format!("{what} flush dev v{port}"));
}
