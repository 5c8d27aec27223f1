//! What the agent may do, and who may do what to it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{thread, vec};

use anyhow::{Context as _, Result, ensure};
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, Lab, agent_binary, needs_root, skip};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown, mkfifo};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tempfile::TempDir;

/// A user who may do nothing: `nobody`.
const NOBODY: u32 = 65534;

/// The capabilities of the unit, as `setpriv` names them.
fn documented() -> Result<Vec<String>> {
    let unit = include_str!("../../../packaging/arp-agent.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.context("packaging/arp-agent.service has no CapabilityBoundingSet=")?.split_whitespace();
    names.map(|name| Ok(name.strip_prefix("CAP_").context(name.to_owned())?.to_lowercase())).collect()
}

/// The command that gives exactly the documented capabilities.
fn setpriv(user: &str) -> Result<String> {
    let set = format!("-all,+{}", documented()?.join(",+"));
    Ok(format!("setpriv {user} --inh-caps={set} --ambient-caps={set} --bounding-set={set}"))
}

/// A directory that every user may enter, with a copy of the agent.
fn public_agent() -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::Builder::new().prefix("arp-lab-").tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let binary = dir.path().join("arp-agent");
    fs::copy(agent_binary()?, &binary)?;
    fs::set_permissions(&binary, Permissions::from_mode(0o755))?;
    Ok((dir, binary))
}

/// Starts the agent with the documented capabilities and one hook. A kernel that does not give that hook to an agent
/// with all capabilities has not got it.
fn suffices(hook: &[&str]) -> Result<()> {
    let lab = topology::calico(1)?;
    lab.host("p0").namespace().exec("ethtool -K eth0 gro on")?;
    let options = || AgentOptions::new(&["cali*"]).args(hook);
    let mut with_all = options().start(lab.node())?;
    if with_all.status()?.interface("cali0")["state"] == "detached" {
        let status = with_all.status()?;
        skip(&format!("{hook:?} is not to be had here: {}", status.interface("cali0")["reason"]));
        return Ok(());
    }
    with_all.stop()?;
    let mut agent = options().through(&setpriv("")?).start(lab.node())?;
    // The self-test waits for its frames.
    agent.wait_for_interface("cali0", |cali0| cali0["state"] == "answering")?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10, "{hook:?}");
    // A trace loads programs, and makes a ring.
    let traced = agent.command(&["trace", "--for", "0.1"])?;
    ensure!(traced.status.code() == Some(0), "{hook:?}: {traced:?}");
    assert_eq!(agent.stop()?.code(), Some(0));
    Ok(())
}

macro_rules! documented_capabilities_suffice {
    ($($name:ident: $($argument:literal)+;)+) => {$(
        #[test]
        fn $name() -> Result<()> {
            needs_root!();
            suffices(&[$($argument),+])
        }
    )+};
}

documented_capabilities_suffice! {
    documented_capabilities_suffice_for_tc_by_clsact: "--hook" "tc" "--tc-attach" "clsact";
    documented_capabilities_suffice_for_tc_by_tcx: "--hook" "tc" "--tc-attach" "tcx";
    documented_capabilities_suffice_for_xdp_on_socket_buffers: "--hook" "xdp" "--xdp-mode" "skb";
    documented_capabilities_suffice_for_xdp_in_the_driver: "--hook" "xdp" "--xdp-mode" "driver";
}

/// It is enough, but for a file that only root may read, and that is there while the module arp_tables is loaded.
#[test]
fn with_its_own_user_it_answers_or_says_why_not() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let (dir, binary) = public_agent()?;
    let run_dir = dir.path().join("run");
    fs::create_dir(&run_dir)?;
    chown(&run_dir, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)))?;
    let user = format!("--reuid={NOBODY} --regid={NOBODY} --clear-groups");
    let options = AgentOptions::new(&["cali*"]).through(&setpriv(&user)?).binary(&binary).run_dir(&run_dir);
    let mut agent = options.start(lab.node())?;
    if lab.node().run(|| fs::exists("/proc/thread-self/net/arp_tables_names"))?? {
        // Several retries, if there were any.
        thread::sleep(Duration::from_secs(2));
        assert!(agent.status()?.ready(), "{}", agent.log());
        assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 0, "there may be a table");
        assert_eq!(agent.log().matches("arp_tables_names").count(), 1, "{}", agent.log());
        assert!(agent.log().contains("CAP_DAC_READ_SEARCH"), "{}", agent.log());
    } else {
        assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    }
    assert!(agent.log().lines().count() < 20, "{}", agent.log());
    Ok(())
}

#[test]
fn a_seccomp_filter_that_refuses_bpf_is_named() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let refuse = SeccompFilter::new(
        [(libc::SYS_bpf, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        std::env::consts::ARCH.try_into()?,
    )?;
    let refuse: BpfProgram = refuse.try_into()?;
    // Children have the filter of the thread that makes them, and this thread ends here.
    let mut agent = thread::scope(|scope| {
        let inside = || -> Result<Agent> {
            seccompiler::apply_filter(&refuse)?;
            AgentOptions::new(&["cali*"]).spawn(lab.node())
        };
        scope.spawn(inside).join().expect("a thread that does not panic")
    })?;
    assert_eq!(agent.wait()?.code(), Some(1), "{}", agent.log());
    let log = agent.log();
    assert!(log.contains("seccomp"), "{log}");
    assert!(!log.contains("missing"), "no capability is missing: {log}");
    assert!(log.matches("IFACES").count() <= 1 && log.matches("failed to create map").count() == 1, "{log}");
    Ok(())
}

/// Without a cgroup2 mount, and without the capability to make one, settings are polled: that is told, with the remedy,
/// and it is no refusal.
#[test]
fn without_a_cgroup2_mount_it_polls_and_says_so() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let scratch = tempfile::tempdir()?;
    let script = scratch.path().join("without-cgroup2");
    fs::write(&script, format!("#!/bin/sh\numount -l -a -t cgroup2\nexec {} \"$@\"\n", setpriv("")?))?;
    fs::set_permissions(&script, Permissions::from_mode(0o700))?;
    let wrapper = format!("unshare --mount --propagation private {}", script.display());
    let mut agent = AgentOptions::new(&["cali*"]).sysctl_hook().through(&wrapper).start(lab.node())?;
    let status = agent.status()?;
    let hook = status.0["sysctl_hook"].as_str().unwrap_or_default();
    assert!(hook.contains("no cgroup2 mount is visible"), "{hook}");
    assert!(hook.contains("CAP_SYS_ADMIN") && hook.contains("/sys/fs/cgroup"), "the remedy: {hook}");
    assert_eq!(agent.log().matches("no sysctl hook").count(), 1, "{}", agent.log());
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    assert_eq!(agent.stop()?.code(), Some(0));
    Ok(())
}

/// Lets an agent fail to start, soon; gives what it wrote.
fn refusal(lab: &Lab, run_dir: &Path) -> Result<String> {
    let mut agent = AgentOptions::new(&["cali*"]).run_dir(run_dir).spawn(lab.node())?;
    let exit = agent.wait()?;
    assert_eq!(exit.code(), Some(1), "its log:\n{}", agent.log());
    Ok(agent.log())
}

#[test]
fn a_run_directory_open_to_others_is_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let dir = tempfile::tempdir()?;
    let shown = dir.path().to_string_lossy().into_owned();
    for mode in [0o777, 0o720, 0o1777] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode))?;
        let log = refusal(&lab, dir.path())?;
        assert!(log.contains(&shown) && log.contains("chmod"), "mode {mode:o}: {log}");
    }
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    chown(dir.path(), Some(Uid::from_raw(NOBODY)), None)?;
    let log = refusal(&lab, dir.path())?;
    assert!(log.contains(&shown) && log.contains("65534"), "{log}");
    assert_eq!(fs::read_dir(dir.path())?.count(), 0, "nothing was made there");
    Ok(())
}

#[test]
fn a_lock_that_is_link_or_fifo_is_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let (dir, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (lock, target) = (dir.path().join("lock"), elsewhere.path().join("made-by-root"));
    symlink(&target, &lock)?;
    let log = refusal(&lab, dir.path())?;
    assert!(log.contains("symbolic link") && log.contains(&*lock.to_string_lossy()), "{log}");
    assert!(!target.exists());
    fs::remove_file(&lock)?;
    mkfifo(&lock, Mode::from_bits_truncate(0o600))?;
    let log = refusal(&lab, dir.path())?;
    assert!(log.contains("no regular file") && log.contains(&*lock.to_string_lossy()), "{log}");
    Ok(())
}

/// Runs a line of `sh` as a user who may do nothing.
fn as_nobody(line: &str) -> Result<bool> {
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    let mut command = Command::new("setpriv");
    command.args(user).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "sh", "-c", line]);
    Ok(command.output().context("starting setpriv")?.status.success())
}

/// Whoever may open the lock may hold it, and nobody restarts the agent then.
#[test]
fn no_other_user_can_open_lock_or_socket() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    // A fresh one, and one that an earlier version has left.
    let (fresh, old) = (dir.path().join("fresh"), dir.path().join("old"));
    fs::create_dir(&old)?;
    fs::set_permissions(&old, Permissions::from_mode(0o755))?;
    fs::write(old.join("lock"), "")?;
    fs::set_permissions(old.join("lock"), Permissions::from_mode(0o666))?;
    assert!(as_nobody(&format!("exec 9<{}/lock", old.display()))?, "before the agent it can");
    for run_dir in [fresh, old] {
        let mut agent = AgentOptions::new(&["cali*"]).after("umask 0").run_dir(&run_dir).start(lab.node())?;
        let mode = |path: &Path| -> Result<u32> { Ok(fs::metadata(path)?.mode() & 0o777) };
        assert_eq!((mode(&run_dir.join("lock"))?, mode(&run_dir.join("control.sock"))?), (0o600, 0o600));
        assert!(!as_nobody(&format!("exec 9<{}/lock", run_dir.display()))?);
        agent.kill()?;
        // What is left is no better.
        assert!(!as_nobody(&format!("exec 9<{}/lock", run_dir.display()))?);
        let mut next = AgentOptions::new(&["cali*"]).run_dir(&run_dir).start(lab.node())?;
        next.stop()?;
        assert_eq!(fs::read_dir(&run_dir)?.count(), 0, "a clean end leaves nothing");
    }
    assert_eq!(fs::metadata(dir.path().join("fresh"))?.mode() & 0o777, 0o700);
    Ok(())
}

/// Should somebody open the socket's mode, the agent still asks who is there.
#[test]
fn the_control_socket_answers_only_its_own_user() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let (dir, binary) = public_agent()?;
    let run_dir = dir.path().join("run");
    let agent = AgentOptions::new(&["cali*"]).run_dir(&run_dir).start(lab.node())?;
    fs::set_permissions(&run_dir, Permissions::from_mode(0o755))?;
    fs::set_permissions(run_dir.join("control.sock"), Permissions::from_mode(0o666))?;
    let ask = format!("{} status --run-dir {}", binary.display(), run_dir.display());
    let told = run_dir.join("told");
    fs::write(&told, "")?;
    fs::set_permissions(&told, Permissions::from_mode(0o666))?;
    assert!(!as_nobody(&format!("{ask} > {} 2>&1", told.display()))?);
    let told = fs::read_to_string(&told)?;
    assert!(told.contains("permission denied: only root, the agent's own user and"), "{told}");
    assert!(agent.status()?.ready());
    Ok(())
}

/// A group of the lab's, in a file that stands in for the machine's own while an agent runs.
const GROUP: u32 = 4242;

#[test]
fn members_of_the_group_may_read_and_no_more() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let (dir, binary) = public_agent()?;
    let run_dir = dir.path().join("run");
    let groups = dir.path().join("group");
    fs::write(&groups, format!("root:x:0:\narp-agent:x:{GROUP}:\n"))?;
    let line = format!("exec unshare -m sh -c 'mount --bind {} /etc/group && exec \"$@\"' sh \"$@\"", groups.display());
    let agent = AgentOptions::new(&["cali*"]).after(&line).run_dir(&run_dir).start(lab.node())?;
    let owner = |path: &Path| -> Result<(u32, u32)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.gid(), metadata.mode() & 0o777))
    };
    assert_eq!(owner(&run_dir)?, (GROUP, 0o710));
    assert_eq!(owner(&run_dir.join("control.sock"))?, (GROUP, 0o660));
    assert_eq!(owner(&run_dir.join("lock"))?.1, 0o600, "who can open the lock can hold it");

    let ask = |groups: &str, arguments: &[&str]| -> Result<Output> {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), groups.to_owned()]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(&binary).args(arguments);
        command.arg("--run-dir").arg(&run_dir);
        lab.node().run(|| command.output())?.context("starting setpriv")
    };
    // As one of many groups, more than the agent asks for at first.
    let many: Vec<String> = (5000..5100).chain([GROUP]).map(|gid| gid.to_string()).collect();
    for member in [format!("--groups={GROUP}"), format!("--groups={}", many.join(","))] {
        for verb in ["status", "stats", "events"] {
            let output = ask(&member, &[verb])?;
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
    }
    let stranger = ask("--clear-groups", &["status", "--json"])?;
    assert_eq!(stranger.status.code(), Some(1), "{stranger:?}");
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("member of the group arp-agent"), "{stranger:?}");
    assert!(stranger.stdout.is_empty(), "{stranger:?}");

    // To run the program makes it count. Where only root may read the kernel's ARP tables, the question does not get so far.
    if !lab.node().run(|| fs::exists("/proc/thread-self/net/arp_tables_names"))?? {
        let question = ["explain", "--interface", "cali0", "--target", "169.254.1.1", "--sender", "10.244.235.132"];
        let member = format!("--groups={GROUP}");
        let explained = ask(&member, &question)?;
        assert_eq!(explained.status.code(), Some(3), "{explained:?}");
        let refused = ask(&member, &[&question[..], &["--kernel"]].concat())?;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("permission denied"), "{refused:?}");
    }
    assert!(agent.status()?.ready());
    Ok(())
}

/// What the agent has made: filters and queueing disciplines of the interface, and the files of the run directory.
fn left(lab: &Lab, run_dir: &Path) -> Result<String> {
    let show = |what: &str| -> Result<String> {
        let output = lab.node().output(&format!("tc {what} show dev cali0"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let link = lab.node().ip("-details link show cali0")?;
    let mut left = format!("{}{}", show("filter")?, show("qdisc")?);
    left.extend(link.lines().filter(|line| line.contains("xdp")));
    for file in fs::read_dir(run_dir)? {
        left.push_str(&format!("{}\n", file?.path().display()));
    }
    Ok(left)
}

/// Signals that a process cannot handle, that stop it or let it go on, that do nothing by default, and those of a
/// program's own faults (`SIGILL`, `SIGBUS`, `SIGFPE`, `SIGSEGV`).
const OTHERS: [i32; 14] = [4, 7, 8, 9, 11, 17, 18, 19, 20, 21, 22, 23, 28, 32];

#[test]
fn no_signal_but_kill_leaves_anything_behind() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let start = |run_dir: &Path| AgentOptions::new(&["cali0"]).run_dir(run_dir).start(lab.node());
    let dir = tempfile::tempdir()?;
    let untouched = left(&lab, dir.path())?;
    start(dir.path())?.stop()?;
    // Where tc is clsact, an empty one stays over restarts; nothing else does.
    let before = left(&lab, dir.path())?;
    assert_eq!(before.replace("qdisc clsact ffff: parent ffff:fff1 \n", ""), untouched);
    let mut agent = start(dir.path())?;
    let (mut ended, mut log) = (Vec::new(), String::new());
    // 32 and 33 are the C library's own.
    for signal in (1..=64).filter(|signal| !OTHERS.contains(signal) && *signal != 33) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", agent.pid())]).status()?;
        ensure!(sent.success(), "sending signal {signal}");
        // Long enough to end; what does not end it is asked for below.
        let deadline = Instant::now() + Duration::from_millis(if ENDING.contains(&signal) { 10_000 } else { 15 });
        while Instant::now() < deadline && !agent.has_ended()? {
            thread::sleep(Duration::from_millis(3));
        }
        if agent.has_ended()? {
            assert_eq!(agent.wait()?.code(), Some(0), "signal {signal}:\n{}", agent.log());
            assert_eq!(left(&lab, dir.path())?, before, "signal {signal}");
            ended.push(signal);
            log += &agent.log();
            agent = start(dir.path())?;
        }
    }
    assert_eq!(ended, ENDING, "{}", agent.log());
    assert!(log.contains("SIGHUP"), "{log}");
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    agent.stop()?;
    assert_eq!(left(&lab, dir.path())?, before);
    Ok(())
}

/// SIGINT, SIGQUIT, SIGTRAP, SIGABRT, SIGTERM, SIGXCPU, SIGSYS.
const ENDING: [i32; 7] = [2, 3, 5, 6, 15, 24, 31];

#[test]
fn a_failed_start_leaves_nothing_behind() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let dir = tempfile::tempdir()?;
    let mut agent = AgentOptions::new(&["["]).run_dir(dir.path()).spawn(lab.node())?;
    assert_eq!(agent.wait()?.code(), Some(1), "{}", agent.log());
    assert_eq!(fs::read_dir(dir.path())?.count(), 0);
    Ok(())
}
