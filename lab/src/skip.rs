//! Tests that a machine cannot run say so.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::{env, fs, thread};

/// What this process lacks to build a lab and to load BPF programs; `None` if it lacks nothing.
pub fn missing_privilege() -> Option<String> {
    /// CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN (bits 12, 13, 21 of linux/capability.h).
    const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 21;
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    (effective & NEEDED != NEEDED).then(|| "it needs root (CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN)".to_owned())
}

/// Says that the running test is skipped, and why: on stderr and in the file that `ARP_TEST_SKIPS` names, one line a
/// test, for the runner to list.
///
/// # Panics
/// If `CI` is set and no such file is named: nobody would hear of it.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("unnamed test");
    // One line a test: what a command says may have several.
    let reason = reason.lines().collect::<Vec<_>>().join(" ");
    eprintln!("skipped: {test}: {reason}");
    match env::var_os("ARP_TEST_SKIPS") {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            let written = file.and_then(|mut file| file.write_all(format!("{test}\t{reason}\n").as_bytes()));
            if let Err(error) = written {
                panic!("recording that {test} was skipped in {}: {error}", path.display());
            }
        }
        None if env::var_os("CI").is_some() => panic!("{test} cannot run here: {reason}"),
        None => {}
    }
}

/// A program that not every machine has: in PATH, or where `cargo xtask setup` puts it. Without it the running test is
/// skipped.
pub fn fetched_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/clients/bin");
    let found = env::split_paths(&path).chain([fetched.into()]).map(|folder| folder.join(name)).find(|it| it.is_file());
    if found.is_none() {
        skip(&format!("there is no {name}: `cargo xtask setup` fetches it"));
    }
    found
}

/// Whether the running kernel is of this version or a newer one.
///
/// # Panics
/// If it does not say its version.
pub fn kernel_is_since(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(has_major)), Some(Ok(has_minor))) => (has_major, has_minor) >= (major, minor),
        _ => panic!("/proc/sys/kernel/osrelease is {release:?}, which is no version"),
    }
}

/// Ends the test, recorded as skipped, on kernels before the version that brought what it tests.
#[macro_export]
macro_rules! needs_kernel {
    ($major:literal, $minor:literal, $what:literal) => {
        if !$crate::kernel_is_since($major, $minor) {
            $crate::skip(concat!("before Linux ", $major, ".", $minor, " there is no ", $what));
            return Ok(());
        }
    };
}

/// Ends the test, recorded as skipped, if this machine cannot build a lab. For tests that return a `Result`.
#[macro_export]
macro_rules! needs_root {
    () => {
        if let Some(missing) = $crate::missing_privilege() {
            $crate::skip(&missing);
            return Ok(());
        }
    };
}
