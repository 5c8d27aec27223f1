//! The agent's figures: what metrics and probes are made of. Cheaper than a `Status`, and as long for many interfaces
//! as for few, unless each interface is asked for.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Figures of a running agent. Fields that another version does not know keep their default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Figures {
    /// The agent's version.
    pub version: String,
    /// Its process, where it can see it: an older agent tells nothing of it.
    pub process: Option<ProcessFigures>,
    /// Whether the maps are in sync and trusted, and all interfaces of the start are attached.
    pub ready: bool,
    /// Why not; `None` if it is ready.
    pub not_ready_because: Option<String>,
    /// Requests answered.
    pub answered: u64,
    /// Frames passed, by each reason's name.
    pub passed: BTreeMap<String, u64>,
    /// Requests that policies have answered in the kernel's place, by policy.
    pub answered_by_policy: BTreeMap<String, u64>,
    /// Requests that policies which only count would have answered, by policy.
    pub would_answer: BTreeMap<String, u64>,
    /// How many interfaces are in which state.
    pub interfaces: Vec<InterfaceGroup>,
    /// The counts of each interface, if they are wanted (`--metrics-interfaces`).
    pub each_interface: Vec<InterfaceCounts>,
    /// How many interfaces match each pattern.
    pub patterns: BTreeMap<String, usize>,
    /// Prefixes in all views.
    pub routes: usize,
    /// Neighbour entries mirrored.
    pub neighbours: usize,
    /// Ways in which senders' targets are looked up.
    pub views: usize,
    /// Nodes of the FIB in use.
    pub fib_nodes: u32,
    /// Entries for which a map had no room.
    pub refused_entries: u64,
    /// Complete dumps.
    pub resyncs: u64,
    /// Time that they took, in seconds.
    pub resync_seconds: f64,
    /// How often notifications were lost.
    pub overruns: u64,
    /// Time in which every frame passed, because the maps were not trusted, in seconds.
    pub out_of_step_seconds: f64,
    /// Interfaces and neighbour entries that are held back.
    pub held_back: usize,
    /// How often one was.
    pub times_held_back: u64,
    /// Whether the sysctl hook is active.
    pub sysctl_hook: bool,
    /// Writes of sysctls that made frames pass.
    pub settings_written: u64,
    /// Writes of sysctls that did not.
    pub settings_written_elsewhere: u64,
    /// Whether the last reload was refused: the settings in force are not those of the sources.
    pub config_stale: bool,
    /// Frames that policies have dropped, by each reason's name.
    pub dropped: BTreeMap<String, u64>,
    /// Frames that policies which only count would have dropped, by each reason's name.
    pub would_drop: BTreeMap<String, u64>,
    /// How often each kind of event has happened.
    pub events: BTreeMap<String, u64>,
    /// Events of the guard for which there was no room.
    pub events_lost: u64,
    /// Clients that trace.
    pub trace_clients: usize,
    /// Frames of traces for which there was no room.
    pub trace_lost: u64,
    /// Entries in the machine's neighbour table, and the most that it may hold; `None` while it is not known.
    pub neighbour_table: Option<(u64, u64)>,
    /// What the comparison with the kernel has come to; `None` where the agent answers.
    pub shadow: Option<ShadowFigures>,
    /// How often a program could not be attached to an interface, by what it does.
    pub attach_failures: BTreeMap<String, u64>,
    /// The entries of each map, and the most that it may have.
    pub maps: BTreeMap<String, [u32; 2]>,
}

/// What the agent's process has taken. The agent reads it: who asks may be in another PID namespace, or have no right to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessFigures {
    /// Time on a CPU, in seconds.
    pub cpu_seconds: f64,
    /// File descriptors in use.
    pub open_fds: u64,
    /// The most that there may be; `None` if there is no limit.
    pub max_fds: Option<u64>,
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// When the agent started, in seconds since 1970.
    pub started: f64,
}

/// What came of the requests that `--shadow` has compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ShadowFigures {
    /// Requests that the fast path would have answered, and that the kernel answered with the same bytes.
    pub would_have_answered: u64,
    /// Those that it would have answered, and that the kernel did not, or with other bytes.
    pub disagreements: u64,
    /// Those that were not compared.
    pub not_compared: u64,
    /// Interfaces on which the kernel's answers cannot be seen.
    pub not_seen: usize,
    /// By what the fast path would have done.
    pub verdicts: Vec<VerdictFigures>,
}

/// What the kernel did with the requests of one verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerdictFigures {
    /// `answer`, or the name of the reason for a pass.
    pub verdict: String,
    /// Requests that the kernel answered.
    pub kernel_answered: u64,
    /// Those that it did not.
    pub kernel_silent: u64,
    /// How long its answers took together, in seconds.
    pub kernel_seconds: f64,
}

/// Interfaces that share a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct InterfaceGroup {
    /// As in a `Status`.
    pub hook: String,
    /// As in a `Status`.
    pub mode: String,
    /// As in a `Status`.
    pub state: String,
    /// The name of the reason while they pass; else empty.
    pub reason: String,
    /// How many.
    pub count: usize,
}

/// The counts of one interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct InterfaceCounts {
    /// Its name.
    pub name: String,
    /// Requests answered.
    pub answered: u64,
    /// Frames passed, by reason; only reasons that occurred.
    pub passed: BTreeMap<String, u64>,
}
