//! Which slot of `OIFS` stands for what routes leave by.

use crate::event::Route;
use arp_common::maps::MAX_OIFS;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The interfaces of a route's next hops: which of several the kernel takes, nobody can tell from the request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Legs {
    /// One, however often it is named.
    One(u32),
    /// Several, in order, each once.
    Several(Box<[u32]>),
}

impl Legs {
    /// Those of a route; `None` if it has none, or if they are not told.
    pub(crate) fn of(route: &Route) -> Option<Self> {
        match *route.legs() {
            [] => None,
            [one] => Some(Legs::One(one)),
            ref legs => {
                let mut legs = legs.to_vec();
                legs.sort_unstable();
                legs.dedup();
                Some(if let [one] = legs[..] { Legs::One(one) } else { Legs::Several(legs.into()) })
            }
        }
    }

    /// The interfaces.
    pub(crate) fn interfaces(&self) -> &[u32] {
        match self {
            Legs::One(one) => std::slice::from_ref(one),
            Legs::Several(several) => several,
        }
    }
}

/// The slots, each with how many leaves name it.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    of: HashMap<Legs, u16>,
    /// By slot.
    taken: Vec<Option<(Legs, usize)>>,
    free: BTreeSet<u16>,
    by_interface: BTreeMap<u32, BTreeSet<u16>>,
    /// What was taken or freed last.
    touched: BTreeSet<u16>,
    /// The interfaces that have come to be among several, or that are so no longer.
    regrouped: BTreeSet<u32>,
}

impl Slots {
    /// The slot for these, for one leaf more; `None` if all are taken.
    pub(super) fn take(&mut self, legs: &Legs) -> Option<u16> {
        if let Some(&slot) = self.of.get(legs) {
            if let Some((_, leaves)) = &mut self.taken[usize::from(slot)] {
                *leaves += 1;
            }
            return Some(slot);
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.taken.len()).ok().filter(|&slot| u32::from(slot) < MAX_OIFS)?;
                self.taken.push(None);
                slot
            }
        };
        self.of.insert(legs.clone(), slot);
        self.taken[usize::from(slot)] = Some((legs.clone(), 1));
        for &ifindex in legs.interfaces() {
            self.by_interface.entry(ifindex).or_default().insert(slot);
        }
        self.touch(slot, legs);
        Some(slot)
    }

    /// One leaf less names the slot.
    pub(super) fn release(&mut self, slot: u16) {
        let Some(Some((_, leaves))) = self.taken.get_mut(usize::from(slot)) else { return };
        *leaves -= 1;
        if *leaves > 0 {
            return;
        }
        let Some((legs, _)) = self.taken[usize::from(slot)].take() else { return };
        self.of.remove(&legs);
        self.free.insert(slot);
        for ifindex in legs.interfaces() {
            if let Some(slots) = self.by_interface.get_mut(ifindex) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.by_interface.remove(ifindex);
                }
            }
        }
        self.touch(slot, &legs);
    }

    fn touch(&mut self, slot: u16, legs: &Legs) {
        self.touched.insert(slot);
        if let Legs::Several(several) = legs {
            self.regrouped.extend(several);
        }
    }

    /// What was taken or freed since this was asked last.
    pub(super) fn touched(&mut self) -> BTreeSet<u16> {
        std::mem::take(&mut self.touched)
    }

    /// The interfaces for which [`Slots::is_among_several`] may have changed since this was asked last.
    pub(super) fn regrouped(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.regrouped)
    }

    /// The slots in use.
    pub(super) fn all(&self) -> impl Iterator<Item = u16> {
        (0..).zip(&self.taken).filter_map(|(slot, taken)| taken.is_some().then_some(slot))
    }

    /// The slots that an interface has to do with.
    pub(super) fn of_interface(&self, ifindex: u32) -> impl Iterator<Item = u16> {
        self.by_interface.get(&ifindex).into_iter().flatten().copied()
    }

    /// What a slot stands for.
    pub(super) fn legs(&self, slot: u16) -> Option<&Legs> {
        self.taken.get(usize::from(slot))?.as_ref().map(|(legs, _)| legs)
    }

    /// Whether the interface is one of several next hops of some route.
    pub(super) fn is_among_several(&self, ifindex: u32) -> bool {
        self.of_interface(ifindex).any(|slot| matches!(self.legs(slot), Some(Legs::Several(_))))
    }
}
