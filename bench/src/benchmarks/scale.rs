//! Many interfaces: how soon a new one is answered on, and what an agent costs that has nothing to do, or all too much.
//!
//! The program itself shows whether an interface is answered on ([`ProgramWatch`]): it gets a probe (RFC 5227) for an address
//! of the node, which needs neither a route nor a neighbour entry of the pod.

use std::env;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arp_common::ArpFrame;
use bench::quantile;
use lab::{Agent, AgentOptions, BpfFs, OnCore};

use crate::context::Context;
use crate::crowd::{Crowd, Ip, NODE};
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::process::{self, Process, started};
use crate::report::GoalBound;
use crate::samples::Key;
use crate::watch::ProgramWatch;
use bench::units::grouped;

const SIZE: &str = "interfaces";
const UP: &str = "link up → answering";
const CREATED: &str = "link created, and up at once → answering";
const START: &str = "first start → all answering";
const RESTART: &str = "restart → all answering";
const CREATED_ALL: &str = "all created while it runs: after the last";
const ATTACH: &str = "first start, for each interface (attaching, reading)";
const REST: &str = "CPU at rest";
const REST_MEMORY: &str = "resident memory at rest";
const CHURN: &str = "CPU under churn, 50 interfaces/s";
const CHURN_MEMORY: &str = "resident memory after the churn less before";
const DESCRIPTORS: &str = "descriptors after the churn less before";

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Sizes,
    measures: &[
        (START, START),
        (RESTART, RESTART),
        (CREATED_ALL, CREATED_ALL),
        (UP, UP),
        (CREATED, CREATED),
        (REST, REST),
        (REST_MEMORY, REST_MEMORY),
        (CHURN, CHURN),
    ],
    cases: &[],
}];

/// Sender of the probe.
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Attaching to a thousand interfaces by tcx takes most of 20 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pairs created, or deleted, each second.
const RATE: u32 = 50;
/// How many of them exist at a time.
const ALIVE: u32 = 25;

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let sizes: &[u32] = context.either(&[10, 100, 500, 1000], &[5, 20]);
    for &size in sizes {
        context.check()?;
        one_size(context, size, findings)?;
    }
    judge(sizes, findings);
    let Work { rounds, links, rest, churn } = Work::of(context);
    findings.note(format!(
        "Link up and link created: {rounds} rounds of {links} interfaces beside those that are there; from the command to `ip`, the pod end being up, \
         until the loaded program answers a probe, asked again and again on core {}; p50 and p99 of each round.",
        context.core
    ));
    findings.note(format!(
        "CPU: of the agent's threads (schedstat), over {rest:?} at rest and {churn:?} of churn, in parts of a core; memory: VmRSS."
    ));
    findings.note("The agent's options are the defaults, so it attaches by tcx and pins its links.");
    findings.note(match env::var_os(SHIPPED) {
        Some(_) => "The agent is the binary that packages hold: static, and made small.",
        None => "The agent is an ordinary release build: dynamic, and larger than what packages hold.",
    });
    Ok(())
}

/// Names the binary that packages hold.
const SHIPPED: &str = "ARP_BENCH_SHIPPED";

/// How much is done at each size.
struct Work {
    rounds: u32,
    links: u32,
    rest: Duration,
    churn: Duration,
}

impl Work {
    fn of(context: &Context) -> Self {
        let seconds = Duration::from_secs;
        if context.quick {
            Work { rounds: 1, links: 5, rest: seconds(1), churn: seconds(1) }
        } else {
            Work { rounds: 5, links: 100, rest: seconds(10), churn: seconds(8) }
        }
    }
}

const HOOK: [&str; 2] = ["--hook", "auto"];

fn one_size(context: &Context, size: u32, findings: &mut Findings) -> Result<()> {
    let key = |measure: &str, case: &str| Key::new(measure, case).at(SIZE, size.into());
    let work = Work::of(context);
    let crowd = Crowd::new(size)?;
    let last = crowd.index(size - 1)?;

    let (_, alone) = started(&["none*"], &HOOK, crowd.node())?;
    let bpffs = BpfFs::mount()?;
    let begin = Instant::now();
    let mut agent = pinning(&bpffs, &crowd)?;
    all_answering(&crowd, &agent, last, size)?;
    let took = begin.elapsed();
    findings.push(key(START, "agent"), "ms", took.as_secs_f64() * 1e3);
    agent.stop()?;
    let begin = Instant::now();
    let agent = pinning(&bpffs, &crowd)?;
    all_answering(&crowd, &agent, last, size)?;
    findings.push(key(RESTART, "agent"), "ms", begin.elapsed().as_secs_f64() * 1e3);
    let each = took.saturating_sub(alone).as_secs_f64() * 1e6 / f64::from(size);
    findings.push(key(ATTACH, "agent"), "µs", each);

    // The last echoes of carriers come up to a second later.
    thread::sleep(Duration::from_millis(2500));
    let process = Process(agent.pid());
    for _ in 0..context.either(3, 1) {
        context.check()?;
        findings.push(key(REST, "agent"), "%", cpu_over(process, work.rest / 3)?);
    }
    findings.push(key(REST_MEMORY, "agent"), "MiB", process.kib("VmRSS")? / 1024.0);

    let mut ips = Ips { node: Ip::of(crowd.node())?, pods: Ip::of(crowd.pods())? };
    for round in 0..work.rounds {
        context.check()?;
        let numbers = size + 1 + round * work.links..size + 1 + (round + 1) * work.links;
        let times = crowd.node().run(|| {
            let _core = OnCore::enter(context.core)?;
            link_up(&crowd, &agent, &mut ips, numbers)
        })??;
        for (measure, values) in [(UP, times.up), (CREATED, times.created)] {
            findings.push(key(measure, "p50"), "ms", quantile(&values, 0.5));
            findings.push(key(measure, "p99"), "ms", quantile(&values, 0.99));
        }
    }
    churn(&crowd, &agent, size + 1 + work.rounds * work.links, work.churn, |measure, unit, value| {
        findings.push(key(measure, "agent"), unit, value);
    })?;
    drop(agent);
    drop(crowd);

    context.check()?;
    let crowd = Crowd::new(0)?;
    let agent = pinning(&bpffs, &crowd)?;
    let begin = Instant::now();
    crowd.add(0..size)?;
    let created = begin.elapsed();
    all_answering(&crowd, &agent, crowd.index(size - 1)?, size)?;
    let after = begin.elapsed() - created;
    findings.push(key(CREATED_ALL, "agent"), "ms", after.as_secs_f64() * 1e3);
    Ok(())
}

/// An agent as it runs on a node: its links pinned.
fn pinning(bpffs: &BpfFs, crowd: &Crowd) -> Result<Agent> {
    let options = AgentOptions::new(&["cali*"]).sysctl_hook().bpffs(bpffs.path());
    let options = match env::var_os(SHIPPED) {
        Some(binary) => options.binary(Path::new(&binary)),
        None => options,
    };
    let options = HOOK.iter().fold(options, |options, argument| options.arg(argument));
    Ok(process::start(options, crowd.node())?.0)
}

/// Waits until the interface that was made last is answered on, then until all are by `status`.
fn all_answering(crowd: &Crowd, agent: &Agent, last: u32, size: u32) -> Result<()> {
    let begin = Instant::now();
    crowd.node().run(|| -> Result<()> {
        let mut watch = probing(agent)?;
        watch.until(last, true, begin, PATIENCE)?;
        Ok(())
    })??;
    loop {
        let status = agent.status()?;
        let interfaces = status.0["interfaces"].as_array().context("status has no interfaces")?;
        let answering = interfaces.iter().filter(|interface| interface["state"] == "answering").count();
        if answering == size as usize {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "{answering} of {size} interfaces are answered on: {}", status.0);
        thread::sleep(Duration::from_millis(10));
    }
}

fn probing(agent: &Agent) -> Result<ProgramWatch> {
    let mut watch = ProgramWatch::on(agent)?;
    watch.about(&ArpFrame::request(POD_MAC, [0; 4], NODE))?;
    Ok(watch)
}

/// Milliseconds until interfaces were answered on.
#[derive(Default)]
struct AnsweredAfter {
    up: Vec<f64>,
    created: Vec<f64>,
}

/// One for each end.
struct Ips {
    node: Ip,
    pods: Ip,
}

/// One interface after the other is created, set up, and deleted again. To be called in the node's namespace.
fn link_up(crowd: &Crowd, agent: &Agent, ips: &mut Ips, numbers: Range<u32>) -> Result<AnsweredAfter> {
    let mut times = AnsweredAfter::default();
    let mut watch = probing(agent)?;
    for number in numbers {
        // An index of its own, so that no entry of another interface can be taken for it.
        let index = 1_000_000 + number;
        let create = crowd.create(number).replace(" type ", &format!(" index {index} type "));
        let set_up = format!("link set cali{number} up");
        let apart = number % 2 == 0;
        if apart {
            ips.node.tell(&create)?;
            ips.node.settle()?;
            ips.pods.tell(&format!("link set p{number} up"))?;
            ips.pods.settle()?;
            // What that is notified as is over.
            thread::sleep(Duration::from_millis(10));
            ensure!(!watch.answers(index)?, "cali{number} is answered on while it is down");
        }
        let since = Instant::now();
        if !apart {
            ips.node.tell(&create)?;
            // Until it exists, nothing can be asked about it.
            ips.node.settle()?;
            ips.pods.tell(&format!("link set p{number} up"))?;
        }
        ips.node.tell(&set_up)?;
        let took = watch.until(index, true, since, PATIENCE)?.as_secs_f64() * 1e3;
        if apart {
            times.up.push(took)
        } else {
            times.created.push(took)
        }
        ips.node.tell(&format!("link del cali{number}"))?;
        ips.node.settle()?;
    }
    Ok(times)
}

/// Interfaces come and go, fifty a second of each.
fn churn(
    crowd: &Crowd,
    agent: &Agent,
    first: u32,
    duration: Duration,
    mut found: impl FnMut(&str, &'static str, f64),
) -> Result<()> {
    let process = Process(agent.pid());
    let mut ip = Ip::of(crowd.node())?;
    let (memory, descriptors) = (process.kib("VmRSS")?, process.descriptors()?);
    let (begin, before) = (Instant::now(), process.cpu()?);
    let mut number = 0;
    while begin.elapsed() < duration {
        ip.tell(&crowd.create(first + number))?;
        ip.tell(&format!("link set cali{} up", first + number))?;
        if number >= ALIVE {
            ip.tell(&format!("link del cali{}", first + number - ALIVE))?;
        }
        number += 1;
        let next = begin + Duration::from_secs(1) * number / RATE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ip.settle()?;
    found(CHURN, "%", (process.cpu()? - before).as_secs_f64() * 100.0 / begin.elapsed().as_secs_f64());
    for gone in number.saturating_sub(ALIVE)..number {
        ip.tell(&format!("link del cali{}", first + gone))?;
    }
    ip.settle()?;
    // Until the agent has detached from the last.
    let deadline = Instant::now() + PATIENCE;
    while process.descriptors()? != descriptors && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    found(CHURN_MEMORY, "MiB", (process.kib("VmRSS")? - memory) / 1024.0);
    found(DESCRIPTORS, "", process.descriptors()? as f64 - descriptors as f64);
    let status = agent.status()?;
    ensure!(status.ready(), "the agent lost step under churn: {}", status.0);
    Ok(())
}

/// How much of a core the process has used, in percent.
fn cpu_over(process: Process, duration: Duration) -> Result<f64> {
    let (begin, before) = (Instant::now(), process.cpu()?);
    thread::sleep(duration);
    Ok((process.cpu()? - before).as_secs_f64() * 100.0 / begin.elapsed().as_secs_f64())
}

fn judge(sizes: &[u32], findings: &mut Findings) {
    let most = sizes.last().copied().unwrap_or_default();
    // The goal at rest is about 500.
    let at_rest = sizes.iter().copied().filter(|&size| size <= 500).max().unwrap_or_default();
    let values = |findings: &Findings, measure: &str, case: &str, size: u32| {
        findings.samples.values(&Key::new(measure, case).at(SIZE, size.into())).to_vec()
    };
    let of = |size: u32| format!("{} {SIZE}", grouped(size.into()));
    let p99 = values(findings, UP, "p99", most);
    findings.goal("P11", [&format!("{UP}, p99"), &format!("beside {}", of(most))], GoalBound::AtMost(10.0), "ms", &p99);
    for (measure, bound) in [(START, 20_000.0), (CREATED_ALL, 20_000.0), (RESTART, 2_000.0)] {
        let taken = values(findings, measure, "agent", most);
        findings.goal("P11", [measure, &of(most)], GoalBound::AtMost(bound), "ms", &taken);
    }
    let cpu = values(findings, REST, "agent", at_rest);
    findings.goal("P12", [REST, &of(at_rest)], GoalBound::AtMost(0.1), "%", &cpu);
    let memory = values(findings, REST_MEMORY, "agent", at_rest);
    findings.goal("P12", [REST_MEMORY, &of(at_rest)], GoalBound::AtMost(16.0), "MiB", &memory);
}
