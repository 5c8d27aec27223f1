//! The agent's parts: what the kernel says ([`event`]) and how it is asked ([`kernel`]).
pub mod event;
pub mod kernel;
