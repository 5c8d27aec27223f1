//! What the kernel asks of a process that loads and attaches the program.

use caps::Capability;
use std::collections::HashSet;

/// The capabilities that the agent needs. CAP_PERFMON: without it the verifier masks pointer arithmetic against
/// speculation, and refuses the program for it (`sanitize_ptr_alu`, kernel/bpf/verifier.c).
pub(crate) const CAPABILITIES: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// The names of the needed capabilities that this process lacks.
pub(crate) fn missing_capabilities(held: &HashSet<Capability>) -> Vec<String> {
    // It includes those that were made out of it (`bpf_capable`, `perfmon_capable`, include/linux/capability.h).
    let has_all_of_bpf = held.contains(&Capability::CAP_SYS_ADMIN);
    let is_missing = |capability: &Capability| {
        !held.contains(capability) && (*capability == Capability::CAP_NET_ADMIN || !has_all_of_bpf)
    };
    CAPABILITIES.into_iter().filter(is_missing).map(|capability| capability.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_sys_admin_includes_cap_bpf_and_cap_perfmon_and_nothing_else() {
        let missing = |held: &[Capability]| missing_capabilities(&held.iter().copied().collect());
        assert_eq!(missing(&CAPABILITIES), [""; 0]);
        assert_eq!(missing(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]), [""; 0]);
        assert_eq!(missing(&[Capability::CAP_SYS_ADMIN]), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]), ["CAP_PERFMON"]);
    }
}
