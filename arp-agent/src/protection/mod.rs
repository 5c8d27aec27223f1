//! The policies that protect the node: the settings ([`options`]), their patterns ([`patterns`]), the lists in them ([`lists`]),
//! and what they mean for an interface ([`policies`]). docs/protection.md is for operators.

pub(crate) mod lists;
pub(crate) mod options;
pub(crate) mod patterns;
pub(crate) mod policies;
