//! Netlink framing: messages in a buffer, attributes in a message, requests.
//!
//! Only what is needed is decoded, here and in `kernel/`. A full decoder refuses the whole message if it does not know
//! an attribute, or expects it to be longer, even if nobody needs that attribute. The agent would then never be ready
//! because of one exotic tunnel.

use anyhow::{Context, Result, ensure};
use netlink_packet_core::NlasIterator;
use nix::libc;

/// `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = size_of::<libc::nlmsghdr>();

/// One netlink message as it lies in a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// RTM_*, NFT_MSG_* …
    pub(crate) kind: u16,
    /// NLM_F_*.
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port of the socket whose request caused the message; 0 if the kernel sent it by itself.
    pub(crate) port: u32,
    /// What follows `struct nlmsghdr`.
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The fixed structure at the start of the payload, and the attributes after it.
    pub(crate) fn split<const N: usize>(&self) -> Result<(&'a [u8; N], &'a [u8])> {
        self.payload
            .split_first_chunk()
            .with_context(|| format!("{} bytes instead of a header of {N}", self.payload.len()))
    }
}

/// The messages in `bytes`, in order. Ends with an error at the first that does not fit.
pub(crate) fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages { rest: bytes }
}

pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let cut = cut_message(self.rest);
        self.rest = cut.as_ref().map_or(&[], |(_, rest)| rest);
        Some(cut.map(|(message, _)| message))
    }
}

fn cut_message(bytes: &[u8]) -> Result<(Message<'_>, &[u8])> {
    let header = bytes.first_chunk::<HEADER_LEN>().context("truncated netlink header")?;
    let len = u32_at(header, 0) as usize;
    ensure!((HEADER_LEN..=bytes.len()).contains(&len), "netlink message of {len} bytes in {} bytes", bytes.len());
    let message = Message {
        kind: u16_at(header, 4),
        flags: u16_at(header, 6),
        sequence: u32_at(header, 8),
        port: u32_at(header, 12),
        payload: &bytes[HEADER_LEN..len],
    };
    Ok((message, bytes.get(align(len)..).unwrap_or(&[])))
}

/// Attributes as (type without its flag bits, value).
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8])>> {
    NlasIterator::new(bytes).map(|attribute| {
        let attribute = attribute?;
        // The iterator has checked 4 <= length <= bytes left.
        let (kind, len) = (attribute.kind(), usize::from(attribute.length()));
        Ok((kind, &attribute.into_inner()[4..len]))
    })
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Result<Option<&[u8]>> {
    attributes(bytes)
        .find(|a| !matches!(a, Ok((k, _)) if *k != kind))
        .transpose()
        .map(|found| found.map(|(_, value)| value))
}

/// An attribute's value as an array of `N` bytes.
pub(crate) fn bytes<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.try_into().with_context(|| format!("attribute of {} bytes instead of {N}", value.len()))
}

/// A native-endian u32 attribute.
pub(crate) fn u32_of(value: &[u8]) -> Result<u32> {
    bytes(value).map(u32::from_ne_bytes)
}

/// A native-endian i32 attribute.
pub(crate) fn i32_of(value: &[u8]) -> Result<i32> {
    bytes(value).map(i32::from_ne_bytes)
}

/// A string attribute. To the kernel an interface's name is any bytes: one that is not UTF-8 still gets a text.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A field of a fixed structure; `at` is known to be inside.
pub(crate) fn u32_at<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// A field of a fixed structure; `at` is known to be inside.
pub(crate) fn u16_at<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

/// Lengths on the wire are rounded up to 4.
pub(crate) fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A request: kind, fixed structure, attributes. The socket adds flags and sequence number.
#[derive(Clone, Debug)]
pub(crate) struct NetlinkRequest {
    pub(crate) kind: u16,
    body: Vec<u8>,
}

impl NetlinkRequest {
    /// `header` is the whole fixed structure: with strict checking a shorter one is refused.
    pub(crate) fn new(kind: u16, header: &[u8]) -> Self {
        let mut body = header.to_vec();
        body.resize(align(header.len()), 0);
        Self { kind, body }
    }

    /// Adds a 4-byte attribute.
    pub(crate) fn with(self, kind: u16, value: u32) -> Self {
        self.with_bytes(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute.
    pub(crate) fn with_bytes(mut self, kind: u16, value: &[u8]) -> Self {
        append_attribute(&mut self.body, kind, value);
        self
    }

    /// Adds a string.
    pub(crate) fn with_text(self, kind: u16, text: &str) -> Self {
        self.with_bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// The message to send.
    pub(crate) fn to_bytes(&self, flags: u16, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, self.kind, flags, sequence, &self.body);
        bytes
    }
}

/// Appends an attribute, padded. None that the agent sends is longer than a page.
pub(crate) fn append_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(align(bytes.len()), 0);
}

/// Appends a message, padded.
pub(crate) fn append(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let len = HEADER_LEN + payload.len();
    bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(align(bytes.len()), 0);
}
