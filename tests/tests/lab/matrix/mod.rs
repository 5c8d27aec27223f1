//! The exactness matrix, row by row: the kernel alone, then the fast path on the same state. Rows that
//! are scenarios of their own stand in the other modules; docs/semantics.md says where.

mod addresses;
mod devices;
mod frame;
mod hooks;
mod local;
mod proxying;
mod routes;
mod rules;
mod senders;
mod state;

use anyhow::{Context, Result, ensure};
use tests::topology::{self, LOCAL_TARGET as L, ROUTED_TARGET as X, SAME_INTERFACE_TARGET as Y};
use tests::{Answerer, Host, Lab, Parity};

/// One row.
struct Row {
    /// Its number in the matrix, and the case in words.
    case: &'static str,
    /// What is done to the base before, see [`run`].
    when: &'static [&'static str],
    /// What undoes it.
    undo: &'static [&'static str],
    /// The frame.
    ask: Ask,
    /// What must come of it.
    expect: Expect,
}

/// The frame of a row, from the pod.
#[derive(Clone, Copy)]
enum Ask {
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
                frame[..6].copy_from_slice(&topology::NODE_MAC.0);
                frame[38..42].copy_from_slice(&tpa);
            }
            Ask::Raw(make) => return make(host),
        }
        frame
    }
}

/// What must come of a row; the kernel alone decides whether there is an answer, this says whether that is as specified.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Answered, by the fast path.
    Fast,
    /// Answered, by the kernel after a pass for this reason.
    Kernel(&'static str),
    /// Answered, by the kernel.
    KernelForAnyReason,
    /// Answered by either.
    Answered,
    /// Passed; the kernel may answer or not.
    Passed,
    /// Not answered, after a pass for this reason.
    Silent(&'static str),
    /// Not answered.
    SilentForAnyReason,
}

impl Expect {
    fn holds(self, by: &Answerer) -> bool {
        match self {
            Expect::Fast => *by == Answerer::FastPath,
            Expect::Kernel(reason) => *by == Answerer::kernel(reason),
            Expect::KernelForAnyReason => matches!(by, Answerer::Kernel(_)),
            Expect::Answered => matches!(by, Answerer::FastPath | Answerer::Kernel(_)),
            Expect::Passed => *by != Answerer::FastPath,
            Expect::Silent(reason) => *by == Answerer::nobody(reason),
            Expect::SilentForAnyReason => matches!(by, Answerer::Nobody(_)),
        }
    }
}

/// A row on the bare base.
const fn row(case: &'static str, ask: Ask, expect: Expect) -> Row {
    Row { case, when: &[], undo: &[], ask, expect }
}

/// A row on a changed base.
const fn when(
    case: &'static str,
    when: &'static [&'static str],
    undo: &'static [&'static str],
    ask: Ask,
    expect: Expect,
) -> Row {
    Row { case, when, undo, ask, expect }
}

/// Runs rows one after another on one base, each from a valid neighbour entry. All rows are run; an error names
/// those that failed.
fn check(rows: &[Row]) -> Result<()> {
    let mut parity = Parity::start(topology::matrix, &["v0"])?;
    let mut failed = Vec::new();
    for row in rows {
        if let Err(error) = check_row(&mut parity, row) {
            failed.push(format!("{}: {error:#}", row.case));
        }
        parity.both(|lab| row.undo.iter().try_for_each(|step| run(lab, step)))?;
    }
    ensure!(failed.is_empty(), "{} of {} rows\n{}", failed.len(), rows.len(), failed.join("\n"));
    Ok(())
}

fn check_row(parity: &mut Parity, row: &Row) -> Result<()> {
    let mac = parity.fast().host("p0").mac();
    parity.change(|lab| {
        // First the entry, so that a row can change it.
        lab.node().ip(&format!("neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale"))?;
        row.when.iter().try_for_each(|step| run(lab, step))
    })?;
    let by = parity.ask("p0", |p0| row.ask.frame(p0))?.by;
    ensure!(row.expect.holds(&by), "expected {:?}, got {by:?}", row.expect);
    Ok(())
}

/// One step of a row: `v0.arp_ignore=1` (a sysctl under net.ipv4.conf), `/net/ipv4/neigh/v0/proxy_delay=80` (any
/// sysctl; with a `?` before it, where the kernel has it), `unplug external` and `plug external`, `nft …` or `tc …` on the node, anything else `ip` on the node.
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
    } else if step.starts_with("nft ") || step.starts_with("tc ") {
        node.output(step).and_then(|output| {
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        })
    } else {
        node.ip(step).map(drop)
    };
    done.with_context(|| format!("the step {step:?}"))
}
