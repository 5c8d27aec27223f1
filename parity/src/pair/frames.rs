//! The frames that the two nodes receive and send.

use anyhow::{Context, Result, bail, ensure};
use arp_common::ArpFrame;
use arp_common::maps::IfaceAddr;

/// A frame and the port by which it enters the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The number of the port: it leaves the peer's `p<port>`, and comes in by the node's `v<port>`.
    pub port: u8,
    /// The frame, without its checksum.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The ARP packet in it, if there is a whole one.
    pub fn arp(&self) -> Option<ArpFrame> {
        ArpFrame::from_bytes(&self.bytes).filter(ArpFrame::is_arp)
    }

    /// The neighbour entry that the kernel may make or change when it sees the frame.
    pub fn teaches(&self) -> Option<IfaceAddr> {
        let frame = ArpFrame::from_bytes(&self.without_tags()).filter(ArpFrame::is_arp)?;
        Some(IfaceAddr { ifindex: self.port.into(), addr: frame.arp.spa })
    }

    /// Whether it begins with a VLAN tag.
    pub(super) fn is_tagged(&self) -> bool {
        self.without_tags().len() < self.bytes.len()
    }

    /// The frame without VLAN tags: the kernel takes off those of VLAN 0.
    pub(super) fn without_tags(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        while matches!(bytes.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8])) && bytes.len() >= 18 {
            bytes.drain(12..16);
        }
        bytes
    }

    /// The frame as a tap of this EtherType on the node sees it. A tap for every EtherType sees it without the outer
    /// VLAN tag, which has become metadata; a tap for ARP sees it without tags of VLAN 0.
    pub(super) fn at_the_tap(&self, ethertype: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        while matches!(bytes.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8])) && bytes.len() >= 18 {
            let vlan_0 = bytes[14] & 0x0f == 0 && bytes[15] == 0;
            bytes.drain(12..16);
            if ethertype != libc::ETH_P_ARP as u16 || !vlan_0 {
                break;
            }
        }
        bytes
    }
}

/// The bytes that a text in hexadecimal stands for; `*N` at its end stands for N zero bytes.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>> {
    let (digits, zeros) = match text.split_once('*') {
        Some((digits, zeros)) => (digits, zeros.parse().context("a number of zeros")?),
        None => (text, 0),
    };
    ensure!(digits.len().is_multiple_of(2), "an odd number of hexadecimal digits");
    let mut bytes = Vec::with_capacity(digits.len() / 2 + zeros);
    for at in (0..digits.len()).step_by(2) {
        match digits.get(at..at + 2).map(|pair| u8::from_str_radix(pair, 16)) {
            Some(Ok(byte)) => bytes.push(byte),
            _ => bail!("not hexadecimal at {at}"),
        }
    }
    bytes.resize(bytes.len() + zeros, 0);
    Ok(bytes)
}
