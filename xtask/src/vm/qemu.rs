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
use crate::arch::Arch;
use crate::process;
use crate::setup;

/// The last lines of the kernel's console that are shown when a guest did not come to its end.
const CONSOLE_LINES: usize = 40;

pub(super) struct VirtualMachine<'a> {
    pub(super) arch: Arch,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) accel: &'a str,
    pub(super) cpus: usize,
    /// Whether the kernel keeps its memory from root, too.
    pub(super) lockdown: bool,
}

impl VirtualMachine<'_> {
    /// The command line. The first line is the kernel's console, the second what the tests print, the third what
    /// became of them (guest.rs has their names in the guest).
    fn command(&self, console: &Path, results: &Path) -> Result<Command> {
        let qemu = setup::qemu(self.arch);
        // Ended by the kernel if this process dies, however it does.
        let mut command = process::program("setpriv")?;
        command.args(["--pdeathsig", "KILL"]).arg(process::find_program(qemu).unwrap_or(qemu.into()));
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-nic", "none", "-m", "2048", "-smp", &self.cpus.to_string()]);
        // On arm64 the lines are virtio's, too, and the guest knows them by their number among its devices.
        if self.arch == Arch::Amd64 {
            for (number, address) in guest::CARDS.iter().enumerate() {
                // On one hub, which leads nowhere else.
                command.arg("-netdev").arg(format!("hubport,id=card{number},hubid=0"));
                command.arg("-device").arg(format!("virtio-net-pci,netdev=card{number},mac={address},romfile="));
            }
        }
        if self.arch == Arch::Arm64 {
            command.args(["-machine", "virt"]);
        }
        match (self.accel, self.arch) {
            // All processors take turns in one thread: with a thread for each, 6.12 died once at an instruction that the
            // kernel patches while it runs.
            ("tcg", Arch::Amd64) => command.args(["-accel", "tcg,thread=single", "-cpu", "max,la57=off"]),
            // A thread for each processor. Pointer authentication by the architecture's own cipher takes most of the time.
            ("tcg", Arch::Arm64) => command.args(["-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on"]),
            (accel, _) => command.args(["-accel", accel, "-cpu", "host"]),
        };
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        let console_name = guest::console(self.arch);
        // Emulation is slow enough without the defences against a machine's other users, of whom there are none.
        let lockdown = if self.lockdown { " lockdown=confidentiality" } else { "" };
        command.arg("-append").arg(format!(
            "console={console_name} quiet loglevel=4 panic=-1 mitigations=off nokaslr rdinit=/init{lockdown}"
        ));
        command.arg("-serial").arg(file_backend(console)?);
        match self.arch {
            Arch::Amd64 => command.args(["-serial", "stdio"]).arg("-serial").arg(file_backend(results)?),
            // The machine has one serial line.
            Arch::Arm64 => {
                // Not `stdio`: where there is nothing to read, qemu takes a port of that for one that nobody listens to.
                command.args(["-device", "virtio-serial-pci", "-chardev", "file,id=tests,path=/dev/stdout"]);
                command.arg("-chardev").arg(format!("file,id=results,path={}", escaped(results)?));
                command.args(["-device", "virtserialport,chardev=tests,nr=1"]);
                command.args(["-device", "virtserialport,chardev=results,nr=2"])
            }
        };
        Ok(command)
    }

    /// Boots the guest, passes on what its tests print, and ends it if it takes longer than `limit`.
    pub(super) fn run(&self, console: &Path, results: &Path, limit: Duration) -> Result<guest::GuestOutput> {
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
        Ok(guest::GuestOutput { tests, results, cut_short })
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
    Ok(format!("file:{}", escaped(path)?))
}

/// A path inside an option of qemu's.
fn escaped(path: &Path) -> Result<String> {
    Ok(path.to_str().context("the project's path is not UTF-8")?.replace(',', ",,"))
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
        let (kernel, initramfs) = (Path::new("/k"), Path::new("/i"));
        let machine = |arch| VirtualMachine { arch, kernel, initramfs, accel: "tcg", cpus: 2, lockdown: false };
        let described = |arch| {
            let command = machine(arch).command(Path::new("/a,b/console"), Path::new("/re,sults"));
            command.ok().map(|command| process::describe(&command))
        };
        let (Some(amd64), Some(arm64)) = (described(Arch::Amd64), described(Arch::Arm64)) else {
            // A machine without setpriv has no guests either.
            return;
        };
        for part in [
            "--pdeathsig KILL ",
            "-nic none",
            "-no-reboot",
            "-smp 2",
            "-kernel /k -initrd /i",
            "-serial file:/a,,b/console",
        ] {
            assert!(amd64.contains(part), "{part} in {amd64}");
            assert!(arm64.contains(part), "{part} in {arm64}");
        }
        assert!(!arm64.contains("virtio-net"), "{arm64}");
        for part in [
            "-accel tcg,thread=single -cpu max,la57=off",
            "-serial stdio -serial file:/re,,sults",
            "-device virtio-net-pci,netdev=card1,mac=02:00:00:00:06:05,romfile=",
        ] {
            assert!(amd64.contains(part), "{part} in {amd64}");
        }
        for part in ["-accel tcg,thread=multi", "console=ttyAMA0 ", "file,id=results,path=/re,,sults "] {
            assert!(arm64.contains(part), "{part} in {arm64}");
        }
    }
}
