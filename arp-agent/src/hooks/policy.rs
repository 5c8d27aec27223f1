//! Which hook an interface gets, and why: policy only, no I/O.

use crate::config::{Hook, HookConfig, TcAttach, XdpMode};
use crate::dataplane::HookKind;
use crate::event::Link;

/// A hook to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Which.
    pub how: HookKind,
    /// Why this one, for people.
    pub why: &'static str,
}

/// What else decides which hook suits an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The kernel has tcx.
    pub knows_tcx: bool,
    /// Others have tc programs on it, which would miss what XDP answers.
    pub programs: bool,
    /// Others have tc filters on its ingress, which come after all programs of tcx.
    pub filters: bool,
}

/// The hooks to try on an interface, best first; the next one is for when one cannot be had. What was asked for by
/// name has no next one, unless that was asked for by name, too.
pub(crate) fn candidates(hook_config: HookConfig, link: &Link, around: Surroundings) -> Vec<Candidate> {
    match (hook_config.hook, hook_config.xdp_mode, hook_config.tc_attach) {
        (Hook::Xdp, mode, _) => xdp(mode, link),
        (Hook::Tc, _, attach) => tc(attach, "requested", around),
        (Hook::Auto, XdpMode::Auto, TcAttach::Auto) => auto(link, around),
        (Hook::Auto, XdpMode::Auto, attach) => tc(attach, "requested", around),
        (Hook::Auto, mode, TcAttach::Auto) => xdp(mode, link),
        (Hook::Auto, mode, attach) => {
            let mut candidates = xdp(mode, link);
            candidates.extend(tc(attach, "XDP is not available", around));
            candidates
        }
    }
}

/// What costs everything else on the interface least: docs/adr/0006-hooks.md.
fn auto(link: &Link, around: Surroundings) -> Vec<Candidate> {
    let driver = Candidate { how: HookKind::XdpDriver, why: "the device's driver runs XDP" };
    let why = match link.kind.as_deref() {
        Some("veth") => "the default on a veth: XDP on socket buffers would cost its other traffic more",
        Some(_) => "the default on a virtual device",
        None if around.programs => "others have tc programs here, which would not see what XDP answers",
        None => "the device's driver does not run XDP, or its slot is taken",
    };
    let tc = tc(TcAttach::Auto, why, around);
    let skb = Candidate { how: HookKind::XdpSkb, why: "tc is not available" };
    let (first, last) = match link.kind {
        None if around.programs => (None, Some(driver)),
        None => (Some(driver), None),
        Some(_) => (None, None),
    };
    first.into_iter().chain(tc).chain(last).chain([skb]).collect()
}

fn xdp(mode: XdpMode, link: &Link) -> Vec<Candidate> {
    let skb = |why| Candidate { how: HookKind::XdpSkb, why };
    match (mode, link.kind.as_deref()) {
        (XdpMode::Skb, _) => vec![skb("requested")],
        (XdpMode::Driver, Some("veth")) => vec![Candidate { how: HookKind::XdpVeth, why: "requested" }],
        (XdpMode::Driver, _) => vec![Candidate { how: HookKind::XdpDriver, why: "requested" }],
        (XdpMode::Auto, Some("veth")) => {
            vec![skb("on a veth: in the driver it would cost the pod its segmentation offload")]
        }
        (XdpMode::Auto, Some(_)) => vec![skb("on a virtual device")],
        (XdpMode::Auto, None) => vec![
            Candidate { how: HookKind::XdpDriver, why: "the device's driver runs XDP" },
            skb("the device's driver does not run XDP"),
        ],
    }
}

/// clsact takes the one place of its kind on an interface, and adding it cuts the interface's traffic for a moment: only
/// where there is no tcx, or where others have done it already, and their filters come after tcx.
fn tc(attach: TcAttach, why: &'static str, around: Surroundings) -> Vec<Candidate> {
    let (tcx, clsact) = (Candidate { how: HookKind::Tcx, why }, Candidate { how: HookKind::Clsact, why });
    match attach {
        TcAttach::Tcx => vec![tcx],
        TcAttach::Clsact => vec![clsact],
        TcAttach::Auto if around.knows_tcx && around.filters => {
            let last =
                Candidate { how: HookKind::Clsact, why: "others have tc filters here, which would come after tcx" };
            vec![last, tcx]
        }
        TcAttach::Auto if around.knows_tcx => vec![tcx],
        TcAttach::Auto => vec![clsact],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hows(hook: Hook, xdp_mode: XdpMode, tc_attach: TcAttach, kind: Option<&str>, knows_tcx: bool) -> Vec<HookKind> {
        let around = Surroundings { knows_tcx, ..Surroundings::default() };
        hows_around(HookConfig { hook, xdp_mode, tc_attach }, kind, around)
    }

    fn hows_around(hook_config: HookConfig, kind: Option<&str>, around: Surroundings) -> Vec<HookKind> {
        let link = Link { kind: kind.map(str::to_owned), ..Link::default() };
        candidates(hook_config, &link, around).into_iter().map(|candidate| candidate.how).collect()
    }

    #[test]
    fn what_others_have_on_tc_is_let_see_frames_first() {
        let auto = HookConfig { hook: Hook::Auto, xdp_mode: XdpMode::Auto, tc_attach: TcAttach::Auto };
        let programs = Surroundings { knows_tcx: true, programs: true, filters: false };
        let filters = Surroundings { filters: true, ..programs };
        assert_eq!(hows_around(auto, Some("veth"), programs), [HookKind::Tcx, HookKind::XdpSkb]);
        assert_eq!(hows_around(auto, None, programs), [HookKind::Tcx, HookKind::XdpDriver, HookKind::XdpSkb]);
        assert_eq!(hows_around(auto, Some("veth"), filters), [HookKind::Clsact, HookKind::Tcx, HookKind::XdpSkb]);
        let tc = HookConfig { hook: Hook::Tc, ..auto };
        assert_eq!(hows_around(tc, None, filters), [HookKind::Clsact, HookKind::Tcx]);
        let named = HookConfig { hook: Hook::Tc, tc_attach: TcAttach::Tcx, ..auto };
        assert_eq!(hows_around(named, None, filters), [HookKind::Tcx], "what was asked for by name");
    }

    #[test]
    fn options_of_a_hook_that_is_not_asked_for_contradict_it() {
        let contradict = |hook, xdp_mode, tc_attach| HookConfig { hook, xdp_mode, tc_attach }.contradiction().is_some();
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
            Hook::{Auto, Tc, Xdp},
            TcAttach as A, XdpMode as M,
        };
        for knows_tcx in [true, false] {
            let hows = |hook, mode, attach, kind| hows(hook, mode, attach, kind, knows_tcx);
            for hook in [Xdp, Auto] {
                assert_eq!(hows(hook, M::Skb, A::Auto, Some("veth")), [HookKind::XdpSkb]);
                assert_eq!(hows(hook, M::Driver, A::Auto, Some("veth")), [HookKind::XdpVeth]);
                assert_eq!(hows(hook, M::Driver, A::Auto, None), [HookKind::XdpDriver]);
            }
            for hook in [Tc, Auto] {
                assert_eq!(hows(hook, M::Auto, A::Tcx, Some("veth")), [HookKind::Tcx]);
                assert_eq!(hows(hook, M::Auto, A::Clsact, None), [HookKind::Clsact]);
            }
            assert_eq!(
                hows(Auto, M::Skb, A::Clsact, Some("veth")),
                [HookKind::XdpSkb, HookKind::Clsact],
                "both by name"
            );
        }
    }

    #[test]
    fn auto_is_harmless_on_a_veth_and_fast_on_a_nic() {
        for (knows_tcx, tc) in [(true, HookKind::Tcx), (false, HookKind::Clsact)] {
            let auto = |kind| hows(Hook::Auto, XdpMode::Auto, TcAttach::Auto, kind, knows_tcx);
            assert_eq!(auto(Some("veth")), [tc, HookKind::XdpSkb]);
            assert_eq!(auto(Some("tun")), [tc, HookKind::XdpSkb]);
            assert_eq!(auto(None), [HookKind::XdpDriver, tc, HookKind::XdpSkb]);
            assert_eq!(hows(Hook::Tc, XdpMode::Auto, TcAttach::Auto, Some("veth"), knows_tcx), [tc]);
        }
    }
}
