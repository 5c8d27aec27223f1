//! Netlink sockets and framing, for every netlink family.

pub(crate) mod socket;
pub(crate) mod wire;
