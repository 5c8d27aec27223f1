//! Recorded sessions: what the kernel says over netlink while somebody changes the network, and which requests it
//! answers meanwhile. arp-agent/tests/sessions/README.md says how a session is written. Here each is played on the live
//! kernel alone, which must answer as it did when it was recorded; with `ARP_RECORD_SESSIONS` set, the files are written
//! anew. The agent's unit tests replay them (`kernel::sessions`), without root.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arp_common::settings::CONF;
use arp_common::{ArpFrame, Lladdr};
use lab::netlink::{Netlink, messages};
use lab::packet::hex;
use lab::{Lab, needs_root, reply_bytes};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// How long nothing must be notified before a session goes on. The kernel acts on a change of carrier up to a second later.
const QUIET: Duration = Duration::from_millis(50);
const QUIET_LINKS: Duration = Duration::from_millis(1200);

/// As the agent joins them (`kernel::Notifications`).
const GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_NEXTHOP,
];

/// What is asked for, by its name in the files: the request and its fixed structure.
const DUMPS: [(&str, u16, &[u8]); 8] = [
    ("links", libc::RTM_GETLINK, &[0; 16]),
    ("addresses", libc::RTM_GETADDR, &inet::<8>()),
    ("rules", libc::RTM_GETRULE, &inet::<12>()),
    ("routes", libc::RTM_GETROUTE, &inet::<12>()),
    // include/uapi/linux/rtnetlink.h; `struct nhmsg`.
    ("nexthops", 106, &[0; 8]),
    ("neighbours", libc::RTM_GETNEIGH, &inet::<12>()),
    ("proxies", libc::RTM_GETNEIGH, &proxies()),
    ("tables", libc::RTM_GETNEIGHTBL, &inet::<4>()),
];

const fn inet<const N: usize>() -> [u8; N] {
    let mut header = [0; N];
    header[0] = libc::AF_INET as u8;
    header
}

/// `struct ndmsg` with NTF_PROXY.
const fn proxies() -> [u8; 12] {
    let mut header = inet();
    header[10] = libc::NTF_PROXY;
    header
}

macro_rules! sessions {
    ($($test:ident $file:literal)*) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                needs_root!();
                play($file, include_str!(concat!("../../../arp-agent/tests/sessions/", $file)))
            }
        )*

        const FILES: &[&str] = &[$($file),*];
    };
}

sessions! {
    session_address_moves "address-moves.txt"
    session_calico_pod_goes "calico-pod-goes.txt"
    session_calico_pod_starts "calico-pod-starts.txt"
    session_carrier_is_lost "carrier-is-lost.txt"
    session_default_route_flaps "default-route-flaps.txt"
    session_last_address_goes "last-address-goes.txt"
    session_link_down_up_renamed "link-down-up-renamed.txt"
    session_neighbour_changes "neighbour-changes.txt"
    session_nexthops "nexthops.txt"
    session_private_vlan "private-vlan.txt"
    session_proxy_arp_toggled "proxy-arp-toggled.txt"
    session_routes_of_all_types "routes-of-all-types.txt"
    session_routing_rules "routing-rules.txt"
    session_static_proxy_entries "static-proxy-entries.txt"
}

#[test]
fn every_recorded_session_is_played() -> Result<()> {
    let Ok(folder) = fs::read_dir(folder()) else { return Ok(()) };
    for file in folder {
        let name = file?.file_name().into_string().unwrap_or_default();
        ensure!(!name.ends_with(".txt") || FILES.contains(&name.as_str()), "{name} is missing from the list above");
    }
    Ok(())
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../arp-agent/tests/sessions"))
}

/// Plays a session. Unless it is to be recorded, the kernel must answer as it says.
fn play(file: &str, text: &str) -> Result<()> {
    let mut session = Session::new()?;
    for line in text.lines().filter(|line| !line.starts_with(['<', '=', '>', ' '])) {
        session.play(line).with_context(|| format!("{file}: {line}"))?;
    }
    if env::var_os("ARP_RECORD_SESSIONS").is_some() {
        return fs::write(folder().join(file), session.text).with_context(|| format!("writing {file}"));
    }
    let asked = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("ask ") || line.starts_with('>')).map(str::to_owned).collect()
    };
    assert_eq!(asked(&session.text), asked(text), "{file}");
    Ok(())
}

struct Session {
    lab: Lab,
    /// Of the node.
    netlink: Netlink,
    /// The node's notifications, from `begin` on.
    notified: Option<Socket>,
    /// The dumps as they were when they were written last.
    dumps: BTreeMap<&'static str, String>,
    /// The session as it is recorded.
    text: String,
}

impl Session {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let netlink = Netlink::open(lab.node())?;
        Ok(Session { lab, netlink, notified: None, dumps: BTreeMap::new(), text: String::new() })
    }

    fn play(&mut self, line: &str) -> Result<()> {
        writeln!(self.text, "{line}")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["answers", _] => {}
            ["host", name, mac, node_end, node_mac] => {
                self.lab.attach(name, mac.parse()?, node_end, node_mac.parse()?)?;
                self.await_quiet(QUIET_LINKS)?;
            }
            ["begin"] => {
                self.notified = Some(self.lab.node().run(subscribe)??);
                self.await_quiet(QUIET_LINKS)?;
                self.text = self.text.lines().filter(|line| !line.starts_with('<')).map(|l| format!("{l}\n")).collect();
                self.dump()?;
            }
            ["poll"] => {}
            [prompt, ..] if prompt.ends_with('$') => {
                let (host, command) = line.split_once("$ ").context("no command")?;
                let namespace = if host.is_empty() { self.lab.node() } else { self.lab.host(host).namespace() };
                match command.split_once(" = ") {
                    Some((key, value)) => namespace.sysctl(key, value)?,
                    None => drop(namespace.exec(command)?),
                }
                self.await_quiet(if command.starts_with("ip link ") { QUIET_LINKS } else { QUIET })?;
            }
            ["ask", host, spa, tpa, ref rest @ ..] => self.ask(host, spa.parse()?, tpa.parse()?, rest)?,
            _ => bail!("a session has no such line"),
        }
        Ok(())
    }

    fn ask(&mut self, host: &str, spa: Ipv4Addr, tpa: Ipv4Addr, rest: &[&str]) -> Result<()> {
        self.dump()?;
        let host = self.lab.host(host);
        let (sha, must) = match *rest {
            [] => (host.mac(), false),
            ["must"] => (host.mac(), true),
            ["from", sha] => (sha.parse()?, false),
            ["from", sha, "must"] => (sha.parse()?, true),
            _ => bail!("after the addresses: [from LLADDR] [must]"),
        };
        let (spa, tpa) = (spa.octets(), tpa.octets());
        match &host.ask(&ArpFrame::request(sha.bytes(), spa, tpa).to_bytes())?[..] {
            [] => {
                ensure!(!must, "the fast path cannot have to answer what the kernel does not");
                writeln!(self.text, "> silent")?;
            }
            [reply] => {
                let mac = reply.get(6..12).and_then(|mac| mac.first_chunk()).copied().map(Lladdr::new);
                let mac = mac.context("a short reply")?;
                ensure!(*reply == reply_bytes(mac, sha, spa, tpa), "a strange reply: {}", hex(reply));
                writeln!(self.text, "> {mac}")?;
            }
            several => bail!("{} replies", several.len()),
        }
        self.take_notified()?;
        Ok(())
    }

    /// Waits until the kernel has had its say.
    fn await_quiet(&mut self, quiet: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut quiet_since = begin;
        while self.notified.is_some() && quiet_since.elapsed() < quiet {
            ensure!(begin.elapsed() < Duration::from_secs(20), "always something new");
            if self.take_notified()? {
                quiet_since = Instant::now();
            }
            sleep(quiet / 20);
        }
        Ok(())
    }

    /// Writes down what was notified. Says whether there was anything.
    fn take_notified(&mut self) -> Result<bool> {
        let Some(socket) = &self.notified else { return Ok(false) };
        let mut any = false;
        loop {
            let mut buffer = Vec::with_capacity(1 << 16);
            match socket.recv_from(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                received => received.context("receiving notifications")?,
            };
            for message in messages(&buffer) {
                any = true;
                let message = without_figures(message);
                writeln!(self.text, "< {} {}", name(&message), hex(&message))?;
            }
        }
    }

    /// Writes down the dumps that are others than before, as they are when nothing was notified meanwhile.
    fn dump(&mut self) -> Result<()> {
        let mut dumps = BTreeMap::new();
        loop {
            for (name, kind, header) in DUMPS {
                let mut dump = String::new();
                self.netlink.dump_whole(kind, header, |message| {
                    writeln!(dump, " {}", hex(&without_figures(message)))?;
                    Ok(())
                })?;
                dumps.insert(name, dump);
            }
            if !self.take_notified()? {
                break;
            }
        }
        let node = self.lab.node();
        let mut all = String::new();
        for key in CONF {
            writeln!(all, " {key} {}", node.read_sysctl(&format!("net.ipv4.conf.all.{key}"))?)?;
        }
        dumps.insert("all", all);
        let tries = node.run(|| fs::read_to_string("/proc/thread-self/net/fib_triestat"))??;
        let counts = tries.lines().filter(|line| line.contains("Prefixes:") || line.ends_with(':'));
        dumps.insert("triestat", counts.map(|line| format!(" {line}\n")).collect());
        for (name, dump) in &dumps {
            if self.dumps.get(name) != Some(dump) {
                write!(self.text, "= {name}\n{dump}")?;
            }
        }
        self.dumps = dumps;
        Ok(())
    }
}

fn subscribe() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    GROUPS.into_iter().try_for_each(|group| socket.add_membership(group)).context("joining a group")?;
    Ok(socket)
}

/// The message with a sequence and a port of 0, and without what differs at each reading (counters, ages, references),
/// nor the settings of IPv6, which are long.
fn without_figures(message: &[u8]) -> Vec<u8> {
    // NDTA_CONFIG, NDTA_STATS; of NDTA_PARMS, NDTPA_REFCNT and NDTPA_REACHABLE_TIME (include/uapi/linux/neighbour.h).
    const TABLE: [u16; 2] = [5, 7];
    const PARAMETERS: (u16, &[u16]) = (6, &[2, 3]);
    const IPV6: (u16, &[u16]) = (libc::IFLA_AF_SPEC, &[libc::AF_INET6 as u16]);
    const NOTHING: (u16, &[u16]) = (0, &[]);
    // The length of the fixed structure, the attributes to leave out, and those to leave out of one of the others.
    let (fixed, left_out, (outer, inner)): (usize, &[u16], _) = match u16::from_ne_bytes([message[4], message[5]]) {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => (16, &[libc::IFLA_STATS, libc::IFLA_STATS64], IPV6),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => (8, &[libc::IFA_CACHEINFO], NOTHING),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => (12, &[libc::NDA_CACHEINFO], NOTHING),
        libc::RTM_NEWNEIGHTBL => (4, &TABLE, PARAMETERS),
        _ => (message.len() - 16, &[], NOTHING),
    };
    let mut kept = message[..16 + fixed].to_vec();
    kept[8..16].fill(0);
    for (kind, attribute) in attributes(&message[16 + fixed..]).filter(|(kind, _)| !left_out.contains(kind)) {
        let at = kept.len();
        kept.extend(attribute);
        if kind == outer {
            kept.truncate(at + 4);
            let nested = attributes(&attribute[4..]).filter(|(kind, _)| !inner.contains(kind));
            nested.for_each(|(_, nested)| kept.extend(nested));
            let len = (kept.len() - at) as u16;
            kept[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        }
    }
    let len = kept.len() as u32;
    kept[..4].copy_from_slice(&len.to_ne_bytes());
    kept
}

/// Attributes: each with its type, whole and padded.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d, ..] = rest else { return None };
        let len = usize::from(u16::from_ne_bytes([a, b])).max(4).next_multiple_of(4).min(rest.len());
        let attribute;
        (attribute, rest) = rest.split_at(len);
        Some((u16::from_ne_bytes([c, d]) & !(libc::NLA_F_NESTED as u16), attribute))
    })
}

fn name(message: &[u8]) -> String {
    // include/uapi/linux/rtnetlink.h.
    const NAMES: [(u16, &str); 14] = [
        (16, "RTM_NEWLINK"),
        (17, "RTM_DELLINK"),
        (20, "RTM_NEWADDR"),
        (21, "RTM_DELADDR"),
        (24, "RTM_NEWROUTE"),
        (25, "RTM_DELROUTE"),
        (28, "RTM_NEWNEIGH"),
        (29, "RTM_DELNEIGH"),
        (32, "RTM_NEWRULE"),
        (33, "RTM_DELRULE"),
        (80, "RTM_NEWNETCONF"),
        (81, "RTM_DELNETCONF"),
        (104, "RTM_NEWNEXTHOP"),
        (105, "RTM_DELNEXTHOP"),
    ];
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    NAMES.iter().find(|(number, _)| *number == kind).map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned())
}
