//! The run directory: each agent has its own, and only the agent's user may write there.

use super::access::{own_user, restrict};
use super::socket_path;
use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Of a socket (`sun_path`, include/uapi/linux/un.h), without the zero at its end.
const LONGEST_SOCKET_PATH: usize = 107;

/// A run directory that this agent has locked. Dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Locks the directory, and makes it first if there is none; then the group of [`super::access`] may enter it. Only
    /// this user can open the lock: whoever can open it could hold it, and so keep the next agent from starting.
    ///
    /// # Errors
    /// The directory cannot be made or written, other users may write in it, or another agent has locked it.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        let dumped = path.display();
        let bytes = socket_path(path).as_os_str().len();
        if bytes > LONGEST_SOCKET_PATH {
            bail!(
                "run directory {dumped}: its path is too long: the socket in it would have {bytes} bytes, and the kernel \
                 takes {LONGEST_SOCKET_PATH} at most; choose a shorter one with --run-dir"
            );
        }
        let is_new = !path.exists();
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
        if is_new {
            restrict(path, 0o700, 0o710)?;
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
    pub(crate) fn socket(&self) -> PathBuf {
        socket_path(&self.path)
    }
}

/// Opens and locks the lock file of a run directory; refuses a directory that other users can write in.
fn lock(run_dir: &Path) -> anyhow::Result<File> {
    /// How often to try again if an agent that ends removes the file after it was opened and before it is locked.
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
                log::warn!("{}: cannot be removed: {error}", file.display());
            }
        }
    }
}
