//! Who may use the control socket: root and the agent's own user may ask everything, members of one group only what
//! changes nothing.

use super::Request;
use anyhow::Context as _;
use nix::libc;
use nix::unistd::{Gid, Group, chown};
use std::fs::{Permissions, set_permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use tokio::net::UnixStream;

/// The group whose members may ask for the state, such as users that monitor the node. If the machine has no such
/// group, nobody else may.
pub(crate) const GROUP: &str = "arp-agent";

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything: root, and the agent's own user.
    Full,
    /// What changes nothing: members of [`GROUP`].
    Read,
    /// Nothing.
    None,
}

impl Access {
    /// What the other end of a connection may ask.
    ///
    /// # Errors
    /// The kernel does not say who that is.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        if [ROOT, own_user()].contains(&peer.uid()) {
            return Ok(Access::Full);
        }
        let Some(group) = group() else { return Ok(Access::None) };
        let is_member = peer.gid() == group.as_raw() || groups(stream)?.contains(&group.as_raw());
        Ok(if is_member { Access::Read } else { Access::None })
    }

    /// Why a request is refused, if it is.
    pub(super) fn refusal(self, request: &Request) -> Option<String> {
        let reads = match request {
            Request::Status
            | Request::Figures
            | Request::Events { .. }
            | Request::Explain { run_program: false, .. } => true,
            // They make the agent, or the program, do something.
            Request::Sync | Request::Reload | Request::Trace(_) | Request::Explain { run_program: true, .. } => false,
        };
        match self {
            Access::Full => None,
            Access::Read if reads => None,
            Access::Read => Some("permission denied: only root and the agent's own user may ask for this".to_owned()),
            Access::None => Some(format!(
                "permission denied: only root, the agent's own user and the group {GROUP} may use the control socket"
            )),
        }
    }
}

const ROOT: u32 = 0;

/// The user that this process acts as.
pub(super) fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Opens a file or directory of the agent's to [`GROUP`], if there is one; else it stays for this user alone.
///
/// # Errors
/// Its mode cannot be changed.
pub(super) fn restrict(path: &Path, alone: u32, with_group: u32) -> anyhow::Result<()> {
    let mode = match group().map(|group| give(path, group)) {
        Some(Ok(())) => with_group,
        Some(Err(error)) => {
            log::warn!(
                "{}: it cannot be given to the group {GROUP}, whose members have no access: {error}",
                path.display()
            );
            alone
        }
        None => alone,
    };
    set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("{}: its mode cannot be changed to {mode:04o}", path.display()))
}

/// Gives a file to a group, unless it has it: to change it may be forbidden, as under systemd's `Group=` it need not be.
fn give(path: &Path, group: Gid) -> io::Result<()> {
    if path.metadata()?.gid() == group.as_raw() {
        return Ok(());
    }
    Ok(chown(path, None, Some(group))?)
}

fn group() -> Option<Gid> {
    match Group::from_name(GROUP) {
        Ok(group) => group.map(|group| group.gid),
        Err(error) => {
            log::debug!("the group {GROUP} cannot be looked up: {error}");
            None
        }
    }
}

/// The supplementary groups of the process at the other end, as they were when it connected (SO_PEERGROUPS, Linux 4.13).
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // `NGROUPS_MAX` (include/uapi/linux/limits.h) would be 256 KiB; the kernel says how many there are.
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        let (socket, at) = (stream.as_raw_fd(), groups.as_mut_ptr().cast());
        // SAFETY: the pointers are to what lives until the call is over, and `length` is the size of `groups` in bytes.
        let result = unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERGROUPS, at, &raw mut length) };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Then `length` says how much room it takes.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Question;
    use crate::trace::filter::Filter;
    use arp_common::Lladdr;
    use std::net::Ipv4Addr;

    #[test]
    fn the_group_may_only_read() {
        let explain = |run_program| {
            let question = Question {
                interface: "cali0".into(),
                ifindex: 7,
                target: Ipv4Addr::LOCALHOST,
                sender: Ipv4Addr::LOCALHOST,
                sender_mac: Lladdr::new([0; 6]),
                destination: None,
            };
            Request::Explain { question, run_program }
        };
        let may = |access: Access| {
            [
                Request::Status,
                Request::Figures,
                Request::Events { follow: true },
                explain(false),
                explain(true),
                Request::Sync,
                Request::Reload,
                Request::Trace(Filter::default()),
            ]
            .map(|ask| access.refusal(&ask).is_none())
        };
        assert_eq!(may(Access::Full), [true; 8]);
        assert_eq!(may(Access::Read), [true, true, true, true, false, false, false, false]);
        assert_eq!(may(Access::None), [false; 8]);
    }
}
