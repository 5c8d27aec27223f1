//! Whose a loaded BPF program is, as far as the kernel tells.

use super::calls::tcx_programs;
use arp_common::maps::names;
use aya::programs::loaded_programs;
use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};

/// A program's name. `None` if there is no such program, or if the kernel does not tell (it takes CAP_SYS_ADMIN).
pub fn name_of(id: u32) -> Option<String> {
    let loaded = loaded_programs().filter_map(Result::ok);
    loaded.into_iter().find(|info| info.id() == id).and_then(|info| info.name_as_str().map(str::to_owned))
}

/// Whether a program of this name is an `arp-agent`'s: this one's, or another one's.
pub fn is_of_an_arp_agent(name: &str) -> bool {
    [names::XDP_PROGRAM, names::TC_PROGRAM].iter().any(|own| name.starts_with(own))
}

/// A program for people: its name, whose it is and its number, as far as the kernel tells.
pub fn describe(id: u32) -> String {
    match name_of(id) {
        Some(name) if is_of_an_arp_agent(&name) => format!("another arp-agent (its program `{name}`, id {id})"),
        Some(name) => format!("program `{name}` (id {id})"),
        None => format!("program id {id}"),
    }
}

/// A program that sees the frames of an interface before the kernel does, or the kernel's replies, and that is no
/// `arp-agent`'s: one of tcx, or the XDP program `xdp`.
pub fn foreign_program(ifindex: u32, xdp: Option<u32>) -> Option<String> {
    let tcx =
        [BPF_TCX_INGRESS, BPF_TCX_EGRESS].into_iter().flat_map(|way| tcx_programs(ifindex, way).unwrap_or_default());
    let is_foreign = |id: &u32| !name_of(*id).is_some_and(|name| is_of_an_arp_agent(&name));
    tcx.chain(xdp).find(is_foreign).map(describe)
}
