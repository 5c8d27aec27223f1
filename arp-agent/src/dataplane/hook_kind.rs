//! The ways to attach the program to an interface.

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// XDP on socket buffers.
    XdpSkb,
    /// XDP in the driver; replies leave by XDP_TX.
    XdpDriver,
    /// XDP in the driver of a veth; replies leave by redirect.
    XdpVeth,
    /// tc by tcx.
    Tcx,
    /// tc by a filter on a clsact.
    Clsact,
}

impl HookKind {
    /// `xdp` or `tc`.
    pub fn hook(self) -> &'static str {
        match self {
            HookKind::XdpSkb | HookKind::XdpDriver | HookKind::XdpVeth => "xdp",
            HookKind::Tcx | HookKind::Clsact => "tc",
        }
    }

    /// `skb`, `driver`, `tcx` or `clsact`.
    pub fn mode(self) -> &'static str {
        match self {
            HookKind::XdpSkb => "skb",
            HookKind::XdpDriver | HookKind::XdpVeth => "driver",
            HookKind::Tcx => "tcx",
            HookKind::Clsact => "clsact",
        }
    }

    /// Whether it takes the interface's XDP slot.
    pub fn is_xdp(self) -> bool {
        self.hook() == "xdp"
    }
}
