//! The command line, as types.
#![expect(missing_docs, reason = "`--help` prints doc comments: where it needs none, there is none")]

use crate::config::{BPFFS, Hook, Options, RUN_DIR, TcAttach, XdpMode};
use crate::prefix::Prefix;
use crate::trace::{FrameVerdict, filter};
use arp_common::{Lladdr, Reason};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Answers ARP requests in eBPF, exactly as the kernel's proxy_arp, proxy_arp_pvlan and local-address code would.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// More log output: every change of the maps (`arp-agent trace` shows frames).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces and answer ARP requests, until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Say what an agent would answer here and why not, before anything is installed. Attaches nothing. Exit code 0 if it
    /// would answer all that the kernel answers at once, 3 if some frames would pass, 1 if it cannot run.
    Preflight(PreflightArgs),
    /// Print the settings that `run` would use, and where each comes from, or what is wrong with them. Needs no root.
    /// Exit code 0 if they are right, 1 if not.
    CheckConfig(CheckConfigArgs),
    /// Let the running agent read its configuration again. If it is wrong, the old one stays in force. Exit code 0 if the
    /// new one is in force, 1 if not, 4 if no agent runs.
    Reload(ReloadArgs),
    /// Show whether an agent runs, on which interfaces it answers, and why not on the others. Exit code 0 ready, 1 failed,
    /// 3 running but not ready, 4 not running, 5 ready but no matching interface answers.
    Status(StatusArgs),
    /// Explain what this node's kernel and the fast path do with an ARP request, which one thing decides, and what would
    /// change it; -v adds facts and checks. Exit code 0 if the fast path replies, 3 if it passes.
    Explain(ExplainArgs),
    /// Print this node's state as a file that `explain --state` reads on another machine.
    Snapshot(SnapshotArgs),
    /// Show the counters: requests answered, and frames passed by reason. Exit code 0, 1 failed, 3 no response, 4 not
    /// running.
    Stats(StatsArgs),
    /// Show replies, passes and drops of each interface per second, the busiest first, until the agent ends. Exit code 0, 1 failed, 3 no
    /// response, 4 not running.
    Top(TopArgs),
    /// Show what has happened on the node: addresses that moved or are claimed by others, what policies refused, a neighbour
    /// table that fills. Exit code 0, 1 failed, 3 no response, 4 not running.
    Events(EventsArgs),
    /// Show each ARP frame that reaches the program and what becomes of it, as it comes, until the agent ends: the only
    /// capture that has the fast path's replies. Only for root and the agent's own user. Exit code 0, 1 failed, 3 no
    /// response, 4 not running.
    Trace(TraceArgs),
    /// Print the agent's metrics in Prometheus' text format, for node_exporter's textfile collector. If no agent answers,
    /// `arp_agent_up` is 0; exit code 0 all the same.
    Metrics(MetricsArgs),
    /// Uninstall: remove everything that dead agents have left on interfaces. Exit code 0 if nothing is left, 3 if an
    /// agent still runs.
    Detach(DetachArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Each option but --config may also be a key of the file, and an environment variable \
    (ARP_AGENT_LEASE for --lease). The command line overrides the environment, the environment the file.")]
pub struct RunArgs {
    #[command(flatten)]
    pub options: Options,
    /// Configuration file; by default /etc/arp-agent/arp-agent.toml, if it is there.
    #[arg(long, value_name = "FILE", env = "ARP_AGENT_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PreflightArgs {
    /// Interfaces to check: names or patterns such as `cali*`.
    #[arg(long = "interface", value_name = "GLOB", num_args = 1.., required = true)]
    pub interfaces: Vec<String>,
    /// Which hook to use.
    #[arg(long, value_enum, default_value_t)]
    pub hook: Hook,
    /// Where XDP runs: on socket buffers, or in the driver.
    #[arg(long, value_enum, default_value_t)]
    pub xdp_mode: XdpMode,
    /// Whether tc programs are attached by tcx or by clsact.
    #[arg(long, value_enum, default_value_t)]
    pub tc_attach: TcAttach,
    /// The bpffs where the agent would pin its BPF links.
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    pub bpffs: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MetricsArgs {
    #[command(flatten)]
    pub run_dir: RunDirArgs,
}

#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub run_dir: RunDirArgs,
}

#[derive(Debug, Args)]
pub struct RunDirArgs {
    /// Directory of the control socket: one for each agent.
    #[arg(long = "run-dir", value_name = "DIR", default_value = RUN_DIR, env = "ARP_AGENT_RUN_DIR", hide_env_values = true)]
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub run_dir: RunDirArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The interface that the request comes in on.
    #[arg(value_name = "IF", required_unless_present_any = ["given_interface", "pcap", "listen"])]
    pub on: Option<String>,
    /// The address that the request asks for; without one, a table of what the interface answers for.
    #[arg(value_name = "TARGET", conflicts_with = "given_target")]
    pub wanted: Option<String>,
    /// The same as IF.
    #[arg(long = "interface", id = "given_interface", value_name = "IF", conflicts_with = "on")]
    pub given_interface: Option<String>,
    /// The same as TARGET.
    #[arg(long = "target", id = "given_target", value_name = "IP")]
    pub given_target: Option<String>,
    /// The address that sends the request; by default a neighbour on the interface.
    #[arg(long, value_name = "IP")]
    pub sender: Option<Ipv4Addr>,
    /// The link-layer address of the sender; by default the neighbour's.
    #[arg(long, value_name = "MAC")]
    pub sender_mac: Option<Lladdr>,
    /// A probe: a request from 0.0.0.0, as a host sends before it takes an address.
    #[arg(long, conflicts_with = "sender")]
    pub probe: bool,
    /// A request that is sent to the interface's own link-layer address, not broadcast.
    #[arg(long)]
    pub unicast: bool,
    /// Explain each request of a capture (pcap or pcapng; `-` is stdin), a line each. The interface is IF, or the one that the
    /// file names, or the one that the sender is behind.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["wanted", "given_target", "kernel"])]
    pub pcap: Option<PathBuf>,
    /// Explain each request that comes in on an interface, and say whether a reply was seen.
    #[arg(long, value_name = "IF", conflicts_with_all = ["on", "given_interface", "pcap", "kernel"])]
    pub listen: Option<String>,
    /// For how long to listen, in seconds; ten by default.
    #[arg(long = "for", id = "seconds", value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Explain over a file that `arp-agent snapshot` wrote. Agents, and the kernel's own lookup, are not asked then.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "netns", "kernel"])]
    pub state: Option<PathBuf>,
    /// Print the decision as a graph for Graphviz.
    #[arg(long, conflicts_with = "json")]
    pub dot: bool,
    /// Ask in another network namespace, by its name in `ip netns`. Agents are not asked then.
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// Also run the loaded program on this request, and fail if its decision differs.
    #[arg(long)]
    pub kernel: bool,
    #[command(flatten)]
    pub run_dir: RunDirArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// A number of seconds, with or without an `s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = number.parse().map_err(|_| format!("{text}: is no number of seconds, such as 10s"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text}: is no time from 0s on that can be waited for"))
}

impl ExplainArgs {
    /// The interface, in whichever way it was given.
    pub fn interface(&self) -> anyhow::Result<&str> {
        let given = self.on.as_deref().or(self.given_interface.as_deref());
        given.ok_or_else(|| anyhow::anyhow!("no interface is given; `arp-agent explain IF TARGET`"))
    }

    /// The target, in whichever way it was given.
    pub fn target(&self) -> Option<&str> {
        self.wanted.as_deref().or(self.given_target.as_deref())
    }
}

#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Replace addresses, the same by the same: prefixes stay prefixes, and the first byte stays. The
    /// replacements are listed on stderr.
    #[arg(long)]
    pub anonymise: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only this interface.
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Print again every this many seconds, with the rates since the last time.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub watch: Option<u64>,
    /// End after printing this many times.
    #[arg(long, value_name = "N", requires = "watch")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    #[command(flatten)]
    pub run_dir: RunDirArgs,
    /// Print one JSON document; with --watch one a line each time.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Order of the interfaces.
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,
    /// Seconds between updates.
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub interval: u64,
    /// How many interfaces are shown [default: as many as the screen has room for, all where there is none].
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Print once, and end.
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// End after this many updates.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    #[command(flatten)]
    pub run_dir: RunDirArgs,
    /// Print a JSON document for each update, one a line.
    #[arg(long)]
    pub json: bool,
}

/// By what `top` sorts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Requests answered.
    #[default]
    Replies,
    /// Frames passed.
    Passes,
    /// Frames that policies dropped, or would have dropped.
    Drops,
    /// The name.
    Name,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with the events to come, until the agent ends.
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub run_dir: RunDirArgs,
    /// Print a JSON document for each event, one a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Only frames that come in on interfaces that match: names or patterns such as `cali*` [default: all].
    #[arg(long = "interface", value_name = "GLOB", num_args = 1..)]
    pub interfaces: Vec<String>,
    /// Only frames of this sender (spa): an address, or a prefix such as 10.0.0.0/8.
    #[arg(long, value_name = "IP[/LEN]", value_parser = filter::prefix)]
    pub sender: Option<Prefix>,
    /// Only frames that ask for this target (tpa): an address, or a prefix.
    #[arg(long, value_name = "IP[/LEN]", value_parser = filter::prefix)]
    pub target: Option<Prefix>,
    /// Only frames with this verdict.
    #[arg(long, value_enum)]
    pub verdict: Option<FrameVerdict>,
    /// Only frames that are passed for one of these reasons, named as `stats` does.
    #[arg(long = "reason", value_name = "NAME", num_args = 1.., value_parser = filter::reason)]
    pub reasons: Vec<Reason>,
    /// End after this many frames.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this many seconds.
    #[arg(long = "for", id = "for_seconds", value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    #[command(flatten)]
    pub run_dir: RunDirArgs,
    /// Print a JSON document for each frame, one a line.
    #[arg(long, conflicts_with = "pcapng")]
    pub json: bool,
    /// Write a capture instead, for wireshark and tcpdump, with what became of each frame as its comment (`-` is stdout).
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Only interfaces that match: names or patterns such as `cali*` [default: all].
    #[arg(long = "interface", value_name = "GLOB", num_args = 1..)]
    pub interfaces: Vec<String>,
    /// Only print what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// The bpffs that the agent was started with.
    #[arg(long, value_name = "DIR", default_value = BPFFS, env = "ARP_AGENT_BPFFS", hide_env_values = true)]
    pub bpffs: PathBuf,
    #[command(flatten)]
    pub run_dir: RunDirArgs,
}
