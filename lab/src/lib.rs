//! The lab: a node, its pods and its uplink in network namespaces of their own, linked to nothing real; crafted
//! frames; the agent; and the kernel alone as the oracle for the same request.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = lab::topology::calico(2)?;
//! let replies = lab.host("p0").ask(&lab.host("p0").who_has([169, 254, 1, 1]))?;
//! # Ok(()) }
//! ```

mod agent;
mod bpffs;
mod bytes;
pub mod contacts;
mod hook;
mod host;
pub mod ioctl;
mod lab;
mod namespace;
mod neighbours;
pub mod netlink;
pub mod packet;
mod scraper;
mod side_by_side;
mod skip;
mod slack;
mod stop;
pub mod stream;
pub mod team;
pub mod topology;
mod traffic;

pub use agent::{
    Agent, AgentOptions, AgentStatus, STATUS_NONE_ANSWERS, STATUS_NOT_READY, STATUS_NOT_RUNNING, agent_binary,
};
pub use bpffs::BpfFs;
pub use bytes::reply_bytes;
pub use hook::TestHook;
pub use host::{Host, OnCore, allowed_cores};
pub use lab::{Alone, Lab};
pub use namespace::{NAMES, Namespace};
pub use neighbours::{Class, NeighbourState, Neighbours};
pub use packet::Wire;
pub use scraper::scrape_all;
pub use side_by_side::{Answerer, Counted, LOST, SameOutcome, SideBySide, UNCOUNTED};
pub use skip::{fetched_program, kernel_is_since, missing_privilege, skip};
pub use slack::{slack, stretched, wait_until};
pub use stop::{INTERRUPTED, Stop};
pub use traffic::{beside_busy_loops, under_traffic};
