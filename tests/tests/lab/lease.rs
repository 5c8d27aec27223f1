//! An agent that is gone, stalled or told to end: the kernel answers, and no request is lost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use lab::stream::{Stream, answered, until_fast};
use lab::topology::{self, CALICO_GATEWAY, CALICO_MAC, ROUTED_TARGET};
use lab::{
    AgentOptions, Answerer, Lab, STATUS_NOT_RUNNING, SideBySide, TestHook, needs_kernel, needs_root, reply_bytes,
    slack, stretched, wait_until,
};
use nix::sys::signal::Signal;

/// Has p0 ask for its gateway while something happens, and so long afterwards; every request must be answered once, and
/// rightly. Gives how many there were.
fn ask_around(lab: &Lab, after: Duration, happens: impl FnOnce() -> Result<()>) -> Result<u32> {
    let p0 = lab.host("p0");
    let reply = reply_bytes(CALICO_MAC, p0.mac(), p0.ip(), CALICO_GATEWAY);
    let stream = Stream::around(p0, CALICO_GATEWAY, after, happens)?;
    for (number, asked) in stream.asked.iter().enumerate() {
        ensure!(asked.frames == [reply.clone()], "request {number} got {:?}", asked.frames);
    }
    Ok(u32::try_from(stream.asked.len())?)
}

/// The interfaces of the node that hold an XDP or a tcx program, or with a clsact queueing discipline.
fn with_hook(lab: &Lab) -> Result<Vec<String>> {
    let links = lab.node().ip_json("-details link show")?;
    let links = links.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut hooked = Vec::new();
    for link in links {
        let Some(name) = link["ifname"].as_str() else { continue };
        let clsact = lab.node().output(&format!("tc qdisc show dev {name} clsact"))?;
        let tcx = lab.node().run(|| SchedClassifier::query_tcx(name, TcAttachType::Ingress))?;
        // Before 6.6 there is none to be asked for.
        let has_tcx = tcx.is_ok_and(|(_, programs)| !programs.is_empty());
        if link.get("xdp").is_some() || has_tcx || !clsact.stdout.is_empty() {
            hooked.push(name.to_owned());
        }
    }
    Ok(hooked)
}

fn under_traffic(signal: Signal) -> Result<()> {
    let lab = topology::calico(1)?;
    let asked = ask_around(&lab, Duration::from_millis(200), || Ok(()))?;
    assert!(asked > 50 / slack(), "the kernel alone answers them all: {asked}");

    let mut options = AgentOptions::new(&["cali*"]);
    if TestHook::chosen()? == TestHook::Tc {
        needs_kernel!(6, 6, "tcx");
        // While a clsact is added, the kernel loses what is sent out of the interface (`qdisc_graft`,
        // net/sched/sch_api.c), and it stays afterwards. tcx needs none.
        options = options.args(&["--hook", "tc", "--tc-attach", "tcx"]);
    }
    let mut agent = options.start(lab.node())?;
    let asked = ask_around(&lab, Duration::from_millis(1500), || {
        thread::sleep(Duration::from_millis(500));
        let status = agent.status()?;
        let answered = status.answered("cali0");
        ensure!(answered > u64::from(50 / slack()), "the fast path answers before the end: {}", status.0);
        agent.signal(signal)?;
        agent.wait().map(drop)
    })?;
    println!("{asked} requests around {signal}, each answered once");
    assert!(asked > 500 / slack(), "{asked}");
    assert_eq!(agent.command(&["status"])?.status.code(), Some(STATUS_NOT_RUNNING));
    assert_eq!(with_hook(&lab)?, Vec::<String>::new(), "after {signal}");
    Ok(())
}

#[test]
fn a_kill_under_traffic_loses_no_request() -> Result<()> {
    needs_root!();
    under_traffic(Signal::SIGKILL)
}

#[test]
fn an_end_under_traffic_loses_no_request() -> Result<()> {
    needs_root!();
    under_traffic(Signal::SIGTERM)
}

#[test]
fn after_a_kill_the_kernel_answers_for_changes() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(topology::matrix, &["v0"])?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?.by, Answerer::FastPath);
    parity.agent().kill()?;
    parity.both(|lab| lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0))?;
    for lab in [parity.alone(), parity.fast()] {
        let p0 = lab.host("p0");
        assert_eq!(p0.ask(&p0.who_has(ROUTED_TARGET))?, Vec::<Vec<u8>>::new());
    }
    Ok(())
}

#[test]
fn a_stalled_agent_loses_its_lease_and_catches_up() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(topology::matrix, &["v0"])?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?.by, Answerer::FastPath);

    parity.agent().signal(Signal::SIGSTOP)?;
    parity.both(|lab| lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0))?;
    let stopped = Instant::now();
    let lease = loop {
        let p0 = parity.fast().host("p0");
        if p0.ask(&p0.who_has(ROUTED_TARGET))?.is_empty() {
            break stopped.elapsed();
        }
        ensure!(stopped.elapsed() < stretched(Duration::from_secs(3)), "stale answers 3 s after the agent was stopped");
        thread::sleep(Duration::from_millis(5));
    };
    println!("the lease ran out {} ms after the agent was stopped", lease.as_millis());

    parity.agent().signal(Signal::SIGCONT)?;
    parity.agent().in_sync()?;
    let passed = parity.agent().status()?.passed("v0");
    assert!(passed.get("lease_expired").is_some_and(|&count| count > 0), "{passed:?}");
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(outcome.by, Answerer::nobody("proxy_arp_off"), "it has followed what changed meanwhile");
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp", 1)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?.by, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_stopped_agent_polls_all_before_it_answers() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    // Many interfaces, all of which it looks at so rarely that it would not do so by itself within this test.
    let links: String = (0..40).map(|link| format!("link add x{link} type veth peer name y{link}\n")).collect();
    lab.node().ip_each(&links)?;
    let lease = stretched(Duration::from_millis(200));
    let options = AgentOptions::new(&["v0"]).sysctl_hook().arg("--lease").arg(lease.as_millis().to_string());
    let mut agent = options.start(lab.node())?;
    let p0 = lab.host("p0");
    until_fast(&agent, p0, ROUTED_TARGET)?;
    // It looks at all for the first time, and a second after the last write of a setting.
    thread::sleep(Duration::from_millis(1_500));
    agent.signal(Signal::SIGSTOP)?;
    // By netlink, which is not notified, and no write under /proc/sys either.
    lab.node().ip("ntable change name arp_cache dev v0 proxy_delay 60000")?;
    thread::sleep(2 * lease);
    agent.signal(Signal::SIGCONT)?;
    let before = answered(&agent)?;
    agent.in_sync()?;
    // It may pass for other reasons first: other labs write settings.
    let passes = || {
        ensure!(p0.ask(&p0.who_has(ROUTED_TARGET))?.is_empty(), "an answer at once, though the kernel would delay it");
        Ok(agent.status()?.passed("v0").contains_key("proxy_delay"))
    };
    wait_until(Duration::from_secs(5), passes, || format!("it passes for the delay: {:?}", agent.status()))?;
    assert_eq!(answered(&agent)?, before);
    Ok(())
}

#[test]
fn an_agent_that_ends_leaves_nothing_behind() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
        assert_eq!(with_hook(&lab)?, ["cali0", "cali1"]);
        assert!(agent.run_dir().read_dir()?.next().is_some(), "the control socket is in the run directory");
        agent.signal(signal)?;
        assert_eq!(agent.wait()?.code(), Some(0), "after {signal}; its log:\n{}", agent.log());
        assert_eq!(with_hook(&lab)?, Vec::<String>::new(), "after {signal}");
        let left = agent.run_dir().read_dir().map(|files| files.flatten().map(|file| file.path()).collect::<Vec<_>>());
        assert_eq!(left.unwrap_or_default(), Vec::<std::path::PathBuf>::new(), "after {signal}");
    }
    Ok(())
}
