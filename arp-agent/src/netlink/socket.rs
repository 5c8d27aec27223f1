//! A netlink socket that carries one request at a time: it sends, collects the answer, and reads how that ended.

use std::{io, time::Duration};

use anyhow::{Context, Result, bail};
use linux_raw_sys::netlink::nlmsgerr_attrs;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN,
};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    libc,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::wire::{self, Message, NetlinkRequest};

/// How much memory is kept from one answer to the next. What a node with many links fills is given back.
const ANSWER_LEN: usize = 1 << 18;
/// How long the kernel may take for the next part of an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a dump is repeated if changes interrupt it.
const ATTEMPTS: usize = 16;
/// Larger than any part of a dump (32 KiB), and than any message about a link without its virtual functions.
pub(crate) const RECEIVE_LEN: usize = 1 << 16;

/// A socket with at most one open request.
pub(crate) struct NetlinkSocket {
    protocol: isize,
    socket: Socket,
    sequence: u32,
    /// What was received last.
    chunk: Vec<u8>,
    /// The answer so far.
    answer: Vec<u8>,
}

impl NetlinkSocket {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn new(protocol: isize) -> Result<Self> {
        Ok(Self {
            protocol,
            socket: open(protocol)?,
            sequence: 0,
            chunk: Vec::with_capacity(RECEIVE_LEN),
            answer: Vec::new(),
        })
    }

    /// The messages that answer a dump request, one after the other as [`wire::messages`] reads them.
    pub(crate) fn dump(&mut self, what: &str, request: &NetlinkRequest) -> Result<&[u8]> {
        for _ in 0..ATTEMPTS {
            let interrupted = self.ask(request, NLM_F_DUMP).with_context(|| format!("asking the kernel for {what}"))?;
            if !interrupted {
                return Ok(&self.answer);
            }
        }
        bail!("asking the kernel for {what}: interrupted by changes {ATTEMPTS} times in a row")
    }

    /// The one message that answers a request that is not a dump.
    pub(crate) fn get(&mut self, what: &str, request: &NetlinkRequest) -> Result<&[u8]> {
        self.ask(request, 0).with_context(|| format!("asking the kernel for {what}"))?;
        Ok(&self.answer)
    }

    /// Asks the kernel to make a change. Gives the message that it answers with, if `flags` ask for one (NLM_F_ECHO).
    pub(crate) fn command(&mut self, what: &str, request: &NetlinkRequest, flags: u16) -> Result<&[u8]> {
        self.ask(request, NLM_F_ACK | flags).with_context(|| what.to_owned())?;
        Ok(&self.answer)
    }

    /// The socket's port: notifications carry the port of the socket whose request caused them.
    pub(crate) fn port(&self) -> Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).context("reading a netlink socket's address")?;
        Ok(address.port_number())
    }

    /// Returns whether the dump was interrupted.
    fn ask(&mut self, request: &NetlinkRequest, flags: u16) -> Result<bool> {
        self.answer.clear();
        self.answer.shrink_to(ANSWER_LEN);
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.to_bytes(NLM_F_REQUEST | flags, self.sequence);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).context("send")?;
        let mut collected = Collected { dump: flags & NLM_F_DUMP != 0, ..Collected::default() };
        while !collected.finished {
            let received = self.receive().and_then(|()| collected.add(&self.chunk, self.sequence, &mut self.answer));
            if received.is_err() && !collected.refused {
                // The rest of the answer may still come, and until then the kernel refuses the next dump on this
                // socket (EBUSY).
                self.open_again()?;
            }
            received?;
        }
        Ok(collected.interrupted)
    }

    /// Replaces the socket by a new one, with the same port if possible: notifications carry the port of the socket
    /// that caused them.
    fn open_again(&mut self) -> Result<()> {
        let port = self.port()?;
        // This closes the old one, which frees its port.
        self.socket = unbound(self.protocol)?;
        if self.socket.bind(&SocketAddr::new(port, 0)).is_err() {
            self.socket.bind_auto().context("binding a netlink socket")?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        loop {
            self.chunk.clear();
            match self.socket.recv_from(&mut self.chunk, libc::MSG_TRUNC) {
                Ok((len, _)) if len > self.chunk.len() => {
                    bail!("answer of {len} bytes is longer than {}", self.chunk.len())
                }
                // Only the kernel has port 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    bail!("no answer within {TIMEOUT:?}")
                }
                Err(error) => return Err(error).context("receive"),
            }
        }
    }
}

/// The errno of the kernel's refusal, if the error is one.
pub(crate) fn errno(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
}

fn open(protocol: isize) -> Result<Socket> {
    let mut socket = unbound(protocol)?;
    socket.bind_auto().context("binding a netlink socket")?;
    Ok(socket)
}

fn unbound(protocol: isize) -> Result<Socket> {
    let socket = Socket::new(protocol).context("opening a netlink socket")?;
    // Absent before 4.12; only the text of refusals depends on it.
    let _ = socket.set_ext_ack(true);
    if protocol == netlink_sys::protocols::NETLINK_ROUTE {
        socket.set_netlink_get_strict_chk(true).context("strict checking of netlink requests (Linux 4.20)")?;
    }
    let timeout = TimeVal::seconds(i64::try_from(TIMEOUT.as_secs()).unwrap_or(i64::MAX));
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).context("setting SO_RCVTIMEO")?;
    Ok(socket)
}

/// How much of an answer has arrived.
#[derive(Debug, Default)]
struct Collected {
    dump: bool,
    finished: bool,
    interrupted: bool,
    /// The kernel has ended the answer with an error: nothing more will come.
    refused: bool,
}

impl Collected {
    /// Takes one received buffer. Messages with another sequence number belong to an older request.
    fn add(&mut self, chunk: &[u8], sequence: u32, answer: &mut Vec<u8>) -> Result<()> {
        for message in wire::messages(chunk) {
            let message = message?;
            if message.sequence != sequence {
                continue;
            }
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => bail!("the kernel lost part of its answer"),
                // A dump that was refused ends like one that went well, but with a negative status.
                NLMSG_DONE | NLMSG_ERROR => {
                    self.finished = true;
                    if let Some(error) = failure(&message)? {
                        self.refused = true;
                        return Err(error);
                    }
                }
                _ => {
                    wire::append(answer, message.kind, message.flags, 0, message.payload);
                    self.finished |= !self.dump;
                }
            }
        }
        Ok(())
    }
}

/// The error that an NLMSG_DONE or NLMSG_ERROR carries; `None` is success.
fn failure(message: &Message<'_>) -> Result<Option<anyhow::Error>> {
    let (status, rest) = message.split::<4>()?;
    let status = i32::from_ne_bytes(*status);
    if status == 0 {
        return Ok(None);
    }
    let cause = io::Error::from_raw_os_error(status.saturating_neg());
    Ok(Some(match explanation(message, rest) {
        Some(text) => anyhow::Error::new(cause).context(text),
        None => cause.into(),
    }))
}

/// The kernel's own words (NLMSGERR_ATTR_MSG), if it has any.
fn explanation(message: &Message<'_>, rest: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = nlmsgerr_attrs::NLMSGERR_ATTR_MSG as u16;
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let skip = if message.kind == NLMSG_DONE {
        0
    } else if message.flags & NLM_F_CAPPED != 0 {
        wire::HEADER_LEN
    } else {
        wire::align(u32::from_ne_bytes(*rest.first_chunk()?) as usize)
    };
    let value = wire::attribute(rest.get(skip..)?, NLMSGERR_ATTR_MSG).ok()??;
    Some(wire::text(value))
}

#[cfg(test)]
pub(crate) use tests::collect;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a dump collects from one received buffer.
    pub(crate) fn collect(chunk: &[u8], sequence: u32) -> Result<(Vec<u8>, bool, bool)> {
        let mut collected = Collected { dump: true, ..Collected::default() };
        let mut answer = Vec::new();
        collected.add(chunk, sequence, &mut answer)?;
        Ok((answer, collected.finished, collected.interrupted))
    }

    #[test]
    fn a_socket_that_is_opened_again_keeps_its_port() {
        let mut socket = NetlinkSocket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        let port = socket.port().unwrap();
        assert_ne!(port, 0);
        socket.open_again().unwrap();
        assert_eq!(socket.port().unwrap(), port);
    }

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::append(&mut bytes, kind, flags, sequence, payload);
        bytes
    }

    #[test]
    fn an_answer_is_what_has_its_sequence_number() {
        let mut chunk = message(libc::RTM_NEWROUTE, 2, 6, &[1; 12]);
        chunk.extend(message(libc::RTM_NEWROUTE, 2, 7, &[2; 13]));
        chunk.extend(message(NLMSG_DONE, 2, 6, &[0; 4]));
        let (answer, finished, interrupted) = collect(&chunk, 7).unwrap();
        assert_eq!(answer, message(libc::RTM_NEWROUTE, 2, 0, &[2; 13]));
        assert!(!finished && !interrupted);
        let done = message(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, 7, &[0; 4]);
        assert_eq!(collect(&done, 7).unwrap(), (vec![], true, true));
    }

    /// As 6.18 refuses a dump of routes whose header is not all 0 under strict checking.
    #[test]
    fn a_refusal_inside_done_is_an_error() {
        let done = message(NLMSG_DONE, 2, 1, &(-libc::EINVAL).to_ne_bytes());
        assert_eq!(errno(&collect(&done, 1).unwrap_err()), Some(libc::EINVAL));
        let error = message(NLMSG_ERROR, 0, 1, &i32::MIN.to_ne_bytes());
        assert!(collect(&error, 1).is_err());
        assert!(collect(&message(NLMSG_DONE, 2, 1, &[]), 1).is_err());
        assert!(collect(&message(NLMSG_OVERRUN, 2, 1, &[]), 1).is_err());
    }

    #[test]
    fn a_refusal_is_told_in_the_kernels_words() {
        let mut payload = (-libc::ENOENT).to_ne_bytes().to_vec();
        payload.extend([9, 0, 1, 0]);
        payload.extend(b"oops\0\0\0\0");
        let done = message(NLMSG_DONE, 2 | NLM_F_ACK_TLVS, 1, &payload);
        let error = collect(&done, 1).unwrap_err();
        assert_eq!(errno(&error), Some(libc::ENOENT));
        assert_eq!(error.to_string(), "oops");
    }
}
