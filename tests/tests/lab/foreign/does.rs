//! What foreign programs do with a frame, written out instruction by instruction.

use anyhow::Result;
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// One instruction: `struct bpf_insn`.
type Insn = [u8; 8];

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
    [code, src << 4 | dst, o0, o1, i0, i1, i2, i3]
}

const fn set(register: u8, value: i32) -> Insn {
    insn(0xb7, register, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> Insn {
    insn(0xbf, to, from, 0, 0)
}

const fn call(helper: i32) -> Insn {
    insn(0x85, 0, 0, 0, helper)
}

const EXIT: Insn = insn(0x95, 0, 0, 0, 0);
/// The register that keeps the context.
const CTX: u8 = 6;
const FRAME_POINTER: u8 = 10;

/// TC_ACT_*, which tcx calls TCX_*; UNSPEC is its NEXT: on to the next program.
pub(crate) const UNSPEC: i32 = -1;
pub(crate) const OK: i32 = 0;
pub(crate) const RECLASSIFY: i32 = 1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const PIPE: i32 = 3;
pub(crate) const STOLEN: i32 = 4;
pub(crate) const QUEUED: i32 = 5;
pub(crate) const TRAP: i32 = 8;

/// What a foreign program does with a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Nothing.
    Nothing,
    /// It drops ARP.
    DropArp,
    /// It returns this for ARP.
    Return(i32),
    /// It sets the mark.
    Mark(i32),
    /// It puts an 802.1Q tag of this id beside the frame.
    Tag(i32),
    /// It writes whatever a program may write beside an ARP frame.
    Smear,
    /// It says of ARP that it came for somebody of this kind (PACKET_*).
    ChangeType(i32),
    /// It sends ARP out of this interface.
    Redirect(i32),
    /// It appends to ARP frames what a program can read beside them, as far as it is the frame's own.
    Record,
    /// It appends where ARP frames came in: `ingress_ifindex` and `napi_id`.
    RecordIngress,
}

/// Fields of `struct __sk_buff` (include/uapi/linux/bpf.h).
mod field {
    pub(super) const PKT_TYPE: i16 = 4;
    pub(super) const MARK: i16 = 8;
    pub(super) const QUEUE_MAPPING: i16 = 12;
    pub(super) const PROTOCOL: i16 = 16;
    pub(super) const VLAN_PRESENT: i16 = 20;
    pub(super) const VLAN_TCI: i16 = 24;
    pub(super) const PRIORITY: i16 = 32;
    pub(super) const INGRESS_IFINDEX: i16 = 36;
    pub(super) const IFINDEX: i16 = 40;
    pub(super) const TC_INDEX: i16 = 44;
    pub(super) const CB: [i16; 5] = [48, 52, 56, 60, 64];
    pub(super) const HASH: i16 = 68;
    pub(super) const TC_CLASSID: i16 = 72;
    pub(super) const NAPI_ID: i16 = 84;
    /// Of 8 bytes.
    pub(super) const TSTAMP: i16 = 152;
    pub(super) const WIRE_LEN: i16 = 160;
    pub(super) const GSO_SEGS: i16 = 164;
    pub(super) const GSO_SIZE: i16 = 176;
}

impl Does {
    fn instructions(self) -> Vec<Insn> {
        use field::*;
        const SET_HASH: i32 = 48;
        const CHANGE_TYPE: i32 = 32;
        const REDIRECT: i32 = 23;
        const VLAN_PUSH: i32 = 18;
        let body = match self {
            Does::Nothing => vec![set(0, UNSPEC)],
            Does::DropArp => return for_arp(vec![set(0, SHOT)]),
            Does::Return(code) => return for_arp(vec![set(0, code)]),
            Does::Mark(mark) => vec![set(2, mark), store(MARK), set(0, UNSPEC)],
            Does::Tag(id) => {
                vec![set(2, i32::from(0x8100_u16.to_be())), set(3, id), copy(1, CTX), call(VLAN_PUSH), set(0, OK)]
            }
            Does::Smear => {
                let mut body = Vec::new();
                for field in [MARK, PRIORITY, QUEUE_MAPPING, TC_INDEX, TC_CLASSID].into_iter().chain(CB) {
                    // Small enough for each, and another one for each.
                    body.extend([set(2, 1 + i32::from(field) / 4), store(field)]);
                }
                body.extend([set(2, 0x1234_5678), insn(0x7b, CTX, 2, TSTAMP, 0)]);
                body.extend([copy(1, CTX), set(2, 0x0bad_cafe), call(SET_HASH), set(0, UNSPEC)]);
                body
            }
            Does::ChangeType(kind) => {
                return for_arp(vec![copy(1, CTX), set(2, kind), call(CHANGE_TYPE), set(0, UNSPEC)]);
            }
            Does::Redirect(ifindex) => return for_arp(vec![set(1, ifindex), set(2, 0), call(REDIRECT)]),
            Does::Record => {
                let fields = [
                    PKT_TYPE,
                    MARK,
                    QUEUE_MAPPING,
                    PROTOCOL,
                    VLAN_PRESENT,
                    VLAN_TCI,
                    PRIORITY,
                    IFINDEX,
                    TC_INDEX,
                    HASH,
                    TC_CLASSID,
                    WIRE_LEN,
                    GSO_SEGS,
                    GSO_SIZE,
                ];
                return record(&[fields.as_slice(), &CB].concat(), &[TSTAMP]);
            }
            Does::RecordIngress => return record(&[INGRESS_IFINDEX, NAPI_ID], &[]),
        };
        [vec![copy(CTX, 1)], body, vec![EXIT]].concat()
    }

    /// An object file with the one program `foreign`.
    pub(super) fn object(self) -> Result<Vec<u8>> {
        object(b"classifier", &self.instructions())
    }
}

/// The same by XDP: it drops ARP.
pub(super) fn xdp_object() -> Result<Vec<u8>> {
    const DROP: i32 = 1;
    const PASS: i32 = 2;
    const ETHERNET_HEADER: i32 = 14;
    let instructions = [
        set(0, PASS),
        insn(0x61, 2, 1, 0, 0), // r2 = xdp->data
        insn(0x61, 3, 1, 4, 0), // r3 = xdp->data_end
        copy(4, 2),
        insn(0x07, 4, 0, 0, ETHERNET_HEADER),
        insn(0x2d, 4, 3, 3, 0),  // to the end if it is longer than the frame
        insn(0x69, 2, 2, 12, 0), // r2 = the EtherType
        insn(0x55, 2, 0, 1, i32::from(0x0806_u16.to_be())), // skip one unless it is ARP
        set(0, DROP),
        EXIT,
    ];
    object(b"xdp", &instructions)
}

/// An object file with the one program `foreign`.
fn object(section: &[u8], instructions: &[Insn]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let code = object.add_section(Vec::new(), section.to_vec(), SectionKind::Text);
    let code_bytes = instructions.concat();
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

/// Register 2 into a field of 4 bytes.
const fn store(field: i16) -> Insn {
    insn(0x63, CTX, 2, field, 0)
}

/// The body, which leaves its result in register 0, for ARP frames alone.
fn for_arp(body: Vec<Insn>) -> Vec<Insn> {
    let is_arp = vec![
        copy(CTX, 1),
        insn(0x61, 2, CTX, field::PROTOCOL, 0), // r2 = skb->protocol
        set(0, UNSPEC),
        insn(0x15, 2, 0, 1, i32::from(0x0806_u16.to_be())), // skip one if it is ARP
        EXIT,
    ];
    [is_arp, body, vec![EXIT]].concat()
}

/// Appends fields of 4 and of 8 bytes to an ARP frame.
fn record(words: &[i16], long_words: &[i16]) -> Vec<Insn> {
    const CHANGE_TAIL: i32 = 38;
    const STORE_BYTES: i32 = 9;
    /// Of an ARP frame.
    const LEN: i32 = 42;
    let size = (4 * words.len() + 8 * long_words.len()).next_multiple_of(8) as i16;
    let mut body = Vec::new();
    // All of the stack that is appended is written.
    body.extend([set(2, 0), insn(0x7b, FRAME_POINTER, 2, -8, 0)]);
    let mut at = -size;
    for &field in long_words {
        body.extend([insn(0x79, 2, CTX, field, 0), insn(0x7b, FRAME_POINTER, 2, at, 0)]);
        at += 8;
    }
    for &field in words {
        body.extend([insn(0x61, 2, CTX, field, 0), insn(0x63, FRAME_POINTER, 2, at, 0)]);
        at += 4;
    }
    let size = i32::from(size);
    body.extend([copy(1, CTX), set(2, LEN + size), set(3, 0), call(CHANGE_TAIL)]);
    body.extend([
        copy(1, CTX),
        set(2, LEN),
        copy(3, FRAME_POINTER),
        insn(0x07, 3, 0, 0, -size),
        set(4, size),
        set(5, 0),
    ]);
    body.extend([call(STORE_BYTES), set(0, UNSPEC)]);
    for_arp(body)
}
