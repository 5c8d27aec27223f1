//! What changes without a notification.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use arp_agent::{
    arp_rules::ArpRules,
    event::{Event, IfSet, Link, Settings},
    kernel::Reader,
};

use crate::{in_namespace, index, ip_batch, link, run, write_sysctl};

/// A namespace with a veth in which nothing changes any more.
fn lab() -> Reader {
    ip_batch("link add v0 type veth peer name p0\n link set v0 up\n link set p0 up\n");
    let mut reader = Reader::new().unwrap();
    reader.everything().unwrap();
    settle(&mut reader);
    reader
}

/// Waits for the last echo of what was done: changes of carrier reach flags up to a second later.
fn settle(reader: &mut Reader) {
    let begin = Instant::now();
    let mut quiet_since = begin;
    while quiet_since.elapsed() < Duration::from_millis(1500) {
        assert!(begin.elapsed() < Duration::from_secs(20), "always something new");
        if !reader.unnotified_changes().unwrap().is_empty() {
            quiet_since = Instant::now();
        }
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_at_rest() {
    in_namespace(|| {
        let mut reader = lab();
        for _ in 0..20 {
            assert_eq!(reader.unnotified_changes().unwrap(), []);
        }
    });
}

#[test]
fn nothing_at_rest_with_a_bridge() {
    in_namespace(|| {
        let mut reader = lab();
        run("ip link add br0 type bridge");
        run("ip link set p0 master br0");
        run("ip link set br0 up");
        settle(&mut reader);
        for _ in 0..20 {
            sleep(Duration::from_millis(20));
            assert_eq!(reader.unnotified_changes().unwrap(), []);
        }
    });
}

#[test]
fn a_setting_of_a_link_and_of_all() {
    in_namespace(|| {
        let mut reader = lab();
        write_sysctl("conf/v0/proxy_arp_pvlan", 1);
        let events = reader.unnotified_changes().unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(link(&events, "v0").settings.unwrap().proxy_arp_pvlan, 1);

        write_sysctl("conf/all/arp_ignore", 2);
        let events = reader.unnotified_changes().unwrap();
        let [Event::AllSettings(Settings { arp_ignore: 2, .. })] = events[..] else { panic!("{events:#?}") };
        assert_eq!(reader.unnotified_changes().unwrap(), []);
    });
}

#[test]
fn links_come_and_go() {
    in_namespace(|| {
        let mut reader = lab();
        run("ip link add x0 type veth peer name y0");
        let events = reader.unnotified_changes().unwrap();
        let gone = link(&events, "x0").ifindex;
        run("ip link del x0");
        assert!(reader.unnotified_changes().unwrap().contains(&Event::LinkGone(gone)));
        run("ip link add x0 index 900 type veth peer name y0");
        reader.links(&IfSet::All).unwrap();
        run("ip link del x0");
        assert!(reader.links(&IfSet::All).unwrap().contains(&Event::LinkGone(900)));
    });
}

#[test]
fn the_settings_of_one_link_are_read_alone() {
    in_namespace(|| {
        // Among few, all are read.
        for other in 0..16 {
            run(&format!("ip link add other{other} type bridge"));
        }
        let mut reader = lab();
        let v0 = index("v0");
        let these = |ifindex| IfSet::These([ifindex].into());
        write_sysctl("conf/v0/proxy_arp_pvlan", 1);
        write_sysctl("conf/p0/proxy_arp_pvlan", 1);
        write_sysctl("neigh/v0/proxy_delay", 12);
        let events = reader.links(&these(v0)).unwrap();
        let [Event::ProxyDelay(delayed, Some(120)), Event::Link(read)] = &events[..] else { panic!("{events:#?}") };
        assert_eq!((*delayed, read.ifindex, read.settings.unwrap().proxy_arp_pvlan), (v0, v0, 1));
        // It is not said again, what was not asked for is. The delays are, even if they are as they were last read.
        write_sysctl("neigh/v0/proxy_delay", 80);
        let events = reader.unnotified_changes().unwrap();
        let [Event::Link(read), Event::ProxyDelays(delays)] = &events[..] else { panic!("{events:#?}") };
        assert_eq!(read.name, "p0");
        assert!(delays.contains(&(v0, 800)), "{delays:?}");
        assert_eq!(reader.links(&these(4711)).unwrap(), [], "there is no such interface");

        // All else is as a notification tells it, and the kernel is not asked.
        let told = Link { carrier_changes: 4711, settings: None, ..reader.link(v0).unwrap().clone() };
        reader.note(&told);
        let events = reader.links(&these(v0)).unwrap();
        let [_, Event::Link(read)] = &events[..] else { panic!("{events:#?}") };
        assert_eq!((read.carrier_changes, read.settings.unwrap().proxy_arp_pvlan), (4711, 1));
        // Two commands: before 6.2 an interface that is up cannot be renamed, and one command renames first.
        run("ip link set v0 down");
        run("ip link set v0 name renamed0");
        let [_, Event::Link(read)] = &reader.links(&these(v0)).unwrap()[..] else { panic!("not read") };
        assert_eq!(read.settings, None, "of its old name there are no settings");
    });
}

#[test]
fn what_is_neither_a_setting_nor_of_an_interface() {
    in_namespace(|| {
        let mut reader = lab();
        let v0 = index("v0");
        assert_eq!(reader.unnotified_changes_of_the_node().unwrap(), []);
        write_sysctl("conf/all/arp_ignore", 2);
        run("ip neighbour add proxy 10.1.2.3 dev v0");
        assert_eq!(reader.unnotified_changes_of_the_node().unwrap(), []);
        let proxies = vec![(v0, "10.1.2.3".parse().unwrap())];
        assert_eq!(reader.changed_proxies().unwrap(), [Event::Proxies(proxies)]);
        assert_eq!(reader.changed_proxies().unwrap(), []);
        let events = reader.unnotified_changes().unwrap();
        let [Event::AllSettings(Settings { arp_ignore: 2, .. })] = events[..] else { panic!("{events:#?}") };
    });
}

#[test]
fn proxies_and_proxy_delay() {
    in_namespace(|| {
        let mut reader = lab();
        let v0 = index("v0");
        run("ip neighbour add proxy 10.1.2.3 dev v0");
        let proxies = vec![(v0, "10.1.2.3".parse().unwrap())];
        assert_eq!(reader.unnotified_changes().unwrap(), [Event::Proxies(proxies)]);
        run("ip neighbour del proxy 10.1.2.3 dev v0");
        assert_eq!(reader.unnotified_changes().unwrap(), [Event::Proxies(vec![])]);

        let delay = |events: &[Event]| -> u64 {
            let delays = events.iter().find_map(|event| match event {
                Event::ProxyDelays(delays) => Some(delays),
                _ => None,
            });
            delays.expect("delays").iter().find(|(ifindex, _)| *ifindex == v0).unwrap().1
        };
        assert_eq!(delay(&reader.everything().unwrap()), 800, "the kernel's default, in ms");
        write_sysctl("neigh/v0/proxy_delay", 0);
        assert_eq!(delay(&reader.unnotified_changes().unwrap()), 0);
        write_sysctl("neigh/v0/proxy_delay", 12);
        assert_eq!(delay(&reader.unnotified_changes().unwrap()), 120);
        assert_eq!(reader.unnotified_changes().unwrap(), []);
    });
}

/// The interfaces that ARP rules concern, of those that the lab has.
fn concerned(events: &[Event]) -> Vec<&'static str> {
    let [Event::ArpNetfilter(rules)] = events else { panic!("{events:?}") };
    let link = |name: &str| Link { ifindex: index(name), name: name.to_owned(), ..Link::default() };
    ["p0", "v0"].into_iter().filter(|name| rules.concern(&link(name)).is_some()).collect()
}

#[test]
fn arp_chains_with_a_hook() {
    in_namespace(|| {
        let mut reader = lab();
        run("nft add table arp t");
        run("nft add chain arp t jumped_to");
        run("nft add set arp t names { type ifname ; elements = { v0 } ; }");
        run("nft add map arp t none { type ifname : verdict ; }");
        run("nft add table inet t");
        run("nft add chain inet t c { type filter hook input priority 0 ; }");
        assert_eq!(reader.unnotified_changes().unwrap(), []);
        run("nft add chain arp t c { type filter hook input priority 0 ; }");
        assert_eq!(concerned(&reader.unnotified_changes().unwrap()), [""; 0], "without a rule it does nothing");
        run("nft add rule arp t c iifname p0 drop");
        assert_eq!(concerned(&reader.unnotified_changes().unwrap()), ["p0"]);
        run("nft add rule arp t c iifname @names drop");
        assert_eq!(concerned(&reader.unnotified_changes().unwrap()), ["p0", "v0"]);
        run("nft delete element arp t names { v0 }");
        assert_eq!(concerned(&reader.unnotified_changes().unwrap()), ["p0"]);
        run("nft add rule arp t c oifname vmap @none");
        assert_eq!(concerned(&reader.unnotified_changes().unwrap()), ["p0"]);
        run("nft add rule arp t c counter");
        reader.unnotified_changes().unwrap();
        assert_eq!(reader.unnotified_changes().unwrap(), [], "what was counted is no change");
        run("nft add rule arp t c drop");
        assert_eq!(concerned(&reader.unnotified_changes().unwrap()), ["p0", "v0"]);
        run("nft delete table arp t");
        let nothing = [Event::ArpNetfilter(ArpRules::default()), Event::DroppedReplies(vec![])];
        assert_eq!(reader.netfilter().unwrap(), nothing);
    });
}

#[test]
fn hooks_of_tc_and_of_the_netdev_family() {
    in_namespace(|| {
        let mut reader = lab();
        let [v0, p0] = ["v0", "p0"].map(index);
        run("tc qdisc add dev v0 clsact");
        run("tc qdisc add dev p0 ingress");
        assert_eq!(reader.unnotified_changes().unwrap(), [], "filters are looked for where the program runs");
        run("tc qdisc del dev v0 clsact");
        run("tc qdisc del dev p0 ingress");
        // Nobody is told of filters in these.
        run("tc qdisc add dev v0 ingress_block 7 clsact");
        assert_eq!(reader.unnotified_changes().unwrap(), [Event::IngressHooks(vec![v0])]);
        run("tc qdisc del dev v0 clsact");
        run("tc qdisc add dev p0 egress_block 7 clsact");
        assert_eq!(reader.ingress_hooks().unwrap(), [Event::IngressHooks(vec![p0])]);
        run("tc qdisc del dev p0 clsact");
        run("nft add table netdev t");
        run("nft add chain netdev t c { type filter hook ingress device v0 priority 0 ; }");
        assert_eq!(reader.unnotified_changes().unwrap(), [Event::IngressHooks(vec![v0])]);
        run("nft add chain netdev t d { type filter hook ingress devices = { v0 , p0 } priority 1 ; }");
        let mut both = vec![v0, p0];
        both.sort_unstable();
        assert_eq!(reader.unnotified_changes().unwrap(), [Event::IngressHooks(both)]);
        run("nft delete table netdev t");
        assert_eq!(reader.unnotified_changes().unwrap(), [Event::IngressHooks(vec![])]);
    });
}
