//! What the agent's process has taken, from the kernel.

use crate::control::figures::ProcessFigures;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::param::{clock_ticks_per_second, page_size};
use std::fs;
use std::time::SystemTime;

/// The file descriptors of this process.
const DESCRIPTORS: &str = "/proc/self/fd";

/// As it is now; `None` where /proc does not show it.
pub(super) fn figures(started: SystemTime) -> Option<ProcessFigures> {
    let taken = parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    Some(ProcessFigures {
        open_fds: descriptors().ok()?,
        max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft).filter(|&most| most != RLIM_INFINITY),
        started: started.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64(),
        ..taken
    })
}

/// How many there are. Since Linux 6.2 that is the directory's size (`proc_readfd_count`, fs/proc/fd.c).
fn descriptors() -> std::io::Result<u64> {
    match fs::metadata(DESCRIPTORS)?.len() {
        // The one by which the directory is read does not count.
        0 => Ok(fs::read_dir(DESCRIPTORS)?.count().saturating_sub(1) as u64),
        count => Ok(count),
    }
}

/// What a line of /proc/PID/stat (man 5 proc_pid_stat) says.
fn parse(stat: &str) -> Option<ProcessFigures> {
    // The name, in parentheses, may have any characters. The third field comes after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(ProcessFigures {
        cpu_seconds: (field(14)? + field(15)?) as f64 / clock_ticks_per_second() as f64,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_size() as u64,
        ..ProcessFigures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 150 50 0 0 20 0 3 0 4711 8192000 25 18446744073709551615 1 1";
        let taken = parse(stat).unwrap();
        assert_eq!(taken.cpu_seconds, 200.0 / clock_ticks_per_second() as f64);
        assert_eq!((taken.threads, taken.virtual_bytes), (3, 8_192_000));
        assert_eq!(taken.resident_bytes, 25 * page_size() as u64);
        assert_eq!(parse("7 (short) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn it_tells_of_this_process() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let told = figures(started).unwrap();
        assert_eq!(told.started, 1.5);
        assert!(told.open_fds >= 3 && told.max_fds.is_none_or(|most| most >= told.open_fds), "{told:?}");
        assert!(told.threads >= 1 && told.virtual_bytes > told.resident_bytes, "{told:?}");
        let held: Vec<_> = (0..8).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(figures(started).unwrap().open_fds >= told.open_fds + held.len() as u64 - 4, "{told:?}");
    }
}
