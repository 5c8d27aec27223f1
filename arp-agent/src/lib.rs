//! The agent as a library: the binary, and the tests, are made of it.
//!
//! A change's way: `netlink` → [`kernel`] (reads) → [`event`] → [`mirror`] (pure) → [`dataplane`] (maps and program);
//! [`hooks`] has the program attached, [`agent`] drives all of it. A command's way: [`cli`] → [`commands`] → the agent's
//! [`control`] socket. Imports point the same way down: nothing below `commands` knows `cli`, and `kernel` writes nothing.
#![warn(missing_docs, clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod arp_rules;
mod capabilities;
#[cfg(test)]
mod claims;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod descriptors;
pub mod deviations;
pub mod event;
pub mod events;
pub mod explain;
pub mod hooks;
pub mod interval;
pub mod kernel;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod mirror;
mod netlink;
pub mod prefix;
pub mod preflight;
pub mod protection;
pub mod shadow;
pub mod trace;

/// Version of the JSON documents that commands print: raised when a field changes its meaning or goes, not when one is
/// added.
pub const DOCUMENT_VERSION: u32 = 1;
