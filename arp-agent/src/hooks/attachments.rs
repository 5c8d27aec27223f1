//! Which interfaces the program runs on, and why not on the others.

use super::arrivals::Arrivals;
use super::bpf_syscalls::{HookLink, knows_tcx, tcx_programs};
use super::clsact::{Filters, LeftFilter, OtherFilters, OwnFilter};
use super::foreign_tc::{Places, tcx_around};
use super::owners::Programs;
use super::pins::{LeftLink, Pins};
use super::policy::{Candidate, Surroundings, candidates};
use super::worker::{JobDone, Worker};
use crate::config::{Hook, HookConfig, TcAttach};
use crate::dataplane::HookKind;
use crate::dataplane::bpf::{Bpf, programs::EntryProgram};
use crate::descriptors;
use crate::event::Link;
use anyhow::Context as _;
use aya_obj::generated::bpf_attach_type::BPF_TCX_INGRESS;
use globset::{Glob, GlobSet, GlobSetBuilder};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The interfaces that match, and the state of each.
pub(crate) struct Attachments {
    patterns: Vec<String>,
    wanted: GlobSet,
    hook_config: HookConfig,
    filters: Filters,
    /// `None`: there is no bpffs, or it is not to be used.
    pins: Option<Pins>,
    worker: Worker,
    watches_peers: bool,
    knows_tcx: bool,
    /// The identifier of the guard's program, if there is one.
    guard: Option<u32>,
    /// The identifier of the tap's program, if there is one.
    tap: Option<u32>,
    by_ifindex: BTreeMap<u32, Attachment>,
    /// Those of them that the program runs on.
    attached: BTreeSet<u32>,
    /// What dead agents left: stubs that pass every frame.
    left_filters: Vec<LeftFilter>,
    left_links: Vec<LeftLink>,
    /// The interfaces of the start whose turn has not come yet; `None` before the start.
    first_round: Option<BTreeSet<u32>>,
    serving: bool,
    arrivals: Arrivals,
    failures: u64,
}

/// The state of an interface that matches.
#[derive(Debug)]
pub(crate) enum Attachment {
    /// The program runs on it.
    Attached(Attached),
    /// The program is being attached, or will be when its turn comes. Until then the kernel answers alone.
    Waiting(Waiting),
    /// The interface has just come, and nobody may be held up by attaching: see [`Arrivals`].
    Arriving,
    /// The program cannot be attached; why, for people.
    Refused(String),
}

/// The program runs on an interface.
#[derive(Debug)]
pub(crate) struct Attached {
    /// By which hook, and why by that one.
    pub candidate: Candidate,
    name: String,
    /// Why the hooks before it were not possible; empty if it was the first choice.
    pub instead: String,
    handle: Handle,
}

/// An attachment in progress.
#[derive(Debug)]
pub(crate) struct Waiting {
    number: u64,
    /// The one that is tried, and those to try next.
    candidates: VecDeque<Candidate>,
    /// Why the hooks before it were not possible.
    refused: Vec<String>,
}

/// What must be closed or removed to detach the program.
#[derive(Debug)]
enum Handle {
    Link { link: HookLink, program: u32, pin: Option<PathBuf> },
    Filter(OwnFilter),
}

fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        globs.add(Glob::new(pattern).with_context(|| {
            format!("--interface {pattern}: not a glob (try a name, or a pattern such as `cali*`)")
        })?);
    }
    Ok(globs.build()?)
}

/// The outcome of trying a hook.
enum Tried {
    Attached(Handle),
    Waiting(u64),
}

impl Attachments {
    /// Attached to nothing yet. Links are pinned under `bpffs` if that is a bpffs.
    ///
    /// # Errors
    /// A pattern is not a glob, or no netlink socket or thread can be created.
    pub(crate) fn new(patterns: &[String], hook_config: HookConfig, bpffs: &Path) -> anyhow::Result<Self> {
        let wanted = globs(patterns)?;
        let filters = Filters::new()?;
        let pins = Pins::open(bpffs, filters.name()).unwrap_or_else(|error| {
            log::warn!("BPF links cannot be pinned, so a restart attaches each interface again: {error:#}");
            None
        });
        Ok(Attachments {
            patterns: patterns.to_vec(),
            wanted,
            hook_config,
            filters,
            pins,
            worker: Worker::start(HookLink::attach_last).context("starting a thread failed")?,
            watches_peers: false,
            knows_tcx: knows_tcx(),
            guard: None,
            tap: None,
            by_ifindex: BTreeMap::new(),
            attached: BTreeSet::new(),
            left_filters: Vec::new(),
            left_links: Vec::new(),
            first_round: None,
            serving: false,
            arrivals: Arrivals::default(),
            failures: 0,
        })
    }

    /// Takes other patterns. [`Attachments::reconcile`] attaches and detaches as they say.
    ///
    /// # Errors
    /// A pattern is not a glob; the old ones stay.
    pub(crate) fn set_patterns(&mut self, patterns: &[String]) -> anyhow::Result<()> {
        self.wanted = globs(patterns)?;
        self.patterns = patterns.to_vec();
        Ok(())
    }

    /// Notes the guard's program: it comes before ours, and is no program of others.
    pub(crate) fn know_guard(&mut self, id: u32) {
        self.guard = Some(id);
    }

    /// Notes the tap's program: it looks at what leaves, and is no program of others.
    pub(crate) fn know_tap(&mut self, id: u32) {
        self.tap = Some(id);
    }

    /// The agent's filters.
    pub(crate) fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Notes that the kernel says whether a veth's other end takes XDP frames: so driver mode is possible on veths.
    pub(crate) fn watch_peers(&mut self) {
        self.watches_peers = true;
    }

    /// The agent's name, which its filters bear.
    pub(crate) fn name(&self) -> &str {
        self.filters.name()
    }

    /// The port in the notifications that our own filters cause.
    ///
    /// # Errors
    /// The socket has none.
    pub(crate) fn port(&self) -> anyhow::Result<u32> {
        self.filters.port()
    }

    /// Finds what dead agents left: [`Attachments::reconcile`] takes it over, [`Attachments::clear_left`] removes the
    /// rest.
    pub(crate) fn find_left(&mut self) {
        match self.filters.find() {
            Ok(found) => self.left_filters = found.left,
            Err(error) => log::warn!("cannot look for tc filters of dead agents: {error:#}"),
        }
        match self.pins.as_ref().map(Pins::find).transpose() {
            Ok(found) => self.left_links = found.unwrap_or_default().left,
            Err(error) => log::warn!("cannot look for pinned links of dead agents: {error}"),
        }
    }

    /// Removes what dead agents left, except where it waits to be taken over.
    pub(crate) fn clear_left(&mut self) {
        let is_waiting = |ifindex: u32| matches!(self.by_ifindex.get(&ifindex), Some(Attachment::Waiting(_)));
        let (wait, go) = std::mem::take(&mut self.left_filters)
            .into_iter()
            .partition::<Vec<_>, _>(|left| is_waiting(left.ifindex()));
        self.left_filters = wait;
        let (wait, go_links) =
            std::mem::take(&mut self.left_links).into_iter().partition::<Vec<_>, _>(|left| is_waiting(left.ifindex));
        self.left_links = wait;
        self.remove_left(go, go_links);
    }

    /// Whether interfaces that were there at the start have not been attached to yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.first_round.as_ref().is_none_or(|first| !first.is_empty())
    }

    /// From now on new interfaces are attached before those that wait.
    pub(crate) fn serve(&mut self) {
        self.serving = true;
        self.first_round.get_or_insert_default();
    }

    /// Waits until the worker has attached, or failed to attach, the next interface; pass the result to
    /// [`Attachments::complete`]. May be dropped while it waits.
    pub(crate) async fn done(&mut self) -> JobDone {
        self.worker.done().await
    }

    /// How many of the links match each pattern.
    pub(crate) fn matches(&self, links: &BTreeMap<u32, Link>) -> BTreeMap<String, usize> {
        let mut counts = vec![0; self.patterns.len()];
        let mut found = Vec::new();
        for link in links.values() {
            self.wanted.matches_into(&link.name, &mut found);
            found.iter().for_each(|&which| counts[which] += 1);
        }
        self.patterns.iter().cloned().zip(counts).collect()
    }

    /// The state of each interface that matches.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Attachment)> {
        self.by_ifindex.iter().map(|(&ifindex, attachment)| (ifindex, attachment))
    }

    /// The interfaces that the program runs on.
    pub(crate) fn attached(&self) -> &BTreeSet<u32> {
        &self.attached
    }

    /// The interfaces with an XDP program of ours, and its identifier.
    pub(crate) fn xdp_programs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.by_ifindex.iter().filter_map(|(&ifindex, attachment)| match attachment {
            Attachment::Attached(Attached { candidate, handle: Handle::Link { program, .. }, .. })
                if candidate.how.is_xdp() =>
            {
                Some((ifindex, *program))
            }
            _ => None,
        })
    }

    /// How the program is attached to an interface.
    pub(crate) fn how(&self, ifindex: u32) -> Option<HookKind> {
        match self.by_ifindex.get(&ifindex) {
            Some(Attachment::Attached(attached)) => Some(attached.candidate.how),
            _ => None,
        }
    }

    /// Which other tc filters an interface has, if our program is attached to it.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(crate) fn beside(&mut self, ifindex: u32) -> anyhow::Result<Option<OtherFilters>> {
        let Some(Attachment::Attached(Attached { handle, .. })) = self.by_ifindex.get(&ifindex) else {
            return Ok(None);
        };
        let filter = match handle {
            Handle::Filter(filter) => Some(filter),
            Handle::Link { .. } => None,
        };
        self.filters.beside(ifindex, filter).map(Some)
    }

    /// Puts our tcx program behind those that have come after it. Until that is done, nothing is attached. Says whether
    /// it is under way.
    ///
    /// # Errors
    /// The program cannot be had.
    pub(crate) fn move_to_end(&mut self, bpf: &mut Bpf, ifindex: u32) -> anyhow::Result<bool> {
        if self.how(ifindex) != Some(HookKind::Tcx) {
            return Ok(false);
        }
        let entry = bpf.entry(HookKind::Tcx)?;
        let Some(Attachment::Attached(Attached { candidate, handle: Handle::Link { link, pin, .. }, .. })) =
            self.by_ifindex.remove(&ifindex)
        else {
            return Ok(false);
        };
        self.attached.remove(&ifindex);
        if let Some(Err(error)) = pin.as_deref().map(unpin) {
            log::warn!("{}: cannot remove the pin of its BPF link: {error}", super::interface_name(ifindex));
        }
        let number = self.worker.attach(ifindex, entry, self.serving, Some(link));
        let waiting = Waiting { number, candidates: [candidate].into(), refused: Vec::new() };
        self.by_ifindex.insert(ifindex, Attachment::Waiting(waiting));
        Ok(true)
    }

    /// Whether another hook than the one that it has suits an interface by now, with these filters of others.
    pub(crate) fn is_better_elsewhere(&self, link: &Link, filters: Places) -> bool {
        let Some(Attachment::Attached(Attached { candidate, .. })) = self.by_ifindex.get(&link.ifindex) else {
            return false;
        };
        let around = Surroundings { knows_tcx: self.knows_tcx, programs: true, filters: filters.after };
        let best = candidates(self.hook_config, link, around).into_iter().next();
        best.is_some_and(|best| best.how != candidate.how && !best.how.is_xdp())
    }

    /// Detaches from an interface, and waits until nothing of ours is on it.
    pub(crate) fn detach_from(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
        if let Some(Attachment::Attached(Attached { name, handle, .. })) = self.by_ifindex.remove(&ifindex) {
            let done = match handle {
                Handle::Link { link, pin, .. } => {
                    drop(link);
                    pin.as_deref().map_or(Ok(()), unpin).map_err(Into::into)
                }
                Handle::Filter(filter) => self.filters.remove(&filter),
            };
            if let Err(error) = done {
                log::warn!("{name}: cannot detach: {error:#}");
            }
        }
    }

    /// What decides which hook suits an interface, as it is now.
    fn surroundings(&mut self, link: &Link) -> Surroundings {
        let is_left_open = self.hook_config.hook != Hook::Xdp && self.hook_config.tc_attach == TcAttach::Auto;
        let mut around = Surroundings { knows_tcx: self.knows_tcx, ..Surroundings::default() };
        if !is_left_open {
            return around;
        }
        // What cannot be read is asked again once the program is there (`ForeignPrograms::ask`).
        if let Ok(OtherFilters::Found(filters)) = self.filters.beside(link.ifindex, None) {
            around.filters = filters.after;
            around.programs = filters.after || filters.egress;
        }
        if link.kind.is_none() && self.knows_tcx {
            let programs = tcx_around(link.ifindex, self.guard, self.tap);
            around.programs |= programs.after || programs.egress;
        }
        around
    }

    /// Forgets an interface that vanished, so that another with its index is attached to; or one from which somebody
    /// removed our program, so that it is attached to again.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
        self.arrivals.forget(ifindex);
        if let Some(first) = &mut self.first_round {
            first.remove(&ifindex);
        }
        if let Some(Attachment::Attached(attached)) = self.by_ifindex.remove(&ifindex) {
            self.detach_one(ifindex, attached);
        }
    }

    /// Of these interfaces, attaches to those that match and detaches from those that no longer do. `takes_xdp`: a
    /// veth's other end takes XDP frames in driver mode.
    pub(crate) fn reconcile(
        &mut self,
        bpf: &mut Bpf,
        links: &BTreeMap<u32, Link>,
        interfaces: &BTreeSet<u32>,
        takes_xdp: impl Fn(u32) -> bool,
    ) {
        for &ifindex in interfaces {
            let Some(link) = links.get(&ifindex).filter(|link| self.wanted.is_match(&link.name)) else {
                self.forget(ifindex);
                continue;
            };
            if self.attached.contains(&ifindex) || matches!(self.by_ifindex.get(&ifindex), Some(Attachment::Waiting(_)))
            {
                continue;
            }
            let has_come = matches!(self.by_ifindex.get(&ifindex), None | Some(Attachment::Arriving));
            if self.serving && has_come && !self.arrivals.may_attach(link, Instant::now()) {
                self.settle(link, Attachment::Arriving);
                continue;
            }
            let candidates = candidates(self.hook_config, link, self.surroundings(link)).into();
            let attachment = self.attach(bpf, link, takes_xdp(ifindex), candidates, Vec::new());
            self.settle(link, attachment);
        }
    }

    /// Takes the result of [`Attachments::done`].
    pub(crate) fn complete(
        &mut self,
        bpf: &mut Bpf,
        links: &BTreeMap<u32, Link>,
        takes_xdp: impl Fn(u32) -> bool,
        done: JobDone,
    ) {
        let JobDone { ifindex, number, entry, link } = done;
        let awaited = matches!(self.by_ifindex.get(&ifindex), Some(Attachment::Waiting(w)) if w.number == number);
        let (Some(dumped), true) = (links.get(&ifindex), awaited) else {
            // The interface went, or is no longer wanted.
            if let Ok(link) = link {
                self.worker.detach_from(link);
            }
            return;
        };
        let Some(Attachment::Waiting(Waiting { mut candidates, mut refused, .. })) = self.by_ifindex.remove(&ifindex)
        else {
            return;
        };
        let attachment = match (link, candidates.pop_front()) {
            (Ok(link), Some(candidate)) => {
                let handle = self.keep(link, ifindex, candidate.how, &entry);
                let (name, instead) = (dumped.name.clone(), refused.join("; "));
                Attachment::Attached(Attached { candidate, name, instead, handle })
            }
            (link, _) => {
                refused.extend(link.err().map(|error| format!("attaching the tc program (tcx) failed: {error}")));
                self.attach(bpf, dumped, takes_xdp(ifindex), candidates, refused)
            }
        };
        self.settle(dumped, attachment);
    }

    /// When the next interface that has just come is to be attached to, if it gets no carrier before.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.arrivals.due()
    }

    /// The interfaces whose time has come: pass them to [`Attachments::reconcile`].
    pub(crate) fn that_are_due(&self, now: Instant) -> BTreeSet<u32> {
        self.arrivals.that_are_due(now)
    }

    /// How often an interface has refused, each cause once in a row.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The interfaces that match, and that the program cannot be attached to.
    pub(crate) fn refused(&self) -> impl Iterator<Item = u32> {
        let any = self.by_ifindex.len() > self.attached.len();
        let all = any.then(|| self.by_ifindex.iter()).into_iter().flatten();
        all.filter(|(_, attachment)| matches!(attachment, Attachment::Refused(_))).map(|(&ifindex, _)| ifindex)
    }

    /// Sets the state of an interface, and logs it if it has changed.
    fn settle(&mut self, link: &Link, attachment: Attachment) {
        let ifindex = link.ifindex;
        let news = match (&attachment, self.by_ifindex.get(&ifindex)) {
            (Attachment::Attached(Attached { candidate: Candidate { how, why }, instead, .. }), _) => {
                let instead = if instead.is_empty() { String::new() } else { format!(" ({instead})") };
                Some(format!("attached to {}: {} {}, {why}{instead}", link.name, how.hook(), how.mode()))
            }
            (Attachment::Waiting(_) | Attachment::Arriving, _) => None,
            (Attachment::Refused(why), Some(Attachment::Refused(before))) if why == before => None,
            (Attachment::Refused(why), _) => {
                self.failures += 1;
                Some(why.clone())
            }
        };
        // What became of an interface is told when it is known whether it answers.
        if let Some(news) = news {
            log::debug!("{news}");
        }
        if matches!(attachment, Attachment::Waiting(_)) {
            if !self.serving {
                self.first_round.get_or_insert_default().insert(ifindex);
            }
        } else if let Some(first) = &mut self.first_round {
            first.remove(&ifindex);
        }
        if matches!(attachment, Attachment::Attached(_)) {
            self.attached.insert(ifindex);
            // What is left there by another hook than this one.
            let (filters, links) = (self.take_left_filters(ifindex), self.take_left_links(ifindex, |_| true));
            self.remove_left(filters, links);
        }
        self.by_ifindex.insert(ifindex, attachment);
    }

    /// Tries these hooks, one after the other.
    fn attach(
        &mut self,
        bpf: &mut Bpf,
        link: &Link,
        takes_xdp: bool,
        mut candidates: VecDeque<Candidate>,
        mut refused: Vec<String>,
    ) -> Attachment {
        if link.hardware_type != libc::ARPHRD_ETHER {
            return Attachment::Refused(format!("{}: not an Ethernet device", link.name));
        }
        while let Some(candidate) = candidates.pop_front() {
            match self.try_one(bpf, link, candidate.how, takes_xdp) {
                Ok(Tried::Attached(handle)) => {
                    let (name, instead) = (link.name.clone(), refused.join("; "));
                    return Attachment::Attached(Attached { candidate, name, instead, handle });
                }
                Ok(Tried::Waiting(number)) => {
                    candidates.push_front(candidate);
                    return Attachment::Waiting(Waiting { number, candidates, refused });
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

    fn try_one(&mut self, bpf: &mut Bpf, link: &Link, how: HookKind, takes_xdp: bool) -> anyhow::Result<Tried> {
        let ifindex = link.ifindex;
        if how.is_xdp() {
            // Asked first, because the kernel would let two programs share a device in different modes on old versions.
            let is_left = |holder: u32| {
                self.left_links
                    .iter()
                    .any(|left| left.ifindex == ifindex && left.how.is_xdp() && left.program == holder)
            };
            if let Some(holder) = link.xdp_program.filter(|&holder| !is_left(holder)) {
                anyhow::bail!(
                    "its XDP slot is taken by {}; detach that program, or leave the interface out of --interface",
                    Programs::default().describe(holder)
                );
            }
        }
        if how == HookKind::XdpVeth {
            if !self.watches_peers {
                anyhow::bail!("driver mode on a veth needs Linux 6.3, which tells whether the pod end takes replies");
            }
            if !takes_xdp {
                anyhow::bail!(
                    "in driver mode replies reach the pod only while its end has GRO or an XDP program; switch GRO on in \
                     the pod, or choose another mode"
                );
            }
        }
        if how == HookKind::Tcx && !self.knows_tcx {
            anyhow::bail!("this kernel has no tcx (Linux 6.6); use `--tc-attach clsact`");
        }
        // A filter takes no descriptor.
        if how != HookKind::Clsact
            && let Some(too_few) = descriptors::too_few()
        {
            anyhow::bail!(too_few);
        }
        let (hook, mode) = (how.hook(), how.mode());
        let failed = || format!("attaching the {hook} program ({mode}) failed");
        let entry = bpf.entry(how)?;
        if how == HookKind::Clsact {
            let left = self.take_left_filters(ifindex);
            let set = self.filters.set(ifindex, entry.program.as_fd().as_raw_fd(), &left);
            // One that was replaced has another name by now, and is not found.
            self.remove_left(left, Vec::new());
            return Ok(Tried::Attached(Handle::Filter(set.with_context(failed)?)));
        }
        if let Some(handle) = self.adopt(link, how, &entry) {
            return Ok(Tried::Attached(handle));
        }
        if how == HookKind::Tcx {
            return Ok(Tried::Waiting(self.worker.attach(ifindex, entry, self.serving, None)));
        }
        let attached = HookLink::attach(entry.program.as_fd(), ifindex, how).with_context(failed)?;
        Ok(Tried::Attached(self.keep(attached, ifindex, how, &entry)))
    }

    /// Takes over the link that a dead agent left for a hook. Links that are in its way are removed.
    fn adopt(&mut self, link: &Link, how: HookKind, entry: &EntryProgram) -> Option<Handle> {
        let ifindex = link.ifindex;
        let left = self.take_left_links(ifindex, |left| left.is_xdp() == how.is_xdp());
        let is_there = |left: &LeftLink| {
            // In this namespace, too: it may have been moved, and another one have its index.
            let is_shown = if how.is_xdp() {
                link.xdp_program == Some(left.program)
            } else {
                tcx_programs(ifindex, BPF_TCX_INGRESS).is_ok_and(|programs| programs.contains(&left.program))
            };
            left.how == how && is_shown && left.is_tied().unwrap_or(false)
        };
        let (mut same, others) = left.into_iter().partition::<Vec<_>, _>(is_there);
        let adopted = same.pop().zip(self.pins.as_ref()).map(|(left, pins)| pins.adopt(left, entry.program.as_fd()));
        self.remove_left(Vec::new(), others.into_iter().chain(same).collect());
        match adopted? {
            Ok((link, path)) => Some(Handle::Link { link, program: entry.id, pin: Some(path) }),
            Err(error) => {
                log::warn!("{}: cannot take over the pinned link of a dead agent: {error}", link.name);
                None
            }
        }
    }

    /// Pins a link, except XDP in a veth's driver: without an agent it would still cost the pod its offloads.
    fn keep(&self, link: HookLink, ifindex: u32, how: HookKind, entry: &EntryProgram) -> Handle {
        let pins = self.pins.as_ref().filter(|_| how != HookKind::XdpVeth);
        let pin = pins.and_then(|pins| {
            let kept = pins.keep(&link, ifindex, how);
            kept.inspect_err(|error| log::warn!("{}: cannot pin its BPF link: {error}", super::interface_name(ifindex)))
                .ok()
        });
        Handle::Link { link, program: entry.id, pin }
    }

    fn take_left_filters(&mut self, ifindex: u32) -> Vec<LeftFilter> {
        self.left_filters.extract_if(.., |left| left.ifindex() == ifindex).collect()
    }

    fn take_left_links(&mut self, ifindex: u32, which: impl Fn(HookKind) -> bool) -> Vec<LeftLink> {
        self.left_links.extract_if(.., |left| left.ifindex == ifindex && which(left.how)).collect()
    }

    fn remove_left(&mut self, filters: Vec<LeftFilter>, links: Vec<LeftLink>) {
        for left in filters {
            match self.filters.remove_left(&left) {
                Ok(true) => {
                    log::info!("{}: removed the tc filter of a dead agent", super::interface_name(left.ifindex()))
                }
                Ok(false) => {}
                Err(error) => {
                    log::warn!(
                        "{}: cannot remove the tc filter of a dead agent: {error:#}",
                        super::interface_name(left.ifindex())
                    )
                }
            }
        }
        for left in links {
            let (ifindex, how) = (left.ifindex, left.how);
            let path = left.path().to_owned();
            match left.unpin() {
                Ok(link) => {
                    log::info!("{}: removed the pinned link of a dead agent", super::interface_name(ifindex));
                    self.close(how, link);
                }
                Err(error) => log::warn!("{}: cannot remove the pinned link of a dead agent: {error}", path.display()),
            }
        }
    }

    fn detach_one(&mut self, ifindex: u32, Attached { candidate, name, handle, .. }: Attached) {
        let done = match handle {
            Handle::Link { link, pin, .. } => {
                let unpinned = pin.as_deref().map_or(Ok(()), unpin);
                self.close(candidate.how, link);
                unpinned.map_err(Into::into)
            }
            Handle::Filter(filter) => self.filters.remove(&filter),
        };
        match done {
            Ok(()) => log::debug!("{name} ({ifindex}): detached"),
            Err(error) => log::debug!("{name} ({ifindex}): detached, {error:#}"),
        }
    }

    /// Detaches by closing the link: the worker closes tcx, which waits; XDP is closed here, so that its slot is free
    /// at once.
    fn close(&self, how: HookKind, link: HookLink) {
        if how == HookKind::Tcx { self.worker.detach_from(link) } else { drop(link) }
    }
}

/// Links that are slow to attach (a grace period, or the driver's own time) stay pinned as a stub that passes every
/// frame, for the next agent to take over. Everything else is removed; only a queueing discipline stays.
impl Drop for Attachments {
    fn drop(&mut self) {
        for (ifindex, attachment) in std::mem::take(&mut self.by_ifindex) {
            let Attachment::Attached(Attached { candidate, handle, .. }) = attachment else { continue };
            let removed = match &handle {
                Handle::Filter(filter) => self.filters.remove(filter),
                Handle::Link { pin: Some(pin), .. } if candidate.how == HookKind::XdpSkb => {
                    unpin(pin).map_err(Into::into)
                }
                Handle::Link { .. } => Ok(()),
            };
            if let Err(error) = removed {
                log::warn!(
                    "{}: cannot detach the {} program: {error:#}",
                    super::interface_name(ifindex),
                    candidate.how.hook()
                );
            }
        }
        if let Some(pins) = &self.pins {
            pins.tidy();
        }
    }
}

fn unpin(pin: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
