//! Exit codes of the commands: a contract.

use std::ffi::OsStr;
use std::fs::File;
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{
    Agent, AgentOptions, STATUS_NONE_ANSWERS, STATUS_NOT_READY, STATUS_NOT_RUNNING, agent_binary, needs_root,
    stretched, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn status_tells_ready_stalled_and_no_agent_apart() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    assert_eq!(agent.command(&["status"])?.status.code(), Some(0));

    agent.signal(Signal::SIGSTOP)?;
    let asked = Instant::now();
    let stalled = agent.command(&["status"])?;
    assert!(asked.elapsed() < stretched(Duration::from_secs(8)), "status of a stalled agent is bounded");
    assert_eq!(stalled.status.code(), Some(STATUS_NOT_READY), "{stalled:?}");
    let stalled = agent.command(&["status", "--json"])?;
    let document: Value = serde_json::from_slice(&stalled.stdout)?;
    assert_eq!((&document["running"], &document["ready"]), (&json!(true), &json!(false)), "{document}");
    assert_eq!(agent.command(&["stats"])?.status.code(), Some(STATUS_NOT_READY));
    agent.signal(Signal::SIGCONT)?;
    agent.in_sync()?;

    assert_eq!(agent.stop()?.code(), Some(0));
    for verb in ["status", "stats"] {
        let none = agent.command(&[verb, "--json"])?;
        assert_eq!(none.status.code(), Some(STATUS_NOT_RUNNING), "{none:?}");
        let document: Value = serde_json::from_slice(&none.stdout)?;
        assert_eq!(document, json!({ "version": 1, "running": false }));
    }
    let none = agent.command(&["status"])?;
    assert_eq!(none.status.code(), Some(STATUS_NOT_RUNNING), "{none:?}");
    assert!(none.stdout.is_empty(), "{none:?}");
    let stderr = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(stderr.contains(&*agent.run_dir().to_string_lossy()), "it names the run directory: {stderr}");
    Ok(())
}

#[test]
fn a_killed_agent_has_no_status_and_blocks_nobody() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut killed = AgentOptions::new(&["cali*"]).start(lab.node())?;
    killed.kill()?;
    assert_eq!(killed.command(&["status"])?.status.code(), Some(STATUS_NOT_RUNNING));
    let next = AgentOptions::new(&["cali*"]).run_dir(killed.run_dir()).start(lab.node())?;
    assert!(next.status()?.ready());
    Ok(())
}

#[test]
fn bad_usage_exits_with_2() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for arguments in [&["run"][..], &["status", "--no-such-option"], &["no-such-command"]] {
        let output = agent.command(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn status_and_log_say_that_no_interface_answers() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let first_line = |agent: &Agent| -> Result<(Option<i32>, String)> {
        let output = agent.command(&["status"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (who, what) = text.lines().next().and_then(|line| line.split_once(": ")).unwrap_or_default();
        assert!(who.starts_with("arp-agent ") && who.ends_with(&format!("pid {}", agent.pid())), "{text}");
        Ok((output.status.code(), what.to_owned()))
    };
    assert_eq!(first_line(&agent)?, (Some(0), "answering on 2 of 2 interfaces".to_owned()));
    agent.wait_for_line(&["INFO", "cali1: answering by"])?;

    lab.node().exec("nft add table arp t")?;
    lab.node().exec("nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }")?;
    agent.in_sync()?;
    let line = "answering on 0 of 2 interfaces: 2 pass (arp_netfilter)".to_owned();
    assert_eq!(first_line(&agent)?, (Some(STATUS_NONE_ANSWERS), line));
    let status = agent.status()?;
    assert_eq!(status.interface("cali0")["reason_id"], "arp_netfilter", "{}", status.0);
    for name in ["cali0: passing", "cali1: passing"] {
        agent.wait_for_line(&["INFO", name, "(arp_netfilter)"])?;
    }

    lab.node().exec("nft delete table arp t")?;
    agent.in_sync()?;
    assert_eq!(first_line(&agent)?.0, Some(0));
    let told = |log: &str, what: &str| log.lines().filter(|line| line.contains(what)).count();
    let again = || Ok(told(&agent.log(), "cali0: answering") == 2);
    wait_until(Duration::from_secs(5), again, || format!("cali0 is told to answer again: {}", agent.log()))?;
    assert_eq!(told(&agent.log(), "cali0: passing"), 1, "{}", agent.log());
    Ok(())
}

/// The run directory is a file: nothing is known of any agent, which is not the same as that none runs.
#[test]
fn a_failure_is_told_apart_from_no_agent() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let file = tempfile::NamedTempFile::new()?;
    for verb in ["status", "stats"] {
        let mut command = Command::new(agent_binary()?);
        command.args([verb, "--json", "--run-dir"]).arg(file.path());
        let output = lab.node().run(|| command.output())??;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be connected to"), "{output:?}");
    }
    Ok(())
}

#[test]
fn status_names_the_pods_address_and_how_long_it_runs() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    thread::sleep(Duration::from_secs(1));
    let routes = lab.node().ip_json("route show dev cali0")?;
    let routed = routes[0]["dst"].as_str().unwrap_or_default().to_owned();
    let status = agent.status()?;
    assert_eq!(status.interface("cali0")["hosts"], json!([routed]), "{}", status.0);
    assert!(status.0["up_seconds"].as_u64().is_some_and(|seconds| (1..60).contains(&seconds)), "{}", status.0);
    let table = agent.command(&["status"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let row = table.lines().find(|line| line.contains("cali0")).unwrap_or_default();
    assert!(row.contains(&format!("{routed} in {}", lab.host("p0").namespace().name())), "{table}");
    lab.node().ip(&format!("route del {routed} dev cali0"))?;
    agent.in_sync()?;
    assert_eq!(agent.status()?.interface("cali0")["hosts"], json!([]));
    Ok(())
}

#[test]
fn stats_watch_counts_what_comes_between_two_turns() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let p0 = lab.host("p0");
    p0.ask(&p0.who_has(CALICO_GATEWAY))?;
    agent.in_sync()?;
    let watched = thread::scope(|scope| {
        let watch = scope.spawn(|| agent.command(&["stats", "--watch", "1", "--count", "2", "--json"]));
        thread::sleep(Duration::from_millis(400));
        let asked: Result<Vec<_>> = (0..10).map(|_| p0.ask(&p0.who_has(CALICO_GATEWAY))).collect();
        asked.map(|_| watch.join().expect("a thread that does not panic"))
    })??;
    assert_eq!(watched.status.code(), Some(0), "{watched:?}");
    let text = String::from_utf8_lossy(&watched.stdout).into_owned();
    let turns: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(turns.len(), 2, "{text}");
    assert_eq!(turns[0]["answered_per_second"], Value::Null, "{text}");
    let rate = turns[1]["answered_per_second"].as_f64().unwrap_or_default();
    let counted = turns[1]["answered"].as_u64().unwrap_or_default() - turns[0]["answered"].as_u64().unwrap_or_default();
    // The pause takes at least a second.
    assert!(counted == 10 && (1.0..=10.0).contains(&rate), "{text}");
    agent.stop()?;
    let gone = agent.command(&["stats", "--watch", "--json"])?;
    assert_eq!(gone.status.code(), Some(STATUS_NOT_RUNNING), "it ends with the agent: {gone:?}");
    Ok(())
}

#[test]
fn top_shows_the_busiest_interface_first() -> Result<()> {
    needs_root!();
    let lab = topology::calico(3)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for pod in ["p0", "p1", "p2"] {
        let host = lab.host(pod);
        host.ask(&host.who_has(CALICO_GATEWAY))?;
    }
    agent.in_sync()?;
    let during = |arguments: &[&str]| -> Result<String> {
        let output = thread::scope(|scope| {
            let top = scope.spawn(|| agent.command(arguments));
            thread::sleep(Duration::from_millis(400));
            let (p0, p1) = (lab.host("p0"), lab.host("p1"));
            let asked: Result<Vec<_>> = (0..20).map(|_| p1.ask(&p1.who_has(CALICO_GATEWAY))).collect();
            let passed: Result<Vec<_>> = (0..10).map(|_| p0.ask(&p0.who_has([224, 0, 0, 1]))).collect();
            asked.and(passed).map(|_| top.join().expect("a thread that does not panic"))
        })??;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = during(&["top", "--once", "--json"])?;
    let document: Value = serde_json::from_str(&text)?;
    let interfaces = document["interfaces"].as_array().cloned().unwrap_or_default();
    assert_eq!(interfaces.len(), 3, "{text}");
    assert_eq!(interfaces[0]["interface"], "cali1", "{text}");
    let rate = |of: &Value, name: &str| of[name].as_f64().unwrap_or_default();
    let seconds = rate(&document, "seconds");
    assert!(seconds >= 1.0, "{text}");
    let answered = rate(&interfaces[0], "answered_per_second") * seconds;
    assert!((19.0..=21.0).contains(&answered), "{answered}: {text}");
    let passed = rate(&interfaces[1]["passed_per_second"], "special_target") * seconds;
    assert!((9.0..=11.0).contains(&passed), "{passed}: {text}");
    let text = during(&["top", "--once", "--sort", "passes", "-n", "1"])?;
    let rows: Vec<&str> = text.lines().filter(|line| line.contains("cali")).collect();
    assert!(rows.len() == 1 && rows[0].contains("cali0") && rows[0].contains("special_target"), "{text}");
    assert!(text.contains("… and 2 more interfaces") && text.contains("answering on 3 of 3"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal: {text:?}");

    agent.signal(Signal::SIGSTOP)?;
    assert_eq!(agent.command(&["top", "--once"])?.status.code(), Some(STATUS_NOT_READY));
    agent.signal(Signal::SIGCONT)?;
    agent.in_sync()?;
    agent.stop()?;
    let gone = agent.command(&["top", "--json"])?;
    assert_eq!(gone.status.code(), Some(STATUS_NOT_RUNNING), "{gone:?}");
    Ok(())
}

#[test]
fn a_pods_life_is_one_line_in_the_log() -> Result<()> {
    needs_root!();
    let mut lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    agent.wait_for_line(&["cali0: answering"])?;
    let before = agent.log().lines().count();
    topology::add_calico_pod(&mut lab, 1)?;
    agent.wait_for_line(&["cali1: answering"])?;
    lab.forget_host("p1");
    agent.in_sync()?;
    thread::sleep(stretched(Duration::from_millis(1500)));
    let log = agent.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    Ok(())
}

#[test]
fn many_interfaces_are_one_line_in_the_log() -> Result<()> {
    needs_root!();
    let lab = topology::calico(8)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    agent.wait_for_line(&["cali0, cali1, cali2 and 5 more interfaces: answering"])?;
    lab.node().exec("nft add table arp t")?;
    lab.node().exec("nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }")?;
    agent.wait_for_line(&["and 5 more interfaces: passing", "(arp_netfilter)"])?;
    Ok(())
}

/// What writes a result to standard output, with an agent and without.
const PRINTING: [&[&str]; 7] = [
    &["status"],
    &["status", "--json"],
    &["stats"],
    &["stats", "--json"],
    &["metrics"],
    &["explain", "cali0"],
    &["explain", "--json", "cali0", "169.254.1.1"],
];

/// As of node_exporter's textfile collector, whose disk is full.
#[test]
fn a_full_disk_is_told_by_each_command() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for arguments in PRINTING {
        let told = agent.command_into(arguments, File::create("/dev/full")?)?;
        let said = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output cannot be written") && said.contains("No space left"), "{said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
    Ok(())
}

/// As `head` goes once it has its lines.
#[test]
fn a_reader_who_has_gone_ends_each_command_in_silence() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for arguments in PRINTING.into_iter().chain([&["stats", "--watch", "1"][..], &["top", "--count", "1"]]) {
        let (reader, writer) = pipe()?;
        drop(reader);
        let begin = Instant::now();
        let told = agent.command_into(arguments, File::from(OwnedFd::from(writer)))?;
        assert!(begin.elapsed() < stretched(Duration::from_secs(5)), "{arguments:?} goes on for nobody");
        assert!(told.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&told.stderr));
        assert!(matches!(told.status.code(), Some(0 | 3)), "{arguments:?}: {told:?}");
    }
    Ok(())
}

#[test]
fn a_dry_detach_beside_an_agent_says_that_it_runs() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let dry = ["detach", "--dry-run", "--bpffs", "off"];
    let told = agent.command(&dry)?;
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    assert!(said.contains("an agent runs") && said.contains(&*agent.run_dir().to_string_lossy()), "{said}");
    assert!(!String::from_utf8_lossy(&told.stdout).contains("nothing is left"), "{told:?}");
    agent.stop()?;
    assert_eq!(agent.command(&dry)?.status.code(), Some(0));
    Ok(())
}

/// The argument itself is wrong, and that is what is told.
#[test]
fn odd_arguments_are_told_by_name_with_the_remedy() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let deep = format!("/run/{}", "a".repeat(120));
    let said = |arguments: &[&OsStr]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(agent_binary()?);
        command.args(arguments);
        let output = lab.node().run(|| command.output())??;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let cases: [(&[&OsStr], i32, &[&str]); 6] = [
        (&["trace".as_ref(), "--for".as_ref(), "-1".as_ref()], 2, &["-1", "--for"]),
        (&["trace".as_ref(), "--for".as_ref(), "1e400".as_ref()], 2, &["1e400", "--for", "time"]),
        (
            &["run".as_ref(), "--interface".as_ref(), "x".as_ref(), "--lease".as_ref(), "-1".as_ref()],
            2,
            &["-1", "--lease", "unit"],
        ),
        (&["explain".as_ref(), OsStr::from_bytes(b"cali\xff")], 2, &["\"cali\\xFF\"", "UTF-8", "cali?"]),
        (&["check-config".as_ref(), "--interface".as_ref(), "".as_ref()], 1, &["no interface", "--interface 'cali*'"]),
        (
            &[
                "run".as_ref(),
                "--interface".as_ref(),
                "x".as_ref(),
                "--bpffs".as_ref(),
                "off".as_ref(),
                "--run-dir".as_ref(),
                deep.as_ref(),
            ],
            1,
            &[&deep, "too long", "107", "--run-dir"],
        ),
    ];
    for (arguments, code, words) in cases {
        let (exit, text) = said(arguments)?;
        assert_eq!(exit, Some(code), "{arguments:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{arguments:?}: {word}: {text}"));
        assert!(!text.contains("unexpected argument"), "{text}");
    }
    assert!(!Path::new(&deep).exists(), "nothing is left");
    Ok(())
}
