//! The binding: what the guard remembers of addresses that somebody else claims, and how their owner is asked. The claim
//! itself goes back as the question: no agent is needed for it, and nobody waits.

use crate::skb::make_fresh;
use crate::time::now;
use arp_common::binding::{CLAIMS as CLAIMS_LEN, Claim, ClaimFate, place_of};
use arp_common::maps::IfaceAddr;
use arp_common::{ArpFrame, Lladdr, PackedArp};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_store_bytes};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;

#[btf_map]
static CLAIMS: Array<Claim, { CLAIMS_LEN as usize }> = Array::new();

/// Notes that an address's owner has sent something: if it was asked, it is not silent.
#[inline(always)]
pub(crate) fn saw_owner(of: IfaceAddr) {
    let (key, place) = place_of(of);
    let Some(claim) = CLAIMS.get_ptr_mut(place) else { return };
    // SAFETY: aligned words of an array's element, which lives as long as the program. Other CPUs may write them, too: whoever
    // is the last has the owner asked again, at worst.
    unsafe {
        if (&raw const (*claim).key).read_volatile() == key {
            (&raw mut (*claim).seen).write_volatile(1);
        }
    }
}

/// What becomes of a frame that claims an address.
#[inline(always)]
pub(crate) fn next(of: IfaceAddr) -> ClaimFate {
    let (key, place) = place_of(of);
    let Some(claim) = CLAIMS.get_ptr_mut(place) else { return ClaimFate::Refuse };
    let now = now();
    // SAFETY: as in `saw_owner`.
    unsafe {
        let read = Claim {
            key: (&raw const (*claim).key).read_volatile(),
            asked: (&raw const (*claim).asked).read_volatile(),
            seen: (&raw const (*claim).seen).read_volatile(),
        };
        let next = read.next(key, now);
        if matches!(next, ClaimFate::Ask) {
            (&raw mut (*claim).seen).write_volatile(0);
            (&raw mut (*claim).asked).write_volatile(now);
            (&raw mut (*claim).key).write_volatile(key);
        }
        next
    }
}

/// Sends the question to an address's owner, in the place of the frame that claims it. `mac`: the interface's. Gives the
/// action; `None`: it could not be made.
#[inline(always)]
pub(crate) fn ask(ctx: &TcContext, ingress: u32, claim: &PackedArp, mac: Lladdr, owner: Lladdr) -> Option<i32> {
    let skb = ctx.skb.skb;
    if !replace(skb, &claim.probe_of_sender(mac, owner)) {
        return None;
    }
    make_fresh(skb);
    // SAFETY: a helper that takes numbers.
    Some(unsafe { bpf_redirect(ingress, 0) } as i32)
}

/// Puts a frame in the place of the one that is there; if it says that this failed, that one is as it was.
#[inline(always)]
#[must_use]
fn replace(skb: *mut __sk_buff, frame: &PackedArp) -> bool {
    const LEN: u32 = ArpFrame::LEN as u32;
    // SAFETY: the context is the one that the kernel called us with, the frame is 42 bytes of our stack and more. A helper that
    // refuses leaves the frame as it is.
    unsafe {
        // Writable first: so that nothing can fail once the frame is trimmed.
        if (*skb).len != LEN && (bpf_skb_pull_data(skb, LEN) != 0 || bpf_skb_change_tail(skb, LEN, 0) != 0) {
            return false;
        }
        bpf_skb_store_bytes(skb, 0, core::ptr::from_ref(frame).cast(), LEN, 0) == 0
    }
}
