//! Our filters on clsact queueing disciplines: set, found, removed. A filter outlives the process that set it, so each
//! names its agent, and an agent that finds one can tell whether that agent still lives.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::{io, process};

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::{
    hooks::{self, TC_LEN},
    socket::{Asker, errno},
    wire::{self, Message, Request, append_attribute},
};

/// What the names of our filters begin with; the agent's own name follows.
const PREFIX: &str = "arp-agent:";
/// What the name of a filter ends with whose agent also made the queueing discipline.
const MADE_QDISC: &str = "+qdisc";

/// Both directions of a clsact: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and …EGRESS.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// TC_H_CLSACT, and the handle that a clsact always has.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

// TCA_*, include/uapi/linux/rtnetlink.h, and TCA_BPF_*, include/uapi/linux/pkt_cls.h.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// TCA_BPF_FLAG_ACT_DIRECT: what the program returns is what is done.
const DIRECT_ACTION: u32 = 1;

const ETH_P_ARP: u16 = 0x0806;
/// Our filter's handle among those of its priority.
const HANDLE: u32 = 1;

/// A filter that was set here. Removing it is the owner's affair: [`Filters::remove`].
#[derive(Debug)]
pub struct Filter {
    ifindex: u32,
    /// Priority in the upper half, protocol in the lower: as the kernel names it.
    info: u32,
    made_qdisc: bool,
}

impl Filter {
    /// The interface that it is on.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

/// Sets and removes filters in the network namespace in which it was made.
pub struct Filters {
    asker: Asker,
    name: String,
    /// Bound to [`Filters::name`] in the abstract namespace, which is the network namespace's: taken means alive.
    _alive: UnixListener,
}

/// What is beside a filter of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It is alone.
    Nothing,
    /// There are other filters.
    Others,
    /// Somebody removed it.
    Gone,
}

/// A filter as a dump shows it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    info: u32,
    /// 0 stands for all filters of this priority.
    handle: u32,
    name: Option<String>,
}

impl Filters {
    /// Takes a name that no other agent in this network namespace has.
    pub fn new() -> Result<Self> {
        let name = format!("{}.{:x}", process::id(), crate::dataplane::bpf::monotonic_ns());
        let alive = claim(&name).with_context(|| format!("taking the name {name}"))?;
        Ok(Filters { asker: Asker::new(NETLINK_ROUTE)?, name, _alive: alive })
    }

    /// The port that notifications about our own doing name.
    pub fn port(&self) -> Result<u32> {
        self.asker.port()
    }

    /// Sets a filter for ARP on an interface, and the queueing discipline for it if there is none.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is left.
    pub fn set(&mut self, ifindex: u32, program: i32) -> Result<Filter> {
        let made_qdisc = self.add_qdisc(ifindex)?;
        let set = self.add_filter(ifindex, program, made_qdisc);
        if set.is_err() && made_qdisc {
            // The first error is the one to tell.
            let _ = self.remove_qdisc(ifindex);
        }
        Ok(Filter { ifindex, info: set?, made_qdisc })
    }

    /// Removes a filter, and its queueing discipline if that was made here and has no other filter.
    ///
    /// # Errors
    /// The kernel refuses. That all is gone already, perhaps with its interface, is no error.
    pub fn remove(&mut self, filter: &Filter) -> Result<()> {
        self.remove_shown(filter.ifindex, filter.info, HANDLE, filter.made_qdisc)
    }

    /// What an interface has besides this filter, in either direction.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn beside(&mut self, filter: &Filter) -> Result<Beside> {
        let incoming = self.shown(filter.ifindex, INGRESS)?;
        let name = self.name_of(filter.made_qdisc);
        if !incoming.iter().any(|shown| shown.info == filter.info && shown.name.as_deref() == Some(&*name)) {
            return Ok(Beside::Gone);
        }
        let ours = |shown: &Shown| shown.info == filter.info && [0, HANDLE].contains(&shown.handle);
        let others = incoming.iter().any(|shown| !ours(shown)) || !self.shown(filter.ifindex, EGRESS)?.is_empty();
        Ok(if others { Beside::Others } else { Beside::Nothing })
    }

    /// Removes what agents left that no longer live. Gives the interfaces on which there was something.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses.
    pub fn sweep(&mut self) -> Result<Vec<u32>> {
        let what = "queueing disciplines";
        let request = Request::new(libc::RTM_GETQDISC, &[0; TC_LEN]);
        let answer = self.asker.dump(what, &request)?;
        let hooked: Vec<u32> = wire::messages(answer)
            .filter_map(|message| message.and_then(|m| hooks::ingress_qdisc(&m)).transpose())
            .collect::<Result<_>>()?;
        let mut swept = Vec::new();
        for ifindex in hooked {
            for shown in self.shown(ifindex, INGRESS)? {
                let Some(owner) = shown.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
                let (owner, made_qdisc) = owner.strip_suffix(MADE_QDISC).map_or((owner, false), |owner| (owner, true));
                if is_alive(owner)? {
                    continue;
                }
                self.remove_shown(ifindex, shown.info, shown.handle, made_qdisc)?;
                swept.push(ifindex);
            }
        }
        Ok(swept)
    }

    fn name_of(&self, made_qdisc: bool) -> String {
        format!("{PREFIX}{}{}", self.name, if made_qdisc { MADE_QDISC } else { "" })
    }

    /// Says whether there was none before.
    fn add_qdisc(&mut self, ifindex: u32) -> Result<bool> {
        let request =
            Request::new(libc::RTM_NEWQDISC, &header(ifindex, CLSACT_HANDLE, CLSACT, 0)).with_bytes(KIND, b"clsact\0");
        match self.asker.command("adding a clsact queueing discipline", &request, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            // An `ingress` one takes filters just so.
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn add_filter(&mut self, ifindex: u32, program: i32, made_qdisc: bool) -> Result<u32> {
        let mut options = Vec::new();
        append_attribute(&mut options, BPF_FD, &program.to_ne_bytes());
        append_attribute(&mut options, BPF_NAME, format!("{}\0", self.name_of(made_qdisc)).as_bytes());
        append_attribute(&mut options, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        // Priority 0: the kernel takes one. For ARP only: other frames do not even run the program.
        let info = u32::from(ETH_P_ARP.to_be());
        let request = Request::new(libc::RTM_NEWTFILTER, &header(ifindex, HANDLE, INGRESS, info))
            .with_bytes(KIND, b"bpf\0")
            .with_bytes(OPTIONS, &options);
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
        let answer = self.asker.command("adding a tc filter", &request, flags)?;
        let message = wire::messages(answer).next().context("the kernel does not say which priority it took")??;
        Ok(shown(&message)?.context("the kernel answers with another filter")?.info)
    }

    fn remove_shown(&mut self, ifindex: u32, info: u32, handle: u32, made_qdisc: bool) -> Result<()> {
        let request =
            Request::new(libc::RTM_DELTFILTER, &header(ifindex, handle, INGRESS, info)).with_bytes(KIND, b"bpf\0");
        gone_is_fine(self.asker.command("removing a tc filter", &request, 0).map(drop))?;
        if made_qdisc && self.shown(ifindex, INGRESS)?.is_empty() && self.shown(ifindex, EGRESS)?.is_empty() {
            self.remove_qdisc(ifindex)?;
        }
        Ok(())
    }

    fn remove_qdisc(&mut self, ifindex: u32) -> Result<()> {
        let request = Request::new(libc::RTM_DELQDISC, &header(ifindex, CLSACT_HANDLE, CLSACT, 0));
        gone_is_fine(self.asker.command("removing a clsact queueing discipline", &request, 0).map(drop))
    }

    fn shown(&mut self, ifindex: u32, parent: u32) -> Result<Vec<Shown>> {
        shown_by(&mut self.asker, ifindex, parent)
    }
}

/// Whether all filters of an interface, if there are any, are those of agents: then its queueing discipline is hooked by
/// nobody else.
///
/// # Errors
/// The kernel does not answer.
pub fn filtered_by_agents_only(ifindex: u32) -> Result<bool> {
    let mut asker = Asker::new(NETLINK_ROUTE)?;
    let incoming = shown_by(&mut asker, ifindex, INGRESS)?;
    let agents =
        |shown: &Shown| shown.handle == 0 || shown.name.as_deref().is_some_and(|name| name.starts_with(PREFIX));
    Ok(!incoming.is_empty() && incoming.iter().all(agents) && shown_by(&mut asker, ifindex, EGRESS)?.is_empty())
}

fn shown_by(asker: &mut Asker, ifindex: u32, parent: u32) -> Result<Vec<Shown>> {
    let request = Request::new(libc::RTM_GETTFILTER, &header(ifindex, 0, parent, 0));
    let answer = match asker.dump("tc filters", &request) {
        Err(error) if errno(&error) == Some(libc::ENODEV) => return Ok(Vec::new()),
        answer => answer?,
    };
    wire::messages(answer).filter_map(|message| message.and_then(|m| shown(&m)).transpose()).collect()
}

fn shown(message: &Message<'_>) -> Result<Option<Shown>> {
    if message.kind != libc::RTM_NEWTFILTER {
        return Ok(None);
    }
    let (header, rest) = message.split::<TC_LEN>()?;
    let options = wire::attribute(rest, OPTIONS)?;
    let is_bpf = wire::attribute(rest, KIND)?.map(wire::text).as_deref() == Some("bpf");
    let name = match options.filter(|_| is_bpf) {
        Some(options) => wire::attribute(options, BPF_NAME)?.map(wire::text),
        None => None,
    };
    Ok(Some(Shown { handle: wire::u32_at(header, 8), info: wire::u32_at(header, 16), name }))
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

/// Whether the agent of this name lives: then its name cannot be taken.
fn is_alive(name: &str) -> io::Result<bool> {
    match claim(name) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removed by somebody else, or gone with the interface.
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
    fn a_name_is_taken_while_its_agent_lives() {
        let name = format!("test.{}", process::id());
        let alive = claim(&name).unwrap();
        assert!(is_alive(&name).unwrap());
        drop(alive);
        assert!(!is_alive(&name).unwrap());
    }
}
