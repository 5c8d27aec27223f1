//! Links and addresses.

use anyhow::Result;
use arp_common::Lladdr;
use lab::topology::{LOCAL_TARGET, NODE_MAC, ROUTED_TARGET};
use lab::{Answerer, needs_root, reply_bytes};

use super::{ELSEWHERE as T, matrix_with_agent, who_has};
use crate::matrix::Ask::Probe;
use crate::matrix::Expect::{Fast, Silent};
use crate::matrix::{Expect, ask, rows, when};

const NOT_LOCAL: Expect = Silent("probe_not_local");

#[test]
fn a_new_interface_address_is_in_the_replies() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let new = Lladdr::new([0x02, 0, 0, 0, 0x77, 0x77]);
    parity.node_ip(&format!("link set v0 address {new}"))?;
    // The kernel forgets the interface's neighbours with its address.
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(outcome.by, Answerer::kernel("neighbour_unknown"));
    parity.agent().in_sync()?;
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    let p0 = parity.fast().host("p0");
    assert_eq!(outcome.replies, [reply_bytes(new, p0.mac(), p0.ip(), ROUTED_TARGET)]);
    assert_eq!(outcome.by, Answerer::FastPath);

    let to_old = parity.ask("p0", |p0| {
        let mut frame = p0.who_has(ROUTED_TARGET);
        frame[..6].copy_from_slice(&NODE_MAC.bytes());
        frame
    })?;
    assert_eq!(to_old.by, Answerer::nobody("other_destination"));
    Ok(())
}

rows! {
    an_address_is_followed_when_added_and_removed: [
        ask(Probe(T), NOT_LOCAL),
        when(&["addr add 10.30.0.1/32 dev lo"], Probe(T), Fast),
        when(&["addr del 10.30.0.1/32 dev lo"], Probe(T), NOT_LOCAL),
        when(&["addr add 10.30.0.1/32 dev u0"], Probe(T), Fast),
        when(&["addr del 10.30.0.1/32 dev u0"], Probe(T), NOT_LOCAL),
        when(&["addr add 10.30.0.1/32 dev v0"], Probe(T), Fast),
        when(&["addr del 10.30.0.1/32 dev v0"], Probe(T), NOT_LOCAL),
    ];
}

#[test]
fn the_link_works_again_after_it_was_down() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("link set v0 down")?;
    parity.node_ip("link set v0 up")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::kernel("neighbour_unknown"), "its entry is gone");
    parity.node_ip("route add 10.5.0.5/32 dev v0 scope link")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath, "the kernel has learnt the pod meanwhile");
    Ok(())
}

#[test]
fn noarp_leaves_everything_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("link set v0 arp off")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::nobody("interface_noarp"));
    parity.node_ip("link set v0 arp on")?;
    parity.learn("p0", LOCAL_TARGET)?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath);
    Ok(())
}
