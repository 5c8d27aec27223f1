//! The policies that protect the node: what may be said of them on the command line ([`options`]), and what that means for
//! an interface ([`policies`]). docs/protection.md is for operators.

pub mod options;
pub mod policies;
