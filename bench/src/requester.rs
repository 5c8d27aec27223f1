//! A pod that asks as fast as it can be answered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use arp_common::ArpFrame;

use arp_common::Lladdr;
use lab::Namespace;
use lab::Wire;
use lab::{Host, OnCore};

/// How long a reply without delay may take.
const PROMPT: Duration = Duration::from_millis(500);
/// How long a reply may take that the kernel delays: its longest delay is 0.8 s.
const DELAYED: Duration = Duration::from_secs(3);
/// How many requests a burst sends before it takes the replies: few enough for the kernel's queues.
pub const BURST: usize = 64;

/// A raw socket on a host's `eth0` that asks for IPv4 addresses and takes the replies. It sees ARP only, and nothing
/// that the host itself sends.
#[derive(Debug)]
pub struct Requester {
    name: String,
    wire: Wire,
    mac: [u8; 6],
    ip: [u8; 4],
    core: usize,
}

/// The result of many requests in flight.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// From request to reply, of every request.
    pub latencies: Vec<Duration>,
    /// How many replies came within the window.
    pub within: u64,
}

impl Requester {
    /// A requester on the host's `eth0`; it stays on one core while it asks.
    pub fn on(host: &Host, core: usize) -> Result<Self> {
        Self::open(host.namespace(), host.name(), host.mac(), host.ip(), core)
    }

    /// The same in a namespace that is no host of a lab; its `eth0` has these addresses.
    pub fn open(namespace: &Namespace, name: &str, mac: Lladdr, ip: [u8; 4], core: usize) -> Result<Self> {
        // A socket for one EtherType is no tap: it is not shown what leaves.
        let wire = Wire::open_for_arp(namespace, "eth0")?;
        Ok(Requester { name: name.to_owned(), wire, mac: mac.bytes(), ip, core })
    }

    /// Asks `count` times for `tpa`, one request after the other, and gives how long each took.
    pub fn one_at_a_time(&self, tpa: [u8; 4], count: usize) -> Result<Vec<Duration>> {
        let _core = OnCore::enter(self.core)?;
        self.drain()?;
        let request = self.request(tpa);
        let mut latencies = Vec::with_capacity(count);
        for _ in 0..count {
            let sent = Instant::now();
            self.wire.send(&request)?;
            loop {
                match self.reply(sent + PROMPT)? {
                    Some(target) if target == tpa => break,
                    Some(_) => {}
                    None => bail!("{}: no reply to request {} within {PROMPT:?}", self.name, latencies.len() + 1),
                }
            }
            latencies.push(sent.elapsed());
        }
        Ok(latencies)
    }

    /// Asks for `tpa` without a pause for at least `window`, in bursts of [`BURST`] requests, and says how long each
    /// burst took, from its first request to its last reply.
    pub fn bursts(&self, tpa: [u8; 4], window: Duration) -> Result<Vec<Duration>> {
        let _core = OnCore::enter(self.core)?;
        self.drain()?;
        let request = self.request(tpa);
        let mut bursts = Vec::new();
        let end = Instant::now() + window;
        while Instant::now() < end {
            let begin = Instant::now();
            for _ in 0..BURST {
                self.wire.send(&request)?;
            }
            for replies in 0..BURST {
                let Some(target) = self.reply(begin + PROMPT)? else {
                    bail!("{}: {replies} of {BURST} requests got a reply within {PROMPT:?}", self.name);
                };
                ensure!(target == tpa, "{}: a reply for {target:?}, which nobody asked for", self.name);
            }
            bursts.push(begin.elapsed());
        }
        Ok(bursts)
    }

    /// Keeps one request in flight for each of `targets` for `window`, then waits for the replies that are due; for a
    /// responder that delays each reply by itself.
    pub fn in_flight(&self, targets: &[[u8; 4]], window: Duration) -> Result<InFlight> {
        let _core = OnCore::enter(self.core)?;
        self.drain()?;
        let begin = Instant::now();
        let mut sent = Vec::new();
        for &target in targets {
            sent.push(Some(Instant::now()));
            self.wire.send(&self.request(target))?;
        }
        let (mut requests, mut within, mut latencies) = (sent.len(), 0, Vec::new());
        while sent.iter().any(Option::is_some) {
            let Some(target) = self.reply(begin + window + DELAYED)? else {
                let due = sent.iter().flatten().count();
                bail!("{}: {due} of {requests} requests got no reply within {DELAYED:?}", self.name);
            };
            let now = Instant::now();
            let Some(index) = targets.iter().position(|&asked| asked == target) else { continue };
            let Some(since) = sent[index].take() else { continue };
            latencies.push(now - since);
            if now - begin < window {
                within += 1;
                requests += 1;
                sent[index] = Some(Instant::now());
                self.wire.send(&self.request(target))?;
            }
        }
        Ok(InFlight { latencies, within })
    }

    fn request(&self, tpa: [u8; 4]) -> [u8; ArpFrame::LEN] {
        ArpFrame::request(self.mac, self.ip, tpa).to_bytes()
    }

    /// Whose address the next reply to this host gives, waiting for it until `deadline`.
    fn reply(&self, deadline: Instant) -> Result<Option<[u8; 4]>> {
        let mut buffer = [0; 128];
        while let Some((length, _)) = self.wire.receive_into(&mut buffer, deadline)? {
            if let Some(frame) = ArpFrame::from_bytes(&buffer[..length])
                && frame.arp.oper == [0, 2]
                && frame.dst == self.mac
                && frame.arp.tpa == self.ip
            {
                return Ok(Some(frame.arp.spa));
            }
        }
        Ok(None)
    }

    /// Throws away the replies of whoever asked before.
    fn drain(&self) -> Result<()> {
        while self.reply(Instant::now())?.is_some() {}
        Ok(())
    }
}
