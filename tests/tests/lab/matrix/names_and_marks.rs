//! §12.11: rules that name an interface by a name that comes and goes, and marks that a request may carry.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use arp_common::Lladdr;
use lab::{AgentOptions, Answerer, Lab, SideBySide, TestHook, needs_root, stretched, topology};

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Silent};
use super::{Ask, DEAD, Expect, L, Z, holds, rows, run_all, when, with_uplinks};

const NEVER: Expect = Silent("unanswerable_route");

/// The rows' world with an agent for the pods' interfaces, whatever they are called.
fn named(names: &[&str]) -> Result<SideBySide> {
    SideBySide::start_with(topology::matrix_with_uplinks, AgentOptions::new(names))
}

/// Asks from that host, and compares with what is expected.
fn check(parity: &mut SideBySide, host: &str, ask: Ask, expect: Expect) -> Result<()> {
    let by = parity.ask(host, |host| ask.frame(host))?.by;
    ensure!(holds(parity, expect, &by)?, "{ask:?}: expected {expect:?}, got {by:?}");
    Ok(())
}

/// The node end of that host gets another name; the routes and the entry that went with it are made again.
fn rename(parity: &mut SideBySide, host: &str, to: &str) -> Result<()> {
    parity.change(|lab| {
        lab.rename_node_end(host, to)?;
        let host = lab.host(host);
        let [a, b, c, d] = host.ip();
        lab.node().ip_each(&format!(
            "route add {a}.{b}.{c}.{d} dev {to} scope link
             neigh replace {a}.{b}.{c}.{d} lladdr {} dev {to} nud stale",
            host.mac(),
        ))
    })?;
    // The link was down: until its routes have been read again, they are left to the kernel.
    thread::sleep(stretched(Duration::from_millis(400)));
    Ok(())
}

#[test]
fn k302_a_rule_for_a_name_that_comes_and_goes() -> Result<()> {
    needs_root!();
    let mut parity = named(&["v0", "w0", "x9", "y9"])?;
    parity.change(|lab| run_all(lab, &[DEAD, "w0.proxy_arp=1", "rule add iif x9 lookup 100"]))?;
    check(&mut parity, "p0", For(Z), Fast)?;
    check(&mut parity, "p1", For(Z), Fast)?;
    rename(&mut parity, "p1", "x9")?;
    check(&mut parity, "p1", For(Z), NEVER)?;
    check(&mut parity, "p0", For(Z), Fast)?;
    rename(&mut parity, "p1", "y9")?;
    check(&mut parity, "p1", For(Z), Fast)?;
    // Another of that name is not the one that asks.
    parity.node_ip("link add x9 type veth peer name x9p")?;
    check(&mut parity, "p1", For(Z), Fast)?;
    parity.node_ip("link del x9")?;
    check(&mut parity, "p1", For(Z), Fast)?;
    parity.change(|lab| run_all(lab, &["rule del iif x9 lookup 100", "rule add not iif x9 lookup 100"]))?;
    check(&mut parity, "p1", For(Z), NEVER)?;
    rename(&mut parity, "p1", "x9")?;
    check(&mut parity, "p1", For(Z), Fast)
}

#[test]
fn k303_a_rule_for_an_alternative_name() -> Result<()> {
    needs_root!();
    let mut parity = named(&["v0", "w0", "v9"])?;
    let by_altname = ["link property add dev v0 altname podlink", DEAD, "rule add iif podlink lookup 100"];
    parity.change(|lab| run_all(lab, &by_altname))?;
    // The rule was attached when it was made; nothing says so.
    check(&mut parity, "p0", For(Z), Silent("opaque_rule"))?;
    rename(&mut parity, "p0", "v9")?;
    let by = parity.ask("p0", |p0| p0.who_has(Z))?.by;
    ensure!(by == Answerer::kernel("opaque_rule"), "{by:?}");
    Ok(())
}

/// The rows' world with a veth of which both ends are on the node: `m0`, and `eth0` that the host `own` asks from.
fn with_both_ends() -> Result<Lab> {
    const MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x06, 20]);
    let mut lab = topology::matrix_with_uplinks()?;
    let node = lab.node().clone();
    node.ip_each(&format!(
        "link add m0 address 02:00:00:00:06:01 type veth peer name eth0 address {MAC}
         link set m0 up
         link set eth0 up
         route add 10.5.0.20 dev m0
         neigh add 10.5.0.20 lladdr {MAC} dev m0 nud stale"
    ))?;
    node.sysctl("net.ipv4.conf.m0.proxy_arp", 1)?;
    node.sysctl("net.ipv4.neigh.m0.proxy_delay", 0)?;
    lab.add_host("own", node, MAC, "m0")?;
    Ok(lab)
}

#[test]
fn k300_a_mark_within_one_namespace() -> Result<()> {
    needs_root!();
    const REQUEST: Ask = From([10, 5, 0, 20], Z);
    let mut parity = SideBySide::start(with_both_ends, &["v0", "w0", "m0"])?;
    parity.change(|lab| run_all(lab, &[DEAD, "rule add fwmark 7 lookup 100"]))?;
    check(&mut parity, "own", REQUEST, Kernel("opaque_rule"))?;
    parity.change(|lab| lab.host("own").mark(7))?;
    check(&mut parity, "own", REQUEST, Silent("opaque_rule"))?;
    // No rule for marks is asked before the one for local addresses. XDP sees no mark.
    let marked = if TestHook::chosen()? == TestHook::Tc { Kernel("frame_marked") } else { Fast };
    check(&mut parity, "own", From([10, 5, 0, 20], L), marked)
}

rows! {
    on with_uplinks;
    k301_a_mark_across_namespaces: [when(&[DEAD, "rule add fwmark 7 lookup 100", "mark p0 7"], For(Z), Fast)];
}
