//! qemu, for `cargo xtask vm`: the system's own; or, where a package of the reader's is in the way of installing it
//! (another version of `qemu-utils`, say), unpacked into a folder of the project's, where it is in nobody's way.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
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
    let mut packages = packages::with_dependencies(PACKAGE)?;
    // The loader that starts qemu is the system's, and takes no other C library than its own.
    packages.retain(|package| package != "libc6");
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    packages::unpack(&packages, &folder())?;
    let [program, arguments @ ..] = &*unpacked().command_line() else { bail!("nothing to start qemu with") };
    process::output(Command::new(program).args(arguments).arg("-version")).with_context(|| {
        format!("qemu was unpacked into {}, and does not start; remove that folder to try again", folder().display())
    })?;
    fs::write(starts(), "").with_context(|| format!("cannot write {}", starts().display()))
}

/// The system's, or the unpacked one.
pub(crate) fn qemu() -> Result<Qemu> {
    if let Some(program) = process::find_program(PROGRAM) {
        return Ok(Qemu { program, unpacked: None });
    }
    if !starts().is_file() {
        bail!("there is no {PROGRAM} here");
    }
    Ok(unpacked())
}

impl Qemu {
    /// What starts it, with what the unpacked one needs to find its libraries and its firmware. Only it: whatever
    /// starts it has the system's libraries.
    pub(crate) fn command_line(&self) -> Vec<OsString> {
        let Some(folder) = &self.unpacked else { return vec![self.program.clone().into()] };
        let mut libraries = OsString::from("LD_LIBRARY_PATH=");
        libraries.push(folder.join("usr/lib/x86_64-linux-gnu"));
        libraries.push(":");
        libraries.push(folder.join("lib/x86_64-linux-gnu"));
        if let Some(others) = env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty()) {
            libraries.push(":");
            libraries.push(others);
        }
        let data = ["usr/share/qemu", "usr/share/seabios"].map(|data| ["-L".into(), folder.join(data).into()]);
        let mut words = vec!["env".into(), libraries, self.program.clone().into()];
        words.extend(data.into_iter().flatten());
        words
    }
}

fn unpacked() -> Qemu {
    Qemu { program: folder().join("usr/bin").join(PROGRAM), unpacked: Some(folder()) }
}

/// Written when it has been seen to start: half of it, or one without its libraries, is none.
fn starts() -> PathBuf {
    folder().join("starts")
}

fn folder() -> PathBuf {
    workspace::tools().join("qemu")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_finds_its_own_libraries_and_firmware() {
        let unpacked = Qemu { program: "/t/q".into(), unpacked: Some("/t".into()) };
        let [env, libraries, rest @ ..] = &*unpacked.command_line() else { panic!("too short") };
        assert_eq!(env, "env");
        let libraries = libraries.to_str().unwrap();
        assert!(
            libraries.starts_with("LD_LIBRARY_PATH=/t/usr/lib/x86_64-linux-gnu:/t/lib/x86_64-linux-gnu"),
            "{libraries}"
        );
        assert_eq!(rest, ["/t/q", "-L", "/t/usr/share/qemu", "-L", "/t/usr/share/seabios"]);
        assert_eq!(Qemu { program: "q".into(), unpacked: None }.command_line(), ["q"]);
    }
}
