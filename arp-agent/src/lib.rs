//! The agent as a library: the binary, and the tests, are made of it.
//!
//! A change's way: `netlink` → [`kernel`] (reads) → [`event`] → [`mirror`] (pure) → [`dataplane`] (maps and program);
//! `hooks` has the program attached, `agent` drives all of it. A command's way: [`cli`] → [`commands`] → the agent's
//! `control` socket. Imports point the same way down: nothing below `commands` knows `cli`, and `kernel` writes nothing.
#![warn(missing_docs, clippy::print_stdout, clippy::print_stderr)]

mod agent;
pub mod arp_rules;
mod capabilities;
#[cfg(test)]
mod claims;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
mod control;
pub mod dataplane;
mod descriptors;
mod deviations;
pub mod event;
mod events;
mod explain;
mod hooks;
mod interval;
pub mod kernel;
mod link;
pub mod logging;
mod metrics;
pub mod mirror;
mod netlink;
pub mod prefix;
mod preflight;
mod protection;
mod shadow;
mod trace;

/// Version of the JSON documents that commands print: raised when a field changes its meaning or goes, not when one is
/// added.
pub const DOCUMENT_VERSION: u32 = 1;
