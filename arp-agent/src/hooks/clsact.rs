//! Our filters on clsact queueing disciplines: set, found, removed. A filter outlives the process that set it, so each
//! names its agent, and an agent that finds one can tell whether that agent still lives.
//!
//! Adding or removing a clsact stops the interface's queues for a grace period (`qdisc_graft`, net/sched/sch_api.c), so
//! an agent only ever adds one, where there is none; `arp-agent detach` removes those that are marked as made here. The
//! mark is an empty chain of filters in the queueing discipline itself: it goes with it, whoever removes it, and one that
//! somebody makes in its place has none.

use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::{io, process};

use anyhow::{Context, Result};
use aya_obj::generated::{
    TC_H_CLSACT, TC_H_MAJ_MASK, TC_H_MIN_EGRESS, TC_H_MIN_INGRESS, TCA_BPF_FD, TCA_BPF_FLAG_ACT_DIRECT, TCA_BPF_FLAGS,
    TCA_BPF_NAME,
};
use linux_raw_sys::netlink as raw;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};
use nix::unistd::geteuid;

use super::foreign_tc::Places;
use crate::clock::monotonic_ns;
use crate::kernel::ingress::{self, TC_LEN};
use crate::netlink::{
    socket::{NetlinkSocket, errno},
    wire::{self, Message, NetlinkRequest, append_attribute},
};

/// The beginning of our filters' names; the agent's own name follows.
const PREFIX: &str = "arp-agent:";
/// Up to version 0.1: the end of a filter's name whose agent had also made the queueing discipline.
const MADE_QDISC: &str = "+qdisc";
/// The number of the chain that marks a queueing discipline as made here: `ARP`. It has 28 bits at most.
const MARK: u32 = 0x0041_5250;

/// Both directions of a clsact: TC_H_MAKE(TC_H_CLSACT, …), include/uapi/linux/pkt_sched.h.
const INGRESS: u32 = TC_H_MAJ_MASK & TC_H_CLSACT | TC_H_MIN_INGRESS;
const EGRESS: u32 = TC_H_MAJ_MASK & TC_H_CLSACT | TC_H_MIN_EGRESS;
/// The handle that a clsact always has.
const CLSACT_HANDLE: u32 = TC_H_MAJ_MASK & TC_H_CLSACT;

const BPF_FD: u16 = TCA_BPF_FD as u16;
const BPF_NAME: u16 = TCA_BPF_NAME as u16;
const BPF_FLAGS: u16 = TCA_BPF_FLAGS as u16;
const TCA_CHAIN: u16 = raw::TCA_CHAIN as u16;
const RTM_NEWCHAIN: u16 = raw::RTM_NEWCHAIN as u16;
const RTM_GETCHAIN: u16 = raw::RTM_GETCHAIN as u16;

const ETH_P_ARP: u16 = libc::ETH_P_ARP as u16;
const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;
/// Our filter's priority and protocol, where nobody else has that priority. The last one: every other filter sees a frame
/// first, whenever it comes (`tcf_chain_tp_insert`, net/sched/cls_api.c). For ARP only: other frames do not even run
/// the program.
const LAST: u32 = 0xffff << 16 | ETH_P_ARP.to_be() as u32;
/// The guard's filter's: before every other one, unless somebody has that priority, too.
const FIRST: u32 = 1 << 16 | ETH_P_ARP.to_be() as u32;
/// The same where the guard judges IP packets, too.
const FIRST_OF_ALL: u32 = 1 << 16 | ETH_P_ALL.to_be() as u32;
/// The same with priority 0: the kernel takes one before all others.
const ANYWHERE: u32 = ETH_P_ARP.to_be() as u32;
/// Our filter's handle among those of its priority.
const HANDLE: u32 = 1;

/// A filter that this agent has set. Dropping it removes nothing: [`Filters::remove`] does.
#[derive(Debug)]
pub(crate) struct OwnFilter {
    ifindex: u32,
    /// Priority in the upper half, protocol in the lower, as in `tcm_info`.
    info: u32,
}

/// A filter whose agent no longer lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftFilter {
    ifindex: u32,
    dumped: DumpedFilter,
}

impl LeftFilter {
    /// The interface that it is on.
    pub(crate) fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

/// What agents have on the queueing disciplines of this network namespace.
#[derive(Debug, Default)]
pub(crate) struct FoundFilters {
    /// Filters whose agents no longer live.
    pub left: Vec<LeftFilter>,
    /// The interfaces with filters of agents that live, and the names of those agents.
    pub living: Vec<(u32, String)>,
    /// The interfaces with a queueing discipline that runs programs on what comes in.
    pub hooked: Vec<u32>,
}

/// Sets and removes filters in the network namespace in which it was made.
pub(crate) struct Filters {
    socket: NetlinkSocket,
    name: String,
    /// Listens on [`Filters::name`] in the network namespace's abstract socket namespace: as long as it does, the agent
    /// lives.
    alive: UnixListener,
}

/// Which filters an interface has besides ours; also where our program is attached by another hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherFilters {
    /// Where there are other filters that may see ARP.
    Found(Places),
    /// Somebody removed ours.
    Gone,
}

/// A filter as a dump shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DumpedFilter {
    info: u32,
    /// The filter's handle; 0 stands for all filters of this priority.
    handle: u32,
    /// The chain that it is in. A frame starts in chain 0, and gets to another one only from there.
    chain: u32,
    name: Option<String>,
}

impl DumpedFilter {
    /// The name of the agent whose filter it is.
    fn owner(&self) -> Option<&str> {
        let owner = self.name.as_deref()?.strip_prefix(PREFIX)?;
        Some(owner.strip_suffix(MADE_QDISC).unwrap_or(owner))
    }

    /// Whether it is asked about ARP frames at all.
    fn may_see_arp(&self) -> bool {
        [ETH_P_ARP, ETH_P_ALL].contains(&u16::from_be(self.info as u16))
    }

    /// Whether it may see a frame after a filter of ours in chain 0 with this priority and protocol. Of several filters
    /// with one priority, the place in the list is not told.
    fn may_come_after(&self, ours: u32) -> bool {
        self.chain == 0 && self.info >> 16 >= ours >> 16
    }
}

impl Filters {
    /// Takes a name that no other agent in this network namespace has.
    pub(crate) fn new() -> Result<Self> {
        // The last part is whose socket listens on it: the name of a filter takes CAP_NET_ADMIN to set, a socket takes
        // nothing (`is_alive`). No dots: names on a bpffs have none.
        let name = format!("{}-{:x}-{}", process::id(), monotonic_ns(), geteuid());
        let alive = claim(&name).with_context(|| format!("taking the name {name}"))?;
        alive.set_nonblocking(true)?;
        Ok(Filters { socket: NetlinkSocket::new(NETLINK_ROUTE)?, name, alive })
    }

    /// Another socket for filters of the same agent.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn another(&self) -> Result<Self> {
        let (socket, alive) = (NetlinkSocket::new(NETLINK_ROUTE)?, self.alive.try_clone()?);
        Ok(Filters { socket, name: self.name.clone(), alive })
    }

    /// The agent's own name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The port in the notifications that this socket's requests cause.
    pub(crate) fn port(&self) -> Result<u32> {
        self.socket.port()
    }

    /// Sets a filter for ARP on an interface, and the queueing discipline for it if there is none. A filter that a dead
    /// agent left is replaced in place: no frame finds none.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is left that was not there before.
    pub(crate) fn set(&mut self, ifindex: u32, program: i32, left: &[LeftFilter]) -> Result<OwnFilter> {
        // There may be a guard's filter, too.
        if let Some(left) = left.iter().find(|left| (left.dumped.info, left.dumped.handle) == (LAST, HANDLE)) {
            let info = left.dumped.info;
            if self.add_filter(ifindex, program, info, 0).is_ok() {
                if left.dumped.name.as_deref().is_some_and(|name| name.ends_with(MADE_QDISC)) {
                    self.mark(ifindex);
                }
                return Ok(OwnFilter { ifindex, info });
            }
        }
        self.set_new(ifindex, |filters| {
            let set = filters.add_filter(ifindex, program, LAST, NLM_F_CREATE | NLM_F_EXCL);
            if set.as_ref().is_err_and(|error| matches!(errno(error), Some(libc::EEXIST | libc::EINVAL))) {
                // Somebody has that priority: then ours is not the last, and only passes.
                return filters.add_filter(ifindex, program, ANYWHERE, NLM_F_CREATE | NLM_F_EXCL);
            }
            set
        })
    }

    /// Sets a filter on an interface that comes before all others, for ARP or for all protocols, and the queueing discipline
    /// for it if there is none.
    ///
    /// # Errors
    /// The kernel refuses, or the first place is taken; then nothing is left that was not there before.
    pub(crate) fn set_first(&mut self, ifindex: u32, program: i32, for_all: bool) -> Result<OwnFilter> {
        let first = if for_all { FIRST_OF_ALL } else { FIRST };
        self.set_new(ifindex, |filters| filters.add_filter(ifindex, program, first, NLM_F_CREATE | NLM_F_EXCL))
            .context("setting a tc filter with priority 1 failed (others may have one)")
    }

    /// Sets a filter, on a queueing discipline that is made for it if there is none.
    fn set_new(&mut self, ifindex: u32, set: impl FnOnce(&mut Self) -> Result<u32>) -> Result<OwnFilter> {
        let made = self.add_qdisc(ifindex)?;
        let set = set(self);
        if made {
            if set.is_ok() {
                self.mark(ifindex);
            } else {
                // The first error is the one to tell.
                let _ = self.remove_qdisc(ifindex);
            }
        }
        Ok(OwnFilter { ifindex, info: set? })
    }

    /// Removes a filter that was set here, if it is still there. Its queueing discipline stays: removing it would cut
    /// the interface's traffic, and the next agent needs it again.
    ///
    /// # Errors
    /// The kernel refuses. That it is gone already, perhaps with its interface, is no error.
    pub(crate) fn remove(&mut self, filter: &OwnFilter) -> Result<()> {
        let name = format!("{PREFIX}{}", self.name);
        let dumped = DumpedFilter { info: filter.info, handle: HANDLE, chain: 0, name: Some(name) };
        self.remove_shown(filter.ifindex, &dumped).map(drop)
    }

    /// Removes a filter that a dead agent left. Says whether it was still there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn remove_left(&mut self, left: &LeftFilter) -> Result<bool> {
        self.remove_shown(left.ifindex, &left.dumped)
    }

    /// Removes an interface's queueing discipline if it holds nothing and was made by an agent: its mark says so, or the
    /// caller, who has just removed a filter from it that said so (`was_made`). Says whether it was so; `only_look`
    /// leaves it all the same.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn remove_made_qdisc(&mut self, ifindex: u32, was_made: bool, only_look: bool) -> Result<bool> {
        let empty = self.dumped(ifindex, INGRESS)?.is_empty() && self.dumped(ifindex, EGRESS)?.is_empty();
        // The mark last: whoever puts another queueing discipline in its place has none.
        if !empty || !(was_made || self.is_marked(ifindex)) {
            return Ok(false);
        }
        if !only_look {
            self.remove_qdisc(ifindex)?;
        }
        Ok(true)
    }

    /// Whether the filter of an interface that a version up to 0.1 left says that its agent made the queueing
    /// discipline, or the mark says so.
    pub(crate) fn was_made_here(&mut self, left: &LeftFilter) -> bool {
        left.dumped.name.as_deref().is_some_and(|name| name.ends_with(MADE_QDISC)) || self.is_marked(left.ifindex)
    }

    /// What an interface has besides our filter, if there is one: without it, our program is on the interface by a hook
    /// that comes before all filters. What dead agents left passes every frame, and does not count.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(crate) fn beside(&mut self, ifindex: u32, filter: Option<&OwnFilter>) -> Result<OtherFilters> {
        let own = format!("{PREFIX}{}", self.name);
        let is_own = |dumped: &DumpedFilter| dumped.name.as_deref() == Some(&*own);
        let incoming = self.dumped(ifindex, INGRESS)?;
        if let Some(filter) = filter
            && !incoming.iter().any(|dumped| dumped.info == filter.info && is_own(dumped))
        {
            return Ok(OtherFilters::Gone);
        }
        let comes_after = |dumped: &&DumpedFilter| filter.is_none_or(|filter| dumped.may_come_after(filter.info));
        let (after, before): (Vec<_>, Vec<_>) = others(&incoming, is_own).partition(comes_after);
        let egress = others(&self.dumped(ifindex, EGRESS)?, |_| false).next().is_some();
        Ok(OtherFilters::Found(Places { before: !before.is_empty(), after: !after.is_empty(), egress }))
    }

    /// Looks for what agents have, and have left, on all interfaces.
    ///
    /// # Errors
    /// The kernel does not answer. For a single interface that is only logged.
    pub(crate) fn find(&mut self) -> Result<FoundFilters> {
        // Who asks whether we live leaves a connection behind each time.
        while self.alive.accept().is_ok() {}
        let request = NetlinkRequest::new(libc::RTM_GETQDISC, &[0; TC_LEN]);
        let answer = self.socket.dump("queueing disciplines", &request)?;
        let hooked: Vec<u32> = wire::messages(answer)
            .filter_map(|message| message.and_then(|m| ingress::ingress_qdisc(&m)).transpose())
            .collect::<Result<_>>()?;
        let own = self.name.clone();
        let mut found = sort(&hooked, &own, |ifindex| self.dumped(ifindex, INGRESS), is_alive);
        found.hooked = hooked;
        Ok(found)
    }

    /// Says whether there was none before.
    fn add_qdisc(&mut self, ifindex: u32) -> Result<bool> {
        let request = NetlinkRequest::new(libc::RTM_NEWQDISC, &header(ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0))
            .with_bytes(libc::TCA_KIND, b"clsact\0");
        match self.socket.command("adding a clsact queueing discipline", &request, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            // An `ingress` one takes filters just so.
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `flags` 0: replaces the one that is there.
    fn add_filter(&mut self, ifindex: u32, program: i32, info: u32, flags: u16) -> Result<u32> {
        let mut options = Vec::new();
        append_attribute(&mut options, BPF_FD, &program.to_ne_bytes());
        append_attribute(&mut options, BPF_NAME, format!("{PREFIX}{}\0", self.name).as_bytes());
        // What the program returns is what is done.
        append_attribute(&mut options, BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
        let request = NetlinkRequest::new(libc::RTM_NEWTFILTER, &header(ifindex, HANDLE, INGRESS, info))
            .with_bytes(libc::TCA_KIND, b"bpf\0")
            .with_bytes(libc::TCA_OPTIONS, &options);
        let answer = self.socket.command("setting a tc filter", &request, flags | NLM_F_ECHO)?;
        let message = wire::messages(answer).next().context("the kernel does not say which priority it took")??;
        Ok(dumped(&message)?.context("the kernel answers with another filter")?.info)
    }

    /// Removes the filter if it still has that name, and says whether it had. A filter of another name in its place is
    /// somebody else's.
    fn remove_shown(&mut self, ifindex: u32, dumped: &DumpedFilter) -> Result<bool> {
        if !self.dumped(ifindex, INGRESS)?.contains(dumped) {
            return Ok(false);
        }
        let request = NetlinkRequest::new(libc::RTM_DELTFILTER, &header(ifindex, dumped.handle, INGRESS, dumped.info))
            .with_bytes(libc::TCA_KIND, b"bpf\0");
        let removed = self.socket.command("removing a tc filter", &request, 0).map(drop);
        let was_there = removed.is_ok();
        gone_is_fine(removed).map(|()| was_there)
    }

    fn remove_qdisc(&mut self, ifindex: u32) -> Result<()> {
        let request = NetlinkRequest::new(libc::RTM_DELQDISC, &header(ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0));
        gone_is_fine(self.socket.command("removing a clsact queueing discipline", &request, 0).map(drop))
    }

    fn mark(&mut self, ifindex: u32) {
        let request = NetlinkRequest::new(RTM_NEWCHAIN, &header(ifindex, 0, INGRESS, 0)).with(TCA_CHAIN, MARK);
        let marked =
            self.socket.command("marking a queueing discipline", &request, NLM_F_CREATE | NLM_F_EXCL).map(drop);
        // Without its mark it stays when all else is removed.
        if let Err(error) =
            marked.or_else(|error| if errno(&error) == Some(libc::EEXIST) { Ok(()) } else { Err(error) })
        {
            log::warn!(
                "{}: cannot mark the new clsact, so `arp-agent detach` will leave it there: {error:#}",
                super::interface_name(ifindex)
            );
        }
    }

    fn is_marked(&mut self, ifindex: u32) -> bool {
        let request = NetlinkRequest::new(RTM_GETCHAIN, &header(ifindex, 0, INGRESS, 0)).with(TCA_CHAIN, MARK);
        self.socket.get("the mark of a queueing discipline", &request).is_ok()
    }

    fn dumped(&mut self, ifindex: u32, parent: u32) -> Result<Vec<DumpedFilter>> {
        shown_by(&mut self.socket, ifindex, parent)
    }
}

/// The filters of others than the agent `own` that may see ARP on an interface, in either direction, for people.
///
/// # Errors
/// The kernel does not answer.
pub(crate) fn filters_of_others(ifindex: u32, own: &str) -> Result<Vec<String>> {
    let mut socket = NetlinkSocket::new(NETLINK_ROUTE)?;
    let is_own = |dumped: &DumpedFilter| dumped.owner() == Some(own);
    let mut names: Vec<String> = Vec::new();
    for parent in [INGRESS, EGRESS] {
        let dumped = shown_by(&mut socket, ifindex, parent)?;
        for other in others(&dumped, is_own).filter(|other| other.handle != 0) {
            let name = match (other.owner(), &other.name) {
                (Some(_), _) => "another arp-agent's tc filter".to_owned(),
                (None, Some(name)) => format!("tc filter `{name}`"),
                (None, None) => "a tc filter".to_owned(),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The filters that may see ARP and are neither `ours` nor what a dead agent left.
fn others(dumped: &[DumpedFilter], ours: impl Fn(&DumpedFilter) -> bool) -> impl Iterator<Item = &DumpedFilter> {
    let is_ours = move |dumped: &DumpedFilter| {
        ours(dumped) || dumped.owner().is_some_and(|owner| is_alive(owner).is_ok_and(|is_alive| !is_alive))
    };
    let place = |dumped: &DumpedFilter| (dumped.chain, dumped.info);
    let known: Vec<(u32, u32)> = dumped.iter().filter(|dumped| is_ours(dumped)).map(place).collect();
    let is_other = move |dumped: &&DumpedFilter| {
        dumped.may_see_arp() && if dumped.handle == 0 { !known.contains(&place(dumped)) } else { !is_ours(dumped) }
    };
    dumped.iter().filter(is_other)
}

fn shown_by(socket: &mut NetlinkSocket, ifindex: u32, parent: u32) -> Result<Vec<DumpedFilter>> {
    let request = NetlinkRequest::new(libc::RTM_GETTFILTER, &header(ifindex, 0, parent, 0));
    let answer = match socket.dump("tc filters", &request) {
        Err(error) if errno(&error) == Some(libc::ENODEV) => return Ok(Vec::new()),
        answer => answer?,
    };
    wire::messages(answer).filter_map(|message| message.and_then(|m| dumped(&m)).transpose()).collect()
}

fn dumped(message: &Message<'_>) -> Result<Option<DumpedFilter>> {
    if message.kind != libc::RTM_NEWTFILTER {
        return Ok(None);
    }
    let (header, rest) = message.split::<TC_LEN>()?;
    let options = wire::attribute(rest, libc::TCA_OPTIONS)?;
    let is_bpf = wire::attribute(rest, libc::TCA_KIND)?.map(wire::text).as_deref() == Some("bpf");
    let name = match options.filter(|_| is_bpf) {
        Some(options) => wire::attribute(options, BPF_NAME)?.map(wire::text),
        None => None,
    };
    let chain = wire::attribute(rest, TCA_CHAIN)?.map(wire::u32_of).transpose()?.unwrap_or_default();
    Ok(Some(DumpedFilter { handle: wire::u32_at(header, 8), info: wire::u32_at(header, 16), chain, name }))
}

/// `struct tcmsg`.
fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TC_LEN] {
    let mut header = [0; TC_LEN];
    for (at, value) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

fn claim(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("{PREFIX}{name}"))?)
}

/// Whether the agent of this name lives: then a process of the user that the name says, or of root, listens on it.
/// Anybody may bind a dead agent's name, and fill a living one's queue: neither counts.
///
/// # Errors
/// There is no socket to be had.
pub(crate) fn is_alive(name: &str) -> io::Result<bool> {
    let address = UnixAddr::new_abstract(format!("{PREFIX}{name}").as_bytes())?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    if connect(asking.as_raw_fd(), &address).is_err() {
        return Ok(false);
    }
    let listens = getsockopt(&asking, sockopt::PeerCredentials)?.uid();
    let named = name.rsplit_once('-').and_then(|(_, uid)| uid.parse().ok());
    Ok(listens == 0 || named == Some(listens))
}

/// Which of the filters on these interfaces other agents have, or have left. An interface that cannot be read, or a name of
/// which nothing is known, keeps no other waiting.
fn sort(
    hooked: &[u32],
    own: &str,
    mut dumped: impl FnMut(u32) -> Result<Vec<DumpedFilter>>,
    is_alive: impl Fn(&str) -> io::Result<bool>,
) -> FoundFilters {
    let mut found = FoundFilters::default();
    for &ifindex in hooked {
        let dumped = match dumped(ifindex) {
            Ok(dumped) => dumped,
            Err(error) => {
                log::warn!("tc filters of {} could not be read: {error:#}", super::interface_name(ifindex));
                continue;
            }
        };
        for dumped in dumped {
            let Some(owner) = dumped.owner().map(str::to_owned).filter(|owner| owner != own) else {
                continue;
            };
            match is_alive(&owner) {
                Ok(true) => found.living.push((ifindex, owner)),
                Ok(false) => found.left.push(LeftFilter { ifindex, dumped }),
                Err(error) => log::warn!("cannot tell whether agent {owner} is alive: {error}"),
            }
        }
    }
    found
}

/// Success if the filter was gone already: somebody else removed it, or it went with the interface.
fn gone_is_fine(removed: Result<()>) -> Result<()> {
    match removed {
        Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_lives_while_a_process_of_its_user_listens_on_its_name() {
        let name = format!("test-{}-{}", process::id(), geteuid());
        let alive = claim(&name).unwrap();
        assert!(is_alive(&name).unwrap());
        drop(alive);
        assert!(!is_alive(&name).unwrap());
    }

    /// Of this priority, for ARP.
    fn filter(handle: u32, priority: u32, name: Option<&str>) -> DumpedFilter {
        let info = priority << 16 | u32::from(ETH_P_ARP.to_be());
        DumpedFilter { handle, info, chain: 0, name: name.map(str::to_owned) }
    }

    #[test]
    fn what_has_our_priority_or_a_later_one_may_come_after_ours() {
        let ours = filter(1, 9, None).info;
        assert!(!filter(1, 8, None).may_come_after(ours));
        assert!(filter(2, 9, None).may_come_after(ours), "its place in the list is not told");
        assert!(filter(1, 10, None).may_come_after(ours));
        assert!(
            !DumpedFilter { chain: 3, ..filter(1, 10, None) }.may_come_after(ours),
            "whoever gets there is past ours"
        );
        assert_eq!(filter(1, 0xffff, None).info, LAST);
    }

    #[test]
    fn a_filter_for_another_protocol_sees_no_arp() {
        let of = |protocol: u16| DumpedFilter { info: 7 << 16 | u32::from(protocol.to_be()), ..filter(1, 7, None) };
        assert!(of(ETH_P_ALL).may_see_arp() && of(ETH_P_ARP).may_see_arp());
        assert!(!of(libc::ETH_P_IP as u16).may_see_arp());
        assert!(others(&[of(libc::ETH_P_IP as u16)], |_| false).next().is_none());
    }

    #[test]
    fn what_is_ours_and_what_a_dead_agent_left_are_no_others() {
        let dead = Some("arp-agent:1-0-0");
        let ours = Some("arp-agent:own");
        let is_own = |dumped: &DumpedFilter| dumped.name.as_deref() == ours;
        let others = |dumped: &[DumpedFilter]| others(dumped, is_own).next().is_some();
        assert!(!others(&[filter(0, 7, None), filter(1, 7, ours)]));
        assert!(!others(&[filter(0, 7, None), filter(1, 7, dead), filter(0, 8, None), filter(1, 8, ours)]));
        assert!(others(&[filter(0, 7, None), filter(1, 7, ours), filter(2, 7, Some("else"))]));
        assert!(others(&[filter(0, 7, None)]), "a priority of which nothing more is known");
        assert!(others(&[filter(1, 7, None)]));
    }

    #[test]
    fn what_cannot_be_read_keeps_no_other_interface_from_being_swept() {
        let dumped = |ifindex| match ifindex {
            1 => Err(io::Error::from_raw_os_error(libc::ENODEV).into()),
            2 => Ok(vec![filter(1, 7, Some("arp-agent:unknown"))]),
            3 => Ok(vec![filter(1, 7, Some("arp-agent:own")), filter(1, 8, Some("arp-agent:alive"))]),
            _ => Ok(vec![filter(1, 7, Some("arp-agent:dead")), filter(1, 8, Some("else"))]),
        };
        let is_alive = |name: &str| match name {
            "unknown" => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            name => Ok(name != "dead"),
        };
        let found = sort(&[1, 2, 3, 4], "own", dumped, is_alive);
        assert_eq!(found.left.iter().map(LeftFilter::ifindex).collect::<Vec<_>>(), [4]);
        assert_eq!(found.living, [(3, "alive".to_owned())]);
    }

    #[test]
    fn filter_names_say_whose_they_are() {
        assert_eq!(filter(1, 1, Some("arp-agent:9.ab+qdisc")).owner(), Some("9.ab"));
        assert_eq!(filter(1, 1, Some("arp-agent:9-ab-0")).owner(), Some("9-ab-0"));
        assert_eq!(filter(1, 1, Some("cil_from_container")).owner(), None);
    }
}
