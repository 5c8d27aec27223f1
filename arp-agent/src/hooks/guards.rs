//! The guard's program on interfaces: before all others, and only where a policy is on.

use super::bpf_syscalls::{HookLink, knows_tcx};
use super::clsact::{Filters, OwnFilter};
use super::worker::{JobDone, Worker};
use crate::dataplane::bpf::Bpf;
use crate::dataplane::bpf::guards::Guarding;
use crate::dataplane::bpf::programs::EntryProgram;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

/// How often it is attached again at most where another program has come before it.
const AGAIN: Duration = Duration::from_secs(60);

/// The interfaces that are guarded.
pub(crate) struct Guards {
    program: EntryProgram,
    worker: Worker,
    filters: Filters,
    knows_tcx: bool,
    /// The program judges IP packets, too.
    judges_ip: bool,
    by_ifindex: BTreeMap<u32, AttachedGuard>,
    failures: u64,
}

#[derive(Debug)]
struct AttachedGuard {
    handle: GuardHandle,
    /// Something of others comes before it.
    is_late: bool,
    attached_at: Instant,
}

#[derive(Debug)]
enum GuardHandle {
    Waiting(u64),
    Tcx(HookLink),
    Filter(OwnFilter),
    Refused(String),
}

impl Guards {
    /// None yet. `filters` are the agent's own: what is set here bears their name.
    ///
    /// # Errors
    /// The verifier refuses the program, or no thread or socket can be had.
    pub(crate) fn new(bpf: &mut Bpf, filters: &Filters) -> anyhow::Result<Self> {
        Ok(Guards {
            program: bpf.guard()?,
            worker: Worker::start(HookLink::attach_first).context("starting a thread failed")?,
            filters: filters.another()?,
            knows_tcx: knows_tcx(),
            judges_ip: bpf.guarding() == Guarding::ArpAndIp,
            by_ifindex: BTreeMap::new(),
            failures: 0,
        })
    }

    /// How often an interface has refused.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The identifier of the program.
    pub(crate) fn id(&self) -> u32 {
        self.program.id
    }

    /// Guards an interface, unless it is guarded already.
    pub(crate) fn guard(&mut self, ifindex: u32) {
        if let Some(AttachedGuard {
            handle: GuardHandle::Waiting(_) | GuardHandle::Tcx(_) | GuardHandle::Filter(_),
            ..
        }) = self.by_ifindex.get(&ifindex)
        {
            return;
        }
        self.attach(ifindex, None);
    }

    fn attach(&mut self, ifindex: u32, before: Option<HookLink>) {
        let handle = if self.knows_tcx {
            GuardHandle::Waiting(self.worker.attach(ifindex, self.program.clone(), true, before))
        } else {
            match self.filters.set_first(ifindex, self.program.program.as_fd().as_raw_fd(), self.judges_ip) {
                Ok(filter) => GuardHandle::Filter(filter),
                Err(error) => {
                    self.failures += 1;
                    refused(ifindex, format!("{error:#}"))
                }
            }
        };
        self.by_ifindex.insert(ifindex, AttachedGuard { handle, is_late: false, attached_at: Instant::now() });
    }

    /// Guards an interface no more, or forgets one that is gone.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        match self.by_ifindex.remove(&ifindex).map(|guard| guard.handle) {
            Some(GuardHandle::Tcx(link)) => self.worker.detach_from(link),
            Some(GuardHandle::Filter(filter)) => {
                if let Err(error) = self.filters.remove(&filter) {
                    log::debug!("{}: its guard's filter: {error:#}", super::interface_name(ifindex));
                }
            }
            Some(GuardHandle::Waiting(_) | GuardHandle::Refused(_)) | None => {}
        }
    }

    /// Waits until the next interface is guarded, or cannot be. May be dropped while it waits.
    pub(crate) async fn done(&mut self) -> JobDone {
        self.worker.done().await
    }

    /// Takes the result of [`Guards::done`].
    pub(crate) fn complete(&mut self, JobDone { ifindex, number, link, .. }: JobDone) {
        match self.by_ifindex.get_mut(&ifindex) {
            Some(guard) if matches!(guard.handle, GuardHandle::Waiting(awaited) if awaited == number) => {
                guard.attached_at = Instant::now();
                guard.handle = match link {
                    Ok(link) => GuardHandle::Tcx(link),
                    Err(error) => {
                        self.failures += 1;
                        refused(ifindex, error.to_string())
                    }
                };
            }
            // No longer wanted.
            _ => link.into_iter().for_each(|link| self.worker.detach_from(link)),
        }
    }

    /// Notes at which place of an interface's tcx programs the guard is, `None` if at none. Where it is not the first, it is
    /// attached again: at most once a minute, because others may want to be the first, too.
    pub(crate) fn note_place(&mut self, ifindex: u32, place: Option<usize>) {
        let Some(guard) = self.by_ifindex.get_mut(&ifindex) else { return };
        if !matches!(guard.handle, GuardHandle::Tcx(_)) || place == Some(0) {
            guard.is_late = false;
            return;
        }
        guard.is_late = true;
        if place.is_some() && guard.attached_at.elapsed() < AGAIN {
            return;
        }
        log::warn!(
            "{}: another program has taken the guard's place; it is attached again",
            super::interface_name(ifindex)
        );
        if let Some(AttachedGuard { handle: GuardHandle::Tcx(link), .. }) = self.by_ifindex.remove(&ifindex) {
            self.attach(ifindex, Some(link));
        }
    }

    /// What there is on an interface, for people; `None` if nothing is wanted there.
    pub(crate) fn state(&self, ifindex: u32) -> Option<String> {
        let guard = self.by_ifindex.get(&ifindex)?;
        Some(match &guard.handle {
            GuardHandle::Waiting(_) => "waiting to be attached".to_owned(),
            GuardHandle::Tcx(_) if guard.is_late => "attached (tcx), but programs of others come before it".to_owned(),
            GuardHandle::Tcx(_) => "attached (tcx)".to_owned(),
            GuardHandle::Filter(_) => "attached (clsact)".to_owned(),
            GuardHandle::Refused(why) => format!("not attached: {why}"),
        })
    }
}

fn refused(ifindex: u32, why: String) -> GuardHandle {
    log::warn!(
        "{}: its policies do nothing, because the guard cannot be attached: {why}",
        super::interface_name(ifindex)
    );
    GuardHandle::Refused(why)
}

/// Links go with their descriptors.
impl Drop for Guards {
    fn drop(&mut self) {
        for guard in std::mem::take(&mut self.by_ifindex).into_values() {
            if let GuardHandle::Filter(filter) = guard.handle
                && let Err(error) = self.filters.remove(&filter)
            {
                log::warn!("cannot remove the guard's tc filter: {error:#}");
            }
        }
    }
}
