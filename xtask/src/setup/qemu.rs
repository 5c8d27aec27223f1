//! qemu, for `cargo xtask vm`: the system's own; or, where a package of the reader's is in the way of installing it (another
//! version of `qemu-utils`, say), unpacked into a folder of the project's, where it is in nobody's way.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::{process, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// Where it is, and with what it runs.
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
    /// The folder that it was unpacked into, if it was.
    pub(crate) unpacked: Option<PathBuf>,
}

/// Makes sure that there is one.
pub(super) fn ensure() -> Result<()> {
    if qemu().is_ok() {
        return Ok(());
    }
    let Err(error) = packages::install(&[PACKAGE]) else { return Ok(()) };
    eprintln!("setup: {PACKAGE} cannot be installed here ({error:#})\nsetup: it is unpacked into .tools/qemu instead");
    let packages = packages::with_dependencies(PACKAGE)?;
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    packages::unpack(&packages, &folder())?;
    let qemu = qemu()?;
    let mut version = Command::new(&qemu.program);
    qemu.equip(&mut version);
    process::output(version.arg("-version")).context("qemu was unpacked, and does not start")?;
    Ok(())
}

/// The system's, or the unpacked one.
pub(crate) fn qemu() -> Result<Qemu> {
    if let Some(program) = process::find_program(PROGRAM) {
        return Ok(Qemu { program, unpacked: None });
    }
    let program = folder().join("usr/bin").join(PROGRAM);
    if !program.is_file() {
        bail!("there is no {PROGRAM} here");
    }
    Ok(Qemu { program, unpacked: Some(folder()) })
}

impl Qemu {
    /// Adds what the unpacked one needs to find its libraries and its firmware.
    pub(crate) fn equip(&self, command: &mut Command) {
        let Some(folder) = &self.unpacked else { return };
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|libraries| path(folder, libraries));
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(path(folder, data));
        }
    }
}

fn folder() -> PathBuf {
    workspace::tools().join("qemu")
}

fn path(folder: &Path, below: &str) -> String {
    folder.join(below).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_finds_its_own_libraries_and_firmware() {
        let mut command = Command::new("qemu");
        Qemu { program: "q".into(), unpacked: Some("/t".into()) }.equip(&mut command);
        assert_eq!(process::describe(&command), "`qemu -L /t/usr/share/qemu -L /t/usr/share/seabios`");
        let libraries = command.get_envs().next().and_then(|(_, value)| value?.to_str());
        assert_eq!(libraries, Some("/t/usr/lib/x86_64-linux-gnu:/t/lib/x86_64-linux-gnu"));
        let mut command = Command::new("qemu");
        Qemu { program: "q".into(), unpacked: None }.equip(&mut command);
        assert_eq!((process::describe(&command), command.get_envs().count()), ("`qemu`".to_owned(), 0));
    }
}
