//! The control socket: one JSON line asks, one JSON document answers. `status`, `stats` and `explain` are its clients.

use crate::explain::{Explanation, Question};
use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long either side waits for the other. A resync of a million routes takes about as long.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What came of asking.
#[derive(Debug)]
pub enum Answer {
    /// Nobody listens.
    NotRunning,
    /// An agent runs, but does not answer: it is stopped or overloaded, and its lease has run out or soon will.
    Silent,
    /// It answered.
    Response(Response),
}

/// What a client asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A [`Status`].
    Status,
    /// A [`Status`] that knows of every change in the kernel made before the request: what was notified by then is
    /// applied, and what changes silently has been read again.
    Sync,
    /// An [`Explanation`], made from the agent's own maps.
    Explain {
        /// Who asks for whom.
        question: Question,
        /// Also run the loaded program on that frame.
        run_program: bool,
    },
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`] and [`Request::Sync`].
    Status(Box<Status>),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// The request cannot be answered, and why.
    Error(String),
}

/// What `status --json` and `stats --json` print.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// Whether the maps are in sync with the kernel: only then are frames answered.
    pub ready: bool,
    /// Why not, if so.
    pub not_ready_because: Option<String>,
    /// Process identifier of the agent.
    pub pid: u32,
    /// The agent's version.
    #[serde(default)]
    pub agent_version: String,
    /// The patterns of `--interface` and how many interfaces match each.
    pub patterns: BTreeMap<String, usize>,
    /// The interfaces that match.
    pub interfaces: Vec<InterfaceStatus>,
    /// Requests answered since the start, on all interfaces, also on those that are gone.
    pub answered: u64,
    /// ARP frames passed since the start, by reason.
    pub passed: BTreeMap<String, u64>,
    /// Prefixes mirrored.
    pub routes: usize,
    /// Neighbour entries mirrored.
    pub neighbours: usize,
    /// Nodes of the FIB in use, 1 KiB each.
    pub fib_nodes: u32,
    /// Entries for which a map had no room; their frames pass.
    pub refused_entries: u64,
    /// Complete dumps of the kernel's state, the first included.
    pub resyncs: u64,
    /// How often the kernel's notifications overran the socket.
    pub overruns: u64,
    /// Interfaces and neighbour entries that change too fast to be followed: their frames pass for now.
    pub held_back: Vec<String>,
    /// How often something was held back so, since the start.
    pub times_held_back: u64,
    /// `attached`: writes of sysctls of this network namespace make frames pass before they take effect; with a colon
    /// after it, those of others as well, and why. Else why there is no such hook, or that it rests; what is written is
    /// found within `reread_interval_ms` then.
    pub sysctl_hook: String,
    /// Writes of sysctls that made frames pass, since the start; 0 without the hook.
    pub settings_written: u64,
    /// Writes of the same sysctls that did not: of other network namespaces, or while the hook rested.
    pub settings_written_elsewhere: u64,
    /// `--reread-interval`, in milliseconds: between polls for changes that send no notification. With the sysctl hook,
    /// full polls are rarer, at least one a minute.
    pub reread_interval_ms: u64,
    /// How long the program trusts the maps without a heartbeat, in milliseconds.
    pub lease_ms: u64,
}

/// An interface that matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// `xdp`, `tc`, or `none` while detached.
    pub hook: String,
    /// Of XDP `skb` or `driver`, of tc `tcx` or `clsact`.
    pub mode: String,
    /// Why this hook and no other.
    pub hook_why: String,
    /// `answering`: what the kernel would answer is answered. `passing`: all frames pass, `reason` says why.
    /// `detached`: the program is not on the interface, `reason` says why.
    pub state: String,
    /// The name of the reason for which its frames pass, while it is `passing`; else `null`.
    #[serde(default)]
    pub reason_id: Option<String>,
    /// Why it does not answer, for people; `null` if it does.
    pub reason: Option<String>,
    /// Requests answered.
    pub answered: u64,
    /// ARP frames passed, by reason.
    pub passed: BTreeMap<String, u64>,
    /// A veth's pod end.
    pub peer: Option<Peer>,
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its index, in its own namespace.
    pub ifindex: u32,
    /// The identifier of its namespace as seen from the agent's; `null` if it is the same one.
    pub netnsid: Option<i32>,
    /// The namespace's name under /var/run/netns, if it has one.
    pub netns: Option<String>,
}

/// The socket in a run directory.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Asks the agent whose run directory this is.
///
/// # Errors
/// The directory cannot be read, or what listens there is no agent of this version.
pub fn ask(run_dir: &Path, request: &Request) -> anyhow::Result<Answer> {
    let path = socket_path(run_dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(Answer::NotRunning);
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!("{}: cannot be connected to (run as the agent's user, or give its --run-dir)", path.display())
            });
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).with_context(|| format!("{}: the agent takes no request", path.display()))?;
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(Answer::Silent),
        Err(error) => return Err(error).with_context(|| format!("{}: the agent hung up", path.display())),
    }
    let response = serde_json::from_str(&answer)
        .with_context(|| format!("{}: the agent's answer is not of this version", path.display()))?;
    Ok(Answer::Response(response))
}

/// What to tell people when an agent is [`Answer::Silent`].
pub fn silent(run_dir: &Path) -> String {
    format!(
        "{}: an agent runs, but did not answer within {PATIENCE:?}: it is stopped or overloaded; without its heartbeat \
         every frame passes to the kernel",
        socket_path(run_dir).display()
    )
}

/// A run directory that is ours. Dropped, the socket goes with it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory if need be, and takes it. What it makes is for this user alone: whoever may open the lock
    /// can hold it, and so keep the next agent from starting.
    ///
    /// # Errors
    /// It cannot be made or written, others may write in it, or another agent has it.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        let dumped = path.display();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("run directory {dumped}: cannot be made (choose another with --run-dir)"))?;
        let directory = path.metadata().with_context(|| format!("run directory {dumped}: cannot be looked at"))?;
        let mode = directory.mode() & 0o7777;
        if !directory.is_dir() {
            bail!("run directory {dumped}: it is a file (choose another with --run-dir)");
        }
        if directory.uid() != own_user() {
            bail!(
                "run directory {dumped}: it belongs to user {}, and the agent runs as user {}; choose another with \
                 --run-dir, or change its owner",
                directory.uid(),
                own_user()
            );
        }
        if mode & 0o022 != 0 {
            bail!(
                "run directory {dumped}: other users may write in it (mode {mode:04o}); `chmod 0700 {dumped}` mends it"
            );
        }
        let lock = lock(path)?;
        // What an agent left that was killed.
        match std::fs::remove_file(socket_path(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("run directory {dumped}: a socket left behind cannot be removed"));
            }
            _ => {}
        }
        Ok(RunDir { path: path.to_owned(), _lock: lock })
    }

    /// The socket to listen on.
    pub fn socket(&self) -> PathBuf {
        socket_path(&self.path)
    }
}

/// The user that this process acts as.
pub fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Opens and locks the lock file of a run directory that only this user can write in.
fn lock(run_dir: &Path) -> anyhow::Result<File> {
    /// How often an agent that ends may take the file away between the opening and the locking.
    const ATTEMPTS: usize = 16;
    let (dumped, path) = (run_dir.display(), run_dir.join("lock"));
    for _ in 0..ATTEMPTS {
        // A symbolic link is not followed, and a FIFO does not keep waiting.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path);
        let lock = match lock {
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                bail!("{}: it is a symbolic link, which is not followed; remove it", path.display())
            }
            lock => lock.with_context(|| {
                format!("run directory {dumped}: cannot be written (choose another with --run-dir)")
            })?,
        };
        let opened = lock.metadata().with_context(|| format!("{}: cannot be looked at", path.display()))?;
        if !opened.is_file() {
            bail!("{}: it is no regular file; remove it", path.display());
        }
        // One that an earlier version made, or that was made under another umask.
        if opened.mode() & 0o077 != 0 {
            lock.set_permissions(Permissions::from_mode(0o600))
                .with_context(|| format!("{}: its mode cannot be changed to 0600", path.display()))?;
        }
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("run directory {dumped}: another agent uses it; stop that one, or choose another with --run-dir")
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("run directory {dumped}: cannot be locked"));
            }
        }
        let is_the_same = |there: Metadata| (there.dev(), there.ino()) == (opened.dev(), opened.ino());
        if path.symlink_metadata().is_ok_and(is_the_same) {
            return Ok(lock);
        }
    }
    bail!("run directory {dumped}: its lock file was replaced {ATTEMPTS} times while it was being locked")
}

impl Drop for RunDir {
    fn drop(&mut self) {
        for file in [self.socket(), self.path.join("lock")] {
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != ErrorKind::NotFound
            {
                log::warn!("{}: left behind: {error}", file.display());
            }
        }
    }
}
