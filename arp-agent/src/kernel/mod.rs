//! The kernel's state over netlink and procfs, as [`Event`]s: reading and decoding, and no writing.
//!
//! What is notified comes from [`Notifications`], what is asked for from [`Reader`]. Not everything that matters is
//! notified, and notifications can be lost, so a caller
//! 1. subscribes, then reads everything, then folds what was notified meanwhile;
//! 2. re-reads what a [`Batch`] asks for, *after* folding its events: a notification can be older than what was
//!    read before it, and only a later read says what is so now;
//! 3. looks for [`Reader::unnotified_changes`] from time to time;
//! 4. reads everything again when notifications were [`Lost`].
//!
//! Reading leaves the kernel as it was: no question makes it do what it would not do, or would do later
//! ([`Reader::links`]).
//!
//! Everything here is about the network namespace of the thread that called the constructor.

use std::{collections::BTreeSet, fmt, mem};

use crate::event::{Event, IfSet, Link};

mod arptables;
#[cfg(test)]
mod captured;
#[cfg(test)]
mod captured_arp;
mod features;
pub(crate) mod ingress;
mod link;
mod listeners;
mod lookups;
mod muted;
mod namespaces;
mod neighbour;
mod netfilter;
mod nft_rule;
mod notifications;
mod procfs;
mod reader;
mod route;
#[cfg(test)]
mod sessions;
mod tap;
#[cfg(test)]
mod tests;

pub use features::Features;
pub use listeners::{Listener, listeners};
pub use lookups::{LookedUp, Lookups, TableSize};
pub use muted::Muted;
pub use namespaces::namespace_names;
pub use notifications::Notifications;
pub use procfs::has_settings;
pub use reader::Reader;
pub use tap::Tap;

/// Notifications, in the order in which the kernel sent them.
#[derive(Debug, Default)]
pub struct Batch {
    /// What they state.
    pub events: Vec<Event>,
    /// What must be read again, after `events` are folded.
    pub reread: Reread,
    /// More may be queued: the bound of what one batch takes was reached.
    pub more: bool,
}

impl Batch {
    /// There was nothing, and nothing is left in the queue.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.reread == Reread::default() && !self.more
    }

    /// Has the settings read again of those notified links of which something else is told than is known. Where both agree,
    /// reading would say nothing new: whatever changes a setting is told, hooked or polled for by itself. To be called before
    /// the events are folded.
    pub fn check_settings<'a>(&mut self, known: impl Fn(u32) -> Option<&'a Link>) {
        for ifindex in mem::take(&mut self.reread.told_links) {
            let known = known(ifindex).filter(|known| known.settings.is_some());
            let agrees = |event: &Event| match event {
                Event::Link(told) if told.ifindex == ifindex => {
                    known.is_some_and(|known| told.name == known.name && told.settings == known.settings)
                }
                // Another may have its index since.
                Event::LinkGone(gone) => *gone != ifindex,
                _ => true,
            };
            if !self.events.iter().all(agrees) {
                self.reread.links.add(ifindex);
            }
        }
    }
}

/// What notifications say has changed without saying how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reread {
    /// Settings of links ([`Reader::links`]): a setting was written.
    pub links: IfSet,
    /// Links that were notified. Their settings in that message may be older than what [`Reader::unnotified_changes`] has
    /// shown since, so they are read again if they differ from what is known. All else in it counts: a later change of that
    /// is notified, too.
    pub told_links: BTreeSet<u32>,
    /// All routes ([`Reader::routes`]): an address or a nexthop object went, and may have taken routes along silently.
    pub routes: bool,
    /// Routing rules ([`Reader::rules`]).
    pub rules: bool,
    /// ARP netfilter ([`Reader::netfilter`]).
    pub netfilter: bool,
    /// Ingress hooks ([`Reader::ingress_hooks`]): a qdisc, or a table or chain of the netdev family.
    pub ingress_hooks: bool,
    /// Chains of the netdev family, which may concern any interface; a qdisc concerns the one that its event names.
    pub chains: bool,
}

impl Reread {
    /// Whether what must be read again may concern any interface; else it concerns those that the batch names.
    pub fn concerns_all(&self) -> bool {
        self.links == IfSet::All || self.routes || self.rules || self.netfilter || self.chains
    }
}

/// Notifications are missing: everything must be read again. Those that were still queued are gone too, so that
/// none that is older than the next dump can be folded on top of it.
#[derive(Debug)]
pub struct Lost {
    /// What happened.
    pub why: String,
    /// The kernel dropped notifications because they were not read fast enough (ENOBUFS).
    pub overrun: bool,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel notifications were lost: {}", self.why)
    }
}

impl std::error::Error for Lost {}
