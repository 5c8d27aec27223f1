//! The agent as a library: the binary, and the tests, are made of it.

pub mod dataplane;
pub mod event;
pub mod mirror;


