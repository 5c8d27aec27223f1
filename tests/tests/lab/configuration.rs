//! Settings from the environment and a file, and changed while the agent runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::Result;
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, agent_binary, needs_root, wait_until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// A configuration file in a directory of its own.
fn file(text: &str) -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("arp-agent.toml");
    fs::write(&path, text)?;
    Ok((dir, path))
}

/// An agent that takes its interfaces from a file.
fn by_file(path: &Path) -> AgentOptions {
    AgentOptions::new(&[]).default_reread().arg("--config").arg(path)
}

fn check(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(agent_binary()?);
    command.arg("check-config").args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    Ok(command.output()?)
}

/// The state of each interface, by name.
fn states(agent: &Agent) -> Result<Vec<(String, String)>> {
    let status = agent.status()?;
    let state = |name: &&str| ((*name).to_owned(), status.interface(name)["state"].as_str().unwrap_or("").to_owned());
    Ok(status.interfaces().iter().map(state).collect())
}

#[test]
fn check_config_says_where_each_setting_comes_from() -> Result<()> {
    let (_dir, path) = file("interface = \"cali*\"\nlease = 500\n")?;
    let path = path.to_str().unwrap_or_default();
    let right = check(&["--config", path, "--hook", "tc", "--json"], &[("ARP_AGENT_RUN_DIR", "/run/x")])?;
    assert_eq!(right.status.code(), Some(0), "{right:?}");
    let document: serde_json::Value = serde_json::from_slice(&right.stdout)?;
    let from = |name: &str| {
        let settings = document["settings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let setting = settings.iter().find(|setting| setting["name"] == name).cloned().unwrap_or_default();
        [setting["value"].as_str().unwrap_or("").to_owned(), setting["from"].as_str().unwrap_or("").to_owned()]
    };
    assert_eq!(from("lease"), ["500".to_owned(), format!("{path}:2")]);
    assert_eq!(from("hook"), ["tc", "command line"]);
    assert_eq!(from("run-dir"), ["/run/x", "environment"]);
    assert_eq!(from("bpffs"), ["/sys/fs/bpf", "default"]);

    let (_dir, wrong) = file("interface = \"cali*\"\nleese = 500\nhook = \"xpd\"\n")?;
    let wrong = wrong.to_str().unwrap_or_default();
    let refused = check(&["--config", wrong], &[])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for part in [format!("{wrong}:2: "), format!("{wrong}:3: "), "`lease`".to_owned(), "`xdp`".to_owned()] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    let absent = check(&["--config", "/nonexistent.toml"], &[])?;
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
    Ok(())
}

#[test]
fn a_reload_takes_other_interfaces_and_keeps_what_stays() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let (_dir, path) = file("interface = \"cali0\"\n")?;
    let mut agent = by_file(&path).start(lab.node())?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    assert_eq!(answered_of_ten(&mut agent, lab.host("p1"), CALICO_GATEWAY)?, 0);
    let answered = agent.status()?.answered("cali0");

    fs::write(&path, "interface = [\"cali0\", \"cali1\"]\nlease = 700\nreread-interval = 60\n")?;
    let reloaded = agent.command(&["reload"])?;
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    let said = String::from_utf8_lossy(&reloaded.stdout).into_owned();
    assert!(said.contains("lease = 700") && said.contains("interface = cali0 cali1"), "{said}");
    agent.wait_for_interface("cali1", |cali1| cali1["state"] == "answering")?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p1"), CALICO_GATEWAY)?, 10);
    let status = agent.status()?;
    assert_eq!((&status.0["lease_ms"], &status.0["reread_interval_ms"]), (&700.into(), &60.into()));
    assert!(status.answered("cali0") >= answered, "cali0 was not attached to again: {}", status.0);

    fs::write(&path, "interface = \"cali1\"\nlease = 700\nreread-interval = 60\n")?;
    agent.signal(Signal::SIGHUP)?;
    let is_alone = || Ok(states(&agent)? == [("cali1".to_owned(), "answering".to_owned())]);
    wait_until(Duration::from_secs(5), is_alone, || format!("cali0 is detached from: {}", agent.log()))?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 0);
    assert_eq!(answered_of_ten(&mut agent, lab.host("p1"), CALICO_GATEWAY)?, 10);
    agent.wait_for_line(&["read again", "interface = cali1"])?;
    Ok(())
}

#[test]
fn a_bad_file_leaves_the_old_settings_in_force() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let (_dir, path) = file("interface = \"cali*\"\nlease = 900\n")?;
    let mut agent = by_file(&path).start(lab.node())?;
    let bad = [
        ("interface = \"cali*\"\nlease = 1\n", "lease"),
        ("interface = [\n", "arp-agent.toml:1"),
        ("lease = 900\n", "no interface"),
        ("interface = \"cali*\"\nlease = 100\narp-listeners = \"ignore\"\n", "arp-listeners: cannot change"),
        (
            "interface = \"cali*\"\nlease = 100\nbudget = \"cali*=drop\"\n",
            "budget: the program of policies that drop is not loaded",
        ),
        ("interface = \"cali*\"\nbudget = \"eth0=drop\"\n", "arp-agent.toml:2: budget eth0: `interface` names no such"),
    ];
    for (text, named) in bad {
        fs::write(&path, text)?;
        let refused = agent.command(&["reload"])?;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(named) && said.contains("keeps its old configuration"), "{named}: {said}");
        assert_eq!(agent.status()?.0["lease_ms"], 900, "{named}");
        agent.wait_for_line(&["ERROR", named])?;
    }
    fs::remove_file(&path)?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_line(&["ERROR", "cannot be read"])?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10, "it answers as before");
    Ok(())
}

#[test]
fn a_log_level_changes_while_it_runs() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let (_dir, path) = file("interface = \"cali*\"\nlog-format = \"json\"\n")?;
    let agent = by_file(&path).start(lab.node())?;
    agent.wait_for_line(&["{", "\"level\":\"info\"", "\"message\":\"cali0: answering"])?;
    assert!(!agent.log().contains("\"debug\""), "{}", agent.log());
    fs::write(&path, "interface = \"cali*\"\nlog-format = \"text\"\nlog-level = \"debug\"\n")?;
    agent.command(&["reload"])?;
    lab.node().sysctl("net.ipv4.conf.cali0.medium_id", 7)?;
    agent.wait_for_line(&["DEBUG"])?;
    Ok(())
}
