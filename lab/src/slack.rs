//! How much more time tests get on slow machines.

use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Result, ensure};

/// The factor by which bounds on time are stretched: `ARP_TEST_SLACK`, 1 without it. An emulated machine sets it.
///
/// # Panics
/// If the variable holds anything but a number from 1 on.
pub fn slack() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| match env::var("ARP_TEST_SLACK") {
        Err(_) => 1,
        Ok(text) => match text.parse() {
            Ok(factor) if factor > 0 => factor,
            _ => panic!("ARP_TEST_SLACK is {text:?}, which is no factor such as 10"),
        },
    })
}

/// A bound on how long something may take, stretched by [`slack`]. Not for times that the kernel itself sets.
pub fn stretched(bound: Duration) -> Duration {
    bound * slack()
}

/// Waits until `done`, at most for `within`, which slow machines stretch.
///
/// # Errors
/// That of `done`. After the deadline, an error that names what it waited for, by `what`.
pub fn wait_until(
    within: Duration,
    mut done: impl FnMut() -> Result<bool>,
    what: impl FnOnce() -> String,
) -> Result<()> {
    let deadline = Instant::now() + stretched(within);
    while !done()? {
        ensure!(Instant::now() < deadline, "not within {:?}: {}", stretched(within), what());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
