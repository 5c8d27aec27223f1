//! `arp-agent events`: what the guard tells and what the mirror shows, as text, JSON and log lines, and in metrics.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arp_common::ArpFrame;
use lab::topology::{self, CALICO_GATEWAY, UPLINK_IP};
use lab::{
    Agent, AgentOptions, Alone, Host, Lab, Namespace, STATUS_NOT_READY, STATUS_NOT_RUNNING, agent_binary, needs_root,
    stretched, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What `events --json` prints.
fn events(agent: &Agent) -> Result<Vec<Value>> {
    let output = agent.command(&["events", "--json"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Waits until there are events of a kind that count so many frames together; gives them.
fn wait_for(agent: &Agent, kind: &str, count: u64) -> Result<Vec<Value>> {
    let of_kind =
        || -> Result<Vec<Value>> { Ok(events(agent)?.into_iter().filter(|event| event["kind"] == kind).collect()) };
    let counted = |events: &[Value]| events.iter().filter_map(|event| event["count"].as_u64()).sum::<u64>();
    wait_until(
        Duration::from_secs(8),
        || Ok(counted(&of_kind()?) >= count),
        || format!("{count} of {kind}: {:?}", events(agent)),
    )?;
    of_kind()
}

fn frame(sha: [u8; 6], spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    ArpFrame::request(sha, spa, tpa).to_bytes().to_vec()
}

fn send(host: &Host, frames: &[Vec<u8>]) -> Result<()> {
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    host.exchange(&frames).map(drop)
}

fn guarded(lab: &Lab, policies: &[&str]) -> Result<Agent> {
    let agent = AgentOptions::new(&["cali*"]).args(policies).args(&["--sender-grace", "0"]).start(lab.node())?;
    let is_guarded = |interface: &Value| interface["guard"].as_str().is_some_and(|guard| guard.starts_with("attached"));
    agent.wait_for_interface("cali0", is_guarded)?;
    Ok(agent)
}

fn open(pods: u8) -> Result<Lab> {
    let lab = topology::calico(pods)?;
    for pod in 0..pods {
        lab.node().sysctl(&format!("net.ipv4.conf.cali{pod}.rp_filter"), 0)?;
    }
    Ok(lab)
}

#[test]
fn what_the_guard_refuses_is_told_with_its_kind() -> Result<()> {
    needs_root!();
    let lab = open(2)?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    let mac = p0.mac().bytes();
    for (mode, is_dropped) in [("drop", true), ("count", false)] {
        let agent = guarded(&lab, &["--sender-guard", &format!("cali*={mode}")])?;
        // The node knows the other pod.
        p1.ask(&p1.who_has(CALICO_GATEWAY))?;
        let known = || Ok(lab.node().neighbour("cali1", p1.ip())?.is_some());
        wait_until(Duration::from_secs(5), known, || "the node knows p1".to_owned())?;
        thread::sleep(stretched(Duration::from_millis(200)));

        let spoofed: Vec<_> = (0..40).map(|last| frame(mac, [198, 18, 0, last], CALICO_GATEWAY)).collect();
        send(p0, &spoofed)?;
        // What only counts lets the kernel learn them, and while the agent writes that down some frames are let through.
        agent.ask(r#""sync""#)?;
        thread::sleep(stretched(Duration::from_millis(200)));
        let status = agent.status()?;
        let what = if is_dropped { "dropped" } else { "would_drop" };
        let counted = status.interface("cali0")[what]["sender_elsewhere"].as_u64().unwrap_or_default();
        assert!((32..=40).contains(&counted), "{mode}: {counted}");

        let told = wait_for(&agent, "spoofed", counted)?;
        let all: u64 = told.iter().filter_map(|event| event["count"].as_u64()).sum();
        assert_eq!(all, counted, "{mode}: events count what counters count: {told:?}");
        assert!(told.len() <= 3, "{mode}: 40 frames at once are a few events: {told:?}");
        for event in &told {
            assert_eq!(event["interface"], "cali0", "{event}");
            assert_eq!(event["dropped"], is_dropped, "{event}");
            assert_eq!(event["reason"], "sender_elsewhere", "{event}");
            assert_eq!(event["lladdr"], p0.mac().to_string(), "{event}");
            assert!(event["address"].as_str().is_some_and(|spa| spa.starts_with("198.18.0.")), "{event}");
        }
        send(p0, &[frame(mac, UPLINK_IP, CALICO_GATEWAY)])?;
        send(p0, &[frame(mac, p1.ip(), CALICO_GATEWAY)])?;
        let own = wait_for(&agent, "claims_node", 1)?;
        assert_eq!(own[0]["address"], "10.9.0.1", "{own:?}");
        let others = wait_for(&agent, "claims_neighbour", 1)?;
        assert!(others[0]["text"].as_str().is_some_and(|text| text.contains("neighbour on cali1")), "{others:?}");
        agent.wait_for_line(&["WARN", "claims_node: cali0: ", "the node's own address"])?;
        agent.wait_for_line(&["WARN", "spoofed: cali0: "])?;

        let text = String::from_utf8(agent.command(&["events"])?.stdout)?;
        assert!(text.lines().any(|line| line.contains("Z spoofed: cali0: ")), "{text}");
        let metrics = String::from_utf8(agent.command(&["metrics"])?.stdout)?;
        for line in [
            format!("arp_agent_{what}_total{{reason=\"sender_elsewhere\"}} {}\n", counted + 2),
            format!("arp_agent_events_total{{kind=\"spoofed\"}} {counted}\n"),
            "arp_agent_events_total{kind=\"claims_node\"} 1\n".to_owned(),
            "arp_agent_events_total{kind=\"flapping\"} 0\n".to_owned(),
            "arp_agent_events_lost_total 0\n".to_owned(),
        ] {
            assert!(metrics.contains(&line), "{mode}: no {line}: {metrics}");
        }
    }
    Ok(())
}

#[test]
fn limits_and_budgets_are_told_too() -> Result<()> {
    needs_root!();
    let lab = open(1)?;
    let p0 = lab.host("p0");
    lab.node().ip("route add 10.66.0.0/20 dev cali0 scope link")?;
    let agent = guarded(&lab, &["--entry-limit", "cali*=drop:5", "--budget", "cali*=drop:1/10,1/5"])?;
    let mac = p0.mac().bytes();
    send(p0, &(0..30).map(|last| frame(mac, [10, 66, 1, last], CALICO_GATEWAY)).collect::<Vec<_>>())?;
    let over = wait_for(&agent, "over_limit", 10)?;
    assert_eq!(over[0]["reason"], "entry_limit", "{over:?}");
    let mut of_no_use = ArpFrame::request(mac, p0.ip(), CALICO_GATEWAY);
    of_no_use.arp.oper = [0, 9];
    send(p0, &vec![of_no_use.to_bytes().to_vec(); 20])?;
    let over = wait_for(&agent, "over_budget", 10)?;
    assert_eq!(over[0]["reason"], "other_budget", "{over:?}");
    Ok(())
}

#[test]
fn without_policies_a_move_is_told_and_flapping_once() -> Result<()> {
    needs_root!();
    let mut lab = topology::calico(2)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let becomes = |lab: &Lab, dev: &str, mac: &str| {
        lab.node().ip(&format!("neigh replace 10.244.235.132 lladdr {mac} dev {dev} nud stale"))
    };
    becomes(&lab, "cali0", "02:00:00:00:00:01")?;
    agent.in_sync()?;
    assert_eq!(events(&agent)?, Vec::<Value>::new(), "a neighbour that comes is none");
    becomes(&lab, "cali0", "02:00:00:00:00:02")?;
    let moved = wait_for(&agent, "moved", 1)?;
    let text = "10.244.235.132 is at 02:00:00:00:00:02 now, before it was at 02:00:00:00:00:01";
    assert_eq!((&moved[0]["text"], &moved[0]["interface"]), (&text.into(), &"cali0".into()), "{moved:?}");
    agent.wait_for_line(&["INFO", "moved: cali0: ", text])?;
    // In use on two interfaces, it has not moved.
    becomes(&lab, "cali1", "02:00:00:00:00:02")?;
    agent.in_sync()?;
    assert_eq!(events(&agent)?.len(), 1);
    lab.node().ip("neigh del 10.244.235.132 dev cali1")?;
    lab.node().ip("neigh del 10.244.235.132 dev cali0")?;
    becomes(&lab, "cali1", "02:00:00:00:00:02")?;
    let moved = wait_for(&agent, "moved", 2)?;
    assert!(moved[1]["text"].as_str().is_some_and(|text| text.contains("before it was on cali0")), "{moved:?}");
    for number in 0..4 {
        becomes(&lab, "cali1", if number % 2 == 0 { "02:00:00:00:00:01" } else { "02:00:00:00:00:02" })?;
        agent.in_sync()?;
    }
    wait_for(&agent, "moved", 6)?;
    let flapping = wait_for(&agent, "flapping", 1)?;
    assert!(flapping.len() == 1 && flapping[0]["address"] == "10.244.235.132", "{flapping:?}");
    lab.forget_host("p1");
    agent.in_sync()?;
    Ok(())
}

/// `events --follow`, and its lines as they come.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(node: &Namespace, agent: &Agent) -> Result<Self> {
        let mut command = Command::new(agent_binary()?);
        command.args(["events", "--follow", "--json", "--run-dir"]).arg(agent.run_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = node.run(|| command.spawn())??;
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().context("its output")?);
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Follower { child, lines })
    }

    fn next(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(stretched(Duration::from_secs(5))).context("no event came")?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn followers_hear_what_was_and_what_comes_until_the_agent_ends() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let becomes = |last: u8| {
        let command = format!("neigh replace 10.244.235.132 lladdr 02:00:00:00:00:{last:02x} dev cali0 nud stale");
        lab.node().ip(&command).map(drop)
    };
    becomes(1)?;
    agent.in_sync()?;
    becomes(2)?;
    wait_for(&agent, "moved", 1)?;
    let mut followers = [Follower::start(lab.node(), &agent)?, Follower::start(lab.node(), &agent)?];
    for follower in &followers {
        assert_eq!(follower.next()?["number"], 1);
    }
    thread::sleep(stretched(Duration::from_millis(1200)));
    becomes(3)?;
    for follower in &followers {
        let event = follower.next()?;
        assert_eq!((&event["number"], &event["lladdr"]), (&2.into(), &"02:00:00:00:00:03".into()));
    }
    // One that goes is nobody's loss.
    followers[0].child.kill()?;
    thread::sleep(stretched(Duration::from_millis(1200)));
    becomes(4)?;
    assert_eq!(followers[1].next()?["number"], 3);
    agent.stop()?;
    assert_eq!(followers[1].child.wait()?.code(), Some(STATUS_NOT_RUNNING), "it ends with the agent");
    Ok(())
}

#[test]
fn events_without_an_agent_of_this_version_say_so() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let quiet = agent.command(&["events"])?;
    assert_eq!(quiet.status.code(), Some(0));
    assert!(
        quiet.stdout.is_empty() && String::from_utf8_lossy(&quiet.stderr).contains("nothing has happened"),
        "{quiet:?}"
    );
    agent.signal(Signal::SIGSTOP)?;
    assert_eq!(agent.command(&["events"])?.status.code(), Some(STATUS_NOT_READY));
    agent.signal(Signal::SIGCONT)?;
    agent.in_sync()?;
    agent.stop()?;
    for arguments in [&["events"][..], &["events", "--follow"], &["events", "--json"]] {
        let none = agent.command(arguments)?;
        assert_eq!(none.status.code(), Some(STATUS_NOT_RUNNING), "{none:?}");
    }
    // What an agent answers to a request that it does not know.
    let older = tempfile::tempdir()?;
    let listener = std::os::unix::net::UnixListener::bind(older.path().join("control.sock"))?;
    let answering = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let error = "{\"error\":\"not a request of this version: unknown variant `events`\"}\n";
        Ok(std::io::Write::write_all(&mut stream, error.as_bytes())?)
    });
    let output = Command::new(agent_binary()?).args(["events", "--run-dir"]).arg(older.path()).output()?;
    answering.join().expect("a thread that does not panic")?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("older version") && said.contains("restart it"), "{said}");
    Ok(())
}

#[test]
fn a_table_that_fills_is_told_with_who_fills_it() -> Result<()> {
    needs_root!();
    let _alone = Alone::wait()?;
    let limit: u32 = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3")?.trim().parse()?;
    ensure!(limit <= 60_000, "the kernel keeps {limit} neighbour entries: too many to fill the table with");
    let (lab, other) = (topology::calico(1)?, Lab::new()?);
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    other.node().ip_each("link add w0 type veth peer name w1\n link set w0 up\n link set w1 up")?;
    let fill = |node: &Namespace, dev: &str, numbers: std::ops::Range<u32>| {
        let entry = |number: u32| {
            let [_, _, high, low] = number.to_be_bytes();
            format!("neigh replace 10.200.{high}.{low} lladdr 02:00:00:00:{high:02x}:{low:02x} dev {dev} nud stale\n")
        };
        node.ip_each(&numbers.map(entry).collect::<String>())
    };
    // Under the half; with those of this node's above it.
    fill(other.node(), "w0", 0..limit * 2 / 5)?;
    assert_eq!(events(&agent)?, Vec::<Value>::new());
    fill(lab.node(), "cali0", 0..limit / 5)?;
    let half = wait_for(&agent, "table_pressure", 1)?;
    let text = half[0]["text"].as_str().unwrap_or_default();
    assert!(text.contains("half full") && text.contains(&format!("of at most {limit}")), "{text}");
    assert!(text.contains(" on cali0") && text.contains("in other network namespaces"), "{text}");
    let metrics = String::from_utf8(agent.command(&["metrics"])?.stdout)?;
    assert!(metrics.contains(&format!("arp_agent_neighbour_table_limit {limit}\n")), "{metrics}");
    Ok(())
}
