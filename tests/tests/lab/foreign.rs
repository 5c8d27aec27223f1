//! Somebody else's doings on the node: tiny tc programs, and what no command can ask the kernel for.

pub(crate) mod does;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, TcAttachType};
use aya::programs::{SchedClassifier, Xdp, XdpMode, loaded_links};
pub(crate) use does::Does;
use lab::{Namespace, kernel_is_since};

/// Where a foreign program is put.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Before all others of tcx.
    First,
    /// After all others of tcx, as it is put if nobody says where.
    Last,
    /// A filter of this priority.
    Filter(u16),
}

/// A foreign program on an interface; gone when dropped.
pub(crate) struct TcProgram {
    object: Ebpf,
    link: Option<SchedClassifierLinkId>,
    namespace: Namespace,
}

impl TcProgram {
    /// After all others; where the kernel has no tcx, as a filter.
    pub(crate) fn attach(namespace: &Namespace, interface: &str, direction: TcAttachType, does: Does) -> Result<Self> {
        let place = if kernel_is_since(6, 6) { Place::Last } else { Place::Filter(0) };
        Self::attach_at(namespace, interface, direction, place, does)
    }

    pub(crate) fn attach_at(
        namespace: &Namespace,
        interface: &str,
        direction: TcAttachType,
        place: Place,
        does: Does,
    ) -> Result<Self> {
        let attached = namespace.run(|| -> Result<_> {
            let mut object = Ebpf::load(&does.object()?)?;
            let program: &mut SchedClassifier =
                object.program_mut("foreign").context("the object has no program")?.try_into()?;
            program.load()?;
            let options = match place {
                Place::First => TcAttachOptions::TcxOrder(LinkOrder::first()),
                Place::Last => TcAttachOptions::TcxOrder(LinkOrder::last()),
                Place::Filter(priority) => {
                    // There may be one already; if there is none, attaching says so.
                    let _ = tc::qdisc_add_clsact(interface);
                    TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
                }
            };
            let link = program.attach_with_options(interface, direction, options)?;
            Ok((object, link))
        })?;
        let (object, link) = attached.with_context(|| format!("attaching a foreign program that does {does:?}"))?;
        Ok(TcProgram { object, link: Some(link), namespace: namespace.clone() })
    }
}

impl Drop for TcProgram {
    fn drop(&mut self) {
        let (object, link) = (&mut self.object, self.link.take());
        // Without tcx it is a filter, which goes away in its own namespace only; that goes with the lab.
        let _ = self.namespace.run(|| -> Result<()> {
            let program: &mut SchedClassifier = object.program_mut("foreign").context("gone")?.try_into()?;
            Ok(link.map_or(Ok(()), |link| program.detach(link))?)
        });
    }
}

/// Has an XDP program drop the ARP frames of an interface, on socket buffers, until what is given is dropped.
pub(crate) fn drop_arp_by_xdp(namespace: &Namespace, interface: &str) -> Result<Ebpf> {
    let attached = namespace.run(|| -> Result<_> {
        let mut object = Ebpf::load(&does::xdp_object()?)?;
        let program: &mut Xdp = object.program_mut("foreign").context("the object has no program")?.try_into()?;
        program.load()?;
        program.attach(interface, XdpMode::Skb)?;
        Ok(object)
    })?;
    attached.context("attaching a foreign XDP program")
}

/// Takes the BPF link by which a program is on an interface away from it; its owner is not told.
pub(crate) fn detach(program: u32) -> Result<()> {
    /// BPF_LINK_GET_FD_BY_ID, BPF_LINK_DETACH (include/uapi/linux/bpf.h).
    const FD_BY_ID: i32 = 30;
    const DETACH: i32 = 34;
    // SAFETY: of `union bpf_attr` both commands read a link and flags, and no pointer.
    let bpf = |command: i32, link: u32| match unsafe {
        libc::syscall(libc::SYS_bpf, command, [link, 0, 0].as_ptr(), size_of::<[u32; 3]>())
    } {
        result if result < 0 => Err(io::Error::last_os_error()),
        result => Ok(result),
    };
    let links = loaded_links().filter_map(Result::ok);
    let link = links.into_iter().find(|link| link.program_id() == program).context("no link has that program")?;
    let link = RawFd::try_from(bpf(FD_BY_ID, link.id()).context("opening the link")?)?;
    // SAFETY: it was just opened for us.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    bpf(DETACH, link.as_raw_fd().cast_unsigned()).context("detaching the link").map(drop)
}
