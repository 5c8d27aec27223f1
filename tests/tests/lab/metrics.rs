//! Metrics and probes of a running agent, and what is made of them: alerts and a dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY};
use lab::{Agent, AgentOptions, Namespace, fetched_program, needs_root, stretched, wait_until};
use nix::sys::signal::Signal;

const ADDRESS: &str = "127.0.0.1:9798";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(promtool: &Path, arguments: &[&str], input: Option<&str>) -> Result<Output> {
    let folder = root().join("packaging/prometheus");
    let mut command = Command::new(promtool);
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting promtool")?;
    child.stdin.take().context("promtool's input")?.write_all(input.unwrap_or_default().as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// An answer over HTTP: status and body.
fn get(node: &Namespace, path: &str) -> Result<(u16, String)> {
    let answer = exchange(node, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path}: no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| head.to_owned())?;
    Ok((status, body.to_owned()))
}

/// What comes back for these bytes until the connection is closed.
fn exchange(node: &Namespace, request: &str) -> Result<String> {
    let mut stream = connect(node)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn connect(node: &Namespace) -> Result<TcpStream> {
    let address: SocketAddr = ADDRESS.parse()?;
    let stream = node.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))??;
    stream.set_read_timeout(Some(stretched(Duration::from_secs(12))))?;
    Ok(stream)
}

/// The samples of a scrape: name with labels, and value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap_or(f64::NAN)))
        })
        .collect()
}

fn serving(lab: &lab::Lab, more: &[&str]) -> Result<Agent> {
    lab.node().ip("link set lo up")?;
    AgentOptions::new(&["cali*"]).args(&["--listen-address", ADDRESS]).args(more).start(lab.node())
}

#[test]
fn what_is_scraped_is_what_status_says() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let mut agent = serving(&lab, &[])?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    // Older figures may be served for a moment.
    thread::sleep(Duration::from_millis(150));
    let status = agent.status()?;
    let (code, text) = get(lab.node(), "/metrics")?;
    assert_eq!(code, 200);
    let scraped = samples(&text);
    assert_eq!(scraped["arp_agent_up"], 1.0);
    assert_eq!(scraped["arp_agent_ready"], 1.0);
    assert_eq!(Some(scraped["arp_agent_replies_total"]), status.0["answered"].as_f64());
    assert!(scraped["arp_agent_replies_total"] >= 10.0);
    assert_eq!(scraped["arp_agent_passes_total{reason=\"no_route\"}"], 0.0, "each reason is there from the start");
    let answering =
        scraped.iter().filter(|(name, _)| name.contains("state=\"answering\"")).map(|(_, value)| value).sum::<f64>();
    assert_eq!(answering, 2.0, "{text}");
    assert_eq!(scraped["arp_agent_pattern_interfaces{pattern=\"cali*\"}"], 2.0);
    assert!(scraped["process_resident_memory_bytes"] > 1e6);
    assert!(!text.contains("cali0"), "no time series for each pod unless they are wanted");

    let printed = agent.command(&["metrics"])?;
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let names = |text: &str| samples(text).into_keys().collect::<BTreeSet<_>>();
    let mut over_http = names(&text);
    over_http.remove("arp_agent_heartbeat_age_seconds");
    assert_eq!(names(&String::from_utf8(printed.stdout)?), over_http);
    Ok(())
}

#[test]
fn promtool_takes_the_metrics() -> Result<()> {
    needs_root!();
    let Some(promtool) = fetched_program("promtool") else { return Ok(()) };
    let lab = topology::calico(1)?;
    let mut agent = serving(&lab, &["--metrics-interfaces", "on"])?;
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    thread::sleep(Duration::from_millis(150));
    let (_, text) = get(lab.node(), "/metrics")?;
    assert!(text.contains("arp_agent_interface_replies_total{interface=\"cali0\"}"), "{text}");
    let checked = run(&promtool, &["check", "metrics"], Some(&text))?;
    assert!(checked.status.success(), "{checked:?}");
    let unclear = run(&promtool, &["check", "metrics"], Some("arp_agent_x_total 1\n"))?;
    assert!(!unclear.status.success(), "it finds what lacks help: {unclear:?}");
    Ok(())
}

#[test]
fn the_sizes_of_maps_are_what_the_kernel_has() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    // The interface's own addresses matter, and are mirrored, where they alone are answered for.
    lab.node().sysctl("net.ipv4.conf.cali0.arp_ignore", 1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    for pod in ["p0", "p1"] {
        assert_eq!(answered_of_ten(&mut agent, lab.host(pod), CALICO_GATEWAY)?, 10);
    }
    let mut sizes = || {
        agent.in_sync()?;
        let scraped = samples(&String::from_utf8(agent.command(&["metrics"])?.stdout)?);
        let of = |map: &str| {
            let most = scraped[&format!("arp_agent_map_max_entries{{map=\"{map}\"}}")];
            let entries = scraped[&format!("arp_agent_map_entries{{map=\"{map}\"}}")];
            assert!(entries < most, "{map}: {entries} of {most}");
            entries
        };
        assert_eq!(of("fib_nodes"), scraped["arp_agent_fib_nodes"]);
        Ok::<_, anyhow::Error>(["interfaces", "neighbours", "own_addresses", "proxies"].map(of))
    };
    let before = sizes()?;
    assert_eq!(before[..2], [2.0, 2.0], "two pods, each with its entry");
    lab.node().ip_each(
        "addr add 10.77.0.1/32 dev cali0
         neigh add proxy 10.77.0.2 dev cali1
         neigh flush dev cali0 nud all",
    )?;
    let after = sizes()?;
    assert_eq!(after, [2.0, 1.0, before[2] + 1.0, before[3] + 1.0]);
    lab.node().ip_each(
        "addr del 10.77.0.1/32 dev cali0
         neigh del proxy 10.77.0.2 dev cali1",
    )?;
    assert_eq!(sizes()?[2..], before[2..]);
    Ok(())
}

#[test]
fn an_interface_that_refuses_the_program_is_counted() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let failures = || {
        let scraped = samples(&String::from_utf8(agent.command(&["metrics"])?.stdout)?);
        Ok::<_, anyhow::Error>(
            ["answer", "guard"]
                .map(|program| scraped[&format!("arp_agent_attach_failures_total{{program=\"{program}\"}}")]),
        )
    };
    assert_eq!(failures()?, [0.0, 0.0]);
    // A device without Ethernet.
    lab.node().ip("tuntap add dev cali9 mode tun")?;
    agent.wait_for_interface("cali9", |cali9| cali9["state"] == "detached")?;
    assert_eq!(failures()?, [1.0, 0.0]);
    Ok(())
}

#[test]
fn no_counter_falls_when_an_interface_goes() -> Result<()> {
    needs_root!();
    let mut lab = topology::calico(2)?;
    let mut agent = serving(&lab, &[])?;
    for pod in ["p0", "p1"] {
        assert_eq!(answered_of_ten(&mut agent, lab.host(pod), CALICO_GATEWAY)?, 10);
    }
    thread::sleep(Duration::from_millis(150));
    let before = samples(&get(lab.node(), "/metrics")?.1);
    lab.forget_host("p1");
    agent.in_sync()?;
    thread::sleep(Duration::from_millis(150));
    let after = samples(&get(lab.node(), "/metrics")?.1);
    for (name, before) in before.iter().filter(|(name, _)| name.contains("_total")) {
        let after = after.get(name).with_context(|| format!("{name} is gone"))?;
        assert!(after >= before, "{name} fell from {before} to {after}");
    }
    assert!(before["arp_agent_replies_total"] >= 20.0);
    assert_eq!(after["arp_agent_pattern_interfaces{pattern=\"cali*\"}"], 1.0);
    Ok(())
}

#[test]
fn probes_tell_a_stopped_agent_from_a_live_one() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let agent = serving(&lab, &[])?;
    assert_eq!(get(lab.node(), "/livez")?, (200, "ok\n".to_owned()));
    assert_eq!(get(lab.node(), "/readyz")?, (200, "ok\n".to_owned()));
    assert_eq!(get(lab.node(), "/")?.0, 404);
    assert!(exchange(lab.node(), "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")?.contains(" 405 "));
    let head = exchange(lab.node(), "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(exchange(lab.node(), "garbage\r\n\r\n")?.contains(" 400 "));
    let long = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(!exchange(lab.node(), &long)?.contains(" 200 "));

    agent.signal(Signal::SIGSTOP)?;
    let stopped = get(lab.node(), "/livez");
    assert!(stopped.is_err(), "a stopped process answers nobody: {stopped:?}");
    agent.signal(Signal::SIGCONT)?;
    let is_ready = || Ok(get(lab.node(), "/readyz")?.0 == 200);
    wait_until(Duration::from_secs(5), is_ready, || "it is ready again".to_owned())?;
    Ok(())
}

#[test]
fn idle_connections_shut_nobody_out() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = serving(&lab, &[])?;
    let idle: Vec<TcpStream> = (0..40).map(|_| connect(lab.node())).collect::<Result<_>>()?;
    let asked = Instant::now();
    assert_eq!(get(lab.node(), "/readyz")?.0, 200);
    assert!(asked.elapsed() < stretched(Duration::from_secs(2)), "{:?}", asked.elapsed());
    drop(idle);
    // A slow one is cut off.
    let mut slow = connect(lab.node())?;
    slow.write_all(b"GET /livez HTTP/1.1\r\n")?;
    let mut rest = String::new();
    let _ = slow.read_to_string(&mut rest);
    assert!(asked.elapsed() < stretched(Duration::from_secs(11)), "it was cut off: {rest:?}");
    assert_eq!(answered_of_ten(&mut agent, lab.host("p0"), CALICO_GATEWAY)?, 10);
    Ok(())
}

#[test]
fn a_port_in_use_is_found_before_anything_is_attached() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let first = serving(&lab, &[])?;
    let second = AgentOptions::new(&["cali*"]).args(&["-v", "--listen-address", ADDRESS]);
    let mut second = second.spawn(lab.node())?;
    assert_eq!(second.wait()?.code(), Some(1), "{}", second.log());
    assert!(second.log().contains(ADDRESS) && second.log().contains("listen-address"), "{}", second.log());
    assert_eq!(second.run_dir().read_dir().map(Iterator::count).unwrap_or_default(), 0, "it leaves nothing");
    assert!(!second.log().contains("reading the kernel's state"), "{}", second.log());
    assert!(first.status()?.ready());
    Ok(())
}

#[test]
fn without_an_agent_metrics_say_so() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut agent = AgentOptions::new(&["cali*"]).start(lab.node())?;
    let stale = || Ok::<_, anyhow::Error>(String::from_utf8(agent.command(&["metrics"])?.stdout)?);
    assert!(stale()?.contains("\narp_agent_config_stale 0\n"));
    // The settings are on its command line, so it has nothing to refuse.
    assert_eq!(agent.command(&["reload"])?.status.code(), Some(0));
    agent.stop()?;
    let none = agent.command(&["metrics"])?;
    assert_eq!(none.status.code(), Some(0), "{none:?}");
    assert_eq!(samples(&String::from_utf8(none.stdout)?), [("arp_agent_up".to_owned(), 0.0)].into());
    Ok(())
}

#[test]
fn alerts_are_right_and_fire() -> Result<()> {
    let Some(promtool) = fetched_program("promtool") else { return Ok(()) };
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let done = run(&promtool, &arguments, None)?;
        assert!(
            done.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(())
}

/// The expressions of the dashboard's panels, with their panel's title.
fn dashboard() -> Result<Vec<(String, String)>> {
    let text = include_str!("../../../packaging/grafana/arp-agent.json");
    let dashboard: serde_json::Value = serde_json::from_str(text)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut expressions = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            expressions.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    ensure!(expressions.len() >= panels.len(), "a panel has no expression");
    Ok(expressions)
}

#[test]
fn the_dashboards_expressions_are_right() -> Result<()> {
    let Some(promtool) = fetched_program("promtool") else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    for (number, (title, expression)) in dashboard()?.into_iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
        let rule = serde_json::json!({"groups": [{"name": "x", "rules": [{"record": "x:y", "expr": expression}]}]});
        let file = dir.path().join(format!("{number}.yaml"));
        fs::write(&file, rule.to_string())?;
        let checked = run(&promtool, &["check", "rules", &file.to_string_lossy()], None)?;
        assert!(checked.status.success(), "{title}: {expression}: {}", String::from_utf8_lossy(&checked.stderr));
    }
    Ok(())
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() -> Result<()> {
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let known: BTreeSet<&str> = rows.collect();
    let alerts = include_str!("../../../packaging/prometheus/alerts.yaml").to_owned();
    let used: Vec<String> = dashboard()?.into_iter().map(|(_, expression)| expression).chain([alerts]).collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = used.iter().flat_map(|text| text.split(|c| !is_part(c)));
    let named: BTreeSet<&str> =
        words.filter(|word| ["arp_agent_", "process_"].iter().any(|start| word.starts_with(start))).collect();
    assert!(named.len() > 8, "{named:?}");
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "docs/metrics.md has no {unknown:?}");
    Ok(())
}
