//! §12.4: proxying. K096 and K098 to K100, about the proxy queue, are in `delays`; K101 is in `flood`.

use anyhow::{Result, ensure};
use lab::netlink::{KernelChange, Netlink};
use lab::{Answerer, SideBySide, needs_root};

use super::Ask::{For, From, Unicast};
use super::Expect::{Fast, Kernel, Silent};
use super::{X, Y, ask, base, rows, when};

const POD: [u8; 4] = [10, 5, 0, 5];

rows! {
    k077_proxy_arp_off: [when(&["v0.proxy_arp=0"], For(X), Silent("proxy_arp_off"))];
    k078_proxy_arp_on_for_all: [when(&["v0.proxy_arp=0", "all.proxy_arp=1"], For(X), Fast)];
    k079_forwarding_off_on_the_interface: [when(&["v0.forwarding=0"], For(X), Silent("forwarding_off"))];
    k080_no_route_to_the_target: [when(&["route del default"], For([10, 20, 30, 40]), Silent("no_route"))];
    k081_a_target_behind_the_same_interface: [ask(For(Y), Silent("pvlan_off"))];
    k082_the_same_with_pvlan: [
        when(&["v0.proxy_arp_pvlan=1"], For(Y), Fast),
        when(&["v0.proxy_arp=0"], For(Y), Fast),
    ];
    k083_the_same_with_pvlan_for_all: [when(&["all.proxy_arp_pvlan=1"], For(Y), Fast)];
    k084_the_own_address_of_the_sender_with_pvlan: [when(&["v0.proxy_arp_pvlan=1"], From(POD, POD), Silent("announcement"))];
    k085_pvlan_alone_does_not_proxy_elsewhere: [
        when(&["v0.proxy_arp_pvlan=1", "v0.proxy_arp=0"], For(X), Silent("proxy_arp_off")),
    ];
    k086_arp_ignore_and_arp_filter_do_not_concern_proxying: [
        when(&["v0.arp_ignore=8", "v0.arp_filter=1"], For(X), Fast),
    ];
    k087_medium_ids: [
        when(&["u0.medium_id=7"], For(X), Fast),
        when(&["v0.medium_id=-1"], For(X), Silent("medium_id")),
        when(&["v0.medium_id=1", "u0.medium_id=1"], For(X), Silent("medium_id")),
        when(&["u0.medium_id=2"], For(X), Fast),
        when(&["u0.medium_id=0"], For(X), Fast),
        when(&["u0.medium_id=-1"], For(X), Silent("medium_id")),
    ];
    k088_the_medium_id_of_all_is_not_looked_at: [when(&["all.medium_id=-1"], For(X), Fast)];
    k089_a_static_proxy_without_proxy_arp: [
        when(&["v0.proxy_arp=0", "neigh add proxy 10.9.0.9 dev v0"], For(X), Fast),
    ];
    k090_a_static_proxy_needs_forwarding_and_a_route: [
        when(
            &["v0.proxy_arp=0", "neigh add proxy 10.9.0.9 dev v0", "v0.forwarding=0"],
            For(X),
            Silent("forwarding_off"),
        ),
        when(&["v0.forwarding=1", "route del default", "addr del 10.9.0.1/24 dev u0"], For(X), Silent("no_route")),
    ];
    k091_a_static_proxy_behind_the_same_interface: [
        when(&["neigh add proxy 10.5.0.6 dev v0"], For(Y), Silent("pvlan_off")),
        when(&["v0.proxy_arp_pvlan=1"], For(Y), Fast),
    ];
    k092_a_static_proxy_on_another_interface: [
        when(&["v0.proxy_arp=0", "neigh add proxy 10.9.0.9 dev u0"], For(X), Silent("proxy_arp_off")),
    ];
    k094_a_static_proxy_does_not_look_at_medium_id: [
        when(&["v0.medium_id=-1", "neigh add proxy 10.9.0.9 dev v0"], For(X), Fast),
    ];
    k095_an_announcement_of_a_static_proxy: [
        when(&["v0.proxy_arp=0", "neigh add proxy 10.9.0.9 dev v0"], From(X, X), Kernel("announcement")),
    ];
    k097_a_proxy_delay_does_not_concern_unicast: [
        when(&["/net/ipv4/neigh/v0/proxy_delay=80"], Unicast(X), Fast),
    ];
}

#[test]
fn k093_a_static_proxy_without_a_device() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    let asks = |parity: &mut SideBySide| Ok::<_, anyhow::Error>(parity.ask("p0", |p0| p0.who_has(X))?.by);
    assert_eq!(asks(&mut parity)?, Answerer::nobody("proxy_arp_off"));
    parity.change(|lab| Netlink::open(lab.node())?.change(KernelChange::add_proxy(X, 0)))?;
    let by = asks(&mut parity);
    // Before anything can fail: it would outlive the lab.
    parity.change(|lab| Netlink::open(lab.node())?.change(KernelChange::delete_proxy(X, 0)))?;
    let by = by?;
    ensure!(by == Answerer::FastPath, "{by:?}");
    assert_eq!(asks(&mut parity)?, Answerer::nobody("proxy_arp_off"), "it is gone");
    Ok(())
}
