//! Who changes too fast is held back: its frames pass, its notices are refused by the sockets' filters, and after a pause
//! it is read anew. It costs nobody else anything.

use super::Agent;
use super::damping::{CHANGE, EVERYTHING, FLIP, NOTICE, Who};
use crate::event::{Event, IfSet};
use crate::kernel::{Batch, Muted};
use arp_common::maps::IfaceAddr;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

/// With so many neighbour entries held back, their interface is.
const NEIGHBOURS: usize = 16;

impl Agent {
    /// Counts what is notified of interfaces and neighbour entries. Who is held back from now on is so by this very batch.
    /// Says whether somebody is.
    pub(super) fn damp(&mut self, batch: &mut Batch) -> bool {
        let now = Instant::now();
        let snapshot = self.mirror.snapshot();
        let mut held = Vec::new();
        for event in &batch.events {
            let (who, weight) = match event {
                Event::Link(link) => {
                    let known = snapshot.links.get(&link.ifindex);
                    let changed = known.is_some_and(|known| known.carrier_changes != link.carrier_changes);
                    (Who::Interface(link.ifindex), if changed { CHANGE } else { NOTICE })
                }
                Event::XdpFeatures { ifindex, features: Some(features) } => {
                    let changed = snapshot.xdp_features.get(ifindex).is_some_and(|known| known != features);
                    (Who::Interface(*ifindex), if changed { CHANGE } else { NOTICE })
                }
                Event::Neighbour(entry) => {
                    let key = IfaceAddr { ifindex: entry.ifindex, addr: entry.addr.octets() };
                    let known = snapshot.neighbours.get(&key).and_then(|known| known.lladdr);
                    if known.is_none() || entry.lladdr.is_none() || known == entry.lladdr {
                        continue;
                    }
                    (Who::Neighbour(key), FLIP)
                }
                Event::LinkGone(ifindex) => {
                    self.damper.gone(*ifindex, now);
                    continue;
                }
                _ => continue,
            };
            if self.damper.noticed(who, weight, now) {
                held.push(who);
            }
        }
        for ifindex in held.iter().map(|who| who.ifindex()).collect::<BTreeSet<u32>>() {
            let is_on_it = |who: &Who| matches!(who, Who::Neighbour(key) if key.ifindex == ifindex);
            if self.damper.held().filter(is_on_it).count() >= NEIGHBOURS
                && self.damper.noticed(Who::Interface(ifindex), EVERYTHING, now)
            {
                held.push(Who::Interface(ifindex));
            }
        }
        batch.reread.told_links.retain(|&ifindex| !self.damper.holds(Who::Interface(ifindex)));
        if let IfSet::These(these) = &mut batch.reread.links {
            these.retain(|&ifindex| !self.damper.holds(Who::Interface(ifindex)));
            if these.is_empty() {
                batch.reread.links = IfSet::None;
            }
        }
        for &who in &held {
            // Of an interface it is told as its state (`states.rs`).
            let level = if matches!(who, Who::Neighbour(_)) { log::Level::Info } else { log::Level::Debug };
            log::log!(level, "{} changes too often: the kernel answers it until it is quiet", self.name(who));
            let address = match who {
                Who::Interface(_) => None,
                Who::Neighbour(key) => Some(Ipv4Addr::from(key.addr)),
            };
            self.note_flapping(who.ifindex(), address, &self.name(who));
            batch.events.push(flapping(who, true));
        }
        !held.is_empty()
    }

    /// Those who are held back are told of no more, all others are.
    pub(super) fn mute_flapping(&mut self) {
        let mut muted = Muted::default();
        for who in self.damper.held() {
            match who {
                Who::Interface(ifindex) => muted.interfaces.push(ifindex),
                Who::Neighbour(IfaceAddr { ifindex, addr }) => muted.neighbours.push((ifindex, Ipv4Addr::from(addr))),
            }
        }
        if let Err(error) = self.notifications.mute(&muted) {
            // They are told, and folded: it costs more, and is as right.
            log::debug!("{error:#}");
        }
    }

    /// Events that tell a newly filled mirror which interfaces and neighbours are flapping.
    pub(super) fn held_back(&self) -> Vec<Event> {
        self.damper.held().map(|who| flapping(who, true)).collect()
    }

    /// Goes on with those whose pause has ended, from what they are by now.
    pub(super) fn go_on(&mut self) -> anyhow::Result<()> {
        let released = self.damper.release(Instant::now());
        if released.is_empty() {
            return Ok(());
        }
        // First they are told again, then they are read: nothing is missed in between.
        self.mute_flapping();
        for who in released {
            log::debug!("{}: following its changes again", self.name(who));
            let events = match self.read_released(who) {
                Ok(events) => events,
                Err(error) => {
                    self.doubt(format!("re-reading {} failed: {error:#}", self.name(who)));
                    return Ok(());
                }
            };
            if self.fold(events)? {
                self.reread_routes()?;
            }
            if let Who::Interface(ifindex) = who {
                self.attach([ifindex].into())?;
            }
        }
        self.redump();
        Ok(())
    }

    fn read_released(&mut self, who: Who) -> anyhow::Result<Vec<Event>> {
        let ifindex = who.ifindex();
        let (mut events, neighbours) = match who {
            Who::Interface(_) => {
                let (mut events, neighbours) = self.reader.interface(ifindex)?;
                // It may have lost its carrier.
                events.push(Event::RoutesDoubted { ifindex, carrier: true });
                (events, neighbours)
            }
            Who::Neighbour(_) => (Vec::new(), self.reader.neighbours(ifindex)?),
        };
        let is_about = |key: &IfaceAddr| match who {
            Who::Interface(ifindex) => key.ifindex == ifindex,
            Who::Neighbour(only) => *key == only,
        };
        let known = self.mirror.snapshot().neighbours.keys().filter(|key| is_about(key));
        events.extend(known.map(|key| Event::NeighbourGone { ifindex, addr: key.addr.into() }));
        let now = neighbours.into_iter().filter(|entry| is_about(&IfaceAddr { ifindex, addr: entry.addr.octets() }));
        events.extend(now.map(Event::Neighbour));
        events.push(flapping(who, false));
        Ok(events)
    }

    /// Who it is, for people.
    pub(super) fn name(&self, who: Who) -> String {
        let ifindex = who.ifindex();
        let link = self.mirror.snapshot().links.get(&ifindex);
        let name = link.map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone());
        match who {
            Who::Interface(_) => name,
            Who::Neighbour(key) => format!("neighbour {} on {name}", Ipv4Addr::from(key.addr)),
        }
    }
}

fn flapping(who: Who, flapping: bool) -> Event {
    match who {
        Who::Interface(ifindex) => Event::Flapping { ifindex, flapping },
        Who::Neighbour(IfaceAddr { ifindex, addr }) => {
            Event::NeighbourFlapping { ifindex, addr: addr.into(), flapping }
        }
    }
}
