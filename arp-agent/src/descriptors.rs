//! File descriptors: how many there may be, and how many the agent keeps free for its own work.
//!
//! An attachment by XDP or tcx takes one for each interface, and so does each piece of a table that grows. Whoever
//! takes the last one must be an interface, which is then left alone, and not the work that keeps all of them in sync.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsRawFd as _;

/// How many are kept free, if the limit is not small: for clients of the control socket, netlink sockets that are
/// opened again, files under /proc, and the pieces of tables.
const RESERVE: u64 = 64;
/// Of a small limit, this part.
const PART: u64 = 4;
/// Clients of the control socket at once, at most.
const CONNECTIONS: u64 = 32;

/// Raises the soft limit to the hard one. systemd's soft limit is 1,024 by default, its hard one 524,288.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        log::warn!("the limit of file descriptors (RLIMIT_NOFILE) cannot be raised to its hard limit: {error}");
    }
}

/// How many clients of the control socket there may be at once.
pub(crate) fn connections() -> usize {
    CONNECTIONS.min(reserve(limit()) / 2).max(1) as usize
}

/// Why no interface may take another one, if so.
pub(crate) fn too_few() -> Option<String> {
    let limit = limit();
    // The kernel gives the lowest number that is free.
    let next = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let is_free = next.is_ok_and(|next| u64::from(next.as_raw_fd().unsigned_abs()) < limit - reserve(limit));
    (!is_free).then(|| {
        format!(
            "nearly all of the {limit} file descriptors that this process may have are in use; raise the limit \
             (systemd: LimitNOFILE=)"
        )
    })
}

fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

fn reserve(limit: u64) -> u64 {
    RESERVE.min(limit / PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_small_limit_a_part_is_kept_free() {
        assert_eq!([1024, 256, 128, 20, 0, u64::MAX].map(reserve), [64, 64, 32, 5, 0, 64]);
        assert!(connections() >= 1);
    }
}
