//! The options of `arp-agent run`.

use clap::ValueEnum;
use serde::Deserialize;

/// Which hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// The first that works: on a veth or another virtual device tc tcx, xdp skb; on a NIC xdp driver, tc tcx,
    /// xdp skb. Before Linux 6.6, tc clsact takes the place of tc tcx.
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
    /// The first that works: on a virtual device skb; on a NIC driver, skb.
    #[default]
    Auto,
    /// On socket buffers, after the driver: works on every Ethernet device.
    Skb,
    /// In the driver. On a veth it costs the pod its segmentation offload, and it is attached only while the pod end
    /// has GRO or an XDP program.
    Driver,
}

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TcAttach {
    /// tcx where the kernel has it (Linux 6.6), else clsact.
    #[default]
    Auto,
    /// By tcx, beside other programs (Linux 6.6).
    Tcx,
    /// As a filter of a clsact queueing discipline, which takes the one place of its kind on an interface.
    Clsact,
}

/// Whether writes of sysctls are noticed before they take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SysctlHook {
    /// Yes, where the kernel, the capabilities and the mounts allow it; `status` says so, or why not.
    #[default]
    Auto,
    /// No: the agent finds written settings at its next poll.
    Off,
}

/// What an open packet socket for ARP does to its interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ArpListeners {
    /// Frames pass on the socket's interface, so that the socket sees them; on all if it is bound to none.
    #[default]
    Pass,
    /// Answer anyway: the socket does not see the requests that the fast path answers.
    Ignore,
}

/// What the command line asks for.
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
