//! A scenario being planned: the steps so far, and what is worth asking about in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::pair::{NODE_MAC, PORTS, ScriptStep};
use arp_common::Lladdr;

use crate::rng::Rng;

/// Somebody behind a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) port: u8,
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: Lladdr,
}

/// A scenario being planned.
pub(crate) struct Plan {
    pub(crate) rng: Rng,
    /// How many ports the scenario uses.
    pub(crate) ports: u8,
    /// Configuration that has not been handed out yet.
    steps: Vec<ScriptStep>,
    /// How often each kind of configuration occurs.
    pub(crate) features: BTreeMap<&'static str, usize>,
    /// Who asks, with good manners.
    pub(crate) senders: Vec<Sender>,
    /// Addresses of the node's.
    pub(crate) own: Vec<Ipv4Addr>,
    /// Prefixes of routes and subnets.
    pub(crate) prefixes: Vec<(Ipv4Addr, u8)>,
    /// Addresses that something is configured about.
    pub(crate) targets: Vec<Ipv4Addr>,
    /// The ports' current addresses.
    pub(crate) macs: Vec<Lladdr>,
    /// The arguments of routes added so far.
    pub(crate) routes: Vec<String>,
    /// The arguments of routing rules added so far.
    pub(crate) rules: Vec<String>,
    /// The rules that every namespace begins with are there again at the end.
    pub(crate) restores_rules: bool,
    /// What undoes the scenario, in order of need.
    undo: Vec<ScriptStep>,
    next_host: u8,
}

impl Plan {
    pub(crate) fn new(mut rng: Rng) -> Self {
        let ports = rng.between(2, PORTS.into()) as u8;
        Plan {
            rng,
            ports,
            steps: Vec::new(),
            features: BTreeMap::new(),
            senders: Vec::new(),
            own: Vec::new(),
            prefixes: Vec::new(),
            targets: Vec::new(),
            macs: (0..PORTS).map(NODE_MAC).collect(),
            routes: Vec::new(),
            rules: Vec::new(),
            restores_rules: false,
            undo: Vec::new(),
            next_host: 1,
        }
    }

    pub(crate) fn feature(&mut self, name: &'static str) {
        *self.features.entry(name).or_default() += 1;
    }

    /// The steps planned since the last call.
    pub(crate) fn take_steps(&mut self) -> Vec<ScriptStep> {
        std::mem::take(&mut self.steps)
    }

    /// The steps that undo the scenario, last first.
    pub(crate) fn take_undo(&mut self) -> Vec<ScriptStep> {
        let mut undo = std::mem::take(&mut self.undo);
        undo.reverse();
        // Files at once, then commands at once.
        undo.sort_by_key(|step| !matches!(step, ScriptStep::Sysctl(..)));
        if undo.iter().any(|step| matches!(step, ScriptStep::Peer(_))) {
            undo.push(ScriptStep::Settle);
        }
        undo
    }

    /// Files before commands, except those of devices that are not there before: for plans whose order does not matter.
    pub(crate) fn sort_steps(&mut self) {
        self.steps.sort_by_key(|step| match step {
            ScriptStep::Sysctl(path, _)
                if ["/br0/", "/x0/", "/red/", "/blue/"].iter().any(|added| path.contains(added)) =>
            {
                2
            }
            ScriptStep::Sysctl(..) => 0,
            _ => 1,
        });
    }

    pub(crate) fn ip(&mut self, command: impl Into<String>) {
        self.steps.push(ScriptStep::Ip(command.into()));
    }

    /// An `ip` command, and the one that undoes it.
    pub(crate) fn ip_undone(&mut self, command: impl Into<String>, undo: impl Into<String>) {
        self.ip(command);
        self.undo.push(ScriptStep::Ip(undo.into()));
    }

    /// A step at the end of the scenario, after those that undo what comes later.
    pub(crate) fn undone_by(&mut self, undo: ScriptStep) {
        self.undo.push(undo);
    }

    pub(crate) fn step(&mut self, step: ScriptStep, undo: Option<ScriptStep>) {
        self.steps.push(step);
        self.undo.extend(undo);
    }

    /// Writes a file below /proc/sys/net/ipv4, and its default at the end.
    pub(crate) fn sysctl(&mut self, path: &str, value: impl ToString, default: i64) {
        let path = format!("net/ipv4/{path}");
        self.steps.push(ScriptStep::Sysctl(path.clone(), value.to_string()));
        let undo = ScriptStep::Sysctl(path, default.to_string());
        if !self.undo.contains(&undo) {
            self.undo.push(undo);
        }
    }

    /// Writes a file of `net/ipv4/conf/<scope>`.
    pub(crate) fn conf(&mut self, scope: &str, key: &str, value: i64) {
        let default = i64::from(key == "send_redirects");
        self.sysctl(&format!("conf/{scope}/{key}"), value, default);
    }

    pub(crate) fn port(&mut self) -> u8 {
        self.rng.below(self.ports.into()) as u8
    }

    /// Adds an address of the node's.
    pub(crate) fn address(&mut self, ip: Ipv4Addr, len: u8, dev: &str, more: &str) {
        self.ip_undone(format!("addr add {ip}/{len} dev {dev} {more}"), format!("addr del {ip}/{len} dev {dev}"));
        self.own.push(ip);
        self.prefixes.push((ip, len));
    }

    /// Adds a route; `verb` is add, append, prepend or replace.
    pub(crate) fn route(&mut self, verb: &str, arguments: String) {
        self.ip_undone(format!("route {verb} {arguments}"), format!("route del {arguments}"));
        self.routes.push(arguments);
    }

    /// Adds a route to a prefix.
    pub(crate) fn route_to(&mut self, (ip, len): (Ipv4Addr, u8), kind: &str, rest: &str) {
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        let prefix = Ipv4Addr::from(u32::from(ip) & mask);
        self.prefixes.push((prefix, len));
        self.route("add", format!("{kind} {prefix}/{len} {rest}"));
    }

    /// A new host behind a port, not configured anywhere.
    pub(crate) fn sender(&mut self, port: u8, ip: Ipv4Addr) -> Sender {
        let number = self.next_host;
        self.next_host = self.next_host.wrapping_add(1);
        let sender = Sender { port, ip, mac: Lladdr::new([0x02, 0, 0, 0x77, port, number]) };
        self.senders.push(sender);
        self.targets.push(ip);
        sender
    }

    /// A neighbour entry.
    pub(crate) fn neighbour(&mut self, port: u8, ip: Ipv4Addr, mac: Lladdr, state: &str) {
        let command = match state {
            "none" | "incomplete" | "failed" => format!("neigh replace {ip} dev v{port} nud {state}"),
            _ => format!("neigh replace {ip} lladdr {mac} dev v{port} nud {state}"),
        };
        self.ip(command);
    }

    /// The node knows the sender, in one state or other.
    pub(crate) fn known(&mut self, sender: Sender) {
        let states = [(50, "stale"), (20, "reachable"), (15, "permanent"), (5, "delay"), (5, "probe"), (5, "noarp")];
        let state = *self.rng.weighted(&states);
        self.neighbour(sender.port, sender.ip, sender.mac, state);
    }

    /// A prefix, out of a small space, so that they overlap.
    pub(crate) fn some_prefix(&mut self) -> (Ipv4Addr, u8) {
        /// As often as they are drawn.
        const LENGTHS: [u8; 37] = [
            32, 32, 32, 32, 32, 32, 31, 30, 30, 29, 28, 28, 26, 25, 25, 24, 24, 24, 24, 24, 24, 23, 20, 20, 17, 16, 16,
            16, 16, 15, 12, 12, 8, 8, 4, 1, 0,
        ];
        let len = *self.rng.pick(&LENGTHS);
        (self.some_address(), len)
    }

    /// An address that something may already be about, or one beside it.
    pub(crate) fn some_address(&mut self) -> Ipv4Addr {
        let prefixes = self.prefixes.len();
        match self.rng.below(10) {
            0..3 if prefixes > 0 => {
                let (ip, len) = *self.rng.pick(&self.prefixes);
                self.rng.address_in(ip, len)
            }
            3..5 if !self.targets.is_empty() => *self.rng.pick(&self.targets),
            5 if !self.own.is_empty() => *self.rng.pick(&self.own),
            6 => Ipv4Addr::new(172, 16, self.rng.below(4) as u8, self.rng.byte()),
            7 => Ipv4Addr::new(192, 168, self.rng.below(6) as u8, self.rng.byte()),
            _ => Ipv4Addr::new(10, *self.rng.pick(&[5u8, 5, 9, 77, 88, 200]), self.rng.below(3) as u8, self.rng.byte()),
        }
    }
}
