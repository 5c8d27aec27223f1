//! The unit under a real systemd: process 1 of namespaces of its own, with the unit's whole sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lab::topology;
use lab::{Lab, agent_binary, kernel_is_since, needs_root, skip, stretched, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const UNIT: &str = include_str!("../../../packaging/arp-agent.service");
const SYSTEMD: &str = "/lib/systemd/systemd";
/// Units that the unit's own dependencies are: empty here.
const TARGETS: [&str; 6] = ["sysinit", "basic", "shutdown", "network", "network-pre", "umount"];

/// Makes a cgroup, and a view in which it is the root; settings of the machine stay as they are.
const OUTSIDE: &str = r#"set -e
umount -R -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$1"
echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --propagation private sh -c "$2" sh "$3"
"#;
const INSIDE: &str = r#"set -e
mount -t proc proc /proc
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
mkdir /run/trial
cp -r "$1/." /run/trial
export container=lab SYSTEMD_UNIT_PATH=/run/trial
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
"#;

/// A systemd that runs the unit in the lab's node.
struct Systemd {
    child: Child,
    /// Process 1, as seen from here.
    init: Pid,
    cgroup: String,
    files: TempDir,
    _lab: Lab,
}

impl Systemd {
    fn start(lab: Lab, configuration: &str) -> Result<Self> {
        Self::start_with(lab, configuration, "")
    }

    /// The same with a drop-in.
    fn start_with(lab: Lab, configuration: &str, drop_in: &str) -> Result<Self> {
        let files = tempfile::Builder::new().prefix("arp-lab-").tempdir()?;
        let write = |name: &str, text: &str| fs::write(files.path().join(name), text);
        fs::copy(agent_binary()?, files.path().join("arp-agent"))?;
        let unit = UNIT.replace("/usr/sbin/arp-agent", "/run/trial/arp-agent");
        write("arp-agent.service", &unit.replace("arp-agent run", "arp-agent run --config /run/trial/arp-agent.toml"))?;
        write("arp-agent.toml", configuration)?;
        fs::create_dir(files.path().join("arp-agent.service.d"))?;
        write("arp-agent.service.d/override.conf", drop_in)?;
        for target in TARGETS {
            write(&format!("{target}.target"), "[Unit]\nDefaultDependencies=no\n")?;
        }
        write("test.target", "[Unit]\nWants=arp-agent.service\n")?;
        let cgroup = format!("arp-lab-{}", std::process::id());
        let log = fs::File::create(files.path().join("log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", OUTSIDE, "sh", &cgroup, INSIDE]);
        command.arg(files.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = lab.node().run(|| command.spawn())?.context("starting unshare")?;
        let parent = child.id();
        let mut this = Systemd { child, init: Pid::from_raw(0), cgroup, files, _lab: lab };
        let mut found = None;
        let is_there = || {
            found = child_named(parent, "systemd")?;
            Ok(found.is_some())
        };
        let log = this.files.path().join("log");
        wait_until(Duration::from_secs(10), is_there, || format!("systemd starts: {:?}", fs::read_to_string(&log)))?;
        this.init = Pid::from_raw(found.context("systemd is there")?);
        Ok(this)
    }

    /// Runs a command beside systemd.
    fn run(&self, command: &str) -> Result<Output> {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.init.to_string(), "-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w", "timeout", "20"]);
        nsenter.args(command.split_whitespace()).stdin(Stdio::null());
        nsenter.output().context("starting nsenter")
    }

    /// A property of the unit.
    fn show(&self, property: &str) -> Result<String> {
        let output = self.run(&format!("systemctl show --value -p {property} arp-agent"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn wait_for(&self, property: &str, value: &str) -> Result<()> {
        let is_so = || Ok(self.show(property)? == value);
        let log = || fs::read_to_string(self.files.path().join("log")).unwrap_or_default();
        wait_until(Duration::from_secs(20), is_so, || {
            format!("{property} is {value}: {:?}\n{}", self.show(property), log())
        })
    }

    fn configure(&self, text: &str) -> Result<()> {
        let file = self.files.path().join("new");
        fs::write(&file, text)?;
        let root = PathBuf::from(format!("/proc/{}/root/run/trial/arp-agent.toml", self.init));
        fs::copy(&file, root).map(drop).context("writing the configuration")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With its process 1 the whole namespace ends.
        if self.init.as_raw() > 1 {
            let _ = kill(self.init, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let remove = "umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; for try in 1 2 3 4 5; do \
                      find /sys/fs/cgroup/$0 -depth -type d -exec rmdir {} + && break; sleep 0.2; done";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", remove, &self.cgroup]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A descendant of a process with this name.
fn child_named(parent: u32, name: &str) -> Result<Option<i32>> {
    let mut waiting = vec![parent.to_string()];
    while let Some(pid) = waiting.pop() {
        let Ok(children) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else { continue };
        for child in children.split_whitespace() {
            let named = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if named.trim() == name {
                return Ok(Some(child.parse()?));
            }
            waiting.push(child.to_owned());
        }
    }
    Ok(None)
}

#[test]
fn a_real_systemd_runs_reloads_and_restarts_the_unit() -> Result<()> {
    needs_root!();
    if !Path::new(SYSTEMD).exists() {
        skip("there is no systemd");
        return Ok(());
    }
    let systemd = Systemd::start(topology::calico(2)?, "interface = \"cali*\"\n")?;
    systemd.wait_for("ActiveState", "active")?;
    systemd.wait_for("StatusText", "answering on 2 of 2 interfaces")?;
    let pid = systemd.show("MainPID")?;
    // The sandbox lets it pin its links.
    if kernel_is_since(6, 6) {
        let pins = systemd.run("find /sys/fs/bpf/arp-agent -type f")?;
        assert_eq!(String::from_utf8_lossy(&pins.stdout).lines().count(), 2, "{pins:?}");
    }

    systemd.configure("interface = \"cali0\"\nlease = \"2s\"\n")?;
    let reloaded = systemd.run("systemctl reload arp-agent")?;
    assert!(reloaded.status.success(), "{reloaded:?}");
    systemd.wait_for("StatusText", "answering on 1 of 1 interfaces")?;
    systemd.configure("leese = \"2s\"\n")?;
    assert!(!systemd.run("systemctl reload arp-agent")?.status.success(), "the new configuration is wrong");
    systemd.wait_for("ActiveState", "active")?;
    assert_eq!((systemd.show("MainPID")?, systemd.show("NRestarts")?), (pid, "0".to_owned()));

    // It stands still, and is started again; the file must be right by then.
    systemd.configure("interface = \"cali*\"\n")?;
    let agent = child_named(systemd.init.as_raw().unsigned_abs(), "arp-agent")?.context("the agent is there")?;
    kill(Pid::from_raw(agent), Signal::SIGSTOP)?;
    thread::sleep(stretched(Duration::from_secs(9)));
    systemd.wait_for("NRestarts", "1")?;
    systemd.wait_for("StatusText", "answering on 2 of 2 interfaces")?;

    let stopped = systemd.run("systemctl stop arp-agent")?;
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(systemd.show("Result")?, "success");
    if systemd.run("/run/trial/arp-agent status")?.status.success() {
        bail!("an agent still runs");
    }
    Ok(())
}

#[test]
fn the_drop_in_of_the_installation_page_is_taken() -> Result<()> {
    needs_root!();
    if !Path::new(SYSTEMD).exists() {
        skip("there is no systemd");
        return Ok(());
    }
    let page = include_str!("../../../docs/install.md");
    let sample = page.split("```ini\n").nth(1).and_then(|text| text.split("```").next()).context("no sample")?;
    let drop_in = sample
        .replace("/usr/sbin/arp-agent", "/run/trial/arp-agent")
        .replace("/etc/arp-agent/other.toml", "/run/trial/arp-agent.toml");
    let systemd = Systemd::start_with(topology::calico(1)?, "interface = \"cali*\"\nlease = \"3s\"\n", &drop_in)?;
    systemd.wait_for("StatusText", "answering on 1 of 1 interfaces")?;
    assert_eq!(systemd.show("WatchdogUSec")?, "30s");
    let status = systemd.run("/run/trial/arp-agent status --json")?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    assert_eq!(status["lease_ms"], 2_000, "the environment is above the file");
    Ok(())
}

#[test]
fn the_drop_in_for_the_group_needs_the_group() -> Result<()> {
    needs_root!();
    if !Path::new(SYSTEMD).exists() {
        skip("there is no systemd");
        return Ok(());
    }
    let drop_in = include_str!("../../../packaging/group.conf").replace("Group=arp-agent", "Group=arp-lab-nobody");
    assert!(drop_in.contains("Group=arp-lab-nobody"));
    let systemd = Systemd::start_with(topology::calico(1)?, "interface = \"cali*\"\n", &drop_in)?;
    // EXIT_GROUP, systemd.exec(5).
    systemd.wait_for("ExecMainStatus", "216")
}
