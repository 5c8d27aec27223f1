//! Writes of sysctls under a stream of requests, with the hook: no answer that the kernel would not give, from the moment
//! on at which a write takes effect. And what is left of that without the hook.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::stream::{Stream, answered, until_fast};
use lab::topology::{self, LOCAL_TARGET, ROUTED_TARGET, SAME_INTERFACE_TARGET};
use lab::{Agent, AgentOptions, Lab, Namespace, needs_root};

/// How often each setting is turned.
const TURNS: usize = 5;

/// How long a stream goes on after a write.
const AFTER: Duration = Duration::from_millis(15);

/// The matrix's node with an agent that hooks writes of sysctls; it re-reads so seldom that nothing else can help it.
fn hooked() -> Result<(Lab, Agent)> {
    let lab = topology::matrix()?;
    let options = AgentOptions::new(&["v0"]).sysctl_hook().arg("--reread-interval").arg("60000");
    let agent = options.start(lab.node())?;
    let status = agent.status()?;
    ensure!(status.0["sysctl_hook"] == "attached", "the sysctl hook: {}", status.0["sysctl_hook"]);
    Ok((lab, agent))
}

/// Turns `key` off and on; while it is off the kernel does not answer for `tpa`. Gives how many requests were answered
/// that the kernel would not have answered, and how many it would have.
fn turn(lab: &Lab, agent: &Agent, key: &str, (on, off): (i64, i64), tpa: [u8; 4]) -> Result<(usize, usize)> {
    let p0 = lab.host("p0");
    lab.node().sysctl(key, on)?;
    until_fast(agent, p0, tpa)?;
    let stream = Stream::around(p0, tpa, AFTER, || lab.node().sysctl(key, off))?;
    ensure!(stream.earlier().all(|asked| asked.replies() == 1), "before {key} = {off}: {:?}", stream.asked);
    ensure!(stream.later().count() > 0, "nothing was asked after {key} = {off}");
    let (wrong, last) = stream.answered_later();
    if wrong > 0 {
        println!("{key} = {off}: {wrong} wrong answers, the last {last:?} after the write");
    }
    lab.node().sysctl(key, on)?;
    Ok((wrong, stream.later().count()))
}

/// Turns each setting `TURNS` times, and wants no wrong answer at all.
fn no_wrong_answers(lab: &Lab, agent: &Agent, rows: &[(&str, (i64, i64), [u8; 4])]) -> Result<()> {
    for &(key, values, tpa) in rows {
        let key = format!("net.ipv4.{key}");
        let mut asked = 0;
        for _ in 0..TURNS {
            let (wrong, later) = turn(lab, agent, &key, values, tpa)?;
            assert_eq!(wrong, 0, "{key} = {} of {later} requests", values.1);
            asked += later;
        }
        println!("{key} {values:?}: {asked} requests after the write, none answered");
    }
    Ok(())
}

#[test]
fn interface_settings_are_exact_from_the_write_on() -> Result<()> {
    needs_root!();
    let (lab, agent) = hooked()?;
    no_wrong_answers(
        &lab,
        &agent,
        &[
            ("conf.v0.arp_ignore", (0, 8), LOCAL_TARGET),
            ("conf.v0.arp_ignore", (0, 1), LOCAL_TARGET),
            ("conf.v0.medium_id", (0, -1), ROUTED_TARGET),
            ("conf.v0.proxy_arp", (1, 0), ROUTED_TARGET),
            ("conf.v0.forwarding", (1, 0), ROUTED_TARGET),
            ("conf.v0.proxy_arp_pvlan", (1, 0), SAME_INTERFACE_TARGET),
        ],
    )?;
    lab.node().sysctl("net.ipv4.conf.v0.medium_id", 1)?;
    no_wrong_answers(&lab, &agent, &[("conf.u0.medium_id", (0, 1), ROUTED_TARGET)])
}

#[test]
fn settings_of_all_are_exact_from_the_write_on() -> Result<()> {
    needs_root!();
    let (lab, agent) = hooked()?;
    lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    no_wrong_answers(
        &lab,
        &agent,
        &[
            ("conf.all.proxy_arp", (1, 0), ROUTED_TARGET),
            ("conf.all.proxy_arp_pvlan", (1, 0), SAME_INTERFACE_TARGET),
            ("conf.all.arp_ignore", (0, 8), LOCAL_TARGET),
        ],
    )?;
    lab.node().sysctl("net.ipv4.conf.v0.proxy_arp", 1)?;
    // These are written on to every interface.
    no_wrong_answers(
        &lab,
        &agent,
        &[("conf.all.forwarding", (1, 0), ROUTED_TARGET), ("ip_forward", (1, 0), ROUTED_TARGET)],
    )
}

/// K148: an interface that never had an address follows `default` in what was never written for itself.
#[test]
fn k148_settings_of_default_are_exact_from_the_write_on() -> Result<()> {
    needs_root!();
    let (lab, agent) = hooked()?;
    no_wrong_answers(
        &lab,
        &agent,
        &[
            ("conf.default.proxy_arp_pvlan", (1, 0), SAME_INTERFACE_TARGET),
            ("conf.default.arp_ignore", (0, 8), LOCAL_TARGET),
            ("conf.default.medium_id", (0, -1), ROUTED_TARGET),
        ],
    )
}

#[test]
fn a_proxy_delay_is_exact_from_the_write_on() -> Result<()> {
    needs_root!();
    let (lab, agent) = hooked()?;
    let p0 = lab.host("p0");
    let key = "net.ipv4.neigh.v0.proxy_delay";
    for _ in 0..TURNS {
        until_fast(&agent, p0, ROUTED_TARGET)?;
        let mut counted = 0;
        // The kernel answers too, some time later: so it is the fast path's own counter that tells.
        let stream = Stream::around(p0, ROUTED_TARGET, AFTER, || {
            lab.node().sysctl(key, 80)?;
            // A request may have been on its way.
            thread::sleep(Duration::from_millis(2));
            counted = answered(&agent)?;
            Ok(())
        })?;
        ensure!(stream.later().count() > 0, "nothing was asked after {key} = 80");
        assert_eq!(answered(&agent)?, counted, "answered at once, though the kernel would delay it");
        lab.node().sysctl(key, 0)?;
        // What the kernel has delayed goes first.
        p0.collect(Duration::from_millis(850))?;
    }
    Ok(())
}

#[test]
fn settings_that_decide_nothing_here_cost_no_answer() -> Result<()> {
    needs_root!();
    let (lab, agent) = hooked()?;
    let p0 = lab.host("p0");
    for name in ["arp_filter", "accept_local", "route_localnet", "drop_gratuitous_arp", "rp_filter"] {
        for scope in ["v0", "all", "default"] {
            let key = format!("net.ipv4.conf.{scope}.{name}");
            let before = agent.status()?.0["settings_written"].as_u64();
            let stream = Stream::around(p0, ROUTED_TARGET, AFTER, || {
                lab.node().sysctl(&key, 1)?;
                lab.node().sysctl(&key, 0)
            })?;
            ensure!(stream.asked.iter().all(|asked| asked.replies() == 1), "{key}: {:?}", stream.asked);
            assert!(agent.status()?.0["settings_written"].as_u64() > before, "{key} is not noticed");
        }
    }
    until_fast(&agent, p0, ROUTED_TARGET)
}

#[test]
fn writes_without_effect_only_pass_frames_for_a_while() -> Result<()> {
    needs_root!();
    let (mut lab, agent) = hooked()?;
    let elsewhere = lab.namespace("elsewhere")?;
    let key = "net.ipv4.conf.v0.proxy_arp";
    let node = lab.node();
    let p0 = lab.host("p0");
    let path = "net.ipv4.conf.all.proxy_arp";
    let stream = Stream::around(p0, ROUTED_TARGET, AFTER, || {
        node.sysctl(key, 1)?;
        ensure!(node.sysctl(key, "no number").is_err(), "the kernel takes anything");
        ensure!(node.sysctl(key, "99999999999999999999").is_err(), "the kernel takes any number");
        node.sysctl(key, "0x1")?;
        elsewhere.sysctl(path, 1)?;
        elsewhere.sysctl(path, 0)
    })?;
    ensure!(
        stream.asked.iter().all(|asked| asked.replies() == 1),
        "the kernel answers all the time: {:?}",
        stream.asked
    );
    until_fast(&agent, p0, ROUTED_TARGET)?;
    let passed = agent.status()?.passed("v0");
    assert!(passed.get("setting_written").is_some_and(|&count| count > 0), "{passed:?}");
    // Hexadecimal is not understood, and waited for; what it does is followed all the same.
    let stream = Stream::around(p0, ROUTED_TARGET, AFTER, || node.sysctl(key, "0x0"))?;
    assert_eq!(stream.answered_later().0, 0);
    node.sysctl(key, 1)?;
    until_fast(&agent, p0, ROUTED_TARGET)
}

/// Opens a setting of a namespace for writing.
fn opened(namespace: &Namespace, path: &str) -> Result<File> {
    let open = || OpenOptions::new().write(true).open(format!("/proc/sys/net/ipv4/{path}"));
    namespace.run(open)?.with_context(|| format!("opening {path} in {}", namespace.name()))
}

#[test]
fn our_settings_are_exact_from_any_namespace() -> Result<()> {
    needs_root!();
    let (mut lab, agent) = hooked()?;
    let elsewhere = lab.namespace("elsewhere")?;
    let p0 = lab.host("p0");
    for (path, (on, off), tpa) in [
        ("conf/v0/proxy_arp", ("1", "0"), ROUTED_TARGET),
        ("conf/all/arp_ignore", ("0", "8"), LOCAL_TARGET),
        ("conf/default/medium_id", ("0", "-1"), ROUTED_TARGET),
        ("ip_forward", ("1", "0"), ROUTED_TARGET),
    ] {
        let file = opened(lab.node(), path)?;
        // This is what a process does that enters another namespace with the file open.
        let write = |value: &str| -> Result<()> { Ok(elsewhere.run(|| file.write_all_at(value.as_bytes(), 0))??) };
        for _ in 0..TURNS {
            write(on)?;
            until_fast(&agent, p0, tpa)?;
            let stream = Stream::around(p0, tpa, AFTER, || write(off))?;
            ensure!(stream.later().count() > 0, "nothing was asked after {path} = {off}");
            assert_eq!(stream.answered_later().0, 0, "{path} = {off}");
            write(on)?;
        }
    }
    let delay = opened(lab.node(), "neigh/v0/proxy_delay")?;
    let before = agent.status()?.0["settings_written"].as_u64();
    elsewhere.run(|| delay.write_all_at(b"0", 0))??;
    assert!(agent.status()?.0["settings_written"].as_u64() > before, "proxy_delay is not noticed");
    Ok(())
}

/// The settings of another namespace have the same names, also those of an interface that is called as ours is.
#[test]
fn settings_of_another_namespace_are_ignored() -> Result<()> {
    needs_root!();
    let (mut lab, agent) = hooked()?;
    let elsewhere = lab.namespace("elsewhere")?;
    elsewhere.ip("link add v0 type veth peer name v1")?;
    let p0 = lab.host("p0");
    let paths = [
        "conf/v0/proxy_arp",
        "conf/all/proxy_arp",
        "conf/default/arp_ignore",
        "neigh/v0/proxy_delay",
        "ip_forward",
        "conf/all/forwarding",
    ];
    let files = paths.iter().map(|path| opened(&elsewhere, path)).collect::<Result<Vec<File>>>()?;
    until_fast(&agent, p0, ROUTED_TARGET)?;
    let counted = |name: &str| -> Result<u64> { agent.status()?.0[name].as_u64().context(name.to_owned()) };
    let before = ["settings_written", "settings_written_elsewhere"].map(&counted);
    let fast = answered(&agent)?;
    let mut written = 0;
    let stream = Stream::around(p0, ROUTED_TARGET, AFTER, || {
        for value in ["1", "0", "1", "0"] {
            for (file, path) in files.iter().zip(paths) {
                // From our own namespace, by a file of the other; then in the other.
                lab.node().run(|| file.write_all_at(value.as_bytes(), 0))??;
                elsewhere.sysctl(&format!("net/ipv4/{path}"), value)?;
                written += 2;
            }
        }
        Ok(())
    })?;
    let after = ["settings_written", "settings_written_elsewhere"].map(&counted);
    let ([ours, others], [ours_before, others_before]) = (after, before);
    assert_eq!(ours?, ours_before?, "one of theirs counts as ours");
    assert!(others? >= others_before? + written, "fewer than {written} writes were seen at all");
    let fast = answered(&agent)? - fast;
    assert_eq!(fast, stream.asked.len() as u64, "the fast path answers all the time");
    Ok(())
}

#[test]
fn a_flood_of_writes_is_survived_and_followed() -> Result<()> {
    needs_root!();
    let (lab, agent) = hooked()?;
    let node = lab.node();
    let p0 = lab.host("p0");
    for round in 0..3 {
        until_fast(&agent, p0, ROUTED_TARGET)?;
        // More than the ring holds, from two writers at once.
        let flood = || {
            node.run(|| -> Result<()> {
                for number in 0..2000 {
                    std::fs::write("/proc/sys/net/ipv4/conf/v0/proxy_arp", ["1", "0"][number % 2])?;
                }
                Ok(())
            })?
        };
        let stream = Stream::around(p0, ROUTED_TARGET, AFTER, || {
            thread::scope(|scope| {
                let other = scope.spawn(flood);
                flood()?;
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        assert_eq!(stream.answered_later().0, 0, "round {round}: it is off in the end");
        node.sysctl("net.ipv4.conf.v0.proxy_arp", 1)?;
    }
    until_fast(&agent, p0, ROUTED_TARGET)
}

#[test]
fn agents_in_two_namespaces_hook_side_by_side() -> Result<()> {
    needs_root!();
    let (one, first) = hooked()?;
    let (two, second) = hooked()?;
    no_wrong_answers(&one, &first, &[("conf.v0.proxy_arp", (1, 0), ROUTED_TARGET)])?;
    no_wrong_answers(&two, &second, &[("conf.v0.proxy_arp", (1, 0), ROUTED_TARGET)])?;
    drop(first);
    no_wrong_answers(&two, &second, &[("conf.v0.arp_ignore", (0, 8), LOCAL_TARGET)])
}

#[test]
fn without_the_hook_a_write_is_followed_within_the_bound() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let agent = AgentOptions::new(&["v0"]).start(lab.node())?;
    assert_eq!(agent.status()?.0["sysctl_hook"], "off");
    let p0 = lab.host("p0");
    for _ in 0..TURNS {
        until_fast(&agent, p0, LOCAL_TARGET)?;
        let stream = Stream::around(p0, LOCAL_TARGET, Duration::from_millis(300), || {
            lab.node().sysctl("net.ipv4.conf.v0.arp_ignore", 8)
        })?;
        let (wrong, last) = stream.answered_later();
        println!("without the hook: {wrong} wrong answers, the last {last:?} after the write");
        agent.ask(r#""sync""#).context("sync")?;
        assert_eq!(p0.ask(&p0.who_has(LOCAL_TARGET))?.len(), 0, "once in sync");
        lab.node().sysctl("net.ipv4.conf.v0.arp_ignore", 0)?;
    }
    Ok(())
}
