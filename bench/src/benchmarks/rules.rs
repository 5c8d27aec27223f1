//! What routing rules cost the agent: views from nothing, and after a single change. The events are those that the kernel
//! would tell; the maps are real.
//!
//! The world is a large node of Amazon's VPC CNI (aws/amazon-vpc-cni-k8s): 15 interfaces with a table each, and for each of
//! 737 pods a rule to it and, unless it is the first interface's, a rule from it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::Result;
use arp_agent::dataplane::Dataplane as _;
use arp_agent::dataplane::bpf::Bpf;
use arp_agent::event::{
    Event, Link, LocalAndMain, NeighbourEntry, Placement, Route, RouteKind, RoutingRule, RuleAction, Settings,
};
use arp_agent::mirror::{Change, Mirror};
use arp_agent::prefix::Prefix;
use lab::OnCore;

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::report::GoalBound;
use crate::samples::Key;

const TIME: &str = "time until the maps hold it";
const MEMORY: &str = "memory of the FIB";
const ALL: &str = "all views from nothing";
const ROUTE: &str = "a pod's route added";
const RULE: &str = "a rule added";
const CASES: [(&str, &str, f64); 3] = [("V1", ALL, 10.0), ("V2", ROUTE, 1.0), ("V3", RULE, 10.0)];
const MANY: &str = "100,000 routes in main, two next hops by default";

const INTERFACES: u32 = 15;
const PODS: u32 = 737;
const LOCAL: u32 = 255;
const MAIN: u32 = 254;
/// Indices of the first uplink and of the first pod's interface.
const UPLINK: u32 = 2;
const POD: u32 = 100;

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Measures,
    measures: &[(TIME, TIME), (MEMORY, MEMORY)],
    cases: &[ALL, ROUTE, RULE, MANY],
}];

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _core = OnCore::enter(context.core)?;
    let rounds = context.either(15, 2);
    let attached: BTreeSet<u32> = (POD..POD + PODS).collect();
    for _ in 0..rounds {
        context.check()?;
        let mut node = MirroredNode::new(attached.clone())?;
        let dump = node_of_amazon(rules(PODS));
        findings.push(Key::new(TIME, ALL), "ms", node.took(|mirror, attached| mirror.resync(attached, dump))?);
        findings.push(Key::new(MEMORY, ALL), "KiB", f64::from(node.bpf.fib_nodes()));
        let added = Event::Route(route(MAIN, pod_address(PODS), 32, POD), Placement::First);
        findings.push(
            Key::new(TIME, ROUTE),
            "ms",
            node.took(|mirror, attached| mirror.apply(attached, [added]).changes)?,
        );
        let changed = Event::Rules(rules(PODS + 1));
        findings.push(
            Key::new(TIME, RULE),
            "ms",
            node.took(|mirror, attached| mirror.apply(attached, [changed]).changes)?,
        );
    }
    let mut node = MirroredNode::new(attached)?;
    let dump = many_routes();
    findings.push(Key::new(TIME, MANY), "ms", node.took(|mirror, attached| mirror.resync(attached, dump))?);
    findings.push(Key::new(MEMORY, MANY), "KiB", f64::from(node.bpf.fib_nodes()));
    for (goal, case, bound) in CASES {
        let values = findings.samples.values(&Key::new(TIME, case)).to_vec();
        findings.goal(goal, ["a node of Amazon's VPC CNI", case], GoalBound::AtMost(bound), "ms", &values);
    }
    let values = findings.samples.values(&Key::new(MEMORY, MANY)).to_vec();
    findings.goal("V4", [MEMORY, MANY], GoalBound::AtMost(2048.0), "KiB", &values);
    findings.note(format!(
        "{} rules, {INTERFACES} interfaces, {PODS} pods: computed from events that are there already, and written into BPF maps.",
        rules(PODS).len()
    ));
    Ok(())
}

/// An agent's mirror and maps.
struct MirroredNode {
    mirror: Mirror,
    bpf: Bpf,
    attached: BTreeSet<u32>,
}

impl MirroredNode {
    fn new(attached: BTreeSet<u32>) -> Result<Self> {
        Ok(MirroredNode { mirror: Mirror::default(), bpf: Bpf::load()?, attached })
    }

    /// How long it takes to compute changes and to write them, in milliseconds.
    fn took(&mut self, compute: impl FnOnce(&mut Mirror, &BTreeSet<u32>) -> Vec<Change>) -> Result<f64> {
        let begin = Instant::now();
        let changes = compute(&mut self.mirror, &self.attached);
        self.bpf.apply(&changes)?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}

fn pod_address(pod: u32) -> u32 {
    u32::from(Ipv4Addr::new(10, 0, 64, 0)) + pod
}

/// The interface that a pod's packets leave by.
fn interface_of(pod: u32) -> u32 {
    pod % INTERFACES
}

fn rules(pods: u32) -> Vec<RoutingRule> {
    let lookup =
        |priority, table| RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() };
    let host = |pod| Some(Prefix { addr: pod_address(pod), len: 32 });
    let mut rules = vec![lookup(0, LOCAL)];
    rules.extend((0..pods).map(|pod| RoutingRule { to: host(pod), ..lookup(512, MAIN) }));
    rules.push(RoutingRule { mark: Some((0x80, 0x80)), ..lookup(1024, MAIN) });
    let from = (0..pods).filter(|&pod| interface_of(pod) != 0);
    rules.extend(from.map(|pod| RoutingRule { from: host(pod), ..lookup(1536, interface_of(pod) + 1) }));
    rules.extend([lookup(32766, MAIN), lookup(32767, 253)]);
    rules
}

fn route(table: u32, addr: u32, len: u8, oif: u32) -> Route {
    Route {
        table,
        prefix: Prefix { addr, len },
        tos: 0,
        metric: 0,
        kind: if table == LOCAL { RouteKind::Local } else { RouteKind::Unicast },
        oif: Some(oif),
        gateway: None,
        nexthop: None,
        hops: Box::default(),
        encap: false,
        rest: 0,
    }
}

fn link(ifindex: u32, pod: bool) -> Event {
    const UP: u32 = 0x1_1043;
    Event::Link(Link {
        ifindex,
        name: format!("{}{ifindex}", if pod { "eni" } else { "eth" }),
        mac: Some([0xee; 6]),
        hardware_type: 1,
        flags: UP,
        carrier: true,
        kind: pod.then(|| "veth".to_owned()),
        link_netnsid: pod.then_some(1),
        settings: Some(Settings { forwarding: 1, proxy_arp: 1, ..Settings::default() }),
        ..Link::default()
    })
}

/// What every node here has.
fn common(rules: Vec<RoutingRule>) -> Vec<Event> {
    let mut events = vec![
        Event::AllSettings(Settings::default()),
        Event::Rules(rules),
        Event::LocalAndMain(Some(LocalAndMain::Split)),
        Event::ProxyDelays((POD..POD + PODS).map(|ifindex| (ifindex, 0)).collect()),
    ];
    events.extend((UPLINK..UPLINK + INTERFACES).map(|ifindex| link(ifindex, false)));
    for pod in 0..PODS {
        let addr = pod_address(pod);
        events.push(link(POD + pod, true));
        events.push(Event::Route(route(MAIN, addr, 32, POD + pod), Placement::Last));
        let lladdr = Some([2, 0, 0, 0, 0, 1]);
        events.push(Event::Neighbour(NeighbourEntry { ifindex: POD + pod, addr: addr.into(), state: 4, lladdr }));
    }
    events
}

fn node_of_amazon(rules: Vec<RoutingRule>) -> Vec<Event> {
    let mut events = common(rules);
    for interface in 0..INTERFACES {
        let own = u32::from(Ipv4Addr::new(10, 0, 1, 1)) + interface;
        events.push(Event::Route(route(LOCAL, own, 32, UPLINK + interface), Placement::Last));
        let table = if interface == 0 { MAIN } else { interface + 1 };
        events.push(Event::Route(route(table, 0, 0, UPLINK + interface), Placement::Last));
    }
    events
}

/// A router: default rules, a default route with two next hops, and routes that other routers have told.
fn many_routes() -> Vec<Event> {
    let rule = |priority, table| RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() };
    let mut events = common(vec![rule(0, LOCAL), rule(32766, MAIN), rule(32767, 253)]);
    let default = Route { oif: None, hops: [UPLINK, UPLINK + 1].into(), ..route(MAIN, 0, 0, 0) };
    events.push(Event::Route(default, Placement::Last));
    // In /24 as most of the Internet's are, one after the other as a provider's are.
    let first = u32::from(Ipv4Addr::new(20, 0, 0, 0));
    let routes = (0..100_000).map(|number| route(MAIN, first + (number << 8), 24, UPLINK + number % 2));
    events.extend(routes.map(|route| Event::Route(route, Placement::Last)));
    events
}
