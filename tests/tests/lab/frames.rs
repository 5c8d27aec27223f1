//! Frames that nobody should send: every length, and bytes that are wrong. The same answers as the kernel alone.

use anyhow::{Result, ensure};
use lab::topology::{self, CALICO_GATEWAY};
use lab::{AgentStatus, SideBySide, needs_root};

/// All of an interface's counters together.
fn counted(status: &AgentStatus, interface: &str) -> u64 {
    status.answered(interface) + status.passed(interface).values().sum::<u64>()
}

/// Sends frames in both labs and compares each one's answers; gives how many were answered by anybody, how many by
/// the fast path, and how many it counted.
fn compare(parity: &mut SideBySide, host: &str, frames: &[Vec<u8>]) -> Result<(u64, u64, u64)> {
    let before = parity.agent().status()?;
    let (alone, fast) = (parity.alone().host(host), parity.fast().host(host));
    let ingress = fast.node_end().to_owned();
    let mut replied = 0;
    for frame in frames {
        let expected = alone.ask(frame)?;
        let got = fast.ask(frame)?;
        ensure!(got == expected, "{} bytes {frame:02x?}:\nkernel {expected:02x?}\nfast path {got:02x?}", frame.len());
        replied += got.len() as u64;
    }
    let after = parity.agent().status()?;
    let answered = after.answered(&ingress) - before.answered(&ingress);
    Ok((replied, answered, counted(&after, &ingress) - counted(&before, &ingress)))
}

fn resized(request: [u8; 42], length: usize, filler: u8) -> Vec<u8> {
    let mut frame = request.to_vec();
    frame.resize(length, filler);
    frame
}

#[test]
fn requests_of_any_length_are_answered_as_by_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(1), &["cali*"])?;
    parity.learn("p0", CALICO_GATEWAY)?;
    let request = parity.fast().host("p0").who_has(CALICO_GATEWAY);
    // AF_PACKET sends no frame without a whole Ethernet header, nor one above the MTU.
    let frames: Vec<_> = (14..=1500).map(|length| resized(request, length, 0xa5)).collect();
    let (replied, answered, counted) = compare(&mut parity, "p0", &frames)?;
    assert_eq!(replied, 1500 - 41, "the kernel answers 42 bytes and more");
    assert_eq!(answered, replied, "all of them by the fast path");
    assert_eq!(
        counted,
        frames.len() as u64,
        "each frame is counted once: {:?}",
        parity.agent().status()?.passed("cali0")
    );
    parity.compare_neighbours()
}

#[test]
fn noise_of_any_length_is_left_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(1), &["cali*"])?;
    let mut random = Random(1);
    let frames: Vec<_> = (14..=1500)
        .map(|length| {
            let mut frame: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            frame[..6].fill(0xff);
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame
        })
        .collect();
    let (replied, answered, counted) = compare(&mut parity, "p0", &frames)?;
    assert_eq!((replied, answered), (0, 0));
    assert_eq!(counted, frames.len() as u64, "{:?}", parity.agent().status()?.passed("cali0"));
    Ok(())
}

#[test]
fn requests_with_wrong_bytes_are_answered_as_by_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(|| topology::calico(1), &["cali*"])?;
    // Permanent: no frame changes it, so that each finds the same table.
    let mac = parity.fast().host("p0").mac();
    parity.node_ip(&format!("neigh replace 10.244.235.132 lladdr {mac} dev cali0 nud permanent"))?;
    let request = parity.fast().host("p0").who_has(CALICO_GATEWAY);
    let mut random = Random(2);
    let frames: Vec<_> = (0..3000)
        .map(|_| {
            let mut frame = request.to_vec();
            for _ in 0..=random.next() % 3 {
                let at = random.next() as usize % frame.len();
                // Often near what is right, else anything.
                frame[at] = if random.next().is_multiple_of(2) { frame[at] ^ 1 } else { random.next() as u8 };
            }
            frame
        })
        .collect();
    let (replied, answered, _) = compare(&mut parity, "p0", &frames)?;
    println!("{} frames: {replied} answered, {answered} of them by the fast path", frames.len());
    assert!(answered > 300 && answered <= replied, "{answered} of {replied}");
    parity.compare_neighbours()
}

/// A small generator (xorshift64): the same frames on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}
