//! Where the kernel keeps what the sysctl hook and the unresolved-budget follow: offsets of members, from the kernel's own description of its types
//! (Documentation/bpf/btf.rst).

use anyhow::{Context as _, Result, anyhow, bail};
use arp_common::settings::NETNS_WAY;
use arp_common::unresolved::TABLE_WAY;
use aya_obj::generated::BTF_KIND_STRUCT;
use memmap2::MmapMut;
use std::fs::File;
use std::io::Read as _;

/// The running kernel's types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The first two bytes of such a description, in the machine's byte order: `BTF_MAGIC` (include/uapi/linux/btf.h).
const MAGIC: u16 = 0xeb9f;

/// Where the members of [`NETNS_WAY`] lie, in bytes.
///
/// # Errors
/// The kernel was built without the description, or has no such member.
pub(super) fn netns_offsets() -> Result<[u32; NETNS_WAY.len()]> {
    let btf = read().with_context(|| format!("reading {BTF} failed"))?;
    offsets(&btf, &NETNS_WAY)
        .with_context(|| format!("{BTF} does not give the way from a setting to its network namespace"))
}

/// The same for the members of [`TABLE_WAY`].
///
/// # Errors
/// As there.
pub(super) fn table_offsets() -> Result<[u32; TABLE_WAY.len()]> {
    let btf = read().with_context(|| format!("reading {BTF} failed"))?;
    offsets(&btf, &TABLE_WAY).with_context(|| format!("{BTF} does not describe the neighbour table"))
}

/// The whole description, in a mapping of its own: on the heap, its few megabytes would stay with the process for good.
fn read() -> Result<MmapMut> {
    let mut file = File::open(BTF)?;
    let len = usize::try_from(file.metadata()?.len())?;
    let mut btf = MmapMut::map_anon(len)?;
    file.read_exact(&mut btf)?;
    Ok(btf)
}

/// The offsets of members, each of a structure by its name.
///
/// Walks over the description once and keeps nothing. (aya's BTF type offers no access to members.)
fn offsets<const N: usize>(btf: &[u8], members: &[(&str, &str); N]) -> Result<[u32; N]> {
    let mut header = Bytes(btf);
    if header.u16()? != MAGIC {
        bail!("no BTF header");
    }
    header.take(2)?;
    let body = header.u32()?;
    let [types_at, types_len, strings_at, strings_len] = [header.u32()?, header.u32()?, header.u32()?, header.u32()?];
    let body = Bytes(btf).skip(body)?;
    let mut types = Bytes(body.skip(types_at)?.take(types_len as usize)?);
    let strings = Bytes(body.skip(strings_at)?.take(strings_len as usize)?);
    let is = |name: u32, text: &str| {
        let rest = strings.skip(name).map_or(&[][..], |rest| rest.0);
        rest.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    };

    let mut found = [None; N];
    while !types.0.is_empty() {
        let [name, info, _size] = [types.u32()?, types.u32()?, types.u32()?];
        let (kind, count) = ((info >> 24) & 0x1f, info & 0xffff);
        let rest = match kind {
            // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags: nothing.
            2 | 7..=12 | 16 | 18 => 0,
            // Integers, variables, declaration tags.
            1 | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            // Structures and unions, data sections, 64-bit enumerations.
            BTF_KIND_STRUCT | 5 | 15 | 19 => 12 * count,
            // Enumerations, function prototypes.
            6 | 13 => 8 * count,
            _ => bail!("unknown kind of type {kind}"),
        };
        let mut rest = Bytes(types.take(rest as usize)?);
        if kind != BTF_KIND_STRUCT || !members.iter().any(|(structure, _)| is(name, structure)) {
            continue;
        }
        for _ in 0..count {
            let [member, _type, offset] = [rest.u32()?, rest.u32()?, rest.u32()?];
            // With the flag, the upper 8 bits are the width of a bit-field.
            let bits = if info >> 31 == 0 { offset } else { offset & 0xff_ffff };
            for ((structure, wanted), found) in members.iter().zip(&mut found) {
                // The first of a name: whether it is the right one, the hook shows (`sysctl::own_netns`).
                if found.is_none() && is(name, structure) && is(member, wanted) {
                    *found = Some(bits / 8);
                }
            }
        }
    }
    let mut offsets = [0; N];
    for ((offset, found), (structure, member)) in offsets.iter_mut().zip(found).zip(members) {
        *offset = found.ok_or_else(|| anyhow!("no {structure}.{member}"))?;
    }
    Ok(offsets)
}

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn skip(self, count: u32) -> Result<Self> {
        self.0.get(count as usize..).map(Bytes).context("truncated")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("truncated")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_ne_bytes(self.take(2)?.try_into()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_ne_bytes(self.take(4)?.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int`, `struct a { int x; int y; }`, `struct b { int x:3; int z; }` with the flag of bit-fields.
    fn description() -> Vec<u8> {
        let strings = b"\0int\0a\0x\0y\0b\0z\0";
        let (int, a, x, y, b, z) = (1, 5, 7, 9, 11, 13);
        let types: [u32; 22] = [
            int,
            1 << 24,
            4,
            32, //
            a,
            BTF_KIND_STRUCT << 24 | 2,
            8,
            x,
            1,
            0,
            y,
            1,
            32, //
            b,
            1 << 31 | BTF_KIND_STRUCT << 24 | 2,
            16,
            x,
            1,
            3 << 24,
            z,
            1,
            64,
        ];
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut btf = Vec::from(MAGIC.to_ne_bytes());
        btf.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            btf.extend(word.to_ne_bytes());
        }
        [btf, types, strings.to_vec()].concat()
    }

    #[test]
    fn members_are_found_by_name() {
        let found = offsets(&description(), &[("a", "x"), ("b", "z"), ("a", "y"), ("b", "x")]).unwrap();
        assert_eq!(found, [0, 8, 4, 0]);
    }

    #[test]
    fn what_is_not_there_or_cut_off_is_an_error_and_no_offset() {
        let btf = description();
        let error = offsets(&btf, &[("a", "z")]).unwrap_err();
        assert_eq!(error.to_string(), "no a.z");
        for len in 0..btf.len() {
            assert!(offsets(&btf[..len], &[("a", "y"), ("b", "z")]).is_err(), "{len} bytes");
        }
        let mut other = btf.clone();
        other[24 + 7] = 31;
        assert!(offsets(&other, &[("a", "x")]).is_err(), "a kind that nobody knows");
    }
}
