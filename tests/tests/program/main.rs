//! The loaded program, run on whole frames through BPF_PROG_TEST_RUN: what comes out, what the hook returns, what is
//! counted. The frames of [`rows`] and their replies are written down from RFC 826 and the kernel's behaviour
//! (docs/semantics.md); [`random`] holds the program against the same decision in userspace.

mod deviations;
mod doubt;
mod guard;
mod order;
mod random;
mod rows;
mod tables;
mod trace;
mod unresolved;
