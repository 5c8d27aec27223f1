//! `arp_agent::kernel` against the running kernel. Needs root: every test has a network namespace of its own, which
//! ends with its thread.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dumps;
mod notified;
mod unnotified;

use std::{fs, process::Command, thread};

use arp_agent::event::{Event, Link};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: unshare(CLONE_NEWNET)");
        run("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the calling thread's network namespace.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{command}");
}

/// Runs many lines of `ip` at once.
fn ip_batch(lines: &str) {
    let file = tempfile();
    fs::write(&file, lines).unwrap();
    run(&format!("ip -batch {file}"));
    fs::remove_file(file).unwrap();
}

fn tempfile() -> String {
    let name = format!("kernel-io-{}-{:?}", std::process::id(), thread::current().id());
    std::env::temp_dir().join(name).to_str().unwrap().to_owned()
}

fn write_sysctl(key: &str, value: impl ToString) {
    fs::write(format!("/proc/sys/net/ipv4/{key}"), value.to_string()).unwrap();
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// The link of this name among events; the last one, if it comes several times.
fn link<'a>(events: &'a [Event], name: &str) -> &'a Link {
    events
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::Link(link) if link.name == name => Some(link),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no link {name} in {events:#?}"))
}
