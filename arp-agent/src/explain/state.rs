//! All that explanations are made of: the kernel's state, what counts beside it, and the kernel to ask.

use super::kernel::{Beyond, KernelLookup, MAX_NESTED, taken_by};
use super::kernel_view::KernelView;
use super::remedies::remedies;
use super::words::interface;
use super::{AgentIs, Explanation, Question, TablesFrom, oddities};
use crate::event::{Event, Link};
use crate::hooks::clsact::filters_of_others;
use crate::hooks::owners::Programs;
use crate::kernel::{Listener, Lookups, Reader, TableSize, listeners};
use crate::mirror::snapshot::Snapshot;
use crate::netlink::socket::errno;
use anyhow::{Context as _, Result, anyhow, bail};
use arp_common::{Lladdr, Reason};
use nix::libc;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::successors;
use std::net::Ipv4Addr;

/// What holds for a moment only: the agent is about to know better.
const TRANSIENT: [Reason; 8] = [
    Reason::UPDATING,
    Reason::LEASE_EXPIRED,
    Reason::SETTING_WRITTEN,
    Reason::INTERFACE_UNREAD,
    Reason::INTERFACE_FLAPPING,
    Reason::SELF_TEST_PENDING,
    Reason::NEIGHBOUR_DOUBTED,
    Reason::PROXY_UNCONFIRMED,
];

/// The state, as it was read.
pub(crate) struct State {
    pub(super) dump: Vec<Event>,
    /// The kernel to ask; none for a state from a file.
    pub(super) lookups: Option<RefCell<Lookups>>,
    pub(super) listeners: Vec<Listener>,
    pub(super) table_size: Option<TableSize>,
    pub(super) host_addresses: BTreeSet<(u32, Ipv4Addr)>,
    /// Of a state from a file, the programs of others, by interface.
    pub(super) programs: BTreeMap<u32, String>,
    /// The base chains of nft's bridge family.
    pub(super) bridge_chains: Vec<String>,
    pub(super) not_seen: Vec<String>,
}

/// What is left of it for one interface.
pub(crate) struct OnInterface<'a> {
    state: &'a State,
    /// The kernel's state, and what an agent would make of it.
    pub view: KernelView,
    beyond: Beyond,
    link: Link,
}

impl State {
    /// Reads the state of the calling thread's network namespace, as far as its user may.
    ///
    /// # Errors
    /// The kernel gives no answer.
    pub(crate) fn read() -> Result<Self> {
        let mut reader = Reader::for_any_user()?;
        let dump = reader.everything()?;
        let bridge_chains = reader.bridge_chains();
        let mut not_seen = reader.not_seen().to_vec();
        let bridge_chains = match bridge_chains {
            Err(error) if errno(&error) == Some(libc::EPERM) => {
                not_seen.push("chains of nft's bridge family".to_owned());
                Vec::new()
            }
            chains => chains?,
        };
        let mut lookups = Lookups::new()?;
        let (table_size, host_addresses) = (lookups.table_size()?, lookups.host_addresses()?);
        let listeners = listeners()?;
        if listeners.iter().any(|listener| listener.pid.is_none()) {
            not_seen.push("which processes listen for ARP".to_owned());
        }
        if !nix::unistd::geteuid().is_root() {
            not_seen.push("programs of others (tcx, XDP)".to_owned());
        }
        Ok(State {
            dump,
            lookups: Some(RefCell::new(lookups)),
            listeners,
            table_size,
            host_addresses: host_addresses.into_iter().collect(),
            programs: BTreeMap::new(),
            bridge_chains,
            not_seen,
        })
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.dump.iter().filter_map(|event| match event {
            Event::Link(link) => Some(link),
            _ => None,
        })
    }

    /// The programs of others on all interfaces, for a file.
    pub(super) fn programs(&self) -> Result<BTreeMap<u32, String>> {
        let named = self.links().map(|link| Ok((link.ifindex, program(link)?)));
        let named: Vec<(u32, Option<String>)> = named.collect::<Result<_>>()?;
        Ok(named.into_iter().filter_map(|(ifindex, name)| Some((ifindex, name?))).collect())
    }

    /// A program of others that sees the frames of an interface, or of the devices that it is a port of.
    fn program_on_the_way(&self, link: &Link) -> Result<Option<String>> {
        let master_of = |link: &&Link| link.master.and_then(|master| self.links().find(|link| link.ifindex == master));
        for link in successors(Some(link), master_of).take(MAX_NESTED) {
            let program = match self.lookups {
                Some(_) => program(link)?,
                None => self.programs.get(&link.ifindex).cloned(),
            };
            if program.is_some() {
                return Ok(program);
            }
        }
        Ok(None)
    }

    /// What is said of an interface.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn on(&self, name: &str) -> Result<OnInterface<'_>> {
        let is_it = |link: &&Link| link.name == name || link.altnames.iter().any(|other| other == name);
        let link = self.links().find(is_it).cloned();
        let link = link
            .ok_or_else(|| anyhow!("{name}: no such interface in this network namespace; `ip -br link` lists them"))?;
        let view = KernelView::new(self.dump.clone(), link.ifindex)?;
        let (entries, most) = self.table_size.map_or((0, u32::MAX), |size| (size.entries, size.most));
        let beyond = Beyond {
            host_addresses: self.host_addresses.clone(),
            program: self.program_on_the_way(&link)?,
            bridge_chain: self.bridge_chains.first().cloned(),
            table_full: entries >= most,
        };
        Ok(OnInterface { state: self, view, beyond, link })
    }
}

/// A program of others that sees an interface's frames, or the kernel's replies.
fn program(link: &Link) -> Result<Option<String>> {
    // Whose a program is, only root learns.
    if nix::unistd::geteuid().is_root()
        && let Some(program) = Programs::default().foreign(link.ifindex, link.xdp_program)
    {
        return Ok(Some(program));
    }
    // An agent's own filter is no foreign one.
    let filters = filters_of_others(link.ifindex, "").context("reading tc filters")?;
    Ok(filters.into_iter().find(|name| !name.contains("arp-agent")))
}

impl OnInterface<'_> {
    /// The interface.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The kernel's state.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        self.view.snapshot()
    }

    /// What counts beside it.
    pub(crate) fn beyond(&self) -> &Beyond {
        &self.beyond
    }

    /// The kernel to ask.
    pub(crate) fn lookup(&self) -> &dyn KernelLookup {
        match &self.state.lookups {
            Some(lookups) => lookups,
            None => &(),
        }
    }

    /// Who asks if nobody is named: the first neighbour of the interface, a host with a route of its own by it, or a host
    /// of its subnet.
    ///
    /// # Errors
    /// There is nobody to take.
    pub(crate) fn sender(&self) -> Result<Ipv4Addr> {
        let ifindex = self.link.ifindex;
        let snapshot = self.snapshot();
        let neighbour =
            snapshot.neighbours.iter().find(|(key, entry)| key.ifindex == ifindex && entry.lladdr.is_some());
        if let Some((_, entry)) = neighbour {
            return Ok(entry.addr);
        }
        let routes = snapshot.routes.table(crate::mirror::routes::TABLE_MAIN).into_iter().flat_map(|table| table.all());
        if let Some(route) = routes.into_iter().find(|route| route.legs() == [ifindex] && route.prefix.len == 32) {
            return Ok(route.prefix.addr.into());
        }
        let subnet = snapshot.addresses.iter().find(|address| address.ifindex == ifindex && address.prefix_len < 31);
        if let Some(address) = subnet {
            let own = u32::from(address.local);
            // The other half of the smallest pair: inside every subnet of four or more.
            let other = if own & 3 == 1 { own + 1 } else { own - 1 };
            return Ok(other.into());
        }
        bail!("{}: it has no neighbour to take as the sender; give one with --sender IP", self.link.name)
    }

    /// The link-layer address that a sender is known by, or one that nobody has.
    pub(crate) fn sender_mac(&self, sender: Ipv4Addr) -> Lladdr {
        let key = arp_common::maps::IfaceAddr { ifindex: self.link.ifindex, addr: sender.octets() };
        let known = self.snapshot().neighbours.get(&key).and_then(|entry| entry.lladdr);
        known.map_or(Lladdr::new([2, 0, 0, 0, 0, 1]), Lladdr::new)
    }

    /// The explanation over the kernel's state alone, as an agent here would decide.
    pub(crate) fn without_agent(&self, question: &Question) -> Explanation {
        self.view.explain(question)
    }

    /// Adds what the kernel does, why, and what would change it. `explanation`: what the agent said, or
    /// [`OnInterface::without_agent`].
    ///
    /// # Errors
    /// The FIB has more routes than fit.
    pub(crate) fn complete(&mut self, question: &Question, explanation: &mut Explanation) -> Result<()> {
        let of_agent = explanation.tables == TablesFrom::Agent;
        let agents = explanation.reason.as_deref().filter(|_| of_agent).and_then(Reason::from_name);
        let here = self.view.explain(question);
        if agents.is_some_and(|reason| TRANSIENT.contains(&reason)) {
            let then = here.reason.as_deref().map_or("answers".to_owned(), |name| {
                let why = Reason::from_name(name).map_or("", Reason::why);
                format!("passes ({name}): {why}")
            });
            explanation.for_now = Some(format!("only for the moment; after that the fast path {then}"));
        }
        explanation.kernel_state = self.view.facts(question);
        // What holds an interface back by its hook is the agent's finding, and no setting of the kernel's changes it.
        if explanation.reply_mac.is_none() && here.reply_mac.is_none() {
            explanation.would_answer_if = self.view.would_answer_if(question)?;
        }
        let answer = self.view.kernel_answer(question, &self.beyond, self.lookup(), agents);
        explanation.remedies = remedies(self.snapshot(), &self.beyond, self.lookup(), question, answer.answer);
        explanation.kernel = Some(answer);
        explanation.listeners = self.listeners();
        explanation.oddities = self.oddities();
        explanation.not_seen.clone_from(&self.state.not_seen);
        Ok(())
    }

    /// What is odd about the interface.
    pub(crate) fn oddities(&self) -> Vec<String> {
        // Not in the mirror: it never changes an answer.
        let read = |scope: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{scope}/arp_accept")).ok()?;
            text.trim().parse::<i32>().ok()
        };
        let live = self.state.lookups.is_some();
        // A port's own settings count for nothing.
        let masters = successors(Some(&self.link), |link| taken_by(self.snapshot(), link.ifindex));
        let link = masters.take(MAX_NESTED).last().unwrap_or(&self.link);
        let arp_accept = [&link.name, "all"].into_iter().filter(|_| live).filter_map(read).max();
        oddities::oddities(self.snapshot(), link.ifindex, arp_accept, self.state.table_size)
    }

    fn listeners(&self) -> Vec<String> {
        let here = self.state.listeners.iter().filter(|listener| [0, self.link.ifindex].contains(&listener.ifindex));
        let text = |listener: &Listener| {
            let on = match listener.ifindex {
                0 => "all interfaces".to_owned(),
                ifindex => interface(self.snapshot(), ifindex),
            };
            match (&listener.program, listener.pid) {
                (Some(program), Some(pid)) => format!("{program} (pid {pid}) on {on}"),
                _ => format!("a process on {on} that is not in this /proc (as root `ss -0p` may name it)"),
            }
        };
        here.map(text).collect()
    }
}

/// Whether an agent's explanation says that it serves the interface.
pub(crate) fn agent_is(explanation: &Explanation) -> AgentIs {
    let is_unknown = explanation.reason.as_deref() == Some(Reason::INTERFACE_UNKNOWN.name());
    if is_unknown { AgentIs::Elsewhere } else { AgentIs::Here }
}
