//! Very many routing rules, and very many changes of them: the kernel may answer for the fast path while they last.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::stream::{Stream, answered_of_ten, until_fast};
use lab::topology::{self, ROUTED_TARGET};
use lab::{AgentOptions, Lab, needs_root, stretched};

const RULES: u32 = 10_000;
/// How many rules come, and go again, in a flood.
const COMING: u32 = 1_000;
const CHANGES_A_SECOND: u32 = 1_000;
/// Rules that come with one command.
const AT_ONCE: u32 = 50;
/// One of those that the ten thousand rules are about.
const REFUSED: [u8; 4] = [10, 40, 3, 5];

fn host(number: u32) -> String {
    format!("10.40.{}.{}", number / 250, number % 250 + 1)
}

fn each(numbers: impl Iterator<Item = u32>, rule: impl Fn(String) -> String) -> String {
    numbers.fold(String::new(), |mut commands, number| {
        let _ = writeln!(commands, "{}", rule(host(number)));
        commands
    })
}

/// Rules come and go, so many in a second, in a kernel that has ten thousand others.
fn flood(lab: &Lab) -> Result<()> {
    let begin = Instant::now();
    let mut done = 0;
    for verb in ["add", "del"] {
        for first in (0..COMING).step_by(AT_ONCE as usize) {
            let numbers = (first..first + AT_ONCE).map(|number| RULES + number);
            lab.node().ip_each(&each(numbers, |host| format!("rule {verb} prio 1000 to {host} lookup main")))?;
            done += AT_ONCE;
            thread::sleep((Duration::from_secs(1) * done / CHANGES_A_SECOND).saturating_sub(begin.elapsed()));
        }
    }
    Ok(())
}

#[test]
fn ten_thousand_rules_and_a_thousand_changes_a_second() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let mut agent = AgentOptions::new(&["v0"]).start(lab.node())?;
    let p0 = lab.host("p0");
    lab.node().ip("route add unreachable default table 100")?;
    lab.node().ip_each(&each(0..RULES, |host| format!("rule add prio 2000 to {host} lookup 100")))?;
    ensure!(answered_of_ten(&mut agent, p0, ROUTED_TARGET)? == 10, "with 10,000 rules");

    let always = Stream::around(p0, ROUTED_TARGET, Duration::ZERO, || flood(&lab))?;
    until_fast(&agent, p0, ROUTED_TARGET)?;
    let took = always.changed.elapsed();
    println!("{} requests during the flood; the fast path answers {took:?} after it", always.asked.len());
    ensure!(always.asked.iter().all(|asked| asked.replies() == 1), "{:?}", always.asked);
    ensure!(took < stretched(Duration::from_secs(1)), "in sync only after {took:?}");

    let never = Stream::around(p0, REFUSED, Duration::ZERO, || flood(&lab))?;
    ensure!(never.asked.iter().all(|asked| asked.replies() == 0), "{:?}", never.asked);

    // The last of many changes counts.
    lab.node().ip("rule add prio 999 to 10.9.0.9 lookup 100")?;
    agent.in_sync()?;
    ensure!(p0.ask(&p0.who_has(ROUTED_TARGET))?.is_empty(), "a rule refuses it, and it is answered");
    Ok(())
}
