//! The policies that answer where the kernel would not, or not at once: the settings ([`options`]), and what they mean for
//! an interface ([`policies`]). docs/protection.md is for operators.

pub(crate) mod options;
pub(crate) mod policies;
