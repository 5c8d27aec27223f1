//! What would change the kernel's answer, both ways. Each change is tried on a copy of the state before it is named.

use super::kernel::settings::{InterfaceSetting, set, value as value_of};
use super::kernel::{Beyond, Kernel, KernelLookup, MAX_NESTED, ObjectsOf, on_master};
use super::words::{describe_route, describe_rule, sysctl_name, table_name};
use super::{Answer, Question, Remedy};
use crate::arp_rules::{ChainTool, ChainVerdict as Ruling, Step};
use crate::event::{Address, Event, Link, Placement, Route, RouteKind};
use crate::mirror::routes::{TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::mirror::snapshot::{Dirty, IFF_UP, Snapshot};
use crate::mirror::walk::End;
use crate::prefix::Prefix;
use arp_common::settings as names;
use nix::libc;
use std::iter::successors;
use std::net::Ipv4Addr;

const IFF_NOARP: u32 = libc::IFF_NOARP as u32;
/// How many rules of netfilter are tried at most.
const MOST_RULES: usize = 64;

/// A change worth trying.
struct Trial {
    /// What to type, as root.
    command: String,
    events: Vec<Event>,
    /// A setting of the interface's, and its new value: by itself, so that two of them can be changed.
    setting: Option<(&'static str, i32)>,
    /// What else it does.
    also: Option<String>,
    /// It may be half of a pair.
    pairs: bool,
}

impl Trial {
    fn new(command: impl Into<String>, events: Vec<Event>, also: Option<&str>) -> Self {
        Trial { command: command.into(), events, setting: None, also: also.map(str::to_owned), pairs: true }
    }

    fn alone(mut self) -> Self {
        self.pairs = false;
        self
    }
}

/// The changes after which the kernel does something else with the request: single ones, or pairs where no single one makes
/// it answer.
pub(crate) fn remedies(
    snapshot: &Snapshot,
    beyond: &Beyond,
    lookup: &dyn KernelLookup,
    question: &Question,
    now: Answer,
) -> Vec<Remedy> {
    // What a port of a bridge, bond or team says counts for nothing: what its master says does.
    let of_masters = successors(Some(question.clone()), |question| on_master(snapshot, question));
    let Some(on) = &of_masters.take(MAX_NESTED).last() else { return Vec::new() };
    let lookup = ObjectsOf(lookup);
    let Some(link) = snapshot.links.get(&on.ifindex) else { return Vec::new() };
    let node = TrialNode { snapshot, link, question: on, now };
    let after = |candidates: &[&Trial]| {
        let mut changed = snapshot.clone();
        let mut dirty = Dirty::default();
        for candidate in candidates {
            candidate.events.iter().cloned().for_each(|event| changed.apply(event, &mut dirty));
            let link = changed.links.get_mut(&on.ifindex);
            if let Some(((key, value), settings)) = candidate.setting.zip(link.and_then(|link| link.settings.as_mut()))
            {
                set(settings, key, value);
            }
        }
        Kernel { snapshot: &changed, beyond, lookup: &lookup }.verdict(question).answer
    };
    let mut found = Vec::new();
    let candidates = node.candidates();
    for candidate in &candidates {
        let then = after(&[candidate]);
        if then != now && is_certain(then) && !(then == Answer::AnswersAfterDelay && now == Answer::Answers) {
            found.push(Remedy { command: candidate.command.clone(), then, also: candidate.also.clone() });
        }
    }
    let answers = |remedy: &Remedy| remedy.then != Answer::Silent;
    if now == Answer::Silent && !found.iter().any(answers) {
        found.extend(pairs(&candidates, after, |then| is_certain(then) && then != Answer::Silent));
    }
    if now != Answer::Silent && now != Answer::Undecided && found.iter().all(answers) {
        found.extend(pairs(&candidates, after, |then| then == Answer::Silent));
    }
    found
}

fn is_certain(answer: Answer) -> bool {
    matches!(answer, Answer::Answers | Answer::AnswersAfterDelay | Answer::Silent)
}

/// The first few pairs after which it is as wanted.
fn pairs(candidates: &[Trial], after: impl Fn(&[&Trial]) -> Answer, wanted: impl Fn(Answer) -> bool) -> Vec<Remedy> {
    const MOST: usize = 3;
    let mut found: Vec<Remedy> = Vec::new();
    let halves: Vec<&Trial> = candidates.iter().filter(|candidate| candidate.pairs).collect();
    for (at, one) in halves.iter().enumerate() {
        for other in &halves[at + 1..] {
            let then = after(&[one, other]);
            if wanted(then) {
                let also = [&one.also, &other.also].into_iter().flatten().cloned().collect::<Vec<_>>().join("; ");
                let command = format!("{} && {}", one.command, other.command);
                found.push(Remedy { command, then, also: Some(also).filter(|also| !also.is_empty()) });
            }
        }
    }
    found.truncate(MOST);
    found
}

struct TrialNode<'a> {
    snapshot: &'a Snapshot,
    link: &'a Link,
    question: &'a Question,
    now: Answer,
}

impl TrialNode<'_> {
    fn candidates(&self) -> Vec<Trial> {
        let mut candidates = self.proxies();
        candidates.extend(self.settings());
        candidates.extend(self.routes());
        candidates.extend(self.rules());
        candidates.extend(self.addresses());
        candidates.extend(self.chains());
        candidates.extend(self.links());
        candidates
    }

    fn proxies(&self) -> Vec<Trial> {
        let (name, target) = (&self.link.name, self.question.target);
        let entries = |keep: &dyn Fn(u32, Ipv4Addr) -> bool, more: Option<(u32, Ipv4Addr)>| {
            let entries = self.snapshot.proxies.iter().map(|key| (key.ifindex, Ipv4Addr::from(key.addr)));
            vec![Event::Proxies(entries.filter(|&(ifindex, addr)| keep(ifindex, addr)).chain(more).collect())]
        };
        let of = |ifindex| arp_common::maps::IfaceAddr { ifindex, addr: target.octets() };
        if self.snapshot.proxies.contains(&of(self.link.ifindex)) {
            let gone = |ifindex, addr| (ifindex, addr) != (self.link.ifindex, target);
            return vec![Trial::new(format!("ip neigh del proxy {target} dev {name}"), entries(&gone, None), None)];
        }
        let there = entries(&|_, _| true, Some((self.link.ifindex, target)));
        let also = "it is lost when the interface goes down";
        vec![Trial::new(format!("ip neigh add proxy {target} dev {name}"), there, Some(also))]
    }

    /// Routes by interfaces without carrier count again.
    fn without_carrier(&self) -> impl Iterator<Item = Trial> {
        let ignores = |link: &&Link| {
            !link.carrier && InterfaceSetting::of(self.snapshot, link, names::IGNORE_ROUTES_WITH_LINKDOWN).is_on()
        };
        self.snapshot.links.values().filter(ignores).map(|link| {
            let (mut link, mut all, mut commands) = (link.clone(), self.snapshot.all, Vec::new());
            let name = sysctl_name(&link.name);
            let of = [(name.as_str(), link.settings.as_mut()), ("all", all.as_mut())];
            for (scope, settings) in of {
                if let Some(settings) = settings.filter(|settings| settings.ignore_routes_with_linkdown != 0) {
                    settings.ignore_routes_with_linkdown = 0;
                    let key = names::IGNORE_ROUTES_WITH_LINKDOWN;
                    commands.push(format!("sysctl -w net.ipv4.conf.{scope}.{key}=0"));
                }
            }
            let also = format!("packets are sent out of {} then, although it has no carrier", link.name);
            let events = [Event::Link(link)].into_iter().chain(all.map(Event::AllSettings)).collect();
            Trial::new(commands.join(" && "), events, Some(&also))
        })
    }

    fn settings(&self) -> Vec<Trial> {
        let name = &self.link.name;
        let everything =
            format!("{name} then answers for everything that the node has a route to by another interface");
        let back = format!("{name} then answers for everything that is routed back to it");
        let own = format!("{name} then answers for all addresses of the node");
        let spoofed = format!("{name} then also accepts packets with a forged sender");
        let nothing = format!("{name} then answers for no routed address, static proxy entries aside");
        let values: [(&str, i32, &str); 18] = [
            (names::PROXY_ARP, 1, &everything),
            (names::PROXY_ARP_PVLAN, 1, &back),
            (names::FORWARDING, 1, "packets that come in by the interface are forwarded then"),
            (names::MEDIUM_ID, 0, &everything),
            (names::RP_FILTER, 2, &spoofed),
            (names::RP_FILTER, 0, &spoofed),
            (names::ARP_FILTER, 0, "the node then answers by each of its interfaces in a shared segment"),
            (names::ARP_IGNORE, 0, &own),
            (names::ACCEPT_LOCAL, 1, "packets with the node's own addresses as sender are accepted then"),
            (names::ROUTE_LOCALNET, 1, "127.0.0.0/8 can be reached from outside then"),
            (names::DROP_GRATUITOUS_ARP, 0, ""),
            (names::PROXY_ARP, 0, &nothing),
            (names::PROXY_ARP_PVLAN, 0, "it then answers for nothing that is routed back to it"),
            (names::ARP_IGNORE, 1, "it then answers for its own addresses only"),
            (names::ARP_IGNORE, 8, "it then answers for no own address at all"),
            (names::MEDIUM_ID, -1, &nothing),
            (names::FORWARDING, 0, "packets that come in by the interface are no longer forwarded"),
            (names::RP_FILTER, 1, "packets from this sender are dropped, too"),
        ];
        let mut candidates = Vec::new();
        for (key, value, also) in values {
            let also = Some(also).filter(|also| !also.is_empty());
            let now = InterfaceSetting::of(self.snapshot, self.link, key);
            let own = self.link.settings.map(|settings| value_of(&settings, key));
            if own.is_some_and(|own| own != value) {
                let command = format!("sysctl -w net.ipv4.conf.{}.{key}={value}", sysctl_name(name));
                let candidate = Trial::new(command, Vec::new(), also);
                candidates.push(Trial { setting: Some((key, value)), ..candidate });
            }
            // What `all` says counts for every interface: that is changed only where it decides.
            let lowers = value == 0 && now.is_on();
            if let Some(mut all) = self.snapshot.all.filter(|_| lowers && now.is_all()) {
                set(&mut all, key, value);
                let command = format!("sysctl -w net.ipv4.conf.all.{key}={value}");
                let also =
                    also.map_or_else(|| "on all interfaces".to_owned(), |also| format!("{also}; on all interfaces"));
                candidates.push(Trial::new(command, vec![Event::AllSettings(all)], Some(&also)));
            }
        }
        candidates.extend(self.without_carrier());
        let delay = self.snapshot.proxy_delays.get(&self.link.ifindex);
        if delay.is_some_and(|&delay| delay > 0) {
            let command = format!("sysctl -w net.ipv4.neigh.{}.{}=0", sysctl_name(name), names::PROXY_DELAY);
            let event = Event::ProxyDelay(self.link.ifindex, Some(0));
            candidates.push(Trial::new(command, vec![event], None).alone());
        }
        candidates
    }

    fn routes(&self) -> Vec<Trial> {
        let Question { ifindex, target, sender, .. } = *self.question;
        let name = &self.link.name;
        let mut candidates = Vec::new();
        let end = self.snapshot.walk(ifindex, sender, target);
        let add = |route: Route| vec![Event::Route(route, Placement::First)];
        let is_there = |addr: Ipv4Addr| !self.snapshot.routes.at(TABLE_MAIN, Prefix::new(addr.octets(), 32)).is_empty();
        if let End::Route(_, route) | End::Refused(_, Some(route)) = end
            && (route.kind != RouteKind::Local && route.table != TABLE_LOCAL)
        {
            let command = if route.legs().len() > 1 || route.encap || route.nexthop.is_some() {
                format!("ip route del {} table {}", to(route.prefix), table_name(route.table))
            } else {
                format!("ip route del {}", describe_route(self.snapshot, route))
            };
            let also = format!("the node then has no such route to {}", to(route.prefix));
            candidates.push(Trial::new(command, vec![Event::RouteGone(route.clone())], Some(&also)).alone());
        }
        let others = self.snapshot.links.values().filter(|other| {
            other.ifindex != ifindex && other.name != "lo" && other.flags & IFF_UP != 0 && other.settings.is_some()
        });
        // By the interface that most of the world is behind, if it is known.
        let default =
            self.snapshot.routes.at(TABLE_MAIN, Prefix { addr: 0, len: 0 }).first().and_then(|route| route.oif);
        let other = others.min_by_key(|other| (Some(other.ifindex) != default, other.ifindex));
        if let Some(other) = other.filter(|_| !is_there(target)) {
            let also = format!("packets to {target} are sent by {}, too", other.name);
            let command = format!("ip route add {target}/32 dev {}", other.name);
            candidates.push(Trial::new(
                command,
                add(host_route(target, RouteKind::Unicast, Some(other.ifindex))),
                Some(&also),
            ));
        }
        if !is_there(sender) && !sender.is_unspecified() {
            let also = format!("packets to {sender} are sent by {name}, too");
            let command = format!("ip route add {sender}/32 dev {name}");
            candidates.push(Trial::new(
                command,
                add(host_route(sender, RouteKind::Unicast, Some(ifindex))),
                Some(&also),
            ));
        }
        if !is_there(target) {
            let also = format!("packets to {target} are dropped, too");
            let command = format!("ip route add blackhole {target}/32");
            candidates
                .push(Trial::new(command, add(host_route(target, RouteKind::Blackhole, None)), Some(&also)).alone());
        }
        candidates
    }

    fn rules(&self) -> Vec<Trial> {
        let Question { ifindex, target, sender, .. } = *self.question;
        let by = |end| match end {
            End::Route(rule, _) | End::Refused(rule, _) | End::Unknown(rule) => Some(rule),
            End::NoRoute => None,
        };
        let out = match self.snapshot.walk(ifindex, sender, target) {
            End::Route(_, route) if route.kind == RouteKind::Unicast => route.legs().first().copied(),
            _ => None,
        };
        let forward = by(self.snapshot.walk(ifindex, sender, target));
        let back = by(self.snapshot.walk_back(ifindex, out.unwrap_or(crate::mirror::walk::LOOPBACK), target, sender));
        let is_default = |table: &crate::event::RuleAction| {
            [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].iter().any(|&of| *table == crate::event::RuleAction::lookup(of))
        };
        let rules = [forward, back].into_iter().flatten().filter(|rule| !is_default(&rule.action));
        let mut candidates: Vec<Trial> = Vec::new();
        for rule in rules {
            let command = format!("ip rule del pref {}", describe_rule(rule).replacen(':', "", 1));
            if candidates.iter().any(|other| other.command == command) {
                continue;
            }
            let rest = self.snapshot.rules.list().filter(|other| *other != rule).cloned().collect();
            let also = "packets are no longer routed by it either";
            candidates.push(Trial::new(command, vec![Event::Rules(rest)], Some(also)).alone());
        }
        candidates
    }

    fn addresses(&self) -> Vec<Trial> {
        let Question { ifindex, target, .. } = *self.question;
        let holders: Vec<&Address> = self.snapshot.addresses.iter().filter(|address| address.local == target).collect();
        let [holder] = holders.as_slice() else { return Vec::new() };
        let mut candidates = Vec::new();
        let on = super::words::interface(self.snapshot, holder.ifindex);
        let local = self.snapshot.routes.at(TABLE_LOCAL, Prefix::new(target.octets(), 32)).first();
        // One address less is no way to be answered.
        if let Some(local) = local.filter(|_| self.now != Answer::Silent) {
            let events = vec![Event::AddressGone((*holder).clone()), Event::RouteGone(local.clone())];
            let command = match holder.peer == holder.local {
                true => format!("ip addr del {target}/{} dev {on}", holder.prefix_len),
                false => format!("ip addr del {target} peer {}/{} dev {on}", holder.peer, holder.prefix_len),
            };
            candidates.push(Trial::new(command, events, Some("the node no longer has the address")).alone());
        }
        if holder.ifindex != ifindex {
            let more = Address { ifindex, local: target, peer: target, prefix_len: 32 };
            let command = format!("ip addr add {target}/32 dev {}", self.link.name);
            candidates.push(Trial::new(command, vec![Event::Address(more)], None));
        }
        candidates
    }

    fn chains(&self) -> Vec<Trial> {
        let rules = &self.snapshot.arp_netfilter;
        let drops = |step: &Step| matches!(step, Step::Verdict(Ruling::Drop | Ruling::Unknown) | Step::Unknown(_));
        let mut candidates = Vec::new();
        for (at, chain) in rules.chains.iter().enumerate() {
            for (place, rule) in chain.rules.iter().enumerate().filter(|(_, rule)| rule.steps.iter().any(drops)) {
                let mut changed = rules.clone();
                changed.chains[at].rules.remove(place);
                let held_back = changed.held_back();
                let command = match chain.tool {
                    ChainTool::Nft => format!("nft delete rule {} handle {}", chain.name, rule.number),
                    ChainTool::Arptables => format!("arptables -D {} {}", chain.name, rule.number),
                };
                let events = vec![Event::ArpNetfilter(changed), Event::DroppedReplies(held_back)];
                candidates.push(Trial::new(command, events, None).alone());
            }
        }
        candidates.truncate(MOST_RULES);
        candidates
    }

    fn links(&self) -> Vec<Trial> {
        let name = &self.link.name;
        let with = |flags| vec![Event::Link(Link { flags, ..self.link.clone() })];
        let flags = self.link.flags;
        let mut candidates = Vec::new();
        if flags & IFF_UP == 0 {
            let up = flags | IFF_UP | libc::IFF_RUNNING as u32;
            candidates.push(Trial::new(format!("ip link set {name} up"), with(up), None));
        }
        if flags & IFF_NOARP != 0 {
            candidates.push(Trial::new(format!("ip link set {name} arp on"), with(flags & !IFF_NOARP), None));
        }
        candidates
    }
}

fn to(prefix: Prefix) -> String {
    match prefix.len {
        0 => "default".to_owned(),
        len => format!("{}/{len}", Ipv4Addr::from(prefix.addr)),
    }
}

fn host_route(addr: Ipv4Addr, kind: RouteKind, oif: Option<u32>) -> Route {
    Route {
        table: TABLE_MAIN,
        prefix: Prefix::new(addr.octets(), 32),
        tos: 0,
        metric: 0,
        kind,
        oif,
        gateway: None,
        nexthop: None,
        hops: Box::default(),
        encap: false,
        rest: 0,
    }
}
