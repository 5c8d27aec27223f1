//! One pod that changes as fast as it can, and pods that come and go: nobody else is passed, and it costs little.

use crate::turn;
use anyhow::{Context as _, Result, ensure};
use arp_common::ArpFrame;
use lab::stream::until_fast;
use lab::topology::{self, CALICO_GATEWAY, ROUTER_IP};
use lab::{Agent, AgentOptions, Host, Lab, ioctl, needs_root};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The share of another pod's requests that the fast path itself answers, by the program's own counters, in thousandths.
const ANSWERED: u64 = 995;
/// How much of a core the agent may take, in percent.
const CPU: f64 = 5.0;

/// What one pod does to be noticed.
#[derive(Clone, Copy, Debug)]
enum Flap {
    Carrier,
    Mtu,
    Gro,
    LinkLayerAddress,
}

impl Flap {
    /// Does it so many times, with no pause.
    fn some(self, pod: &Host) -> Result<u64> {
        match self {
            Flap::Carrier => {
                pod.namespace().ip_each(&"link set eth0 down\nlink set eth0 up\n".repeat(50))?;
                Ok(100)
            }
            // So small that no frame of the self-test gets through, at each change of the carrier.
            Flap::Mtu => {
                let once = "link set eth0 mtu 68\nlink set eth0 down\nlink set eth0 up\nlink set eth0 mtu 1500\n";
                pod.namespace().ip_each(&once.repeat(25))?;
                Ok(100)
            }
            Flap::Gro => {
                pod.namespace().run(|| ioctl::toggle_gro("eth0", 100))??;
                Ok(100)
            }
            Flap::LinkLayerAddress => {
                let macs = [pod.mac().bytes(), [0x02, 0, 0, 0, 0x0f, 1]];
                let frames = macs.map(|mac| ArpFrame::request(mac, pod.ip(), CALICO_GATEWAY).to_bytes());
                let frames: Vec<&[u8]> = (0..64).map(|number| &frames[number % 2][..]).collect();
                pod.exchange(&frames)?;
                Ok(frames.len() as u64)
            }
        }
    }
}

/// What another pod saw meanwhile, and what it cost.
#[derive(Debug)]
struct Meanwhile {
    asked: u64,
    answered: u64,
    cpu_percent: f64,
    log_lines: usize,
    /// Why the others passed.
    passed: BTreeMap<String, u64>,
    took: Duration,
}

impl Meanwhile {
    /// Lets `p0` ask all the time while something happens.
    fn during(lab: &Lab, agent: &Agent, happens: impl FnOnce() -> Result<()> + Send) -> Result<Self> {
        let p0 = lab.host("p0");
        until_fast(agent, p0, CALICO_GATEWAY)?;
        // Whatever came before is over, and told: the log has an interface's new state after a second.
        thread::sleep(Duration::from_millis(1_500));
        let frame = p0.who_has(CALICO_GATEWAY);
        let before = agent.status()?;
        let (lines, ticks) = (agent.log().lines().count(), cpu_ticks(agent)?);
        let begin = Instant::now();
        let stop = AtomicBool::new(false);
        let asked = thread::scope(|scope| -> Result<u64> {
            let asking = scope.spawn(|| -> Result<u64> {
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    ensure!(p0.ask(&frame)?.len() == 1, "request {asked} is not answered once");
                    asked += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(asked)
            });
            let happened = happens();
            stop.store(true, Ordering::Relaxed);
            let asked = asking.join().unwrap_or_else(|panic| resume_unwind(panic));
            happened?;
            asked
        })?;
        let took = begin.elapsed();
        // 100 ticks a second on every architecture (USER_HZ).
        let cpu_percent = (cpu_ticks(agent)? - ticks) as f64 / took.as_secs_f64();
        let log_lines = agent.log().lines().count() - lines;
        let now = agent.status()?;
        let known = before.passed("cali0");
        let more = |(reason, count): (String, u64)| {
            let more = count - known.get(&reason).copied().unwrap_or_default();
            (more > 0).then_some((reason, more))
        };
        let passed = now.passed("cali0").into_iter().filter_map(more).collect();
        let answered = now.answered("cali0") - before.answered("cali0");
        Ok(Meanwhile { asked, answered, cpu_percent, log_lines, passed, took })
    }

    fn is_within_bounds(&self, what: &str) {
        println!("{what}: {self:?}");
        assert!(self.asked > 100, "{what}: too few requests to tell");
        // Each request was counted once, so that a share of them says what it seems to say.
        assert_eq!(self.answered + self.passed.values().sum::<u64>(), self.asked, "{what}: {self:?}");
        assert!(self.answered * 1000 >= self.asked * ANSWERED, "{what}: {self:?}");
        assert!(self.cpu_percent <= CPU, "{what}: {self:?}");
        assert!(self.log_lines as u64 <= self.took.as_secs() + 1, "{what}: {self:?}");
    }
}

/// The agent's CPU time so far, in ticks.
fn cpu_ticks(agent: &Agent) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    // After the name in brackets: state is field 3, utime and stime are 14 and 15 (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// A node with some pods and 20,000 more routes.
fn node(pods: u8) -> Result<Lab> {
    let lab = topology::calico(pods)?;
    let router = std::net::Ipv4Addr::from(ROUTER_IP);
    let routes = (0..20_000_u32).fold(String::new(), |mut routes, number| {
        let addr = std::net::Ipv4Addr::from(0x0b00_0000 + number);
        let _ = writeln!(routes, "route add {addr}/32 via {router} dev eth0");
        routes
    });
    lab.node().ip_each(&routes)?;
    Ok(lab)
}

fn flap_for(time: Duration) -> Result<()> {
    let flaps = [Flap::Carrier, Flap::Mtu, Flap::Gro, Flap::LinkLayerAddress];
    let lab = node(1 + flaps.len() as u8)?;
    let agent = AgentOptions::new(&["cali*"]).default_reread().start(lab.node())?;
    let mut held_back = 0;
    for (number, flap) in flaps.into_iter().enumerate() {
        let pod = lab.host(&format!("p{}", number + 1));
        until_fast(&agent, pod, CALICO_GATEWAY)?;
        let mut changes = 0;
        let meanwhile = Meanwhile::during(&lab, &agent, || {
            let until = Instant::now() + time;
            while Instant::now() < until {
                changes += flap.some(pod)?;
            }
            Ok(())
        })?;
        meanwhile.is_within_bounds(&format!("{flap:?}, {} a second", changes / time.as_secs()));
        let status = agent.status()?;
        assert_eq!(status.0["resyncs"], 1, "{flap:?}: {}", status.0);
        let now = status.0["times_held_back"].as_u64().context("no times_held_back")?;
        assert!(now > held_back, "{flap:?} is not held back: {}", status.0);
        held_back = now;
    }
    // The pauses have grown, and end.
    for number in 1..=flaps.len() {
        let pod = lab.host(&format!("p{number}"));
        pod.namespace().ip("link set eth0 up")?;
        until_fast(&agent, pod, CALICO_GATEWAY).with_context(|| format!("p{number} after all"))?;
    }
    assert_eq!(agent.status()?.0["held_back"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn a_flapping_pod_slows_nobody_else() -> Result<()> {
    needs_root!();
    let _turn = turn();
    flap_for(Duration::from_secs(3))
}

#[test]
fn long_flapping_pod() -> Result<()> {
    needs_root!();
    let _turn = turn();
    flap_for(Duration::from_secs(60))
}

#[test]
fn pods_that_are_deleted_cost_no_dump() -> Result<()> {
    needs_root!();
    let _turn = turn();
    const PODS: u32 = 105;
    let lab = node(1)?;
    let agent = AgentOptions::new(&["cali*", "d*"]).default_reread().start(lab.node())?;
    let routes = || -> Result<u64> { agent.status()?.0["routes"].as_u64().context("no routes") };
    let before = routes()?;
    let pods = (0..PODS).fold(String::new(), |mut pods, number| {
        let _ = writeln!(
            pods,
            "link add d{number} type veth peer name e{number}\nlink set d{number} up\nlink set e{number} up\n\
             route add 10.60.0.{number}/32 dev d{number}"
        );
        pods
    });
    lab.node().ip_each(&pods)?;
    agent.ask(r#""sync""#)?;
    assert_eq!(routes()?, before + u64::from(PODS));
    let meanwhile = Meanwhile::during(&lab, &agent, || {
        let begin = Instant::now();
        for number in 0..PODS {
            lab.node().ip(&format!("link del d{number}"))?;
            thread::sleep(
                (begin + (number + 1) * Duration::from_secs(1) / 35).saturating_duration_since(Instant::now()),
            );
        }
        Ok(())
    })?;
    println!("{PODS} deleted: {meanwhile:?}");
    // What withdraws the lease passes so; a frame that meets a batch passes, too, and puts its sender's entry in doubt.
    let dumps = meanwhile.passed.get("lease_expired").copied().unwrap_or_default();
    assert!(dumps * 1000 <= meanwhile.asked * (1000 - ANSWERED), "{meanwhile:?}");
    agent.ask(r#""sync""#)?;
    assert_eq!(routes()?, before, "the mirror has dropped what the kernel has");
    assert_eq!(agent.status()?.0["resyncs"], 1);
    assert!(!agent.log().contains("not in sync"), "{}", agent.log());
    Ok(())
}
