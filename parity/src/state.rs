//! The state of the node with the kernel alone, as `ip` and procfs show it: what the oracle reasons about. Read anew,
//! with other tools than the agent's, so that a mistake in the agent's reading is not repeated here.

mod routes;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use lab::Namespace;
use serde_json::Value;

pub(crate) use routes::{KernelRoute, Leg, RouteType};
pub(crate) use rules::{KernelRule, RuleEffect};

/// The numbers of the tables with names.
pub(crate) const LOCAL: u32 = 255;
pub(crate) const MAIN: u32 = 254;
pub(crate) const DEFAULT: u32 = 253;

/// The node.
#[derive(Debug, Default)]
pub(crate) struct NodeState {
    pub(crate) links: BTreeMap<u32, Interface>,
    /// The routes of all tables; those of one prefix are in the kernel's order.
    pub(crate) routes: Vec<KernelRoute>,
    /// The nexthop objects whose routes have no certain answer.
    pub(crate) opaque_objects: BTreeSet<u64>,
    pub(crate) rules: Vec<KernelRule>,
    /// There are only the rules that every namespace begins with.
    pub(crate) default_rules: bool,
    /// The tables local and main are still one, because there has never been another rule.
    pub(crate) merged: bool,
    /// Settings by scope (`all` or a name) and key.
    settings: BTreeMap<(String, &'static str), i64>,
}

/// An interface.
#[derive(Debug, Default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) up: bool,
    pub(crate) noarp: bool,
    pub(crate) has_upper: bool,
    /// The group, for rules that suppress it.
    pub(crate) group: u32,
    /// The name of the device that it is a port of.
    pub(crate) master: Option<String>,
    /// The table, if it is a VRF.
    pub(crate) vrf_table: Option<u32>,
    /// Addresses: the address itself, its subnet's address, and the length of its prefix.
    pub(crate) addresses: Vec<(Ipv4Addr, Ipv4Addr, u8)>,
    /// The name of the device below.
    pub(crate) below: Option<String>,
}

const SETTINGS: [&str; 8] = [
    "proxy_arp",
    "proxy_arp_pvlan",
    "forwarding",
    "arp_ignore",
    "arp_filter",
    "rp_filter",
    "medium_id",
    "ignore_routes_with_linkdown",
];

/// What `ip` prints of the one encapsulation that scenarios have.
const ENCAP: &str = r#""id":7,"src":"0.0.0.0","dst":"10.9.0.254","ttl":0,"tos":0,"#;

impl NodeState {
    pub(crate) fn read(node: &Namespace) -> Result<Self> {
        node.run(|| {
            let mut state = NodeState::default();
            let commands = ["link", "addr", "route show table all", "rule"];
            let [links, addresses, routes, rules] = show(&["-4", "-d"], commands)?;
            links.iter().for_each(|link| state.link(link));
            let below: Vec<String> = state.links.values().filter_map(|link| link.below.clone()).collect();
            for link in state.links.values_mut() {
                link.has_upper = below.contains(&link.name);
            }
            addresses.iter().for_each(|row| state.addresses(row));
            state.routes = routes.iter().filter_map(|row| KernelRoute::of(row, |name| state.ifindex(name))).collect();
            if state.routes.iter().any(|route| route.object.is_some()) {
                // Without a family, or groups are not shown.
                let [objects] = show(&[], ["nexthop"])?;
                state.opaque_objects = routes::opaque_objects(&objects, &state.routes);
            }
            state.rules = rules.iter().map(KernelRule::of).collect();
            state.default_rules = rules::are_default(&state.rules);
            state.merged = state.default_rules && main_is_local()?;
            state.settings();
            Ok(state)
        })?
    }

    /// A setting of `all` or of an interface.
    pub(crate) fn setting(&self, scope: &str, key: &'static str) -> i64 {
        self.settings.get(&(scope.to_owned(), key)).copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, scope: &str, key: &'static str, value: i64) {
        self.settings.insert((scope.to_owned(), key), value);
    }

    /// Whether the interface has IPv4 settings: one whose MTU is too small for IPv4 has none.
    pub(crate) fn does_ipv4(&self, ifindex: u32) -> bool {
        let link = self.links.get(&ifindex);
        link.is_some_and(|link| self.settings.contains_key(&(link.name.clone(), "forwarding")))
    }

    /// The index of an interface; 0 if there is none of that name.
    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        self.links.iter().find(|(_, link)| link.name == name).map_or(0, |(&ifindex, _)| ifindex)
    }

    /// The VRF that an interface is, or is a port of.
    pub(crate) fn vrf(&self, ifindex: u32) -> Option<&Interface> {
        let link = self.links.get(&ifindex)?;
        if link.vrf_table.is_some() {
            return Some(link);
        }
        let master = self.links.values().find(|master| Some(&master.name) == link.master.as_ref())?;
        master.vrf_table.map(|_| master)
    }

    /// Whether any interface has the address.
    pub(crate) fn is_own(&self, addr: Ipv4Addr) -> bool {
        self.links.values().flat_map(|link| &link.addresses).any(|&(own, _, _)| own == addr)
    }

    fn link(&mut self, row: &Value) {
        let Some(ifindex) = row["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()) else { return };
        let info = &row["linkinfo"];
        let vrf_table = (info["info_kind"] == "vrf").then(|| info["info_data"]["table"].as_u64().unwrap_or_default());
        let link = Interface {
            name: text(row, "ifname"),
            mac: text(row, "address"),
            up: has_flag(row, "UP"),
            noarp: has_flag(row, "NOARP"),
            has_upper: false,
            group: group(row["group"].as_str().unwrap_or_default()),
            master: row["master"].as_str().map(str::to_owned),
            vrf_table: vrf_table.and_then(|table| table.try_into().ok()),
            addresses: Vec::new(),
            below: row["link"].as_str().map(str::to_owned),
        };
        self.links.insert(ifindex, link);
    }

    fn addresses(&mut self, row: &Value) {
        let name = text(row, "ifname");
        let Some(link) = self.links.values_mut().find(|link| link.name == name) else { return };
        for info in row["addr_info"].as_array().into_iter().flatten() {
            let Ok(local) = text(info, "local").parse() else { continue };
            // With a peer, the subnet is the peer's.
            let subnet = info["address"].as_str().and_then(|peer| peer.parse().ok()).unwrap_or(local);
            link.addresses.push((local, subnet, info["prefixlen"].as_u64().unwrap_or(32) as u8));
        }
    }

    fn settings(&mut self) {
        let scopes: Vec<String> = self.links.values().map(|link| link.name.clone()).chain(["all".to_owned()]).collect();
        for scope in scopes {
            for key in SETTINGS {
                self.setting_of(&scope, key, &format!("conf/{scope}/{key}"));
            }
            self.setting_of(&scope, "proxy_delay", &format!("neigh/{scope}/proxy_delay"));
        }
    }

    fn setting_of(&mut self, scope: &str, key: &'static str, path: &str) {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/{path}")).ok();
        if let Some(value) = value.and_then(|value| value.trim().parse().ok()) {
            self.settings.insert((scope.to_owned(), key), value);
        }
    }
}

/// Whether the kernel shows the same routes in the tables main and local: then they are one, or it makes no difference.
/// The agent compares figures of the two instead.
fn main_is_local() -> Result<bool> {
    let text = fs::read_to_string("/proc/thread-self/net/fib_trie").context("reading fib_trie")?;
    let (_, main) = text.split_once("Main:\n").unwrap_or_default();
    let (main, local) = main.split_once("Local:\n").unwrap_or_default();
    // Another table may follow.
    let end = |text: &str| text.find("Id ").map_or(text.len(), |end| end);
    Ok(!main.is_empty() && main[..end(main)] == local[..end(local)])
}

/// What several `ip` commands print, from one process.
fn show<const N: usize>(options: &[&str], commands: [&str; N]) -> Result<[Vec<Value>; N]> {
    let mut command = Command::new("ip");
    command.args(options).args(["-j", "-force", "-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("starting ip")?;
    if let Some(mut pipe) = child.stdin.take() {
        for command in commands {
            writeln!(pipe, "{command}").context("feeding ip")?;
        }
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    // An encapsulation's attributes have the names of the route's own.
    let printed = String::from_utf8_lossy(&output.stdout).replace(ENCAP, "");
    let documents = serde_json::Deserializer::from_str(&printed).into_iter::<Value>();
    let mut rows = [const { Vec::new() }; N];
    for (rows, document) in rows.iter_mut().zip(documents) {
        *rows = document.context("what ip printed")?.as_array().cloned().unwrap_or_default();
    }
    Ok(rows)
}

/// A group of interfaces by what `ip` calls it.
fn group(name: &str) -> u32 {
    if name == "default" { 0 } else { name.parse().unwrap_or(u32::MAX) }
}

fn has_flag(row: &Value, flag: &str) -> bool {
    row["flags"].as_array().into_iter().flatten().any(|found| found == flag)
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}
