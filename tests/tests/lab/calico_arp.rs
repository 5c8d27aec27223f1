//! Felix's nftables table `calico-arp`: it drops the node's replies in which a workload's own address is claimed, and nothing
//! else. The table as Felix writes it does not keep the fast path from answering; what differs does where it may concern
//! the workload.

use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY, UPLINK_IP};
use lab::{Answerer, Lab, SideBySide, needs_root};

const P0: &str = "10.244.235.132";
const P1: &str = "10.244.235.133";
/// A second address of the pod p0, if a route leads there.
const SECOND: [u8; 4] = [10, 244, 235, 200];

fn nft(lab: &Lab, commands: &[String]) -> Result<()> {
    commands.iter().try_for_each(|command| lab.node().exec(&format!("nft {command}")).map(drop))
}

/// A workload's chain, and its element of the dispatch map.
fn workload(interface: &str, addresses: &[&str]) -> Vec<String> {
    let chain = format!("filter-cali-arp-{interface}");
    let mut commands = vec![format!("add chain arp calico-arp {chain}")];
    commands.extend(addresses.iter().map(|address| {
        format!(
            "add rule arp calico-arp {chain} oifname {interface} arp operation reply arp saddr ip {address} counter \
             drop comment \"cali:s3cr3th4sh;\""
        )
    }));
    commands.push(format!("add element arp calico-arp filter-cali-arp-dispatch {{ {interface} : goto {chain} }}"));
    commands
}

/// The table for both pods, as Felix writes it.
fn table(lab: &Lab) -> Result<()> {
    let mut commands = vec![
        "add table arp calico-arp".to_owned(),
        "add map arp calico-arp filter-cali-arp-dispatch { type ifname : verdict ; }".to_owned(),
    ];
    commands.extend(workload("cali0", &[P0]));
    commands.extend(workload("cali1", &[P1]));
    commands.extend(
        [
            "add chain arp calico-arp filter-cali-arp-dispatch",
            "add rule arp calico-arp filter-cali-arp-dispatch oifname vmap @filter-cali-arp-dispatch",
            "add chain arp calico-arp filter-OUTPUT { type filter hook output priority 0 ; }",
            "add rule arp calico-arp filter-OUTPUT counter jump filter-cali-arp-dispatch comment \"cali:0th3r;\"",
        ]
        .map(str::to_owned),
    );
    nft(lab, &commands)
}

fn asks(parity: &mut SideBySide, pod: &str, tpa: [u8; 4]) -> Result<Answerer> {
    Ok(parity.ask(pod, |pod| pod.who_has(tpa))?.by)
}

fn with_table() -> Result<SideBySide> {
    let build = || {
        let lab = topology::calico(2)?;
        table(&lab)?;
        Ok(lab)
    };
    let mut parity = SideBySide::start(build, &["cali*"])?;
    for pod in ["p0", "p1"] {
        parity.learn(pod, CALICO_GATEWAY)?;
    }
    Ok(parity)
}

#[test]
fn the_table_of_felix_is_no_reason_to_pass() -> Result<()> {
    needs_root!();
    let mut parity = with_table()?;
    let other_pod = parity.fast().host("p1").ip();
    for target in [CALICO_GATEWAY, UPLINK_IP, other_pod] {
        assert_eq!(asks(&mut parity, "p0", target)?, Answerer::FastPath, "{target:?}");
    }
    let own = parity.fast().host("p0").ip();
    assert_eq!(asks(&mut parity, "p0", own)?, Answerer::nobody("announcement"));
    Ok(())
}

#[test]
fn the_table_may_come_grow_and_go() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(2), &["cali*"])?;
    parity.learn("p0", CALICO_GATEWAY)?;
    parity.change(|lab| table(lab))?;
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::FastPath, "it came");
    parity.change(|lab| nft(lab, &workload("cali9", &["10.244.235.99"])))?;
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::FastPath, "a workload more");
    parity.change(|lab| nft(lab, &["delete table arp calico-arp".to_owned()]))?;
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::FastPath, "it went");
    Ok(())
}

/// Something is added to the table, and goes again with it: who answers p0 then.
fn with_also(other: &str) -> Result<Answerer> {
    let mut parity = with_table()?;
    parity.change(|lab| nft(lab, &[other.to_owned()]))?;
    let by = asks(&mut parity, "p0", CALICO_GATEWAY)?;
    parity.change(|lab| {
        nft(lab, &["flush ruleset".to_owned()])?;
        table(lab)
    })?;
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::FastPath, "after {other}");
    Ok(by)
}

#[test]
fn what_else_in_it_may_concern_the_workload_is() -> Result<()> {
    needs_root!();
    let workload = "rule arp calico-arp filter-cali-arp-cali0";
    let others = [
        // About an address that others could be told of (requests do not go out, but that is not looked at); for every
        // interface, with the match in another place, about all frames.
        format!("add {workload} oifname cali0 arp operation request arp saddr ip 10.0.0.7 drop"),
        format!("add {workload} arp operation reply arp saddr ip 10.0.0.7 drop"),
        format!("add {workload} oifname cali0 arp operation reply arp daddr ip 10.0.0.7 drop"),
        format!("insert {workload} meta mark 7 drop"),
        "add rule arp calico-arp filter-OUTPUT meta mark 7 drop".to_owned(),
        "add chain arp calico-arp filter-INPUT { type filter hook input priority 0 ; }".to_owned()
            + " ; add rule arp calico-arp filter-INPUT meta mark 7 drop",
    ];
    for other in others {
        assert_eq!(with_also(&other)?, Answerer::kernel("arp_netfilter"), "{other}");
    }
    let mut parity = with_table()?;
    parity.change(|lab| nft(lab, &["chain arp calico-arp filter-OUTPUT { policy drop ; }".to_owned()]))?;
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::nobody("arp_netfilter"), "policy drop");
    Ok(())
}

#[test]
fn what_else_in_it_cannot_concern_the_workload_is_not() -> Result<()> {
    needs_root!();
    let workload = "rule arp calico-arp filter-cali-arp-cali0";
    let others = [
        // Another verdict; for other interfaces.
        format!("add {workload} oifname cali0 arp operation reply arp saddr ip 10.0.0.7 accept"),
        format!("add {workload} oifname \"cali9*\" arp operation reply arp saddr ip 10.0.0.7 drop"),
        "add rule arp calico-arp filter-cali-arp-cali1 drop".to_owned(),
        "add element arp calico-arp filter-cali-arp-dispatch { cali9 : drop }".to_owned(),
        "add chain arp calico-arp filter-INPUT { type filter hook input priority 0 ; }".to_owned()
            + " ; add rule arp calico-arp filter-INPUT jump filter-cali-arp-dispatch",
        "add table arp other".to_owned()
            + " ; add chain arp other c { type filter hook output priority 0 ; }"
            + " ; add rule arp other c oifname cali7 arp operation reply arp saddr ip 10.0.0.7 drop",
    ];
    for other in others {
        assert_eq!(with_also(&other)?, Answerer::FastPath, "{other}");
    }
    Ok(())
}

#[test]
fn replies_that_it_would_drop_are_left_to_it() -> Result<()> {
    needs_root!();
    let mut parity = with_table()?;
    // While a pod moves, an address of its may be routed to another node. p0 asks for it by its other address.
    parity.change(|lab| {
        lab.node().ip("route add 10.244.235.200/32 via 10.9.0.254")?;
        Ok(())
    })?;
    assert_eq!(asks(&mut parity, "p0", SECOND)?, Answerer::FastPath, "the table does not know it yet");
    let rule = "add rule arp calico-arp filter-cali-arp-cali0 oifname cali0 arp operation reply arp saddr ip \
                10.244.235.200 counter drop";
    parity.change(|lab| nft(lab, &[rule.to_owned()]))?;
    assert_eq!(asks(&mut parity, "p0", SECOND)?, Answerer::nobody("arp_netfilter"), "the kernel's reply is dropped");
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::kernel("arp_netfilter"), "on that interface");
    assert_eq!(asks(&mut parity, "p1", SECOND)?, Answerer::FastPath, "on others it is not");
    parity.node_ip("route replace 10.244.235.200/32 dev cali0 scope link")?;
    assert_eq!(asks(&mut parity, "p0", SECOND)?, Answerer::nobody("pvlan_off"), "it has come");
    assert_eq!(asks(&mut parity, "p0", CALICO_GATEWAY)?, Answerer::FastPath);
    parity.node_sysctl("net.ipv4.conf.cali0.proxy_arp_pvlan", 1)?;
    assert_eq!(asks(&mut parity, "p0", SECOND)?, Answerer::nobody("arp_netfilter"), "pvlan, and dropped");
    Ok(())
}
