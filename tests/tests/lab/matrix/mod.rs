//! The exactness matrix: a test for each row of docs/kernel-arp/rows.md, named after its id. The kernel alone answers
//! first, then the fast path on the same state. `every_row_has_a_test` (xtask/src/rows.rs) compares tests and rows.

mod addresses;
mod cards;
mod delays;
mod devices;
mod filters;
mod first;
mod flood;
mod frame;
mod hooks;
mod kinds;
mod known_senders;
mod local;
mod local_table;
mod multipath;
mod names_and_marks;
mod nexthop_groups;
mod others;
mod proxying;
mod routes;
mod rule_actions;
mod rule_changes;
mod rule_selectors;
mod rule_sets;
mod rules;
mod senders;
mod senders_by_rules;
mod state;
mod tables;
mod unreported;
mod vrf;

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use crate::explained::agrees;
use anyhow::{Context, Result, ensure};
pub(crate) use lab::topology::{
    LOCAL_TARGET as L, ROUTED_TARGET as X, SAME_INTERFACE_TARGET as Y, SECOND_UPLINK_IP as U1, UPLINK_IP,
    UPLINK_IP as U,
};
use lab::{Answerer, Counted, Host, Lab, SideBySide, UNCOUNTED, stretched, topology};

/// A target that only the default route covers: Z of the matrix.
pub(crate) const Z: [u8; 4] = [10, 20, 0, 1];

/// Table 100 with nothing but `unreachable default`, and with nothing but a default route by `u1`.
pub(crate) const DEAD: &str = "route add unreachable default table 100";
pub(crate) const BY_U1: &str = "route add default via 10.8.0.254 dev u1 table 100";
/// Main without its default route.
pub(crate) const NO_DEFAULT: &str = "route del default";

/// A test for each row: `k001_in_words: [step, step, …];`. Each test has a base of its own, which its steps change one after
/// another. The base is [`base`], unless the first line names another: `on with_uplinks;`.
macro_rules! rows {
    (on $base:path; $($name:ident: [$($step:expr),+ $(,)?];)+) => {$(
        #[test]
        fn $name() -> anyhow::Result<()> {
            lab::needs_root!();
            $crate::matrix::check_on($base()?, &[$($step),+])
        }
    )+};
    ($($name:ident: [$($step:expr),+ $(,)?];)+) => {
        $crate::matrix::rows! { on $crate::matrix::base; $($name: [$($step),+];)+ }
    };
}
pub(crate) use rows;

/// One or more requests of a row on the same state.
pub(crate) struct Phase {
    /// What is done before, see [`run`].
    when: &'static [&'static str],
    /// The pod that asks.
    pod: &'static str,
    /// From how many link-layer addresses. From more than one, the pod's neighbour entry is permanent, so that it holds for
    /// all of them.
    addresses: u8,
    /// The frames, and what must come of each.
    requests: Vec<(Ask, Expect)>,
}

impl Phase {
    /// Asked by the other pod, on `w0`.
    pub(crate) fn on_w0(self) -> Self {
        Phase { pod: "p1", ..self }
    }

    /// Asked from many link-layer addresses. Where a hash chooses among several next hops, an ARP request's address is
    /// part of what it hashes.
    pub(crate) fn by_many(self) -> Self {
        Phase { addresses: MANY, ..self }
    }
}

/// Enough for a fair hash to choose both ways: all but once in 500,000 times.
const MANY: u8 = 20;

/// The frame of a row, from the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// The base's request.
    For([u8; 4]),
    /// A probe.
    Probe([u8; 4]),
    /// The base's request with another `spa`, for the second address.
    From([u8; 4], [u8; 4]),
    /// The base's request for L with other bytes at these places.
    With(&'static [(usize, &'static [u8])]),
    /// The base's request, to the interface's own address.
    Unicast([u8; 4]),
    /// Any other frame.
    Raw(fn(&Host) -> Vec<u8>),
}

impl Ask {
    fn frame(self, host: &Host) -> Vec<u8> {
        let mut frame = host.who_has(L).to_vec();
        match self {
            Ask::For(tpa) => return host.who_has(tpa).to_vec(),
            Ask::Probe(tpa) => return host.probe(tpa).to_vec(),
            Ask::From(spa, tpa) => {
                frame[28..32].copy_from_slice(&spa);
                frame[38..42].copy_from_slice(&tpa);
            }
            Ask::With(changes) => {
                changes.iter().for_each(|&(at, bytes)| frame[at..at + bytes.len()].copy_from_slice(bytes));
            }
            Ask::Unicast(tpa) => {
                frame[..6].copy_from_slice(&topology::NODE_MAC.bytes());
                frame[38..42].copy_from_slice(&tpa);
            }
            Ask::Raw(make) => return make(host),
        }
        frame
    }
}

/// What must come of a row; the kernel alone decides whether there is an answer, this says whether that is what the row says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// Answered, by the fast path.
    Fast,
    /// Answered, by the kernel after a pass for this reason.
    Kernel(&'static str),
    /// Passed for this reason; the kernel may answer or not.
    Passed(&'static str),
    /// Not answered, after a pass for this reason.
    Silent(&'static str),
    /// Not answered, after a pass for one of these reasons: which one is a matter of time.
    SilentForOneOf(&'static [&'static str]),
    /// Passed for this reason each time; of the many, some are answered and some are not.
    SomeAnswered(&'static str),
}

/// In place of a reason, for a tag in the frame. By tcx the program sees the tag beside the frame and counts `vlan_tag`; an XDP
/// program sees another EtherType, and a clsact filter for ARP does not see the frame.
const TAGGED: &str = "tagged";

/// What [`TAGGED`] stands for where the program is attached in this mode.
fn reason_in(mode: &str, reason: &'static str) -> &'static str {
    match (reason, mode) {
        (TAGGED, "tcx") => "vlan_tag",
        (TAGGED, _) => UNCOUNTED,
        (reason, _) => reason,
    }
}

impl Expect {
    /// Whether it came about, where the program is attached in this mode.
    fn holds(self, by: &Answerer, mode: &str) -> bool {
        let kernel = |reason| *by == Answerer::kernel(reason_in(mode, reason));
        let nobody = |reason| *by == Answerer::nobody(reason_in(mode, reason));
        match self {
            Expect::Fast => *by == Answerer::FastPath,
            Expect::Kernel(reason) => kernel(reason),
            Expect::Passed(reason) | Expect::SomeAnswered(reason) => kernel(reason) || nobody(reason),
            Expect::Silent(reason) => nobody(reason),
            Expect::SilentForOneOf(reasons) => reasons.iter().any(|&reason| nobody(reason)),
        }
    }
}

impl Expect {
    /// The same for requests from so many addresses, of which so many were replied to.
    fn holds_for_all(self, addresses: u8, replied: usize, counted: &Counted, mode: &str) -> bool {
        let all = usize::from(addresses);
        let passed = |reason| {
            counted.answered == 0
                && counted.passed == [(reason_in(mode, reason).to_owned(), u64::from(addresses))].into()
        };
        match self {
            Expect::Fast => counted.answered == u64::from(addresses) && counted.passed.is_empty() && replied == all,
            Expect::Kernel(reason) => passed(reason) && replied == all,
            Expect::Passed(reason) => passed(reason),
            Expect::Silent(reason) => passed(reason) && replied == 0,
            Expect::SilentForOneOf(reasons) => reasons.iter().any(|&reason| passed(reason)) && replied == 0,
            Expect::SomeAnswered(reason) => passed(reason) && (1..all).contains(&replied),
        }
    }
}

/// A request on the base as it is.
pub(crate) fn ask(ask: Ask, expect: Expect) -> Phase {
    when(&[], ask, expect)
}

/// A request after changes.
pub(crate) fn when(when: &'static [&'static str], ask: Ask, expect: Expect) -> Phase {
    each(when, &[(ask, expect)])
}

/// Several requests after changes.
pub(crate) fn each(when: &'static [&'static str], requests: &[(Ask, Expect)]) -> Phase {
    Phase { when, pod: "p0", addresses: 1, requests: requests.to_vec() }
}

/// Whether what is expected on `v0` came about.
fn holds(parity: &mut SideBySide, expect: Expect, by: &Answerer) -> Result<bool> {
    Ok(expect.holds(by, &mode(parity)?))
}

/// How the program is attached to `v0`.
fn mode(parity: &mut SideBySide) -> Result<String> {
    let status = parity.agent().status()?;
    let mode = status.interface("v0")["mode"].as_str().context("status does not say how v0 is attached to")?;
    Ok(mode.to_owned())
}

/// Runs a row's steps on the base.
pub(crate) fn check(steps: &[Phase]) -> Result<()> {
    check_on(base()?, steps)
}

/// Runs a row's steps one after another, each from valid neighbour entries of the pods. All are run; an error names those
/// that failed.
pub(crate) fn check_on(mut parity: SideBySide, steps: &[Phase]) -> Result<()> {
    let mut failed = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        if let Err(error) = check_step(&mut parity, step) {
            failed.push(format!("step {number}, after {:?}: {error:#}", step.when));
        }
    }
    ensure!(failed.is_empty(), "{} of {} steps\n{}", failed.len(), steps.len(), failed.join("\n"));
    Ok(())
}

/// The base twice, with an agent for `v0` on one.
pub(crate) fn base() -> Result<SideBySide> {
    SideBySide::start(topology::matrix, &["v0"])
}

/// The base of the rows from K160 on twice, with an agent for both pods' interfaces on one.
pub(crate) fn with_uplinks() -> Result<SideBySide> {
    SideBySide::start(topology::matrix_with_uplinks, &["v0", "w0"])
}

fn check_step(parity: &mut SideBySide, step: &Phase) -> Result<()> {
    let state = if step.addresses > 1 { "permanent" } else { "stale" };
    parity.change(|lab| {
        // First the entries, so that a step can change them.
        for pod in lab.hosts().filter(|host| host.name().starts_with('p')) {
            let (ip, mac, node_end) = (Ipv4Addr::from(pod.ip()), pod.mac(), pod.node_end());
            lab.node().ip(&format!("neigh replace {ip} lladdr {mac} dev {node_end} nud {state}"))?;
        }
        run_all(lab, step.when)
    })?;
    let (mode, mut failed) = (mode(parity)?, Vec::new());
    for &(ask, expect) in &step.requests {
        if let Err(error) = check_request(parity, &mode, step, ask, expect) {
            failed.push(format!("{ask:?}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n  "));
    Ok(())
}

fn check_request(parity: &mut SideBySide, mode: &str, step: &Phase, ask: Ask, expect: Expect) -> Result<()> {
    if step.addresses == 1 {
        let outcome = parity.ask(step.pod, |pod| ask.frame(pod)).with_context(|| format!("expected {expect:?}"))?;
        let by = outcome.by;
        ensure!(expect.holds(&by, mode), "expected {expect:?}, got {by:?}");
        return explain_agrees(parity, step, ask, outcome.replies.len());
    }
    let (replied, counted) = parity
        .ask_all(step.pod, |pod| from_many_addresses(&ask.frame(pod), step.addresses))
        .with_context(|| format!("expected {expect:?}"))?;
    let holds = expect.holds_for_all(step.addresses, replied, &counted, mode);
    ensure!(holds, "expected {expect:?}, got {replied} of {}, {counted:?}", step.addresses);
    explain_agrees(parity, step, ask, replied)
}

/// `explain`, where no agent runs, says of the row's frame what the kernel alone did.
fn explain_agrees(parity: &SideBySide, step: &Phase, ask: Ask, replied: usize) -> Result<()> {
    let (node, pod) = (parity.alone().node(), parity.alone().host(step.pod));
    agrees(node, pod.node_end(), &ask.frame(pod), replied, step.addresses.into())
}

/// The frame from so many link-layer addresses, of which the first is its own.
pub(crate) fn from_many_addresses(frame: &[u8], addresses: u8) -> Vec<Vec<u8>> {
    let from = |number: u8| {
        let mut frame = frame.to_vec();
        if number > 0 {
            let address = [2, 0, 9, 9, number.wrapping_mul(91), number.wrapping_mul(37)];
            frame[6..12].copy_from_slice(&address);
            frame[22..28].copy_from_slice(&address);
        }
        frame
    };
    (0..addresses).map(from).collect()
}

pub(crate) fn run_all(lab: &Lab, steps: &[&str]) -> Result<()> {
    steps.iter().try_for_each(|step| run(lab, step))
}

/// One step of a row: `v0.arp_ignore=1` (a sysctl under net.ipv4.conf), `/net/ipv4/neigh/v0/proxy_delay=80` (any
/// sysctl; with a `?` before it, where the kernel has it), `unplug external` and `plug external`, `mark p0 7` (what the pod
/// sends), `pause 400` (milliseconds), `nft …` or `tc …` on the node, `refused …` (an `ip` command that must fail), anything
/// else `ip` on the node.
fn run(lab: &Lab, step: &str) -> Result<()> {
    let node = lab.node();
    let step = match step.strip_prefix('?') {
        Some(step) if step.split_once('=').is_some_and(|(key, _)| node.read_sysctl(key).is_err()) => return Ok(()),
        Some(step) => step,
        None => step,
    };
    let done = if let Some((key, value)) = step.split_once('=').filter(|_| !step.contains(' ')) {
        match key.strip_prefix('/') {
            Some(path) => node.sysctl(path, value),
            None => node.sysctl(&format!("net.ipv4.conf.{key}"), value),
        }
    } else if let Some(host) = step.strip_prefix("unplug ") {
        lab.unplug(host)
    } else if let Some(host) = step.strip_prefix("plug ") {
        lab.plug(host)
    } else if let Some((host, mark)) = step.strip_prefix("mark ").and_then(|rest| rest.split_once(' ')) {
        lab.host(host).mark(mark.parse()?)
    } else if let Some(command) = step.strip_prefix("refused ") {
        ensure!(node.ip(command).is_err(), "the kernel takes `ip {command}`");
        Ok(())
    } else if let Some(ms) = step.strip_prefix("pause ") {
        thread::sleep(stretched(Duration::from_millis(ms.parse()?)));
        Ok(())
    } else if step.starts_with("nft ") || step.starts_with("tc ") {
        node.exec(step).map(drop)
    } else {
        node.ip(step).map(drop)
    };
    done.with_context(|| format!("the step {step:?}"))
}
