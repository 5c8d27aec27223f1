//! Finds out what this machine allows, without changing it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process;

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_user(&status) == Some(0))
}

/// Why tests and demonstrations with namespaces and BPF cannot run here, if they cannot.
pub(crate) fn lab_obstacle() -> Option<String> {
    if !is_root() {
        return Some("not root: namespaces and BPF programs need it".to_owned());
    }
    // The kernel has this file exactly when it has the bpf system call.
    if !Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists() {
        return Some("this kernel has no bpf system call (CONFIG_BPF_SYSCALL)".to_owned());
    }
    // In a container root may still lack the right to make namespaces; only trying tells.
    let unshare = process::find_program("unshare")?;
    let tried = process::output(Command::new(unshare).args(["--net", "--mount", "true"]));
    tried.err().map(|error| format!("root may not create namespaces here: {error:#}"))
}

/// The effective user id in the text of a `/proc/PID/status`.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_is_the_second_of_the_four() {
        assert_eq!(effective_user("Name:\tsh\nUid:\t1000\t0\t1000\t1000\nGid:\t1\t1\t1\t1\n"), Some(0));
        assert_eq!(effective_user("Name:\tsh\n"), None);
    }
}
