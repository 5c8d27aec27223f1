//! A test of the eBPF object: no program reads a stack slot that it has not written on every path to that read.
//!
//! The kernel allows such a read only to CAP_PERFMON (`bpf_allow_uninit_stack`, include/linux/bpf.h, 6.18), and some
//! kernels to nobody. The compiler creates such a read where a value exists on one branch only and is kept after the
//! branches meet.

use super::bpf::OBJECT;
use aya_obj::generated::bpf_insn;
use std::collections::BTreeMap;

/// The frame pointer, and how far below it a program may go (`MAX_BPF_STACK`, include/linux/filter.h).
const FRAME_POINTER: usize = 10;
const DEPTH: i64 = 512;

/// What is known at one place of a program, on every path to it.
#[derive(Clone, PartialEq)]
struct Known {
    /// Whether each byte of the stack has been written, the deepest first.
    written: [bool; DEPTH as usize],
    /// Where each register points to in the stack, as an offset from the frame pointer.
    points: [Option<i64>; 11],
}

impl Known {
    fn at_the_entry() -> Self {
        let mut points = [None; 11];
        points[FRAME_POINTER] = Some(0);
        Known { written: [false; DEPTH as usize], points }
    }

    fn joined(&self, other: &Self) -> Self {
        let mut joined = self.clone();
        joined.written.iter_mut().zip(other.written).for_each(|(here, there)| *here &= there);
        for (here, there) in joined.points.iter_mut().zip(other.points) {
            *here = here.filter(|_| *here == there);
        }
        joined
    }

    /// The bytes of `len` from `offset` of what register `register` points to.
    fn bytes(&mut self, register: usize, offset: i16, len: usize) -> Option<&mut [bool]> {
        let start = usize::try_from(DEPTH + self.points[register]? + i64::from(offset)).ok()?;
        self.written.get_mut(start..start + len)
    }
}

/// Executes one instruction on what is known: says whether it reads unwritten bytes, and where the program may go on.
fn step(insn: &bpf_insn, next: Option<&bpf_insn>, known: &mut Known) -> (bool, Vec<i64>) {
    let (class, mode) = (insn.code & 0x07, insn.code & 0xe0);
    let (dst, src) = (usize::from(insn.dst_reg()), usize::from(insn.src_reg()));
    let len = [4, 2, 1, 8][usize::from(insn.code >> 3 & 3)];
    match class {
        // BPF_LD: only the load of a constant in two instructions is left in use.
        0 => {
            assert!(next.is_some(), "half a constant");
            known.points[dst] = None;
            (false, vec![2])
        }
        // BPF_LDX
        1 => {
            let unwritten = known.bytes(src, insn.off, len).is_some_and(|bytes| bytes.contains(&false));
            known.points[dst] = None;
            (unwritten, vec![1])
        }
        // BPF_ST, BPF_STX; an atomic addition (BPF_ATOMIC) is none to the stack.
        2 | 3 => {
            if let Some(bytes) = known.bytes(dst, insn.off, len) {
                assert_ne!(mode, 0xc0, "an atomic addition to the stack");
                bytes.fill(true);
            }
            (false, vec![1])
        }
        // BPF_ALU64: only constants are added to pointers.
        7 => {
            known.points[dst] = match insn.code {
                0x07 => known.points[dst].map(|offset| offset + i64::from(insn.imm)),
                0xbf => known.points[src],
                _ => None,
            };
            (false, vec![1])
        }
        // BPF_ALU
        4 => {
            known.points[dst] = None;
            (false, vec![1])
        }
        // BPF_JMP, BPF_JMP32
        _ => match insn.code {
            0x95 => (false, vec![]),
            // Who is called may fill what it is given a pointer to; how much of it, is not followed here.
            0x85 => {
                for argument in 1..=5 {
                    if let Some(offset) = known.points[argument] {
                        known.written[(DEPTH + offset) as usize..].fill(true);
                    }
                }
                known.points[..=5].fill(None);
                (false, vec![1])
            }
            0x05 => (false, vec![1 + i64::from(insn.off)]),
            _ => (false, vec![1, 1 + i64::from(insn.off)]),
        },
    }
}

/// The instructions that read bytes not written on every path to them, each with the offset from the frame pointer.
fn unwritten_reads(instructions: &[bpf_insn]) -> Vec<(usize, i16)> {
    let mut known = BTreeMap::from([(0, Known::at_the_entry())]);
    let mut open = vec![0_usize];
    let mut reads = BTreeMap::new();
    while let Some(at) = open.pop() {
        let insn = &instructions[at];
        let mut here = known[&at].clone();
        let (unwritten, ways) = step(insn, instructions.get(at + 1), &mut here);
        if unwritten {
            reads.insert(at, insn.off);
        }
        for way in ways {
            let to = usize::try_from(at as i64 + way).expect("a jump inside the program");
            let joined = known.get(&to).map_or_else(|| here.clone(), |there| there.joined(&here));
            if known.get(&to) != Some(&joined) {
                known.insert(to, joined);
                open.push(to);
            }
        }
    }
    reads.into_iter().collect()
}

#[test]
fn no_program_reads_stack_that_it_has_not_written() {
    let object = aya_obj::Object::parse(OBJECT).unwrap();
    let mut programs = 0;
    for function in object.functions.values() {
        let reads = unwritten_reads(&function.instructions);
        assert!(reads.is_empty(), "{}: instruction and offset of each read: {reads:?}", function.name);
        programs += 1;
    }
    assert!(programs >= 8, "the object has {programs} programs");
}
