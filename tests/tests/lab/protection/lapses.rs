//! Without a lease, without an agent, and beside programs of others.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{AgentOptions, Lab, needs_kernel, needs_root, stretched, wait_until};
use nix::sys::signal::Signal;

use super::{ALL, await_guard, count, entries, request, send, start};

fn open() -> Result<Lab> {
    let lab = topology::calico(1)?;
    lab.node().sysctl("net.ipv4.conf.cali0.rp_filter", 0)?;
    Ok(lab)
}

#[test]
fn without_a_lease_guard_and_limit_are_open_and_budgets_stay() -> Result<()> {
    needs_root!();
    let lab = open()?;
    let lease = stretched(Duration::from_millis(200));
    let policies = ["--sender-guard", "cali*=drop", "--entry-limit", "cali*=drop:5", "--budget", "cali*=drop:1/20"];
    let options = AgentOptions::new(&["cali*"]).args(&policies).args(&["--sender-grace", "0"]);
    let mut agent = options.arg("--lease").arg(lease.as_millis().to_string()).start(lab.node())?;
    await_guard(&agent)?;
    let p0 = lab.host("p0");
    let spoofed = |from: u8, to: u8| -> Vec<Vec<u8>> {
        (from..to).map(|last| request(p0, [198, 18, 0, last], CALICO_GATEWAY)).collect()
    };
    send(p0, &spoofed(0, 10))?;
    assert_eq!(entries(&lab, "cali0")?, 0);
    agent.signal(Signal::SIGSTOP)?;
    thread::sleep(lease * 2);
    send(p0, &spoofed(10, 60))?;
    let learnt = entries(&lab, "cali0")?;
    assert!(
        (20..=25).contains(&learnt),
        "{learnt} entries: as many as the budget lets up, and none is held by the limit"
    );
    agent.signal(Signal::SIGCONT)?;
    agent.in_sync()?;
    let before = entries(&lab, "cali0")?;
    send(p0, &spoofed(60, 90))?;
    assert_eq!(entries(&lab, "cali0")?, before, "the guard drops again");
    assert!(count(&agent, "cali0", "dropped", "learn_budget")? >= 25);
    assert_eq!(count(&agent, "cali0", "dropped", "sender_elsewhere")?, 40);
    Ok(())
}

#[test]
fn a_setting_that_is_written_does_not_open_the_guard() -> Result<()> {
    needs_root!();
    let lab = open()?;
    let policies = ["--sender-guard", "cali*=drop", "--sender-grace", "0"];
    let agent = AgentOptions::new(&["cali*"]).args(&policies).sysctl_hook().start(lab.node())?;
    await_guard(&agent)?;
    let p0 = lab.host("p0");
    for number in 0..50 {
        // Each write takes the fast path's answers until it is read.
        lab.node().sysctl("net.ipv4.conf.lo.arp_ignore", number % 2)?;
        p0.ask(&request(p0, [198, 18, 0, number], CALICO_GATEWAY))?;
    }
    assert_eq!(entries(&lab, "cali0")?, 0);
    assert_eq!(count(&agent, "cali0", "dropped", "sender_elsewhere")?, 50);
    Ok(())
}

#[test]
fn a_kill_opens_everything_and_the_next_agent_guards_again() -> Result<()> {
    needs_root!();
    let lab = open()?;
    let mut agent = start(&lab, ALL)?;
    let p0 = lab.host("p0");
    assert!(p0.ask(&request(p0, [198, 18, 0, 1], CALICO_GATEWAY))?.is_empty());
    agent.kill()?;
    let is_open = || Ok(!p0.ask(&request(p0, [198, 18, 0, 2], CALICO_GATEWAY))?.is_empty());
    wait_until(stretched(Duration::from_secs(3)), is_open, || "the kernel answers everybody again".to_owned())?;
    assert!(!p0.ask(&p0.who_has(CALICO_GATEWAY))?.is_empty(), "and the pod");
    let mut next = start(&lab, ALL)?;
    assert!(p0.ask(&request(p0, [198, 18, 0, 3], CALICO_GATEWAY))?.is_empty());
    assert_eq!(answered_of_ten(&mut next, p0, CALICO_GATEWAY)?, 10);
    Ok(())
}

#[test]
fn an_interface_under_another_name_has_the_policies_of_that_name() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 2, "renaming an interface that is up");
    let mut lab = open()?;
    let policies = ["--sender-guard", "cali0=drop", "--sender-guard", "cali1=off", "--sender-grace", "0"];
    let agent = start(&lab, &policies)?;
    let spoofed = |lab: &Lab, last: u8| {
        let p0 = lab.host("p0");
        p0.ask(&request(p0, [198, 18, 0, last], CALICO_GATEWAY))
    };
    assert!(spoofed(&lab, 1)?.is_empty());
    lab.rename_node_end("p0", "cali1")?;
    agent.wait_for_interface("cali1", |interface| interface["guard"].is_null())?;
    assert!(!spoofed(&lab, 2)?.is_empty(), "no policy names it");
    lab.rename_node_end("p0", "cali0")?;
    agent.wait_for_interface("cali0", |interface| !interface["guard"].is_null())?;
    await_guard(&agent)?;
    assert!(spoofed(&lab, 3)?.is_empty());
    Ok(())
}

/// The tcx programs of an interface, in the order in which they run.
fn programs(lab: &Lab) -> Result<Vec<String>> {
    let (_, programs) = lab.node().run(|| SchedClassifier::query_tcx("cali0", TcAttachType::Ingress))??;
    Ok(programs.iter().map(|program| program.name_as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn the_guard_is_the_first_and_the_answering_program_the_last() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let lab = open()?;
    let mut agent = start(&lab, &["--sender-guard", "cali*=drop"])?;
    assert_eq!(programs(&lab)?, ["arp_guard", "arp_tc_stub"]);
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10, "the guard is no program of others");
    let status = agent.status()?;
    let interface = status.interface("cali0");
    assert_eq!(interface["others"], serde_json::json!([]), "{interface}");
    assert_eq!(interface["policies"], serde_json::json!(["sender-guard: drop"]));
    agent.stop()?;
    assert_eq!(programs(&lab)?, [""; 0], "nothing is left");
    Ok(())
}

#[test]
fn without_policies_nothing_more_is_attached() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let lab = open()?;
    let agent = start(&lab, &["--sender-guard", "cali*=off"])?;
    assert_eq!(programs(&lab)?, ["arp_tc_stub"]);
    assert!(agent.status()?.interface("cali0")["guard"].is_null());
    Ok(())
}

#[test]
fn the_guard_filter_is_the_first_by_clsact() -> Result<()> {
    needs_root!();
    let lab = open()?;
    // As on a kernel without tcx, for the answering program; the guard takes what the kernel has.
    let clsact = ["--hook", "tc", "--tc-attach", "clsact", "--sender-guard", "cali*=drop", "--sender-grace", "0"];
    let mut agent = start(&lab, &clsact)?;
    let p0 = lab.host("p0");
    assert!(p0.ask(&request(p0, [198, 18, 0, 1], CALICO_GATEWAY))?.is_empty());
    assert_eq!(answered_of_ten(&mut agent, p0, CALICO_GATEWAY)?, 10);
    Ok(())
}
