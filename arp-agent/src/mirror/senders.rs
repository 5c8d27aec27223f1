//! What is decided about a sender before it asks: in which view its targets are looked up, and whether source validation is
//! sure to accept it (`__fib_validate_source`, net/ipv4/fib_frontend.c, 6.18).

use super::followed::is_followed_by;
use super::outcome::{TableOutcome, look_up};
use super::routes::{TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use super::rules::{Action, Condition, Holds, Ingress, Lookup, LookupStep, TABLE_LOCAL_AND_MAIN};
use super::snapshot::Snapshot;
use super::views::Ways;
use crate::event::{Link, LocalAndMain, Route, RouteKind};
use crate::prefix::Prefix;
use arp_common::maps::Neighbour;

/// Kinds of devices whose frames come from outside this node, or from a program that cannot mark them.
const UNMARKED: [Option<&str>; 2] = [None, Some("tun")];

/// What the walk back to a sender may come to.
enum Back<'a> {
    Route(&'a Route),
    Nothing,
    Unknown,
}

/// Whether source validation accepts a sender.
pub(super) struct Acceptance {
    /// [`Neighbour::ALWAYS`] and [`Neighbour::PLAIN`], or-ed.
    pub(super) flags: u16,
    /// It depends on the state of other interfaces, by which the sender is routed.
    pub(super) depends: bool,
}

/// An interface as rules see it.
pub(super) fn ingress<'a>(snapshot: &'a Snapshot, link: &'a Link) -> Ingress<'a> {
    let is_pair_with_elsewhere = link.kind.as_deref() == Some("veth") && link.link_netnsid.is_some();
    let comes_from_outside = link.link.is_none() && UNMARKED.contains(&link.kind.as_deref());
    let vrfs = snapshot.rules.l3mdev() && snapshot.links.values().any(|link| link.vrf_table.is_some());
    Ingress {
        name: &link.name,
        vrf: vrf(snapshot, link),
        vrfs,
        // Between namespaces a frame loses its mark (`skb_scrub_packet`, net/core/skbuff.c).
        may_be_marked: !(is_pair_with_elsewhere || comes_from_outside),
    }
}

/// The VRF that an interface is a port of, and its table.
pub(super) fn vrf<'a>(snapshot: &'a Snapshot, link: &Link) -> Option<(&'a str, u32)> {
    let master = snapshot.links.get(&link.master?)?;
    Some((&master.name, master.vrf_table?))
}

/// In which ways the targets of a sender on the interface may be looked up.
pub(super) fn ways(snapshot: &Snapshot, link: &Link, sender: u32) -> Ways {
    if snapshot.rules.are_default() {
        return default_ways(snapshot);
    }
    [snapshot.rules.steps(&ingress(snapshot, link), sender)].into()
}

/// The same, if it is the same for all senders and interfaces.
pub(super) fn common_ways(snapshot: &Snapshot) -> Option<Ways> {
    if snapshot.rules.are_default() {
        return Some(default_ways(snapshot));
    }
    let nowhere = Ingress { name: "", vrf: None, vrfs: false, may_be_marked: false };
    snapshot.rules.are_common().then(|| [snapshot.rules.steps(&nowhere, 0)].into())
}

/// In which ways probes on the interface are looked up (`inet_addr_type_dev_table`, net/ipv4/fib_frontend.c, 6.18): in table
/// local alone, whatever the rules say, or in the table of the VRF; only the type of the route counts. While the rules are the
/// default ones, and all local routes are in table local, the view of senders says the same, and is used.
pub(super) fn probe_ways(snapshot: &Snapshot, link: &Link) -> Ways {
    let in_table = |table| {
        let lookup = Lookup { type_alone: true, ..Lookup::all_of(table) };
        vec![LookupStep { condition: Condition::Any(Holds::Yes), action: Action::Lookup(lookup) }]
    };
    if let Some((_, table)) = vrf(snapshot, link) {
        return [in_table(table)].into();
    }
    if snapshot.rules.are_default() && !snapshot.routes.probes_differ() {
        return default_ways(snapshot);
    }
    match snapshot.local_and_main {
        Some(LocalAndMain::Split) => [in_table(TABLE_LOCAL)].into(),
        Some(LocalAndMain::Merged) => [in_table(TABLE_LOCAL_AND_MAIN)].into(),
        None => [in_table(TABLE_LOCAL), in_table(TABLE_LOCAL_AND_MAIN)].into(),
    }
}

fn default_ways(snapshot: &Snapshot) -> Ways {
    let split = || [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].map(lookup).to_vec();
    let merged = || [TABLE_LOCAL_AND_MAIN, TABLE_DEFAULT].map(lookup).to_vec();
    match snapshot.local_and_main {
        Some(LocalAndMain::Split) => [split()].into(),
        Some(LocalAndMain::Merged) => [merged()].into(),
        None => [split(), merged()].into(),
    }
}

fn lookup(table: u32) -> LookupStep {
    LookupStep { condition: Condition::Any(Holds::Yes), action: Action::Lookup(Lookup::all_of(table)) }
}

/// Whether source validation is sure to accept the sender on the interface.
pub(super) fn acceptance(snapshot: &Snapshot, link: &Link, sender: u32) -> Acceptance {
    let mut judge = Judge::new(snapshot, link, sender);
    let Some(judge) = &mut judge else { return Acceptance { flags: 0, depends: false } };
    let is_default = snapshot.rules.are_default();
    // While there was never a rule, the kernel may only look whether the sender has an address of the node's.
    if is_default && snapshot.is_configured(sender) {
        return Acceptance { flags: 0, depends: false };
    }
    // arp_filter looks for a way out by the VRF, and since 6.15 a rule can ask for that in `oif`.
    if judge.strict && link.master.is_some() && snapshot.rules.ask_for_oif() {
        return Acceptance { flags: 0, depends: false };
    }
    let accepts = |judge: &mut Judge<'_>, others| {
        if is_default {
            let ways = default_ways(snapshot);
            ways.iter().all(|way| {
                let steps: Vec<_> = way.iter().map(|step| (Holds::Yes, step.action)).collect();
                judge.accepts(&steps)
            })
        } else {
            judge.accepts(&snapshot.rules.steps_back(&ingress(snapshot, link), sender, others))
        }
    };
    let always = accepts(judge, true);
    let plain = always || !is_default && accepts(judge, false);
    let flags = if always { Neighbour::ALWAYS } else { 0 } | if plain { Neighbour::PLAIN } else { 0 };
    Acceptance { flags, depends: judge.depends }
}

/// What is accepted of a sender on an interface.
struct Judge<'a> {
    snapshot: &'a Snapshot,
    ingress: u32,
    sender: Prefix,
    /// `rp_filter`: 0, 1 or 2.
    rp_filter: i32,
    /// `arp_filter` is effective: one route back, by the interface alone, is demanded.
    strict: bool,
    /// The interface has an address.
    numbered: bool,
    depends: bool,
}

impl<'a> Judge<'a> {
    fn new(snapshot: &'a Snapshot, link: &Link, sender: u32) -> Option<Self> {
        let (own, all) = (link.settings?, snapshot.all?);
        Some(Judge {
            snapshot,
            ingress: link.ifindex,
            sender: Prefix { addr: sender, len: 32 },
            rp_filter: own.rp_filter.max(all.rp_filter),
            strict: own.arp_filter != 0 || all.arp_filter != 0,
            numbered: snapshot.is_numbered(link.ifindex),
            depends: false,
        })
    }

    /// Whether whatever the steps may come to is accepted.
    fn accepts(&mut self, steps: &[(Holds, Action)]) -> bool {
        // Each step's answer out of those behind it.
        let mut accepted = vec![self.accepts_end(&Back::Nothing); steps.len() + 1];
        for (at, (holds, action)) in steps.iter().enumerate().rev() {
            let otherwise = accepted[at + 1];
            if *holds == Holds::No || *holds == Holds::Perhaps && !otherwise {
                accepted[at] = otherwise;
                continue;
            }
            accepted[at] = match action {
                Action::Goto(step) => accepted[*step],
                Action::Refuse => self.accepts_end(&Back::Nothing),
                Action::Fall(_) | Action::Unknown => self.accepts_end(&Back::Unknown),
                Action::Lookup(lookup) => match look_up(&self.snapshot, lookup, self.sender) {
                    TableOutcome::Nothing => otherwise,
                    TableOutcome::Refused => self.accepts_end(&Back::Nothing),
                    TableOutcome::Unknown => self.accepts_end(&Back::Unknown),
                    TableOutcome::Route(route) => self.accepts_end(&Back::Route(route)),
                },
            };
        }
        accepted[0]
    }

    fn accepts_end(&mut self, end: &Back<'_>) -> bool {
        let route = match end {
            Back::Nothing => return self.rp_filter == 0 && !self.strict,
            Back::Unknown => return false,
            Back::Route(route) => route,
        };
        if route.kind != RouteKind::Unicast {
            return false;
        }
        let legs = route.legs();
        if legs.contains(&self.ingress) {
            let is_alone = legs.iter().all(|&leg| leg == self.ingress);
            return is_followed_by(self.snapshot, &[self.ingress])
                && (!self.strict || is_alone && route.prefix.len > 0);
        }
        // A route that the kernel skips, because its interfaces have gone down, is followed by nobody knows what. It skips
        // none with one next hop that is alive, whatever has become of the others, and which of them it chooses is the same.
        self.depends = true;
        let is_sure = legs.iter().any(|&leg| is_followed_by(self.snapshot, &[leg]));
        is_sure && !self.strict && (self.rp_filter == 0 || self.rp_filter == 2 && self.numbered)
    }
}
