//! `--shadow`: nothing is answered, and what would be is held against what the kernel sends.

use std::time::Duration;

use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY, FAR_HOST, UPLINK_IP};
use lab::{Agent, AgentOptions, Host, Lab, needs_kernel, needs_root, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Longer than the comparison waits for the kernel, and for the agent to look.
const DECIDED: Duration = Duration::from_secs(15);

fn shadow(agent: &Agent) -> Result<Value> {
    Ok(agent.status()?.0["shadow"].clone())
}

/// What was counted for a verdict.
fn of(shadow: &Value, verdict: &str, field: &str) -> u64 {
    let verdicts = shadow["verdicts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = verdicts.iter().find(|of| of["verdict"] == verdict);
    of.and_then(|of| of[field].as_u64()).unwrap_or_default()
}

/// Asks, and waits until what came of it was counted: the same question is compared once at a time.
fn ask(agent: &Agent, host: &Host, frame: &[u8], is_answered: bool) -> Result<()> {
    let before = shadow(agent)?["compared"].as_u64();
    assert_eq!(!host.ask(frame)?.is_empty(), is_answered, "{frame:02x?}");
    let is_compared = || Ok(shadow(agent)?["compared"].as_u64() > before);
    wait_until(DECIDED, is_compared, || format!("the request is compared: {:?}", shadow(agent)))
}

#[test]
fn on_a_plain_node_all_that_would_be_answered_is_answered_by_the_kernel() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let lab = topology::calico(2)?;
    let mut agent = AgentOptions::new(&["cali*"]).arg("--shadow").start(lab.node())?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    // The kernel learns the pods from the first requests; those would be passed.
    for pod in [p0, p1] {
        ask(&agent, pod, &pod.who_has(CALICO_GATEWAY), true)?;
    }
    agent.in_sync()?;
    for target in [CALICO_GATEWAY, p1.ip(), UPLINK_IP, FAR_HOST] {
        ask(&agent, p0, &p0.who_has(target), true)?;
    }
    ask(&agent, p0, &p0.probe(UPLINK_IP), true)?;
    ask(&agent, p0, &p0.probe(CALICO_GATEWAY), false)?;
    let found = shadow(&agent)?;
    assert_eq!((&found["disagreements"], &found["compared"]), (&0.into(), &8.into()), "{found}");
    assert_eq!((of(&found, "answer", "kernel_answered"), of(&found, "answer", "kernel_silent")), (5, 0), "{found}");
    assert_eq!(of(&found, "neighbour_unknown", "kernel_answered"), 2, "{found}");
    assert_eq!(of(&found, "probe_not_local", "kernel_silent"), 1, "{found}");
    assert_eq!((&found["kernel_answered"], &found["would_have_answered"]), (&7.into(), &5.into()), "{found}");
    // Nothing was answered, and nobody is told otherwise.
    let status = agent.status()?;
    assert_eq!(status.answered("cali0"), 0, "{}", status.0);
    assert_eq!(status.passed("cali0").get("shadow"), Some(&5));
    assert_eq!(
        (&status.interface("cali0")["state"], &status.interface("cali0")["reason_id"]),
        (&"passing".into(), &"shadow".into())
    );
    let said = String::from_utf8_lossy(&agent.command(&["status"])?.stdout).into_owned();
    assert!(said.contains("would have answered 71.4 %, 0 disagreements in 8"), "{said}");
    let metrics = String::from_utf8(agent.command(&["metrics"])?.stdout)?;
    for line in [
        "arp_agent_shadow_compared_total{kernel=\"answered\",verdict=\"answer\"} 5",
        "arp_agent_shadow_compared_total{kernel=\"answered\",verdict=\"neighbour_unknown\"} 2",
        "arp_agent_shadow_compared_total{kernel=\"silent\",verdict=\"probe_not_local\"} 1",
        "arp_agent_shadow_compared_total{kernel=\"silent\",verdict=\"no_route\"} 0",
        "arp_agent_shadow_would_reply_total 5",
        "arp_agent_shadow_disagreements_total 0",
        "arp_agent_shadow_unseen_interfaces 0",
    ] {
        assert!(metrics.lines().any(|has| has == line), "{line}: {metrics}");
    }
    let seconds = |line: &str| {
        let value = line.strip_prefix("arp_agent_shadow_kernel_seconds_total{verdict=\"answer\"} ")?;
        value.parse::<f64>().ok()
    };
    let seconds = metrics.lines().find_map(seconds).unwrap_or_default();
    assert!((1e-6..5.0).contains(&seconds), "five answers took the kernel {seconds} s");
    Ok(())
}

/// Makes a change while the agent sleeps, so that its maps say what was, and asks once, for so many replies: until the
/// agent has told of the disagreement.
fn behind_its_back(replies: usize, change: impl FnOnce(&Lab) -> Result<()>) -> Result<(Lab, Agent, Value)> {
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).args(&["--shadow", "--lease", "60s"]).start(lab.node())?;
    let p0 = lab.host("p0");
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    agent.in_sync()?;
    agent.signal(Signal::SIGSTOP)?;
    change(&lab)?;
    assert_eq!(p0.ask(&p0.who_has(FAR_HOST))?.len(), replies, "of the kernel");
    agent.signal(Signal::SIGCONT)?;
    let has_disagreed = || Ok(shadow(&agent)?["disagreements"] == 1);
    wait_until(DECIDED, has_disagreed, || format!("{:?}", shadow(&agent)))?;
    let found = shadow(&agent)?;
    Ok((lab, agent, found))
}

#[test]
fn a_kernel_that_turns_silent_unseen_is_a_disagreement() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let (_lab, agent, found) = behind_its_back(0, |lab| lab.node().sysctl("net.ipv4.conf.cali0.proxy_arp", 0))?;
    assert_eq!((of(&found, "answer", "kernel_silent"), of(&found, "answer", "disagreements")), (1, 1), "{found}");
    let last = found["last_disagreement"].as_str().unwrap_or_default();
    assert!(
        last.contains("cali0: who-has 10.20.30.40 tell 10.244.235.132") && last.contains("did not answer"),
        "{last}"
    );
    agent.wait_for_line(&["WARN", "shadow: cali0: who-has 10.20.30.40"])?;
    Ok(())
}

#[test]
fn another_answer_of_the_kernel_is_a_disagreement() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let (_lab, agent, found) =
        behind_its_back(1, |lab| lab.node().ip("link set cali0 address 02:00:00:00:00:77").map(drop))?;
    let last = found["last_disagreement"].as_str().unwrap_or_default();
    assert!(last.contains("answered with other bytes"), "{last}");
    let metrics = String::from_utf8(agent.command(&["metrics"])?.stdout)?;
    assert!(metrics.contains("arp_agent_shadow_disagreements_total 1\n"), "{metrics}");
    Ok(())
}

#[test]
fn explain_asks_the_program_and_the_comparison_takes_no_notice() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).arg("--shadow").start(lab.node())?;
    let p0 = lab.host("p0");
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    agent.in_sync()?;
    let explained = agent.command(&["explain", "cali0", "169.254.1.1", "--kernel"])?;
    let said = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(said.contains("passes (shadow)") && said.contains("counted as shadow"), "{said} {explained:?}");
    Ok(())
}

#[test]
fn what_the_kernel_learns_is_as_without_the_agent() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let options = AgentOptions::new(&["cali*"]).arg("--shadow");
    let mut both = lab::SideBySide::start_with(|| topology::calico(2), options)?;
    for _ in 0..3 {
        for target in [CALICO_GATEWAY, FAR_HOST] {
            let by = both.ask("p0", |p0| p0.who_has(target))?.by;
            assert!(matches!(by, lab::Answerer::Kernel(_)), "{by:?}");
            both.agent().in_sync()?;
        }
    }
    Ok(())
}
