//! Runs other programs. A failure names the command, the cause, and the file with the whole output.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// How often a long command says that it is still at work.
const STILL_HERE: Duration = Duration::from_secs(15);

/// How much of a program's complaint is repeated; some put their whole chain of causes into one line.
const LINE: usize = 160;

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}

/// Runs a command whose output the reader wants to see.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let described = describe(command);
    let status = command.status().with_context(|| format!("cannot start {described}"))?;
    if !status.success() {
        bail!("{described} failed ({status})");
    }
    Ok(())
}

/// Runs a short command for what it prints; fails with the last line of its complaint.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let described = describe(command);
    let output = command.output().with_context(|| format!("cannot start {described}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{described}: {}", essence(&complaint).unwrap_or_else(|| output.status.to_string()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a long command: its output goes to a file of that name under `.tools/log`, the reader sees that it is at work.
pub(crate) fn long(what: &str, log: &str, limit: Duration, command: &mut Command) -> Result<()> {
    let folder = paths::tools().join("log");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("{log}.log"));
    let cannot_log = || format!("cannot write {}", path.display());
    let file = File::create(&path).with_context(cannot_log)?;
    command.stdin(Stdio::null()).stderr(file.try_clone().with_context(cannot_log)?).stdout(file);

    eprintln!("setup: {what} …");
    let described = describe(command);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {described}"))?;
    let mut next_word = STILL_HERE;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("lost track of {described}"))? {
            break status;
        }
        if start.elapsed() > limit {
            // It may have ended by itself in between, which is as good.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{described} did not finish in {} s", limit.as_secs());
        }
        if start.elapsed() > next_word {
            let line = fs::read_to_string(&path).ok().and_then(|text| text.lines().last().map(str::to_owned));
            eprintln!("setup: … {} s: {}", next_word.as_secs(), line.unwrap_or_default().trim());
            next_word += STILL_HERE;
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let why = essence(&text).unwrap_or_else(|| status.to_string());
        bail!("{described}: {why} (the whole output: .tools/log/{log}.log)");
    }
    eprintln!("setup: … done in {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// The line of a program's output that says what went wrong: its first error, else its last line.
fn essence(output: &str) -> Option<String> {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| ["error", "E: "].iter().any(|mark| line.starts_with(mark)));
    let line = error.or_else(|| lines.next_back())?;
    let mut short: String = line.chars().take(LINE).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    Some(short)
}

/// Where a program is: unpacked by setup, in PATH, or in a folder of the administrator's programs, which a user's PATH
/// often lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&lab_path()).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// What the lab looks for programs in.
pub(crate) fn lab_path() -> OsString {
    with_folders(&env::var_os("PATH").unwrap_or_default(), &clients().join("bin"))
}

/// What cargo, and the tests that it runs, look for programs in. The agent's build script runs rustup, too.
pub(crate) fn cargo_path() -> OsString {
    let path = lab_path();
    if find_program("rustup").is_some() {
        return path;
    }
    let rustup = find_rustup();
    let folder = rustup.as_deref().and_then(Path::parent).map(Path::to_owned);
    env::join_paths(env::split_paths(&path).chain(folder)).unwrap_or(path)
}

/// Where setup unpacks programs that cannot be installed.
pub(crate) fn clients() -> PathBuf {
    paths::tools().join("clients")
}

/// A PATH with a folder before the others and those of the administrator's programs after them.
fn with_folders(path: &OsStr, first: &Path) -> OsString {
    let mut folders = vec![first.to_owned()];
    folders.extend(env::split_paths(path));
    for folder in ["/usr/sbin", "/sbin"] {
        if !folders.iter().any(|there| there == Path::new(folder)) {
            folders.push(folder.into());
        }
    }
    // A folder with a colon in its name cannot be in a PATH.
    env::join_paths(folders).unwrap_or_else(|_| path.to_owned())
}

/// Where rustup is. `sudo` leaves neither PATH nor, often, HOME: then it is where the cargo that runs this belongs.
pub(crate) fn find_rustup() -> Option<PathBuf> {
    find_program("rustup").or_else(|| rustup_of(|name| env::var_os(name)))
}

fn rustup_of(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = Vec::new();
    candidates.extend(folder("CARGO_HOME"));
    candidates.extend(folder("HOME").map(|home| home.join(".cargo")));
    // HOME/.rustup/toolchains/NAME/bin/cargo, or HOME/.cargo/bin/cargo
    if let Some(cargo) = folder("CARGO") {
        candidates.extend(cargo.ancestors().nth(5).map(|home| home.join(".cargo")));
        candidates.extend(cargo.ancestors().nth(2).map(Path::to_owned));
    }
    candidates.into_iter().map(|home| home.join("bin/rustup")).find(|rustup| rustup.is_file())
}

/// A command of a program that must be there, wherever [`find_program`] finds it.
pub(crate) fn program(name: &str) -> Result<Command> {
    Ok(Command::new(find_program(name).with_context(|| format!("this machine has no program {name}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_described_as_one_would_type_it() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["fmt", "--check"]);
        assert_eq!(describe(&command), "`cargo fmt --check`");
    }

    #[test]
    fn unpacked_programs_come_first_administrators_folders_last() {
        let path = |path| with_folders(OsStr::new(path), Path::new("/t/bin")).into_string().unwrap();
        assert_eq!(path("/usr/local/bin:/usr/bin"), "/t/bin:/usr/local/bin:/usr/bin:/usr/sbin:/sbin");
        assert_eq!(path("/sbin:/usr/sbin:/bin"), "/t/bin:/sbin:/usr/sbin:/bin");
    }

    /// As under `sudo /home/me/.cargo/bin/cargo xtask …`, which has root's HOME and a PATH without cargo's folder.
    #[test]
    fn rustup_is_found_by_the_cargo_that_runs() {
        let me = tempfile::tempdir().unwrap();
        let rustup = me.path().join(".cargo/bin/rustup");
        fs::create_dir_all(rustup.parent().unwrap()).unwrap();
        fs::write(&rustup, "").unwrap();
        for cargo in [".rustup/toolchains/stable-x86_64-unknown-linux-gnu/bin/cargo", ".cargo/bin/cargo"] {
            let cargo = me.path().join(cargo);
            let variable = |name: &str| match name {
                "CARGO" => Some(cargo.clone().into_os_string()),
                "HOME" => Some("/nowhere".into()),
                _ => None,
            };
            assert_eq!(rustup_of(variable), Some(rustup.clone()));
        }
        assert_eq!(rustup_of(|_| None), None);
    }

    #[test]
    fn the_essence_of_an_output_is_its_first_error() {
        let apt = "Reading package lists...\nE: Unable to locate package nope\nE: No packages found\n";
        assert_eq!(essence(apt).as_deref(), Some("E: Unable to locate package nope"));
        let rustup = "info: syncing\nerror: could not download\n\nStack backtrace:\n  0: main\n";
        assert_eq!(essence(rustup).as_deref(), Some("error: could not download"));
        assert_eq!(essence("one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(essence("\n"), None);
        assert_eq!(essence(&"x".repeat(1000)).map(|line| line.chars().count()), Some(LINE + 1));
    }

    #[test]
    fn a_failed_command_is_named_with_its_cause() {
        let error = output(Command::new("sh").args(["-c", "echo error: no such toolchain >&2; exit 1"])).unwrap_err();
        assert!(error.to_string().ends_with(": error: no such toolchain"), "{error}");
    }
}
