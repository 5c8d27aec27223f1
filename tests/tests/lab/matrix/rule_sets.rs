//! §12.12: the rule sets of products. Two pods that the node knows ask for sixteen targets each. The fast path gives every
//! answer that the kernel gives for certain, and no other.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use lab::SideBySide;

use super::multipath::SEED;
use super::{from_many_addresses, run_all, with_uplinks};

/// Own addresses; pods, and an address among theirs that none has; hosts by the uplinks; far ones, of which the rule
/// sets route some elsewhere.
const TARGETS: [[u8; 4]; 16] = [
    [10, 77, 0, 1],
    [10, 9, 0, 1],
    [10, 8, 0, 1],
    [10, 5, 0, 6],
    [10, 5, 0, 7],
    [10, 5, 0, 5],
    [10, 5, 0, 99],
    [10, 9, 0, 9],
    [10, 8, 0, 9],
    [10, 20, 0, 1],
    [169, 254, 1, 1],
    [10, 244, 7, 7],
    [100, 64, 0, 3],
    [203, 0, 113, 5],
    [8, 8, 8, 8],
    [192, 168, 99, 1],
];
/// Each is asked for from so many link-layer addresses: where a hash decides, the kernel does not answer all.
const ADDRESSES: u8 = 6;
/// The pods know the node, and the node them.
const KNOWN: [&str; 3] = [
    "w0.proxy_arp=1",
    "neigh replace 10.5.0.5 lladdr 02:00:00:00:05:05 dev v0 nud permanent",
    "neigh replace 10.5.0.7 lladdr 02:00:00:00:05:07 dev w0 nud permanent",
];

/// What one pod's request for one target came to.
fn ask(parity: &mut SideBySide, pod: &str, target: [u8; 4]) -> Result<bool> {
    let (replied, counted) = parity.ask_all(pod, |pod| from_many_addresses(&pod.who_has(target), ADDRESSES))?;
    let certain = replied == usize::from(ADDRESSES);
    let own = parity.fast().host(pod).ip() == target;
    // From the own address it is no request but an announcement, and the kernel may learn from it.
    let fast = if certain && !own { u64::from(ADDRESSES) } else { 0 };
    ensure!(
        counted.answered == fast,
        "{pod} asks for {}: the kernel answers {replied} of {ADDRESSES}, the fast path {counted:?}",
        Ipv4Addr::from(target),
    );
    Ok(certain)
}

/// With that rule set the kernel answers so many of the 32 requests; the fast path all of them.
fn check(answered: usize, rules: &[&str]) -> Result<()> {
    let mut parity = with_uplinks()?;
    parity.change(|lab| {
        run_all(lab, rules)?;
        run_all(lab, &KNOWN)
    })?;
    check_all(&mut parity, answered)
}

fn check_all(parity: &mut SideBySide, answered: usize) -> Result<()> {
    let (mut certain, mut wrong) = (0, Vec::new());
    for pod in ["p0", "p1"] {
        for target in TARGETS {
            match ask(parity, pod, target) {
                Ok(answered) => certain += usize::from(answered),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of 32 requests\n{}", wrong.len(), wrong.join("\n"));
    ensure!(certain == answered, "the kernel answers {certain} of 32 requests, not {answered}");
    Ok(())
}

macro_rules! rule_sets {
    ($($name:ident: $answered:literal, [$($step:expr),* $(,)?];)+) => {$(
        #[test]
        fn $name() -> Result<()> {
            lab::needs_root!();
            check($answered, &[$($step),*])
        }
    )+};
}

rule_sets! {
    k320_the_default_rules: 29, [];
    k321_calico_with_wireguard: 29, [
        "route add throw 10.5.0.0/24 table 1",
        "route add 10.244.0.0/16 dev u2 table 1",
        "route add 10.244.0.0/16 via 10.9.0.254",
        "rule add prio 99 not fwmark 0x100000/0x100000 lookup 1",
    ];
    k322_calico_with_wireguard_strict: 29, [
        "route add throw 10.5.0.0/24 table 1",
        "route add 10.244.0.0/16 dev u2 table 1",
        "route add 10.244.0.0/16 via 10.9.0.254",
        "rule add prio 99 not fwmark 0x100000/0x100000 lookup 1",
        "v0.rp_filter=1",
        "w0.rp_filter=1",
    ];
    k323_aws_vpc_cni_on_the_second_card: 30, [
        "route add default via 10.8.0.254 dev u1 table 2",
        "route add 10.8.0.254 dev u1 table 2",
        "rule add prio 512 to 10.5.0.5 lookup main",
        "rule add prio 512 to 10.5.0.7 lookup main",
        "rule add prio 1024 fwmark 0x80/0x80 lookup main",
        "rule add prio 1536 from 10.5.0.5 lookup 2",
        "v0.rp_filter=1",
    ];
    k324_aws_vpc_cni_with_its_older_rules: 30, [
        "route add default via 10.8.0.254 dev u1 table 2",
        "rule add prio 512 to 10.5.0.5 lookup main",
        "rule add prio 512 to 10.5.0.7 lookup main",
        "rule add prio 1025 not to 10.0.0.0/8 lookup main",
        "rule add prio 1536 from 10.5.0.5 to 10.0.0.0/8 lookup 2",
        "v0.rp_filter=1",
    ];
    k325_cilium_with_local_at_100: 29, [
        "route add local default dev lo table 2004",
        "route add default dev u2 table 2005",
        "rule add prio 9 fwmark 0x200/0xf00 lookup 2004",
        "rule add prio 10 fwmark 0xa00/0xf00 lookup 2005",
        "rule add prio 100 lookup local",
        "rule del prio 0",
    ];
    k326_kube_router: 29, [
        "route add 10.244.0.0/16 dev u2 table 77",
        "route add local default dev lo table 78",
        "route add 203.0.113.0/28 dev u2 table 79",
        "rule add prio 32763 from 10.5.0.0/24 lookup 77",
        "rule add prio 32764 fwmark 0x1000 lookup 78",
        "rule add prio 32765 lookup 79",
        "v0.rp_filter=1",
    ];
    k327_tailscale: 29, [
        "route add 100.64.0.0/16 dev u2 table 52",
        "rule add prio 5210 fwmark 0x80000/0xff0000 lookup main",
        "rule add prio 5230 fwmark 0x80000/0xff0000 lookup default",
        "rule add prio 5250 fwmark 0x80000/0xff0000 unreachable",
        "rule add prio 5270 lookup 52",
    ];
    k328_tailscale_with_an_exit_node: 32, [
        "route add default dev u2 table 52",
        "rule add prio 5210 fwmark 0x80000/0xff0000 lookup main",
        "rule add prio 5250 fwmark 0x80000/0xff0000 unreachable",
        "rule add prio 5270 lookup 52",
    ];
    k329_tailscale_with_an_exit_node_and_the_local_network: 29, [
        "route add default dev u2 table 52",
        "route add throw 10.5.0.0/24 table 52",
        "route add throw 10.9.0.0/24 table 52",
        "rule add prio 5210 fwmark 0x80000/0xff0000 lookup main",
        "rule add prio 5250 fwmark 0x80000/0xff0000 unreachable",
        "rule add prio 5270 lookup 52",
    ];
    k330_wg_quick: 29, [
        "route add default dev u2 table 51820",
        "rule add not fwmark 51820 lookup 51820",
        "rule add lookup main suppress_prefixlength 0",
    ];
    k331_two_uplinks_strict: 28, [
        "route add default via 10.9.0.254 dev u0 table 101",
        "route add 10.9.0.0/24 dev u0 table 101",
        "route add default via 10.8.0.254 dev u1 table 102",
        "route add 10.8.0.0/24 dev u1 table 102",
        "rule add prio 1001 from 10.9.0.1 lookup 101",
        "rule add prio 1002 from 10.8.0.1 lookup 102",
        "rule add prio 1100 from 10.5.0.5 lookup 102",
        "v0.rp_filter=1",
    ];
    k332_two_uplinks: 31, [
        "route add default via 10.9.0.254 dev u0 table 101",
        "route add default via 10.8.0.254 dev u1 table 102",
        "rule add prio 1001 from 10.9.0.1 lookup 101",
        "rule add prio 1002 from 10.8.0.1 lookup 102",
        "rule add prio 1100 from 10.5.0.5 lookup 102",
    ];
    k333_mwan3: 29, [
        "route add default via 10.9.0.254 dev u0 table 1",
        "route add default via 10.8.0.254 dev u1 table 2",
        "rule add prio 1001 iif u0 lookup 1",
        "rule add prio 1002 iif u1 lookup 2",
        "rule add prio 2001 fwmark 0x100/0x3f00 lookup 1",
        "rule add prio 2002 fwmark 0x200/0x3f00 lookup 2",
        "rule add prio 2061 fwmark 0x3d00/0x3f00 blackhole",
        "rule add prio 2062 fwmark 0x3e00/0x3f00 unreachable",
        "rule add prio 3001 fwmark 0x100/0x3f00 unreachable",
    ];
    k334_bgp_with_a_multipath_default_route: 29, [
        SEED,
        "route replace default nexthop via 10.9.0.254 dev u0 nexthop via 10.8.0.254 dev u1",
        "v0.rp_filter=1",
    ];
    k335_bgp_with_a_nexthop_group: 29, [
        SEED,
        "nexthop add id 1 via 10.9.0.254 dev u0",
        "nexthop add id 2 via 10.8.0.254 dev u1",
        "nexthop add id 10 group 1/2",
        "route replace default nhid 10",
        "v0.rp_filter=1",
    ];
}

/// Two senders with different views of a large table: it is there once.
#[test]
fn k336_two_senders_over_a_table_of_5000_routes() -> Result<()> {
    lab::needs_root!();
    let host = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + n);
    let many: String = (0..5000).map(|n| format!("route add {} via 10.8.0.254 dev u1\n", host(n))).collect();
    let mut parity = with_uplinks()?;
    parity.change(|lab| {
        lab.node().ip_each(&many)?;
        run_all(lab, &["route add unreachable 100.64.0.3 table 100", "rule add from 10.5.0.5 lookup 100"])?;
        run_all(lab, &KNOWN)
    })?;
    check_all(&mut parity, 28)?;
    let prefixes = parity.agent().status()?.0["routes"].as_u64().context("no routes in the status")?;
    ensure!((5000..6000).contains(&prefixes), "{prefixes} prefixes in all views");
    // Both go on in the same view.
    parity.node_ip("route del 100.64.0.3 via 10.8.0.254 dev u1")?;
    parity.node_ip("route add unreachable 100.64.0.0/24 metric 1")?;
    check_all(&mut parity, 27)?;
    // Few again: each has its own.
    let rest: String =
        (0..5000).filter(|&n| n != 3).map(|n| format!("route del {} via 10.8.0.254 dev u1\n", host(n))).collect();
    parity.change(|lab| lab.node().ip_each(&rest))?;
    check_all(&mut parity, 27)
}
