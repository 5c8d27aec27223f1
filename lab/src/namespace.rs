//! A network namespace with a name. The name is removed with its owner.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io::Write, panic, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

/// Where `ip netns` keeps the names.
pub const NAMES: &str = "/run/netns";

/// Held while a namespace is added: the first `ip netns add` prepares the directory of names, and must not run twice at
/// once.
static ADDING: Mutex<()> = Mutex::new(());

/// A handle to a network namespace. The name is removed when the lab or the last handle is dropped; the namespace
/// itself goes with its last process or socket.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    removed: AtomicBool,
}

impl Namespace {
    /// A new namespace, `lo` up, IPv6 off.
    pub(crate) fn new(name: String) -> Result<Self> {
        {
            let _adding = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
            finish(Command::new("ip").args(["netns", "add", &name]), None)?;
        }
        // From here on, dropping the handle removes the name.
        let file = File::open(Path::new(NAMES).join(&name));
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                remove_name(&name);
                return Err(error).with_context(|| format!("opening the namespace {name}"));
            }
        };
        let namespace = Namespace(Arc::new(Inner { name, file, removed: AtomicBool::new(false) }));
        // Router solicitations and neighbour discovery are noise here. A kernel without IPv6 has no such file.
        for scope in ["all", "default"] {
            let key = format!("net.ipv6.conf.{scope}.disable_ipv6");
            if namespace.read_sysctl(&key).is_ok() {
                namespace.sysctl(&key, "1")?;
            }
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name under which `ip netns` knows the namespace.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Removes the name, while the handles keep the namespace itself; does nothing the second time. `ip` commands
    /// need the name.
    pub fn remove(&self) {
        self.0.remove();
    }

    /// Runs `work` on a fresh thread inside the namespace. Children and sockets that it makes belong there.
    /// `/proc/sys/net` is this namespace's too; for `/proc/net`, use `/proc/thread-self/net`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let name = thread::current().name().unwrap_or("lab").to_owned();
        thread::scope(|scope| {
            let inside = || {
                setns(self.0.file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering the namespace {}", self.name()))?;
                Ok(work())
            };
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside).context("starting a thread")?;
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Runs one `ip` command in the namespace, as in `ip("link set eth0 up")`, and gives what it printed.
    pub fn ip(&self, command: &str) -> Result<String> {
        finish(Command::new("ip").args(["-n", self.name()]).args(command.split_whitespace()), None)
    }

    /// Runs `ip` commands in the namespace, one a line; stops at the first that fails.
    pub fn ip_each(&self, commands: &str) -> Result<()> {
        let lines: String =
            commands.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
        finish(Command::new("ip").args(["-n", self.name(), "-batch", "-"]), Some(&lines))?;
        Ok(())
    }

    /// Runs one `ip` command with `-j` and parses what it printed.
    pub fn ip_json(&self, command: &str) -> Result<Value> {
        let printed = self.ip(&format!("-j {command}"))?;
        if printed.trim().is_empty() {
            return Ok(Value::Array(Vec::new()));
        }
        serde_json::from_str(&printed).with_context(|| format!("ip -j {command} printed {printed:?}"))
    }

    /// Writes a sysctl, as in `sysctl("net.ipv4.conf.all.forwarding", "1")`. A key with slashes is taken as a path, for
    /// interfaces with a dot in their name.
    pub fn sysctl(&self, key: &str, value: impl ToString) -> Result<()> {
        let (path, value) = (sysctl_path(key), value.to_string());
        self.run(|| fs::write(&path, &value))?
            .with_context(|| format!("writing {value:?} to {path} in {}", self.name()))
    }

    /// Reads a sysctl.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let value = self.run(|| fs::read_to_string(&path))?;
        let value = value.with_context(|| format!("reading {path} in {}", self.name()))?;
        Ok(value.trim_end().to_owned())
    }

    /// Runs a program in the namespace to its end, as in `output("ping -c 1 10.0.0.1")`.
    pub fn output(&self, command: &str) -> Result<Output> {
        let mut words = command.split_whitespace();
        let program = words.next().context("an empty command")?;
        let mut child = Command::new(program);
        child.args(words).stdin(Stdio::null());
        self.run(|| child.output())?.with_context(|| format!("starting {command:?}"))
    }

    /// The same, for what it prints; fails with what it wrote to stderr.
    pub fn exec(&self, command: &str) -> Result<String> {
        let mut words = command.split_whitespace();
        let mut program = Command::new(words.next().context("an empty command")?);
        self.run(|| finish(program.args(words), None))?
    }

    /// Whether one ping from here to `address` is answered within two seconds.
    pub fn can_ping(&self, address: [u8; 4]) -> Result<bool> {
        let [a, b, c, d] = address;
        Ok(self.output(&format!("ping -n -q -c 1 -W 2 {a}.{b}.{c}.{d}"))?.status.success())
    }
}

impl Inner {
    fn remove(&self) {
        if !self.removed.swap(true, Ordering::Relaxed) {
            remove_name(&self.name);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes a name. Says what went wrong and goes on: the callers are on their way out.
pub(crate) fn remove_name(name: &str) {
    if let Err(error) = finish(Command::new("ip").args(["netns", "del", name]), None) {
        eprintln!("lab: the namespace {name} stays behind: {error:#}");
    }
}

fn sysctl_path(key: &str) -> String {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    format!("/proc/sys/{path}")
}

/// Runs a command to its end; an error names the command and carries what it wrote to stderr.
fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let text = format!("{command:?}").replace('"', "");
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {text} (the lab needs iproute2)"))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.unwrap_or_default().as_bytes()).with_context(|| format!("feeding {text}"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for {text}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let input = input.map(|input| format!("\nits input:\n{input}")).unwrap_or_default();
        bail!("{text}: {} ({}){input}", stderr.trim(), output.status);
    }
    let stdout = String::from_utf8(output.stdout);
    ensure!(stdout.is_ok(), "{text} printed something that is not UTF-8");
    Ok(stdout.unwrap_or_default())
}
