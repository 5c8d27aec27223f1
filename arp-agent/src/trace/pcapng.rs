//! A trace as a capture: what came in, and what the program sent, which no other capture on the node can see.

use super::{FrameVerdict, Shown};
use anyhow::Context as _;
use arp_common::PackedArp;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{PcapNgBlock as _, PcapNgWriter};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// `epb_flags`: the direction.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// `if_tsresol`: times are in units of 10⁻⁹ s. The crate writes them so, whatever this says.
const NANOSECONDS: u8 = 9;

/// Writes a capture.
pub(crate) struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    /// The numbers of interfaces in the file, by name.
    interfaces: BTreeMap<String, u32>,
    /// Frames that were left out since the last one.
    lost: u64,
}

impl<W: Write> Capture<W> {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn new(into: W) -> io::Result<Self> {
        let writer = PcapNgWriter::new(into).map_err(cause)?;
        Ok(Capture { writer, interfaces: BTreeMap::new(), lost: 0 })
    }

    /// Notes that frames were left out; the next one says so.
    pub(crate) fn lost(&mut self, count: u64) {
        self.lost += count;
    }

    /// Writes a frame, and the reply that it got.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&mut self, shown: &Shown) -> anyhow::Result<()> {
        let frame = shown.packed().context("the agent has sent a frame that is not whole; is it another version?")?;
        let interface = self.interface(&shown.interface)?;
        let at = Duration::from_micros((shown.time * 1e6).round() as u64);
        self.packet(interface, at, &frame, INBOUND, shown.became())?;
        if let (FrameVerdict::Answered, Some(mac)) = (shown.verdict, shown.answer) {
            self.packet(interface, at, &frame.reply(mac), OUTBOUND, "the fast path's reply".to_owned())?;
        }
        Ok(())
    }

    /// Writes what is held back.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(&number) = self.interfaces.get(name) {
            return Ok(number);
        }
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
        self.writer.write_block(&block.into_block()).map_err(cause)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }

    fn packet(&mut self, on: u32, at: Duration, frame: &PackedArp, way: u32, comment: String) -> io::Result<()> {
        let bytes = frame.to_bytes();
        let mut options = vec![EnhancedPacketOption::Comment(Cow::Owned(comment)), EnhancedPacketOption::Flags(way)];
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => options.push(EnhancedPacketOption::DropCount(lost)),
        }
        let block = EnhancedPacketBlock {
            interface_id: on,
            timestamp: at,
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(&bytes),
            options,
        };
        self.writer.write_block(&block.into_block()).map(drop).map_err(cause)
    }
}

/// What the library failed by, as people know it.
fn cause(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{AT, MAC, told};
    use super::*;
    use crate::explain::capture::frames;
    use arp_common::Reason;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_capture_has_each_frame_its_reply_and_what_became_of_it() {
        let mut capture = Capture::new(Vec::new()).unwrap();
        capture.write(&Shown::new(&told(None, None), "cali0", AT)).unwrap();
        capture.lost(3);
        capture.write(&Shown::new(&told(Some(Reason::NO_ROUTE), None), "cali1", AT)).unwrap();
        capture.write(&Shown::new(&told(Some(Reason::SHADOW), None), "cali0", AT)).unwrap();
        let file = capture.writer.into_inner();
        let (read, whole) = frames(file.as_slice());
        whole.unwrap();
        let request = told(None, None).frame();
        let bytes: Vec<_> = read.iter().map(|frame| frame.bytes.clone()).collect();
        let request_bytes = request.to_bytes().to_vec();
        assert_eq!(bytes, [&request_bytes[..], &request.reply(MAC).to_bytes(), &request_bytes, &request_bytes]);
        let on: Vec<_> = read.iter().filter_map(|frame| frame.interface.as_deref()).collect();
        assert_eq!(on, ["cali0", "cali0", "cali1", "cali0"]);
        assert!(read.iter().all(|frame| frame.at == Duration::from_micros(1_795_000_000_250_005)));
        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let mut options = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
                options.push(packet.options);
            }
        }
        let comment = |text: &str| EnhancedPacketOption::Comment(Cow::Owned(text.to_owned()));
        assert_eq!(options[0], [comment("answered, ee:ee:ee:ee:ee:ee"), EnhancedPacketOption::Flags(INBOUND)]);
        assert_eq!(options[1], [comment("the fast path's reply"), EnhancedPacketOption::Flags(OUTBOUND)]);
        let passed =
            [comment("passed, no_route"), EnhancedPacketOption::Flags(INBOUND), EnhancedPacketOption::DropCount(3)];
        assert_eq!(options[2], passed);
        assert_eq!(options[3].len(), 2, "what was lost is said once");
    }
}
