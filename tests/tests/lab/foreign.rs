//! Somebody else's doings on the node: tiny tc programs, written out instruction by instruction, and what no command can ask
//! the kernel for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::tc::{self, SchedClassifierLinkId, TcAttachType};
use aya::programs::{SchedClassifier, loaded_links};
use lab::{Namespace, kernel_is_since};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// One instruction: `struct bpf_insn`.
const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
    [code, src << 4 | dst, o0, o1, i0, i1, i2, i3]
}

const fn set(register: u8, value: i32) -> [u8; 8] {
    insn(0xb7, register, 0, 0, value)
}

const EXIT: [u8; 8] = insn(0x95, 0, 0, 0, 0);

/// TC_ACT_UNSPEC, which tcx calls TCX_NEXT: on to the next program.
const NEXT: i32 = -1;
/// TC_ACT_OK.
const OK: i32 = 0;
/// TC_ACT_SHOT.
const SHOT: i32 = 2;

/// What a foreign program does with a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Nothing.
    Nothing,
    /// It drops ARP.
    DropArp,
    /// It sets the mark.
    Mark(i32),
    /// It puts an 802.1Q tag of this id beside the frame.
    Tag(i32),
}

impl Does {
    fn instructions(self) -> Vec<[u8; 8]> {
        // Fields of struct __sk_buff.
        const MARK: i16 = 8;
        const PROTOCOL: i16 = 16;
        const SKB_VLAN_PUSH: i32 = 18;
        match self {
            Does::Nothing => vec![set(0, NEXT), EXIT],
            Does::DropArp => vec![
                insn(0x61, 2, 1, PROTOCOL, 0), // r2 = skb->protocol
                set(0, NEXT),
                insn(0x55, 2, 0, 1, i32::from(0x0806_u16.to_be())), // skip one unless it is ARP
                set(0, SHOT),
                EXIT,
            ],
            Does::Mark(mark) => vec![set(2, mark), insn(0x63, 1, 2, MARK, 0), set(0, NEXT), EXIT],
            Does::Tag(id) => vec![
                set(2, i32::from(0x8100_u16.to_be())),
                set(3, id),
                insn(0x85, 0, 0, 0, SKB_VLAN_PUSH),
                set(0, OK),
                EXIT,
            ],
        }
    }

    /// An object file with the one program `foreign`.
    fn object(self) -> Result<Vec<u8>> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let code = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
        let code_bytes = self.instructions().concat();
        object.append_section_data(code, &code_bytes, 8);
        object.add_symbol(Symbol {
            name: b"foreign".to_vec(),
            value: 0,
            size: code_bytes.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(code),
            flags: SymbolFlags::None,
        });
        let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
        object.append_section_data(license, b"GPL\0", 1);
        Ok(object.write()?)
    }
}

/// A foreign program on an interface; gone when dropped. Where the kernel has tcx it is attached by it, else as a filter of
/// clsact.
pub(crate) struct TcProgram {
    object: Ebpf,
    link: Option<SchedClassifierLinkId>,
    namespace: Namespace,
}

impl TcProgram {
    pub(crate) fn attach(namespace: &Namespace, interface: &str, direction: TcAttachType, does: Does) -> Result<Self> {
        let attached = namespace.run(|| -> Result<_> {
            let mut object = Ebpf::load(&does.object()?)?;
            let program: &mut SchedClassifier =
                object.program_mut("foreign").context("the object has no program")?.try_into()?;
            program.load()?;
            if !kernel_is_since(6, 6) {
                // Ours may be there already; if there is none, attaching says so.
                let _ = tc::qdisc_add_clsact(interface);
            }
            let link = program.attach(interface, direction)?;
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
