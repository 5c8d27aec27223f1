//! What a scenario looks like before anything odd is added to it.

use std::net::Ipv4Addr;

use arp_common::Lladdr;

use crate::plan::Plan;

const NOBODY: Lladdr = Lladdr::new([0x02, 0, 0, 0x99, 0, 9]);

type Shape = (&'static str, fn(&mut Plan));

/// One of the shapes, by how much the product is for them.
pub(crate) fn draw(plan: &mut Plan) {
    let shapes: [(usize, Shape); 4] = [
        (40, ("shape calico", calico)),
        (20, ("shape private vlan", private_vlan)),
        (15, ("shape matrix", matrix)),
        (25, ("shape wild", wild)),
    ];
    let (name, shape) = *plan.rng.weighted(&shapes);
    plan.feature(name);
    if plan.rng.chance(90) {
        plan.sysctl("ip_forward", 1, 0);
    }
    for port in 0..plan.ports {
        plan.ip(format!("link set v{port} up"));
    }
    shape(plan);
}

/// The last port is the uplink, with a default route.
fn uplink(plan: &mut Plan) -> u8 {
    let port = plan.ports - 1;
    plan.address(Ipv4Addr::new(10, 9, 0, 1), 24, &format!("v{port}"), "");
    plan.route("add", format!("default via 10.9.0.254 dev v{port}"));
    plan.prefixes.push((Ipv4Addr::new(0, 0, 0, 0), 0));
    for last in [254, 9] {
        let sender = plan.sender(port, Ipv4Addr::new(10, 9, 0, last));
        if plan.rng.chance(70) {
            plan.known(sender);
        }
    }
    plan.targets.extend([[169, 254, 1, 1], [8, 8, 8, 8], [10, 96, 0, 1]].map(Ipv4Addr::from));
    port
}

/// Pods behind unnumbered ports with a route each, as Calico sets them up.
fn calico(plan: &mut Plan) {
    let uplink = uplink(plan);
    plan.address(Ipv4Addr::new(10, 77, 0, 1), 32, "lo", "");
    let felix = plan.rng.chance(50);
    for port in 0..uplink {
        let dev = format!("v{port}");
        plan.conf(&dev, "proxy_arp", 1);
        if felix {
            plan.conf(&dev, "route_localnet", 1);
            plan.conf(&dev, "rp_filter", 1);
        }
        plan.conf(&dev, "forwarding", 1);
        for _ in 0..plan.rng.between(1, 3) {
            let ip = Ipv4Addr::new(10, 5, port, plan.rng.between(2, 60) as u8);
            let sender = plan.sender(port, ip);
            plan.route("add", format!("{ip}/32 dev {dev} scope link"));
            plan.prefixes.push((ip, 32));
            if plan.rng.chance(80) {
                plan.known(sender);
            }
        }
    }
    if plan.rng.chance(60) {
        plan.route("add", "blackhole 10.5.0.0/16".to_owned());
        plan.prefixes.push((Ipv4Addr::new(10, 5, 0, 0), 16));
    }
}

/// A port with a subnet whose members cannot talk to each other (RFC 3069).
fn private_vlan(plan: &mut Plan) {
    if plan.rng.chance(70) {
        uplink(plan);
    }
    for port in 0..plan.rng.between(1, plan.ports.into()) as u8 {
        let dev = format!("v{port}");
        let subnet = Ipv4Addr::new(192, 168, port, 0);
        plan.address(Ipv4Addr::new(192, 168, port, 1), 24, &dev, "brd +");
        plan.prefixes.push((subnet, 24));
        plan.conf(&dev, "proxy_arp_pvlan", 1);
        let proxy = i64::from(plan.rng.chance(40));
        plan.conf(&dev, "proxy_arp", proxy);
        for _ in 0..plan.rng.between(1, 3) {
            let ip = plan.rng.address_in(subnet, 24);
            let sender = plan.sender(port, ip);
            if plan.rng.chance(80) {
                plan.known(sender);
            }
        }
    }
}

/// The base of the rows (docs/kernel-arp/rows.md).
fn matrix(plan: &mut Plan) {
    uplink(plan);
    plan.address(Ipv4Addr::new(10, 77, 0, 1), 32, "lo", "");
    plan.conf("v0", "proxy_arp", 1);
    for last in [5, 6] {
        let ip = Ipv4Addr::new(10, 5, 0, last);
        plan.route("add", format!("{ip}/32 dev v0 scope link"));
        let sender = plan.sender(0, ip);
        if last == 5 {
            plan.known(sender);
        }
    }
}

/// Addresses, routes and settings as they come.
fn wild(plan: &mut Plan) {
    for port in 0..plan.ports {
        let dev = format!("v{port}");
        for _ in 0..plan.rng.below(3) {
            let (ip, len) = (plan.some_address(), *plan.rng.pick(&[32u8, 31, 30, 24, 24, 24, 16]));
            let more = *plan.rng.pick(&["", "brd +"]);
            plan.address(ip, len, &dev, more);
        }
        for key in ["proxy_arp", "proxy_arp_pvlan"] {
            let value = i64::from(plan.rng.chance(60));
            plan.conf(&dev, key, value);
        }
        for _ in 0..plan.rng.between(1, 3) {
            let ip = plan.some_address();
            let sender = plan.sender(port, ip);
            if plan.rng.chance(70) {
                plan.route("add", format!("{ip}/32 dev {dev}"));
            }
            match plan.rng.below(10) {
                0..7 => plan.known(sender),
                7 => plan.neighbour(port, ip, NOBODY, "stale"),
                _ => {}
            }
        }
    }
    for _ in 0..plan.rng.between(1, 6) {
        let (prefix, port) = (plan.some_prefix(), plan.port());
        plan.route_to(prefix, "", &format!("dev v{port}"));
    }
}
