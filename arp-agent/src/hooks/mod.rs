//! What the agent attaches to interfaces and to the cgroup tree, and what others have attached: attaching, detaching,
//! testing. Apart from the tables, everything that the agent writes into the kernel is written here.

use nix::net::if_::if_indextoname;

pub(crate) mod arrivals;
pub(crate) mod attachments;
pub(crate) mod bpf_syscalls;
pub(crate) mod cgroup;
pub(crate) mod clsact;
pub(crate) mod foreign_tc;
pub(crate) mod guards;
pub(crate) mod link_counters;
pub(crate) mod moves;
pub(crate) mod owners;
pub(crate) mod pins;
pub(crate) mod policy;
pub(crate) mod self_test;
pub(crate) mod sysctl;
pub(crate) mod sysctl_writes;
pub(crate) mod taps;
pub(crate) mod worker;

/// The name of an interface, or its number if it is gone.
pub(crate) fn interface_name(ifindex: u32) -> String {
    match if_indextoname(ifindex) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("interface {ifindex}"),
    }
}
