//! Raises events: what the guard tells, and what the mirror shows.

use super::Agent;
use super::warnings::TablePressure;
use crate::control::Response;
use crate::control::feed::{Feed, Follower};
use crate::event::{Event as Said, NeighbourEntry};
use crate::events::book::{Book, EventKey, Recorded, Times};
use crate::events::places::{NeighbourPlaces, Place};
use crate::events::pressure::Gauge;
use crate::events::{EventKind, RaisedEvent};
use crate::kernel::Lookups;
use arp_common::guard::DropReason;
use arp_common::maps::IfaceAddr;
use arp_common::notice::{EventCode, Notice};
use arp_common::{Lladdr, PackedArp};
use nix::libc;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// `NUD_VALID` (include/net/neighbour.h): the kernel sends to it.
const NUD_VALID: u16 =
    libc::NUD_PERMANENT | libc::NUD_NOARP | libc::NUD_REACHABLE | libc::NUD_PROBE | libc::NUD_STALE | libc::NUD_DELAY;
/// How often the size of the neighbour table is read; and where it takes a dump.
const SIZE_PAUSE: Duration = Duration::from_secs(1);
const SIZE_DUMP_PAUSE: Duration = Duration::from_secs(5);
/// How many interfaces are named.
const NAMED: usize = 3;

/// The events, and those who follow them.
pub(super) struct Events {
    book: Book,
    places: NeighbourPlaces,
    gauge: Gauge,
    followers: Vec<Follower>,
    size: Option<TablePressure>,
    size_at: Instant,
    lookups: Option<Lookups>,
}

impl Events {
    pub(super) fn new(now: Instant) -> Self {
        Events {
            book: Book::default(),
            places: NeighbourPlaces::default(),
            gauge: Gauge::default(),
            followers: Vec::new(),
            size: None,
            size_at: now,
            lookups: None,
        }
    }

    /// When events are to be told that have waited.
    pub(super) fn due(&self) -> Option<Instant> {
        self.book.due()
    }

    /// How often each kind has happened.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.book.counts().map(|(kind, count)| (kind.name().to_owned(), count)).collect()
    }

    /// How full the neighbour table was when it was read last, and how much it holds at most.
    pub(super) fn table(&self) -> Option<(u64, u64)> {
        self.size.map(|size| (size.entries, size.most))
    }

    /// What happened with `key` comes to those who want to know.
    fn pass_on(&mut self, kind: EventKind, told: Recorded) {
        if let Some(line) = told.line {
            let level = if kind == EventKind::Moved { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "{line}");
        }
        let Some(event) = told.event else { return };
        if self.followers.is_empty() {
            return;
        }
        let line = serde_json::to_string(&event).unwrap_or_default();
        self.followers.retain_mut(|follower| follower.send(&line));
    }

    fn happened(&mut self, key: EventKey, event: RaisedEvent, times: Times) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = (time.as_secs_f64() * 1000.0).round() / 1000.0;
        let event = RaisedEvent { time, kind: key.1.name().to_owned(), ..event };
        let told = self.book.happened(key, event, times, Instant::now());
        self.pass_on(key.1, told);
    }

    /// Those of the last time; with `follow` also those to come.
    pub(super) fn answer(&mut self, follow: bool) -> Response {
        let kept = Response::Events(self.book.kept());
        if !follow {
            return kept;
        }
        self.followers.retain(|follower| !follower.is_gone());
        let (follower, feed): (Follower, Feed) = Follower::new(kept);
        self.followers.push(follower);
        Response::Feed(feed)
    }

    /// The size of the neighbour table, and how long that is good for.
    fn read_size(&mut self) -> (Option<TablePressure>, Duration) {
        if let Some(size) = TablePressure::read() {
            return (Some(size), SIZE_PAUSE);
        }
        let read = || -> anyhow::Result<Option<TablePressure>> {
            let lookups = match &mut self.lookups {
                Some(lookups) => lookups,
                none => none.insert(Lookups::new()?),
            };
            let size = lookups.table_size()?;
            Ok(size.map(|size| TablePressure { entries: size.entries.into(), most: size.most.into() }))
        };
        match { read }() {
            Ok(size) => (size, SIZE_DUMP_PAUSE),
            Err(error) => {
                log::debug!("reading the size of the neighbour table failed: {error:#}");
                self.lookups = None;
                (None, SIZE_DUMP_PAUSE)
            }
        }
    }
}

/// The guard's code for what is told in a series, if the guard counts it.
fn codes(kind: EventKind) -> &'static [EventCode] {
    match kind {
        EventKind::ClaimsNode => &[EventCode::ClaimsNode],
        EventKind::ClaimsNeighbour => &[EventCode::ClaimsNeighbour, EventCode::Refused(DropReason::OtherOwner)],
        EventKind::Spoofed => &[EventCode::Refused(DropReason::SenderElsewhere)],
        EventKind::OverLimit => &[EventCode::Refused(DropReason::EntryLimit)],
        EventKind::OverBudget => {
            &[EventCode::Refused(DropReason::LearnBudget), EventCode::Refused(DropReason::OtherBudget)]
        }
        EventKind::Moved | EventKind::Flapping | EventKind::TablePressure => &[],
    }
}

/// The neighbours that are valid after these events.
pub(super) fn arrivals(events: &[Said]) -> Vec<(Ipv4Addr, Place)> {
    events.iter().filter_map(|event| if let Said::Neighbour(entry) = event { arrival(entry) } else { None }).collect()
}

fn arrival(entry: &NeighbourEntry) -> Option<(Ipv4Addr, Place)> {
    let lladdr = entry.lladdr.filter(|_| entry.state & NUD_VALID != 0)?;
    Some((entry.addr, Place { ifindex: entry.ifindex, lladdr: Lladdr::new(lladdr) }))
}

impl Agent {
    fn interface_name(&self, ifindex: u32) -> Option<String> {
        self.mirror.snapshot().links.get(&ifindex).map(|link| link.name.clone())
    }

    /// Takes what the programs have told since.
    pub(super) fn read_notices(&mut self) {
        while let Some(notice) = self.bpf.notice() {
            if let Some(code) = EventCode::from_number(notice.code) {
                self.guard_tells(&notice, code);
            }
        }
    }

    fn guard_tells(&mut self, notice: &Notice, code: EventCode) {
        let [a, b, c, d, e, rest] = notice.frame;
        let frame = PackedArp { words: [a, b, c, d, e], rest: rest as u16 };
        let (spa, sha) = (Ipv4Addr::from(frame.spa()), frame.sha());
        let dropped = notice.kind == Notice::DROPPED;
        let sender = format!("{spa} ({sha})");
        let what = match code {
            EventCode::ClaimsNode => format!("{sha} sends as {spa}, which is the node's own address"),
            EventCode::ClaimsNeighbour => {
                let place = self.events.places.of(spa).filter(|place| place.ifindex != notice.ifindex);
                let on = place.and_then(|place| self.interface_name(place.ifindex));
                let on = on.unwrap_or_else(|| "another interface".to_owned());
                format!("{sha} sends as {spa}, which is a neighbour on {on}")
            }
            EventCode::Refused(DropReason::SenderElsewhere) => {
                format!("the node does not route the sender {sender} back by this interface")
            }
            EventCode::Refused(DropReason::EntryLimit) => {
                format!("all the neighbour entries that it may cause are there; the sender {sender} is unknown")
            }
            EventCode::Refused(DropReason::LearnBudget) => {
                format!("too many frames that the kernel may learn from, such as one of {sender}")
            }
            EventCode::Refused(DropReason::OtherBudget) => {
                format!("too many probes and frames without use, such as one of {sender}")
            }
            // Of IP packets no program tells: the counters have them.
            EventCode::Refused(DropReason::UnresolvedBudget) => return,
            EventCode::Refused(DropReason::OtherOwner) => {
                format!("{sha} sends as {spa}, whose owner on this interface is another, and is asked first")
            }
        };
        let does = if dropped { "dropped" } else { "not dropped, the policy only counts" };
        let reason = match code {
            EventCode::Refused(reason) => reason,
            EventCode::ClaimsNode | EventCode::ClaimsNeighbour => DropReason::SenderElsewhere,
        };
        let event = RaisedEvent {
            interface: self.interface_name(notice.ifindex),
            ifindex: Some(notice.ifindex),
            address: Some(spa),
            lladdr: Some(sha),
            reason: Some(reason.name().to_owned()),
            dropped: Some(dropped),
            text: format!("{what}: {does}"),
            ..RaisedEvent::default()
        };
        let kind = EventKind::of(code);
        let total = self.guard_counts((notice.ifindex, kind)).unwrap_or(1);
        self.events.happened((notice.ifindex, kind), event, Times::Total(total));
    }

    /// How many events of a series the guard has counted; `None` if the guard does not count them.
    fn guard_counts(&self, (ifindex, kind): EventKey) -> Option<u64> {
        let codes = codes(kind);
        (!codes.is_empty()).then(|| codes.iter().map(|&code| self.bpf.events_of(ifindex, code)).sum())
    }

    /// Tells the events that have waited.
    pub(super) fn tell_due_events(&mut self) {
        let mut book = std::mem::take(&mut self.events.book);
        let told = book.tell_due(Instant::now(), |key| self.guard_counts(key));
        self.events.book = book;
        for told in told {
            let kind =
                told.event.as_ref().and_then(|event| EventKind::ALL.into_iter().find(|kind| kind.name() == event.kind));
            self.events.pass_on(kind.unwrap_or(EventKind::Flapping), told);
        }
    }

    /// Looks where these neighbours were before. To be called when the mirror has folded what was said of them.
    pub(super) fn note_arrivals(&mut self, arrivals: Vec<(Ipv4Addr, Place)>) {
        let now = Instant::now();
        for (addr, place) in arrivals {
            let neighbours = &self.mirror.snapshot().neighbours;
            let is_still = |from: Place| {
                let key = IfaceAddr { ifindex: from.ifindex, addr: addr.octets() };
                neighbours.get(&key).and_then(arrival).is_some()
            };
            let Some(moved) = self.events.places.is(addr, place, now, is_still) else { continue };
            let from = moved.from;
            let text = if from.ifindex == place.ifindex {
                format!("{addr} is at {} now, before it was at {}", place.lladdr, from.lladdr)
            } else {
                let was = self.interface_name(from.ifindex).unwrap_or_else(|| "an interface that is gone".to_owned());
                format!("{addr} ({}) is here now, before it was on {was} ({})", place.lladdr, from.lladdr)
            };
            let event = RaisedEvent {
                interface: self.interface_name(place.ifindex),
                ifindex: Some(place.ifindex),
                address: Some(addr),
                lladdr: Some(place.lladdr),
                text,
                ..RaisedEvent::default()
            };
            if moved.flaps {
                let text = format!("{addr} has moved 5 times within 3 minutes; at last {}", event.text);
                let event = RaisedEvent { text, ..event.clone() };
                self.events.happened((place.ifindex, EventKind::Flapping), event, Times::Once);
            }
            self.events.happened((place.ifindex, EventKind::Moved), event, Times::Once);
        }
        let neighbours = &self.mirror.snapshot().neighbours;
        if self.events.places.len() > 2 * neighbours.len() + 1024 {
            self.events.places.keep(now, |addr, place| {
                neighbours.contains_key(&IfaceAddr { ifindex: place.ifindex, addr: addr.octets() })
            });
        }
    }

    /// The same for all neighbours, after everything was read.
    pub(super) fn note_all_places(&mut self) {
        let all = self.mirror.snapshot().neighbours.values().filter_map(arrival).collect();
        self.note_arrivals(all);
    }

    /// Interfaces that are gone have no events.
    pub(super) fn forget_events(&mut self, events: &[Said]) {
        for event in events {
            if let Said::LinkGone(ifindex) = event {
                self.events.book.gone(*ifindex);
            }
        }
    }

    /// Somebody changes too often to be followed.
    pub(super) fn note_flapping(&mut self, ifindex: u32, address: Option<Ipv4Addr>, who: &str) {
        let event = RaisedEvent {
            interface: self.interface_name(ifindex),
            ifindex: Some(ifindex),
            address,
            text: format!("{who} changes too often to be followed: the kernel answers it until it is quiet"),
            ..RaisedEvent::default()
        };
        self.events.happened((ifindex, EventKind::Flapping), event, Times::Once);
    }

    /// Looks how full the neighbour table is, if it was not looked at for a time.
    pub(super) fn note_pressure(&mut self) {
        let now = Instant::now();
        if now < self.events.size_at {
            return;
        }
        let (size, good_for) = self.events.read_size();
        (self.events.size, self.events.size_at) = (size, now + good_for);
        let Some(TablePressure { entries, most }) = size else { return };
        let Some(mark) = self.events.gauge.reads(entries, most) else { return };
        let snapshot = self.mirror.snapshot();
        let mut by_interface: BTreeMap<u32, u64> = BTreeMap::new();
        snapshot.neighbours.keys().for_each(|key| *by_interface.entry(key.ifindex).or_default() += 1);
        let own: u64 = by_interface.values().sum();
        let mut by_interface: Vec<(u64, u32)> =
            by_interface.into_iter().map(|(ifindex, count)| (count, ifindex)).collect();
        by_interface.sort_unstable_by(|a, b| b.cmp(a));
        let named = by_interface.iter().take(NAMED);
        let mut parts: Vec<String> = named
            .map(|&(count, ifindex)| {
                let name = self.interface_name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
                format!("{count} on {name}")
            })
            .collect();
        parts.push(format!("{} in other network namespaces", entries.saturating_sub(own)));
        let text = format!(
            "the neighbour table of the machine is {mark}, with {entries} of at most {most} entries (gc_thresh3): {}",
            parts.join(", ")
        );
        self.events.happened(
            (0, EventKind::TablePressure),
            RaisedEvent { text, ..RaisedEvent::default() },
            Times::Once,
        );
    }
}
