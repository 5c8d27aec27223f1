//! The control socket: one JSON line asks, one JSON document answers. `status`, `stats` and `explain` are its clients.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod feed;
pub(crate) mod figures;
pub(crate) mod run_dir;
pub(crate) mod server;

use crate::events::RaisedEvent;
use crate::explain::{Explanation, Question};
use crate::trace::filter::Filter;
use feed::Feed;
use figures::Figures;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long either side waits for the other. A resync of a million routes takes about as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What a client asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// A [`Status`].
    Status,
    /// A [`Status`] that includes every change made in the kernel before the request: the agent first applies all
    /// notifications, and polls for changes without notification.
    Sync,
    /// [`Figures`].
    Figures,
    /// The events of the last time.
    Events {
        /// Whether those to come are sent too, a line each.
        follow: bool,
    },
    /// The frames that come from now on, a line each ([`crate::trace::Shown`]).
    Trace(Filter),
    /// Reads the configuration again, and takes it over.
    Reload,
    /// An [`Explanation`], made from the agent's own maps.
    Explain {
        /// The ARP request to decide on.
        question: Question,
        /// Whether the loaded program decides on it too.
        run_program: bool,
    },
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// The answer to [`Request::Status`] and [`Request::Sync`].
    Status(Box<Status>),
    /// The answer to [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// The answer to [`Request::Figures`].
    Figures(Box<Figures>),
    /// The answer to [`Request::Events`].
    Events(Vec<RaisedEvent>),
    /// The answer to [`Request::Trace`]: on how many interfaces that the filter names the program runs.
    Trace {
        /// Those.
        interfaces: usize,
    },
    /// An answer that goes on.
    #[serde(skip)]
    Feed(Feed),
    /// The answer to [`Request::Reload`]: the settings that have changed, as `name = value`.
    Reloaded(Vec<String>),
    /// Why the request cannot be answered.
    Error(String),
}

/// What `status --json` prints; `stats` takes its figures from it. What an agent of another version leaves out is
/// empty, so that its status can be read during an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// True; false in what `status --json` prints if no agent runs.
    #[serde(default = "yes")]
    pub running: bool,
    /// Whether the maps are in sync with the kernel: only then are frames answered.
    pub ready: bool,
    /// Why the agent is not ready; `null` if it is.
    pub not_ready_because: Option<String>,
    /// What makes the node easy to attack (docs/protection.md).
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Process identifier of the agent.
    pub pid: u32,
    /// The agent's version.
    pub agent_version: String,
    /// For how many seconds it has run, without those in which the machine was suspended.
    pub up_seconds: u64,
    /// The patterns of `--interface` and how many interfaces match each.
    pub patterns: BTreeMap<String, usize>,
    /// The interfaces that match.
    pub interfaces: Vec<InterfaceStatus>,
    /// Requests answered since the start, on all interfaces, including those that are gone.
    pub answered: u64,
    /// ARP frames passed since the start, by reason.
    pub passed: BTreeMap<String, u64>,
    /// Requests that policies have answered since the start although the kernel would not have, or not at once, by policy.
    #[serde(default)]
    pub answered_by_policy: BTreeMap<String, u64>,
    /// Requests that policies which only count would have answered so since the start, by policy.
    #[serde(default)]
    pub would_answer: BTreeMap<String, u64>,
    /// ARP frames that policies have dropped since the start, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// ARP frames that policies which only count would have dropped since the start, by reason.
    #[serde(default)]
    pub would_drop: BTreeMap<String, u64>,
    /// What `--shadow` has found; `null` where the agent answers.
    #[serde(default)]
    pub shadow: Option<ShadowStatus>,
    /// Prefixes in all views.
    pub routes: usize,
    /// Neighbour entries mirrored.
    pub neighbours: usize,
    /// Different ways in which senders' targets are looked up, as the routing rules have it.
    pub views: usize,
    /// Nodes of the FIB in use, 1 KiB each.
    pub fib_nodes: u32,
    /// Entries for which a map had no room; their frames pass.
    pub refused_entries: u64,
    /// Complete dumps of the kernel's state, the first included.
    pub resyncs: u64,
    /// How often the kernel's notifications overran the socket.
    pub overruns: u64,
    /// Interfaces and neighbour entries that change too fast to be followed: their frames pass for now.
    pub held_back: Vec<String>,
    /// How often an interface or an entry was held back, since the start.
    pub times_held_back: u64,
    /// `attached`: a write of a sysctl of this network namespace makes frames pass before it takes effect. With a colon
    /// and a cause behind it: writes in other network namespaces do so too. Anything else says why there is no hook, or
    /// that it is paused; then polls find what was written, within `reread_interval_ms`.
    pub sysctl_hook: String,
    /// Writes of sysctls that made frames pass, since the start; 0 without the hook.
    pub settings_written: u64,
    /// Writes of the same sysctls that made no frame pass: in other network namespaces, or while the hook was paused.
    pub settings_written_elsewhere: u64,
    /// `--reread-interval`, in milliseconds: between polls for changes that send no notification. With the sysctl hook,
    /// full polls are rarer, at least one a minute.
    pub reread_interval_ms: u64,
    /// How long the program trusts the maps without a heartbeat, in milliseconds.
    pub lease_ms: u64,
}

/// What came of the comparison with the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShadowStatus {
    /// Requests that were compared.
    pub compared: u64,
    /// Those that the kernel answered.
    pub kernel_answered: u64,
    /// Those of them that the fast path would have answered, with the same bytes.
    pub would_have_answered: u64,
    /// Requests that the fast path would have answered, and the kernel did not, or with other bytes.
    pub disagreements: u64,
    /// Requests that were not compared: they came faster than the comparison, or again before it was done.
    pub not_compared: u64,
    /// Interfaces on which the kernel's answers cannot be seen, and why.
    pub not_seen: Vec<String>,
    /// The last disagreement.
    pub last_disagreement: Option<String>,
    /// By what the fast path would have done.
    pub verdicts: Vec<ShadowVerdict>,
}

/// What the kernel did with the requests of one verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShadowVerdict {
    /// `answer`, or the name of the reason for a pass.
    pub verdict: String,
    /// Requests that the kernel answered.
    pub kernel_answered: u64,
    /// Requests that it did not.
    pub kernel_silent: u64,
    /// Requests on which they disagree; none where the fast path would have passed.
    pub disagreements: u64,
    /// How long the kernel's answers took, in microseconds; `null` without any.
    pub mean_us: Option<f64>,
    /// The longest.
    pub longest_us: Option<f64>,
}

/// An interface that matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// `xdp`, `tc`, or `none` while detached.
    pub hook: String,
    /// `skb` or `driver` for XDP, `tcx` or `clsact` for tc.
    pub mode: String,
    /// Why the agent chose this hook.
    pub hook_why: String,
    /// `answering`: what the kernel would answer is answered. `passing`: all frames pass, `reason` says why.
    /// `detached`: the program is not on the interface, `reason` says why.
    pub state: String,
    /// The name of the reason for which its frames pass, while it is `passing`; else `null`.
    pub reason_id: Option<String>,
    /// Why it does not answer, for people; `null` if it does.
    pub reason: Option<String>,
    /// The tc programs of others on it that may see ARP, as far as the kernel tells their names.
    pub others: Vec<String>,
    /// Requests answered.
    pub answered: u64,
    /// ARP frames passed, by reason.
    pub passed: BTreeMap<String, u64>,
    /// Requests that policies have answered although the kernel would not have, or not at once, by policy.
    #[serde(default)]
    pub answered_by_policy: BTreeMap<String, u64>,
    /// Requests that policies which only count would have answered so, by policy.
    #[serde(default)]
    pub would_answer: BTreeMap<String, u64>,
    /// The policies that are on, such as `sender-guard: drop`.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Whether the guard is attached, which policies that drop need; `null` if none of those is on.
    #[serde(default)]
    pub guard: Option<String>,
    /// ARP frames that policies have dropped, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// ARP frames that policies which only count would have dropped, by reason.
    #[serde(default)]
    pub would_drop: BTreeMap<String, u64>,
    /// A veth's pod end.
    pub peer: Option<Peer>,
    /// The hosts that table main has a route of their own to, by this veth, such as a pod's address; at most
    /// [`HOSTS_SHOWN`].
    pub hosts: Vec<Ipv4Addr>,
}

/// How many hosts are named of an interface.
pub(crate) const HOSTS_SHOWN: usize = 4;

fn yes() -> bool {
    true
}

/// The other end of a veth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Its index, in its own namespace.
    pub ifindex: u32,
    /// The identifier of its namespace as seen from the agent's; `null` if it is the same one.
    pub netnsid: Option<i32>,
    /// The namespace's name under /var/run/netns, if it has one.
    pub netns: Option<String>,
}

/// The socket in a run directory.
pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}
