//! K072 and K101: the neighbour table is full. It is one for all network namespaces, so these rows run while no other lab is
//! there, see [`Alone`].

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::{Alone, Lab, SideBySide, needs_root};

use super::Ask::{For, From, Probe};
use super::Expect::{Fast, Kernel, Silent};
use super::{Ask, Expect, L, X, base};

/// A sender that the node routes back to the pod, and has never heard of.
const NEW: [u8; 4] = [10, 5, 0, 77];

/// Fills the table from a namespace of its own, until the kernel has no room for one more.
fn fill(lab: &Lab) -> Result<()> {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").context("reading gc_thresh3")?;
    let limit: u32 = limit.trim().parse().context("reading gc_thresh3")?;
    ensure!(limit <= 60_000, "the kernel keeps {limit} neighbour entries: too many to fill the table with");
    let node = lab.node();
    node.ip_each("link add w0 type veth peer name w1\n link set w0 up\n link set w1 up")?;
    let entry = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        format!("neigh add 10.200.{high}.{low} lladdr 02:00:00:00:{high:02x}:{low:02x} dev w0 nud stale\n")
    };
    // Entries that have not changed for 5 s may be thrown out again, these cannot yet. The last ones find no room.
    let refused = node.ip_each(&(0..limit + 8).map(entry).collect::<String>());
    ensure!(
        refused.as_ref().is_err_and(|error| format!("{error:#}").contains("No buffer space")),
        "the table has room for more than {limit} entries: {refused:?}"
    );
    Ok(())
}

/// Asks while the table is full.
fn check_full(rows: &[(&str, Ask, Expect)]) -> Result<()> {
    let _alone = Alone::wait()?;
    let mut parity = base()?;
    let mac = parity.fast().host("p0").mac();
    parity.change(|lab| {
        lab.node().ip_each(&format!(
            "route add 10.5.0.77/32 dev v0 scope link
             neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud stale
             neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale"
        ))
    })?;
    let flood = Lab::new()?;
    fill(&flood)?;
    for (case, ask, expect) in rows {
        let by = parity.ask("p0", |p0| ask.frame(p0)).with_context(|| (*case).to_owned())?.by;
        ensure!(super::holds(&mut parity, *expect, &by)?, "{case}: expected {expect:?}, got {by:?}");
        ensure!(!knows_new(&parity)?, "{case}: the kernel has found room for the new sender");
    }
    Ok(())
}

fn knows_new(parity: &SideBySide) -> Result<bool> {
    Ok(parity.fast().node().neighbour("v0", NEW)?.is_some())
}

#[test]
fn k072_local_targets_while_the_neighbour_table_is_full() -> Result<()> {
    needs_root!();
    check_full(&[
        ("a new sender", From(NEW, L), Silent("neighbour_unknown")),
        ("a known sender", For(L), Fast),
        ("a probe", Probe(L), Fast),
    ])
}

#[test]
fn k101_a_proxied_target_while_the_neighbour_table_is_full() -> Result<()> {
    needs_root!();
    check_full(&[("a new sender", From(NEW, X), Kernel("neighbour_unknown")), ("a known sender", For(X), Fast)])
}
