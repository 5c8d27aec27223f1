//! The frames of a scenario. Most are well-formed requests about something that is configured; the others are odd in
//! one way or in several, or noise.

use std::net::Ipv4Addr;

use crate::pair::Frame;
use arp_common::{ArpFrame, Lladdr};

use crate::mutations::UNROUTED;
use crate::plan::{Plan, Sender};

/// How many frames of a scenario may have an unknown sender. Such a sender leaves a neighbour entry behind, and all
/// namespaces of the machine together have room for 1,024.
const STRANGERS: usize = 6;

/// Frames for the scenario as planned so far.
pub(crate) fn draw(plan: &mut Plan, count: usize) -> Vec<Frame> {
    let mut strangers = STRANGERS;
    let mut frames = Vec::with_capacity(count);
    while frames.len() < count {
        let frame = frame(plan, &mut strangers);
        if plan.rng.chance(4) {
            frames.extend(flip(plan, &frame));
        }
        frames.push(frame);
    }
    frames
}

/// A frame to be sent right before: another host uses the sender's address, in a way that may change the neighbour
/// entry.
fn flip(plan: &mut Plan, frame: &Frame) -> Option<Frame> {
    let mut arp = frame.arp()?;
    arp.arp.sha[4] ^= 0x20;
    match plan.rng.below(4) {
        0 => arp.arp.tpa = arp.arp.spa,
        1 => reply(plan, &mut arp, frame.port),
        _ => {}
    }
    Some(Frame { port: frame.port, bytes: arp.to_bytes().to_vec() })
}

fn frame(plan: &mut Plan, strangers: &mut usize) -> Frame {
    let (sender, tpa) = (asker(plan, strangers), target(plan));
    let mut arp = ArpFrame::request(sender.mac.bytes(), sender.ip.octets(), tpa.octets());
    match plan.rng.below(100) {
        0..40 => {}
        40..74 => polite(plan, &mut arp, sender.port),
        74..90 => odd_field(plan, &mut arp, sender.port),
        _ => odd_fields(plan, &mut arp, sender.port),
    }
    let mut bytes = arp.to_bytes().to_vec();
    match plan.rng.below(100) {
        0..60 => {}
        60..84 => bytes.resize(60, 0),
        84..88 => {
            let length = *plan.rng.pick(&[41, 42, 43, 46, 59, 61, 64, 128, 500, 1000, 1499, 1500, 1514]);
            bytes.resize(length, 0x5a);
        }
        88..91 => {
            let length = plan.rng.between(14, 1514);
            bytes.resize(length, 0xa5);
        }
        91..93 => tag(plan, &mut bytes),
        93..97 => flip_bits(plan, &mut bytes),
        97 => bytes.truncate(plan.rng.between(14, 42)),
        98 => bytes = plan.noise(14, &[8, 6]),
        _ => {}
    }
    Frame { port: sender.port, bytes }
}

/// The sender, and its port.
fn asker(plan: &mut Plan, strangers: &mut usize) -> Sender {
    let mut sender = if plan.senders.is_empty() {
        Sender { port: plan.port(), ip: Ipv4Addr::new(10, 5, 0, 5), mac: Lladdr::new([2, 0, 0, 0x77, 0, 0]) }
    } else {
        *plan.rng.pick(&plan.senders)
    };
    match plan.rng.below(100) {
        0..82 => {}
        82..88 => sender.ip = Ipv4Addr::UNSPECIFIED,
        88..90 => sender.port = plan.port(),
        90..92 => sender.mac = Lladdr::of_word(sender.mac.word() ^ (0x80 << 40)),
        92..94 if !plan.own.is_empty() => sender.ip = *plan.rng.pick(&plan.own),
        94 => sender.ip = special(plan),
        95 => {
            let odd = [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], plan.macs[0].bytes()];
            sender.mac = Lladdr::new(*plan.rng.pick(&odd));
        }
        96..99 if *strangers > 0 => {
            *strangers -= 1;
            sender.ip = if plan.rng.chance(30) { UNROUTED } else { plan.some_address() };
        }
        _ => {}
    }
    sender
}

/// The target.
fn target(plan: &mut Plan) -> Ipv4Addr {
    match plan.rng.below(100) {
        0..30 if !plan.targets.is_empty() => *plan.rng.pick(&plan.targets),
        30..50 if !plan.own.is_empty() => *plan.rng.pick(&plan.own),
        50..80 if !plan.prefixes.is_empty() => {
            let (ip, len) = *plan.rng.pick(&plan.prefixes);
            plan.rng.address_in(ip, len)
        }
        80..86 => special(plan),
        86..90 => UNROUTED,
        90..93 => Ipv4Addr::new(169, 254, 1, 1),
        _ => plan.some_address(),
    }
}

fn special(plan: &mut Plan) -> Ipv4Addr {
    let last = plan.rng.byte();
    let subnets = plan.prefixes.iter().filter(|(_, len)| (8..31).contains(len));
    let broadcasts: Vec<u32> = subnets.map(|&(ip, len)| u32::from(ip) | (u32::MAX >> len)).collect();
    let mut choices = vec![
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(127, 1, 2, last),
        Ipv4Addr::new(127, 255, 255, 255),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(239, 255, 255, last),
        Ipv4Addr::new(0, 1, 2, 3),
        Ipv4Addr::new(0, 0, 0, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::new(255, 255, 255, 254),
    ];
    choices.extend(broadcasts.into_iter().take(6).map(Ipv4Addr::from));
    *plan.rng.pick(&choices)
}

/// Changes the frame as real stacks do: unicast, garbage in `tha`, another hardware type, an announcement.
fn polite(plan: &mut Plan, arp: &mut ArpFrame, port: u8) {
    match plan.rng.below(20) {
        0..10 => arp.dst = plan.macs[usize::from(port)].bytes(),
        10..12 => arp.dst = *plan.rng.pick(&[[1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [3, 0, 0, 0, 0, 1]]),
        12..14 => arp.arp.tha = std::array::from_fn(|_| plan.rng.byte()),
        14..16 => arp.arp.htype = [0, 6],
        16 => arp.arp.tpa = arp.arp.spa,
        17 => arp.arp.tha = [0xff; 6],
        _ => arp.src = std::array::from_fn(|_| plan.rng.byte()),
    }
}

/// One field with another value.
fn odd_field(plan: &mut Plan, arp: &mut ArpFrame, port: u8) {
    match plan.rng.below(14) {
        0 => arp.dst = [0; 6],
        1 => arp.dst = plan.macs[(usize::from(port) + 1) % plan.macs.len()].bytes(),
        2 => arp.dst[5] ^= 1,
        3 => arp.dst[0] = plan.rng.byte(),
        4 => arp.src = *plan.rng.pick(&[[0; 6], [0xff; 6], [1; 6], plan.macs[usize::from(port)].bytes()]),
        5 => arp.ethertype = *plan.rng.pick(&[[0x08, 0x07], [0x80, 0x35], [0x88, 0xb6], [0x00, 0x2a]]),
        6 => arp.arp.htype = *plan.rng.pick(&[[0, 2], [1, 0], [0, 0], [6, 0], [0, 15], [0, 32]]),
        7 => arp.arp.ptype = *plan.rng.pick(&[[0x86, 0xdd], [0, 8], [8, 1], [0, 0]]),
        8 => arp.arp.hlen = *plan.rng.pick(&[0, 5, 7, 8, 16, 255]),
        9 => arp.arp.plen = *plan.rng.pick(&[0, 3, 5, 16, 255]),
        10 => arp.arp.oper = *plan.rng.pick(&[[0, 3], [0, 8], [1, 0], [0, 0], [0xff, 0xff]]),
        11 => reply(plan, arp, port),
        12 => arp.arp.tpa = arp.arp.spa,
        _ => arp.arp.sha[5] ^= 0x40,
    }
}

fn odd_fields(plan: &mut Plan, arp: &mut ArpFrame, port: u8) {
    for _ in 0..plan.rng.between(2, 3) {
        if plan.rng.chance(60) { polite(plan, arp, port) } else { odd_field(plan, arp, port) }
    }
}

/// An ARP reply to the node.
fn reply(plan: &mut Plan, arp: &mut ArpFrame, port: u8) {
    let mac = plan.macs[usize::from(port)].bytes();
    arp.arp.oper = [0, 2];
    arp.dst = mac;
    arp.arp.tha = mac;
}

/// A VLAN tag in band, once or twice.
fn tag(plan: &mut Plan, bytes: &mut Vec<u8>) {
    for _ in 0..plan.rng.between(1, 2) {
        let protocol = *plan.rng.pick(&[[0x81, 0x00], [0x88, 0xa8]]);
        let vlan = *plan.rng.pick(&[[0, 0], [0xe0, 0], [0, 100], [0, 1]]);
        bytes.splice(12..12, protocol.into_iter().chain(vlan));
    }
}

/// A few bits anywhere, but not in `spa`: see [`STRANGERS`].
fn flip_bits(plan: &mut Plan, bytes: &mut [u8]) {
    for _ in 0..plan.rng.between(1, 4) {
        let at = plan.rng.below(bytes.len());
        if !(28..32).contains(&at) {
            bytes[at] ^= 1 << plan.rng.below(8);
        }
    }
}

impl Plan {
    /// Noise, an EtherType in it.
    fn noise(&mut self, shortest: usize, ethertype: &[u8; 2]) -> Vec<u8> {
        let length = self.rng.between(shortest, 100);
        let mut bytes: Vec<u8> = (0..length).map(|_| self.rng.byte()).collect();
        bytes[12..14].copy_from_slice(ethertype);
        bytes
    }
}
