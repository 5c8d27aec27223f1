//! The kernel's state as one question sees it: the facts behind a decision, with where the kernel keeps them, and what
//! would have to be otherwise for the answer to be one.

use super::kernel::settings::InterfaceSetting;
use super::words::{describe_link, describe_neighbour, describe_route, describe_rule, join, refusing, sysctl_name};
use super::{Explanation, Fact, Question, TablesFrom, explain};
use crate::arp_rules::ArpRules;
use crate::dataplane::Dataplane as _;
use crate::dataplane::fake::Fake;
use crate::event::{Event, Link, NeighbourEntry, Placement, Route, RouteKind, RoutingRule, RuleAction, Settings};
use crate::mirror::Mirror;
use crate::mirror::desired::is_hooked;
use crate::mirror::routes::{TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::mirror::snapshot::{IFF_UP, Snapshot};
use crate::mirror::walk::{End, LOOPBACK};
use crate::prefix::Prefix;
use arp_common::maps::IfaceAddr;
use arp_common::settings::{ARP_IGNORE, FORWARDING, MEDIUM_ID, PROXY_ARP, PROXY_ARP_PVLAN, PROXY_DELAY};
use nix::libc;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The kernel's state, and the tables that an agent would make of it.
pub(crate) struct KernelView {
    mirror: Mirror,
    tables: Fake,
    attached: BTreeSet<u32>,
}

impl KernelView {
    /// From a complete dump, for an agent on this one interface.
    ///
    /// # Errors
    /// The FIB has more routes than fit.
    pub(crate) fn new(dump: Vec<Event>, ifindex: u32) -> anyhow::Result<Self> {
        let mut world =
            KernelView { mirror: Mirror::default(), tables: Fake::default(), attached: BTreeSet::from([ifindex]) };
        let changes = world.mirror.resync(&world.attached, dump);
        world.tables.apply(&changes)?;
        world.tables.set_lease(1)?;
        Ok(world)
    }

    /// The decision that these tables lead to.
    pub(crate) fn explain(&self, question: &Question) -> Explanation {
        explain(question, &self.tables, TablesFrom::Kernel)
    }

    /// What the kernel says of everything that the decision may depend on.
    pub(crate) fn facts(&self, question: &Question) -> Vec<Fact> {
        let snapshot = self.mirror.snapshot();
        let name = &question.interface;
        let mut facts = Vec::new();
        if let Some(link) = snapshot.links.get(&question.ifindex) {
            facts.push(Fact::new(format!("ip link show {name}"), describe_link(snapshot, link)));
            if link.settings.is_some() && snapshot.all.is_some() {
                facts.extend(settings(snapshot, link));
            }
        }
        let delay = snapshot
            .proxy_delays
            .get(&question.ifindex)
            .map(|milliseconds| format!("{} (ticks of 10 ms)", milliseconds / 10));
        facts.push(Fact::new(
            format!("net.ipv4.neigh.{}.proxy_delay", sysctl_name(name)),
            delay.unwrap_or_else(|| "not known".into()),
        ));
        let key = IfaceAddr { ifindex: question.ifindex, addr: question.sender.octets() };
        let entry = snapshot.neighbours.get(&key).map(describe_neighbour);
        facts.push(Fact::new(
            format!("ip neigh show {} dev {name}", question.sender),
            entry.unwrap_or_else(|| "none".into()),
        ));
        let Question { ifindex, sender, target, .. } = *question;
        for (what, addr, end) in [
            ("back to the sender", sender, self.walk_back(ifindex, sender, target)),
            ("to the target", target, snapshot.walk(ifindex, sender, target)),
        ] {
            let (rule, route) = match end {
                End::Route(rule, route) => (describe_rule(rule), describe_route(snapshot, route)),
                End::Refused(rule, route) => (describe_rule(rule), refusing(snapshot, route)),
                End::Unknown(rule) => (format!("{} (not followed)", describe_rule(rule)), "not known".to_owned()),
                End::NoRoute => ("none of them".to_owned(), "none".to_owned()),
            };
            facts.push(Fact::new(format!("ip rule, {what} {addr}"), rule));
            facts.push(Fact::new(format!("ip route, {what} {addr}"), route));
        }
        let proxied = snapshot
            .proxies
            .iter()
            .any(|key| key.addr == question.target.octets() && (key.ifindex == 0 || key.ifindex == question.ifindex));
        facts.push(Fact::new(
            format!("ip neigh show proxy {}", question.target),
            if proxied { "there" } else { "none" },
        ));
        facts.push(Fact::new("ip rule", format!("{} rules", snapshot.rules.list().len())));
        facts.push(Fact::new(
            "ARP netfilter",
            match (self.arp_rule_in_the_way(question.ifindex), snapshot.held_back.get(name)) {
                (Some(rule), _) => rule,
                (None, Some(held_back)) => format!("drops replies about {}", join(held_back)),
                (None, None) => format!("nothing that concerns {name}"),
            },
        ));
        let hooked = is_hooked(snapshot, question.ifindex);
        facts.push(Fact::new(
            format!("tc qdisc show dev {name}, nft list hooks"),
            if hooked {
                "something that may come after the fast path"
            } else {
                "nothing that may come after the fast path"
            },
        ));
        facts
    }

    /// Single changes after which the fast path would answer. Each is tried: the same decision, over the tables that an
    /// agent would make of that state.
    ///
    /// # Errors
    /// The FIB has more routes than fit.
    pub(crate) fn would_answer_if(&mut self, question: &Question) -> anyhow::Result<Vec<String>> {
        let mut found = self.try_candidates(question)?;
        if found.is_empty() {
            // The kernel answers nothing, and so has never learnt the sender: that alone would not help.
            let (learnt, before) = self.learnt(question);
            self.tell(learnt)?;
            found = self.try_candidates(question)?;
            self.tell(before)?;
            for what in &mut found {
                *what += ", and the kernel had learnt the sender (it does so with the first request that it answers)";
            }
        }
        Ok(found)
    }

    fn try_candidates(&mut self, question: &Question) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for (what, change, revert) in self.candidates(question) {
            self.tell(change)?;
            if self.explain(question).reply_mac.is_some() {
                found.push(what);
            }
            self.tell(revert)?;
        }
        Ok(found)
    }

    /// The kernel's state.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        self.mirror.snapshot()
    }

    /// The netfilter rule that may do something to the interface's frames.
    fn arp_rule_in_the_way(&self, ifindex: u32) -> Option<String> {
        let snapshot = self.snapshot();
        let concern = snapshot.links.get(&ifindex).and_then(|link| snapshot.arp_netfilter.concern(link));
        concern.map(|concern| concern.to_string())
    }

    /// Source validation's walk: from the target to the sender, as a packet that came in by the device that the route to the
    /// target leaves by.
    fn walk_back(&self, ifindex: u32, sender: Ipv4Addr, target: Ipv4Addr) -> End<'_> {
        let snapshot = self.snapshot();
        let by = match snapshot.walk(ifindex, sender, target) {
            End::Route(_, route) if route.kind == RouteKind::Unicast => route.legs().first().copied(),
            _ => None,
        };
        snapshot.walk_back(ifindex, by.unwrap_or(LOOPBACK), target, sender)
    }

    /// What has to be told for the kernel to have learnt the sender, and what takes it back.
    fn learnt(&self, question: &Question) -> (Event, Event) {
        let Question { ifindex, sender, sender_mac, .. } = *question;
        let entry = NeighbourEntry { ifindex, addr: sender, state: libc::NUD_STALE, lladdr: Some(sender_mac.bytes()) };
        let before = match self.snapshot().neighbours.get(&IfaceAddr { ifindex, addr: sender.octets() }) {
            Some(entry) => Event::Neighbour(entry.clone()),
            None => Event::NeighbourGone { ifindex, addr: sender },
        };
        (Event::Neighbour(entry), before)
    }

    /// What has to be told for the sender to be routed back by the interface, and what takes it back.
    fn routed_back(&self, question: &Question) -> (Event, Event) {
        let route = || host_route(question.sender, question.ifindex);
        (Event::Route(route(), Placement::Last), Event::RouteGone(route()))
    }

    fn tell(&mut self, event: Event) -> anyhow::Result<()> {
        let step = self.mirror.apply(&self.attached, [event]);
        self.tables.apply(&step.changes)
    }

    fn walk_to(&self, question: &Question) -> End<'_> {
        self.snapshot().walk(question.ifindex, question.sender, question.target)
    }

    /// Changes worth trying: in words, as an event, and the event that takes it back.
    fn candidates(&self, question: &Question) -> Vec<(String, Event, Event)> {
        type Set = fn(&mut Settings);
        let snapshot = self.mirror.snapshot();
        let mut candidates = Vec::new();
        let Some(link) = snapshot.links.get(&question.ifindex) else { return candidates };
        let name = &link.name;
        let set: [(&str, &str, Set); 5] = [
            (PROXY_ARP, "1", |settings| settings.proxy_arp = 1),
            (PROXY_ARP_PVLAN, "1", |settings| settings.proxy_arp_pvlan = 1),
            (FORWARDING, "1", |settings| settings.forwarding = 1),
            (ARP_IGNORE, "0", |settings| settings.arp_ignore = 0),
            (MEDIUM_ID, "0", |settings| settings.medium_id = 0),
        ];
        for (key, value, change) in set {
            let mut changed = link.clone();
            if let Some(settings) = &mut changed.settings {
                change(settings);
            }
            let what = format!("net.ipv4.conf.{}.{key} were {value}", sysctl_name(name));
            candidates.push((what, Event::Link(changed), Event::Link(link.clone())));
        }
        if let Some(all) = snapshot.all.filter(|all| all.arp_ignore != 0) {
            let changed = Settings { arp_ignore: 0, ..all };
            let what = format!("net.ipv4.conf.all.{ARP_IGNORE} were 0");
            candidates.push((what, Event::AllSettings(changed), Event::AllSettings(all)));
        }
        let delays: Vec<(u32, u64)> = snapshot.proxy_delays.iter().map(|(&ifindex, &delay)| (ifindex, delay)).collect();
        let mut undelayed: Vec<(u32, u64)> =
            delays.iter().copied().filter(|(ifindex, _)| *ifindex != link.ifindex).collect();
        undelayed.push((link.ifindex, 0));
        candidates.push((
            format!("net.ipv4.neigh.{}.{PROXY_DELAY} were 0", sysctl_name(name)),
            Event::ProxyDelays(undelayed),
            Event::ProxyDelays(delays),
        ));
        let (entry, before) = self.learnt(question);
        candidates.push((
            format!(
                "the kernel's neighbour entry for {} on {name} were valid and held {} (it is so after one request that the \
                 kernel answers)",
                question.sender, question.sender_mac
            ),
            entry,
            before,
        ));
        candidates.push((
            "ip rule had only its three default rules".to_owned(),
            Event::Rules(default_rules()),
            Event::Rules(snapshot.rules.list().cloned().collect()),
        ));
        if let Some(rule) = self.arp_rule_in_the_way(link.ifindex) {
            candidates.push((
                format!("no rule of nft's ARP family or of arptables concerned {name} ({rule})"),
                Event::ArpNetfilter(ArpRules::default()),
                Event::ArpNetfilter(snapshot.arp_netfilter.clone()),
            ));
        }
        let held_back = snapshot.held_back.iter();
        let held_back = held_back.flat_map(|(name, addrs)| addrs.iter().map(|&addr| (name.clone(), addr))).collect();
        candidates.push((
            format!("no ARP chain dropped replies on {name} that could be given (nft list ruleset arp)"),
            Event::DroppedReplies(Vec::new()),
            Event::DroppedReplies(held_back),
        ));
        let others = snapshot.ingress_hooks.iter().copied().filter(|&ifindex| ifindex != link.ifindex).collect();
        candidates.push((
            format!("nothing were hooked in on {name} after the fast path (tc qdisc show dev {name}, nft list hooks)"),
            Event::IngressHooks(others),
            Event::IngressHooks(snapshot.ingress_hooks.iter().copied().collect()),
        ));
        let (route, gone) = self.routed_back(question);
        // One that is there already would be taken away with the one that is tried.
        let is_there = snapshot
            .routes
            .at(TABLE_MAIN, Prefix::new(question.sender.octets(), 32))
            .iter()
            .any(|route| route.metric == 0);
        if !is_there {
            candidates.push((
                format!(
                    "the route back to {} left by {name} (ip route add {}/32 dev {name})",
                    question.sender, question.sender
                ),
                route,
                gone,
            ));
        }
        let others = snapshot.links.values().filter(|other| other.ifindex != link.ifindex && other.name != "lo");
        let other = others.into_iter().find(|other| other.flags & IFF_UP != 0 && other.settings.is_some());
        if let Some(other) = other.filter(|_| matches!(self.walk_to(question), End::NoRoute)) {
            let target = question.target;
            let route = || host_route(target, other.ifindex);
            candidates.push((
                format!(
                    "there were a route to {target} by another interface, such as a default route by {}",
                    other.name
                ),
                Event::Route(route(), Placement::Last),
                Event::RouteGone(route()),
            ));
        }
        candidates
    }
}

/// What every namespace starts with (`fib_default_rules_init`, net/ipv4/fib_rules.c).
fn default_rules() -> Vec<RoutingRule> {
    let rules = [(0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT)];
    let rule =
        |(priority, table)| RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() };
    rules.map(rule).into()
}

fn host_route(addr: Ipv4Addr, oif: u32) -> Route {
    Route {
        table: TABLE_MAIN,
        prefix: Prefix::new(addr.octets(), 32),
        tos: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        oif: Some(oif),
        gateway: None,
        nexthop: None,
        hops: Box::default(),
        encap: false,
        rest: 0,
    }
}

/// Each setting with both values, and what comes of them (include/linux/inetdevice.h).
fn settings(snapshot: &Snapshot, link: &Link) -> Vec<Fact> {
    let fact = |key: &'static str| {
        let setting = InterfaceSetting::of(snapshot, link, key);
        Fact::new(format!("net.ipv4.conf.{}.{key}", sysctl_name(&link.name)), setting.to_string())
    };
    arp_common::settings::CONF.into_iter().map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::tests::{CALI, POD, POD_MAC, cali, dump};
    use std::num::NonZeroU32;

    fn question(target: &str) -> Question {
        Question {
            interface: "cali0".into(),
            ifindex: CALI,
            target: target.parse().unwrap(),
            sender: POD,
            sender_mac: arp_common::Lladdr::new(POD_MAC),
            destination: None,
        }
    }

    fn would_answer_if(change: impl IntoIterator<Item = Event>, target: &str) -> Vec<String> {
        let mut world = KernelView::new(dump(), CALI).unwrap();
        for event in change {
            world.tell(event).unwrap();
        }
        let question = question(target);
        let before = world.explain(&question);
        let found = world.would_answer_if(&question).unwrap();
        assert_eq!(world.explain(&question).verdict, before.verdict, "what was tried was taken back");
        found
    }

    #[test]
    fn the_setting_that_is_missing_is_named() {
        assert_eq!(would_answer_if([], "10.5.0.6"), ["net.ipv4.conf.cali0.proxy_arp_pvlan were 1"]);
        let off = cali(|_, settings| settings.proxy_arp = 0);
        assert_eq!(would_answer_if([off], "8.8.8.8"), ["net.ipv4.conf.cali0.proxy_arp were 1"]);
        let not_forwarding = cali(|_, settings| settings.forwarding = 0);
        assert_eq!(would_answer_if([not_forwarding], "8.8.8.8"), ["net.ipv4.conf.cali0.forwarding were 1"]);
        let delayed = Event::ProxyDelays(vec![(CALI, 800)]);
        assert_eq!(would_answer_if([delayed], "8.8.8.8"), ["net.ipv4.neigh.cali0.proxy_delay were 0"]);
    }

    #[test]
    fn two_things_missing_are_not_one() {
        let off = cali(|_, settings| (settings.proxy_arp, settings.forwarding) = (0, 0));
        assert_eq!(would_answer_if([off], "8.8.8.8"), [""; 0]);
    }

    #[test]
    fn a_sender_that_is_not_known_is_learnt_from_its_first_request() {
        let gone = Event::NeighbourGone { ifindex: CALI, addr: POD };
        let found = would_answer_if([gone], "8.8.8.8");
        assert!(found.len() == 1 && found[0].contains("after one request"), "{found:?}");
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let rule = RoutingRule { priority: 7, unknown: true, ..RoutingRule::default() };
        let found = would_answer_if([Event::Rules(vec![rule])], "8.8.8.8");
        assert!(found.len() == 1 && found[0].starts_with("ip rule"), "{found:?}");
        let found = would_answer_if([Event::ArpNetfilter(ArpRules::unread("test"))], "8.8.8.8");
        assert!(found.len() == 1 && found[0].contains("arptables"), "{found:?}");
        let found =
            would_answer_if([Event::DroppedReplies(vec![("cali0".into(), Ipv4Addr::new(9, 9, 9, 9))])], "8.8.8.8");
        assert!(found.len() == 1 && found[0].contains("nft list ruleset arp"), "{found:?}");
        let found = would_answer_if([Event::IngressHooks(vec![CALI])], "8.8.8.8");
        assert!(found.len() == 1 && found[0].contains("tc qdisc show dev cali0"), "{found:?}");
    }

    #[test]
    fn the_checks_end_with_the_one_that_decided() {
        let off = |change: fn(&mut Settings)| cali(move |_, settings| change(settings));
        let gone = Event::NeighbourGone { ifindex: CALI, addr: POD };
        let cases = [
            (off(|settings| settings.proxy_arp = 0), "proxy_arp_off"),
            (off(|settings| settings.forwarding = 0), "forwarding_off"),
            (off(|settings| settings.medium_id = -1), "medium_id"),
            (Event::ProxyDelays(vec![(CALI, 800)]), "proxy_delay"),
            (gone, "neighbour_unknown"),
            (Event::ArpNetfilter(ArpRules::unread("test")), "arp_netfilter"),
        ];
        for (event, reason) in cases {
            let mut world = KernelView::new(dump(), CALI).unwrap();
            world.tell(event).unwrap();
            let explanation = world.explain(&question("8.8.8.8"));
            assert_eq!(explanation.reason.as_deref(), Some(reason));
            let (last, before) = explanation.checks.split_last().unwrap();
            assert_eq!((last.otherwise.as_str(), last.holds), (reason, false));
            assert!(before.iter().all(|check| check.holds), "{before:?}");
        }
        let answered = KernelView::new(dump(), CALI).unwrap().explain(&question("8.8.8.8"));
        assert!(answered.checks.iter().all(|check| check.holds), "{:?}", answered.checks);
        assert_eq!(answered.checks.last().map(|check| check.otherwise.as_str()), Some("proxy_delay"));
    }

    #[test]
    fn facts_name_where_the_kernel_keeps_them() {
        let world = KernelView::new(dump(), CALI).unwrap();
        let facts = world.facts(&question("8.8.8.8"));
        let found = |what: &str| facts.iter().find(|fact| fact.what == what).map(|fact| fact.found.as_str());
        assert_eq!(found("net.ipv4.conf.cali0.proxy_arp"), Some("1, all 0: on"));
        assert_eq!(found("net.ipv4.neigh.cali0.proxy_delay"), Some("0 (ticks of 10 ms)"));
        assert_eq!(found("ip neigh show 10.5.0.5 dev cali0"), Some("lladdr 02:00:00:00:00:02 STALE"));
        assert_eq!(found("ip route, to the target 8.8.8.8"), Some("default dev eth0"));
        assert_eq!(found("ip route, back to the sender 10.5.0.5"), Some("10.5.0.5 dev cali0"));
    }

    #[test]
    fn a_route_that_is_not_answered_says_of_which_kind_it_is() {
        let route = |to: &str, kind| {
            let (addr, len) = to.split_once('/').unwrap();
            let prefix = Prefix::new(addr.parse::<Ipv4Addr>().unwrap().octets(), len.parse().unwrap());
            Route { prefix, kind, oif: None, ..host_route(Ipv4Addr::UNSPECIFIED, CALI) }
        };
        let of = |kind| route("8.8.8.0/24", kind);
        let broadcast = Route { table: TABLE_LOCAL, oif: Some(CALI), ..route("8.8.8.8/32", RouteKind::Broadcast) };
        let unicast = || of(RouteKind::Unicast);
        let cases = [
            (of(RouteKind::Blackhole), "unanswerable_route", "blackhole 8.8.8.0/24"),
            (of(RouteKind::Unreachable), "unanswerable_route", "unreachable 8.8.8.0/24"),
            (of(RouteKind::Prohibit), "unanswerable_route", "prohibit 8.8.8.0/24"),
            (of(RouteKind::Multicast), "unanswerable_route", "multicast 8.8.8.0/24"),
            (of(RouteKind::Anycast), "unanswerable_route", "anycast 8.8.8.0/24"),
            (broadcast, "unanswerable_route", "broadcast 8.8.8.8 dev cali0 table local"),
            (
                Route { hops: [CALI, 99].into(), nexthop: NonZeroU32::new(4), ..unicast() },
                "opaque_route",
                "8.8.8.0/24 nhid 4 nexthop dev cali0 nexthop dev if99",
            ),
            (
                Route { nexthop: NonZeroU32::new(4), ..unicast() },
                "opaque_route",
                "8.8.8.0/24 nhid 4 (a nexthop object)",
            ),
            (Route { encap: true, oif: Some(CALI), ..unicast() }, "pvlan_off", "8.8.8.0/24 dev cali0 (encapsulated)"),
        ];
        for (route, reason, printed) in cases {
            let mut world = KernelView::new(dump(), CALI).unwrap();
            world.tell(Event::Route(route, Placement::Last)).unwrap();
            let question = question("8.8.8.8");
            assert_eq!(world.explain(&question).reason.as_deref(), Some(reason), "{printed}");
            let facts = world.facts(&question);
            let fact = facts.iter().find(|fact| fact.what == "ip route, to the target 8.8.8.8").unwrap();
            assert_eq!(fact.found, printed);
        }
    }
}
