//! What the agent cannot do, it says, and it does the rest.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, Lab, needs_root};

/// Lets an agent fail to start; gives what it wrote.
fn refusal(lab: &Lab, options: AgentOptions) -> Result<String> {
    let mut agent = options.spawn(lab.node())?;
    let exit = agent.wait()?;
    assert_eq!(exit.code(), Some(1), "its log:\n{}", agent.log());
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    Ok(agent.log())
}

#[test]
fn a_taken_xdp_slot_is_named_with_its_holder() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let xdp = |pattern| AgentOptions::new(&[pattern]).args(&["--hook", "xdp", "--xdp-mode", "skb"]);
    let mut holder = xdp("cali0").start(lab.node())?;
    let mut second = xdp("cali*").start(lab.node())?;

    let status = second.status()?;
    let taken = status.interface("cali0");
    assert_ne!(taken["state"], "answering", "{taken}");
    let program = lab.node().ip_json("-details link show cali0")?[0]["xdp"]["prog"]["id"].to_string();
    let reason = taken["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("another arp-agent"), "whose program it is: {reason}");
    assert!(reason.contains("arp_xdp") && reason.contains(&program), "program {program} holds it: {reason}");

    let of_ten = |agent: &mut Agent, pod: &str| answered_of_ten(agent, lab.host(pod), CALICO_GATEWAY);
    assert_eq!(of_ten(&mut second, "p1")?, 10, "the other interface");
    assert_eq!(of_ten(&mut holder, "p0")?, 10, "the holder is not disturbed");
    second.stop()?;
    assert_eq!(of_ten(&mut holder, "p0")?, 10, "nor by the second one's end");
    Ok(())
}

#[test]
fn a_second_agent_by_tc_is_told_as_one() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let clsact = || AgentOptions::new(&["cali*"]).args(&["--hook", "tc", "--tc-attach", "clsact"]);
    let _first = clsact().start(lab.node())?;
    let second = clsact().start(lab.node())?;
    let status = second.status()?;
    let interface = status.interface("cali0");
    assert_eq!(interface["reason_id"], "ingress_hook", "{interface}");
    assert!(interface["reason"].as_str().is_some_and(|reason| reason.contains("another arp-agent")), "{interface}");
    Ok(())
}

#[test]
fn options_that_contradict_each_other_are_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    for (hook, option, value) in [("xdp", "--tc-attach", "tcx"), ("tc", "--xdp-mode", "skb")] {
        let log = refusal(&lab, AgentOptions::new(&["cali*"]).args(&["--hook", hook, option, value]))?;
        assert!(log.contains(option) && log.contains("contradict"), "{log}");
    }
    Ok(())
}

#[test]
fn without_the_capabilities_it_names_the_missing_ones() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    for (drop, named) in
        [("-net_admin", "CAP_NET_ADMIN"), ("-bpf,-sys_admin", "CAP_BPF"), ("-perfmon,-sys_admin", "CAP_PERFMON")]
    {
        let options = AgentOptions::new(&["cali*"]).through(&format!("setpriv --bounding-set {drop}"));
        let log = refusal(&lab, options)?;
        assert!(log.contains(named), "without {drop}: {log}");
    }
    Ok(())
}

#[test]
fn a_second_agent_in_a_run_directory_is_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut first = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let log = refusal(&lab, AgentOptions::new(&["cali*"]).run_dir(first.run_dir()))?;
    assert!(log.contains(&*first.run_dir().to_string_lossy()), "it names the run directory: {log}");
    assert_eq!(answered_of_ten(&mut first, lab.host("p0"), CALICO_GATEWAY)?, 10);
    Ok(())
}

#[test]
fn a_run_directory_that_is_a_file_is_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let file = tempfile::NamedTempFile::new()?;
    let log = refusal(&lab, AgentOptions::new(&["cali*"]).run_dir(file.path()))?;
    assert!(log.contains(&*file.path().to_string_lossy()), "{log}");
    Ok(())
}

#[test]
fn a_run_directory_it_may_not_enter_is_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o000))?;
    let options = AgentOptions::new(&["cali*"])
        .run_dir(dir.path())
        .through("setpriv --bounding-set -dac_override,-dac_read_search");
    let log = refusal(&lab, options)?;
    assert!(log.contains(&*dir.path().to_string_lossy()), "{log}");
    Ok(())
}

#[test]
fn without_kernel_types_the_unresolved_budget_is_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let scratch = tempfile::tempdir()?;
    let script = scratch.path().join("without-types");
    fs::write(&script, "#!/bin/sh\nmount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$@\"\n")?;
    fs::set_permissions(&script, Permissions::from_mode(0o700))?;
    let wrapper = format!("unshare --mount --propagation private {}", script.display());
    let options = || AgentOptions::new(&["cali*"]).through(&wrapper);
    let log = refusal(&lab, options().args(&["--unresolved-budget", "cali*=count"]))?;
    assert!(log.contains("unresolved-budget") && log.contains("/sys/kernel/btf/vmlinux"), "{log}");
    // The other policies need none of it.
    options().args(&["--budget", "cali*=count"]).start(lab.node())?.stop()?;
    Ok(())
}
