//! What an agent would answer here, and why not: found out without attaching anything.
//!
//! [`machine`] asks whether the kernel and this process can do what the agent needs; [`interfaces`] what `run` would make
//! of each interface, by the same policy and the same mirror. Only the self-test of a reply's way needs an attached
//! program, so its result is not foretold.

pub(crate) mod interfaces;
pub(crate) mod machine;

use crate::config::HookConfig;
use crate::hooks::owners::Programs;
use crate::kernel::Reader;
use anyhow::Context as _;
use globset::{Glob, GlobSet, GlobSetBuilder};
use interfaces::Foreseen;
use machine::{MachineCheck, ThisMachine};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What `preflight --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Preflight {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// The version of the agent that was asked.
    pub agent_version: String,
    /// The kernel's release.
    pub kernel: String,
    /// Whether `run` would start.
    pub can_run: bool,
    /// What was checked, in order.
    pub checks: Vec<MachineCheck>,
    /// The patterns, and how many interfaces match each.
    pub patterns: BTreeMap<String, usize>,
    /// The interfaces that match.
    pub interfaces: Vec<Foreseen>,
}

/// What to look at.
pub(crate) struct PreflightOptions<'a> {
    /// `--interface`.
    pub patterns: &'a [String],
    /// Which hooks may be had.
    pub hooks: HookConfig,
    /// `--bpffs`.
    pub bpffs: &'a Path,
}

impl Preflight {
    /// Checks this machine and at the interfaces that match.
    ///
    /// # Errors
    /// A pattern is not a glob.
    pub(crate) fn new(wanted: &PreflightOptions) -> anyhow::Result<Self> {
        let globs = globs(wanted.patterns)?;
        let programs = Programs::default();
        let mut machine = ThisMachine::examine(wanted.bpffs);
        let state = Reader::new().and_then(|mut reader| {
            let dump = reader.everything()?;
            Ok((dump, reader.knows_features()))
        });
        let (interfaces, patterns) = match state {
            Ok((dump, knows_features)) => {
                machine.note_kernel_state(Ok(knows_features));
                interfaces::foresee(dump, wanted, &globs, &machine.hooks(knows_features), &programs)
            }
            Err(error) => {
                machine.note_kernel_state(Err(error));
                (Vec::new(), wanted.patterns.iter().map(|pattern| (pattern.clone(), 0)).collect())
            }
        };
        Ok(Preflight {
            version: crate::DOCUMENT_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
            can_run: machine.checks.iter().all(|check| check.ok || !check.needed),
            checks: machine.checks,
            patterns,
            interfaces,
        })
    }

    /// Whether every request that the kernel answers at once on these interfaces would be answered, and there is one.
    pub(crate) fn answers_all(&self) -> bool {
        let answers =
            |interface: &Foreseen| interface.is_answering() && interface.limits.iter().all(|limit| !limit.passes);
        self.can_run && !self.interfaces.is_empty() && self.interfaces.iter().all(answers)
    }
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
