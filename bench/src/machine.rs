//! What identifies a run: machine, kernel, command, date, revision.

use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

/// The machine that was measured on.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    /// Its CPU, as /proc/cpuinfo names it.
    pub(crate) cpu: String,
    /// How many cores the run could use.
    pub(crate) cores: usize,
    /// Its memory.
    pub(crate) memory_mib: u64,
    /// Whether a hypervisor is under it.
    pub(crate) virtual_machine: bool,
    /// Runnable tasks on average over the minute before: a quiet machine says 0.
    pub(crate) load: f64,
}

impl Machine {
    pub(crate) fn this() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let field =
            |name: &str| cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.split_once(": ")).map(|f| f.1);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Machine {
            cpu: field("model name").unwrap_or(env::consts::ARCH).trim().to_owned(),
            cores: lab::allowed_cores()?.len(),
            memory_mib: kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024,
            virtual_machine: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load: load.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default(),
        })
    }
}

/// Release of the running kernel.
pub(crate) fn kernel() -> Result<String> {
    Ok(uname().context("asking for the kernel's release")?.release().to_string_lossy().into_owned())
}

/// As one would type it.
pub(crate) fn command() -> String {
    let arguments = env::args().skip(1);
    ["cargo xtask bench".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Now, by the system's clock.
pub(crate) fn date() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().context("running date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The commit; empty outside a repository.
pub(crate) fn revision() -> String {
    let git = |arguments: &[&str]| Command::new("git").args(arguments).output().ok().filter(|o| o.status.success());
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|o| !o.stdout.is_empty());
    String::from_utf8_lossy(&head.stdout).trim().to_owned() + if changed { "+" } else { "" }
}
