//! §12.6: neighbour entries and side effects.

use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use arp_common::Lladdr;
use lab::{Answerer, Host, Neighbours, SideBySide, Wire, needs_root, slack, stretched};
use nix::sys::signal::Signal;

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Silent};
use super::{L, X, Y, ask, base, rows, run, run_all, when};

const OTHER: Lladdr = Lladdr::new([2, 9, 9, 9, 9, 9]);

rows! {
    k141_the_first_request_of_a_sender: [
        when(&["neigh del 10.5.0.5 dev v0"], For(L), Kernel("neighbour_unknown")),
        ask(For(L), Fast),
        when(&["neigh del 10.5.0.5 dev v0"], For(X), Kernel("neighbour_unknown")),
        ask(For(X), Fast),
    ];
    k144_a_failed_entry: [
        when(&["neigh replace 10.5.0.5 dev v0 nud failed"], For(L), Kernel("neighbour_unknown")),
        ask(For(L), Fast),
    ];
    k145_a_permanent_or_noarp_entry_with_another_address: [
        when(&["neigh replace 10.5.0.5 lladdr 02:09:09:09:09:09 dev v0 nud permanent"], For(L), Fast),
        when(&["neigh replace 10.5.0.5 lladdr 02:09:09:09:09:09 dev v0 nud permanent"], For(X), Fast),
        when(&["neigh replace 10.5.0.5 lladdr 02:09:09:09:09:09 dev v0 nud noarp"], For(L), Fast),
    ];
    k148_default_moves_an_interface_that_was_never_written: [
        ask(For(Y), Silent("pvlan_off")),
        when(&["default.proxy_arp_pvlan=1"], For(Y), Fast),
    ];
}

#[test]
fn k140_a_listener_sees_a_passed_frame_as_sent() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
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
fn k142_a_repeated_request_changes_and_notifies_nothing() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
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
fn k143_a_waiting_datagram_is_sent_when_the_pod_asks() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    parity.change(|lab| {
        // The pod's stack must not answer by itself.
        lab.host("p0").namespace().ip("link set eth0 arp off")?;
        lab.node().ip("neigh del 10.5.0.5 dev v0")?;
        let send = || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"waiting", "10.5.0.5:9"));
        lab.node().run(send)??;
        Ok(())
    })?;
    for lab in [parity.alone(), parity.fast()] {
        let p0 = lab.host("p0");
        assert_eq!(lab.node().neighbour("v0", p0.ip())?.map(|entry| entry.state), Some(libc::NUD_INCOMPLETE));
        let frames = p0.exchange(&[&p0.who_has(L)])?;
        let of_type = |ethertype: [u8; 2]| frames.iter().filter(|frame| frame.get(12..14) == Some(&ethertype)).count();
        assert_eq!((of_type([8, 6]), of_type([8, 0])), (1, 1), "a reply, and the datagram: {frames:02x?}");
    }
    let passed = parity.agent().status()?.passed("v0");
    assert_eq!(passed.get("neighbour_unknown"), Some(&1), "{passed:?}");
    parity.compare_neighbours()
}

#[test]
fn k146_an_unanswered_request_teaches_another_address_after_a_second() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    let mac = parity.fast().host("p0").mac();
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
    for (wait, learnt) in [(Duration::ZERO, mac), (stretched(Duration::from_millis(1100)), OTHER)] {
        thread::sleep(wait);
        assert!(matches!(parity.ask("p0", other)?.by, Answerer::Nobody(_)));
        let entry = parity.fast().node().neighbour("v0", [10, 5, 0, 5])?;
        assert_eq!(entry.and_then(|entry| entry.lladdr), Some(learnt), "after {wait:?}");
    }
    Ok(())
}

#[test]
fn k147_arp_accept_learns_from_announcements() -> Result<()> {
    needs_root!();
    const NEW: [u8; 4] = [10, 5, 0, 9];
    let mut parity = base()?;
    let announce = |host: &Host| From(NEW, NEW).frame(host);
    // 2 creates an entry only inside a subnet of the interface, which has none at first.
    let steps = [("v0.proxy_arp=0", false), ("v0.arp_accept=2", false), ("addr add 10.5.0.1/24 dev v0", true)];
    let created = |parity: &SideBySide| Ok::<_, anyhow::Error>(parity.fast().node().neighbour("v0", NEW)?.is_some());
    for (step, creates) in steps {
        parity.change(|lab| run(lab, step))?;
        assert_eq!(parity.ask("p0", announce)?.by, Answerer::nobody("announcement"), "{step}");
        assert_eq!(created(&parity)?, creates, "{step}");
    }
    parity.change(|lab| run_all(lab, &["addr del 10.5.0.1/24 dev v0", "neigh flush dev v0", "v0.arp_accept=1"]))?;
    assert!(!created(&parity)?);
    parity.ask("p0", announce)?;
    assert!(created(&parity)?, "1 creates it anywhere");
    Ok(())
}

#[test]
fn k149_without_a_heartbeat_the_kernel_decides() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(L))?.by, Answerer::FastPath);
    let before = parity.agent().status()?;
    parity.agent().signal(Signal::SIGSTOP)?;
    // The lease, which lasts for a second after the last heartbeat.
    thread::sleep(Duration::from_millis(1100));
    // What the agent can no longer follow.
    parity.both(|lab| lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0))?;
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        answers.push([p0.ask(&p0.who_has(L))?, p0.ask(&p0.who_has(X))?]);
        Ok(())
    })?;
    parity.agent().signal(Signal::SIGCONT)?;
    ensure!(answers[0] == answers[1], "kernel alone {:02x?}, with the fast path {:02x?}", answers[0], answers[1]);
    assert_eq!([answers[0][0].len(), answers[0][1].len()], [1, 0], "the node's own address, and a proxied one");
    parity.agent().in_sync()?;
    let after = parity.agent().status()?;
    assert_eq!(after.answered("v0"), before.answered("v0"), "{}", after.0);
    assert_eq!(after.passed("v0").get("lease_expired"), Some(&2), "{}", after.0);
    assert_eq!(parity.ask("p0", |p0| p0.who_has(X))?.by, Answerer::nobody("proxy_arp_off"), "it has followed");
    Ok(())
}
