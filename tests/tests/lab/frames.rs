//! Frames that nobody should send: every length, and bytes that are wrong. The same answers as the kernel alone.

use anyhow::{Result, ensure};
use tests::topology::{self, CALICO_GATEWAY, LOCAL_TARGET};
use tests::{Answerer, Host, Parity, Status, needs_root};

/// All of an interface's counters together.
fn counted(status: &Status, interface: &str) -> u64 {
    status.answered(interface) + status.passed(interface).values().sum::<u64>()
}

/// Sends frames in both labs and compares each one's answers; gives how many were answered by anybody, how many by
/// the fast path, and how many it counted.
fn compare(parity: &mut Parity, host: &str, frames: &[Vec<u8>]) -> Result<(u64, u64, u64)> {
    let before = parity.agent().status()?;
    let (alone, fast) = (parity.alone().host(host), parity.fast().host(host));
    let ingress = fast.node_end().to_owned();
    let mut replied = 0;
    for frame in frames {
        let expected = alone.ask(frame)?;
        let got = fast.ask(frame)?;
        ensure!(
            got == expected,
            "{} bytes {frame:02x?}:\nkernel {expected:02x?}\nfast path {got:02x?}",
            frame.len()
        );
        replied += got.len() as u64;
    }
    let after = parity.agent().status()?;
    let answered = after.answered(&ingress) - before.answered(&ingress);
    Ok((
        replied,
        answered,
        counted(&after, &ingress) - counted(&before, &ingress),
    ))
}

fn resized(request: [u8; 42], length: usize, filler: u8) -> Vec<u8> {
    let mut frame = request.to_vec();
    frame.resize(length, filler);
    frame
}

#[test]
fn a_request_cut_or_padded_to_any_length_gets_the_kernel_s_answer() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(|| topology::calico(1), &["cali*"])?;
    parity.learn("p0", CALICO_GATEWAY)?;
    let request = parity.fast().host("p0").who_has(CALICO_GATEWAY);
    // AF_PACKET sends no frame without a whole Ethernet header, nor one above the MTU.
    let frames: Vec<_> = (14..=1500)
        .map(|length| resized(request, length, 0xa5))
        .collect();
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
    let mut parity = Parity::start(|| topology::calico(1), &["cali*"])?;
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
    assert_eq!(
        counted,
        frames.len() as u64,
        "{:?}",
        parity.agent().status()?.passed("cali0")
    );
    Ok(())
}

#[test]
fn a_request_with_wrong_bytes_gets_the_kernel_s_answer() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(|| topology::calico(1), &["cali*"])?;
    // Permanent: no frame changes it, so that each finds the same table.
    let mac = parity.fast().host("p0").mac();
    parity.node_ip(&format!(
        "neigh replace 10.244.235.132 lladdr {mac} dev cali0 nud permanent"
    ))?;
    let request = parity.fast().host("p0").who_has(CALICO_GATEWAY);
    let mut random = Random(2);
    let frames: Vec<_> = (0..3000)
        .map(|_| {
            let mut frame = request.to_vec();
            for _ in 0..=random.next() % 3 {
                let at = random.next() as usize % frame.len();
                // Often near what is right, else anything.
                frame[at] = if random.next().is_multiple_of(2) {
                    frame[at] ^ 1
                } else {
                    random.next() as u8
                };
            }
            frame
        })
        .collect();
    let (replied, answered, _) = compare(&mut parity, "p0", &frames)?;
    println!(
        "{} frames: {replied} answered, {answered} of them by the fast path",
        frames.len()
    );
    assert!(
        answered > 300 && answered <= replied,
        "{answered} of {replied}"
    );
    parity.compare_neighbours()
}

/// Where bytes of a frame are, and what they become.
type Change<'a> = (usize, &'a [u8]);

/// Changes bytes of a request.
fn with(request: [u8; 42], changes: &[Change<'_>]) -> Vec<u8> {
    let mut frame = request.to_vec();
    for &(at, bytes) in changes {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
    }
    frame
}

#[test]
fn each_header_field_decides_as_in_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    let nobody = Answerer::nobody;
    let rows: [(&str, &[Change<'_>], Answerer); 16] = [
        (
            "K04 to the interface's own address",
            &[(0, &topology::NODE_MAC.0)],
            Answerer::FastPath,
        ),
        (
            "K05 to somebody else",
            &[(0, &[2, 0, 0, 0, 0xab, 0xcd])],
            nobody("other_destination"),
        ),
        (
            "K06 to an IPv4 group",
            &[(0, &[1, 0, 0x5e, 0, 0, 1])],
            Answerer::FastPath,
        ),
        (
            "K06 to an IPv6 group",
            &[(0, &[0x33, 0x33, 0, 0, 0, 1])],
            Answerer::FastPath,
        ),
        (
            "K07 to 00:00:00:00:00:00",
            &[(0, &[0; 6])],
            nobody("other_destination"),
        ),
        ("K08 htype 6", &[(14, &[0, 6])], Answerer::FastPath),
        ("K09 htype 2", &[(14, &[0, 2])], nobody("bad_header")),
        ("K10 ptype", &[(16, &[0x86, 0xdd])], nobody("bad_header")),
        ("K11 hlen", &[(18, &[8])], nobody("bad_header")),
        ("K11 plen", &[(19, &[16])], nobody("bad_header")),
        ("K12 a reply", &[(20, &[0, 2])], nobody("not_request")),
        ("K12 oper 8", &[(20, &[0, 8])], nobody("not_request")),
        ("K12 oper 0x0100", &[(20, &[1, 0])], nobody("not_request")),
        ("K16 tha", &[(32, &[1, 2, 3, 4, 5, 6])], Answerer::FastPath),
        (
            "K17 another Ethernet source",
            &[(6, &[2, 9, 9, 9, 9, 9])],
            Answerer::FastPath,
        ),
        (
            "K31 a multicast target",
            &[(38, &[224, 0, 0, 1])],
            nobody("special_target"),
        ),
    ];
    for (row, changes, expected) in rows {
        let frame = |host: &Host| with(host.who_has(LOCAL_TARGET), changes);
        assert_eq!(parity.ask("p0", frame)?.by, expected, "{row}");
    }
    Ok(())
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
