//! Which hook an interface gets, and why: policy only, no I/O.

use crate::cli::{Hook, TcAttach, XdpMode};
use crate::event::Link;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// `--hook`.
    pub hook: Hook,
    /// `--xdp-mode`.
    pub xdp_mode: XdpMode,
    /// `--tc-attach`.
    pub tc_attach: TcAttach,
}

impl Wish {
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

/// How the program sits on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
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

impl How {
    /// `xdp` or `tc`.
    pub fn hook(self) -> &'static str {
        match self {
            How::XdpSkb | How::XdpDriver | How::XdpVeth => "xdp",
            How::Tcx | How::Clsact => "tc",
        }
    }

    /// `skb`, `driver`, `tcx` or `clsact`.
    pub fn mode(self) -> &'static str {
        match self {
            How::XdpSkb => "skb",
            How::XdpDriver | How::XdpVeth => "driver",
            How::Tcx => "tcx",
            How::Clsact => "clsact",
        }
    }

    /// Whether it takes the interface's XDP slot.
    pub fn is_xdp(self) -> bool {
        self.hook() == "xdp"
    }
}

/// A hook to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub how: How,
    /// Why this one, for people.
    pub why: &'static str,
}

/// The hooks to try on an interface, best first; the next one is for when one cannot be had. What was asked for by
/// name has no next one.
pub fn choices(wish: Wish, link: &Link) -> Vec<Choice> {
    match wish.hook {
        Hook::Xdp => xdp(wish.xdp_mode, link),
        Hook::Tc => tc(wish.tc_attach, "asked for"),
        Hook::Auto if wish.xdp_mode != XdpMode::Auto => {
            let mut choices = xdp(wish.xdp_mode, link);
            choices.extend(tc(wish.tc_attach, "XDP could not be had"));
            choices
        }
        Hook::Auto => auto(wish.tc_attach, link),
    }
}

/// What costs everything else on the interface least: docs/adr/0006-hooks.md.
fn auto(attach: TcAttach, link: &Link) -> Vec<Choice> {
    let mut choices = Vec::new();
    let why = match link.kind.as_deref() {
        Some("veth") => "the default on a veth: XDP on socket buffers would cost its other traffic more",
        Some(_) => "the default on a virtual device",
        None => {
            choices.push(Choice { how: How::XdpDriver, why: "the device's driver runs XDP" });
            "the device's driver does not run XDP, or its slot is taken"
        }
    };
    choices.extend(tc(attach, why));
    choices.push(Choice { how: How::XdpSkb, why: "tc could not be had" });
    choices
}

fn xdp(mode: XdpMode, link: &Link) -> Vec<Choice> {
    let skb = |why| Choice { how: How::XdpSkb, why };
    match (mode, link.kind.as_deref()) {
        (XdpMode::Skb, _) => vec![skb("asked for")],
        (XdpMode::Driver, Some("veth")) => vec![Choice { how: How::XdpVeth, why: "asked for" }],
        (XdpMode::Driver, _) => vec![Choice { how: How::XdpDriver, why: "asked for" }],
        (XdpMode::Auto, Some("veth")) => {
            vec![skb("on a veth: in the driver it would cost the pod its segmentation offload")]
        }
        (XdpMode::Auto, Some(_)) => vec![skb("on a virtual device")],
        (XdpMode::Auto, None) => vec![
            Choice { how: How::XdpDriver, why: "the device's driver runs XDP" },
            skb("the device's driver does not run XDP"),
        ],
    }
}

fn tc(attach: TcAttach, why: &'static str) -> Vec<Choice> {
    let (tcx, clsact) = (Choice { how: How::Tcx, why }, Choice { how: How::Clsact, why });
    match attach {
        TcAttach::Tcx => vec![tcx],
        TcAttach::Clsact => vec![clsact],
        TcAttach::Auto => vec![clsact, tcx],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hows(hook: Hook, xdp_mode: XdpMode, tc_attach: TcAttach, kind: Option<&str>) -> Vec<How> {
        let link = Link { kind: kind.map(str::to_owned), ..Link::default() };
        choices(Wish { hook, xdp_mode, tc_attach }, &link).into_iter().map(|choice| choice.how).collect()
    }

    #[test]
    fn options_of_a_hook_that_is_not_asked_for_contradict_it() {
        let contradict = |hook, xdp_mode, tc_attach| Wish { hook, xdp_mode, tc_attach }.contradiction().is_some();
        assert!(contradict(Hook::Xdp, XdpMode::Auto, TcAttach::Tcx));
        assert!(contradict(Hook::Xdp, XdpMode::Skb, TcAttach::Clsact));
        assert!(contradict(Hook::Tc, XdpMode::Driver, TcAttach::Auto));
        assert!(!contradict(Hook::Tc, XdpMode::Auto, TcAttach::Clsact));
        assert!(!contradict(Hook::Xdp, XdpMode::Skb, TcAttach::Auto));
        assert!(!contradict(Hook::Auto, XdpMode::Skb, TcAttach::Clsact));
    }

    #[test]
    fn what_is_asked_for_by_name_has_no_substitute() {
        use {
            Hook::{Tc, Xdp},
            TcAttach as A, XdpMode as M,
        };
        assert_eq!(hows(Xdp, M::Skb, A::Auto, Some("veth")), [How::XdpSkb]);
        assert_eq!(hows(Xdp, M::Driver, A::Auto, Some("veth")), [How::XdpVeth]);
        assert_eq!(hows(Xdp, M::Driver, A::Auto, None), [How::XdpDriver]);
        assert_eq!(hows(Tc, M::Auto, A::Tcx, Some("veth")), [How::Tcx]);
        assert_eq!(hows(Tc, M::Auto, A::Clsact, None), [How::Clsact]);
    }

    #[test]
    fn auto_is_harmless_on_a_veth_and_fast_on_a_nic() {
        let auto = |kind| hows(Hook::Auto, XdpMode::Auto, TcAttach::Auto, kind);
        let harmless = [How::Clsact, How::Tcx, How::XdpSkb];
        assert_eq!(auto(Some("veth")), harmless);
        assert_eq!(auto(Some("tun")), harmless);
        assert_eq!(auto(None), [How::XdpDriver, How::Clsact, How::Tcx, How::XdpSkb]);
    }

    #[test]
    fn a_mode_of_xdp_goes_before_tc() {
        let auto = |mode| hows(Hook::Auto, mode, TcAttach::Clsact, Some("veth"));
        assert_eq!(auto(XdpMode::Skb), [How::XdpSkb, How::Clsact]);
        assert_eq!(auto(XdpMode::Driver), [How::XdpVeth, How::Clsact]);
    }
}
