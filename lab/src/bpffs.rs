//! A bpffs of a test's own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A bpffs on a directory of its own; gone when dropped, with everything that is pinned there.
#[derive(Debug)]
pub struct BpfFs(TempDir);

impl BpfFs {
    /// Mounts one.
    pub fn mount() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("arp-lab-bpffs-").tempdir().context("making a directory")?;
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(directory.path()).output();
        let mounted = mounted.context("running mount")?;
        ensure!(mounted.status.success(), "mounting a bpffs: {}", String::from_utf8_lossy(&mounted.stderr));
        Ok(BpfFs(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Left mounted, it would be seen: the directory cannot be removed then.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
