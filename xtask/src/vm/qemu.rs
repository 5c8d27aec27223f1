//! One guest from its start to its end.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::guest;
use crate::process;
use crate::setup;

/// The last lines of the kernel's console that are shown when a guest did not come to its end.
const CONSOLE_LINES: usize = 40;

pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) accel: &'a str,
    pub(super) cpus: usize,
}

/// What came out of a guest.
pub(super) struct Output {
    /// What the tests printed.
    pub(super) tests: Vec<String>,
    /// What became of them, see [`guest`].
    pub(super) results: String,
    /// Why the guest did not come to its end by itself, if it did not.
    pub(super) cut_short: Option<String>,
}

impl Machine<'_> {
    /// The command line. The first serial line is the kernel's console, the second what the tests print, the third
    /// what became of them.
    fn command(&self, console: &Path, results: &Path) -> Result<Command> {
        // Ended by the kernel if this process dies, however it does.
        let mut command = process::program("setpriv")?;
        command.args(["--pdeathsig", "KILL"]).arg(process::find_program(setup::QEMU).unwrap_or(setup::QEMU.into()));
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-nic", "none", "-m", "2048", "-smp", &self.cpus.to_string()]);
        match self.accel {
            // All processors take turns in one thread: with a thread for each, 6.12 died once at an instruction that the
            // kernel patches while it runs.
            "tcg" => command.args(["-accel", "tcg,thread=single", "-cpu", "max,la57=off"]),
            accel => command.args(["-accel", accel, "-cpu", "host"]),
        };
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        // Emulation is slow enough without the defences against a machine's other users, of whom there are none.
        command.args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr rdinit=/init"]);
        command.arg("-serial").arg(file_backend(console)?).args(["-serial", "stdio"]);
        command.arg("-serial").arg(file_backend(results)?);
        Ok(command)
    }

    /// Boots the guest, passes on what its tests print, and ends it if it takes longer than `limit`.
    pub(super) fn run(&self, console: &Path, results: &Path, limit: Duration) -> Result<Output> {
        for file in [console, results] {
            File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
        }
        let mut command = self.command(console, results)?;
        let mut guest = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map(Guest)
            .with_context(|| format!("cannot start {}", process::describe(&command)))?;
        let (send, lines) = mpsc::channel();
        if let Some(stdout) = guest.0.stdout.take() {
            // Ends with the pipe, which ends with qemu.
            thread::spawn(move || {
                let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
                lines.for_each(|line| drop(send.send(guest::clean(&line))));
            });
        }
        let deadline = Instant::now() + limit;
        let mut tests = Vec::new();
        let mut cut_short = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    // A reader who went away is no reason to stop.
                    let _ = writeln!(io::stdout(), "{line}");
                    tests.push(line);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break None,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    break Some(format!("the guest was not done within {} minutes", limit.as_secs() / 60));
                }
            }
        };
        if cut_short.is_none() {
            let status = guest.0.wait().context("lost track of qemu")?;
            cut_short = (!status.success()).then(|| format!("qemu ended with {status}"));
        }
        drop(guest);
        let results = fs::read(results).map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', ""));
        let results = results.context("cannot read the guest's results")?;
        if cut_short.is_none() && !guest::came_to_its_end(&results) {
            cut_short = Some("the guest stopped before its end".to_owned());
        }
        if cut_short.is_some() {
            show_console(console);
        }
        Ok(Output { tests, results, cut_short })
    }
}

/// A qemu that does not outlive its owner.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `file:PATH`, for a path without the comma that would end it.
fn file_backend(path: &Path) -> Result<String> {
    let path = path.to_str().context("the project's path is not UTF-8")?;
    Ok(format!("file:{}", path.replace(',', ",,")))
}

fn show_console(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("vm: the end of the kernel's console ({}):", console.display());
    for line in &lines[lines.len().saturating_sub(CONSOLE_LINES)..] {
        eprintln!("  {}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_no_network_and_the_three_lines() {
        let machine = Machine { kernel: Path::new("/k"), initramfs: Path::new("/i"), accel: "tcg", cpus: 2 };
        let Ok(command) = machine.command(Path::new("/a,b/console"), Path::new("/results")) else {
            // A machine without setpriv has no guests either.
            return;
        };
        let described = process::describe(&command);
        for part in [
            "--pdeathsig KILL ",
            "-nic none",
            "-no-reboot",
            "-smp 2",
            "-accel tcg,thread=single -cpu max,la57=off",
            "-kernel /k -initrd /i",
            "-serial file:/a,,b/console -serial stdio -serial file:/results",
        ] {
            assert!(described.contains(part), "{part} in {described}");
        }
    }
}
