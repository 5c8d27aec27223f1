//! What the agent attaches to interfaces and to the cgroup tree, and what others have attached: attaching, detaching,
//! testing. Apart from the tables, everything that the agent writes into the kernel is written here.

use nix::net::if_::if_indextoname;

pub mod attachments;
pub(crate) mod bpf_syscalls;
pub(crate) mod cgroup;
pub mod clsact;
pub mod foreign_tc;
pub mod guards;
pub mod link_counters;
pub mod moves;
pub mod owners;
pub mod pins;
pub mod policy;
pub mod self_test;
pub mod sysctl;
pub mod sysctl_writes;
pub mod taps;
pub(crate) mod worker;

/// The name of an interface, or its number if it is gone.
pub(crate) fn interface_name(ifindex: u32) -> String {
    match if_indextoname(ifindex) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("interface {ifindex}"),
    }
}
