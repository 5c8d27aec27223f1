//! What programs tell the agent of single frames, through one ring buffer: events of the guard
//! (docs/adr/0016-events-and-trace.md).

use crate::guard::DropReason;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names of the maps in the eBPF object.
pub mod names {
    /// `ArrayOfMaps` of one `RingBuf<Notice>`, which the agent makes once something is to be told.
    pub const NOTICES: &str = "NOTICES";
    /// `Array<NoticeControl>` with one element, mmapable.
    pub const NOTICE_CONTROL: &str = "NOTICE_CONTROL";
    /// `Array<Marks>`, mmapable: by the index of an interface's counters.
    pub const EVENT_MARKS: &str = "EVENT_MARKS";
}

/// The size of the ring, in bytes: some three thousand notices.
pub const RING_LEN: u32 = 1 << 18;

/// What a program has seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Notice {
    /// CLOCK_MONOTONIC in ns.
    pub time: u64,
    /// The interface that the frame came in on.
    pub ifindex: u32,
    /// The constants of this type.
    pub kind: u16,
    /// What it is about: of events the number of an [`EventCode`].
    pub code: u16,
    /// 0.
    pub word: u64,
    /// The frame: its first 42 bytes, and zeros.
    pub frame: [u64; 6],
}

impl Notice {
    /// An event: a policy has dropped the frame.
    pub const DROPPED: u16 = 1;
    /// An event: a policy that only counts would have dropped the frame.
    pub const WOULD_DROP: u16 = 2;
}

/// What the agent tells the programs about notices, and they it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct NoticeControl {
    /// Jiffies in which at most one event of a kind is told of an interface.
    pub pause: u64,
    /// Events that found no room in the ring.
    pub events_lost: u64,
}

/// What an event is about: a [`DropReason`], or a claim of an address, which is told apart from other senders that are not
/// routed back by the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventCode {
    /// Why a policy refuses the frame.
    Refused(DropReason),
    /// The sender-guard refuses it, and spa is the node's own.
    ClaimsNode,
    /// The sender-guard refuses it, and spa is that of a known neighbour on another interface.
    ClaimsNeighbour,
}

impl EventCode {
    /// The first number that is no reason's: there is room for eight of those.
    const CLAIMS: u16 = 8;

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        match self {
            EventCode::Refused(reason) => reason as u16,
            EventCode::ClaimsNode => Self::CLAIMS,
            EventCode::ClaimsNeighbour => Self::CLAIMS + 1,
        }
    }

    /// What a number stands for.
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            Self::CLAIMS => Some(EventCode::ClaimsNode),
            number if number == Self::CLAIMS + 1 => Some(EventCode::ClaimsNeighbour),
            number => DropReason::ALL.iter().find(|&&reason| reason as u16 == number).copied().map(EventCode::Refused),
        }
    }
}

/// How many codes there is room for.
pub const MAX_CODES: usize = 16;

/// What the program remembers of an interface's events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Marks {
    /// By code: when it was told last, in jiffies, the lower half.
    pub told_at: [u32; MAX_CODES],
    /// How many frames claimed an address, by code from [`EventCode::ClaimsNode`] on; the counters of drops hold the rest.
    pub claims: [u64; 2],
    /// 0.
    pub unused: [u64; 6],
}

impl Marks {
    /// Where a code has its count in [`Marks::claims`], if it has one there.
    #[inline(always)]
    pub const fn claim_of(code: u16) -> Option<usize> {
        if code >= EventCode::CLAIMS { Some((code & 1) as usize) } else { None }
    }
}

const _: () = {
    assert!(size_of::<Notice>() == 72);
    assert!(size_of::<NoticeControl>() == 16);
    assert!(size_of::<Marks>() == 128);
    assert!(EventCode::CLAIMS & 1 == 0);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_number_of_its_own() {
        let all = DropReason::ALL.iter().copied().map(EventCode::Refused);
        let all: std::vec::Vec<_> = all.chain([EventCode::ClaimsNode, EventCode::ClaimsNeighbour]).collect();
        for (at, &code) in all.iter().enumerate() {
            assert_eq!(EventCode::from_number(code.number()), Some(code));
            assert!(
                usize::from(code.number()) < MAX_CODES
                    && !all[..at].iter().any(|&before| before.number() == code.number())
            );
        }
        assert_eq!(EventCode::from_number(15), None);
    }
}
