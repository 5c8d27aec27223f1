//! The command line, as types.

use crate::config::{ArpListeners, Hook, SysctlHook, TcAttach, XdpMode};
use arp_common::Lladdr;
use clap::{Args, Parser, Subcommand};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the control socket lies unless `--run-dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/arp-agent";

/// Answers ARP requests in eBPF, exactly as the kernel's proxy_arp, proxy_arp_pvlan and local-address code would.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// More log output: -v every change of the maps, -vv also every decision of the eBPF program (slow).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces and answer ARP requests, until SIGTERM or SIGINT.
    Run(Run),
    /// Show whether an agent runs, on which interfaces it answers, and why not on the others. Exit code 0 ready, 1 not
    /// running, 3 running but not ready, 4 ready but no matching interface answers.
    Status(Status),
    /// Explain whether the fast path answers a request on an interface, what this node's kernel does with it, and why.
    /// Exit code 0 if the fast path replies, 3 if it passes.
    Explain(Explain),
    /// Show the counters: requests answered, and frames passed by reason.
    Stats(Stats),
    /// Uninstall: remove everything that dead agents have left on interfaces. Exit code 0 if nothing is left, 3 if an
    /// agent still runs.
    Detach(Detach),
}

#[derive(Debug, Args)]
pub struct Run {
    /// Interfaces to attach to: names or patterns such as `cali*`. Interfaces that appear later count, too.
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
    /// Directory of the control socket; each agent needs its own [default: /run/arp-agent].
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// TOML file whose keys are the names of these options; the command line overrides it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interval between polls for kernel changes that send no notification, in ms. With the sysctl hook, full polls are
    /// rarer: at least one a minute. Until the next poll, old answers may be given [default: 250].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub reread_interval: Option<u64>,
    /// Whether an eBPF program on the root of the cgroup tree reports writes of sysctls before they take effect
    /// [default: auto].
    #[arg(long, value_enum)]
    pub sysctl_hook: Option<SysctlHook>,
    /// What to do while a program on the node has a packet socket for ARP (an ARP daemon) [default: pass].
    #[arg(long, value_enum)]
    pub arp_listeners: Option<ArpListeners>,
    /// How long the eBPF program goes on answering without a heartbeat from the agent, in ms [default: 1000].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub lease: Option<u64>,
    /// The bpffs where the agent pins its BPF links, so that a restart keeps them; `off` pins none
    /// [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
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
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The interface that the request comes in on.
    #[arg(long, value_name = "IF")]
    pub interface: String,
    /// The address that the request asks for.
    #[arg(long, value_name = "IP")]
    pub target: Ipv4Addr,
    /// The address that sends the request; by default a neighbour on the interface.
    #[arg(long, value_name = "IP")]
    pub sender: Option<Ipv4Addr>,
    /// The link-layer address of the sender; by default the neighbour's.
    #[arg(long, value_name = "MAC")]
    pub sender_mac: Option<Lladdr>,
    /// Run the loaded program on that very frame too, and fail if it decides otherwise.
    #[arg(long)]
    pub kernel: bool,
    #[command(flatten)]
    pub run_dir: RunDir,
    /// Print one JSON document.
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
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Detach {
    /// Only interfaces that match: names or patterns such as `cali*` [default: all].
    #[arg(long = "interface", value_name = "GLOB", num_args = 1..)]
    pub interfaces: Vec<String>,
    /// Only print what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// The bpffs that the agent was started with [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    #[command(flatten)]
    pub run_dir: RunDir,
}
