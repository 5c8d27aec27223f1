//! Exit codes of the commands: a contract.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use tests::topology;
use tests::{AgentOptions, STATUS_NOT_READY, STATUS_NOT_RUNNING, needs_root, stretched};

#[test]
fn status_tells_a_ready_agent_a_stalled_one_and_none_apart() -> Result<()> {
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
    agent.in_step()?;

    assert_eq!(agent.stop()?.code(), Some(0));
    let none = agent.command(&["status"])?;
    assert_eq!(none.status.code(), Some(STATUS_NOT_RUNNING), "{none:?}");
    let stderr = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(stderr.contains(&*agent.run_dir().to_string_lossy()), "it names the run directory: {stderr}");
    Ok(())
}

#[test]
fn status_of_a_killed_agent_is_that_of_none_and_its_socket_is_in_nobody_s_way() -> Result<()> {
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
