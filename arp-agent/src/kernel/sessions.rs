//! Replays recorded sessions: what a live kernel said over netlink goes through the decoders, the mirror and the tables, and
//! each request must be decided as that kernel did. tests/sessions/README.md says how a session is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::{fs, mem};

use anyhow::Result;
use arp_common::settings::CONF;
use arp_common::{ArpFrame, Lladdr, Verdict, decide};

use super::{Batch, link, neighbour, notifications, procfs, reader, route};
use crate::dataplane::{Dataplane as _, fake::Fake};
use crate::event::{Event, IfSet, Link, Placement, Route, Settings};
use crate::mirror::Mirror;
use crate::netlink::wire::{self, Message};

#[test]
fn recorded_sessions_are_decided_as_the_kernel_did() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sessions");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let sessions: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    assert!(sessions.len() >= 10, "{sessions:?}");
    for path in sessions {
        let mut session = Session::default();
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            session.take(line, &format!("{}:{}: ", path.display(), number + 1));
        }
        assert!(session.request.is_none() && session.asked > 0, "{}: it must end with an outcome", path.display());
    }
}

/// The far end of a link.
struct Host {
    mac: Lladdr,
    node_end: String,
}

/// What was asked.
struct Request {
    frame: ArpFrame,
    /// The name that the ingress interface had at first.
    ingress: String,
    /// The fast path must answer.
    must: bool,
}

#[derive(Default)]
struct Session {
    /// What the names of the interfaces begin with that the fast path answers on.
    answers: String,
    hosts: BTreeMap<String, Host>,
    /// The last request, until its outcome is read.
    request: Option<Request>,
    asked: usize,
    /// The lines of each dump as it was read last, and the name of the one that the next lines belong to.
    dumps: BTreeMap<String, Vec<String>>,
    dump: String,
    /// What was notified since the last request.
    batch: Batch,
    /// The agent has polled since then.
    polled: bool,
    /// As they were notified last, by index.
    links: BTreeMap<u32, Link>,
    /// By the first name.
    indexes: BTreeMap<String, u32>,
    begun: bool,
    /// From the end of the first dumps on.
    mirror: Option<Mirror>,
    tables: Fake,
}

impl Session {
    fn take(&mut self, line: &str, place: &str) {
        if self.begun && self.mirror.is_none() && !line.starts_with([' ', '=']) {
            self.start();
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            _ if line.starts_with(' ') => self.dumps.entry(self.dump.clone()).or_default().push(line[1..].into()),
            ["=", name] => {
                name.clone_into(&mut self.dump);
                self.dumps.insert(name.into(), Vec::new());
            }
            ["<", _, hex] => {
                for message in wire::messages(&bytes(hex)) {
                    notifications::decode(&message.unwrap(), &mut self.batch).unwrap();
                }
            }
            [">", outcome] => {
                self.follow();
                self.compare(outcome.parse().ok(), place);
            }
            ["answers", pattern] => pattern.trim_end_matches('*').clone_into(&mut self.answers),
            ["host", name, mac, node_end, _] => {
                let host = Host { mac: mac.parse().unwrap(), node_end: node_end.into() };
                self.hosts.insert(name.into(), host);
            }
            ["begin"] => self.begun = true,
            ["poll"] => self.polled = true,
            ["ask", host, spa, tpa, ref rest @ ..] => {
                let [spa, tpa] = [spa, tpa].map(|addr| addr.parse::<Ipv4Addr>().unwrap().octets());
                let Host { mac, node_end } = &self.hosts[host];
                let sha = if let ["from", sha, ..] = rest { sha.parse().unwrap() } else { *mac };
                let frame = ArpFrame::request(sha.bytes(), spa, tpa);
                let must = rest.ends_with(&["must"]);
                self.request = Some(Request { frame, ingress: node_end.clone(), must });
            }
            _ => {}
        }
    }

    /// The agent starts: all is dumped.
    fn start(&mut self) {
        let dump = self.everything();
        self.note(&dump);
        let mut mirror = Mirror::default();
        self.tables.set_lease(1).unwrap();
        self.tables.apply(&mirror.resync(&self.attached(), dump)).unwrap();
        self.mirror = Some(mirror);
    }

    /// The agent follows what was notified, and reads again what it has to, as `Agent::follow` does.
    fn follow(&mut self) {
        let mut batch = mem::take(&mut self.batch);
        let links = &self.mirror.as_ref().unwrap().snapshot().links;
        batch.check_settings(|ifindex| links.get(&ifindex));
        let Batch { events, reread, .. } = batch;
        self.note(&events);
        let mut dump_routes = reread.routes || events.iter().any(|event| matches!(event, Event::RoutesDoubted { .. }));
        dump_routes |= self.apply(events);

        let mut events = match reread.links {
            IfSet::None => Vec::new(),
            IfSet::These(these) => self.settings_of(&these),
            IfSet::All => self.links(),
        };
        if reread.rules {
            events.push(self.rules());
        }
        if mem::take(&mut self.polled) {
            events.extend(self.links());
            events.push(self.proxies());
        }
        self.note(&events);
        dump_routes |= self.apply(events);
        if dump_routes {
            let (attached, routes) = (self.attached(), self.routes());
            let changes = self.mirror.as_mut().unwrap().replace_routes(&attached, routes);
            self.tables.apply(&changes).unwrap();
        }
    }

    /// Folds events. Says whether the routes must be dumped again.
    fn apply(&mut self, events: Vec<Event>) -> bool {
        let attached = self.attached();
        let update = self.mirror.as_mut().unwrap().apply(&attached, events);
        self.tables.apply(&update.changes).unwrap();
        update.routes_in_doubt
    }

    /// The outcome of the last request: the kernel's reply came from this address, or it was silent.
    fn compare(&mut self, kernel: Option<Lladdr>, place: &str) {
        let Request { frame, ingress, must } = self.request.take().unwrap();
        let ingress = self.indexes[&ingress];
        self.asked += 1;
        // As an agent decides that has followed all of it, and as one that has started just now.
        let mut restarted = Fake::default();
        restarted.set_lease(1).unwrap();
        restarted.apply(&Mirror::default().resync(&self.attached(), self.everything())).unwrap();
        for (tables, which) in [(&self.tables, "followed"), (&restarted, "dumped")] {
            match decide(&(&frame).into(), ingress, tables) {
                Verdict::Reply(mac) => assert_eq!(Some(mac), kernel, "{place}{which}"),
                Verdict::Pass(reason) => assert!(!must, "{place}{which}: {reason:?}"),
            }
        }
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Link(link) => {
                    self.indexes.entry(link.name.clone()).or_insert(link.ifindex);
                    self.links.insert(link.ifindex, link.clone());
                }
                Event::LinkGone(ifindex) => drop(self.links.remove(ifindex)),
                _ => {}
            }
        }
    }

    fn attached(&self) -> BTreeSet<u32> {
        let chosen = |link: &&Link| link.name.starts_with(&self.answers);
        self.links.values().filter(chosen).map(|link| link.ifindex).collect()
    }

    /// In the order of `Reader::everything`.
    fn everything(&self) -> Vec<Event> {
        let mut events = self.links();
        events.extend(self.decoded("addresses", neighbour::address).into_iter().map(Event::Address));
        events.push(self.rules());
        events.extend(self.decoded("nexthops", route::nexthop));
        let (counted, routes) = (procfs::counted_routes(&self.dumps["triestat"].join("\n")), self.routes());
        events.push(Event::LocalAndMain(reader::local_and_main(counted, &routes)));
        events.extend(routes.into_iter().map(|route| Event::Route(route, Placement::Last)));
        events.extend(self.decoded("neighbours", neighbour::neighbour).into_iter().map(Event::Neighbour));
        events.push(self.proxies());
        events
    }

    /// The links, and the settings that go with them.
    fn links(&self) -> Vec<Event> {
        let mut events: Vec<_> = self.decoded("links", link::link).into_iter().map(Event::Link).collect();
        events.push(Event::ProxyDelays(self.decoded("tables", neighbour::proxy_delay)));
        let all: BTreeMap<_, _> = self.dumps["all"].iter().filter_map(|line| line.split_once(' ')).collect();
        events.push(Event::AllSettings(Settings::from(CONF.map(|name| all[name].parse().unwrap()))));
        events
    }

    /// The settings of single links, which else are as they were notified last (`Reader::links`).
    fn settings_of(&self, these: &BTreeSet<u32>) -> Vec<Event> {
        let delays: BTreeMap<_, _> = self.decoded("tables", neighbour::proxy_delay).into_iter().collect();
        let mut events = Vec::new();
        for now in self.decoded("links", link::link).into_iter().filter(|link| these.contains(&link.ifindex)) {
            events.push(Event::ProxyDelay(now.ifindex, delays.get(&now.ifindex).copied()));
            if let Some(link) = self.links.get(&now.ifindex) {
                events.push(Event::Link(Link { settings: now.settings, ..link.clone() }));
            }
        }
        events
    }

    fn rules(&self) -> Event {
        Event::Rules(self.decoded("rules", route::rule))
    }

    fn routes(&self) -> Vec<Route> {
        self.decoded("routes", route::route)
    }

    fn proxies(&self) -> Event {
        Event::Proxies(self.decoded("proxies", neighbour::proxy))
    }

    fn decoded<T>(&self, dump: &str, decode: impl Fn(&Message<'_>) -> Result<Option<T>>) -> Vec<T> {
        let bytes: Vec<u8> = self.dumps[dump].iter().flat_map(|line| bytes(line)).collect();
        wire::messages(&bytes).filter_map(|message| decode(&message.unwrap()).unwrap()).collect()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}
