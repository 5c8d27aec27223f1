//! The settings of `arp-agent run`: each one once, with its meaning, its range and its default. The command line, the
//! environment, the configuration file ([`sources`]) and the documents are made of them, and the agent is started with
//! them.

#[cfg(test)]
mod document;
mod file;
pub(crate) mod reload;
pub mod sources;

use crate::deviations::options::DeviationOptions;
use crate::interval::Interval;
use crate::protection::options::ProtectionOptions;
use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the control socket lies unless `--run-dir` says otherwise.
pub const RUN_DIR: &str = "/run/arp-agent";

/// Where a bpffs is mounted unless `--bpffs` says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf";

/// What an agent is started with. In the configuration file, the options' names are keys.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Interfaces to attach to: names or patterns such as `cali*`, separated by spaces. Interfaces that appear later
    /// count, too.
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = ' ')]
    pub interface: Vec<String>,
    /// Which hook to use.
    #[arg(long, value_enum, default_value_t)]
    pub hook: Hook,
    /// Where XDP runs: on socket buffers, or in the driver.
    #[arg(long, value_enum, default_value_t)]
    pub xdp_mode: XdpMode,
    /// Whether tc programs are attached by tcx or by clsact.
    #[arg(long, value_enum, default_value_t)]
    pub tc_attach: TcAttach,
    /// Directory of the control socket; each agent needs its own.
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// Interval between polls for kernel changes that send no notification. With the sysctl hook, full polls are
    /// rarer: at least one a minute. Until the next poll the agent may answer as before the change.
    #[arg(long, value_name = "TIME", default_value = "250ms")]
    pub reread_interval: Interval<10, 60_000>,
    /// Whether an eBPF program on the root of the cgroup tree reports writes of sysctls before they take effect.
    #[arg(long, value_enum, default_value_t)]
    pub sysctl_hook: UseSysctlHook,
    /// What to do while a program on the node has a packet socket for ARP (an ARP daemon).
    #[arg(long, value_enum, default_value_t)]
    pub arp_listeners: ArpListeners,
    /// How long the eBPF program goes on answering without a heartbeat from the agent.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub lease: Interval<50, 60_000>,
    /// The bpffs where the agent pins its BPF links, so that a restart keeps them; `off` pins none.
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    pub bpffs: PathBuf,
    /// Addresses with ports, separated by spaces, where /metrics, /livez and /readyz are served over HTTP.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 1.., value_delimiter = ' ', value_parser = address)]
    pub listen_address: Vec<SocketAddr>,
    /// Whether the metrics have the counts of each interface, too.
    #[arg(long, value_enum, default_value_t)]
    pub metrics_interfaces: MetricsInterfaces,
    /// Which log lines are written; `-v` is the same as `debug`.
    #[arg(long, value_enum, default_value_t)]
    pub log_level: LogLevel,
    /// How log lines are written to standard error.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Whether the agent answers nothing, and compares what it would do with what the kernel does; `status` says what came of
    /// it. Needs Linux 6.6.
    #[arg(long, value_enum, default_value_t, num_args = 0..=1, default_missing_value = "on", value_name = "WHETHER")]
    pub shadow: ShadowOption,
    /// The policies that protect the node.
    #[command(flatten)]
    pub protection: ProtectionOptions,
    /// The policies that answer where the kernel would not.
    #[command(flatten)]
    pub deviations: DeviationOptions,
}

impl Default for Options {
    fn default() -> Self {
        Options::parse_from([""])
    }
}

impl Options {
    /// Which hooks may be had.
    pub fn hook_config(&self) -> HookConfig {
        HookConfig { hook: self.hook, xdp_mode: self.xdp_mode, tc_attach: self.tc_attach }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no address with a port, such as 127.0.0.1:9798 or [::1]:9798".to_owned())
}

/// Which hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// The first that works: on a veth or another virtual device tc tcx, xdp skb; on a NIC xdp driver, tc tcx,
    /// xdp skb. Before Linux 6.6, tc clsact takes the place of tc tcx.
    #[default]
    Auto,
    /// XDP.
    Xdp,
    /// tc, on ingress.
    Tc,
}

/// How XDP runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// The first that works: on a virtual device skb; on a NIC driver, skb.
    #[default]
    Auto,
    /// On socket buffers, after the driver: works on every Ethernet device.
    Skb,
    /// In the driver. On a veth it turns off the pod's segmentation offload, and it is attached only while the pod end
    /// has GRO or an XDP program.
    Driver,
}

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TcAttach {
    /// tcx where the kernel has it (Linux 6.6), else clsact.
    #[default]
    Auto,
    /// By tcx, beside other programs (Linux 6.6).
    Tcx,
    /// As a filter of a clsact queueing discipline. An interface can have only one, so other tools cannot add theirs.
    Clsact,
}

/// Whether writes of sysctls are noticed before they take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UseSysctlHook {
    /// Yes, where the kernel, the capabilities and the mounts allow it; `status` says so, or why not.
    #[default]
    Auto,
    /// No: the agent finds written settings at its next poll.
    Off,
}

/// What an open packet socket for ARP does to its interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ArpListeners {
    /// Frames pass on the socket's interface, so that the socket sees them; on all if it is bound to none.
    #[default]
    Pass,
    /// Answer anyway: the socket does not see the requests that the fast path answers.
    Ignore,
}

/// Whether nothing is answered, and all is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ShadowOption {
    /// No: the agent answers.
    #[default]
    Off,
    /// Yes: the kernel answers everything.
    On,
}

/// Whether metrics have the counts of each interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MetricsInterfaces {
    /// No: only sums, which take the same room however many pods there are.
    #[default]
    Off,
    /// Yes: each pod makes time series of its own.
    On,
}

/// Which log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only what makes the agent end.
    Error,
    /// Also what needs somebody's attention.
    Warn,
    /// Also starts, ends, and changes of an interface's state.
    #[default]
    Info,
    /// Also each change of the maps.
    Debug,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `journal` under systemd, else `text`.
    #[default]
    Auto,
    /// Time, level and message.
    Text,
    /// The level as the journal reads it (`<6>`), and the message; the journal adds the time.
    Journal,
    /// One JSON object a line: `time`, `level`, `target`, `message`.
    Json,
}

/// Which hooks may be had: the options about it together.
#[derive(Clone, Copy, Debug, Default)]
pub struct HookConfig {
    /// `--hook`.
    pub hook: Hook,
    /// `--xdp-mode`.
    pub xdp_mode: XdpMode,
    /// `--tc-attach`.
    pub tc_attach: TcAttach,
}

impl HookConfig {
    /// What is wrong with it, if options contradict each other.
    pub fn contradiction(&self) -> Option<&'static str> {
        match (self.hook, self.xdp_mode, self.tc_attach) {
            (Hook::Xdp, _, TcAttach::Tcx | TcAttach::Clsact) => {
                Some("--hook xdp and --tc-attach contradict each other: leave out one of them")
            }
            (Hook::Tc, XdpMode::Skb | XdpMode::Driver, _) => {
                Some("--hook tc and --xdp-mode contradict each other: leave out one of them")
            }
            _ => None,
        }
    }
}
