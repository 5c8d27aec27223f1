//! What is added to a shape: one thing at a time, each with the name under which it is counted.

mod links;
mod netfilter;
mod nexthops;
mod products;
mod routes;
mod rules;
mod tables;
mod validation;
mod vrf;

use std::net::Ipv4Addr;

use crate::pair::ScriptStep;
use arp_common::Lladdr;

use crate::plan::Plan;

type Mutation = (&'static str, fn(&mut Plan));

const MENU: &[(usize, Mutation)] = &[
    (24, ("sysctl", sysctl)),
    (2, ("sysctl default", sysctl_default)),
    (3, ("proxy_delay", proxy_delay)),
    (1, ("proxy_qlen", proxy_qlen)),
    (3, ("locktime", locktime)),
    (6, ("address", address)),
    (4, ("address with a peer", address_with_peer)),
    (3, ("address on lo", address_on_lo)),
    (2, ("address deprecated", address_deprecated)),
    (2, ("address removed", address_removed)),
    (8, ("route by a port", routes::route_by_port)),
    (5, ("route by a gateway", routes::route_by_gateway)),
    (2, ("route by lo", routes::route_by_lo)),
    (6, ("route of another type", routes::route_of_type)),
    (3, ("route throw", routes::route_throw)),
    (4, ("route metrics", routes::route_metrics)),
    (3, ("route tos", routes::route_tos)),
    (4, ("route multipath", nexthops::route_multipath)),
    (4, ("nexthop object", nexthops::nexthop_object)),
    (2, ("nexthop group", nexthops::nexthop_group)),
    (2, ("nexthop replaced", nexthops::nexthop_replaced)),
    (4, ("route local", routes::route_local)),
    (3, ("route overlap of local and main", routes::route_overlap)),
    (3, ("route in table default", routes::route_in_default)),
    (2, ("route in the wrong table", routes::route_in_wrong_table)),
    (3, ("route appended or prepended", routes::route_beside)),
    (3, ("route replaced", routes::route_replaced)),
    (4, ("route removed", routes::route_removed)),
    (1, ("route of an address removed", routes::local_route_removed)),
    (1, ("route encap", routes::route_encap)),
    (2, ("route with a preferred source", routes::route_with_source)),
    (1, ("route with a realm", routes::route_with_realm)),
    (1, ("multipath hash policy", nexthops::hash_policy)),
    (1, ("multipath by neighbours", nexthops::use_neighbours)),
    (3, ("two uplinks", nexthops::two_uplinks)),
    (1, ("resilient group", nexthops::resilient_group)),
    (2, ("shared nexthop object", nexthops::shared_object)),
    (5, ("source validation", validation::settings)),
    (3, ("sender elsewhere", validation::sender_elsewhere)),
    (2, ("sender by the default route", validation::sender_by_the_default_route)),
    (10, ("neighbour", neighbour)),
    (3, ("neighbour removed", neighbour_removed)),
    (7, ("proxy", proxy)),
    (1, ("proxy removed", proxy_removed)),
    (2, ("proxy on any interface", proxy_on_any)),
    (2, ("port down", links::port_down)),
    (2, ("port flap", links::port_flap)),
    (2, ("carrier", links::carrier)),
    (2, ("carrier flap", links::carrier_flap)),
    (1, ("port noarp", links::port_noarp)),
    (2, ("port mac", links::port_mac)),
    (2, ("port flags", links::port_flags)),
    (1, ("port mtu", links::port_mtu)),
    (2, ("device added", links::device_added)),
    (1, ("device removed", links::device_removed)),
    (1, ("device without IPv4", links::device_without_ipv4)),
    (1, ("stacked device", links::stacked)),
    (1, ("flush", links::flush)),
    (1, ("netfilter", netfilter::chain)),
    (3, ("netfilter by interface", netfilter::rules)),
    (1, ("netfilter of Calico", netfilter::calico)),
    (6, ("sender", sender)),
    (1, ("agent restarted", agent_restarted)),
];

/// What has to do with routing rules.
const RULES: &[(usize, Mutation)] = &[
    (30, ("rule", rules::rule)),
    (4, ("rule set", products::rule_set)),
    (4, ("rule removed", rules::removed)),
    (3, ("rule removed and added", rules::again)),
    (2, ("first rule removed", rules::without_one_of_the_first)),
    (3, ("first rule moved", rules::first_moved)),
    (14, ("route in a table", tables::route)),
    (1, ("table flushed", tables::flushed)),
    (4, ("port group", links::port_group)),
    (2, ("device added", links::device_added)),
    (2, ("device renamed", links::device_renamed)),
    (4, ("source validation", validation::settings)),
    (4, ("sender elsewhere", validation::sender_elsewhere)),
    (1, ("agent restarted", agent_restarted)),
];

/// Where the kernel has VRFs.
const VRF: &[(usize, Mutation)] = &[(3, ("VRF", vrf::device)), (2, ("port of a VRF", vrf::port))];

/// Adds one thing.
pub(crate) fn draw(plan: &mut Plan) {
    pick(plan, MENU);
}

/// Adds one thing that has to do with routing rules; with VRFs, where there are any.
pub(crate) fn draw_rules(plan: &mut Plan, vrfs: bool) {
    let menu = if vrfs && plan.rng.chance(15) { VRF } else { RULES };
    pick(plan, menu);
}

fn pick(plan: &mut Plan, menu: &[(usize, Mutation)]) {
    let (name, mutation) = *plan.rng.weighted(menu);
    plan.feature(name);
    mutation(plan);
}

/// The settings, by how often they are drawn, and their values.
const SETTINGS: [(usize, (&str, &[i64])); 19] = [
    (8, ("proxy_arp", &[0, 1])),
    (8, ("proxy_arp_pvlan", &[0, 1])),
    (5, ("forwarding", &[0, 1])),
    (6, ("arp_ignore", &[-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
    (3, ("arp_filter", &[0, 1])),
    (5, ("rp_filter", &[0, 1, 2])),
    (5, ("medium_id", &[-1, 0, 1, 2])),
    (3, ("accept_local", &[0, 1])),
    (3, ("route_localnet", &[0, 1])),
    (3, ("arp_accept", &[0, 1, 2])),
    (2, ("drop_gratuitous_arp", &[0, 1])),
    (2, ("send_redirects", &[0, 1])),
    (3, ("ignore_routes_with_linkdown", &[0, 1])),
    (2, ("bc_forwarding", &[0, 1])),
    (2, ("src_valid_mark", &[0, 1])),
    (1, ("shared_media", &[0, 1])),
    (1, ("arp_announce", &[0, 1, 2])),
    (2, ("arp_evict_nocarrier", &[0, 1])),
    (1, ("arp_notify", &[0, 1])),
];

fn sysctl(plan: &mut Plan) {
    let (key, values) = *plan.rng.weighted(&SETTINGS);
    let value = *plan.rng.pick(values);
    let scope = match plan.rng.below(100) {
        0..25 => "all".to_owned(),
        25..30 => "lo".to_owned(),
        _ => format!("v{}", plan.port()),
    };
    plan.feature(key);
    plan.conf(&scope, key, value);
}

fn sysctl_default(plan: &mut Plan) {
    let (key, values) = *plan.rng.weighted(&SETTINGS);
    let value = *plan.rng.pick(values);
    plan.conf("default", key, value);
}

/// So long that the answer counts as silence.
fn proxy_delay(plan: &mut Plan) {
    let port = plan.port();
    plan.sysctl(&format!("neigh/v{port}/proxy_delay"), 8_000_000, 0);
}

/// A queue too short for a delayed answer makes the kernel drop it: silence either way.
fn proxy_qlen(plan: &mut Plan) {
    let (port, length) = (plan.port(), *plan.rng.pick(&[0, 1, 64, 1000]));
    plan.sysctl(&format!("neigh/v{port}/proxy_qlen"), length, 64);
}

/// With -1 every unanswered request may change an entry, by default none may.
fn locktime(plan: &mut Plan) {
    let port = plan.port();
    plan.sysctl(&format!("neigh/v{port}/locktime"), -1, 8_000_000);
}

fn address(plan: &mut Plan) {
    let (ip, port) = (plan.some_address(), plan.port());
    let len = *plan.rng.pick(&[32u8, 32, 31, 30, 25, 24, 24, 16, 8]);
    let more = *plan.rng.pick(&["", "brd +", "scope link", "scope host", "noprefixroute"]);
    plan.address(ip, len, &format!("v{port}"), more);
}

fn address_with_peer(plan: &mut Plan) {
    let (ip, peer, port) = (plan.some_address(), plan.some_address(), plan.port());
    let len = *plan.rng.pick(&[32u8, 32, 30, 24]);
    plan.ip_undone(
        format!("addr add {ip} peer {peer}/{len} dev v{port}"),
        format!("addr del {ip} peer {peer}/{len} dev v{port}"),
    );
    plan.own.push(ip);
    plan.prefixes.push((peer, len));
    plan.targets.push(peer);
    let sender = plan.sender(port, peer);
    plan.known(sender);
}

fn address_on_lo(plan: &mut Plan) {
    let ip = plan.some_address();
    let len = *plan.rng.pick(&[32u8, 32, 24]);
    let more = *plan.rng.pick(&["", "scope host", "scope link"]);
    plan.address(ip, len, "lo", more);
}

fn address_deprecated(plan: &mut Plan) {
    let (ip, port) = (plan.some_address(), plan.port());
    plan.address(ip, 24, &format!("v{port}"), "valid_lft 36000 preferred_lft 0");
}

fn address_removed(plan: &mut Plan) {
    if !plan.own.is_empty() {
        let ip = *plan.rng.pick(&plan.own);
        let (len, port) = (*plan.rng.pick(&[24, 32, 24]), plan.port());
        plan.ip(format!("addr del {ip}/{len} dev v{port}"));
    }
}

const STATES: [(usize, &str); 9] = [
    (5, "stale"),
    (3, "reachable"),
    (4, "permanent"),
    (2, "noarp"),
    (1, "delay"),
    (1, "probe"),
    (1, "none"),
    (2, "incomplete"),
    (2, "failed"),
];

fn neighbour(plan: &mut Plan) {
    let state = *plan.rng.weighted(&STATES);
    plan.feature(match state {
        "none" | "incomplete" | "failed" => "neighbour invalid",
        "permanent" | "noarp" => "neighbour fixed",
        _ => "neighbour valid",
    });
    let known = !plan.senders.is_empty() && plan.rng.chance(85);
    let (mut port, ip, mut mac) = match known {
        true => {
            let sender = *plan.rng.pick(&plan.senders);
            (sender.port, sender.ip, sender.mac)
        }
        false => (plan.port(), plan.some_address(), Lladdr::new([2, 0, 0, 0x99, 0, 1])),
    };
    if plan.rng.chance(15) {
        mac = Lladdr::new([2, 0, 0, 0x99, 0, plan.rng.byte()]);
    }
    if plan.rng.chance(10) {
        port = plan.port();
    }
    if plan.rng.chance(8) && !matches!(state, "none" | "incomplete" | "failed") {
        // As a routing daemon installs it.
        plan.ip(format!("neigh replace {ip} lladdr {mac} dev v{port} nud {state} extern_learn"));
        return;
    }
    plan.neighbour(port, ip, mac, state);
}

fn neighbour_removed(plan: &mut Plan) {
    if !plan.senders.is_empty() {
        let sender = *plan.rng.pick(&plan.senders);
        plan.ip(format!("neigh del {} dev v{}", sender.ip, sender.port));
    }
}

fn proxy(plan: &mut Plan) {
    let (ip, port) = (plan.some_address(), plan.port());
    plan.ip_undone(format!("neigh add proxy {ip} dev v{port}"), format!("neigh del proxy {ip} dev v{port}"));
    plan.targets.push(ip);
}

fn proxy_removed(plan: &mut Plan) {
    let (port, sender) = (plan.port(), plan.some_address());
    plan.ip(format!("neigh del proxy {sender} dev v{port}"));
}

/// An entry for all interfaces (K093), which `ip` does not make.
fn proxy_on_any(plan: &mut Plan) {
    let ip = plan.some_address();
    let [add, undo] = [true, false].map(|add| ScriptStep::AnyProxy { add, ip });
    plan.step(add, Some(undo));
    plan.targets.push(ip);
}

fn sender(plan: &mut Plan) {
    let (port, ip) = (plan.port(), plan.some_address());
    let sender = plan.sender(port, ip);
    if plan.rng.chance(60) {
        plan.route("add", format!("{ip}/32 dev v{port}"));
    }
    if plan.rng.chance(60) {
        plan.known(sender);
    }
}

/// The new one finds by itself what the other one was told.
fn agent_restarted(plan: &mut Plan) {
    plan.step(ScriptStep::Restart, None);
}

/// An address for which nothing is configured.
pub(crate) const UNROUTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
