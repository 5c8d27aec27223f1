//! Shadow: what the fast path would do, held against what the kernel does ([`tally`]). docs/operations.md is for operators.

pub(crate) mod tally;
