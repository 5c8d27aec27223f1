//! Two system calls of bpf(2) that aya does not offer as they are needed here: often, for many interfaces, by index.

use aya_obj::generated::{bpf_attach_type, bpf_cmd};
use nix::libc;
use std::io;

/// Most programs in one direction of an interface (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MOST: usize = 64;

/// The BPF link with the next higher identifier than `id`; the kernel gives out one after the other. `None` if there is
/// none, and if the question is refused (it takes CAP_SYS_ADMIN).
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
    let pair = |low: u32, high: u32| {
        let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
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

/// bpf(2).
///
/// # Safety
/// What pointers there are in `attributes` must be to as much memory as the command reads or writes.
unsafe fn bpf<T: Copy>(command: bpf_cmd, attributes: &mut [T]) -> io::Result<()> {
    // SAFETY: the kernel reads and writes as many bytes of `attributes` as are said; the rest is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
