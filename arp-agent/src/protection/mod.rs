//! The policies that protect the node: the settings ([`options`]), their patterns ([`patterns`]), the lists in them ([`lists`]),
//! and what they mean for an interface ([`policies`]). docs/protection.md is for operators.

pub mod lists;
pub mod options;
pub mod patterns;
pub mod policies;
