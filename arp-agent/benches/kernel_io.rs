//! What asking the kernel costs. `cargo bench -p arp-agent --bench kernel_io`, as root.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use arp_agent::event::IfSet;
use arp_agent::kernel::{Notifications, Reader};
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};

fn main() {
    poll_for_unnotified_changes();
    reading_100_000_routes();
}

fn poll_for_unnotified_changes() {
    for pairs in [1, 100, 500] {
        in_namespace(move || {
            let lines: String = (0..pairs)
                .map(|i| format!("link add v{i} type veth peer name p{i}\nlink set v{i} up\nlink set p{i} up\n"))
                .collect();
            ip_batch(&lines);
            thread::sleep(Duration::from_secs(8));
            let mut reader = Reader::new().unwrap();
            reader.everything().unwrap();
            report(&format!("unnotified_changes, {pairs} veth pairs"), 50, || {
                reader.unnotified_changes().unwrap();
            });
            report(&format!("links, {pairs} veth pairs"), 50, || {
                reader.links(&IfSet::All).unwrap();
            });
            report(&format!("ingress_hooks, {pairs} veth pairs"), 50, || {
                reader.ingress_hooks().unwrap();
            });
            report(&format!("netfilter, {pairs} veth pairs"), 50, || {
                reader.netfilter().unwrap();
            });
        });
    }
}

fn reading_100_000_routes() {
    in_namespace(|| {
        let mut lines = "link add v0 type veth peer name p0\nlink set v0 up\nlink set p0 up\n".to_owned();
        for i in 0..100_000 {
            lines += &format!("route add 10.{}.{}.{}/32 dev v0\n", i >> 16, i >> 8 & 255, i & 255);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let mut notifications = Notifications::subscribe().unwrap();
        ip_batch(&lines);
        println!("100,000 route notifications at once: {:?}", notifications.drain().err());
        let mut reader = Reader::new().unwrap();
        assert!(reader.routes().unwrap().len() > 100_000);
        report("routes, 100,000", 10, || {
            reader.routes().unwrap();
        });
        report("everything, 100,000 routes", 10, || {
            reader.everything().unwrap();
        });
    });
}

/// Medians of so many runs, by the wall's clock and by the thread's, and what 4 a second take of one CPU.
fn report(what: &str, times: usize, mut run: impl FnMut()) {
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let (begin, before) = (Instant::now(), thread_time());
        run();
        cpu.push(thread_time() - before);
        wall.push(begin.elapsed());
    }
    wall.sort();
    cpu.sort();
    let (wall, cpu) = (wall[times / 2], cpu[times / 2]);
    let share = 4.0 * cpu.as_secs_f64() * 100.0;
    println!("{what}: {wall:?}, CPU {cpu:?}, at 4 Hz {share:.2} %");
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Runs `measure` in a network namespace that ends with its thread.
fn in_namespace(measure: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("this needs root: unshare(CLONE_NEWNET)");
        measure();
    });
    thread.join().expect("the measurement ended early");
}

fn ip_batch(lines: &str) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}
