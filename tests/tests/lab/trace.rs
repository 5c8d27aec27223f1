//! `arp-agent trace`: frames and what becomes of them, as they come, and nothing of it while nobody looks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::topology::{self, CALICO_GATEWAY, FAR_HOST, UPLINK_IP};
use lab::{
    Agent, AgentOptions, Host, Lab, Namespace, STATUS_NOT_READY, STATUS_NOT_RUNNING, agent_binary, needs_root,
    stretched, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};

/// `trace`, and its lines as they come.
struct Tracer {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: mpsc::Receiver<String>,
}

impl Tracer {
    /// Starts it, and waits until it traces.
    fn start(node: &Namespace, agent: &Agent, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(agent_binary()?);
        command.arg("trace").args(arguments).arg("--run-dir").arg(agent.run_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = node.run(|| command.spawn())??;
        let lines = passed_on(child.stdout.take().context("its output")?);
        let said = passed_on(child.stderr.take().context("what it says")?);
        let tracer = Tracer { child, lines, said };
        let first = tracer.says()?;
        ensure!(first.starts_with("tracing"), "{first}");
        Ok(tracer)
    }

    fn says(&self) -> Result<String> {
        self.said.recv_timeout(stretched(Duration::from_secs(5))).context("it says nothing")
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(stretched(Duration::from_secs(5))).context("no frame is shown")
    }

    fn next(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// The next `count` frames.
    fn many(&self, count: usize) -> Result<Vec<Value>> {
        (0..count).map(|_| self.next()).collect()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn passed_on(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let from = BufReader::new(from);
    thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

/// The BPF programs that the agent holds: of the kernel's own numbers.
fn programs(agent: &Agent) -> Result<BTreeSet<u32>> {
    let mut programs = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))? {
        // A descriptor may have gone meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
        programs.extend(ids.filter_map(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(programs)
}

fn clients(agent: &Agent) -> Result<String> {
    let metrics = String::from_utf8(agent.command(&["metrics"])?.stdout)?;
    let value = metrics.lines().find_map(|line| line.strip_prefix("arp_agent_trace_clients "));
    value.map(str::to_owned).context("no metric of clients")
}

fn wait_for_clients(agent: &Agent, count: &str) -> Result<()> {
    wait_until(
        Duration::from_secs(5),
        || Ok(clients(agent)? == count),
        || format!("{count} clients: {:?}\n{}", clients(agent), agent.log()),
    )
}

/// A node whose pods it knows.
fn start(pods: u8) -> Result<(Lab, Agent)> {
    let lab = topology::calico(pods)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for pod in 0..pods {
        let pod = lab.host(&format!("p{pod}"));
        pod.ask(&pod.who_has(CALICO_GATEWAY))?;
    }
    agent.in_sync()?;
    Ok((lab, agent))
}

fn send(host: &Host, frame: &[u8], times: usize) -> Result<()> {
    host.exchange(&vec![frame; times]).map(drop)
}

fn what(shown: &Value) -> (&Value, &Value, &Value, &Value) {
    (&shown["interface"], &shown["target"], &shown["verdict"], &shown["reason"])
}

#[test]
fn frames_are_shown_with_what_becomes_of_them() -> Result<()> {
    needs_root!();
    let (lab, mut agent) = start(2)?;
    let p0 = lab.host("p0");
    let (json, text) = (Tracer::start(lab.node(), &agent, &["--json"])?, Tracer::start(lab.node(), &agent, &[])?);
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    let shown = json.next()?;
    assert_eq!(what(&shown), (&"cali0".into(), &"169.254.1.1".into(), &"answered".into(), &Value::Null), "{shown}");
    assert_eq!((&shown["sender"], &shown["sender_lladdr"]), (&"10.244.235.132".into(), &json!(p0.mac().to_string())));
    assert_eq!(shown["answer"], "ee:ee:ee:ee:ee:ee", "{shown}");
    assert!(shown["policy"].is_null(), "{shown}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    assert!(shown["time"].as_f64().is_some_and(|time| (now - 60.0..now).contains(&time)), "{shown} at {now}");
    let frame: String = p0.who_has(CALICO_GATEWAY).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(shown["frame"], frame);
    let line = text.line()?;
    let words = format!(" cali0 who-has 169.254.1.1 tell 10.244.235.132 ({}) → answered, ee:ee:ee:ee:ee:ee", p0.mac());
    assert!(line.ends_with(&words), "{line}");

    // A probe for what is not local, and somebody whom the node does not know.
    p0.ask(&p0.probe(CALICO_GATEWAY))?;
    assert_eq!(json.next()?["reason"], "probe_not_local");
    assert!(text.line()?.contains(" who-has 169.254.1.1 tell 0.0.0.0 "), "a probe");
    lab.node().ip("neigh del 10.244.235.133 dev cali1")?;
    agent.in_sync()?;
    let p1 = lab.host("p1");
    assert_eq!(p1.ask(&p1.who_has(FAR_HOST))?.len(), 1, "the kernel answers");
    let shown = json.next()?;
    assert_eq!(
        what(&shown),
        (&"cali1".into(), &"10.20.30.40".into(), &"passed".into(), &"neighbour_unknown".into()),
        "{shown}"
    );
    assert!(shown["answer"].is_null(), "{shown}");
    assert!(text.line()?.ends_with(") → passed, neighbour_unknown"), "a pass");
    // It counts what it shows.
    assert_eq!(agent.status()?.answered("cali0"), 1);
    Ok(())
}

#[test]
fn filters_leave_out_what_does_not_fit() -> Result<()> {
    needs_root!();
    let (lab, agent) = start(2)?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    let filters: [(&[&str], [&str; 2]); 4] = [
        (&["--interface", "cali1", "eth*"], ["cali1 10.20.30.40", "cali1 169.254.1.1"]),
        (&["--sender", "10.244.235.133"], ["cali1 169.254.1.1", "cali1 10.9.0.1"]),
        (&["--target", "10.9.0.0/16"], ["cali0 10.9.0.1", "cali1 10.9.0.1"]),
        (&["--reason", "probe_not_local", "no_route"], ["cali0 10.20.30.40", "cali1 10.20.30.40"]),
    ];
    // Four is as many as there may be.
    let tracers: Vec<(Tracer, [&str; 2])> = filters
        .into_iter()
        .map(|(filter, expected)| {
            let arguments = [filter, &["--json", "--count", "2"]].concat();
            Ok((Tracer::start(lab.node(), &agent, &arguments)?, expected))
        })
        .collect::<Result<_>>()?;
    let fifth = agent.command(&["trace"])?;
    let said = String::from_utf8_lossy(&fifth.stderr).into_owned();
    assert!(fifth.status.code() == Some(1) && said.contains("4 clients trace already"), "{fifth:?}");
    for pod in [p0, p1] {
        pod.ask(&pod.probe(FAR_HOST))?;
        pod.ask(&pod.who_has(CALICO_GATEWAY))?;
        pod.ask(&pod.who_has(UPLINK_IP))?;
    }
    for (mut tracer, expected) in tracers {
        let of = |shown: &Value| format!("{} {}", shown["interface"], shown["target"]).replace('"', "");
        let shown: Vec<String> = tracer.many(2)?.iter().map(of).collect();
        assert_eq!(shown, expected);
        assert_eq!(tracer.child.wait()?.code(), Some(0), "it ends after two");
        assert!(tracer.lines.recv().is_err(), "it shows two");
        assert_eq!(tracer.says()?, "2 frames shown, 0 left out");
    }
    wait_for_clients(&agent, "0")?;
    let answered = Tracer::start(lab.node(), &agent, &["--json", "--verdict", "answered"])?;
    let passed = Tracer::start(lab.node(), &agent, &["--json", "--verdict", "passed"])?;
    p0.ask(&p0.probe(FAR_HOST))?;
    p0.ask(&p0.who_has(UPLINK_IP))?;
    assert_eq!(answered.next()?["verdict"], "answered");
    assert_eq!(passed.next()?["verdict"], "passed");
    thread::sleep(stretched(Duration::from_millis(200)));
    assert!(answered.lines.try_recv().is_err() && passed.lines.try_recv().is_err());
    // One that names nothing that is there says so.
    let none = agent.command(&["trace", "--interface", "nowhere", "--for", "0.2"])?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(said.contains("no interface that matches nowhere") && said.contains("0 frames shown"), "{said}");
    assert_eq!(none.status.code(), Some(0));
    Ok(())
}

#[test]
fn nothing_is_lost_of_many_frames_and_each_is_shown_once() -> Result<()> {
    needs_root!();
    const BATCHES: usize = 25;
    const EACH: usize = 200;
    let (lab, agent) = start(1)?;
    let p0 = lab.host("p0");
    let tracer = Tracer::start(lab.node(), &agent, &["--json"])?;
    for batch in 0..BATCHES {
        let target = [10, 20, 30, batch as u8];
        send(p0, &p0.who_has(target), EACH)?;
    }
    let shown = tracer.many(BATCHES * EACH)?;
    for (at, shown) in shown.iter().enumerate() {
        let target = format!("10.20.30.{}", at / EACH);
        assert_eq!((&shown["target"], &shown["verdict"]), (&target.into(), &"answered".into()), "frame {at}");
    }
    assert!(tracer.lines.try_recv().is_err(), "no frame more than once");
    assert!(tracer.said.try_recv().is_err(), "nothing is lost");
    assert_eq!(agent.status()?.answered("cali0"), (BATCHES * EACH) as u64);
    Ok(())
}

#[test]
fn the_programs_are_those_of_before_once_the_last_client_has_gone() -> Result<()> {
    needs_root!();
    let (lab, agent) = start(1)?;
    let p0 = lab.host("p0");
    let before = programs(&agent)?;
    ensure!(!before.is_empty(), "the agent holds no programs");
    assert_eq!(clients(&agent)?, "0");
    let (mut first, mut second) =
        (Tracer::start(lab.node(), &agent, &["--json"])?, Tracer::start(lab.node(), &agent, &["--json"])?);
    let during = programs(&agent)?;
    assert!(during.is_superset(&before) && during.len() == before.len() + 1, "{before:?} {during:?}");
    assert_eq!(clients(&agent)?, "2");
    // However a client goes.
    first.child.kill()?;
    first.child.wait()?;
    wait_for_clients(&agent, "1")?;
    assert_eq!(programs(&agent)?, during);
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    assert_eq!(second.next()?["verdict"], "answered");
    second.signal(Signal::SIGTERM)?;
    second.child.wait()?;
    wait_for_clients(&agent, "0")?;
    assert_eq!(programs(&agent)?, before);
    agent.wait_for_line(&["INFO", "the trace has ended"])?;
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    assert_eq!(agent.status()?.answered("cali0"), 2, "and it answers as before");
    let again = Tracer::start(lab.node(), &agent, &["--json"])?;
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    assert_eq!(again.next()?["verdict"], "answered");
    assert_eq!(programs(&agent)?.len(), before.len() + 1);
    Ok(())
}

#[test]
fn a_client_that_does_not_read_loses_frames_and_is_told_how_many() -> Result<()> {
    needs_root!();
    const MANY: usize = 20_000;
    let (lab, agent) = start(1)?;
    let p0 = lab.host("p0");
    let stopped = Tracer::start(lab.node(), &agent, &["--json"])?;
    stopped.signal(Signal::SIGSTOP)?;
    let request = p0.who_has(FAR_HOST);
    for _ in 0..MANY / 200 {
        assert_eq!(p0.exchange(&vec![&request[..]; 200])?.len(), 200, "pods are answered all the same");
    }
    stopped.signal(Signal::SIGCONT)?;
    // Until it has read what waits for it, there may be no room for the next.
    thread::sleep(stretched(Duration::from_secs(1)));
    p0.ask(&p0.who_has(UPLINK_IP))?;
    let mut shown = 0;
    loop {
        let frame = stopped.next()?;
        if frame["target"] == "10.9.0.1" {
            break;
        }
        shown += 1;
    }
    let said: Vec<String> = stopped.said.try_iter().collect();
    let lost = |said: &String| said.split(' ').next().and_then(|count| count.parse::<usize>().ok());
    assert!(said.iter().all(|said| said.ends_with("frames are left out: they came faster than they were read")));
    let lost: usize = said.iter().filter_map(lost).sum();
    assert!(lost > 0 && shown + lost == MANY, "{shown} are shown and {lost} left out, of {MANY}: {said:?}");
    Ok(())
}

#[test]
fn a_capture_has_requests_replies_and_verdicts() -> Result<()> {
    needs_root!();
    let (lab, agent) = start(2)?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("trace.pcapng");
    let path = file.to_str().context("a path in UTF-8")?;
    let mut tracer = Tracer::start(lab.node(), &agent, &["--pcapng", path, "--count", "2"])?;
    let replies = p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    p1.ask(&p1.probe(CALICO_GATEWAY))?;
    assert_eq!(tracer.child.wait()?.code(), Some(0));
    assert_eq!(tracer.says()?, "2 frames shown, 0 left out");
    let bytes = fs::read(&file)?;
    let mut reader = PcapNgReader::new(bytes.as_slice())?;
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block?.into_owned() {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.clone().into_owned()),
                _ => None,
            });
            packets.push((packet.interface_id, packet.data.into_owned(), comment.unwrap_or_default()));
        }
    }
    let on_and_bytes: Vec<_> = packets.iter().map(|(on, bytes, _)| (*on, bytes.clone())).collect();
    let expected =
        vec![(0, p0.who_has(CALICO_GATEWAY).to_vec()), (0, replies[0].clone()), (1, p1.probe(CALICO_GATEWAY).to_vec())];
    assert_eq!(on_and_bytes, expected, "the bytes of the wire");
    let comments = ["answered, ee:ee:ee:ee:ee:ee", "the fast path's reply", "passed, probe_not_local"];
    assert!(packets.iter().map(|(.., comment)| comment).eq(comments), "{packets:?}");
    // What tcpdump thinks of it, where there is one.
    if let Ok(read) = Command::new("tcpdump").args(["-n", "-r", path]).output() {
        let text = String::from_utf8_lossy(&read.stdout).into_owned();
        assert!(text.contains("Request who-has 169.254.1.1") && text.contains("Reply 169.254.1.1 is-at"), "{read:?}");
    }
    Ok(())
}

#[test]
fn an_answer_by_policy_names_the_policy() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let p0 = lab.host("p0");
    lab.node().ip("route del default")?;
    let arguments = ["--gateway", "cali*=answer:169.254.1.1"];
    let mut agent = AgentOptions::new(&["cali*"]).args(&arguments).start(lab.node())?;
    lab.node().ip(&format!("neigh replace 10.244.235.132 lladdr {} dev cali0 nud permanent", p0.mac()))?;
    agent.in_sync()?;
    let tracer = Tracer::start(lab.node(), &agent, &["--json"])?;
    assert_eq!(p0.ask(&p0.who_has(CALICO_GATEWAY))?.len(), 1);
    let shown = tracer.next()?;
    assert_eq!((&shown["verdict"], &shown["policy"]), (&"answered".into(), &"gateway".into()), "{shown}");
    Ok(())
}

fn refused(agent: &Agent, arguments: &[&str]) -> Result<Output> {
    agent.command(&[&["trace"], arguments].concat())
}

#[test]
fn bad_arguments_and_missing_agents_are_told_in_a_line() -> Result<()> {
    needs_root!();
    let (lab, mut agent) = start(1)?;
    let before = programs(&agent)?;
    for (arguments, code, words) in [
        (&["--sender", "pod"][..], 2, "`pod` is no IPv4 address"),
        (&["--target", "10.0.0.1/8"], 2, "write 10.0.0.0/8"),
        (&["--reason", "no_rout"], 2, "the nearest is no_route"),
        (&["--count", "0"], 2, "0 is not in 1.."),
        (&["--for", "soon"], 2, "is no number of seconds"),
        (&["--json", "--pcapng", "-"], 2, "cannot be used with"),
        (&["--verdict", "dropped"], 2, "invalid value 'dropped'"),
        (&["--interface", "cali["], 1, "--interface cali[: not a glob"),
        (&["--verdict", "answered", "--reason", "no_route"], 1, "a frame that is answered has no reason"),
        (&["--pcapng", "/nowhere/file"], 1, "--pcapng /nowhere/file: it cannot be written: No such file"),
    ] {
        let output = refused(&agent, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        if code == 1 {
            let errors = said.lines().filter(|line| !line.starts_with("tracing")).count();
            assert_eq!(errors, 1, "{said}");
        }
    }
    wait_for_clients(&agent, "0")?;
    assert_eq!(programs(&agent)?, before, "nothing is left behind");
    agent.signal(Signal::SIGSTOP)?;
    assert_eq!(refused(&agent, &[])?.status.code(), Some(STATUS_NOT_READY));
    agent.signal(Signal::SIGCONT)?;
    agent.in_sync()?;
    let mut last = Tracer::start(lab.node(), &agent, &[])?;
    agent.stop()?;
    assert_eq!(last.child.wait()?.code(), Some(STATUS_NOT_RUNNING), "it ends with the agent");
    assert_eq!(refused(&agent, &[])?.status.code(), Some(STATUS_NOT_RUNNING));
    Ok(())
}
