//! bpf(2) commands that aya does not offer in the form needed here: cheap queries for many interfaces by index, and
//! links that say their interface and can be updated, pinned and found again one by one.

use crate::dataplane::HookKind;
use aya_obj::generated::bpf_attach_type::{BPF_TCX_INGRESS, BPF_XDP};
use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_cmd, bpf_link_type,
};
use nix::libc;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// The most programs in one direction of an interface (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MOST: usize = 64;

/// A BPF link: it ties a program to an interface. Dropping it closes the descriptor. Unless the link is pinned, that
/// detaches the program; with tcx this waits a grace period under the RTNL lock.
#[derive(Debug)]
pub(crate) struct HookLink(OwnedFd);

/// The program and the interface of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tied {
    /// The identifier of the program.
    pub program: u32,
    /// The interface; 0 once it is gone.
    pub ifindex: u32,
}

impl HookLink {
    /// Attaches a program to an interface. By tcx it runs after the programs that are there already, so that they see
    /// frames first as before. tcx waits a grace period under the RTNL lock.
    ///
    /// # Errors
    /// The kernel refuses: it has no tcx (EINVAL), the XDP slot is taken (EBUSY), or the driver has no XDP.
    pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, how: HookKind) -> io::Result<Self> {
        let (attach, flags) = match how {
            HookKind::Tcx | HookKind::Clsact => (BPF_TCX_INGRESS, BPF_F_AFTER),
            HookKind::XdpSkb => (BPF_XDP, XDP_FLAGS_SKB_MODE),
            HookKind::XdpDriver | HookKind::XdpVeth => (BPF_XDP, XDP_FLAGS_DRV_MODE),
        };
        Self::create(program, ifindex, attach, flags)
    }

    /// Attaches a program to an interface by tcx, after those that are there already.
    ///
    /// # Errors
    /// As for [`HookLink::attach`].
    pub(super) fn attach_last(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<Self> {
        Self::attach(program, ifindex, HookKind::Tcx)
    }

    /// Attaches a program to an interface by tcx, before those that are there already.
    ///
    /// # Errors
    /// As for [`HookLink::attach`].
    pub(super) fn attach_first(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<Self> {
        Self::create(program, ifindex, BPF_TCX_INGRESS, BPF_F_BEFORE)
    }

    fn create(program: BorrowedFd<'_>, ifindex: u32, attach: bpf_attach_type, flags: u32) -> io::Result<Self> {
        // Of `union bpf_attr`: prog_fd, target_ifindex, attach_type, flags; relative_fd, padding, expected_revision.
        let mut attributes = [program.as_raw_fd().cast_unsigned(), ifindex, attach as u32, flags, 0, 0, 0, 0];
        // SAFETY: without pointers in them.
        let descriptor = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }?;
        // SAFETY: it was just opened for us.
        Ok(HookLink(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Replaces the link's program. Each frame meets the old one or the new one.
    ///
    /// # Errors
    /// ENOLINK if the interface is gone.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        // link_fd, new_prog_fd, flags, old_prog_fd.
        let mut attributes = [self.0.as_raw_fd(), program.as_raw_fd(), 0, 0];
        // SAFETY: without pointers in them.
        unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attributes) }.map(drop)
    }

    /// The link's program and interface.
    ///
    /// # Errors
    /// The kernel does not say, or it is not a link of XDP or tcx.
    pub(super) fn tied(&self) -> io::Result<Tied> {
        const TYPES: [u32; 2] = [bpf_link_type::BPF_LINK_TYPE_XDP as u32, bpf_link_type::BPF_LINK_TYPE_TCX as u32];
        // Of `struct bpf_link_info`: type, id, prog_id, padding; of an XDP or a tcx link, its ifindex, and more.
        let mut info = [0_u32; 16];
        // bpf_fd, info_len, info.
        let (address, length) = (info.as_mut_ptr().expose_provenance() as u64, size_of_val(&info) as u32);
        let mut attributes = [pair(self.0.as_raw_fd().cast_unsigned(), length), address];
        // SAFETY: the one pointer is to as many bytes as are said, which live until the call is over.
        unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
        if !TYPES.contains(&info[0]) {
            return Err(io::Error::other("a BPF link of another kind than XDP's and tcx's"));
        }
        Ok(Tied { program: info[2], ifindex: info[4] })
    }

    /// Pins the link: it stays when its descriptors are closed.
    ///
    /// # Errors
    /// The path is not on a bpffs, or may not be written.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // pathname, bpf_fd, file_flags.
        let mut attributes = [path.as_ptr().expose_provenance() as u64, pair(self.0.as_raw_fd().cast_unsigned(), 0)];
        // SAFETY: the one pointer is to a string, which lives until the call is over.
        unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
    }

    /// Opens a pinned link.
    ///
    /// # Errors
    /// There is none at this path, or it may not be opened.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = [path.as_ptr().expose_provenance() as u64, 0];
        // SAFETY: the one pointer is to a string, which lives until the call is over.
        let descriptor = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attributes) }?;
        // SAFETY: it was just opened for us.
        Ok(HookLink(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }
}

/// The cookie of the calling thread's network namespace: unique until the machine restarts.
///
/// # Errors
/// Before Linux 5.14 the kernel does not say.
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let (at, length) = ((&raw mut cookie).cast(), &raw mut length);
    // SAFETY: both pointers are to what lives until the call is over, and the length is the first one's.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, at, length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Whether the kernel has tcx (Linux 6.6). Queries `lo`, which every network namespace has.
pub(crate) fn knows_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    match tcx_programs(LOOPBACK, BPF_TCX_INGRESS) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(libc::EINVAL),
    }
}

/// The identifier of the next BPF link after `id`; the kernel numbers links in the order of creation. `None` if there
/// is none, or if the query is refused (it needs CAP_SYS_ADMIN).
pub(super) fn link_after(id: u32) -> Option<u32> {
    // Of `union bpf_attr`: start_id, next_id, open_flags (include/uapi/linux/bpf.h).
    let mut attributes = [id, 0, 0];
    // SAFETY: without pointers in them.
    unsafe { bpf(bpf_cmd::BPF_LINK_GET_NEXT_ID, &mut attributes) }.ok()?;
    Some(attributes[1])
}

/// The identifiers of the tcx programs of an interface of this network namespace in one direction.
///
/// # Errors
/// EINVAL before Linux 6.6, which has no tcx; ENODEV if there is no such interface; EPERM.
pub(super) fn tcx_programs(ifindex: u32, direction: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MOST];
    // Of `union bpf_attr`: target_ifindex and attach_type, query_flags and attach_flags, prog_ids, count and padding,
    // prog_attach_flags, link_ids, link_attach_flags, revision.
    let mut attributes = [0_u64; 8];
    attributes[0] = pair(ifindex, direction as u32);
    attributes[2] = programs.as_mut_ptr().expose_provenance() as u64;
    attributes[3] = pair(MOST as u32, 0);
    // SAFETY: the one pointer is to as many words as are said, which live until the call is over.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attributes) }?;
    Ok(programs.into_iter().take_while(|&id| id != 0).collect())
}

/// Two fields of `union bpf_attr`, the lower one first.
fn pair(low: u32, high: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// bpf(2). Gives the call's result: a descriptor if the command opens one.
///
/// # Safety
/// Each pointer in `attributes` must point to as much memory as the command reads or writes.
unsafe fn bpf<T: Copy>(command: bpf_cmd, attributes: &mut [T]) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes as many bytes of `attributes` as are said; the rest is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}
