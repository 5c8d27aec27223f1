//! The options of `arp-agent run`: each one once, with its meaning, its range and its default. The command line and the
//! configuration file are made of them, and the agent is started with them.

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::Table;

/// Where the control socket lies unless `--run-dir` says otherwise.
pub const RUN_DIR: &str = "/run/arp-agent";

/// Where a bpffs is mounted unless `--bpffs` says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf";

/// What an agent is started with. In the configuration file, the options' names are keys.
#[derive(Clone, Debug, Parser, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Interfaces to attach to: names or patterns such as `cali*`. Interfaces that appear later count, too.
    #[arg(long, value_name = "GLOB", num_args = 1..)]
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
    /// Interval between polls for kernel changes that send no notification, in ms. With the sysctl hook, full polls are
    /// rarer: at least one a minute. Until the next poll the agent may answer as before the change.
    #[arg(long, value_name = "MS", default_value = "250")]
    pub reread_interval: Milliseconds<10, 60_000>,
    /// Whether an eBPF program on the root of the cgroup tree reports writes of sysctls before they take effect.
    #[arg(long, value_enum, default_value_t)]
    pub sysctl_hook: SysctlHook,
    /// What to do while a program on the node has a packet socket for ARP (an ARP daemon).
    #[arg(long, value_enum, default_value_t)]
    pub arp_listeners: ArpListeners,
    /// How long the eBPF program goes on answering without a heartbeat from the agent, in ms.
    #[arg(long, value_name = "MS", default_value = "1000")]
    pub lease: Milliseconds<50, 60_000>,
    /// The bpffs where the agent pins its BPF links, so that a restart keeps them; `off` pins none.
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    pub bpffs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options::parse_from([""])
    }
}

impl Options {
    /// These options, and those of a configuration file for what the command line did not give (`is_given`, by name).
    ///
    /// # Errors
    /// The file cannot be read, or has what is no option or no value of it.
    pub fn with_file(&self, path: &Path, is_given: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        let context = || format!("configuration file {}", path.display());
        let text = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", context()))?;
        // Read as options first: such errors name the line.
        toml::from_str::<Options>(&text).with_context(context)?;
        let file: Table = toml::from_str(&text).with_context(context)?;
        let mut merged = Table::try_from(self).with_context(context)?;
        merged.extend(file.into_iter().filter(|(name, _)| !is_given(name)));
        merged.try_into().with_context(context)
    }

    /// Which hooks may be had.
    pub fn hook_config(&self) -> HookConfig {
        HookConfig { hook: self.hook, xdp_mode: self.xdp_mode, tc_attach: self.tc_attach }
    }
}

/// So many milliseconds, within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Milliseconds<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Milliseconds<MIN, MAX> {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Milliseconds<MIN, MAX> {
    type Error = String;

    fn try_from(ms: u64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&ms) { Ok(Self(ms)) } else { Err(format!("{ms} is not in {MIN}..={MAX} ms")) }
    }
}

impl<const MIN: u64, const MAX: u64> From<Milliseconds<MIN, MAX>> for u64 {
    fn from(ms: Milliseconds<MIN, MAX>) -> u64 {
        ms.0
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Milliseconds<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u64>().map_err(|error| error.to_string())?.try_into()
    }
}

/// Which hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SysctlHook {
    /// Yes, where the kernel, the capabilities and the mounts allow it; `status` says so, or why not.
    #[default]
    Auto,
    /// No: the agent finds written settings at its next poll.
    Off,
}

/// What an open packet socket for ARP does to its interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ArpListeners {
    /// Frames pass on the socket's interface, so that the socket sees them; on all if it is bound to none.
    #[default]
    Pass,
    /// Answer anyway: the socket does not see the requests that the fast path answers.
    Ignore,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of a file with this text, and of a command line that gives these of them.
    fn read(name: &str, text: &str, command_line: &[&str], given: &[&str]) -> anyhow::Result<Options> {
        let path = std::env::temp_dir().join(format!("arp-agent-config-{}-{name}", std::process::id()));
        fs::write(&path, text)?;
        let options = Options::parse_from([&["run"], command_line].concat());
        let read = options.with_file(&path, |name| given.contains(&name));
        fs::remove_file(&path)?;
        read
    }

    #[test]
    fn a_configuration_file_names_the_options() {
        let text = "interface = [\"cali*\"]\nreread-interval = 50\nhook = \"tc\"\nxdp-mode = \"skb\"\n\
                    tc-attach = \"tcx\"\nrun-dir = \"/run/x\"";
        let options = read("names", text, &[], &[]).unwrap();
        assert_eq!(options.interface, ["cali*"]);
        assert_eq!(options.reread_interval.duration(), Duration::from_millis(50));
        assert_eq!((options.hook, options.xdp_mode), (Hook::Tc, XdpMode::Skb));
        assert_eq!(options.tc_attach, TcAttach::Tcx);
        assert_eq!(options.run_dir, Path::new("/run/x"));
        assert_eq!(options.lease.duration(), Duration::from_millis(1000), "the default");
    }

    #[test]
    fn the_command_line_wins_over_the_configuration_file() {
        let text = "interface = [\"cali*\"]\nlease = 100\nhook = \"tc\"";
        let line = ["--interface", "eth0", "--lease", "1000"];
        let options = read("wins", text, &line, &["interface", "lease"]).unwrap();
        assert_eq!(options.interface, ["eth0"]);
        assert_eq!(options.lease.duration(), Duration::from_millis(1000), "given, though it is the default");
        assert_eq!(options.hook, Hook::Tc);
    }

    #[test]
    fn mistakes_in_a_configuration_file_are_named() {
        for (text, named) in [
            ("interfaces = []", "interfaces"),
            ("hook = \"netkit\"", "netkit"),
            ("lease = 1", "lease = 1"),
            ("lease = 1", "50..=60000"),
            ("lease = \"x\"", "lease"),
        ] {
            let error = format!("{:#}", read("mistakes", text, &[], &[]).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }
}
