//! The state of the node with the kernel alone, as `ip` and procfs show it: what the oracle reasons about. Read anew,
//! with other tools than the agent's, so that a mistake in the agent's reading is not repeated here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use lab::Namespace;
use serde_json::Value;

/// The node.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) routes: Vec<Route>,
    pub(crate) default_rules: bool,
    /// Settings by scope (`all` or a name) and key.
    settings: BTreeMap<(String, &'static str), i64>,
}

/// An interface.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) up: bool,
    pub(crate) carrier: bool,
    pub(crate) noarp: bool,
    pub(crate) has_master: bool,
    pub(crate) has_upper: bool,
    /// Addresses: the address itself, its subnet's address, and the length of its prefix.
    pub(crate) addresses: Vec<(Ipv4Addr, Ipv4Addr, u8)>,
    /// The name of the device below.
    below: Option<String>,
}

/// A route of the tables local, main and default.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) table: KeyedRoutes,
    pub(crate) prefix: Ipv4Addr,
    pub(crate) len: u8,
    pub(crate) tos: bool,
    pub(crate) kind: String,
    /// The interface of a single path.
    pub(crate) dev: Option<String>,
    /// Multipath, a group, an encapsulation: not followed by §10.
    pub(crate) odd: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyedRoutes {
    Local,
    Main,
    Default,
}

const SETTINGS: [&str; 6] =
    ["proxy_arp", "proxy_arp_pvlan", "forwarding", "arp_ignore", "medium_id", "ignore_routes_with_linkdown"];

/// What `ip` prints of the one encapsulation that scenarios have.
const ENCAP: &str = r#""id":7,"src":"0.0.0.0","dst":"10.9.0.254","ttl":0,"tos":0,"#;

impl State {
    pub(crate) fn read(node: &Namespace) -> Result<Self> {
        node.run(|| {
            let mut state = State::default();
            let [links, addresses, routes, rules] = show(["link", "addr", "route show table all", "rule"])?;
            links.iter().for_each(|link| state.link(link));
            let below: Vec<String> = state.links.values().filter_map(|link| link.below.clone()).collect();
            for link in state.links.values_mut() {
                link.has_upper = below.contains(&link.name);
            }
            addresses.iter().for_each(|row| state.addresses(row));
            state.routes = routes.iter().filter_map(route).collect();
            state.default_rules = are_default(&rules);
            state.settings();
            Ok(state)
        })?
    }

    /// A setting of `all` or of an interface.
    pub(crate) fn setting(&self, scope: &str, key: &'static str) -> i64 {
        self.settings.get(&(scope.to_owned(), key)).copied().unwrap_or_default()
    }

    pub(crate) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Whether any interface has the address.
    pub(crate) fn is_own(&self, addr: Ipv4Addr) -> bool {
        self.links.values().flat_map(|link| &link.addresses).any(|&(own, _, _)| own == addr)
    }

    fn link(&mut self, row: &Value) {
        let Some(ifindex) = row["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()) else { return };
        let has = |flag: &str| row["flags"].as_array().into_iter().flatten().any(|found| found == flag);
        let link = Link {
            name: text(row, "ifname"),
            mac: text(row, "address"),
            up: has("UP"),
            carrier: has("LOWER_UP"),
            noarp: has("NOARP"),
            has_master: !row["master"].is_null(),
            has_upper: false,
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

/// What several `ip` commands print, from one process.
fn show<const N: usize>(commands: [&str; N]) -> Result<[Vec<Value>; N]> {
    let mut command = Command::new("ip");
    command.args(["-4", "-j", "-force", "-batch", "-"]);
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

fn route(row: &Value) -> Option<Route> {
    let table = match row["table"].as_str() {
        None | Some("main" | "254") => KeyedRoutes::Main,
        Some("local" | "255") => KeyedRoutes::Local,
        Some("default" | "253") => KeyedRoutes::Default,
        Some(_) => return None,
    };
    let destination = text(row, "dst");
    let (prefix, len) = match destination.split_once('/') {
        _ if destination == "default" => (Ipv4Addr::UNSPECIFIED, 0),
        Some((prefix, len)) => (prefix.parse().ok()?, len.parse().ok()?),
        None => (destination.parse().ok()?, 32),
    };
    let kind = row["type"].as_str().unwrap_or("unicast").to_owned();
    let dev = row["dev"].as_str().map(str::to_owned);
    let odd = !row["nexthops"].is_null() || !row["encap"].is_null() || (kind == "unicast" && dev.is_none());
    Some(Route { table, prefix, len, tos: !row["tos"].is_null(), kind, dev, odd })
}

fn are_default(rules: &[Value]) -> bool {
    let expected = [(0, "local"), (32766, "main"), (32767, "default")];
    rules.len() == expected.len()
        && expected.iter().all(|(priority, table)| {
            rules.iter().any(|rule| {
                let keys = rule.as_object().map_or(0, |rule| rule.len());
                rule["priority"] == *priority && rule["table"] == *table && rule["src"] == "all" && keys == 3
            })
        })
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}
