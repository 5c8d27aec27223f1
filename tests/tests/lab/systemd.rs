//! The unit, and what the agent tells a service manager.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::topology;
use lab::{Agent, AgentOptions, needs_root, skip, stretched};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/arp-agent.service");

/// The other end of `$NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = UnixDatagram::bind(dir.path().join("notify"))?;
        Ok(Manager { socket, dir })
    }

    /// Runs the agent as systemd would run the unit, as far as messages go.
    fn watched(&self, options: AgentOptions, watchdog: Duration) -> AgentOptions {
        let path = self.dir.path().join("notify");
        options.through(&format!("env NOTIFY_SOCKET={} WATCHDOG_USEC={}", path.display(), watchdog.as_micros()))
    }

    /// The next message within this time.
    fn message(&self, within: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // A wait with a timeout is not taken up again after a signal, whose ever it was.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a message with this in it; gives those before it, and it.
    fn wait_for(&self, part: &str) -> Result<Vec<String>> {
        let deadline = Instant::now() + stretched(Duration::from_secs(10));
        let mut before = Vec::new();
        while let Some(message) = self.message(deadline.saturating_duration_since(Instant::now()))? {
            let is_it = message.contains(part);
            before.push(message);
            if is_it {
                return Ok(before);
            }
        }
        anyhow::bail!("no message with {part} within 10 s, but {before:?}")
    }
}

fn start(manager: &Manager, lab: &lab::Lab, watchdog: Duration) -> Result<Agent> {
    manager.watched(AgentOptions::new(&["cali*"]), watchdog).spawn(lab.node())
}

#[test]
fn the_service_manager_hears_ready_state_reload_and_stop() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let manager = Manager::new()?;
    let mut agent = start(&manager, &lab, Duration::ZERO)?;
    let before = manager.wait_for("READY=1")?;
    assert!(before.len() == 1, "{before:?}");
    manager.wait_for("STATUS=answering on 2 of 2 interfaces")?;
    assert!(agent.status()?.ready());

    agent.signal(Signal::SIGHUP)?;
    let reloading = manager.wait_for("RELOADING=1")?;
    assert!(reloading.last().is_some_and(|message| message.contains("MONOTONIC_USEC=")), "{reloading:?}");
    manager.wait_for("READY=1")?;

    agent.signal(Signal::SIGTERM)?;
    let messages = manager.wait_for("STOPPING=1")?;
    assert!(!messages.iter().any(|message| message.contains("WATCHDOG")), "none was asked for: {messages:?}");
    assert_eq!(agent.wait()?.code(), Some(0));
    Ok(())
}

#[test]
fn an_agent_that_is_not_in_sync_is_not_ready_but_alive() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let manager = Manager::new()?;
    // The longest heartbeat that there is.
    let options = AgentOptions::new(&["cali*"]).default_reread().args(&["--lease", "60s", "--reread-interval", "60s"]);
    let agent = manager.watched(options, Duration::from_secs(4)).spawn(lab.node())?;
    manager.wait_for("READY=1")?;
    let mut last = Instant::now();
    let until = last + Duration::from_secs(6);
    while Instant::now() < until {
        manager.wait_for("WATCHDOG=1")?;
        let pause = std::mem::replace(&mut last, Instant::now()).elapsed();
        ensure!(pause < stretched(Duration::from_secs(3)), "{pause:?} between two signs of life");
    }
    // A loop that stands still gives none.
    agent.signal(Signal::SIGSTOP)?;
    while manager.message(Duration::from_millis(50))?.is_some() {}
    let silent = manager.message(Duration::from_secs(3))?;
    assert_eq!(silent, None);
    agent.signal(Signal::SIGCONT)?;
    manager.wait_for("WATCHDOG=1")?;
    Ok(())
}

/// The level of exposure, in tenths.
fn exposure(unit: &Path) -> Result<Option<u32>> {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager"]).arg(unit);
    let Ok(output) = analyze.output() else {
        skip("there is no systemd-analyze");
        return Ok(None);
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("Overall exposure level"));
    let level = line
        .and_then(|line| line.split(": ").nth(1)?.split_whitespace().next())
        .with_context(|| format!("{output:?}"))?;
    Ok(Some(level.replace('.', "").parse().with_context(|| level.to_owned())?))
}

#[test]
fn the_unit_exposes_little() -> Result<()> {
    let Some(level) = exposure(Path::new(UNIT))? else { return Ok(()) };
    assert!(level <= 20, "{level} tenths");
    // The measure finds what is missing.
    let text = std::fs::read_to_string(UNIT)?;
    let dir = tempfile::tempdir()?;
    let loose = dir.path().join("arp-agent.service");
    std::fs::write(&loose, text.replace("CapabilityBoundingSet=", "#").replace("SystemCallFilter=", "#"))?;
    assert!(exposure(&loose)?.is_some_and(|level| level > 20));
    Ok(())
}
