//! What `Notifications` says while things change.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use arp_agent::{
    event::{Event, IfSet, LocalAndMain, Placement, Route},
    kernel::{Batch, Muted, Notifications, Reader, Reread},
};

use tokio::runtime::{Builder, Runtime};

use crate::{in_namespace, index, ip_batch, link, run, write_sysctl};

/// Runs `test` with notifications about a namespace with a veth, whose own notifications are taken already.
fn subscribed(test: impl FnOnce(&mut Notifications) + Send + 'static) {
    in_namespace(|| {
        ip_batch(
            "link add v0 type veth peer name p0\n link set v0 up\n link set p0 up\n\
             link add u0 type veth peer name w0\n link set u0 up\n link set w0 up\n\
             address add 10.9.0.1/24 dev u0\n",
        );
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut notifications = Notifications::subscribe().unwrap();
        settle(&mut notifications);
        test(&mut notifications);
    });
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits for the last echo of what was done: changes of carrier are notified up to a second later.
fn settle(notifications: &mut Notifications) {
    let begin = Instant::now();
    let mut quiet_since = begin;
    while quiet_since.elapsed() < Duration::from_millis(1500) {
        assert!(begin.elapsed() < Duration::from_secs(20), "always something new");
        if !notifications.drain().unwrap().is_empty() {
            quiet_since = Instant::now();
        }
        sleep(Duration::from_millis(20));
    }
}

/// What one command is notified as.
fn after(notifications: &mut Notifications, command: &str) -> Batch {
    notifications.drain().unwrap();
    run(command);
    notifications.drain().unwrap()
}

fn placed(batch: &Batch) -> Vec<(Option<u32>, Option<Placement>)> {
    batch
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Route(Route { oif, .. }, placement) => Some((*oif, Some(*placement))),
            Event::RouteGone(Route { oif, .. }) => Some((*oif, None)),
            _ => None,
        })
        .collect()
}

#[test]
fn routes_and_their_placement() {
    subscribed(|notifications| {
        let [v0, u0] = ["v0", "u0"].map(|name| Some(index(name)));
        let batch = after(notifications, "ip route add 10.1.0.0/16 dev v0");
        assert_eq!(placed(&batch), [(v0, Some(Placement::First))]);
        let batch = after(notifications, "ip route append 10.1.0.0/16 dev u0");
        assert_eq!(placed(&batch), [(u0, Some(Placement::Last))]);
        let batch = after(notifications, "ip route prepend 10.1.0.0/16 via 10.9.0.9");
        assert_eq!(placed(&batch), [(u0, Some(Placement::First))]);
        let batch = after(notifications, "ip route replace 10.1.0.0/16 dev u0 scope host");
        assert_eq!(placed(&batch), [(u0, Some(Placement::Replace))]);
        let batch = after(notifications, "ip route del 10.1.0.0/16 dev v0");
        assert_eq!(placed(&batch), [(v0, None)]);
        let batch = after(notifications, "ip route add 10.2.0.0/16 dev v0 table 100");
        assert_eq!(placed(&batch), [(v0, Some(Placement::First))], "a route of any table");
    });
}

#[test]
fn an_empty_batch_means_an_empty_queue() {
    subscribed(|notifications| {
        notifications.drain().unwrap();
        // More than one batch takes, and none of it of interest: IPv6's.
        let foreign: String = (0..5000)
            .map(|n| format!("neighbour add 2001:db8::{n:x} lladdr 02:00:00:00:00:09 dev v0 nud permanent\n"))
            .collect();
        ip_batch(&foreign);
        run("ip route add 10.1.0.0/16 dev v0");
        let first = notifications.drain().unwrap();
        assert!(first.events.is_empty() && first.more && !first.is_empty(), "{first:?}");
        let second = notifications.drain().unwrap();
        assert_eq!(placed(&second), [(Some(index("v0")), Some(Placement::First))]);
        assert!(!second.more);
    });
}

#[test]
fn addresses_rules_and_neighbours() {
    subscribed(|notifications| {
        let batch = after(notifications, "ip address add 10.30.0.1/24 dev v0");
        assert!(
            matches!(&batch.events[..], [Event::Address(a), Event::Route(..), ..]
            if a.local == Ipv4Addr::new(10, 30, 0, 1) && a.prefix_len == 24),
            "{batch:#?}"
        );
        let batch = after(notifications, "ip address del 10.30.0.1/24 dev v0");
        assert!(batch.events.iter().any(|e| matches!(e, Event::AddressGone(_))));
        assert!(batch.events.iter().any(|e| matches!(e, Event::RouteGone(_))));

        let split = [Event::LocalAndMain(Some(LocalAndMain::Split))];
        let batch = after(notifications, "ip rule add fwmark 1 lookup main priority 9");
        assert!(batch.events == split && batch.reread.rules, "{batch:#?}");
        let batch = after(notifications, "ip rule del priority 9");
        assert!(batch.events == split && batch.reread.rules, "{batch:#?}");

        let batch = after(notifications, "ip neighbour add 10.9.0.7 lladdr 02:00:00:00:00:07 dev u0");
        assert!(matches!(&batch.events[..], [Event::Neighbour(n)] if n.lladdr == Some([2, 0, 0, 0, 0, 7])));
        let batch = after(notifications, "ip neighbour del 10.9.0.7 dev u0");
        // First it becomes FAILED.
        let last = Event::NeighbourGone { ifindex: index("u0"), addr: Ipv4Addr::new(10, 9, 0, 7) };
        assert_eq!(batch.events.last(), Some(&last));
    });
}

#[test]
fn links_up_down_and_gone() {
    subscribed(|notifications| {
        let batch = after(notifications, "ip link set v0 down");
        assert_eq!(link(&batch.events, "v0").flags & 1, 0);
        let v0 = index("v0");
        // Its peer loses the carrier, now or later.
        assert!(batch.reread.told_links.contains(&v0) && !batch.reread.concerns_all(), "{:?}", batch.reread);
        let doubted = Event::RoutesDoubted { ifindex: v0, carrier: false };
        assert!(batch.events.contains(&doubted), "{:?}", batch.events);
        let batch = after(notifications, "ip link set v0 up");
        assert_eq!(link(&batch.events, "v0").flags & 1, 1);
        let batch = after(notifications, "ip link del v0");
        assert!(batch.events.contains(&Event::LinkGone(v0)));
        assert!(!batch.reread.concerns_all(), "{:?}", batch.reread);
    });
}

#[test]
fn a_bridge_port_is_not_taken_for_a_link() {
    subscribed(|notifications| {
        run("ip link add br0 type bridge");
        let u0 = index("u0");
        let batch = after(notifications, "ip link set u0 master br0");
        assert_eq!(link(&batch.events, "u0").master, Some(index("br0")));
        assert!(link(&batch.events, "u0").settings.is_some());
        let batch = after(notifications, "ip link set u0 nomaster");
        assert!(!batch.events.contains(&Event::LinkGone(u0)), "{batch:#?}");
        assert_eq!(link(&batch.events, "u0").master, None);
        // fdb entries share the group with neighbours.
        let batch = after(notifications, "bridge fdb add 02:00:00:00:00:77 dev u0");
        assert!(!batch.events.iter().any(|event| matches!(event, Event::Neighbour(_))), "{batch:#?}");
    });
}

#[test]
fn what_is_to_be_read_again() {
    subscribed(|notifications| {
        notifications.drain().unwrap();
        write_sysctl("conf/v0/proxy_arp", 1);
        let v0 = IfSet::These([index("v0")].into());
        assert_eq!(notifications.drain().unwrap().reread, Reread { links: v0, ..Reread::default() });
        for scope in ["all", "default"] {
            write_sysctl(&format!("conf/{scope}/proxy_arp"), 1);
            assert_eq!(notifications.drain().unwrap().reread.links, IfSet::All, "{scope}");
        }
        let cases = [
            ("ip nexthop add id 5 dev v0", Reread { routes: true, ..Reread::default() }),
            ("tc qdisc add dev v0 clsact", Reread { ingress_hooks: true, ..Reread::default() }),
            ("nft add table arp t", Reread { netfilter: true, ..Reread::default() }),
            ("tc qdisc add dev v0 root pfifo", Reread::default()),
            ("nft add table netdev t", Reread { ingress_hooks: true, chains: true, ..Reread::default() }),
            ("nft add table inet t", Reread::default()),
            (
                "nft add chain arp t c { type filter hook input priority 0 ; }",
                Reread { netfilter: true, ..Reread::default() },
            ),
            ("nft add rule arp t c drop", Reread { netfilter: true, ..Reread::default() }),
            ("nft delete table arp t", Reread { netfilter: true, ..Reread::default() }),
        ];
        for (command, expected) in cases {
            assert_eq!(after(notifications, command).reread, expected, "{command}");
        }
    });
}

#[test]
fn next_waits_for_either_socket() {
    in_namespace(|| {
        ip_batch("link add v0 type veth peer name p0\n");
        let runtime = runtime();
        runtime.block_on(async {
            let mut notifications = Notifications::subscribe().unwrap();
            assert!(next(&mut notifications).await.is_none());
            run("nft add table arp t");
            assert!(next(&mut notifications).await.unwrap().reread.netfilter);
            run("ip link set v0 up");
            let batch = next(&mut notifications).await.unwrap();
            assert_eq!(link(&batch.events, "v0").flags & 1, 1);
            // What `drain` has taken does not come again.
            run("ip link set v0 down");
            assert!(!notifications.drain().unwrap().is_empty());
            assert!(next(&mut notifications).await.is_none());
        });
    });
}

/// The next batch; `None` if there is none for a while.
async fn next(notifications: &mut Notifications) -> Option<Batch> {
    let batch = tokio::time::timeout(Duration::from_millis(200), notifications.next()).await;
    batch.ok().map(Result::unwrap)
}

#[test]
fn a_flood_comes_in_batches_and_whole() {
    in_namespace(|| {
        ip_batch("link add v0 type veth peer name p0\n link set v0 up\n link set p0 up\n");
        runtime().block_on(async {
            let mut notifications = Notifications::subscribe().unwrap();
            settle(&mut notifications);
            let routes: String =
                (0..10_000).map(|i| format!("route add 10.{}.{}.0/24 dev v0\n", 50 + i / 200, i % 200)).collect();
            ip_batch(&routes);
            let mut sizes = Vec::new();
            while let Some(batch) = next(&mut notifications).await {
                sizes.push(batch.events.len());
            }
            assert_eq!(sizes, [4096, 4096, 10_000 - 2 * 4096]);
        });
    });
}

#[test]
fn an_overrun_is_told_once_and_ends_with_the_next_dump() {
    in_namespace(|| {
        ip_batch("link add v0 type veth peer name p0\n link set v0 up\n link set p0 up\n");
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut notifications = Notifications::subscribe_with_buffer(4096).unwrap();
        let routes: String =
            (0..1000).map(|i| format!("route add 10.50.{}.{}/32 dev v0\n", i / 250, i % 250)).collect();
        ip_batch(&routes);
        let lost = notifications.drain().unwrap_err();
        assert!(lost.overrun, "{lost}");
        // What was queued before the loss must not come after it.
        assert!(notifications.drain().unwrap().is_empty());
        assert!(Reader::new().unwrap().routes().unwrap().len() >= 1000);
        let batch = after(&mut notifications, "ip route add 10.60.0.0/16 dev v0");
        assert_eq!(placed(&batch), [(Some(index("v0")), Some(Placement::First))]);
    });
}

#[test]
fn who_is_held_back_is_not_told_of_but_that_it_is_down_or_gone() {
    subscribed(|notifications| {
        let (v0, u0) = (index("v0"), index("u0"));
        let addr = Ipv4Addr::new(10, 9, 0, 7);
        notifications.mute(&Muted { interfaces: vec![v0], neighbours: vec![(u0, addr)] }).unwrap();
        let told = |notifications: &mut Notifications, command: &str| after(notifications, command).events.len();
        assert_eq!(told(notifications, "ip link set v0 mtu 1400"), 0);
        assert_ne!(told(notifications, "ip link set u0 mtu 1400"), 0);
        assert_eq!(told(notifications, "ip neighbour add 10.9.0.7 lladdr 02:00:00:00:00:07 dev u0"), 0);
        assert_ne!(told(notifications, "ip neighbour add 10.9.0.8 lladdr 02:00:00:00:00:08 dev u0"), 0);
        assert_eq!(told(notifications, "ip neighbour add 10.9.0.8 lladdr 02:00:00:00:00:08 dev v0"), 0);
        assert_ne!(told(notifications, "ip route add 10.3.0.0/16 dev v0"), 0);
        let down = after(notifications, "ip link set v0 down").events;
        assert!(down.contains(&Event::RoutesDoubted { ifindex: v0, carrier: false }), "{down:?}");
        notifications.mute(&Muted::default()).unwrap();
        assert_ne!(told(notifications, "ip link set v0 mtu 1500"), 0);
        notifications.mute(&Muted { interfaces: vec![v0], neighbours: Vec::new() }).unwrap();
        assert!(after(notifications, "ip link del v0").events.contains(&Event::LinkGone(v0)));
    });
}
