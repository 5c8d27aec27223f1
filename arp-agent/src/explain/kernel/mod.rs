//! What this node's kernel does with a request, and which one thing decides it: the steps of `arp_process` (net/ipv4/arp.c)
//! and `ip_route_input_slow` (net/ipv4/route.c, Linux 6.18) in the kernel's order, over the mirrored state.
//!
//! The program needs less: where anything is in doubt it passes, and the kernel decides. Here the doubt itself is looked
//! into: a sender that the kernel has not learnt, delays, source validation, several next hops, what a chain does to this
//! very frame. Where the mirrored state does not suffice, the kernel is asked for its own lookup ([`KernelLookup`]); only what that
//! does not tell either stays open, with the reason.

mod addresses;
mod filters;
mod next_hops;
mod sender;
pub(super) mod settings;

use super::words::{describe_route, describe_rule, interface};
use super::{Answer, Cause, Question};
use crate::event::{Link, Route, RouteKind, RoutingRule};
use crate::kernel::LookedUp;
use crate::mirror::routes::TABLE_MAIN;
use crate::mirror::snapshot::{IFF_UP, Snapshot};
use crate::mirror::walk::{End, LOOPBACK};
use crate::prefix::Prefix;
use arp_common::{Lladdr, Reason, settings as names};
use nix::libc;
use sender::Accepted;
use settings::InterfaceSetting;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::iter::successors;
use std::net::Ipv4Addr;

const IFF_NOARP: u32 = libc::IFF_NOARP as u32;
/// Masters that take their ports' frames as their own.
const TAKING: [&str; 3] = ["bridge", "bond", "team"];

/// How many devices may lie above each other (`MAX_NEST_DEV`, include/linux/netdevice.h). A state from a file may say
/// anything.
pub(super) const MAX_NESTED: usize = 8;

/// Asks the kernel for its own lookup. A state from a file has no kernel to ask.
pub(crate) trait KernelLookup {
    /// A packet that comes in by the interface; `None` if nobody can be asked.
    fn input(&self, iif: u32, from: Ipv4Addr, to: Ipv4Addr) -> Option<LookedUp>;
    /// A packet that the node sends, in the VRF if there is one (its device's number).
    fn output(&self, vrf: Option<u32>, from: Ipv4Addr, to: Ipv4Addr) -> Option<LookedUp>;
    /// The interfaces that a nexthop object leads out of; `None` also if it leads nowhere.
    fn next_hops(&self, object: u32) -> Option<Vec<u32>>;
}

impl KernelLookup for () {
    fn input(&self, _: u32, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        None
    }

    fn output(&self, _: Option<u32>, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        None
    }

    fn next_hops(&self, _: u32) -> Option<Vec<u32>> {
        None
    }
}

/// For a copy of a state, in which other things are changed: only the nexthop objects are still the kernel's.
pub(crate) struct ObjectsOf<'a>(pub &'a dyn KernelLookup);

impl KernelLookup for ObjectsOf<'_> {
    fn input(&self, _: u32, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        None
    }

    fn output(&self, _: Option<u32>, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        None
    }

    fn next_hops(&self, object: u32) -> Option<Vec<u32>> {
        self.0.next_hops(object)
    }
}

impl KernelLookup for std::cell::RefCell<crate::kernel::Lookups> {
    fn input(&self, iif: u32, from: Ipv4Addr, to: Ipv4Addr) -> Option<LookedUp> {
        self.borrow_mut().input(iif, from, to).ok()
    }

    fn output(&self, vrf: Option<u32>, from: Ipv4Addr, to: Ipv4Addr) -> Option<LookedUp> {
        self.borrow_mut().output(vrf, from, to).ok()
    }

    fn next_hops(&self, object: u32) -> Option<Vec<u32>> {
        self.borrow_mut().next_hops(object).ok().flatten()
    }
}

/// What counts, and is not in the mirror.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    /// Addresses of scope host, by interface: `arp_ignore` 3 leaves them out.
    pub host_addresses: BTreeSet<(u32, Ipv4Addr)>,
    /// A program of others that sees the frames of the interface before the kernel does, or the kernel's replies.
    pub program: Option<String>,
    /// A base chain of nft's bridge family, in words: it may drop what a bridge's ports take, or what the bridge sends.
    pub bridge_chain: Option<String>,
    /// The neighbour table has no room for another sender.
    pub table_full: bool,
}

/// The kernel's verdict.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KernelVerdict {
    /// What it does.
    pub answer: Answer,
    /// The reason of the fast path that comes nearest; `None` for an answer at once.
    pub reason: Option<Reason>,
    /// The longest delay, in ms.
    pub within_ms: Option<u64>,
    /// The link-layer address in the reply.
    pub mac: Option<Lladdr>,
    /// What decides.
    pub cause: Cause,
}

/// A state to judge requests in.
pub(crate) struct Kernel<'a> {
    /// The mirrored state.
    pub snapshot: &'a Snapshot,
    /// The rest.
    pub beyond: &'a Beyond,
    /// Whom to ask where both end.
    pub lookup: &'a dyn KernelLookup,
}

/// What a route is to a request.
struct Destination<'a> {
    route: Option<&'a Route>,
    rule: Option<&'a RoutingRule>,
    /// The kernel itself has looked it up, and accepted the sender.
    is_validated: bool,
}

impl Kernel<'_> {
    /// What the kernel does with the request.
    pub(crate) fn verdict(&self, question: &Question) -> KernelVerdict {
        let Some(link) = self.snapshot.links.get(&question.ifindex) else {
            return silent(Reason::INTERFACE_DOWN, Cause::new("link", format!("{} is gone", question.interface)));
        };
        if let Some(verdict) = self.interface(link, question) {
            return verdict;
        }
        let verdict = self.process(link, question);
        let verdict = self.filtered(link, question, verdict);
        if link.kind.as_deref() == Some("bridge") { self.bridged(link, verdict) } else { verdict }
    }

    /// What the interface itself decides.
    fn interface(&self, link: &Link, question: &Question) -> Option<KernelVerdict> {
        let name = &link.name;
        let shown = format!("ip link show {name}");
        if link.flags & IFF_UP == 0 {
            let cause = Cause::new("link", format!("{name} is down: it takes no frames")).at(shown);
            return Some(silent(Reason::INTERFACE_DOWN, cause));
        }
        let master = link.master.filter(|_| self.snapshot.vrf_of(link.ifindex).is_none());
        // Before the type: tunnels have the flag. A port's frames are its master's, whatever the port says of ARP.
        if link.flags & IFF_NOARP != 0 && master.is_none() {
            let cause = Cause::new("link", format!("{name} does no ARP (NOARP)")).at(shown);
            return Some(silent(Reason::INTERFACE_NOARP, cause));
        }
        if link.hardware_type != libc::ARPHRD_ETHER || link.mac.is_none() {
            let cause = Cause::new("link", format!("{name} is no Ethernet device: other rules hold there")).at(shown);
            return Some(open(Reason::INTERFACE_NOT_ETHERNET, cause));
        }
        if let Some(master) = master {
            return Some(self.port(link, master, question));
        }
        if link.settings.is_none() {
            let cause = Cause::new("link", format!("{name} has no IPv4 (its MTU is below 68)")).at(shown);
            return Some(silent(Reason::INTERFACE_UNREAD, cause));
        }
        let to_others = question.destination.filter(|to| !to.is_group() && Some(to.bytes()) != link.mac);
        to_others.map(|to| {
            let cause = Cause::new("frame", format!("it is sent to {to}, which is not the address of {name}"));
            silent(Reason::OTHER_DESTINATION, cause.at(shown))
        })
    }

    /// The frame of a port is its master's.
    fn port(&self, link: &Link, master: u32, question: &Question) -> KernelVerdict {
        let of = interface(self.snapshot, master);
        let what = format!("{} is a port of {of}, which takes its frames", link.name);
        let port = Cause::new("link", what.clone()).at(format!("ip link show {}", link.name));
        let above = |link: &&'_ Link| self.snapshot.links.get(&link.master?);
        let is_deep = successors(Some(link), above).nth(MAX_NESTED).is_some();
        let Some(device) = self.snapshot.links.get(&master).filter(|_| !is_deep) else {
            return open(Reason::INTERFACE_HAS_MASTER, port);
        };
        match (device.kind.as_deref(), link.forwards) {
            (Some("bridge"), Some(false)) => {
                let what =
                    format!("{what} only while it forwards, and it does not (state blocking, listening or disabled)");
                let port = Cause::new("link", what).at(format!("bridge link show dev {}", link.name));
                return silent(Reason::INTERFACE_HAS_MASTER, port);
            }
            (Some("bridge"), _) if link.locked => {
                let what = format!("{what} only from senders that {of} knows there, because it is locked");
                let port = Cause::new("link", what).at(format!("bridge fdb show brport {}", link.name));
                return open(Reason::INTERFACE_HAS_MASTER, port);
            }
            (Some("bridge"), _) if device.ports_differ => {
                let what = format!("{what} as far as its VLAN filter lets them");
                let port = Cause::new("link", what).at(format!("bridge vlan show dev {}", link.name));
                return open(Reason::INTERFACE_HAS_MASTER, port);
            }
            (Some("bond"), Some(false)) if !device.ports_differ => {
                let what = format!("{} is a backup port of {of}, which takes no frames from it", link.name);
                let port = Cause::new("link", what).at(format!("ip -d link show {}", link.name));
                return silent(Reason::INTERFACE_HAS_MASTER, port);
            }
            (Some(kind), _) if TAKING.contains(&kind) => {}
            _ => return open(Reason::INTERFACE_HAS_MASTER, port),
        }
        // Whom a frame is for is judged by its first device: a frame to the port itself is the node's, and stays so. A bridge
        // looks for its own address, too (`br_handle_frame`, net/bridge/br_input.c, 6.18); bonds and teams do not.
        let to_others = question.destination.filter(|to| !to.is_group() && Some(to.bytes()) != link.mac);
        if let Some(to) = to_others.filter(|_| device.kind.as_deref() != Some("bridge")) {
            let cause = Cause::new("frame", format!("it is sent to {to}, which is not the address of {}", link.name));
            return silent(Reason::OTHER_DESTINATION, cause.at(format!("ip link show {}", link.name)));
        }
        // `is_valid_ether_addr`, first thing in `br_handle_frame`.
        let source = question.sender_mac;
        if device.kind.as_deref() == Some("bridge") && !is_of_a_host(source) {
            let what = format!("{what}, but none from {source}, which is no address of a host");
            return silent(Reason::INTERFACE_HAS_MASTER, Cause::new("frame", what));
        }
        let Some(on_master) = on_master(self.snapshot, question) else {
            return open(Reason::INTERFACE_HAS_MASTER, port);
        };
        let mut verdict = self.verdict(&on_master);
        verdict.cause.what = format!("{what}; there, {}", verdict.cause.what);
        verdict
    }

    fn process(&self, link: &Link, question: &Question) -> KernelVerdict {
        let (target, sender) = (question.target, question.sender);
        let of = |key| InterfaceSetting::of(self.snapshot, link, key);
        if target.is_multicast() || target.is_broadcast() {
            let cause = Cause::new("frame", format!("the kernel never answers for {target}"));
            return silent(Reason::SPECIAL_TARGET, cause);
        }
        let route_localnet = of(names::ROUTE_LOCALNET);
        if target.is_loopback() && !route_localnet.is_on() {
            return silent(Reason::SPECIAL_TARGET, route_localnet.cause(&format!("so {target} is not answered for")));
        }
        let drop_gratuitous = of(names::DROP_GRATUITOUS_ARP);
        if sender == target && drop_gratuitous.is_on() {
            return silent(
                Reason::ANNOUNCEMENT,
                drop_gratuitous.cause("so requests for the sender's own address are dropped"),
            );
        }
        if sender.is_unspecified() {
            return self.probe(link, target);
        }
        if sender.is_multicast() || sender.is_broadcast() {
            return silent(Reason::SPECIAL_SENDER, Cause::new("frame", format!("{sender} cannot be a sender")));
        }
        if target.is_unspecified() {
            return silent(Reason::SPECIAL_TARGET, Cause::new("frame", "the kernel never answers for 0.0.0.0"));
        }
        if sender.is_loopback() && !target.is_loopback() && !route_localnet.is_on() {
            return silent(Reason::SPECIAL_SENDER, route_localnet.cause(&format!("so {sender} cannot be a sender")));
        }
        self.routed(link, question)
    }

    /// A request from 0.0.0.0: only own addresses are answered for, whatever rules and source validation say.
    fn probe(&self, link: &Link, target: Ipv4Addr) -> KernelVerdict {
        match self.snapshot.walk_probe(link.ifindex, target) {
            None => {
                let what =
                    format!("whether {target} is the node's own depends on whether table local is apart from main");
                open(Reason::OPAQUE_ROUTE, Cause::new("route", what))
            }
            Some(Some(route)) if route.kind == RouteKind::Local && !target.is_unspecified() => self.local(
                link,
                target,
                Ipv4Addr::UNSPECIFIED,
                &Destination { route: Some(route), rule: None, is_validated: true },
            ),
            Some(_) => {
                let what = format!("a probe (sender 0.0.0.0) is answered for own addresses only, and {target} is none");
                silent(Reason::PROBE_NOT_LOCAL, Cause::new("frame", what).at("ip route show table local"))
            }
        }
    }

    /// The way to the target.
    fn routed(&self, link: &Link, question: &Question) -> KernelVerdict {
        let Question { ifindex, target, sender, .. } = *question;
        let end = self.snapshot.walk(ifindex, sender, target);
        let (rule, route) = match end {
            End::Unknown(rule) => {
                return self.asked(link, question, self.rule_cause(rule, "it is not known whether it applies"));
            }
            End::NoRoute => {
                if let Some(cause) = self.without_carrier(target) {
                    return silent(Reason::NO_ROUTE, cause);
                }
                let cause = Cause::new("route", format!("no routing rule leads to a route to {target}"));
                return silent(Reason::NO_ROUTE, cause.at(format!("ip route get {target}")));
            }
            End::Refused(rule, None) => {
                return silent(Reason::UNANSWERABLE_ROUTE, self.rule_cause(rule, &format!("it refuses {target}")));
            }
            End::Refused(rule, Some(route)) => {
                return silent(
                    Reason::UNANSWERABLE_ROUTE,
                    self.route_cause(Some(rule), route, &format!("refuses {target}")),
                );
            }
            End::Route(rule, route) => (rule, route),
        };
        let destination = Destination { route: Some(route), rule: Some(rule), is_validated: false };
        match route.kind {
            RouteKind::Local | RouteKind::Unicast if self.snapshot.routes.objects.may_be_shared(route) => {
                // Not asked for: by the lookup alone the kernel could begin to answer otherwise.
                let what = "the nexthop object of this route is shared by routes of different types: which of them was used first decides";
                open(Reason::OPAQUE_ROUTE, self.route_cause(Some(rule), route, what))
            }
            RouteKind::Local => match self.source(link, question, LOOPBACK) {
                Accepted::No(reason, cause) => silent(reason, cause),
                Accepted::Unknown(cause) => self.asked(link, question, cause),
                Accepted::Yes => self.local(link, target, sender, &destination),
            },
            RouteKind::Unicast => {
                let forwarding = InterfaceSetting::of(self.snapshot, link, names::FORWARDING);
                if !forwarding.is_on() {
                    return silent(
                        Reason::FORWARDING_OFF,
                        forwarding.cause(&format!("and {target} is not the node's own")),
                    );
                }
                let Some(legs) = self.legs(route) else {
                    return self.asked(
                        link,
                        question,
                        self.route_cause(Some(rule), route, "its next hops are not told"),
                    );
                };
                self.forwarded(link, question, &legs, &destination)
            }
            _ => silent(
                Reason::UNANSWERABLE_ROUTE,
                self.route_cause(Some(rule), route, "is of a type that is never answered for"),
            ),
        }
    }

    /// The setting for which a route of table main counts for nothing, if that is why there is none: with other rules than
    /// the default ones there may be another reason.
    fn without_carrier(&self, target: Ipv4Addr) -> Option<Cause> {
        if !self.snapshot.rules.are_default() {
            return None;
        }
        let prefixes = (0..=32).rev().map(|len| Prefix::new(target.octets(), len));
        let routes = prefixes.flat_map(|prefix| self.snapshot.routes.at(TABLE_MAIN, prefix));
        let mut unicast = routes.filter(|route| route.kind == RouteKind::Unicast);
        let is_without = |link: &&Link| {
            let ignores = InterfaceSetting::of(self.snapshot, link, names::IGNORE_ROUTES_WITH_LINKDOWN).is_on();
            link.flags & IFF_UP != 0 && !link.carrier && ignores
        };
        let by = |route: &Route| route.legs().iter().filter_map(|leg| self.snapshot.links.get(leg)).find(is_without);
        let (route, link) = unicast.find_map(|route| Some((route, by(route)?)))?;
        let so = format!(
            "and {} has no carrier: the route `{}` counts for nothing",
            link.name,
            describe_route(self.snapshot, route)
        );
        Some(InterfaceSetting::of(self.snapshot, link, names::IGNORE_ROUTES_WITH_LINKDOWN).cause(&so))
    }

    /// Where the mirror's knowledge ends: the kernel's own lookup.
    fn asked(&self, link: &Link, question: &Question, why: Cause) -> KernelVerdict {
        let reason = if why.kind == "rule" { Reason::OPAQUE_RULE } else { Reason::OPAQUE_ROUTE };
        let never = |rule: &RoutingRule| {
            rule.never.iter().any(|selector| selector.starts_with("ipproto") || selector.contains("port"))
        };
        if self.snapshot.rules.list().any(never) {
            // The kernel takes what it is asked about for UDP, and ARP for nothing.
            return open(reason, why);
        }
        let Question { ifindex, target, sender, .. } = *question;
        let shown = format!("ip route get {target} from {sender} iif {}", link.name);
        match self.lookup.input(ifindex, sender, target) {
            None => open(reason, why),
            Some(LookedUp::Refused(error)) => {
                let what = format!("the kernel's own lookup of {target} for {sender} ends with `{error}`");
                silent(reason, Cause::new("route", what).at(shown))
            }
            Some(LookedUp::Route(route)) => {
                let destination = Destination { route: Some(&route), rule: None, is_validated: true };
                match (route.kind, self.legs(&route).as_deref()) {
                    (RouteKind::Local, _) => self.local(link, target, sender, &destination),
                    (RouteKind::Unicast, Some([one])) => self.forwarded(link, question, &[*one], &destination),
                    // Only the one that it picked this time has been validated.
                    (RouteKind::Unicast, Some(legs)) => {
                        let destination = Destination { is_validated: false, ..destination };
                        self.forwarded(link, question, legs, &destination)
                    }
                    (RouteKind::Unicast, None) => open(reason, why),
                    _ => {
                        let what = self.route_cause(None, &route, "is of a type that is never answered for");
                        silent(Reason::UNANSWERABLE_ROUTE, what)
                    }
                }
            }
        }
    }

    /// The interfaces of a route's next hops. A route may tell no more than the number of its nexthop object
    /// (`net.ipv4.nexthop_compat_mode` 0): the kernel is asked for those of the object. `None` if they are not known, and if
    /// none of these is up: the kernel skips such a route, and the walk that led to it could not.
    fn legs<'r>(&self, route: &'r Route) -> Option<Cow<'r, [u32]>> {
        if !route.legs().is_empty() {
            return Some(route.legs().into());
        }
        let legs = self.lookup.next_hops(route.nexthop?.get())?;
        legs.iter().any(|&leg| self.snapshot.carries(leg)).then(|| legs.into())
    }

    fn rule_cause(&self, rule: &RoutingRule, what: &str) -> Cause {
        Cause::new("rule", format!("the routing rule `{}`: {what}", describe_rule(rule))).at("ip rule")
    }

    fn route_cause(&self, rule: Option<&RoutingRule>, route: &Route, what: &str) -> Cause {
        let table = super::words::table_name(route.table);
        let by = rule.map(|rule| format!(", by rule `{}`", describe_rule(rule))).unwrap_or_default();
        let what = format!("the route `{}` (table {table}{by}) {what}", describe_route(self.snapshot, route));
        Cause::new("route", what).at(format!("ip route show table {table}"))
    }
}

/// Whether a link-layer address can be a host's (`is_valid_ether_addr`, include/linux/etherdevice.h).
pub(super) fn is_of_a_host(address: Lladdr) -> bool {
    !address.is_group() && address != Lladdr::new([0; 6])
}

/// The bridge, bond or team that takes an interface's frames as its own.
pub(super) fn taken_by(snapshot: &Snapshot, ifindex: u32) -> Option<&Link> {
    let master = snapshot.links.get(&snapshot.links.get(&ifindex)?.master?)?;
    TAKING.contains(&master.kind.as_deref()?).then_some(master)
}

/// The question as it is put to the device that takes the interface's frames: a bridge, bond or team.
pub(super) fn on_master(snapshot: &Snapshot, question: &Question) -> Option<Question> {
    let (link, master) = (snapshot.links.get(&question.ifindex)?, taken_by(snapshot, question.ifindex)?);
    let is_to_port = |to: &Lladdr| Some(to.bytes()) == link.mac;
    let destination = match question.destination {
        Some(to) if is_to_port(&to) => master.mac.map(Lladdr::new),
        destination => destination,
    };
    Some(Question { ifindex: master.ifindex, interface: master.name.clone(), destination, ..question.clone() })
}

/// It gives no answer.
fn silent(reason: Reason, cause: Cause) -> KernelVerdict {
    KernelVerdict { answer: Answer::Silent, reason: Some(reason), within_ms: None, mac: None, cause }
}

/// Nobody can say.
fn open(reason: Reason, cause: Cause) -> KernelVerdict {
    KernelVerdict { answer: Answer::Undecided, reason: Some(reason), within_ms: None, mac: None, cause }
}

/// It answers at once.
fn answers(link: &Link, cause: Cause) -> KernelVerdict {
    KernelVerdict { answer: Answer::Answers, reason: None, within_ms: None, mac: link.mac.map(Lladdr::new), cause }
}

#[cfg(test)]
mod tests;
