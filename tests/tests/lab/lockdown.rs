//! What a kernel refuses that is locked down for confidentiality, which a guest of `cargo xtask vm --lockdown` is.

use std::fs;

use anyhow::Result;
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{AgentOptions, needs_root, skip};

/// Whether this kernel keeps its memory from programs; says so if it does not.
fn is_locked_down() -> bool {
    let state = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let locked = state.contains("[confidentiality]");
    if !locked {
        skip("only a guest of `cargo xtask vm --lockdown` is locked down");
    }
    locked
}

/// Lockdown takes the helpers by which a program reads kernel memory. The fast path has none of them.
#[test]
fn it_answers_and_says_that_it_cannot_tell_namespaces_apart() -> Result<()> {
    needs_root!();
    if !is_locked_down() {
        return Ok(());
    }
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).sysctl_hook().start(lab.node())?;
    let status = agent.status()?;
    let hook = status.0["sysctl_hook"].as_str().unwrap_or_default();
    assert!(hook.starts_with("attached: writes of other network namespaces count as well"), "{hook}");
    assert!(hook.contains("/sys/kernel/security/lockdown"), "{hook}");
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    let trace = agent.command(&["trace", "--for", "0.1"])?;
    assert_eq!(trace.status.code(), Some(0), "{trace:?}");
    assert_eq!(agent.stop()?.code(), Some(0));
    Ok(())
}

#[test]
fn the_unresolved_budget_is_refused_by_name() -> Result<()> {
    needs_root!();
    if !is_locked_down() {
        return Ok(());
    }
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).args(&["--unresolved-budget", "cali*=count"]).spawn(lab.node())?;
    let exit = agent.wait()?;
    let log = agent.log();
    assert_eq!(exit.code(), Some(1), "{log}");
    assert!(log.contains("unresolved-budget") && log.contains("/sys/kernel/security/lockdown"), "{log}");
    assert!(log.contains("run without it"), "{log}");
    assert!(!log.contains("call bpf_probe_read"), "no verifier's log: {log}");
    // The other policies read no kernel memory.
    AgentOptions::new(&["cali*"]).args(&["--budget", "cali*=count"]).start(lab.node())?.stop()?;
    Ok(())
}
