//! Netlink, whatever it is about: sockets and framing.

pub(crate) mod socket;
pub(crate) mod wire;
