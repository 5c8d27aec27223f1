//! `all` against the interface's own values.

use anyhow::Result;
use lab::topology::{self, LOCAL_TARGET, ROUTED_TARGET, SAME_INTERFACE_TARGET};
use lab::{Answerer, SideBySide, needs_root};

fn matrix_with_agent() -> Result<SideBySide> {
    SideBySide::start(topology::matrix, &["v0"])
}

fn set(parity: &mut SideBySide, values: &[(&str, i64)]) -> Result<()> {
    parity.change(|lab| {
        values.iter().try_for_each(|(key, value)| lab.node().sysctl(&format!("net.ipv4.conf.{key}"), value))
    })
}

fn who_has(parity: &mut SideBySide, tpa: [u8; 4]) -> Result<Answerer> {
    Ok(parity.ask("p0", |p0| p0.who_has(tpa))?.by)
}

#[test]
fn proxy_arp_is_on_where_all_or_the_interface_says_so() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    for (all, own) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        set(&mut parity, &[("all.proxy_arp", all), ("v0.proxy_arp", own)])?;
        let expected = if all + own > 0 { Answerer::FastPath } else { Answerer::nobody("proxy_arp_off") };
        assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, expected, "all {all}, v0 {own}");
        assert_eq!(who_has(&mut parity, SAME_INTERFACE_TARGET)?, Answerer::nobody("pvlan_off"), "all {all}, v0 {own}");
    }
    Ok(())
}

#[test]
fn pvlan_is_on_where_all_or_the_interface_says_so() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    for (all, own) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        set(&mut parity, &[("v0.proxy_arp", 0), ("all.proxy_arp_pvlan", all), ("v0.proxy_arp_pvlan", own)])?;
        let expected = if all + own > 0 { Answerer::FastPath } else { Answerer::nobody("pvlan_off") };
        assert_eq!(who_has(&mut parity, SAME_INTERFACE_TARGET)?, expected, "all {all}, v0 {own}");
        assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"), "all {all}, v0 {own}");
    }
    Ok(())
}

#[test]
fn forwarding_is_the_interface_s_own_and_writing_all_rewrites_it() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let off = Answerer::nobody("forwarding_off");
    let rows: [(&[(&str, i64)], Answerer); 5] = [
        (&[("all.forwarding", 1)], Answerer::FastPath),
        (&[("v0.forwarding", 0)], off.clone()),
        (&[("u0.forwarding", 0), ("v0.forwarding", 1)], Answerer::FastPath),
        (&[("all.forwarding", 0)], off),
        (&[("v0.forwarding", 1)], Answerer::FastPath),
    ];
    for (values, expected) in rows {
        set(&mut parity, values)?;
        assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, expected, "after {values:?}");
        assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath, "a local target needs none; {values:?}");
    }
    Ok(())
}

#[test]
fn forwarding_off_ends_pvlan_too() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    set(&mut parity, &[("v0.proxy_arp_pvlan", 1), ("v0.forwarding", 0)])?;
    assert_eq!(who_has(&mut parity, SAME_INTERFACE_TARGET)?, Answerer::nobody("forwarding_off"));
    Ok(())
}

#[test]
fn default_moves_an_interface_that_was_never_numbered_nor_written() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    assert_eq!(who_has(&mut parity, SAME_INTERFACE_TARGET)?, Answerer::nobody("pvlan_off"));
    set(&mut parity, &[("default.proxy_arp_pvlan", 1)])?;
    assert_eq!(
        who_has(&mut parity, SAME_INTERFACE_TARGET)?,
        Answerer::FastPath,
        "K148: v0 follows, and nobody is told"
    );
    Ok(())
}
