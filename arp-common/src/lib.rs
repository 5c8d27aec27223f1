//! What the eBPF program and userspace share: the frame ([`frame`], [`packed`]), the decision ([`mod@decide`]), why a frame is
//! passed ([`reason`]), the tables that it reads ([`tables`], [`fib`]), the policies that drop ([`guard`], [`unresolved`], [`binding`]) and those that
//! answer ([`mod@deviation`]), what is compared without answering ([`shadow`]), what programs tell of single frames
//! ([`notice`], [`trace`]), and the layout of the BPF maps ([`maps`], [`buckets`]).
//!
//! Everything here is compiled twice, for the host and for BPF, and must mean the same in both: no I/O, no
//! allocation, no clock, no `unsafe`; functions that the program calls are inlined, because the verifier refuses
//! what a real call would pass (an enum with a payload, a slice of unknown length).
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::cast_possible_truncation)]

#[cfg(any(test, feature = "serde"))]
extern crate std;

pub mod binding;
pub mod buckets;
pub mod decide;
pub mod deviation;
pub mod fib;
pub mod frame;
pub mod guard;
pub mod lladdr;
pub mod maps;
pub mod notice;
pub mod packed;
pub mod reason;
pub mod sequence;
pub mod settings;
pub mod shadow;
pub mod tables;
pub mod trace;
pub mod unresolved;

pub use decide::{Verdict, decide};
pub use frame::ArpFrame;
pub use lladdr::Lladdr;
pub use packed::PackedArp;
pub use reason::Reason;
pub use tables::Tables;
