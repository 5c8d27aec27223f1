//! Whether the kernel and this process can do what the agent needs. Programs and maps are loaded, and dropped again;
//! nothing is attached or pinned.

use crate::capabilities::{CAPABILITIES, missing_capabilities};
use crate::dataplane::{HookKind, bpf::Bpf, refusal};
use crate::hooks::bpf_syscalls::knows_tcx;
use crate::hooks::cgroup::cgroup_root;
use arp_common::maps::names;
use aya::programs::CgroupSysctl;
use caps::CapSet;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;
use std::path::Path;

/// Something that was checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MachineCheck {
    /// Its name.
    pub check: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether the agent cannot run without it.
    pub needed: bool,
    /// What was found, or what follows from its absence; for people.
    pub found: String,
}

/// What the machine offers.
pub(super) struct ThisMachine {
    pub(super) checks: Vec<MachineCheck>,
    knows_tcx: bool,
    /// Why programs cannot be loaded: `None` if they can, or if it is not known.
    refused: Vec<(HookKind, String)>,
}

/// What decides which hook an interface gets.
pub(super) struct HooksHere {
    pub(super) knows_tcx: bool,
    /// The kernel tells whether a veth's pod end takes XDP frames.
    pub(super) watches_peers: bool,
    refused: Vec<(HookKind, String)>,
}

impl HooksHere {
    /// Why the kernel does not take the program of this hook.
    pub(super) fn refusal(&self, how: HookKind) -> Option<&str> {
        self.refused.iter().find(|(refused, _)| *refused == how).map(|(_, why)| why.as_str())
    }
}

impl ThisMachine {
    pub(super) fn examine(bpffs: &Path) -> Self {
        let mut machine = ThisMachine { checks: Vec::new(), knows_tcx: true, refused: Vec::new() };
        let may_load = machine.capabilities();
        if may_load {
            machine.programs();
        } else {
            machine.check("programs", false, true, "not tried, because capabilities are missing");
        }
        machine.bpffs(bpffs);
        machine
    }

    pub(super) fn hooks(&self, watches_peers: bool) -> HooksHere {
        HooksHere { knows_tcx: self.knows_tcx, watches_peers, refused: self.refused.clone() }
    }

    /// Notes whether the kernel's state can be read; inside, whether it tells the XDP features of devices.
    pub(super) fn note_kernel_state(&mut self, read: anyhow::Result<bool>) {
        match read {
            Ok(features) => {
                self.check("kernel_state", true, true, "routes, neighbours and settings can be read");
                let found = match features {
                    true => "the kernel tells whether a pod takes XDP frames",
                    false => "not told before Linux 6.3: no XDP in the driver of a veth",
                };
                self.check("xdp_features", features, false, found);
            }
            Err(error) => self.check("kernel_state", false, true, format!("{error:#}")),
        }
    }

    fn check(&mut self, check: &str, ok: bool, needed: bool, found: impl Into<String>) {
        self.checks.push(MachineCheck { check: check.to_owned(), ok, needed, found: found.into() });
    }

    fn capabilities(&mut self) -> bool {
        let needed = CAPABILITIES.map(|capability| capability.to_string()).join(", ");
        let missing = match caps::read(None, CapSet::Effective) {
            Ok(held) => missing_capabilities(&held),
            Err(error) => vec![format!("(reading them failed: {error})")],
        };
        let ok = missing.is_empty();
        let found = if ok {
            format!("{needed} are held")
        } else {
            format!("{} missing; run this as root, or with {needed}", missing.join(" and "))
        };
        self.check("capabilities", ok, true, found);
        ok
    }

    /// Loads the object and each of its programs.
    fn programs(&mut self) {
        let mut bpf = match Bpf::load() {
            Ok(bpf) => bpf,
            Err(error) => return self.check("programs", false, true, format!("{error:#}")),
        };
        let kinds = [HookKind::Tcx, HookKind::Clsact, HookKind::XdpSkb, HookKind::XdpDriver, HookKind::XdpVeth];
        for how in kinds {
            if let Err(error) = bpf.entry(how) {
                self.refused.push((how, format!("{error:#}")));
            }
        }
        let found = match self.refused.first() {
            None => "the kernel takes the programs for tc and for XDP".to_owned(),
            Some((_, why)) => why.clone(),
        };
        self.check("programs", self.refused.is_empty(), self.refused.len() == kinds.len(), found);
        self.knows_tcx = knows_tcx();
        let found = if self.knows_tcx { "tcx" } else { "no tcx before Linux 6.6: tc filters on a clsact instead" };
        self.check("tcx", self.knows_tcx, false, found);
        match sysctl_hook(&mut bpf) {
            Ok(()) => {
                let (ok, found) = match bpf.cannot_tell_whose() {
                    None => (true, "writes of sysctls are noticed before they take effect".to_owned()),
                    Some(why) => (false, format!("writes of other network namespaces make frames pass as well: {why}")),
                };
                self.check("sysctl_hook", ok, false, found);
            }
            Err(error) => self.check("sysctl_hook", false, false, format!("settings are polled instead: {error:#}")),
        }
    }

    fn bpffs(&mut self, bpffs: &Path) {
        let is_bpffs = statfs(bpffs).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        let found = match is_bpffs {
            true => format!("{}: a restart keeps the programs in place", bpffs.display()),
            false => format!("{} is no bpffs: a restart attaches to each interface again", bpffs.display()),
        };
        self.check("bpffs", is_bpffs, false, found);
    }
}

/// Whether the sysctl hook can be had: the root of the cgroup tree is visible, and the kernel takes a program for it.
fn sysctl_hook(bpf: &mut Bpf) -> anyhow::Result<()> {
    cgroup_root()?;
    let name = if bpf.cannot_tell_whose().is_none() { names::SYSCTL_PROGRAM } else { names::SYSCTL_ALL_PROGRAM };
    let program: &mut CgroupSysctl = bpf.program(name)?.try_into()?;
    program.load().map_err(|error| refusal::of_program(name, &error))
}
