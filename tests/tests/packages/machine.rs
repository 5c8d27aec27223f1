//! A clean Debian with systemd, in the network namespace of a lab's node.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lab::{Lab, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{output, run};

/// Where nothing is of a package's.
const NOT_OF_PACKAGES: [&str; 9] =
    ["proc", "sys", "run", "tmp", "var/lib/dpkg", "var/lib/rpm", "var/lib/apt", "var/log", "var/cache"];

pub(crate) struct Machine {
    child: Child,
    /// Its first process, as seen from here.
    init: Pid,
    root: Root,
    _cgroups: Cgroups,
}

impl Machine {
    /// Boots a copy of a Debian.
    pub(crate) fn boot(debian: &Path, lab: &Lab) -> Result<Self> {
        let root = Root::new(debian)?;
        let console = root.0.path().join("console");
        let log = File::create(&console)?;
        let cgroups = Cgroups::new(root.0.path())?;
        let mut boot = cgroups.command("systemd-nspawn");
        boot.args(["-q", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--system-call-filter=bpf"]);
        boot.args(["--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON", "-D"]).arg(root.path());
        boot.arg(format!("--network-namespace-path=/run/netns/{}", lab.node().name()));
        boot.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = boot.spawn().context("starting systemd-nspawn")?;
        let parent = child.id();
        let mut machine = Machine { child, init: Pid::from_raw(0), root, _cgroups: cgroups };
        let said = || fs::read_to_string(&console).unwrap_or_default();
        let mut init = None;
        let is_there = || {
            init = child_named(parent, "systemd")?;
            Ok(init.is_some())
        };
        wait_until(Duration::from_secs(20), is_there, || format!("the machine's systemd starts: {}", said()))?;
        machine.init = Pid::from_raw(init.context("systemd is there")?);
        let is_up = || {
            let state = run(&mut machine.command(&["systemctl", "is-system-running"]))?;
            Ok(["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim()))
        };
        wait_until(Duration::from_secs(60), is_up, || format!("the machine is up: {}", said()))?;
        Ok(machine)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.init.to_string(), "-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w", "timeout", "60"]);
        nsenter.args(words).stdin(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive");
        nsenter
    }

    /// Runs a shell's line in the machine, as its root at home.
    pub(crate) fn try_sh(&self, line: &str) -> Result<Output> {
        run(&mut self.command(&["sh", "-c", &format!("cd /root && {{ {line}\n}}")]))
    }

    /// The same for what it prints; fails if the line does.
    pub(crate) fn sh(&self, line: &str) -> Result<String> {
        output(&mut self.command(&["sh", "-c", &format!("cd /root && {{ {line}\n}}")]))
    }

    /// Puts a file into root's home.
    pub(crate) fn put(&self, file: &Path) -> Result<()> {
        let name = file.file_name().context("a file without a name")?;
        let copied = fs::copy(file, self.root.path().join("root").join(name));
        copied.with_context(|| format!("copying {}", file.display())).map(drop)
    }

    /// All files but those that are nobody's.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let pruned = NOT_OF_PACKAGES.map(|folder| format!("-path /{folder}")).join(" -o ");
        let found = self.sh(&format!("find / -xdev \\( {pruned} -o -path /root \\) -prune -o -print | sort"))?;
        Ok(found.lines().map(str::to_owned).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first signal asks the machine to shut down, the second ends it at once.
        for _ in 0..2 {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
            thread::sleep(Duration::from_millis(300));
        }
        let _ = self.child.wait();
    }
}

/// The folder of the machine's root, and what is mounted there; gone with the owner.
struct Root(TempDir);

impl Root {
    /// A Debian, with a layer for changes over it.
    fn new(debian: &Path) -> Result<Self> {
        let root = Root(tempfile::Builder::new().prefix("arp-packages-").tempdir()?);
        let [changes, up, work] = ["changes", "changes/up", "changes/work"].map(|name| root.0.path().join(name));
        fs::create_dir(&changes)?;
        fs::create_dir(root.path())?;
        // The layer may not lie on an overlay, which the machine's own files may be.
        output(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "none"]).arg(&changes))?;
        for folder in [&up, &work] {
            fs::create_dir(folder)?;
        }
        let layers = format!("lowerdir={},upperdir={},workdir={}", debian.display(), up.display(), work.display());
        output(Command::new("mount").args(["-t", "overlay", "-o", &layers, "none"]).arg(root.path()))?;
        Ok(root)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("root")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for name in ["root", "changes"] {
            let _ = Command::new("umount").arg("-l").arg(self.0.path().join(name)).stderr(Stdio::null()).status();
        }
    }
}

/// A machine's cgroups. Without them all machines would share those of this process, and each one's systemd would remove
/// those that another has made.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Makes them, with the name of the machine's folder, in the hierarchies that systemd-nspawn uses.
    fn new(folder: &Path) -> Result<Self> {
        let divided = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(Path::new);
        let mut trees: Vec<&Path> = divided.into_iter().filter(|tree| tree.is_dir()).collect();
        if trees.is_empty() {
            trees.push(Path::new("/sys/fs/cgroup"));
        }
        let name = folder.file_name().context("a folder without a name")?;
        let mut made = Cgroups(Vec::new());
        for cgroup in trees.into_iter().map(|tree| tree.join(name)) {
            fs::create_dir(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
            made.0.push(cgroup);
        }
        Ok(made)
    }

    /// A command that joins them before it becomes the program.
    fn command(&self, program: &str) -> Command {
        let join = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@""#;
        let mut command = Command::new("sh");
        command.args(["-c", join, "sh"]).args(&self.0).args(["--", program]);
        command
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for cgroup in &self.0 {
            // The kernel may still be ending what ran there.
            let is_gone = || Ok(remove_cgroup(cgroup).is_ok());
            if let Err(error) = wait_until(Duration::from_secs(5), is_gone, || format!("{} goes", cgroup.display())) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Removes a cgroup and those in it.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// The child or grandchild of a process with that name.
fn child_named(parent: u32, name: &str) -> Result<Option<i32>> {
    let children = |pid: u32| -> Vec<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    for child in children(parent) {
        for candidate in [vec![child], children(child)].concat() {
            if fs::read_to_string(format!("/proc/{candidate}/comm")).is_ok_and(|comm| comm.trim() == name) {
                return Ok(Some(i32::try_from(candidate)?));
            }
        }
    }
    Ok(None)
}
