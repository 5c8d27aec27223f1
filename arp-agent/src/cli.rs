//! The command line, as types.

use crate::explain::Mac;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the control socket lies unless `--run-dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/arp-agent";

/// Answers ARP requests in eBPF, exactly as the kernel's proxy_arp, proxy_arp_pvlan and local-address code would.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// More about what is done: once for details, twice for a line for each decision.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces and answer, until SIGTERM or SIGINT.
    Run(Run),
    /// Whether an agent runs, what it is attached to, and what it answers. Exit code 0 ready, 3 running but not
    /// ready, 1 not running.
    Status(Status),
    /// Who answers for an address on an interface, and why. Exit code 0 if the fast path replies, 3 if it passes.
    Explain(Explain),
    /// The counters: answered, and passed by reason.
    Stats(Stats),
}

#[derive(Debug, Args)]
pub struct Run {
    /// Interfaces to attach to, also those that appear later: names or patterns such as `cali*`.
    #[arg(long = "interface", value_name = "GLOB", num_args = 1.., required_unless_present = "config")]
    pub interfaces: Vec<String>,
    /// Which hook to use [default: auto].
    #[arg(long, value_enum)]
    pub hook: Option<Hook>,
    /// How XDP runs [default: auto].
    #[arg(long, value_enum)]
    pub xdp_mode: Option<XdpMode>,
    /// How tc programs are attached [default: auto].
    #[arg(long, value_enum)]
    pub tc_attach: Option<TcAttach>,
    /// Directory of the control socket: one for each agent [default: /run/arp-agent].
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// TOML file with the names of these options as keys; what the command line says wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How often what the kernel changes without telling is read again: the bound of what goes unnoticed [default: 250].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub reread_interval: Option<u64>,
    /// Whether writes of sysctls are noticed before they take effect, by a program on the root of the cgroup tree
    /// [default: auto].
    #[arg(long, value_enum)]
    pub sysctl_hook: Option<SysctlHook>,
    /// How long the program goes on without a heartbeat [default: 1000].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub lease: Option<u64>,
}

/// Which hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// What the interface offers: XDP, or tc where XDP's place is taken.
    #[default]
    Auto,
    /// XDP.
    Xdp,
    /// tc, before the stack.
    Tc,
}

/// How XDP runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver where that harms nobody, else skb.
    #[default]
    Auto,
    /// On socket buffers, after the driver: works on every device.
    Skb,
    /// In the driver. On a veth it costs the pod its segmentation offload, and works only while the pod end has GRO or
    /// an XDP program.
    Driver,
}

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TcAttach {
    /// The one that is quicker to attach and costs others least: clsact.
    #[default]
    Auto,
    /// By tcx, beside other programs (Linux 6.6).
    Tcx,
    /// As a filter of a clsact queueing discipline.
    Clsact,
}

/// Whether writes of sysctls are noticed before they take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SysctlHook {
    /// Where the kernel, the capabilities and the mounts allow it; `status` says so, or why not.
    #[default]
    Auto,
    /// No: they are found by re-reading.
    Off,
}

#[derive(Debug, Args)]
pub struct RunDir {
    /// Directory of the control socket: one for each agent.
    #[arg(long = "run-dir", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub run_dir: RunDir,
    /// One JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The interface that the request comes in on.
    #[arg(long, value_name = "IF")]
    pub interface: String,
    /// The address that is asked for.
    #[arg(long, value_name = "IP")]
    pub target: Ipv4Addr,
    /// The address that asks; by default a neighbour on the interface.
    #[arg(long, value_name = "IP")]
    pub sender: Option<Ipv4Addr>,
    /// Its link-layer address; by default the neighbour's.
    #[arg(long, value_name = "MAC")]
    pub sender_mac: Option<Mac>,
    /// Run the loaded program on that very frame too, and fail if it decides otherwise.
    #[arg(long)]
    pub kernel: bool,
    #[command(flatten)]
    pub run_dir: RunDir,
    /// One JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Stats {
    /// Only this interface.
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    #[command(flatten)]
    pub run_dir: RunDir,
    /// One JSON document.
    #[arg(long)]
    pub json: bool,
}
