//! A frame that the fast path passes is what came in, byte for byte: seen by a socket on the node that gets ARP where
//! the kernel's own ARP does, behind every hook that the fast path may answer in.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use lab::topology::{self, CALICO_GATEWAY, CALICO_MAC, FAR_HOST, UPLINK_IP};
use lab::{AgentOptions, SideBySide, Wire, needs_root};

const FRAMES: usize = 20_000;
/// How many are sent before the tap is read.
const BURST: usize = 50;

#[test]
fn a_passed_frame_reaches_taps_untouched() -> Result<()> {
    needs_root!();
    let seed = std::env::var("ARP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (ARP_TEST_SEED repeats it)");
    let mut rng = Rng::with_seed(seed);
    // The tap is such a listener itself.
    let options = AgentOptions::new(&["cali*"]).arg("--arp-listeners").arg("ignore");
    let mut parity = SideBySide::start_with(|| topology::calico(1), options)?;
    // Permanent: no frame changes it, so that each finds the same table.
    let mac = parity.fast().host("p0").mac();
    parity.node_ip(&format!("neigh replace 10.244.235.132 lladdr {mac} dev cali0 nud permanent"))?;
    let before = parity.agent().status()?;

    let pod = parity.fast().host("p0");
    let tap = Wire::open_for_arp(parity.fast().node(), "cali0")?;
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|_| frame(&mut rng, pod.who_has(CALICO_GATEWAY))).collect();
    let mut passed = 0;
    for burst in frames.chunks(BURST) {
        let sent: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
        pod.exchange(&sent)?;
        let mut sent: VecDeque<&[u8]> = sent.into();
        while let Some(seen) = tap.receive(Instant::now())? {
            passed += 1;
            // In order, some of them missing: those that were answered.
            let found = sent.iter().position(|frame| *frame == seen);
            let at =
                found.with_context(|| format!("seed {seed}: the node saw a frame that nobody sent: {seen:02x?}"))?;
            sent.drain(..=at);
        }
    }
    let after = parity.agent().status()?;
    let answered = after.answered("cali0") - before.answered("cali0");
    println!("{FRAMES} frames: {passed} passed, {answered} answered");
    ensure!(passed + answered == FRAMES as u64, "seed {seed}: {FRAMES} frames, {passed} passed, {answered} answered");
    ensure!(answered > FRAMES as u64 / 10 && passed > FRAMES as u64 / 10, "too few of one kind to say anything");
    Ok(())
}

/// Mostly a request that is answered or nearly so, often with a few bytes or the length changed. Always EtherType ARP.
fn frame(rng: &mut Rng, request: [u8; 42]) -> Vec<u8> {
    let mut frame = request.to_vec();
    let any = rng.u32(..).to_be_bytes();
    frame[38..42].copy_from_slice(&[CALICO_GATEWAY, FAR_HOST, UPLINK_IP, any][rng.usize(..4)]);
    if rng.bool() {
        frame[..6].copy_from_slice(&CALICO_MAC.bytes());
    }
    for _ in 0..rng.usize(..4) {
        let at = rng.usize(..frame.len());
        if !(12..14).contains(&at) {
            frame[at] = if rng.bool() { frame[at] ^ (1 << rng.u8(..8)) } else { rng.u8(..) };
        }
    }
    match rng.u8(..8) {
        0 => frame.resize(60, 0),
        1 => frame.resize(rng.usize(14..=1500), rng.u8(..)),
        _ => {}
    }
    frame
}
