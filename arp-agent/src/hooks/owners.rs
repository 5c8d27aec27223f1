//! Names the owner of a loaded BPF program, as far as the kernel tells.

use super::bpf_syscalls::tcx_programs;
use arp_common::guard::names::GUARD_PROGRAM;
use arp_common::maps::names;
use aya::programs::loaded_programs;
use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// The names of the programs that are loaded, read when one is asked for.
#[derive(Debug, Default)]
pub(crate) struct Programs(OnceCell<BTreeMap<u32, String>>);

impl Programs {
    /// A program's name. `None` if there is no such program, or if the kernel does not tell (it takes CAP_SYS_ADMIN).
    fn name(&self, id: u32) -> Option<&str> {
        let names = self.0.get_or_init(|| {
            let loaded = loaded_programs().filter_map(Result::ok);
            loaded.filter_map(|info| Some((info.id(), info.name_as_str()?.to_owned()))).collect()
        });
        names.get(&id).map(String::as_str)
    }

    /// Whether a program is an `arp-agent`'s, as far as the kernel tells.
    pub(crate) fn is_of_an_arp_agent(&self, id: u32) -> bool {
        self.name(id).is_some_and(is_of_an_arp_agent)
    }

    /// A program that is not ours, for people: whose it is, its name and its number, as far as the kernel tells.
    pub(crate) fn describe(&self, id: u32) -> String {
        match self.name(id) {
            Some(name) if is_of_an_arp_agent(name) => format!("another arp-agent (its program `{name}`, id {id})"),
            Some(name) => format!("program `{name}` (id {id})"),
            None => format!("program id {id}"),
        }
    }

    /// Whether the tcx programs after `own` on an interface's ingress are all of agents.
    pub(crate) fn only_agents_follow(&self, ifindex: u32, own: Option<u32>) -> bool {
        let incoming = tcx_programs(ifindex, BPF_TCX_INGRESS).unwrap_or_default();
        let mut following = incoming.into_iter().skip_while(|id| Some(*id) != own).skip(1);
        following.all(|id| self.is_of_an_arp_agent(id))
    }

    /// The tcx programs of an interface besides `own`, for people.
    pub(crate) fn tcx_besides(&self, ifindex: u32, own: &[Option<u32>]) -> Vec<String> {
        tcx(ifindex).filter(|id| !own.contains(&Some(*id))).map(|id| self.describe(id)).collect()
    }

    /// A program that sees the frames of an interface before the kernel does, or the kernel's replies, and that is no
    /// `arp-agent`'s: one of tcx, or the XDP program `xdp`.
    pub(crate) fn foreign(&self, ifindex: u32, xdp: Option<u32>) -> Option<String> {
        tcx(ifindex).chain(xdp).find(|id| !self.is_of_an_arp_agent(*id)).map(|id| self.describe(id))
    }
}

/// The tcx programs of an interface in both directions; none where the kernel does not tell.
fn tcx(ifindex: u32) -> impl Iterator<Item = u32> {
    [BPF_TCX_INGRESS, BPF_TCX_EGRESS].into_iter().flat_map(move |way| tcx_programs(ifindex, way).unwrap_or_default())
}

/// Whether a program of this name is an `arp-agent`'s.
fn is_of_an_arp_agent(name: &str) -> bool {
    [names::XDP_PROGRAM, names::TC_PROGRAM, GUARD_PROGRAM].iter().any(|own| name.starts_with(own))
}
