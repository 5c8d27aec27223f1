//! Sysctls that others write: they must not take the fast path from anybody.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::stream::{answered, until_fast};
use lab::topology::{self, ROUTED_TARGET};
use lab::{Agent, AgentOptions, Host, Lab, Namespace, needs_root, wait_until};

/// How long requests are asked while others write.
const DURATION: Duration = Duration::from_secs(5);
/// How often others write each second, and how often at least in that time: who is behind time catches up, but for the last
/// moment.
const PER_SECOND: u32 = 1000;
const WRITTEN: u64 = (DURATION.as_secs() * PER_SECOND as u64) * 99 / 100;

/// Has `host` ask for so long. Gives how many requests that were, and how many the fast path answered.
fn ask_for(agent: &Agent, host: &Host, duration: Duration) -> Result<(u64, u64)> {
    let frame = host.who_has(ROUTED_TARGET);
    let (before, start) = (answered(agent)?, Instant::now());
    let mut asked = 0;
    while start.elapsed() < duration {
        ensure!(host.ask(&frame)?.len() == 1, "request {asked} has not one answer");
        asked += 1;
    }
    Ok((asked, answered(agent)? - before))
}

/// Writes settings of the namespace `per_second` times a second until told to stop; gives how often that was.
fn write_settings(namespace: &Namespace, per_second: u32, stop: &AtomicBool, written: &AtomicU64) -> Result<()> {
    const PATHS: [&str; 3] = ["all/proxy_arp", "default/proxy_arp", "lo/arp_ignore"];
    namespace.run(|| -> Result<()> {
        let start = Instant::now();
        for number in 0..u32::MAX {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Behind time, it catches up.
            let due = Duration::from_secs(1) * number / per_second;
            thread::sleep(due.saturating_sub(start.elapsed()));
            let path = PATHS[number as usize % PATHS.len()];
            fs::write(format!("/proc/sys/net/ipv4/conf/{path}"), ["1", "0"][number as usize / PATHS.len() % 2])?;
            written.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?
}

/// Whoever writes elsewhere while `work` is done. Gives also how many writes those were.
fn while_others_write<T>(elsewhere: &Namespace, per_second: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_settings(elsewhere, per_second, &stop, &written));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done?, written.load(Ordering::Relaxed)))
    })
}

/// A process of `nobody` in a user and a network namespace of its own, which writes settings there as fast as it can, some
/// thousand times a second; killed when dropped, and at its end after some seconds in any case.
struct Nobody(Child);

impl Nobody {
    fn start() -> Result<Self> {
        let script = "cd /proc/sys/net/ipv4/conf/default || exit 1; i=0
            while [ $i -lt 4000 ]; do
                for v in 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0; do
                    echo $v > proxy_arp || exit 1
                done
                i=$((i + 1)); sleep 0.01
            done";
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "unshare", "-Urn", "sh", "-c", script]);
        Ok(Nobody(command.stdin(Stdio::null()).spawn().context("starting setpriv")?))
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // One that has ended meanwhile cannot be killed, only waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn matrix_with(agent: impl FnOnce(&Lab) -> Result<Agent>) -> Result<(Lab, Namespace, Agent)> {
    let mut lab = topology::matrix()?;
    let elsewhere = lab.namespace("elsewhere")?;
    let agent = agent(&lab)?;
    Ok((lab, elsewhere, agent))
}

#[test]
fn a_thousand_foreign_writes_a_second_cost_no_answer() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let (lab, elsewhere, agent) =
        matrix_with(|lab| AgentOptions::new(&["v0"]).sysctl_hook().default_reread().start(lab.node()))?;
    let p0 = lab.host("p0");
    until_fast(&agent, p0, ROUTED_TARGET)?;
    let seen = |agent: &Agent| -> Result<u64> {
        agent.status()?.0["settings_written_elsewhere"].as_u64().context("settings_written_elsewhere")
    };

    let before = seen(&agent)?;
    let ((asked, fast), written) = while_others_write(&elsewhere, PER_SECOND, || ask_for(&agent, p0, DURATION))?;
    let status = agent.status()?;
    println!("{written} writes elsewhere in {DURATION:?}: {fast} of {asked} requests answered by the fast path");
    assert!(written >= WRITTEN, "only {written} writes in {DURATION:?}");
    assert!(seen(&agent)? >= before + written, "the hook has not seen the writes that this is about");
    assert!(fast * 1000 >= asked * 999, "{fast} of {asked}; passed: {:?}", status.passed("v0"));
    assert_eq!(status.0["sysctl_hook"], "attached");

    let mut nobody = Nobody::start()?;
    let before = seen(&agent)?;
    let (asked, fast) = ask_for(&agent, p0, DURATION)?;
    let written = seen(&agent)? - before;
    println!("some {written} writes by nobody in {DURATION:?}: {fast} of {asked} answered by the fast path");
    ensure!(nobody.0.try_wait()?.is_none(), "nobody has ended");
    assert!(written >= WRITTEN, "only {written} writes in {DURATION:?}");
    assert!(fast * 1000 >= asked * 999, "{fast} of {asked}; passed: {:?}", agent.status()?.passed("v0"));

    // Beside both, a setting of the node's own holds from the first frame after the write.
    let ((), written) = while_others_write(&elsewhere, PER_SECOND, || own_settings_hold(&agent, &lab))?;
    println!("{written} writes elsewhere while the node's own setting was written {} times", 2 * OWN_WRITES);
    ensure!(nobody.0.try_wait()?.is_none(), "nobody has ended");
    Ok(())
}

/// How often a setting of the node's own is switched off and on again.
const OWN_WRITES: u32 = 100;

/// Switches `proxy_arp` of the host's interface, and asks right after each write: there is one reply while it is on and none
/// while it is off. Between two writes the fast path answers again, so that there is something to be wrong.
fn own_settings_hold(agent: &Agent, lab: &Lab) -> Result<()> {
    let p0 = lab.host("p0");
    let frame = p0.who_has(ROUTED_TARGET);
    for round in 0..OWN_WRITES {
        until_fast(agent, p0, ROUTED_TARGET)?;
        for (setting, replies) in [(0, 0), (1, 1)] {
            lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", setting)?;
            let seen = p0.ask(&frame)?.len();
            ensure!(seen == replies, "round {round}: proxy_arp = {setting}, and {seen} replies");
        }
    }
    Ok(())
}

/// An agent that cannot read how this kernel lays out its memory.
fn without_btf(lab: &Lab, scratch: &tempfile::TempDir) -> Result<Agent> {
    let script = scratch.path().join("without-btf");
    fs::write(&script, "#!/bin/sh\nmount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$@\"\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
    let wrapper = format!("unshare --mount --propagation private {}", script.display());
    AgentOptions::new(&["v0"]).sysctl_hook().default_reread().through(&wrapper).start(lab.node())
}

#[test]
fn without_btf_the_sysctl_hook_rests_under_many_writes() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let scratch = tempfile::tempdir()?;
    let (lab, elsewhere, agent) = matrix_with(|lab| without_btf(lab, &scratch))?;
    let p0 = lab.host("p0");
    let state = || -> Result<String> {
        Ok(agent.status()?.0["sysctl_hook"].as_str().context("a status without `sysctl_hook`")?.to_owned())
    };
    ensure!(state()?.starts_with("attached: ") && state()?.contains("/sys/kernel/btf"), "{}", state()?);

    let (rested, _) = while_others_write(&elsewhere, 100, || {
        let pauses = || Ok(!state()?.starts_with("attached"));
        wait_until(Duration::from_secs(15), pauses, || "the hook pauses".to_owned())?;
        ask_for(&agent, p0, Duration::from_secs(3))
    })?;
    let (asked, fast) = rested;
    println!("while the hook rests: {fast} of {asked} requests answered by the fast path; {}", state()?);
    assert!(fast * 100 >= asked * 95, "{fast} of {asked}; passed: {:?}", agent.status()?.passed("v0"));
    assert!(state()?.contains("paused"), "{}", state()?);
    let log = agent.log();
    assert_eq!(log.lines().filter(|line| line.contains("sysctl hook paused")).count(), 1, "{log}");

    // What is written here is followed all the same, at the next poll.
    until_fast(&agent, p0, ROUTED_TARGET)?;
    lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    agent.ask(r#""sync""#)?;
    assert_eq!(p0.ask(&p0.who_has(ROUTED_TARGET))?.len(), 0);
    Ok(())
}
