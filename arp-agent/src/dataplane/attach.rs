//! Which interfaces the program runs on, and why not on the others.

use super::bpf::Bpf;
use crate::event::Link;
use anyhow::Context as _;
use aya::programs::xdp::{XdpLinkId, XdpMode};
use aya::programs::{ProgramError, ProgramInfo};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::{BTreeMap, BTreeSet};

/// The interfaces that are wanted, and what became of each.
pub struct Attachments {
    patterns: Vec<String>,
    wanted: GlobSet,
    by_ifindex: BTreeMap<u32, Attachment>,
}

/// What became of an interface that is wanted.
#[derive(Debug)]
pub enum Attachment {
    /// The program runs on it.
    Attached(XdpLinkId),
    /// It does not; why, for people.
    Refused(String),
}

impl Attachments {
    /// None yet.
    ///
    /// # Errors
    /// A pattern is not a glob.
    pub fn new(patterns: &[String]) -> anyhow::Result<Self> {
        let mut wanted = GlobSetBuilder::new();
        for pattern in patterns {
            wanted.add(Glob::new(pattern).with_context(|| {
                format!("--interface {pattern}: not a glob (try a name, or a pattern such as `cali*`)")
            })?);
        }
        Ok(Attachments { patterns: patterns.to_vec(), wanted: wanted.build()?, by_ifindex: BTreeMap::new() })
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
    pub fn attached(&self) -> BTreeSet<u32> {
        let attached = self.by_ifindex.iter().filter(|(_, attachment)| matches!(attachment, Attachment::Attached(_)));
        attached.map(|(&ifindex, _)| ifindex).collect()
    }

    /// Lets go of an interface that vanished, so that another of the same index is attached to.
    pub fn forget(&mut self, bpf: &mut Bpf, ifindex: u32) {
        if let Some(attachment) = self.by_ifindex.remove(&ifindex) {
            let_go(bpf, ifindex, attachment);
        }
    }

    /// Attaches to the interfaces that are wanted and lets go of those that no longer are. Those that refused are
    /// asked again: whoever held them may have gone.
    pub fn reconcile(&mut self, bpf: &mut Bpf, links: &BTreeMap<u32, Link>) {
        let wanted = |link: &Link| self.wanted.is_match(&link.name);
        let gone = self.by_ifindex.extract_if(.., |ifindex, _| !links.get(ifindex).is_some_and(wanted));
        for (ifindex, attachment) in gone {
            let_go(bpf, ifindex, attachment);
        }
        for (&ifindex, link) in links.iter().filter(|(_, link)| self.wanted.is_match(&link.name)) {
            if matches!(self.by_ifindex.get(&ifindex), Some(Attachment::Attached(_))) {
                continue;
            }
            let attachment = attach(bpf, link);
            let news = match (&attachment, self.by_ifindex.get(&ifindex)) {
                (Attachment::Attached(_), _) => Some(format!("attached to {}", link.name)),
                (Attachment::Refused(why), Some(Attachment::Refused(before))) if why == before => None,
                (Attachment::Refused(why), _) => Some(why.clone()),
            };
            if let Some(news) = news {
                log::info!("{news}");
            }
            self.by_ifindex.insert(ifindex, attachment);
        }
    }
}

fn let_go(bpf: &mut Bpf, ifindex: u32, attachment: Attachment) {
    let Attachment::Attached(id) = attachment else { return };
    // The link of an interface that vanished is already dead; only the descriptor is left to close.
    match bpf.xdp().and_then(|xdp| Ok(xdp.detach(id)?)) {
        Ok(()) => log::info!("let go of interface {ifindex}"),
        Err(error) => log::info!("let go of interface {ifindex}: {error:#}"),
    }
}

fn attach(bpf: &mut Bpf, link: &Link) -> Attachment {
    const ARPHRD_ETHER: u16 = 1;
    let Link { name, ifindex, .. } = link;
    if link.hardware_type != ARPHRD_ETHER {
        return Attachment::Refused(format!("{name}: not an Ethernet device"));
    }
    // Asked first, because the kernel would let two programs share a device in different modes on old versions.
    if let Some(holder) = link.xdp_program {
        return Attachment::Refused(format!(
            "{name}: its XDP slot is taken by {}; detach that program, or leave the interface to it",
            describe_program(holder)
        ));
    }
    let attached = bpf.xdp().and_then(|xdp| xdp.attach_to_if_index(*ifindex, XdpMode::Skb).map_err(why));
    match attached {
        Ok(id) => Attachment::Attached(id),
        Err(error) => Attachment::Refused(format!("{name}: attaching the XDP program failed: {error:#}")),
    }
}

fn why(error: ProgramError) -> anyhow::Error {
    match &error {
        ProgramError::SyscallError(syscall) => anyhow::anyhow!("{}: {}", syscall.call, syscall.io_error),
        _ => error.into(),
    }
}

/// The program's name and identifier, as far as the kernel tells.
fn describe_program(id: u32) -> String {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let name = |info: ProgramInfo| info.name_as_str().map(str::to_owned);
    match loaded.into_iter().find(|info| info.id() == id).and_then(name) {
        Some(name) => format!("program `{name}` (id {id})"),
        None => format!("program id {id}"),
    }
}
