//! The tables that the mirror's changes go into: the BPF maps ([`bpf`]), or plain memory that behaves the same
//! ([`fake`]).

pub mod bpf;
mod buckets;
mod counters;
mod doubts;
pub mod fake;
mod hook_kind;
mod layout;
mod memory;
pub(crate) mod refusal;
#[cfg(test)]
mod stack;
mod trie;

use crate::mirror::Change;
use arp_common::Tables;
pub use hook_kind::HookKind;

/// A writer of the tables that decisions are made from.
pub trait Dataplane: Tables {
    /// Applies a batch, atomically to every decision.
    ///
    /// # Errors
    /// A map refused a change and the tables can no longer be trusted: the lease must not be renewed before a resync.
    fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()>;

    /// Lets decisions trust the tables until this moment, in nanoseconds of `CLOCK_MONOTONIC`, or a tick less.
    ///
    /// # Errors
    /// The program's clock cannot be read; the trust is withdrawn then.
    fn set_lease(&mut self, until: u64) -> anyhow::Result<()>;

    /// Withdraws the trust.
    fn withdraw_lease(&mut self);
}
