//! 12.6: hooks, neighbour entries, side effects. K141 is in `calico`, K145 in `changes`, K148 in `flags`, K149 in `lease`.

use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::{Answerer, Hook, Host, Lab, Neighbours, Parity, Wire, needs_root, slack, stretched, topology};

use super::Ask::{For, From};
use super::Expect::{Answered, Fast, Kernel, Silent, SilentForAnyReason};
use super::{L, X, check, row, run, when};

#[test]
fn k135_and_k136_arp_netfilter() -> Result<()> {
    needs_root!();
    const INPUT: &str = "nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }";
    const OUTPUT: &str = "nft add chain arp t c { type filter hook output priority 0 ; policy drop ; }";
    const GONE: &[&str] = &["nft delete table arp t"];
    check(&[
        when("K135 input", &["nft add table arp t", INPUT], GONE, For(L), Silent("arp_netfilter")),
        row("K135 without it again", For(L), Fast),
        when("K136 output", &["nft add table arp t", OUTPUT], GONE, For(L), Silent("arp_netfilter")),
    ])
}

// Only ARP is dropped: the markers must pass.
#[test]
fn k136_k137_and_k139_hooks_on_the_interface() -> Result<()> {
    needs_root!();
    const INGRESS: &str = "nft add chain netdev t c { type filter hook ingress device v0 priority 0 ; }";
    const EGRESS: &str = "nft add chain netdev t c { type filter hook egress device v0 priority 0 ; }";
    const DROP: &str = "nft add rule netdev t c meta protocol arp drop";
    const GONE: &[&str] = &["nft delete table netdev t"];
    // With tc, the foreign filter is first and takes the frame away from ours.
    let taken = if Hook::chosen()? == Hook::Tc { SilentForAnyReason } else { Silent("ingress_hook") };
    check(&[
        when("K137 ingress", &["nft add table netdev t", INGRESS, DROP], GONE, For(L), Silent("ingress_hook")),
        when("K136 egress", &["nft add table netdev t", EGRESS, DROP], GONE, For(L), SilentForAnyReason),
        when(
            "K139 a tc filter that takes ARP away",
            &[
                // There is one already where the agent's hook is tc.
                "tc qdisc replace dev v0 clsact",
                "tc filter add dev v0 ingress protocol arp u32 match u32 0 0 action mirred egress redirect dev u0",
            ],
            &["tc qdisc del dev v0 clsact"],
            For(L),
            taken,
        ),
        row("without any of them", For(L), Fast),
    ])
}

#[test]
fn k138_hooks_that_do_not_see_arp() -> Result<()> {
    needs_root!();
    const RAW: &str = "nft add chain ip t c { type filter hook prerouting priority -300 ; policy drop ; }";
    const INET: &str = "nft add chain inet t c { type filter hook ingress device v0 priority 0 ; policy drop ; }";
    check(&[
        when("K138 ip prerouting", &["nft add table ip t", RAW], &["nft delete table ip t"], For(L), Fast),
        when("K138 inet ingress", &["nft add table inet t", INET], &["nft delete table inet t"], For(L), Answered),
    ])
}

#[test]
fn k140_a_listener_on_the_node_sees_a_passed_frame_as_it_was_sent() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    let mut frame = parity.fast().host("p0").who_has(X).to_vec();
    // Longer than a reply: a program that trimmed first and passed then would be found out.
    frame.extend([0xa5; 100]);
    let mut seen = Vec::new();
    for lab in [parity.alone(), parity.fast()] {
        let listener = Wire::open(lab.node(), "v0")?;
        assert!(lab.host("p0").ask(&frame)?.is_empty());
        let deadline = Instant::now() + stretched(Duration::from_secs(1));
        while let Some(received) = listener.receive(deadline)? {
            if received.get(12..14) == Some(&[8, 6]) {
                seen.push(received);
                break;
            }
        }
    }
    assert_eq!(seen, [frame.clone(), frame]);
    Ok(())
}

#[test]
fn k142_a_repeated_request_changes_no_entry_and_causes_no_notification() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    parity.learn("p0", L)?;
    let before = parity.agent().status()?.answered("v0");
    for lab in [parity.alone(), parity.fast()] {
        let p0 = lab.host("p0");
        let table = Neighbours::of(lab.node())?;
        let heard = thread::scope(|scope| -> Result<String> {
            let monitor = scope.spawn(|| lab.node().output("timeout 0.5 ip monitor neigh"));
            thread::sleep(Duration::from_millis(150));
            for _ in 0..20 {
                assert_eq!(p0.ask(&p0.who_has(L))?.len(), 1);
            }
            let output = monitor.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })?;
        assert_eq!(heard, "");
        assert_eq!(Neighbours::of(lab.node())?, table);
    }
    assert_eq!(parity.agent().status()?.answered("v0") - before, 20);
    Ok(())
}

#[test]
fn k143_what_waits_for_an_unresolved_pod_is_sent_when_the_pod_asks() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    parity.change(|lab| {
        // The pod's stack must not answer by itself.
        lab.host("p0").namespace().ip("link set eth0 arp off")?;
        lab.node().ip("neigh del 10.5.0.5 dev v0")?;
        let send = || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"waiting", "10.5.0.5:9"));
        lab.node().run(send)??;
        Ok(())
    })?;
    let state = |lab: &Lab| Ok::<_, anyhow::Error>(Neighbours::of(lab.node())?.get("v0", "10.5.0.5").cloned());
    for lab in [parity.alone(), parity.fast()] {
        assert_eq!(state(lab)?.map(|entry| entry.state).as_deref(), Some("INCOMPLETE"));
        let p0 = lab.host("p0");
        let frames = p0.exchange(&[&p0.who_has(L)])?;
        let of_type = |ethertype: [u8; 2]| frames.iter().filter(|frame| frame.get(12..14) == Some(&ethertype)).count();
        assert_eq!((of_type([8, 6]), of_type([8, 0])), (1, 1), "a reply, and the datagram: {frames:02x?}");
    }
    let passed = parity.agent().status()?.passed("v0");
    assert_eq!(passed.get("neighbour_unknown"), Some(&1), "{passed:?}");
    parity.compare_neighbours()
}

#[test]
fn k144_a_failed_entry() -> Result<()> {
    needs_root!();
    check(&[when("K144", &["neigh replace 10.5.0.5 dev v0 nud failed"], &[], For(L), Kernel("neighbour_unknown"))])
}

#[test]
fn k146_an_unanswered_request_teaches_another_address_after_a_second() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    let mac = parity.fast().host("p0").mac().to_string();
    parity.both(|lab| {
        lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
        // In hundredths of a second. A slow machine needs more than the default, in which the first request must come.
        lab.node().sysctl("net.ipv4.neigh.v0.locktime", 100 * slack())
    })?;
    let other = |host: &Host| {
        let mut frame = host.who_has(X);
        frame[22..28].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        frame
    };
    // The time runs from the last change, so there must be one.
    parity.both(|lab| lab.node().ip("neigh replace 10.5.0.5 lladdr 02:09:09:09:09:08 dev v0 nud stale").map(drop))?;
    parity.node_ip(&format!("neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale"))?;
    for (wait, learnt) in
        [(Duration::ZERO, mac.as_str()), (stretched(Duration::from_millis(1100)), "02:09:09:09:09:09")]
    {
        thread::sleep(wait);
        assert!(matches!(parity.ask("p0", other)?.by, Answerer::Nobody(_)));
        let table = Neighbours::of(parity.fast().node())?;
        let entry = table.get("v0", "10.5.0.5").and_then(|entry| entry.lladdr.as_deref());
        assert_eq!(entry, Some(learnt), "after {wait:?}");
    }
    Ok(())
}

#[test]
fn k147_arp_accept_learns_from_announcements() -> Result<()> {
    needs_root!();
    const NEW: [u8; 4] = [10, 5, 0, 9];
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    let announce = |host: &Host| From(NEW, NEW).frame(host);
    // 2 creates an entry only inside a subnet of the interface, which has none at first.
    let steps = [("v0.proxy_arp=0", false), ("v0.arp_accept=2", false), ("addr add 10.5.0.1/24 dev v0", true)];
    let created =
        |parity: &Parity| Ok::<_, anyhow::Error>(Neighbours::of(parity.fast().node())?.get("v0", "10.5.0.9").is_some());
    for (step, creates) in steps {
        parity.change(|lab| run(lab, step))?;
        assert_eq!(parity.ask("p0", announce)?.by, Answerer::nobody("announcement"), "{step}");
        assert_eq!(created(&parity)?, creates, "{step}");
    }
    parity.change(|lab| {
        ["addr del 10.5.0.1/24 dev v0", "neigh flush dev v0", "v0.arp_accept=1"]
            .iter()
            .try_for_each(|step| run(lab, step))
    })?;
    assert!(!created(&parity)?);
    parity.ask("p0", announce)?;
    assert!(created(&parity)?, "1 creates it anywhere");
    Ok(())
}
