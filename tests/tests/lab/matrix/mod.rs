//! The exactness matrix: a test for each row of docs/kernel-arp/rows.md, named after its id. The kernel alone answers
//! first, then the fast path on the same state. `every_row_has_a_test` (xtask/src/rows.rs) compares tests and rows.

mod addresses;
mod delays;
mod devices;
mod filters;
mod first;
mod flood;
mod frame;
mod hooks;
mod local;
mod others;
mod proxying;
mod routes;
mod rules;
mod senders;
mod state;

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology;
pub(crate) use lab::topology::{LOCAL_TARGET as L, ROUTED_TARGET as X, SAME_INTERFACE_TARGET as Y, UPLINK_IP};
use lab::{Answerer, Host, Lab, SideBySide, UNCOUNTED, stretched};

/// A test for each row: `k001_in_words: [step, step, …];`. Each test has a base of its own, which its steps change one after
/// another.
macro_rules! rows {
    ($($name:ident: [$($step:expr),+ $(,)?];)+) => {$(
        #[test]
        fn $name() -> anyhow::Result<()> {
            lab::needs_root!();
            $crate::matrix::check(&[$($step),+])
        }
    )+};
}
pub(crate) use rows;

/// One request of a row.
pub(crate) struct Phase {
    /// What is done before, see [`run`].
    when: &'static [&'static str],
    /// The frame.
    ask: Ask,
    /// What must come of it.
    expect: Expect,
}

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
            Expect::Passed(reason) => kernel(reason) || nobody(reason),
            Expect::Silent(reason) => nobody(reason),
            Expect::SilentForOneOf(reasons) => reasons.iter().any(|&reason| nobody(reason)),
        }
    }
}

/// A request on the base as it is.
pub(crate) const fn ask(ask: Ask, expect: Expect) -> Phase {
    Phase { when: &[], ask, expect }
}

/// A request after changes.
pub(crate) const fn when(when: &'static [&'static str], ask: Ask, expect: Expect) -> Phase {
    Phase { when, ask, expect }
}

/// Whether what is expected on `v0` came about.
fn holds(parity: &mut SideBySide, expect: Expect, by: &Answerer) -> Result<bool> {
    let status = parity.agent().status()?;
    let mode = status.interface("v0")["mode"].as_str().context("status does not say how v0 is attached to")?;
    Ok(expect.holds(by, mode))
}

/// Runs a row's steps one after another on one base, each from a valid neighbour entry. All are run; an error names those
/// that failed.
pub(crate) fn check(steps: &[Phase]) -> Result<()> {
    let mut parity = base()?;
    let mut failed = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        if let Err(error) = check_step(&mut parity, step) {
            failed.push(format!("step {number}, {:?} after {:?}: {error:#}", step.ask, step.when));
        }
    }
    ensure!(failed.is_empty(), "{} of {} steps\n{}", failed.len(), steps.len(), failed.join("\n"));
    Ok(())
}

/// The base twice, with an agent for `v0` on one.
fn base() -> Result<SideBySide> {
    SideBySide::start(topology::matrix, &["v0"])
}

fn check_step(parity: &mut SideBySide, step: &Phase) -> Result<()> {
    let mac = parity.fast().host("p0").mac();
    parity.change(|lab| {
        // First the entry, so that a step can change it.
        lab.node().ip(&format!("neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale"))?;
        run_all(lab, step.when)
    })?;
    let by = parity.ask("p0", |p0| step.ask.frame(p0))?.by;
    ensure!(holds(parity, step.expect, &by)?, "expected {:?}, got {by:?}", step.expect);
    Ok(())
}

pub(crate) fn run_all(lab: &Lab, steps: &[&str]) -> Result<()> {
    steps.iter().try_for_each(|step| run(lab, step))
}

/// One step of a row: `v0.arp_ignore=1` (a sysctl under net.ipv4.conf), `/net/ipv4/neigh/v0/proxy_delay=80` (any
/// sysctl; with a `?` before it, where the kernel has it), `unplug external` and `plug external`, `pause 400` (milliseconds), `nft …` or `tc …` on the node, anything else `ip` on the node.
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
