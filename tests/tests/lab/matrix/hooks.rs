//! K139 and K150 to K152: what is particular to a hook. These tests name their hooks; the other rows hold for each
//! (ARP_TEST_HOOK).

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use lab::{
    AgentOptions, Answerer, Host, Lab, SideBySide, UNCOUNTED, kernel_is_since, needs_kernel, needs_root, topology,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{L, X};
use crate::foreign;

pub(super) const CLSACT: &[&str] = &["--hook", "tc", "--tc-attach", "clsact"];
pub(super) const TCX: &[&str] = &["--hook", "tc", "--tc-attach", "tcx"];
pub(super) const SKB: &[&str] = &["--hook", "xdp", "--xdp-mode", "skb"];
pub(super) const DRIVER: &[&str] = &["--hook", "xdp", "--xdp-mode", "driver"];

pub(super) fn options(interface: &str, hook: &[&str]) -> AgentOptions {
    AgentOptions::new(&[interface]).args(hook)
}

fn matrix(hook: &[&str]) -> Result<SideBySide> {
    SideBySide::start_with(topology::matrix, options("v0", hook))
}

/// Switches the pod's GRO, and waits until the agent has followed.
fn gro(parity: &mut SideBySide, setting: &str) -> Result<()> {
    parity.change(|lab| pod_gro(lab, setting))
}

/// Whether the running kernel has the hook: tcx since 6.6; driver mode on a veth since 6.3, which tells what its other end
/// takes.
pub(super) fn is_there(hook: &[&str]) -> bool {
    (hook != TCX || kernel_is_since(6, 6)) && (hook != DRIVER || kernel_is_since(6, 3))
}

fn pod_gro(lab: &Lab, setting: &str) -> Result<()> {
    lab.host("p0").namespace().exec(&format!("ethtool -K eth0 gro {setting}")).map(drop)
}

/// Who answers the base's request; it is answered in any case, and as often by the fast path as not at all else.
fn answerer(parity: &mut SideBySide) -> Result<Answerer> {
    let outcome = parity.ask("p0", |p0| p0.who_has(X))?;
    ensure!(outcome.replies.len() == 1, "no reply: {:?}", outcome.by);
    Ok(outcome.by)
}

pub(super) fn tc(lab: &Lab, command: &str) -> Result<String> {
    lab.node().exec(&format!("tc {command}"))
}

#[test]
fn k139_a_foreign_filter_beside_ours_whatever_its_place() -> Result<()> {
    needs_root!();
    let mut parity = matrix(CLSACT)?;
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    let ours = tc(parity.fast(), "filter show dev v0 ingress")?;
    assert_eq!(ours.matches("pref").count(), 2, "one filter, shown with its priority: {ours}");
    assert!(ours.contains("pref 65535"), "the last one: {ours}");
    // One that says that nobody else is to be asked: then our program does not even run.
    let kernel = Answerer::kernel(UNCOUNTED);
    let cases = [
        (1, "ingress", &kernel),
        (49_151, "ingress", &kernel),
        (60_000, "ingress", &kernel),
        (1, "egress", &Answerer::FastPath),
    ];
    for (priority, direction, answerer_then) in cases {
        let filter = format!("v0 {direction} prio {priority} protocol all");
        let add = format!("filter add dev {filter} u32 match u32 0 0 classid 1:1");
        tc(parity.fast(), &add)?;
        parity.agent().in_sync()?;
        let case = format!("{direction}, priority {priority}");
        assert_eq!(answerer(&mut parity)?, *answerer_then, "{case}");
        let state = parity.agent().status()?.interface("v0")["state"].clone();
        assert_eq!(state, "answering", "{case}");
        tc(parity.fast(), &format!("filter del dev {filter}"))?;
        parity.agent().in_sync()?;
        assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{case}, without it again");
    }
    Ok(())
}

#[test]
fn k139_a_foreign_tcx_program_before_or_after_ours() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let mut parity = matrix(TCX)?;
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    // The second agent's program is foreign to the first, and comes after it: neither moves, and the last one answers.
    for _ in 0..2 {
        let mut second = options("v0", TCX).start(parity.fast().node())?;
        parity.agent().in_sync()?;
        assert_eq!(answerer(&mut parity)?, Answerer::kernel("ingress_hook"), "a program after ours");
        assert_eq!(second.status()?.answered("v0"), 1, "the second agent's program is the last");
        second.stop()?;
        parity.agent().in_sync()?;
        assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    }
    Ok(())
}

#[test]
fn k023_and_k025_a_tag_in_the_metadata() -> Result<()> {
    needs_root!();
    // The kernel has taken the tag off before tc sees the frame. A filter for ARP is not asked about tagged frames.
    for (hook, reason) in [(TCX, "vlan_tag"), (CLSACT, UNCOUNTED)].into_iter().filter(|&(hook, _)| is_there(hook)) {
        let mut parity = matrix(hook)?;
        let tagged = |host: &Host| {
            let request = host.who_has(X);
            [&request[..12], &[0x81, 0, 0, 0, 8, 6], &request[14..]].concat()
        };
        assert_eq!(parity.ask("p0", tagged)?.by, Answerer::kernel(reason), "{hook:?}");
        assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{hook:?}, without a tag");
    }
    Ok(())
}

#[test]
fn k139_a_filter_that_somebody_removes_is_set_again() -> Result<()> {
    needs_root!();
    let mut parity = matrix(CLSACT)?;
    for what in ["filter del dev v0 ingress", "qdisc del dev v0 clsact"] {
        assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "before {what}");
        tc(parity.fast(), what)?;
        parity.agent().in_sync()?;
    }
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_detached_program_is_attached_again() -> Result<()> {
    needs_root!();
    for hook in [SKB, TCX].into_iter().filter(|&hook| is_there(hook)) {
        let mut parity = matrix(hook)?;
        assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{hook:?}");
        let node = parity.fast().node();
        let program = if hook == TCX {
            let (_, programs) = node.run(|| SchedClassifier::query_tcx("v0", TcAttachType::Ingress))??;
            programs.first().map(ProgramInfo::id)
        } else {
            let id = node.ip_json("-details link show v0")?[0]["xdp"]["prog"]["id"].as_u64();
            id.and_then(|id| id.try_into().ok())
        };
        foreign::detach(program.context("no program is there")?)?;
        parity.agent().in_sync()?;
        parity.agent().in_sync()?;
        assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{hook:?}, taken away");
    }
    Ok(())
}

#[test]
fn k139_a_filter_comes_and_goes_during_a_resync() -> Result<()> {
    needs_root!();
    let mut parity = matrix(CLSACT)?;
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    parity.agent().signal(Signal::SIGSTOP)?;
    // Four notifications a turn, more than the agent takes at once; that an address goes has it read the routes again, and
    // the filter is among what it finds behind them.
    let addresses: String =
        (0..1_500).map(|_| "addr add 10.88.0.1/32 dev lo\naddr del 10.88.0.1/32 dev lo\n").collect();
    parity.fast().node().ip_each(&addresses)?;
    tc(parity.fast(), "filter add dev v0 ingress prio 60000 protocol all u32 match u32 0 0 classid 1:1")?;
    tc(parity.fast(), "filter del dev v0 ingress prio 60000 protocol all")?;
    parity.agent().signal(Signal::SIGCONT)?;
    parity.agent().in_sync()?;
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_refused_filter_is_attached_once_the_obstacle_goes() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    // Filters that several interfaces share: the kernel lets nobody add one to them by one of the interfaces.
    tc(&lab, "qdisc add dev v0 ingress_block 1 clsact")?;
    let agent = options("v0", CLSACT).start(lab.node())?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "detached")?;
    tc(&lab, "qdisc del dev v0 clsact")?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "answering")
}

#[test]
fn a_tc_filter_goes_with_its_agent_or_the_next() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let hooked = || tc(&lab, "qdisc show dev v0 clsact");
    let filters = || tc(&lab, "filter show dev v0 ingress");
    let mut agent = options("v0", CLSACT).start(lab.node())?;
    assert!(filters()?.contains("arp-agent:"));
    agent.stop()?;
    assert_eq!(filters()?, "", "after SIGTERM");
    assert!(!hooked()?.is_empty(), "removing it would cut the pod's traffic");

    let mut killed = options("v0", CLSACT).start(lab.node())?;
    killed.kill()?;
    assert!(filters()?.contains("arp-agent:"), "the filter outlives its agent");
    // Also an agent with another hook, and for other interfaces.
    let mut next = options("u0", SKB).start(lab.node())?;
    assert_eq!(filters()?, "", "the next agent removes it");
    next.stop()?;

    // One that lives is left alone, stopped or not.
    let mut living = options("v0", CLSACT).start(lab.node())?;
    living.signal(Signal::SIGSTOP)?;
    let mut next = options("u0", SKB).start(lab.node())?;
    assert!(tc(&lab, "filter show dev v0 ingress")?.contains("arp-agent:"), "the living one's filter");
    next.stop()?;
    living.signal(Signal::SIGCONT)?;
    living.stop()?;
    assert_eq!(tc(&lab, "filter show dev v0 ingress")?, "");
    Ok(())
}

#[test]
fn only_a_foreign_qdisc_with_filters_is_an_obstacle() -> Result<()> {
    needs_root!();
    for hook in [SKB, TCX].into_iter().filter(|&hook| is_there(hook)) {
        for qdisc in ["clsact", "ingress"] {
            let mut parity = matrix(hook)?;
            let case = format!("{hook:?}, {qdisc}");
            tc(parity.fast(), &format!("qdisc add dev v0 {qdisc}"))?;
            parity.agent().in_sync()?;
            assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{case}, empty");
            let filter = "dev v0 ingress prio 7 protocol all";
            tc(parity.fast(), &format!("filter add {filter} u32 match u32 0 0 classid 1:1"))?;
            parity.agent().in_sync()?;
            assert_eq!(answerer(&mut parity)?, Answerer::kernel("ingress_hook"), "{case}, with a filter");
            tc(parity.fast(), &format!("filter del {filter}"))?;
            parity.agent().in_sync()?;
            assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{case}, empty again");
            tc(parity.fast(), &format!("qdisc del dev v0 {qdisc}"))?;
        }
        // Nobody tells the interface's owner of a filter in a block that several share.
        let mut parity = matrix(hook)?;
        tc(parity.fast(), "qdisc add dev v0 ingress_block 7 clsact")?;
        parity.agent().in_sync()?;
        assert_eq!(answerer(&mut parity)?, Answerer::kernel("ingress_hook"), "{hook:?}, a shared block");
    }
    Ok(())
}

#[test]
fn auto_takes_tc_and_a_named_hook_nothing_else() -> Result<()> {
    needs_root!();
    let tc = if kernel_is_since(6, 6) { "tcx" } else { "clsact" };
    let mut parity = SideBySide::start_with(topology::matrix, options("v0", &["--hook", "auto"]))?;
    let hook = parity.agent().status()?.interface("v0").clone();
    assert_eq!((&hook["hook"], &hook["mode"]), (&"tc".into(), &tc.into()), "{hook}");
    assert!(hook["hook_why"].as_str().is_some_and(|why| why.contains("veth")), "{hook}");
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    drop(parity);

    let skb = ["--hook", "auto", "--xdp-mode", "skb"];
    let mut parity = SideBySide::start_with(topology::matrix, options("v0", &skb))?;
    let hook = parity.agent().status()?.interface("v0").clone();
    assert_eq!((&hook["hook"], &hook["mode"]), (&"xdp".into(), &"skb".into()), "{hook}");
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);

    for only in [SKB, &skb] {
        let named = options("v0", only).start(parity.fast().node())?.status()?.interface("v0").clone();
        assert_eq!((&named["state"], &named["hook"]), (&"detached".into(), &"none".into()), "{named}");
        assert!(named["reason"].as_str().is_some_and(|why| why.contains("slot is taken by")), "{named}");
    }

    let auto = options("v0", &[skb.as_slice(), &["--tc-attach", "clsact"]].concat()).start(parity.fast().node())?;
    let hook = auto.status()?.interface("v0").clone();
    assert_eq!((&hook["hook"], &hook["mode"]), (&"tc".into(), &"clsact".into()), "{hook}");
    assert!(hook["hook_why"].as_str().is_some_and(|why| why.contains("slot is taken by")), "{hook}");
    Ok(())
}

#[test]
fn k150_driver_mode_while_the_pod_end_takes_nothing() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 3, "word of what a pod end takes");
    let offloads = |lab: &Lab| -> Result<bool> {
        let features = lab.host("p0").namespace().exec("ethtool -k eth0")?;
        Ok(features.contains("tcp-segmentation-offload: on"))
    };
    let mut parity = matrix(DRIVER)?;
    gro(&mut parity, "on")?;
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    assert!(!offloads(parity.fast())?, "this is what driver mode costs a pod");
    gro(&mut parity, "off")?;
    assert_eq!(answerer(&mut parity)?, Answerer::kernel(UNCOUNTED));
    assert!(offloads(parity.fast())?, "not where it cannot answer");
    let status = parity.agent().status()?;
    let shown = status.interface("v0");
    assert_eq!((&shown["state"], &shown["mode"]), (&"detached".into(), &"none".into()), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|why| why.contains("GRO on")), "{shown}");

    let mut agent = options("v0", DRIVER).start(parity.alone().node())?;
    agent.in_sync()?;
    assert!(offloads(parity.alone())?, "nor at the start");
    Ok(())
}

#[test]
fn k151_driver_mode_follows_gro_of_the_pod() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 3, "word of what a pod end takes");
    let mut parity = matrix(DRIVER)?;
    for _ in 0..3 {
        gro(&mut parity, "on")?;
        // Many, so that none hides in a ring: XDP_TX would fill it and deliver nothing.
        for _ in 0..20 {
            assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
        }
        gro(&mut parity, "off")?;
        assert_eq!(answerer(&mut parity)?, Answerer::kernel(UNCOUNTED));
    }
    Ok(())
}

#[test]
fn k151a_driver_mode_trusts_no_flag_across_carriers() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 3, "word of what a pod end takes");
    let mut parity = matrix(DRIVER)?;
    gro(&mut parity, "on")?;
    assert_eq!(answerer(&mut parity)?, Answerer::FastPath);
    // Switched while the link is down, the flag that the node sees stays as it was.
    for setting in ["off", "on"] {
        parity.both(|lab| {
            lab.unplug("p0")?;
            pod_gro(lab, setting)?;
            lab.plug("p0")
        })?;
        parity.change(|lab| {
            let mac = lab.host("p0").mac();
            lab.node().ip(&format!("neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale")).map(drop)
        })?;
        let by = answerer(&mut parity)?;
        // The self-test finds it out; or, if there was time enough, the flag's own notification.
        let wanted: &[Answerer] = match setting {
            "off" => &[
                Answerer::kernel("self_test_pending"),
                Answerer::kernel("peer_drops_xdp"),
                Answerer::kernel(UNCOUNTED),
            ],
            _ => &[Answerer::FastPath],
        };
        assert!(wanted.contains(&by), "GRO {setting} while the link was down: {by:?}");
    }
    Ok(())
}

#[test]
fn k152_skb_mode_whatever_the_pod_end_does() -> Result<()> {
    needs_root!();
    for hook in [SKB, CLSACT, TCX].into_iter().filter(|&hook| is_there(hook)) {
        let mut parity = matrix(hook)?;
        for setting in ["off", "on", "off"] {
            gro(&mut parity, setting)?;
            assert_eq!(answerer(&mut parity)?, Answerer::FastPath, "{hook:?}, GRO {setting}");
        }
    }
    Ok(())
}

#[test]
fn no_answer_until_the_self_test_succeeds() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    // A queue that takes nothing: whatever is sent is lost.
    tc(&lab, "qdisc add dev v0 root pfifo limit 0")?;
    let agent = options("v0", CLSACT).start(lab.node())?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "passing")?;
    let status = agent.status()?;
    assert!(status.ready(), "{}", status.0);
    let reason = status.interface("v0")["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("has not shown yet"), "{reason}");
    tc(&lab, "qdisc del dev v0 root")?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "answering")?;

    // A pod end that is down takes nothing either, and answers are there again at once when it is up.
    lab.unplug("p0")?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "passing")?;
    lab.plug("p0")?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "answering")
}

#[test]
fn an_unwanted_interface_is_not_tested_again() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 2, "renaming of an interface that is up");
    let lab = topology::matrix()?;
    tc(&lab, "qdisc add dev v0 root pfifo limit 0")?;
    let agent = options("v0", CLSACT).start(lab.node())?;
    agent.wait_for_interface("v0", |v0| v0["state"] == "passing")?;
    lab.node().ip("link set v0 name w0")?;
    // It answers, again and again: it is not busy with a test that is always due.
    agent.wait_for_interface("v0", Value::is_null)?;
    thread::sleep(Duration::from_millis(100));
    assert!(agent.status()?.ready());
    Ok(())
}

#[test]
fn the_self_test_teaches_nobody_and_is_not_counted() -> Result<()> {
    needs_root!();
    for hook in [SKB, CLSACT, DRIVER].into_iter().filter(|&hook| is_there(hook)) {
        let lab = topology::matrix()?;
        pod_gro(&lab, "on")?;
        let p0 = lab.host("p0").namespace();
        let neighbours = || Ok::<_, anyhow::Error>((p0.ip("neigh show")?, lab.node().ip("neigh show")?));
        let before = neighbours()?;
        let agent = options("v0", hook).start(lab.node())?;
        // The self-test may end after the agent is ready.
        agent.wait_for_interface("v0", |interface| interface["state"] == "answering")?;
        assert_eq!(neighbours()?, before, "{hook:?}");
        assert_eq!(agent.status()?.passed("v0").len(), 0, "{hook:?}: nothing came back");
        assert_eq!(lab.host("p0").ask(&lab.host("p0").who_has(L))?.len(), 1);
    }
    Ok(())
}
