//! Requests out of a capture, or from the wire: a line for each.

use super::kernel::{Kernel, is_of_a_host, taken_by};
use super::kernel_answer::headline;
use super::state::{OnInterface, State};
use super::{Answer, Question};
use crate::mirror::walk::{End, LOOPBACK};
use anyhow::{Context as _, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How a pcapng file begins: its section header block.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// A reply that comes later than this is for another request. `proxy_delay` is below it by default.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
const REPLY: [u8; 2] = [0, 2];
const REQUEST: [u8; 2] = [0, 1];

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Captured {
    /// When, in the capture's own time.
    pub at: Duration,
    /// The interface that it was captured on, if the file says so.
    pub interface: Option<String>,
    /// Its bytes, possibly cut.
    pub bytes: Vec<u8>,
}

impl Captured {
    /// Whether it is ARP behind one VLAN tag or more (802.1Q, 802.1ad).
    pub(crate) fn is_tagged_arp(&self) -> bool {
        const TAG_LEN: usize = 4;
        let mut types = self.bytes.get(12..).unwrap_or_default();
        let mut is_tagged = false;
        while let [0x81, 0, ..] | [0x88, 0xa8, ..] = types {
            is_tagged = true;
            types = types.get(TAG_LEN..).unwrap_or_default();
        }
        is_tagged && types.starts_with(&[0x08, 0x06])
    }
}

/// A request, what is said of it, and what was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    /// When it was seen, in seconds: of the capture's time, or since the beginning.
    pub at_s: f64,
    /// The interface that it is taken to come in by.
    pub interface: Option<String>,
    /// `tpa`.
    pub target: Ipv4Addr,
    /// `spa`.
    pub sender: Ipv4Addr,
    /// `sha`.
    pub sender_mac: Lladdr,
    /// What the kernel does; `null` if the interface is not known.
    pub kernel: Option<Answer>,
    /// The same in words, with what decides.
    pub why: String,
    /// `reply`, or the reason to pass.
    pub fast_path: String,
    /// Replies that were seen.
    pub replies: usize,
    /// How long after the request the first came, in milliseconds.
    pub after_ms: Option<f64>,
}

/// The frames of a pcap or pcapng file. What is cut off at the end is an error beside what came before.
pub(crate) fn frames(mut file: impl Read) -> (Vec<Captured>, Result<()>) {
    let mut bytes = Vec::new();
    if let Err(error) = file.read_to_end(&mut bytes) {
        return (Vec::new(), Err(error).context("it cannot be read"));
    }
    let mut frames = Vec::new();
    let read = if bytes.starts_with(&PCAPNG) { pcapng(&bytes, &mut frames) } else { pcap(&bytes, &mut frames) };
    (frames, read)
}

fn pcap(bytes: &[u8], frames: &mut Vec<Captured>) -> Result<()> {
    let mut reader = PcapReader::new(bytes).context("it is neither pcap nor pcapng (tcpdump -w makes pcap)")?;
    is_ethernet(reader.header().datalink)?;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.with_context(|| format!("it is cut off, or broken, after {} frames", frames.len()))?;
        frames.push(Captured { at: packet.timestamp, interface: None, bytes: packet.data.into_owned() });
    }
    Ok(())
}

fn pcapng(bytes: &[u8], frames: &mut Vec<Captured>) -> Result<()> {
    let mut reader = PcapNgReader::new(bytes).context("it is no pcapng")?;
    // Of each interface its name, and how many units of time make a second.
    let mut interfaces: Vec<(Option<String>, u128)> = Vec::new();
    while let Some(block) = reader.next_block() {
        let block = block.with_context(|| format!("it is cut off, or broken, after {} frames", frames.len()))?;
        match block {
            Block::SectionHeader(_) => interfaces.clear(),
            Block::InterfaceDescription(interface) => {
                is_ethernet(interface.linktype)?;
                let (mut name, mut units) = (None, MICROSECONDS);
                for option in &interface.options {
                    match option {
                        InterfaceDescriptionOption::IfName(text) => name = Some(text.clone().into_owned()),
                        InterfaceDescriptionOption::IfTsResol(resolution) => units = units_of(*resolution),
                        _ => {}
                    }
                }
                interfaces.push((name, units));
            }
            Block::EnhancedPacket(packet) => {
                let (interface, units) =
                    interfaces.get(packet.interface_id as usize).cloned().unwrap_or((None, MICROSECONDS));
                // The crate takes units for nanoseconds, whatever they are.
                let nanos = packet.timestamp.as_nanos() * 1_000_000_000 / units;
                let at = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                frames.push(Captured { at, interface, bytes: packet.data.into_owned() });
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_ethernet(link: DataLink) -> Result<()> {
    ensure!(
        link == DataLink::ETHERNET,
        "its frames are {link:?} and have no Ethernet header; capture on the interface itself (tcpdump -i IF -w FILE arp), not \
         on `any`"
    );
    Ok(())
}

/// Units of time a second, where a pcapng file does not say.
const MICROSECONDS: u128 = 1_000_000;

/// What `if_tsresol` stands for: a power of ten, or of two if the first bit is set.
fn units_of(resolution: u8) -> u128 {
    let power = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(power).unwrap_or(MICROSECONDS)
}

/// A request in a frame, or a reply.
fn arp(bytes: &[u8], oper: [u8; 2]) -> Option<ArpFrame> {
    let frame = ArpFrame::from_bytes(bytes).filter(ArpFrame::is_arp)?;
    let is_ethernet = [[0, 1], [0, 6]].contains(&frame.arp.htype);
    (is_ethernet && frame.arp.oper == oper && frame.arp.ptype == [8, 0] && (frame.arp.hlen, frame.arp.plen) == (6, 4))
        .then_some(frame)
}

/// What is said of requests over one state.
pub(crate) struct CaptureJudge<'a> {
    state: &'a State,
    /// The interface that all frames are taken to come in by, if one was named.
    given: Option<String>,
    known: BTreeMap<String, Option<OnInterface<'a>>>,
}

impl<'a> CaptureJudge<'a> {
    /// Over a state.
    pub(crate) fn new(state: &'a State, given: Option<&str>) -> Self {
        CaptureJudge { state, given: given.map(str::to_owned), known: BTreeMap::new() }
    }

    /// All requests of a capture.
    pub(crate) fn lines(&mut self, frames: &[Captured]) -> Vec<Line> {
        let mut lines = Vec::new();
        for (at, captured) in frames.iter().enumerate() {
            let Some(mut line) = self.line(captured) else { continue };
            for later in &frames[at + 1..] {
                let after = later.at.saturating_sub(captured.at);
                if after > PATIENCE {
                    break;
                }
                line.seen(&later.bytes, after);
            }
            lines.push(line);
        }
        lines
    }

    /// What is said of a frame, if it is a request.
    pub(crate) fn line(&mut self, captured: &Captured) -> Option<Line> {
        let frame = arp(&captured.bytes, REQUEST)?;
        let (target, sender) = (Ipv4Addr::from(frame.arp.tpa), Ipv4Addr::from(frame.arp.spa));
        let sender_mac = Lladdr::new(frame.arp.sha);
        let name = self.given.clone().or_else(|| captured.interface.clone()).or_else(|| self.back_to(sender));
        let on = name.clone().and_then(|name| {
            let state = self.state;
            self.known.entry(name.clone()).or_insert_with(|| state.on(&name).ok()).as_ref()
        });
        let mut line = Line {
            at_s: captured.at.as_secs_f64(),
            interface: name,
            target,
            sender,
            sender_mac,
            kernel: None,
            why: "the interface is not known: name it (explain IF --pcap FILE)".to_owned(),
            fast_path: "not known".to_owned(),
            replies: 0,
            after_ms: None,
        };
        let Some(on) = on else { return Some(line) };
        let destination = Some(Lladdr::new(frame.dst)).filter(|to| !to.is_group());
        let (interface, ifindex) = (on.link().name.clone(), on.link().ifindex);
        // A bridge judges by the Ethernet source, and a question has one link-layer address of the sender's.
        let source = Lladdr::new(frame.src);
        let by_bridge = taken_by(on.snapshot(), ifindex).is_some_and(|master| master.kind.as_deref() == Some("bridge"));
        let sender_mac = if by_bridge && !is_of_a_host(source) { source } else { sender_mac };
        let question = Question { interface, ifindex, target, sender, sender_mac, destination };
        let kernel = Kernel { snapshot: on.snapshot(), beyond: on.beyond(), lookup: on.lookup() }.verdict(&question);
        line.kernel = Some(kernel.answer);
        line.why = format!("the kernel {}: {}", headline(&kernel), kernel.cause.what);
        line.fast_path = on.view.explain(&question).reason.unwrap_or_else(|| "reply".to_owned());
        Some(line)
    }

    /// The interface that a sender is behind, if the file does not say on which it was captured.
    fn back_to(&mut self, sender: Ipv4Addr) -> Option<String> {
        let on = self.known.entry("lo".to_owned()).or_insert_with(|| self.state.on("lo").ok()).as_ref()?;
        let snapshot = on.snapshot();
        let known = snapshot.neighbours.values().find(|entry| entry.addr == sender).map(|entry| entry.ifindex);
        let routed = || match snapshot.walk(LOOPBACK, Ipv4Addr::UNSPECIFIED, sender) {
            End::Route(_, route) => route.legs().first().copied().filter(|&leg| leg != LOOPBACK),
            _ => None,
        };
        let ifindex = known.or_else(routed)?;
        snapshot.links.get(&ifindex).map(|link| link.name.clone())
    }
}

impl Line {
    /// A later frame: counts it if it is a reply to this request.
    pub(crate) fn seen(&mut self, bytes: &[u8], after: Duration) {
        let Some(reply) = arp(bytes, REPLY) else { return };
        let is_it = Ipv4Addr::from(reply.arp.spa) == self.target
            && Ipv4Addr::from(reply.arp.tpa) == self.sender
            && reply.arp.tha == self.sender_mac.bytes();
        if is_it {
            self.replies += 1;
            self.after_ms = self.after_ms.or(Some(after.as_secs_f64() * 1000.0));
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let interface = self.interface.as_deref().unwrap_or("?");
        let seen = match (self.replies, self.after_ms) {
            (0, _) | (_, None) => "no reply seen".to_owned(),
            (1, Some(after)) => format!("reply seen after {after:.3} ms"),
            (replies, Some(after)) => format!("{replies} replies seen, the first after {after:.3} ms"),
        };
        let fast_path = match self.fast_path.as_str() {
            "reply" => "answers".to_owned(),
            reason => format!("passes ({reason})"),
        };
        format!(
            "{:.6} {interface} who-has {} tell {}: {seen}; fast path {fast_path}; {}",
            self.at_s, self.target, self.sender, self.why
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn line() -> Line {
        Line {
            at_s: 1.5,
            interface: Some("v0".into()),
            target: Ipv4Addr::new(10, 0, 0, 1),
            sender: Ipv4Addr::new(10, 0, 0, 2),
            sender_mac: Lladdr::new(MAC),
            kernel: Some(Answer::Silent),
            why: "the kernel stays silent: it is a test".into(),
            fast_path: "no_route".into(),
            replies: 0,
            after_ms: None,
        }
    }

    #[test]
    fn a_reply_is_one_to_this_request() {
        let mut reply = ArpFrame::request([6; 6], [10, 0, 0, 1], [10, 0, 0, 2]);
        reply.arp.oper = REPLY;
        reply.arp.tha = MAC;
        let mut line = line();
        line.seen(&reply.to_bytes(), Duration::from_micros(250));
        line.seen(&reply.to_bytes(), Duration::from_millis(3));
        reply.arp.spa = [10, 0, 0, 3];
        line.seen(&reply.to_bytes(), Duration::ZERO);
        assert_eq!((line.replies, line.after_ms), (2, Some(0.25)));
        assert!(
            line.text().contains("2 replies seen, the first after 0.250 ms; fast path passes (no_route)"),
            "{}",
            line.text()
        );
    }

    #[test]
    fn units_of_time_are_those_of_the_file() {
        assert_eq!((units_of(6), units_of(9), units_of(0x80 | 10)), (1_000_000, 1_000_000_000, 1024));
    }

    #[test]
    fn what_is_no_capture_is_said_to_be_none() {
        let (frames, read) = frames(&b"hello, this is no capture at all"[..]);
        assert!(frames.is_empty() && read.unwrap_err().to_string().contains("neither pcap nor pcapng"));
    }

    #[test]
    fn arp_behind_tags_is_told_from_other_frames() {
        let is = |types: &[u8]| {
            let bytes = [&[2; 12], types, &[0; 28]].concat();
            Captured { at: Duration::ZERO, interface: None, bytes }.is_tagged_arp()
        };
        assert!(is(&[0x81, 0, 0, 7, 8, 6]) && is(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 8, 6]));
        assert!(!is(&[8, 6]) && !is(&[0x81, 0, 0, 7, 8, 0]) && !is(&[0x81, 0]));
    }

    /// `tcpdump -i any` writes such ones (LINKTYPE_LINUX_SLL2).
    #[test]
    fn a_capture_without_ethernet_headers_is_refused() {
        const SLL2: [u8; 2] = 276_u16.to_le_bytes();
        let header = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, SLL2[0], SLL2[1], 0, 0];
        let (frames, read) = frames(&header[..]);
        let why = read.unwrap_err().to_string();
        assert!(frames.is_empty() && why.contains("LINUX_SLL2") && why.contains("tcpdump -i IF"), "{why}");
    }
}
