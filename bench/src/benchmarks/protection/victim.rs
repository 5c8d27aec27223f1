//! What the victim feels, and what becomes of the node's neighbour table.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use arp_common::ArpFrame;
use lab::contacts::connect_to_each;
use lab::topology::CALICO_GATEWAY;
use lab::{Lab, Neighbours, OnCore, Wire, netlink};

/// Connections, and first requests, that the victim tries in a window. Fewer than `--entry-limit` and `--budget` allow.
pub(super) const TRIES: u8 = 80;
/// Of those, how many between two flushes of their entries: fewer than `--entry-limit` allows.
const A_PASS: u8 = 40;
pub(super) const CONNECT: Duration = Duration::from_millis(900);
pub(super) const REPLY: Duration = Duration::from_millis(200);
/// Behind the uplink, everybody in 10.11.0.0/23 is there.
const LIVE: [u8; 2] = [10, 11];
/// How many hosts the victim contacts at once while the subnet is scanned.
pub(super) const AT_ONCE: u8 = 128;

pub(super) const FRESH: &str = "fresh connections";
pub(super) const FIRST: &str = "first requests of others";
pub(super) const OWN: &str = "the attacker's own requests";
pub(super) const MANY: &str = "hosts contacted at once";

/// A turn's two pods, and for how long they are watched at least.
pub(super) struct Victim<'a> {
    pub(super) lab: &'a Lab,
    pub(super) attacker: u8,
    pub(super) victim: u8,
    pub(super) core: usize,
    pub(super) window: Duration,
}

/// What was felt.
#[derive(Default)]
pub(super) struct Felt {
    pub(super) of: BTreeMap<&'static str, Answers>,
    /// Most entries that the attacker's interface had.
    pub(super) entries: usize,
    /// Most entries without an address that the uplink had.
    pub(super) unresolved: usize,
}

#[derive(Default)]
pub(super) struct Answers {
    pub(super) tried: u32,
    /// How long those took that were answered.
    pub(super) micros: Vec<f64>,
}

impl Answers {
    /// The share that was not answered, in %.
    pub(super) fn lost(&self) -> f64 {
        100.0 * (1.0 - self.micros.len() as f64 / f64::from(self.tried))
    }
}

impl Victim<'_> {
    /// Connects and asks, as the victim, and asks as the attacker.
    pub(super) fn feel(&self) -> Result<Felt> {
        let Victim { lab, attacker, victim, window, .. } = *self;
        // The attack has begun, and the table is as full as it gets.
        thread::sleep(window / 4);
        let begin = Instant::now();
        let mut felt = Felt::default();
        let [own, other] = [attacker, victim].map(|pod| lab.host(&format!("p{pod}")));
        let [own_wire, wire] = [own, other].map(|host| Wire::open_for_arp(host.namespace(), "eth0"));
        let (own_wire, wire) = (own_wire?, wire?);
        let _core = OnCore::enter(self.core)?;
        for number in 0..TRIES {
            if begin.elapsed() > window * 2 {
                break;
            }
            if number % A_PASS == 0 {
                lab.node().ip("neigh flush dev eth0 to 10.11.0.0/23 nud all")?;
                lab.node().ip(&format!("neigh flush dev cali{victim} to 10.67.{victim}.0/24 nud all"))?;
                // Until an agent has heard of it: what is gone counts for the entry-limit until then.
                thread::sleep(Duration::from_millis(30));
            }
            let far = Ipv4Addr::new(LIVE[0], LIVE[1], 0, 1 + number % A_PASS);
            felt.add(FRESH, &connect_to_each(other.namespace(), &[far], CONNECT)?);
            let frame = ArpFrame::request(other.mac().bytes(), [10, 67, victim, 1 + number % A_PASS], CALICO_GATEWAY);
            felt.add(FIRST, &[ask(&wire, &frame)?]);
            let frame = ArpFrame::request(own.mac().bytes(), own.ip(), CALICO_GATEWAY);
            felt.add(OWN, &[ask(&own_wire, &frame)?]);
        }
        felt.look(lab, attacker)?;
        thread::sleep(window.saturating_sub(begin.elapsed()));
        felt.look(lab, attacker)?;
        Ok(felt)
    }

    /// Contacts many hosts at once.
    pub(super) fn contact_many(&self) -> Result<Felt> {
        let Victim { lab, attacker, victim, window, .. } = *self;
        thread::sleep(window / 4);
        let _core = OnCore::enter(self.core)?;
        let hosts: Vec<Ipv4Addr> = (1..=AT_ONCE).map(|host| Ipv4Addr::new(LIVE[0], LIVE[1], 1, host)).collect();
        let mut felt = Felt::default();
        felt.add(MANY, &connect_to_each(lab.host(&format!("p{victim}")).namespace(), &hosts, CONNECT)?);
        felt.look(lab, attacker)?;
        Ok(felt)
    }
}

impl Felt {
    fn add(&mut self, what: &'static str, took: &[Option<Duration>]) {
        let answers = self.of.entry(what).or_default();
        answers.tried += took.len() as u32;
        answers.micros.extend(took.iter().flatten().map(|time| time.as_secs_f64() * 1e6));
    }

    /// Looks at the node's table.
    fn look(&mut self, lab: &Lab, attacker: u8) -> Result<()> {
        let index = |name: &str| lab.node().run(|| netlink::index(name))?;
        let (attacker, uplink) = (index(&format!("cali{attacker}"))?, index("eth0")?);
        let table = Neighbours::of(lab.node())?.entries;
        self.entries = self.entries.max(table.keys().filter(|(of, _)| *of == attacker).count());
        let unresolved = table.iter().filter(|((of, _), entry)| *of == uplink && entry.lladdr.is_none()).count();
        self.unresolved = self.unresolved.max(unresolved);
        Ok(())
    }
}

/// How long a reply takes; `None` if none comes.
fn ask(wire: &Wire, frame: &ArpFrame) -> Result<Option<Duration>> {
    wire.drain()?;
    let begin = Instant::now();
    wire.send(&frame.to_bytes())?;
    while let Some(reply) = wire.receive(begin + REPLY)? {
        // To this sender, of this target.
        if reply.get(20..22) == Some(&[0, 2])
            && reply.get(28..32) == Some(&frame.arp.tpa)
            && reply.get(38..42) == Some(&frame.arp.spa)
        {
            return Ok(Some(begin.elapsed()));
        }
    }
    Ok(None)
}
