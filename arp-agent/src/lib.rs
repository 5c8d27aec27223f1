//! The agent as a library: the binary, and the tests, are made of it.
//!
//! A change's way: `kernel` (I/O) → [`event`] → [`mirror`] (pure) → [`dataplane`] (maps and program); [`agent`] drives
//! it. A command's way: [`cli`] → [`commands`] → the agent's [`control`] socket.

pub mod agent;
#[cfg(test)]
mod claims;
pub mod cli;
pub mod commands;
pub mod control;
pub mod dataplane;
pub mod descriptors;
pub mod event;
pub mod explain;
pub mod kernel;
pub mod mirror;
pub mod writes;

/// Version of the JSON documents that commands print: raised when a field changes its meaning or goes, not when one is
/// added.
pub const DOCUMENT_VERSION: u32 = 1;
