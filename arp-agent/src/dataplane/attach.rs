//! Which interfaces the program runs on, and why not on the others.

use super::bpf::Bpf;
use super::choice::{Choice, How, Wish, choices};
use super::owners::Programs;
use crate::descriptors;
use crate::event::Link;
use crate::kernel::{Beside, Filter, Filters};
use anyhow::Context as _;
use aya::programs::ProgramError;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions, TcAttachType};
use aya::programs::xdp::{XdpLinkId, XdpMode};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, AsRawFd as _};

/// The interfaces that are wanted, and what became of each.
pub struct Attachments {
    patterns: Vec<String>,
    wanted: GlobSet,
    wish: Wish,
    filters: Filters,
    watches_peers: bool,
    by_ifindex: BTreeMap<u32, Attachment>,
    /// Those of them that the program runs on.
    attached: BTreeSet<u32>,
}

/// What became of an interface that is wanted.
#[derive(Debug)]
pub enum Attachment {
    /// The program runs on it.
    Attached(Attached),
    /// It does not; why, for people.
    Refused(String),
}

/// The program runs on an interface.
#[derive(Debug)]
pub struct Attached {
    /// By which hook, and why by that one.
    pub choice: Choice,
    name: String,
    /// Why those before it could not be had; empty if it was the first.
    pub instead: String,
    handle: Handle,
}

/// What lets go of it.
#[derive(Debug)]
enum Handle {
    Xdp { link: XdpLinkId, program: u32 },
    Tcx(SchedClassifierLinkId),
    Filter(Filter),
}

impl Attachments {
    /// None yet.
    ///
    /// # Errors
    /// A pattern is not a glob, or there is no netlink socket to be had.
    pub fn new(patterns: &[String], wish: Wish) -> anyhow::Result<Self> {
        let mut wanted = GlobSetBuilder::new();
        for pattern in patterns {
            wanted.add(Glob::new(pattern).with_context(|| {
                format!("--interface {pattern}: not a glob (try a name, or a pattern such as `cali*`)")
            })?);
        }
        Ok(Attachments {
            patterns: patterns.to_vec(),
            wanted: wanted.build()?,
            wish,
            filters: Filters::new()?,
            watches_peers: false,
            by_ifindex: BTreeMap::new(),
            attached: BTreeSet::new(),
        })
    }

    /// The kernel tells whether a veth's other end takes frames of XDP: driver mode can be had on veths.
    pub fn watch_peers(&mut self) {
        self.watches_peers = true;
    }

    /// The port that notifications about our own filters name.
    ///
    /// # Errors
    /// The socket has none.
    pub fn port(&self) -> anyhow::Result<u32> {
        self.filters.port()
    }

    /// Removes the filters of agents that were killed.
    pub fn sweep(&mut self) {
        match self.filters.sweep() {
            Ok(swept) => swept.iter().for_each(|ifindex| {
                log::info!("removed from interface {ifindex} the tc filter of an agent that no longer lives");
            }),
            Err(error) => log::warn!("tc filters of agents that were killed may be left: {error:#}"),
        }
    }

    /// How many of the links match each pattern.
    pub fn matches(&self, links: &BTreeMap<u32, Link>) -> BTreeMap<String, usize> {
        let mut matches: BTreeMap<String, usize> = self.patterns.iter().map(|pattern| (pattern.clone(), 0)).collect();
        for link in links.values() {
            for which in self.wanted.matches(&link.name) {
                *matches.entry(self.patterns[which].clone()).or_default() += 1;
            }
        }
        matches
    }

    /// What became of each interface that is wanted.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Attachment)> {
        self.by_ifindex.iter().map(|(&ifindex, attachment)| (ifindex, attachment))
    }

    /// The interfaces that the program runs on.
    pub fn attached(&self) -> &BTreeSet<u32> {
        &self.attached
    }

    /// Whether an interface has a filter of ours.
    pub fn is_filtered(&self, ifindex: u32) -> bool {
        let attachment = self.by_ifindex.get(&ifindex);
        matches!(attachment, Some(Attachment::Attached(Attached { handle: Handle::Filter(_), .. })))
    }

    /// The interfaces with an XDP program of ours, and its identifier.
    pub fn xdp_programs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.by_ifindex.iter().filter_map(|(&ifindex, attachment)| match attachment {
            Attachment::Attached(Attached { handle: Handle::Xdp { program, .. }, .. }) => Some((ifindex, *program)),
            _ => None,
        })
    }

    /// How the program sits on an interface.
    pub fn how(&self, ifindex: u32) -> Option<How> {
        match self.by_ifindex.get(&ifindex) {
            Some(Attachment::Attached(attached)) => Some(attached.choice.how),
            _ => None,
        }
    }

    /// What other tc filters an interface has, if it has one of ours.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn beside(&mut self, ifindex: u32) -> anyhow::Result<Option<Beside>> {
        match self.by_ifindex.get(&ifindex) {
            Some(Attachment::Attached(Attached { handle: Handle::Filter(filter), .. })) => {
                self.filters.beside(filter).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Lets go of an interface that vanished, so that another of the same index is attached to; or of one from which
    /// somebody removed what was attached, so that it is attached to again.
    pub fn forget(&mut self, bpf: &mut Bpf, ifindex: u32) {
        self.attached.remove(&ifindex);
        if let Some(attachment) = self.by_ifindex.remove(&ifindex) {
            self.let_go(bpf, ifindex, attachment);
        }
    }

    /// Of these interfaces, attaches to those that are wanted and lets go of those that no longer are.
    pub fn reconcile(&mut self, bpf: &mut Bpf, links: &BTreeMap<u32, Link>, interfaces: &BTreeSet<u32>) {
        for &ifindex in interfaces {
            let Some(link) = links.get(&ifindex).filter(|link| self.wanted.is_match(&link.name)) else {
                self.forget(bpf, ifindex);
                continue;
            };
            if self.attached.contains(&ifindex) {
                continue;
            }
            let attachment = self.attach(bpf, link);
            let news = match (&attachment, self.by_ifindex.get(&ifindex)) {
                (Attachment::Attached(Attached { choice: Choice { how, why }, .. }), _) => {
                    Some(format!("attached to {}: {} {}, {why}", link.name, how.hook(), how.mode()))
                }
                (Attachment::Refused(why), Some(Attachment::Refused(before))) if why == before => None,
                (Attachment::Refused(why), _) => Some(why.clone()),
            };
            // What became of an interface is told when it is known whether it answers.
            if let Some(news) = news {
                log::debug!("{news}");
            }
            if matches!(attachment, Attachment::Attached(_)) {
                self.attached.insert(ifindex);
            }
            self.by_ifindex.insert(ifindex, attachment);
        }
    }

    /// The interfaces that are wanted, and cannot be had.
    pub fn refused(&self) -> impl Iterator<Item = u32> {
        let any = self.by_ifindex.len() > self.attached.len();
        let all = any.then(|| self.by_ifindex.keys().copied()).into_iter().flatten();
        all.filter(|ifindex| !self.attached.contains(ifindex))
    }

    fn attach(&mut self, bpf: &mut Bpf, link: &Link) -> Attachment {
        const ARPHRD_ETHER: u16 = 1;
        if link.hardware_type != ARPHRD_ETHER {
            return Attachment::Refused(format!("{}: not an Ethernet device", link.name));
        }
        let mut refused: Vec<String> = Vec::new();
        for choice in choices(self.wish, link) {
            match self.try_one(bpf, link, choice.how) {
                Ok(handle) => {
                    let (name, instead) = (link.name.clone(), refused.join("; "));
                    return Attachment::Attached(Attached { choice, name, instead, handle });
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if !refused.contains(&why) {
                        refused.push(why);
                    }
                }
            }
        }
        Attachment::Refused(format!("{}: {}", link.name, refused.join("; ")))
    }

    fn try_one(&mut self, bpf: &mut Bpf, link: &Link, how: How) -> anyhow::Result<Handle> {
        // Asked first, because the kernel would let two programs share a device in different modes on old versions.
        if let Some(holder) = link.xdp_program.filter(|_| how.is_xdp()) {
            anyhow::bail!(
                "its XDP slot is taken by {}; detach that program, or leave the interface to it",
                Programs::default().describe(holder)
            );
        }
        if how == How::XdpVeth && !self.watches_peers {
            anyhow::bail!("driver mode on a veth needs Linux 6.3, which tells whether the pod end takes replies");
        }
        // A filter takes no descriptor.
        if how != How::Clsact
            && let Some(too_few) = descriptors::too_few()
        {
            anyhow::bail!(too_few);
        }
        let (hook, mode) = (how.hook(), how.mode());
        let failed = || format!("attaching the {hook} program ({mode}) failed");
        Ok(match how {
            How::XdpSkb | How::XdpDriver | How::XdpVeth => {
                let mode = if how == How::XdpSkb { XdpMode::Skb } else { XdpMode::Driver };
                let xdp = bpf.xdp_for(how)?;
                let program = xdp.info().map_err(why).with_context(failed)?.id();
                Handle::Xdp {
                    link: xdp.attach_to_if_index(link.ifindex, mode).map_err(why).with_context(failed)?,
                    program,
                }
            }
            How::Tcx => {
                // After those that are there: whoever sees a frame first goes on doing so.
                let order = TcAttachOptions::TcxOrder(LinkOrder::last());
                let attached = bpf.tc()?.attach_with_options(&link.name, TcAttachType::Ingress, order);
                Handle::Tcx(attached.map_err(why).with_context(failed)?)
            }
            How::Clsact => {
                let program = bpf.tc()?.fd()?.as_fd().as_raw_fd();
                Handle::Filter(self.filters.set(link.ifindex, program).with_context(failed)?)
            }
        })
    }

    fn let_go(&mut self, bpf: &mut Bpf, ifindex: u32, attachment: Attachment) {
        let Attachment::Attached(Attached { choice, name, handle, .. }) = attachment else { return };
        // The link of an interface that vanished is already dead; only the descriptor is left to close.
        let done = match handle {
            Handle::Xdp { link, .. } => bpf.xdp_for(choice.how).and_then(|xdp| Ok(xdp.detach(link)?)),
            Handle::Tcx(id) => bpf.tc().and_then(|tc| Ok(tc.detach(id)?)),
            Handle::Filter(filter) => self.filters.remove(&filter),
        };
        match done {
            Ok(()) => log::debug!("{name} ({ifindex}): detached"),
            Err(error) => log::debug!("{name} ({ifindex}): detached, {error:#}"),
        }
    }
}

/// Links go with their descriptors; filters must be removed.
impl Drop for Attachments {
    fn drop(&mut self) {
        for (ifindex, attachment) in std::mem::take(&mut self.by_ifindex) {
            if let Attachment::Attached(Attached { handle: Handle::Filter(filter), .. }) = attachment
                && let Err(error) = self.filters.remove(&filter)
            {
                log::warn!("a tc filter stays on interface {ifindex}: {error:#}");
            }
        }
    }
}

fn why(error: ProgramError) -> anyhow::Error {
    match &error {
        ProgramError::SyscallError(syscall) => anyhow::anyhow!("{}: {}", syscall.call, syscall.io_error),
        _ => error.into(),
    }
}
