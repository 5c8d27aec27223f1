//! §12.4: the proxy queue. Its answers come later, so these rows wait for them.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Answerer, Host, needs_root, slack, stretched};

use super::devices::pass_for;
use super::{L, X, base};

fn to_a_group(host: &Host) -> Vec<u8> {
    let mut frame = host.who_has(X).to_vec();
    frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
    frame
}

#[test]
fn k096_a_proxy_delay_is_the_kernel_s() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    // In hundredths of a second: the default.
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 80)?;
    let frames: [fn(&Host) -> Vec<u8>; 2] = [|p0| p0.who_has(X).to_vec(), to_a_group];
    assert_eq!(pass_for(&mut parity, "proxy_delay", Duration::from_millis(800), &frames)?, [1, 1]);
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 0)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(X))?.by, Answerer::FastPath, "without it again");
    Ok(())
}

#[test]
fn k098_a_proxy_delay_does_not_concern_local_targets() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 80)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(L))?.by, Answerer::FastPath);
    Ok(())
}

#[test]
fn k099_the_proxy_queue_takes_65_of_a_burst() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    // In hundredths of a second: longer than the burst takes.
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", i64::from(10 * slack()))?;
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_qlen", 64)?;
    let before = parity.agent().status()?.passed("v0").get("proxy_delay").copied().unwrap_or(0);
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        let request = p0.who_has(X);
        let early = p0.exchange(&[&request[..]; 200])?.into_iter().filter(|frame| frame.get(21) == Some(&2)).count();
        let late = p0.collect(stretched(Duration::from_millis(250)))?.len();
        answers.push(early + late);
        Ok(())
    })?;
    let passed = parity.agent().status()?.passed("v0").get("proxy_delay").copied().unwrap_or(0) - before;
    assert_eq!(passed, 200);
    // A timer may fire within the burst, and make room for some more.
    assert!(answers.iter().all(|&count| (65..80).contains(&count)), "{answers:?}");
    Ok(())
}

#[test]
fn k100_proxy_arp_is_cleared_while_requests_are_queued() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    // In hundredths of a second: most of them wait when it is cleared, whatever the dice say.
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", i64::from(100 * slack()))?;
    for lab in [parity.alone(), parity.fast()] {
        let p0 = lab.host("p0");
        let request = p0.who_has(X);
        let early = p0.exchange(&[&request[..]; 50])?.into_iter().filter(|frame| frame.get(21) == Some(&2)).count();
        lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
        let late = p0.collect(stretched(Duration::from_millis(1200)))?.len();
        ensure!(early + late < 25, "{}: {early} of 50 are answered at once, {late} later", lab.prefix());
    }
    parity.agent().in_sync()?;
    let status = parity.agent().status()?;
    assert_eq!((status.answered("v0"), status.passed("v0").get("proxy_delay")), (0, Some(&50)), "{}", status.0);
    parity.compare_neighbours()
}
