//! The hooks: an agent that starts, ends and is killed costs nobody a frame, answers nothing once it is dead, and takes
//! nothing from others on the interface.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_links};
use lab::stream::until_fast;
use lab::topology::{self, ROUTED_TARGET, add_calico_pod};
use lab::{
    Agent, AgentOptions, Answerer, BpfFs, Lab, SideBySide, beside_busy_loops, kernel_is_since, needs_kernel,
    needs_root, stretched, under_traffic, wait_until,
};

const CLSACT: &[&str] = &["--hook", "tc", "--tc-attach", "clsact"];
const TCX: &[&str] = &["--hook", "tc", "--tc-attach", "tcx"];
const SKB: &[&str] = &["--hook", "xdp", "--xdp-mode", "skb"];
const DEFAULT: &[&str] = &["--hook", "auto"];
/// Busy loops beside traffic: without them, the time in which a device is inactive is too short to be seen.
const BUSY: usize = 3;

/// What outlives its agent when that is killed, and whether it does so because it is pinned.
const OUTLIVE: [(&[&str], bool); 3] = [(CLSACT, false), (TCX, true), (SKB, true)];

fn options(interface: &str, hook: &[&str], bpffs: Option<&BpfFs>) -> AgentOptions {
    let options = AgentOptions::new(&[interface]).args(hook);
    match bpffs {
        Some(bpffs) => options.bpffs(bpffs.path()),
        None => options,
    }
}

fn is_there(hook: &[&str]) -> bool {
    hook != TCX || kernel_is_since(6, 6)
}

fn tc(lab: &Lab, command: &str) -> Result<String> {
    lab.node().exec(&format!("tc {command}"))
}

/// The programs of any hook that receive what comes in on an interface, by their identifiers; for filters, their names.
fn programs_on(lab: &Lab, interface: &str) -> Result<Vec<String>> {
    let mut programs = Vec::new();
    if kernel_is_since(6, 6) {
        let (_, tcx) = lab.node().run(|| SchedClassifier::query_tcx(interface, TcAttachType::Ingress))??;
        programs.extend(tcx.iter().map(|program| format!("tcx {}", ProgramInfo::id(program))));
    }
    let link = lab.node().ip_json(&format!("-details link show {interface}"))?;
    programs.extend(link[0]["xdp"]["prog"]["id"].as_u64().map(|id| format!("xdp {id}")));
    let filters = tc(lab, &format!("filter show dev {interface} ingress"))?;
    programs.extend(filters.lines().filter(|line| line.contains("arp-agent:")).map(str::to_owned));
    Ok(programs)
}

/// Starts agents one after the other, of which some end by SIGTERM and some are killed, under traffic.
fn restarts(hook: &[&str], is_pinned: bool, ends: usize, kills: usize) -> Result<()> {
    let bpffs = is_pinned.then(BpfFs::mount).transpose()?;
    let lab = topology::calico(1)?;
    let start = || options("cali*", hook, bpffs.as_ref()).start(lab.node());
    // The first one of all makes the queueing discipline, where the hook needs one.
    let mut agent = start()?;
    let what = format!("{hook:?}, pinned: {is_pinned}");
    under_traffic(&lab, &what, BUSY, || {
        for round in 0..ends + kills {
            let answered = agent.status()?.answered("cali0");
            let more = || Ok(agent.status()?.answered("cali0") > answered);
            wait_until(Duration::from_secs(5), more, || {
                format!("{what}, round {round}: the fast path answers: {:?}", agent.status())
            })?;
            if round < ends {
                agent.stop()?
            } else {
                agent.kill()?
            };
            agent = start()?;
        }
        Ok(())
    })
}

fn restarts_where_it_is_there(hook: &[&str], is_pinned: bool, terms: usize, kills: usize) -> Result<()> {
    if !is_there(hook) {
        lab::skip("before Linux 6.6 there is no tcx");
        return Ok(());
    }
    restarts(hook, is_pinned, terms, kills)
}

/// For each hook half of 20 ends and 50 kills, and on demand all of them.
macro_rules! lose_nobody_a_frame {
    ($($hook:ident: $few:ident, $many:ident, $is_pinned:literal;)*) => {$(
        #[test]
        fn $few() -> Result<()> {
            needs_root!();
            let _turn = super::turn();
            restarts_where_it_is_there($hook, $is_pinned, 10, 25)
        }

        #[test]
        fn $many() -> Result<()> {
            needs_root!();
            let _turn = super::turn();
            restarts_where_it_is_there($hook, $is_pinned, 20, 50)
        }
    )*};
}

lose_nobody_a_frame! {
    CLSACT: restarts_and_kills_lose_nobody_a_frame_by_clsact, long_restarts_and_kills_by_clsact, false;
    TCX: restarts_and_kills_lose_nobody_a_frame_by_pinned_tcx, long_restarts_and_kills_by_pinned_tcx, true;
    TCX: restarts_and_kills_lose_nobody_a_frame_by_tcx, long_restarts_and_kills_by_tcx, false;
    SKB: restarts_and_kills_lose_nobody_a_frame_by_pinned_xdp, long_restarts_and_kills_by_pinned_xdp, true;
    SKB: restarts_and_kills_lose_nobody_a_frame_by_xdp, long_restarts_and_kills_by_xdp, false;
}

#[test]
fn after_a_kill_every_frame_passes() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    for (hook, is_pinned) in OUTLIVE.into_iter().filter(|&(hook, _)| is_there(hook)) {
        let bpffs = is_pinned.then(BpfFs::mount).transpose()?;
        let mut parity = SideBySide::start_with(topology::matrix, options("v0", hook, bpffs.as_ref()))?;
        assert_eq!(parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?.by, Answerer::FastPath, "{hook:?}");
        let before = programs_on(parity.fast(), "v0")?;
        assert_eq!(before.len(), 1, "{hook:?}: {before:?}");
        parity.agent().kill()?;
        parity.fast().node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
        let p0 = parity.fast().host("p0");
        let (until, mut asked) = (Instant::now() + Duration::from_millis(1200), 0);
        while Instant::now() < until {
            let replies = p0.ask(&p0.who_has(ROUTED_TARGET))?;
            ensure!(replies.is_empty(), "{hook:?}: request {asked} after the agent's death was answered");
            asked += 1;
        }
        assert!(asked > 20, "{asked}");
        assert_eq!(programs_on(parity.fast(), "v0")?, before, "{hook:?}: it is still there");
    }
    Ok(())
}

/// The program goes along with its interface, until the agent hears of that.
#[test]
fn a_node_end_that_moves_away_is_detached_from() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    for hook in [CLSACT, TCX, SKB].into_iter().filter(|&hook| is_there(hook)) {
        for round in 0..5 {
            let mut lab = topology::matrix()?;
            let elsewhere = lab.namespace("elsewhere")?;
            let agent = options("v0", hook, None).start(lab.node())?;
            until_fast(&agent, lab.host("p0"), ROUTED_TARGET)?;
            lab.node().ip(&format!("link set v0 netns {}", elsewhere.name()))?;
            elsewhere.ip("link set v0 up")?;
            let p0 = lab.host("p0");
            let mut replies = 0;
            for _ in 0..100 {
                replies += p0.ask_within(&p0.who_has(ROUTED_TARGET), Duration::from_millis(2))?.len();
            }
            // There it has no address, and that kernel is silent.
            ensure!(replies == 0, "{hook:?}, round {round}: {replies} replies where the interface has moved to");
            let is_detached = || Ok(!elsewhere.ip("-details link show v0")?.contains("prog/xdp"));
            wait_until(Duration::from_secs(5), is_detached, || {
                format!("{hook:?}: detached from; the log:\n{}", agent.log())
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_restart_swaps_the_program_of_the_pinned_link() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let _turn = super::turn();
    let bpffs = BpfFs::mount()?;
    let lab = topology::calico(1)?;
    let link = || -> Result<(u32, u32)> {
        let (_, programs) = lab.node().run(|| SchedClassifier::query_tcx("cali0", TcAttachType::Ingress))??;
        ensure!(programs.len() == 1, "{programs:?}");
        let program = programs[0].id();
        let link = loaded_links().filter_map(Result::ok).find(|link| link.program_id() == program);
        Ok((link.context("no link has that program")?.id(), program))
    };
    let mut agent = options("cali*", DEFAULT, Some(&bpffs)).start(lab.node())?;
    let first = link()?;
    agent.stop()?;
    assert_eq!(link()?, first, "the link and the stub stay");
    let mut agent = options("cali*", DEFAULT, Some(&bpffs)).start(lab.node())?;
    let second = link()?;
    assert_eq!(second.0, first.0, "the same link");
    assert_ne!(second.1, first.1, "another program");
    agent.kill()?;
    let mut agent = options("cali*", DEFAULT, Some(&bpffs)).start(lab.node())?;
    assert_eq!(link()?.0, first.0, "the same link after a kill");
    agent.stop()?;

    // What is no longer wanted goes with the next agent, whatever it serves.
    let agent = options("eth0", SKB, Some(&bpffs)).start(lab.node())?;
    let gone = || Ok(programs_on(&lab, "cali0")?.is_empty());
    wait_until(Duration::from_secs(5), gone, || format!("it is gone; the agent's log:\n{}", agent.log()))
}

/// Runs `arp-agent detach` against an agent's run directory.
fn detach(agent: &Agent, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = agent.command(&[&["detach"], arguments].concat())?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn detach_removes_all_that_is_ours_and_nothing_else() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let bpffs = BpfFs::mount()?;
    let at = bpffs.path().to_str().context("a path that is no text")?;
    for hook in [CLSACT, TCX, SKB].into_iter().filter(|&hook| is_there(hook)) {
        let lab = topology::calico(2)?;
        // A stranger's, on one of them.
        tc(&lab, "qdisc add dev cali1 clsact")?;
        let mut agent = options("cali*", hook, Some(&bpffs)).start(lab.node())?;
        let (code, said) = detach(&agent, &["--bpffs", at])?;
        assert_eq!(code, Some(1), "{hook:?}, while it runs: {said}");
        let there = programs_on(&lab, "cali0")?;
        assert!(!there.is_empty());
        agent.kill()?;

        let (code, said) = detach(&agent, &["--bpffs", at, "--dry-run"])?;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("cali0: would remove") && said.contains("cali1: would remove"), "{hook:?}: {said}");
        assert_eq!(programs_on(&lab, "cali0")?, there, "{hook:?}, after a dry run");

        let (code, said) = detach(&agent, &["--bpffs", at, "--interface", "cali1"])?;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("cali1: removed") && !said.contains("cali0"), "{hook:?}: {said}");
        assert_eq!(programs_on(&lab, "cali0")?, there, "{hook:?}, the other one");
        let (code, said) = detach(&agent, &["--bpffs", at])?;
        assert_eq!(code, Some(0), "{said}");
        for interface in ["cali0", "cali1"] {
            assert_eq!(programs_on(&lab, interface)?, Vec::<String>::new(), "{hook:?}, {interface}: {said}");
        }
        assert_eq!(tc(&lab, "qdisc show dev cali0 clsact")?, "", "{hook:?}: {said}");
        assert!(!tc(&lab, "qdisc show dev cali1 clsact")?.is_empty(), "{hook:?}: the stranger's");
        assert!(!bpffs.path().join("arp-agent").exists(), "{hook:?}: a directory is left");
        let (code, said) = detach(&agent, &["--bpffs", at])?;
        assert_eq!((code, said.trim()), (Some(0), "nothing is left of any agent"), "{hook:?}");
    }

    // After SIGTERM a queueing discipline that an agent made stays, empty, and is known as its own.
    let lab = topology::calico(1)?;
    let mut agent = options("cali*", CLSACT, None).start(lab.node())?;
    agent.stop()?;
    assert!(!tc(&lab, "qdisc show dev cali0 clsact")?.is_empty());
    let (code, said) = detach(&agent, &["--bpffs", at])?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(tc(&lab, "qdisc show dev cali0 clsact")?, "", "{said}");
    Ok(())
}

#[test]
fn the_bandwidth_plugin_gets_its_queueing_discipline() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let _turn = super::turn();
    let mut lab = topology::calico(1)?;
    let mut agent = options("cali*", DEFAULT, None).start(lab.node())?;
    beside_busy_loops(BUSY, || {
        for pod in 1..=20 {
            // As the plugin does it, when all else is done; and once more in the very moment in which the interface comes.
            add_calico_pod(&mut lab, pod)?;
            tc(&lab, &format!("qdisc add dev cali{pod} handle ffff: ingress"))?;
            lab.node().ip(&format!("link add cali-b{pod} type veth peer name b{pod}"))?;
            tc(&lab, &format!("qdisc add dev cali-b{pod} handle ffff: ingress"))?;
        }
        Ok(())
    })?;
    agent.in_sync()?;
    (0..=20).try_for_each(|pod| agent.wait_for_interface(&format!("cali{pod}"), |pod| pod["state"] == "answering"))
}

#[test]
fn a_foreign_queueing_discipline_is_never_removed() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let lab = topology::calico(1)?;
    let agent = options("cali*", CLSACT, None).start(lab.node())?;
    let scratch = tempfile::tempdir()?;
    let replacing = scratch.path().join("replacing");
    fs::write(&replacing, "qdisc del dev cali0 clsact\nqdisc add dev cali0 clsact\n")?;
    for gap in [0, 2, 20, 100, 0, 2, 20, 100] {
        // By one process: between two, a quick agent may be back first.
        tc(&lab, &format!("-batch {}", replacing.display()))?;
        thread::sleep(Duration::from_millis(gap));
        tc(&lab, "filter add dev cali0 ingress prio 7 protocol all u32 match u32 0 0 classid 1:1")
            .with_context(|| format!("after {gap} ms; the agent's log:\n{}", agent.log()))?;
        // Until the agent is back on it.
        let back = || Ok(tc(&lab, "filter show dev cali0 ingress")?.contains("arp-agent:"));
        wait_until(Duration::from_secs(5), back, || format!("the agent comes back; its log:\n{}", agent.log()))?;
    }
    Ok(())
}

#[test]
fn a_stranger_with_a_dead_agents_name_keeps_nothing() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let lab = topology::calico(1)?;
    let mut agent = options("cali*", CLSACT, None).start(lab.node())?;
    let shown = tc(&lab, "filter show dev cali0 ingress")?;
    let name = shown.split_whitespace().find(|word| word.starts_with("arp-agent:")).context("no filter of ours")?;
    let name = name.to_owned();
    agent.kill()?;
    let _held = lab.node().run(|| -> Result<UnixListener> {
        const NOBODY: libc::uid_t = 65_534;
        // SAFETY: numbers only. The call itself is of this thread alone, which ends with this closure.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, libc::uid_t::MAX, NOBODY, libc::uid_t::MAX) };
        ensure!(result == 0, "becoming nobody: {}", std::io::Error::last_os_error());
        Ok(UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?)
    })??;
    let agent = options("cali*", CLSACT, None).start(lab.node())?;
    let status = agent.status()?;
    assert_eq!(status.interface("cali0")["state"], "answering", "{}", status.0);
    let shown = tc(&lab, "filter show dev cali0 ingress")?;
    assert!(!shown.contains(&name), "{shown}");
    Ok(())
}

/// What an agent leaves while another one runs is found by that one within a minute, and removed.
#[test]
fn long_what_an_agent_leaves_later_is_swept() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let lab = topology::calico(2)?;
    let stays = options("cali0", CLSACT, None).start(lab.node())?;
    for number in 0..2 {
        let mut leaves = options("cali1", CLSACT, None).start(lab.node())?;
        leaves.kill()?;
        ensure!(!programs_on(&lab, "cali1")?.is_empty(), "round {number}: nothing is left to be swept");
        let is_swept = || Ok(programs_on(&lab, "cali1")?.is_empty());
        let minute = Duration::from_secs(65);
        wait_until(minute, is_swept, || {
            format!("round {number}: it is swept; the log of who stays:\n{}", stays.log())
        })?;
    }
    assert_eq!(stays.status()?.interface("cali0")["state"], "answering");
    Ok(())
}

/// How long the first start may take on each interface, 18 s on a thousand of them, besides what any start takes: of
/// attaching by tcx the kernel makes a grace period. A restart swaps the programs of pinned links.
const FOR_EACH: Duration = Duration::from_millis(18);
const START: Duration = Duration::from_secs(2);
const RESTART: Duration = Duration::from_secs(2);

/// Starts an agent on so many veths; meanwhile others change links, and a new pod comes.
fn first_start(veths: u32) -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let mut lab = topology::calico(1)?;
    let add: String = (0..veths).map(|n| format!("link add cali-a{n} up type veth peer name b{n}\n")).collect();
    lab.node().ip_each(&add)?;
    let node = lab.node().clone();
    let start = || options("cali*", DEFAULT, Some(&bpffs)).spawn(&node);
    let started = Instant::now();
    let agent = start()?;
    // It is still attaching when it says so.
    let attaching = || Ok(String::from_utf8_lossy(&agent.command(&["status", "--json"])?.stdout).contains("so far"));
    wait_until(Duration::from_secs(20), attaching, || format!("seen attaching; its log:\n{}", agent.log()))?;
    add_calico_pod(&mut lab, 1)?;
    let (came, mut newcomer, mut longest) = (Instant::now(), None, Duration::ZERO);
    let deadline = Instant::now() + stretched(Duration::from_secs(60));
    loop {
        let asked = Instant::now();
        node.ip("link set eth0 mtu 1400")?;
        node.ip("link set eth0 mtu 1500")?;
        longest = longest.max(asked.elapsed());
        let status = agent.status()?;
        if newcomer.is_none() && status.interface("cali1")["mode"] == "tcx" {
            newcomer = Some((came.elapsed(), status.ready()));
        }
        if status.ready() {
            break;
        }
        ensure!(Instant::now() < deadline, "not ready after a minute: {}", status.0["not_ready_because"]);
    }
    let first = started.elapsed();
    let bound = stretched(START + FOR_EACH * veths);
    ensure!(first < bound, "the first start took {first:?}, not {bound:?} at most");
    println!("{veths} veths: ready after {first:?}, newcomer {newcomer:?}, longest change of a link {longest:?}");
    let (_, was_ready) = newcomer.context("the pod that came meanwhile was not attached to")?;
    ensure!(!was_ready, "the pod that came meanwhile had to wait for all others");
    // Others wait for one grace period, or two, not for all of them.
    ensure!(longest < stretched(Duration::from_secs(1)), "somebody waited {longest:?} for the kernel's lock");

    let mut agent = agent;
    agent.stop()?;
    let again = Instant::now();
    let mut agent = start()?;
    agent.wait_until_ready()?;
    println!("restart after {:?}", again.elapsed());
    ensure!(again.elapsed() < stretched(RESTART), "a restart took {:?}", again.elapsed());
    Ok(())
}

#[test]
fn the_first_start_blocks_neither_lock_nor_new_pod() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let _turn = super::turn();
    first_start(100)
}

#[test]
fn long_first_start_on_a_thousand_veths() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let _turn = super::turn();
    first_start(1000)
}
