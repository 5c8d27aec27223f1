//! A program on the node that listens for ARP (parprouted, most ARP daemons) sees what it would see of the kernel alone.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::packet::ARP;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Answerer, SideBySide, Wire, needs_root, stretched};

/// Who answers both pods' second request for their gateway.
fn who_answers(parity: &mut SideBySide) -> Result<[Answerer; 2]> {
    let mut ask = |pod: &str| parity.ask(pod, |host| host.who_has(CALICO_GATEWAY)).map(|outcome| outcome.by);
    Ok([ask("p0")?, ask("p1")?])
}

fn passed() -> Answerer {
    Answerer::kernel("arp_listener")
}

/// A request that the listener gets while it is there.
fn is_seen(parity: &mut SideBySide, listener: &Wire, pod: &str) -> Result<()> {
    listener.drain()?;
    let request = parity.fast().host(pod).who_has(CALICO_GATEWAY);
    ensure!(parity.ask(pod, |_| request)?.by == passed(), "{pod}: not passed");
    let deadline = Instant::now() + stretched(Duration::from_secs(1));
    let seen = listener.receive(deadline)?.with_context(|| format!("the listener saw nothing of {pod}"))?;
    ensure!(seen == request, "the listener saw {seen:02x?}");
    Ok(())
}

#[test]
fn a_listener_for_arp_sees_what_the_kernel_does() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(2), &["cali*"])?;
    parity.learn("p0", CALICO_GATEWAY)?;
    parity.learn("p1", CALICO_GATEWAY)?;
    let all_fast = [Answerer::FastPath, Answerer::FastPath];
    assert_eq!(who_answers(&mut parity)?, all_fast);

    // On one interface, it is that interface's affair.
    let listener = Wire::open_for_arp(parity.fast().node(), "cali0")?;
    parity.agent().in_sync()?;
    assert_eq!(who_answers(&mut parity)?, [passed(), Answerer::FastPath]);
    is_seen(&mut parity, &listener, "p0")?;
    drop(listener);
    parity.agent().in_sync()?;
    assert_eq!(who_answers(&mut parity)?, all_fast);

    // On none, it is all interfaces'.
    let listener = Wire::open_for(parity.fast().node(), None, ARP)?;
    parity.agent().in_sync()?;
    assert_eq!(who_answers(&mut parity)?, [passed(), passed()]);
    is_seen(&mut parity, &listener, "p0")?;
    is_seen(&mut parity, &listener, "p1")?;
    drop(listener);
    parity.agent().in_sync()?;
    assert_eq!(who_answers(&mut parity)?, all_fast);

    // One for all frames (tcpdump) and one in the pod are nobody's obstacle.
    let _tcpdump = Wire::open(parity.fast().node(), "cali0")?;
    let _in_the_pod = Wire::open_for_arp(parity.fast().host("p0").namespace(), "eth0")?;
    parity.agent().in_sync()?;
    assert_eq!(who_answers(&mut parity)?, all_fast);
    Ok(())
}

#[test]
fn a_listener_that_was_there_first_is_seen() -> Result<()> {
    needs_root!();
    let listeners = RefCell::new(Vec::new());
    let build = || {
        let lab = topology::calico(1)?;
        listeners.borrow_mut().push(Wire::open_for(lab.node(), None, ARP)?);
        Ok(lab)
    };
    let mut parity = SideBySide::start(build, &["cali*"])?;
    parity.learn("p0", CALICO_GATEWAY)?;
    assert_eq!(parity.ask("p0", |host| host.who_has(CALICO_GATEWAY))?.by, passed());
    listeners.borrow_mut().clear();
    parity.agent().in_sync()?;
    assert_eq!(parity.ask("p0", |host| host.who_has(CALICO_GATEWAY))?.by, Answerer::FastPath);
    Ok(())
}
