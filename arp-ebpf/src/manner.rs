//! In which manner the programs of a hook answer. Each is a program of its own, made of the same code: what one manner does
//! besides the decision is not in the programs of another.

use crate::deviation;
use crate::packet::Decided;
use crate::shadow;
use crate::tables::Maps;
use arp_common::{Lladdr, PackedArp, Reason, decide};

/// What a program does with a frame.
pub(crate) trait ProgramManner {
    /// By what a reply is given, where that is not always the same.
    type By: Copy + Default;

    /// Decides, and does what the manner does besides.
    fn decide(frame: &PackedArp, maps: &Maps) -> (Decided, Self::By);
    /// The last word, once all else is known of the frame.
    #[inline(always)]
    fn settle(_: &PackedArp, _: &Maps, decided: Decided) -> Decided {
        decided
    }
    /// Counts an answer that is about to leave.
    fn count_answer(by: Self::By, maps: &Maps);
    /// By which policy an answer is given: 1 more than its number; 0 where the kernel would reply.
    #[inline(always)]
    fn policy(_: Self::By) -> u32 {
        0
    }
    /// Tells that a frame is answered, with this link-layer address.
    #[inline(always)]
    fn tell_answer(_: &PackedArp, _: &Maps, _: Self::By, _: Lladdr) {}
    /// Tells that a frame is passed; it would have been answered with this link-layer address, or 0.
    #[inline(always)]
    fn tell_pass(_: &PackedArp, _: &Maps, _: Self::By, _: Reason, _: Lladdr) {}
}

/// As the kernel would, and never else.
pub(crate) struct AsTheKernel;

impl ProgramManner for AsTheKernel {
    type By = ();

    #[inline(always)]
    fn decide(frame: &PackedArp, maps: &Maps) -> (Decided, ()) {
        (Decided::new(decide(frame, maps.ingress(), maps)), ())
    }

    #[inline(always)]
    fn count_answer((): (), maps: &Maps) {
        maps.count_answer();
    }
}

/// The same, and what policies answer besides (docs/adr/0017-policies-that-answer.md).
pub(crate) struct ByPolicy;

impl ProgramManner for ByPolicy {
    /// 1 more than the number of the policy; 0 where the kernel would reply.
    type By = u32;

    #[inline(always)]
    fn decide(frame: &PackedArp, maps: &Maps) -> (Decided, u32) {
        deviation::decide(frame, maps)
    }

    #[inline(always)]
    fn count_answer(by: u32, maps: &Maps) {
        match by {
            0 => maps.count_answer(),
            policy => deviation::count_answer(policy, maps),
        }
    }

    #[inline(always)]
    fn policy(by: u32) -> u32 {
        by
    }
}

/// Not at all: what would be done is noted, and the kernel decides.
pub(crate) struct Shadow;

impl ProgramManner for Shadow {
    type By = ();

    #[inline(always)]
    fn decide(frame: &PackedArp, maps: &Maps) -> (Decided, ()) {
        (Decided::new(decide(frame, maps.ingress(), maps)), ())
    }

    #[inline(always)]
    fn settle(frame: &PackedArp, maps: &Maps, decided: Decided) -> Decided {
        shadow::note(frame, maps, decided)
    }

    #[inline(always)]
    fn count_answer((): (), _: &Maps) {}
}
