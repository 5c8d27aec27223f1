//! What `Reader` says about state that was made beforehand.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, num::NonZeroU32};

use arp_agent::{
    event::{Event, IfSet, LocalAndMain, Placement, Route, RouteKind, RoutingRule, RuleAction, Settings},
    kernel::{Reader, namespace_names},
    prefix::Prefix,
};
use nix::sched::{CloneFlags, unshare};

use crate::{in_namespace, index, ip_batch, link, run, write_sysctl};

/// Two ends of a veth, an address, forwarding on.
fn lab() {
    ip_batch(
        "link add v0 type veth peer name p0\n\
         link add u0 type veth peer name w0\n\
         link set v0 up\n link set p0 up\n link set u0 up\n link set w0 up\n\
         address add 10.9.0.1/24 dev u0\n",
    );
}

fn everything() -> Vec<Event> {
    Reader::new().unwrap().everything().unwrap()
}

fn routes() -> Vec<Route> {
    let mut routes = Reader::new().unwrap().routes().unwrap();
    // What addresses bring with them is not what these tests are about.
    routes.retain(|route| route.table != 255 || route.prefix.addr >> 24 == 10);
    for route in &mut routes {
        route.rest = 0;
    }
    routes
}

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix { addr: addr.parse::<Ipv4Addr>().unwrap().to_bits(), len: len.parse().unwrap() }
}

/// A route as `ip route add` makes it without further words.
fn unicast(to: &str, oif: &str) -> Route {
    Route {
        table: 254,
        prefix: prefix(to),
        tos: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        oif: Some(index(oif)),
        gateway: None,
        nexthop: None,
        hops: Box::default(),
        encap: false,
        rest: 0,
    }
}

#[test]
fn a_link_is_described() {
    in_namespace(|| {
        lab();
        run("ip link set v0 address 02:00:00:00:00:07");
        run("ip link property add dev v0 altname pod-veth altname second-name");
        run("ip link set p0 arp off");
        let events = everything();
        let v0 = link(&events, "v0");
        assert_eq!(v0.ifindex, index("v0"));
        assert_eq!(v0.altnames, ["pod-veth", "second-name"]);
        assert_eq!(v0.mac, Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(v0.hardware_type, 1);
        assert_eq!(v0.flags & 1, 1, "IFF_UP");
        assert!(v0.carrier);
        assert_eq!(v0.kind.as_deref(), Some("veth"));
        assert_eq!((v0.link, v0.link_netnsid), (Some(index("p0")), None));
        assert_eq!((v0.master, v0.xdp_program, v0.xdp_multiple), (None, None, false));
        assert_eq!(link(&events, "p0").flags & 0x80, 0x80, "IFF_NOARP");
        let lo = link(&events, "lo");
        assert_eq!((lo.hardware_type, lo.kind.as_deref(), lo.link), (772, None, None));
    });
}

/// In a mount namespace of its own, so that the name is seen by nobody else and goes with the thread.
#[test]
fn the_namespace_at_the_other_end_has_a_name() {
    in_namespace(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        run("mount --make-rprivate /");
        run("mount -t tmpfs tmpfs /run");
        assert_eq!(namespace_names().unwrap(), BTreeMap::new(), "no directory");
        run("ip netns add elsewhere");
        run("ip netns add pod-1");
        fs::write("/run/netns/leftover", "").unwrap();
        assert_eq!(namespace_names().unwrap(), BTreeMap::new(), "no identifiers");
        run("ip link add v0 type veth peer name p0 netns pod-1");
        let id = link(&everything(), "v0").link_netnsid.unwrap();
        let expected = BTreeMap::from([(id, "pod-1".to_owned())]);
        assert_eq!(namespace_names().unwrap(), expected);
    });
}

#[test]
fn carrier_and_master_are_described() {
    in_namespace(|| {
        lab();
        run("ip link set p0 down");
        run("ip link add br0 type bridge");
        run("ip link set u0 master br0");
        let events = everything();
        assert!(!link(&events, "v0").carrier);
        assert_eq!(link(&events, "u0").master, Some(index("br0")));
        assert_eq!(link(&events, "br0").kind.as_deref(), Some("bridge"));
    });
}

/// Each key set to a value of its own, one at a time, so that an exchanged index shows.
#[test]
fn each_setting_is_the_one_that_was_written() {
    type Field = fn(&Settings) -> i32;
    const KEYS: [(&str, Field); 11] = [
        ("forwarding", |s| s.forwarding),
        ("proxy_arp", |s| s.proxy_arp),
        ("proxy_arp_pvlan", |s| s.proxy_arp_pvlan),
        ("medium_id", |s| s.medium_id),
        ("arp_ignore", |s| s.arp_ignore),
        ("arp_filter", |s| s.arp_filter),
        ("rp_filter", |s| s.rp_filter),
        ("accept_local", |s| s.accept_local),
        ("route_localnet", |s| s.route_localnet),
        ("drop_gratuitous_arp", |s| s.drop_gratuitous_arp),
        ("ignore_routes_with_linkdown", |s| s.ignore_routes_with_linkdown),
    ];
    in_namespace(|| {
        lab();
        let mut reader = Reader::new().unwrap();
        for device in ["v0", "all"] {
            let values = |reader: &mut Reader| -> Vec<i32> {
                let events = reader.links(&IfSet::All).unwrap();
                let settings = if device == "all" {
                    events.iter().find_map(|e| match e {
                        Event::AllSettings(settings) => Some(*settings),
                        _ => None,
                    })
                } else {
                    link(&events, device).settings
                };
                KEYS.iter().map(|(_, field)| field(&settings.unwrap())).collect()
            };
            for (position, (key, _)) in KEYS.iter().enumerate() {
                let before = values(&mut reader);
                let path = format!("conf/{device}/{key}");
                let old: i32 =
                    fs::read_to_string(format!("/proc/sys/net/ipv4/{path}")).unwrap().trim().parse().unwrap();
                assert_eq!(before[position], old, "{path}");
                write_sysctl(&path, i32::from(old == 0));
                let after = values(&mut reader);
                for (at, (other, _)) in KEYS.iter().enumerate() {
                    assert_eq!(after[at] != before[at], at == position, "{other} after writing {path}");
                }
            }
        }
    });
}

#[test]
fn routes_of_every_type() {
    in_namespace(|| {
        lab();
        ip_batch(
            "route add 10.1.0.0/16 dev v0\n\
             route add 10.2.0.5/32 via 10.9.0.9 metric 7\n\
             route add 10.3.0.0/24 tos 0x10 dev v0\n\
             route add 0.0.0.0/0 via inet6 fe80::1 dev u0\n\
             route add unreachable 10.4.0.0/24\n\
             route add blackhole 10.5.0.0/24\n\
             route add prohibit 10.6.0.0/24\n\
             route add throw 10.7.0.0/24 table default\n\
             route add local 10.8.0.0/24 dev lo\n\
             route add broadcast 10.10.0.0/24 dev v0\n\
             route add multicast 10.11.0.0/24 dev v0\n\
             route add anycast 10.12.0.0/24 dev v0\n\
             route add 10.13.0.0/24 nexthop dev v0 nexthop via 10.9.0.9\n\
             route add 10.14.0.0/24 encap ip id 1 dst 10.9.0.9 dev u0\n\
             nexthop add id 5 via 10.9.0.9 dev u0\n\
             route add 10.15.0.0/24 nhid 5\n\
             route add 10.16.0.0/24 dev v0 table 100\n\
             route append 10.1.0.0/16 dev u0\n",
        );
        let gateway = Some("10.9.0.9".parse().unwrap());
        let kind = |to: &str, kind, oif| Route { kind, oif, ..unicast(to, "v0") };
        let v0 = Some(index("v0"));
        let mut expected = vec![
            unicast("10.1.0.0/16", "v0"),
            unicast("10.1.0.0/16", "u0"),
            Route { gateway, metric: 7, ..unicast("10.2.0.5/32", "u0") },
            Route { tos: 16, ..unicast("10.3.0.0/24", "v0") },
            Route { gateway: Some("fe80::1".parse().unwrap()), ..unicast("0.0.0.0/0", "u0") },
            kind("10.4.0.0/24", RouteKind::Unreachable, None),
            kind("10.5.0.0/24", RouteKind::Blackhole, None),
            kind("10.6.0.0/24", RouteKind::Prohibit, None),
            Route { table: 253, ..kind("10.7.0.0/24", RouteKind::Throw, None) },
            Route { table: 255, ..kind("10.8.0.0/24", RouteKind::Local, Some(index("lo"))) },
            Route { table: 100, ..unicast("10.16.0.0/24", "v0") },
            kind("10.10.0.0/24", RouteKind::Broadcast, v0),
            kind("10.11.0.0/24", RouteKind::Multicast, v0),
            kind("10.12.0.0/24", RouteKind::Anycast, v0),
            Route { hops: [index("v0"), index("u0")].into(), oif: None, ..unicast("10.13.0.0/24", "v0") },
            Route { encap: true, ..unicast("10.14.0.0/24", "u0") },
            Route { gateway, nexthop: NonZeroU32::new(5), ..unicast("10.15.0.0/24", "u0") },
            unicast("10.9.0.0/24", "u0"),
            Route { table: 255, ..kind("10.9.0.1/32", RouteKind::Local, Some(index("u0"))) },
            Route { table: 255, ..kind("10.9.0.255/32", RouteKind::Broadcast, Some(index("u0"))) },
        ];
        let mut routes = routes();
        let same: Vec<_> = routes.iter().filter(|r| r.prefix == prefix("10.1.0.0/16")).cloned().collect();
        assert_eq!(same, expected[..2], "order among equals");
        // `ip` adds broadcast and anycast routes to the local table.
        for route in &mut expected {
            if [prefix("10.10.0.0/24"), prefix("10.12.0.0/24")].contains(&route.prefix) {
                route.table = 255;
            }
        }
        routes.sort();
        expected.sort();
        assert_eq!(routes, expected);
    });
}

#[test]
fn tables_without_routes_are_empty_not_errors() {
    in_namespace(|| assert_eq!(routes(), []));
}

#[test]
fn addresses_rules_and_neighbours() {
    in_namespace(|| {
        lab();
        ip_batch(
            "address add 10.20.0.1 peer 10.20.0.2/31 dev v0\n\
             neighbour add 10.9.0.9 lladdr 02:00:00:00:00:09 dev u0 nud permanent\n\
             rule add from 10.0.0.0/8 lookup main priority 100\n\
             rule add lookup 77 priority 101\n",
        );
        let events = everything();
        let address = |event: &&Event| matches!(event, Event::Address(a) if a.ifindex == index("v0"));
        let Some(Event::Address(address)) = events.iter().find(address) else { panic!("{events:#?}") };
        assert_eq!((address.local.to_string(), address.peer.to_string()), ("10.20.0.1".into(), "10.20.0.2".into()));
        assert_eq!(address.prefix_len, 31);

        let rules: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Rules(rules) => Some(rules.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let lookup =
            |priority, table| RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() };
        let from = Some(Prefix::new([10, 0, 0, 0], 8));
        let second = RoutingRule { from, ..lookup(100, 254) };
        assert_eq!(rules, [lookup(0, 255), second, lookup(101, 77), lookup(32766, 254), lookup(32767, 253)]);
        assert!(events.contains(&Event::LocalAndMain(Some(LocalAndMain::Split))), "{events:#?}");

        let neighbour = |event: &&Event| matches!(event, Event::Neighbour(n) if n.addr == Ipv4Addr::new(10, 9, 0, 9));
        let Some(Event::Neighbour(entry)) = events.iter().find(neighbour) else { panic!("{events:#?}") };
        assert_eq!((entry.ifindex, entry.state), (index("u0"), 0x80));
        assert_eq!(entry.lladdr, Some([2, 0, 0, 0, 0, 9]));
    });
}

#[test]
fn everything_comes_in_order_of_dependence() {
    in_namespace(|| {
        lab();
        run("ip neighbour add 10.9.0.9 lladdr 02:00:00:00:00:09 dev u0");
        let mut kinds: Vec<_> = everything()
            .iter()
            .map(|event| match event {
                Event::Link(_) => "link",
                Event::AllSettings(_) => "all",
                Event::Address(_) => "address",
                Event::Rules(_) => "rules",
                Event::LocalAndMain(_) => "local and main",
                Event::Route(_, Placement::Last) => "route",
                Event::Neighbour(_) => "neighbour",
                Event::Proxies(_) | Event::ArpListeners(_) => "proxies",
                Event::ProxyDelays(_) => "delays",
                Event::ArpNetfilter(_) | Event::DroppedReplies(_) => "netfilter",
                Event::IngressHooks(_) | Event::UppersElsewhere(_) | Event::RootQdisc { .. } => "hooks",
                Event::XdpFeatures { .. } => "features",
                other => panic!("{other:?}"),
            })
            .collect();
        // Linux 6.3 has them.
        kinds.retain(|kind| *kind != "features");
        kinds.dedup();
        let expected = [
            "link",
            "delays",
            "all",
            "address",
            "rules",
            "local and main",
            "route",
            "neighbour",
            "proxies",
            "netfilter",
        ];
        assert_eq!(kinds[..expected.len()], expected);
        assert!(kinds[expected.len()..].iter().all(|kind| *kind == "hooks"), "{kinds:?}");
    });
}
