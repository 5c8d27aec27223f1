//! How far the maps are behind the kernel: a single change, all routes at once, and after the worst.
//!
//! The program itself shows a change ([`ProgramWatch`]): it answers a request with the change and passes it without. So lease
//! and sequence count as well.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use bench::quantile;
use lab::netlink::{KernelChange, Netlink};
use lab::{Agent, Lab, Namespace, OnCore};
use nix::sys::signal::Signal;

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::process::{Process, started};
use crate::report::GoalBound;
use crate::samples::{Key, order};
use crate::watch::ProgramWatch;

const CHANGE: [(&str, f64); 3] =
    [("change → decision, p50", 0.5), ("change → decision, p99", 0.99), ("change → decision, max", 1.0)];
const INTO_EMPTY: &str = "routes into an empty mirror";
const MEMORY: &str = "memory for each route";
const FLAP: &str = "all routes deleted and added again";
const OVERRUN: &str = "resync after an overrun";
const SIZE: &str = "routes";

const KERNEL_DUMP: &str = "the kernel's own dump";
const BEYOND: &str = "agent, beyond the dump";
const OWN: &str = "the agent's own";
const MAPS: &str = "BPF maps";
/// What is watched.
const CHANGES: [&str; 4] = ["route", "neighbour", "proxy_arp", LINK];
const LINK: &str = "link down and up";
/// An interface that changes more often is held back: its frames pass for a second, and then for longer.
const LINK_PAUSE: Duration = Duration::from_millis(600);
const LINK_CHANGES: u32 = 8;

pub(crate) const TABLES: &[Table] = &[
    Table {
        columns: Columns::Measures,
        measures: &[(CHANGE[0].0, CHANGE[0].0), (CHANGE[1].0, "p99"), (CHANGE[2].0, "max")],
        cases: &[],
    },
    Table {
        columns: Columns::Sizes,
        measures: &[
            (INTO_EMPTY, "into an empty mirror"),
            (MEMORY, MEMORY),
            (FLAP, "all deleted and added again"),
            (OVERRUN, OVERRUN),
        ],
        cases: &[KERNEL_DUMP, BEYOND, OWN, MAPS, "the kernel alone", "until mirrored", "agent"],
    },
];

const POD: &str = "cali0";
const POD_IP: [u8; 4] = [10, 5, 0, 5];
const POD_MAC: Lladdr = Lladdr::new([2, 0, 0, 0, 0, 2]);
/// What the pod asks for, by a route out of `u0`.
const TARGET: [u8; 4] = [172, 31, 7, 7];
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    single_changes(context, findings)?;
    let sizes: &[u32] = context.either(&[100_000, 1_000_000], &[1_000]);
    for &size in sizes {
        context.check()?;
        many(context, size, findings)?;
    }
    for (size, bound) in [(100_000, 500.0), (1_000_000, 4000.0)] {
        let values = findings.samples.values(&Key::new(INTO_EMPTY, BEYOND).at(SIZE, size)).to_vec();
        if !values.is_empty() {
            let case = format!("{} routes", bench::units::grouped(size));
            findings.goal(
                "P10",
                ["routes into an empty mirror, beyond the kernel's own dump", &case],
                GoalBound::AtMost(bound),
                "ms",
                &values,
            );
        }
    }
    findings.note("Routes: to single hosts, seven addresses apart, by one interface; deleted and added by netlink messages in full buffers.");
    findings.note(
        "The agent's options are the defaults, the hook on writes of settings with them: whoever else on the machine writes one meanwhile \
         makes frames pass, and the times long.",
    );
    findings.note("Memory: the agent's own (RssAnon), and that of its BPF maps (memlock), each less the same with a handful of routes.");
    Ok(())
}

/// A node with one pod, and an uplink that routes leave by.
struct Node {
    lab: Lab,
    pod: u32,
    uplink: u32,
}

impl Node {
    fn new() -> Result<Self> {
        let mut lab = Lab::new()?;
        lab.attach("pod", POD_MAC, POD, Lladdr::new([0xee; 6]))?;
        lab.attach("far", Lladdr::new([2, 0, 0, 0, 0, 9]), "u0", Lladdr::new([2, 0, 0, 0, 9, 1]))?;
        let node = lab.node();
        for key in ["proxy_arp", "forwarding"] {
            node.sysctl(&format!("net.ipv4.conf.{POD}.{key}"), 1)?;
        }
        node.sysctl(&format!("net.ipv4.neigh.{POD}.proxy_delay"), 0)?;
        node.ip_each(&format!(
            "route add 10.5.0.5 dev {POD} scope link
             neigh replace 10.5.0.5 lladdr {POD_MAC} dev {POD} nud permanent
             route add 172.31.7.7 dev u0 scope link"
        ))?;
        // The last echoes of carriers come up to a second later.
        thread::sleep(Duration::from_millis(1500));
        let index = |name: &'static str| -> Result<u32> {
            node.run(|| nix::net::if_::if_nametoindex(name))?.with_context(|| format!("the node has no {name}"))
        };
        let (pod, uplink) = (index(POD)?, index("u0")?);
        Ok(Node { lab, pod, uplink })
    }

    fn namespace(&self) -> &Namespace {
        self.lab.node()
    }

    fn start(&self) -> Result<(Agent, Duration)> {
        started(&["cali*"], &["--hook", "xdp", "--xdp-mode", "skb"], self.namespace())
    }
}

fn watch(agent: &Agent) -> Result<ProgramWatch> {
    let mut watch = ProgramWatch::on(agent)?;
    watch.about(&ArpFrame::request(POD_MAC.bytes(), POD_IP, TARGET))?;
    Ok(watch)
}

/// One change after the other, each of the four kinds undone and made again.
fn single_changes(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, changes) = context.either((15, 100), (2, 4));
    let node = Node::new()?;
    let (agent, _) = node.start()?;
    if context.cores.len() > 1 {
        Process(agent.pid()).keep_off(context.core)?;
    }
    let mut kernel = Netlink::open(node.namespace())?;
    let resolution = node.namespace().run(|| -> Result<Duration> {
        let _core = OnCore::enter(context.core)?;
        let mut watch = watch(&agent)?;
        watch.until(node.pod, true, Instant::now(), PATIENCE)?;
        for round in 0..rounds {
            for kind in order(round, CHANGES.len()) {
                context.check()?;
                let is_link = CHANGES[kind] == LINK;
                let mut micros = Vec::new();
                for turn in 0..if is_link { LINK_CHANGES.min(changes) } else { changes } {
                    let present = turn % 2 == 1;
                    let since = Instant::now();
                    make(&node, &mut kernel, CHANGES[kind], present)?;
                    let took = watch.until(node.pod, present, since, PATIENCE)?;
                    micros.push(took.as_secs_f64() * 1e6);
                    // Not in sync with the agent's own rhythm.
                    let pause = Duration::from_micros(fastrand::u64(500..3000));
                    thread::sleep(if is_link { LINK_PAUSE + pause } else { pause });
                }
                for (measure, share) in CHANGE {
                    findings.push(Key::new(measure, CHANGES[kind]), "µs", quantile(&micros, share));
                }
            }
        }
        watch.resolution(node.pod)
    })??;
    for kind in CHANGES {
        let (p99, _) = CHANGE[1];
        let values = findings.samples.values(&Key::new(p99, kind)).to_vec();
        findings.goal("P9", [p99, kind], GoalBound::AtMost(1000.0), "µs", &values);
    }
    findings.note(format!(
        "Change → decision: {rounds} rounds of {changes} changes of each kind (of the link {LINK_CHANGES}), half of them undone; from before the message is sent, or the \
         file written, until the loaded program, run again and again on core {}, decides by it; the agent has the other cores. One look takes {:.1} µs.",
        context.core,
        resolution.as_secs_f64() * 1e6
    ));
    Ok(())
}

fn make(node: &Node, kernel: &mut Netlink, kind: &str, present: bool) -> Result<()> {
    match (kind, present) {
        ("route", true) => kernel.change(KernelChange::add_route(TARGET, node.uplink)),
        ("route", false) => kernel.change(KernelChange::delete_route(TARGET, node.uplink)),
        ("neighbour", true) => kernel.change(KernelChange::set_neighbour(POD_IP, node.pod, POD_MAC)),
        ("neighbour", false) => kernel.change(KernelChange::delete_neighbour(POD_IP, node.pod)),
        ("proxy_arp", _) => {
            // The thread is in the node's namespace.
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{POD}/proxy_arp"), if present { "1" } else { "0" })
                .context("writing proxy_arp")
        }
        (_, present) => {
            kernel.change(KernelChange::set_up(node.uplink, present))?;
            // The route went with the link.
            if present { kernel.change(KernelChange::add_route(TARGET, node.uplink)) } else { Ok(()) }
        }
    }
}

/// All routes at once: dumped, mirrored, flapped, and after an overrun.
fn many(context: &Context, size: u32, findings: &mut Findings) -> Result<()> {
    let key = |measure: &str, case: &str| Key::new(measure, case).at(SIZE, size.into());
    let rounds = match (context.quick, size) {
        (true, _) => 1,
        (_, 1_000_000) => 3,
        _ => 7,
    };
    let few = Node::new()?;
    let node = Node::new()?;
    let mut kernel = Netlink::open(node.namespace())?;
    let hosts = || (0..size).map(|number| (0x1000_0000 + 7 * number).to_be_bytes());
    let add = || hosts().map(|to| KernelChange::add_route(to, node.uplink));
    let delete = || hosts().map(|to| KernelChange::delete_route(to, node.uplink));
    kernel.change_all(add())?;

    for _ in 0..rounds {
        context.check()?;
        let begin = Instant::now();
        // An agent would look at them.
        let mut rtmsg = [0; 12];
        rtmsg[0] = libc::AF_INET as u8;
        kernel.dump(libc::RTM_GETROUTE, rtmsg, |_, _| {})?;
        let dump = begin.elapsed();
        let (agent_of_few, alone) = few.start()?;
        let (agent, took) = node.start()?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        findings.push(key(INTO_EMPTY, KERNEL_DUMP), "ms", ms(dump));
        findings.push(key(INTO_EMPTY, BEYOND), "ms", ms(took) - ms(alone) - ms(dump));

        let (many, few) = (Process(agent.pid()), Process(agent_of_few.pid()));
        let maps =
            |process: Process| -> Result<f64> { Ok(process.descriptor_fields("memlock")?.iter().sum::<u64>() as f64) };
        let of_each = |bytes: f64| bytes / f64::from(size);
        let own = (many.kib("RssAnon")? - few.kib("RssAnon")?) * 1024.0;
        findings.push(key(MEMORY, OWN), "B", of_each(own));
        findings.push(key(MEMORY, MAPS), "B", of_each(maps(many)? - maps(few)?));
        let routes = agent.status()?.0["routes"].as_u64().unwrap_or_default();
        ensure!(routes > u64::from(size), "of {size} routes the agent mirrors {routes}");
    }
    if size > 100_000 {
        return Ok(());
    }

    // The same without an agent is what the kernel needs for itself.
    for _ in 0..rounds {
        context.check()?;
        let begin = Instant::now();
        kernel.change_all(delete())?;
        kernel.change_all(add())?;
        findings.push(key(FLAP, "the kernel alone"), "ms", begin.elapsed().as_secs_f64() * 1e3);
    }
    let (agent, _) = node.start()?;
    let last = hosts().next_back().context("no routes")?;
    for _ in 0..rounds {
        context.check()?;
        let overruns = agent.status()?.0["overruns"].as_u64();
        let begin = Instant::now();
        kernel.change_all(delete())?;
        kernel.change_all(add())?;
        settled(&node, &agent, last)?;
        findings.push(key(FLAP, "until mirrored"), "ms", begin.elapsed().as_secs_f64() * 1e3);
        let more = agent.status()?.0["overruns"].as_u64() != overruns;
        findings.push(key(FLAP, "overruns"), "", f64::from(u8::from(more)));
    }
    for _ in 0..rounds {
        context.check()?;
        let overruns = agent.status()?.0["overruns"].as_u64().context("status has no overruns")?;
        agent.signal(Signal::SIGSTOP)?;
        kernel.change_all(delete())?;
        kernel.change_all(add())?;
        let begin = Instant::now();
        agent.signal(Signal::SIGCONT)?;
        settled(&node, &agent, last)?;
        findings.push(key(OVERRUN, "agent"), "ms", begin.elapsed().as_secs_f64() * 1e3);
        let now = agent.status()?.0["overruns"].as_u64().unwrap_or_default();
        ensure!(context.quick || now > overruns, "{size} routes deleted and added overran nothing");
    }
    Ok(())
}

/// Waits until the agent has followed every change so far: it takes a request only when no notification waits.
fn settled(node: &Node, agent: &Agent, last: [u8; 4]) -> Result<()> {
    let begin = Instant::now();
    while agent.ask(r#""status""#)?["status"]["ready"] != true {
        ensure!(begin.elapsed() < PATIENCE, "the agent was not in sync within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
    // In step, it has the route; should somebody on this machine have written a setting, frames pass a little longer.
    node.namespace().run(|| -> Result<()> {
        let mut watch = ProgramWatch::on(agent)?;
        watch.about(&ArpFrame::request(POD_MAC.bytes(), POD_IP, last))?;
        watch.until(node.pod, true, begin, PATIENCE)?;
        Ok(())
    })?
}
