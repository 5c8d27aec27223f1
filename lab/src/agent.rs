//! The agent, as a child process on the lab's node.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::hook::TestHook;
use crate::namespace::Namespace;
use crate::scraper::{self, Scraper};
use crate::slack::{stretched, wait_until};

/// Exit code of `status` while the agent runs and is not ready.
pub const STATUS_NOT_READY: i32 = 3;
/// Exit code of `status` while the agent is ready, but none of the interfaces that match answers.
pub const STATUS_NONE_ANSWERS: i32 = 5;
/// Exit code of `status` and `stats` while no agent runs.
pub const STATUS_NOT_RUNNING: i32 = 4;

/// How often the tests' agents re-read what the kernel does not notify.
const REREAD: Duration = Duration::from_millis(50);
/// How often an agent re-reads by default.
const DEFAULT_REREAD: Duration = Duration::from_millis(250);
/// What a loaded machine may add to that.
const SLACK: Duration = Duration::from_millis(150);
/// How long an agent may take to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent's binary: the one that `ARP_AGENT_BIN` names, else the one that cargo built beside this test, in this
/// profile or the other.
pub fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ARP_AGENT_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "ARP_AGENT_BIN names {}, where there is no file", path.display());
        return Ok(path);
    }
    // target/PROFILE/deps/TEST
    let test = env::current_exe().context("finding this test's own path")?;
    let profile = test.parent().and_then(Path::parent).context("this test is not in cargo's target directory")?;
    let target = profile.parent().context("this test is not in cargo's target directory")?;
    let candidates = [profile, &target.join("release"), &target.join("debug")].map(|dir| dir.join("arp-agent"));
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "no arp-agent in {}: build it (cargo build --release -p arp-agent), or name it in ARP_AGENT_BIN",
            target.display(),
        ),
    }
}

/// How to run an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    interfaces: Vec<String>,
    arguments: Vec<OsString>,
    wrapper: Vec<String>,
    binary: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    reread: Option<Duration>,
    sysctl_hook: bool,
    bpffs: Option<PathBuf>,
}

impl AgentOptions {
    /// An agent for the interfaces that match one of the patterns; without any, its other sources name them.
    pub fn new(interfaces: &[&str]) -> Self {
        let interfaces = interfaces.iter().map(|&pattern| pattern.to_owned()).collect();
        AgentOptions {
            interfaces,
            arguments: Vec::new(),
            wrapper: Vec::new(),
            binary: None,
            run_dir: None,
            reread: Some(REREAD),
            sysctl_hook: false,
            bpffs: None,
        }
    }

    /// With the hook on writes of sysctls, and the default poll interval. Without this, the hook is off and the agent
    /// polls more often than by default.
    #[must_use]
    pub fn sysctl_hook(mut self) -> Self {
        self.sysctl_hook = true;
        self.reread = None;
        self
    }

    /// With links pinned under this bpffs. Without this, none is pinned: the machine's own bpffs is not the lab's.
    #[must_use]
    pub fn bpffs(mut self, path: &Path) -> Self {
        self.bpffs = Some(path.to_owned());
        self
    }

    /// With the agent's default poll interval.
    #[must_use]
    pub fn default_reread(mut self) -> Self {
        self.reread = None;
        self
    }

    /// A further argument to `run`.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Further arguments to `run`.
    #[must_use]
    pub fn args(mut self, arguments: &[impl AsRef<OsStr>]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A command that runs the agent, such as `setpriv` with its options.
    #[must_use]
    pub fn through(mut self, wrapper: &str) -> Self {
        self.wrapper = wrapper.split_whitespace().map(str::to_owned).collect();
        self
    }

    /// A line of `sh` that runs before the agent, in the same process, such as `umask 0`.
    #[must_use]
    pub fn after(mut self, line: &str) -> Self {
        self.wrapper = ["sh", "-c", &format!("{line}; exec \"$@\""), "sh"].map(str::to_owned).into();
        self
    }

    /// Another binary than [`agent_binary`]: a copy of it that every user may run.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// A run directory other than a fresh one.
    #[must_use]
    pub fn run_dir(mut self, path: &Path) -> Self {
        self.run_dir = Some(path.to_owned());
        self
    }

    /// Starts the agent on the node and waits until it is ready.
    pub fn start(self, node: &Namespace) -> Result<Agent> {
        let mut agent = self.spawn(node)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts the agent on the node, and does not wait.
    pub fn spawn(self, node: &Namespace) -> Result<Agent> {
        let binary = match self.binary {
            Some(path) => path,
            None => agent_binary()?,
        };
        let scratch = tempfile::Builder::new().prefix("arp-lab-").tempdir().context("making a run directory")?;
        let run_dir = self.run_dir.unwrap_or_else(|| scratch.path().join("run"));
        let log = scratch.path().join("log");
        let stderr = File::create(&log).context("making the agent's log")?;
        let stdout = stderr.try_clone().context("making the agent's log")?;

        let mut command = match self.wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&binary);
                command
            }
            None => Command::new(&binary),
        };
        command.arg("run");
        if !self.interfaces.is_empty() {
            command.arg("--interface").args(&self.interfaces);
        }
        command.arg("--run-dir").arg(&run_dir);
        command.arg("--bpffs").arg(self.bpffs.as_deref().unwrap_or(Path::new("off")));
        if let Some(reread) = self.reread {
            command.arg("--reread-interval").arg(reread.as_millis().to_string());
        }
        if !self.sysctl_hook {
            command.args(["--sysctl-hook", "off"]);
        }
        if !self.arguments.iter().any(|argument| argument == "--hook") {
            command.args(TestHook::chosen()?.arguments());
        }
        let metrics = scraper::address();
        if let Some(address) = metrics {
            command.arg("--listen-address").arg(address.to_string());
        }
        command.args(&self.arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let scraper = metrics.map(|address| Scraper::start(node, address)).transpose()?;
        let child = node.run(|| command.spawn())?.with_context(|| format!("starting {}", binary.display()))?;
        Ok(Agent {
            child,
            exit: None,
            node: node.clone(),
            binary,
            run_dir,
            log,
            reread: self.reread.unwrap_or(DEFAULT_REREAD),
            _scratch: scratch,
            _scraper: scraper,
        })
    }
}

/// A running agent; killed when dropped. If the test is failing, its log is shown.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    exit: Option<ExitStatus>,
    node: Namespace,
    binary: PathBuf,
    run_dir: PathBuf,
    log: PathBuf,
    reread: Duration,
    _scratch: TempDir,
    _scraper: Option<Scraper>,
}

impl Agent {
    /// Where its control socket is.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs another command of the same binary on the node, against this agent's run directory.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--run-dir").arg(&self.run_dir).stdin(Stdio::null());
        self.node.run(|| command.output())?.with_context(|| format!("running arp-agent {}", arguments.join(" ")))
    }

    /// The same, with its standard output into a file.
    pub fn command_into(&self, arguments: &[&str], out: File) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--run-dir").arg(&self.run_dir).stdin(Stdio::null()).stdout(out);
        let child = self.node.run(|| command.stderr(Stdio::piped()).spawn())?;
        let child = child.with_context(|| format!("running arp-agent {}", arguments.join(" ")))?;
        Ok(child.wait_with_output()?)
    }

    /// What `status --json` says.
    pub fn status(&self) -> Result<AgentStatus> {
        let output = self.command(&["status", "--json"])?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(&stdout).with_context(|| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!(
                "status --json ({}) printed {stdout:?} and {stderr:?}\nthe agent's log:\n{}",
                output.status,
                self.log()
            )
        })?;
        Ok(AgentStatus(json))
    }

    /// Asks over the control socket; `request` and the answer are JSON.
    pub fn ask(&self, request: &str) -> Result<Value> {
        let path = self.run_dir.join("control.sock");
        let ask = || -> Result<Value> {
            let mut stream = UnixStream::connect(&path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("{request}\n").as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(serde_json::from_str(&answer)?)
        };
        ask().with_context(|| format!("asking the agent for {request}; its log:\n{}", self.log()))
    }

    /// Waits until `status` says that the agent is ready, whether an interface answers or not.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for the agent")? {
                self.exit = Some(status);
                bail!("the agent ended ({status}) instead of becoming ready; its log:\n{}", self.log());
            }
            let output = self.command(&["status"])?;
            if matches!(output.status.code(), Some(0 | STATUS_NONE_ANSWERS)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent was not ready within {:?}; status ({}) said {} {}; its log:\n{}",
                    stretched(PATIENCE),
                    output.status,
                    String::from_utf8_lossy(&output.stdout).trim(),
                    String::from_utf8_lossy(&output.stderr).trim(),
                    self.log(),
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `so` holds for what `status` says of an interface.
    pub fn wait_for_interface(&self, name: &str, so: impl Fn(&Value) -> bool) -> Result<()> {
        let is_so = || Ok(so(self.status()?.interface(name)));
        wait_until(PATIENCE, is_so, || format!("{name}: {:?}; the agent's log:\n{}", self.status(), self.log()))
    }

    /// Waits until one line of the agent's log contains all these parts.
    pub fn wait_for_line(&self, parts: &[&str]) -> Result<()> {
        let is_there = || Ok(self.log().lines().any(|line| parts.iter().all(|part| line.contains(part))));
        wait_until(PATIENCE, is_there, || format!("no line with {parts:?} in the agent's log:\n{}", self.log()))
    }

    /// Waits for so long that the agent must have followed every change made before the call.
    pub fn in_sync(&mut self) -> Result<()> {
        thread::sleep(self.reread + stretched(SLACK));
        self.wait_until_ready()
    }

    /// Asks the agent to end (SIGTERM), and waits for it.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end_by(Signal::SIGTERM)
    }

    /// Kills the agent (SIGKILL), and waits for it.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.end_by(Signal::SIGKILL)
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.exit.is_none(), "the agent has ended already");
        let pid = i32::try_from(self.child.id()).context("a process id above i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("sending {signal} to the agent"))
    }

    /// Whether the agent has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().context("waiting for the agent")?;
        }
        Ok(self.exit.is_some())
    }

    /// Waits until the agent ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            self.exit = self.child.try_wait().context("waiting for the agent")?;
            ensure!(
                Instant::now() < deadline,
                "the agent did not end within {:?}; its log:\n{}",
                stretched(PATIENCE),
                self.log(),
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn end_by(&mut self, signal: Signal) -> Result<ExitStatus> {
        if self.exit.is_none() {
            self.signal(signal)?;
        }
        self.wait()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // An agent that has ended meanwhile cannot be killed, only waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// What `status --json` says.
#[derive(Clone, Debug)]
pub struct AgentStatus(pub Value);

impl AgentStatus {
    /// Whether the agent is ready.
    pub fn ready(&self) -> bool {
        self.0["ready"] == true
    }

    /// The names of the interfaces in it.
    pub fn interfaces(&self) -> Vec<&str> {
        let interfaces = self.0["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        interfaces.iter().filter_map(|interface| interface["name"].as_str()).collect()
    }

    /// What it says about one interface; null if nothing.
    pub fn interface(&self, name: &str) -> &Value {
        let interfaces = self.0["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        interfaces.iter().find(|interface| interface["name"] == name).unwrap_or(&Value::Null)
    }

    /// How many frames of the interface the fast path has answered.
    pub fn answered(&self, interface: &str) -> u64 {
        self.interface(interface)["answered"].as_u64().unwrap_or_default()
    }

    /// How many frames of the interface it has passed, by reason; reasons that did not occur are left out.
    pub fn passed(&self, interface: &str) -> BTreeMap<String, u64> {
        let passed = self.interface(interface)["passed"].as_object();
        let counts = passed.into_iter().flatten().map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0)));
        counts.filter(|&(_, count)| count != 0).collect()
    }
}
