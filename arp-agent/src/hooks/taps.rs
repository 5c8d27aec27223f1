//! The program that sees what leaves by an interface, for the comparison of `--shadow`: the first on egress, so that nothing
//! that the kernel sends is taken away before.

use super::bpf_syscalls::knows_tcx;
use crate::dataplane::bpf::Bpf;
use anyhow::{Context as _, bail};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, TcAttachType};
use std::collections::BTreeMap;

/// The interfaces that have a tap.
#[derive(Debug)]
pub(crate) struct Taps {
    id: u32,
    by_ifindex: BTreeMap<u32, Result<SchedClassifierLink, String>>,
    failures: u64,
}

impl Taps {
    /// None yet.
    ///
    /// # Errors
    /// The kernel has no tcx, or the verifier refuses the program.
    pub(crate) fn new(bpf: &mut Bpf) -> anyhow::Result<Self> {
        if !knows_tcx() {
            bail!(
                "shadow needs tcx (Linux 6.6), to see what the kernel answers: run the agent without it, or on a newer kernel"
            );
        }
        let id = bpf.tap()?.info().context("asking for the tap's identifier failed")?.id();
        Ok(Taps { id, by_ifindex: BTreeMap::new(), failures: 0 })
    }

    /// How often an interface has refused.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The identifier of the program.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Attaches a tap to an interface, unless it has one.
    pub(crate) fn attach(&mut self, bpf: &mut Bpf, ifindex: u32, name: &str) {
        if self.is_on(ifindex) {
            return;
        }
        let attached = bpf.tap().and_then(|program| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let link = program.attach_with_options(name, TcAttachType::Egress, options)?;
            Ok(program.take_link(link)?)
        });
        self.failures += u64::from(attached.is_err());
        let attached = attached.map_err(|error| {
            log::warn!("{name}: shadow does not see what the kernel answers there: {error:#}");
            format!("{error:#}")
        });
        self.by_ifindex.insert(ifindex, attached);
    }

    /// Detaches the tap of an interface, or forgets an interface that is gone.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.by_ifindex.remove(&ifindex);
    }

    /// Whether an interface has a tap.
    pub(crate) fn is_on(&self, ifindex: u32) -> bool {
        self.by_ifindex.get(&ifindex).is_some_and(Result::is_ok)
    }

    /// The interfaces to which no tap could be attached, and why.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (u32, &str)> {
        self.by_ifindex.iter().filter_map(|(&ifindex, tap)| Some((ifindex, tap.as_ref().err()?.as_str())))
    }
}
