//! Exit codes of the commands: a contract.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::topology;
use lab::{
    Agent, AgentOptions, STATUS_NONE_ANSWERS, STATUS_NOT_READY, STATUS_NOT_RUNNING, needs_root, stretched, wait_until,
};
use nix::sys::signal::Signal;

#[test]
fn status_tells_ready_stalled_and_no_agent_apart() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    assert_eq!(agent.command(&["status"])?.status.code(), Some(0));

    agent.signal(Signal::SIGSTOP)?;
    let asked = Instant::now();
    let stalled = agent.command(&["status"])?;
    assert!(asked.elapsed() < stretched(Duration::from_secs(8)), "status of a stalled agent is bounded");
    assert_eq!(stalled.status.code(), Some(STATUS_NOT_READY), "{stalled:?}");
    agent.signal(Signal::SIGCONT)?;
    agent.in_sync()?;

    assert_eq!(agent.stop()?.code(), Some(0));
    let none = agent.command(&["status"])?;
    assert_eq!(none.status.code(), Some(STATUS_NOT_RUNNING), "{none:?}");
    let stderr = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(stderr.contains(&*agent.run_dir().to_string_lossy()), "it names the run directory: {stderr}");
    Ok(())
}

#[test]
fn a_killed_agent_has_no_status_and_blocks_nobody() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut killed = AgentOptions::new(&["cali*"]).start(lab.node())?;
    killed.kill()?;
    assert_eq!(killed.command(&["status"])?.status.code(), Some(STATUS_NOT_RUNNING));
    let next = AgentOptions::new(&["cali*"]).run_dir(killed.run_dir()).start(lab.node())?;
    assert!(next.status()?.ready());
    Ok(())
}

#[test]
fn bad_usage_exits_with_2() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for arguments in [&["run"][..], &["status", "--no-such-option"], &["no-such-command"]] {
        let output = agent.command(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn status_and_log_say_that_no_interface_answers() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let first_line = |agent: &Agent| -> Result<(Option<i32>, String)> {
        let output = agent.command(&["status"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.code(), text.lines().next().unwrap_or_default().to_owned()))
    };
    assert_eq!(first_line(&agent)?, (Some(0), "answering on 2 of 2 interfaces".to_owned()));
    agent.wait_for_line(&["INFO", "cali1: answering by"])?;

    lab.node().exec("nft add table arp t")?;
    lab.node().exec("nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }")?;
    agent.in_sync()?;
    let line = "answering on 0 of 2 interfaces: 2 pass (arp_netfilter)".to_owned();
    assert_eq!(first_line(&agent)?, (Some(STATUS_NONE_ANSWERS), line));
    let status = agent.status()?;
    assert_eq!(status.interface("cali0")["reason_id"], "arp_netfilter", "{}", status.0);
    for name in ["cali0: passing", "cali1: passing"] {
        agent.wait_for_line(&["INFO", name, "(arp_netfilter)"])?;
    }

    lab.node().exec("nft delete table arp t")?;
    agent.in_sync()?;
    assert_eq!(first_line(&agent)?.0, Some(0));
    let told = |log: &str, what: &str| log.lines().filter(|line| line.contains(what)).count();
    let again = || Ok(told(&agent.log(), "cali0: answering") == 2);
    wait_until(Duration::from_secs(5), again, || format!("cali0 is told to answer again: {}", agent.log()))?;
    assert_eq!(told(&agent.log(), "cali0: passing"), 1, "{}", agent.log());
    Ok(())
}

#[test]
fn a_pods_life_is_one_line_in_the_log() -> Result<()> {
    needs_root!();
    let mut lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    agent.wait_for_line(&["cali0: answering"])?;
    let before = agent.log().lines().count();
    topology::add_calico_pod(&mut lab, 1)?;
    agent.wait_for_line(&["cali1: answering"])?;
    lab.forget_host("p1");
    agent.in_sync()?;
    thread::sleep(stretched(Duration::from_millis(1500)));
    let log = agent.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    Ok(())
}

#[test]
fn many_interfaces_are_one_line_in_the_log() -> Result<()> {
    needs_root!();
    let lab = topology::calico(8)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    agent.wait_for_line(&["cali0, cali1, cali2 and 5 more interfaces: answering"])?;
    lab.node().exec("nft add table arp t")?;
    lab.node().exec("nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }")?;
    agent.wait_for_line(&["and 5 more interfaces: passing", "(arp_netfilter)"])?;
    Ok(())
}
