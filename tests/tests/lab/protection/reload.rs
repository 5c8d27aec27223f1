//! Policies that change while the agent runs (`arp-agent reload`): what changes, what stays, and what is refused.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use arp_common::ArpFrame;
use aya::programs::{SchedClassifier, TcAttachType};
use lab::topology::{self, CALICO_GATEWAY, NODE_MAC};
use lab::{Agent, AgentOptions, Lab, needs_kernel, needs_root, wait_until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{await_guard, count, entries, request, send};

const LONG: Duration = Duration::from_secs(5);

/// An agent that has its policies from a file.
struct ByFile {
    agent: Agent,
    path: PathBuf,
    interface: &'static str,
    _dir: TempDir,
}

impl ByFile {
    fn start(lab: &Lab, interface: &'static str, policies: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("arp-agent.toml");
        fs::write(&path, text(interface, policies))?;
        let agent = AgentOptions::new(&[]).arg("--config").arg(&path).start(lab.node())?;
        await_guard(&agent)?;
        Ok(ByFile { agent, path, interface, _dir: dir })
    }

    /// Has the agent take over other policies.
    fn reload(&self, policies: &str) -> Result<()> {
        fs::write(&self.path, text(self.interface, policies))?;
        let reloaded = self.agent.command(&["reload"])?;
        ensure!(reloaded.status.code() == Some(0), "{policies}: {reloaded:?}");
        await_guard(&self.agent)
    }

    /// What the agent says against these policies.
    fn refusal(&self, policies: &str) -> Result<String> {
        fs::write(&self.path, text(self.interface, policies))?;
        let refused = self.agent.command(&["reload"])?;
        ensure!(refused.status.code() == Some(1), "{policies}: {refused:?}");
        Ok(String::from_utf8_lossy(&refused.stderr).trim_end().to_owned())
    }

    /// The policies of an interface, as `status` shows them.
    fn policies(&self, interface: &str) -> Result<serde_json::Value> {
        Ok(self.agent.status()?.interface(interface)["policies"].clone())
    }
}

fn text(interface: &str, policies: &str) -> String {
    format!("interface = \"{interface}\"\nsender-grace = 0\n{policies}")
}

/// A pod on a node without source validation.
fn open() -> Result<Lab> {
    let lab = topology::calico(1)?;
    lab.node().sysctl("net.ipv4.conf.cali0.rp_filter", 0)?;
    Ok(lab)
}

/// The numbers of an interface's tcx programs, in the order in which they run.
fn programs(lab: &Lab) -> Result<Vec<u32>> {
    let (_, programs) = lab.node().run(|| SchedClassifier::query_tcx("cali0", TcAttachType::Ingress))??;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}

#[test]
fn from_count_to_drop_with_another_allow_list() -> Result<()> {
    needs_root!();
    let lab = open()?;
    let by_file = ByFile::start(&lab, "cali*", "sender-guard = \"cali*=count\"\n")?;
    let (agent, p0) = (&by_file.agent, lab.host("p0"));
    let counted = |what| count(agent, "cali0", what, "sender_elsewhere");
    let is_answered = |spa: [u8; 4]| Ok::<_, anyhow::Error>(!p0.ask(&request(p0, spa, CALICO_GATEWAY))?.is_empty());
    assert!(is_answered([198, 18, 0, 1])?);
    assert_eq!((counted("would_drop")?, counted("dropped")?), (1, 0));

    by_file.reload("sender-guard = \"cali*=drop\"\n")?;
    assert!(!is_answered([198, 18, 0, 2])?);
    assert_eq!((counted("would_drop")?, counted("dropped")?), (1, 1), "what was counted stays");

    let [one, other] = [[198, 18, 0, 3], [198, 19, 0, 3]];
    for (list, allowed, refused) in [
        ("\"cali*=198.18.0.0/16\"", vec![one], vec![other]),
        ("\"cali*=198.19.0.0/16\"", vec![other], vec![one]),
        ("[\"cali*=198.19.0.0/16\", \"cali0=198.18.0.0/24\"]", vec![one, other], vec![]),
        ("[]", vec![], vec![one, other]),
    ] {
        by_file.reload(&format!("sender-guard = \"cali*=drop\"\nsender-allow = {list}\n"))?;
        // A sender that the kernel knows is free in any case.
        lab.node().ip("neigh flush dev cali0 nud all")?;
        agent.ask("\"sync\"")?;
        assert!(allowed.iter().all(|&spa| is_answered(spa).unwrap_or_default()), "{list}");
        assert!(refused.iter().all(|&spa| !is_answered(spa).unwrap_or(true)), "{list}");
    }
    Ok(())
}

#[test]
fn a_bucket_stays_as_it_is_until_its_numbers_change() -> Result<()> {
    needs_root!();
    let lab = open()?;
    // One frame a second comes back.
    let by_file = ByFile::start(&lab, "cali*", "budget = \"cali*=drop:1/20,1/20\"\n")?;
    let p0 = lab.host("p0");
    let dropped = || count(&by_file.agent, "cali0", "dropped", "learn_budget");
    // Of its own address, so that no entry is made: each of them is charged.
    let announce = |number: usize| send(p0, &vec![request(p0, p0.ip(), p0.ip()); number]);
    announce(30)?;
    let before = dropped()?;
    assert!((8..=10).contains(&before), "{before}");

    by_file.reload("budget = \"cali*=drop:1/20,1/20\"\nsender-guard = \"cali*=drop\"\n")?;
    assert_eq!(by_file.policies("cali0")?, serde_json::json!(["sender-guard: drop", "budget: drop"]));
    announce(30)?;
    let used_up = dropped()? - before;
    assert!((24..=30).contains(&used_up), "{used_up} of 30: the bucket is as empty as before");

    by_file.reload("budget = \"cali*=drop:1/40,1/20\"\n")?;
    let before = dropped()?;
    announce(30)?;
    assert_eq!(dropped()?, before, "another budget begins whole");
    Ok(())
}

#[test]
fn a_limit_counts_the_entries_that_were_there_before_it() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    lab.node().ip("route add 10.66.0.0/20 dev cali0 scope link")?;
    let by_file = ByFile::start(&lab, "cali*", "sender-guard = \"cali*=drop\"\n")?;
    let p0 = lab.host("p0");
    let senders: Vec<_> = (0..30).map(|number| request(p0, [10, 66, 1, number], CALICO_GATEWAY)).collect();
    send(p0, &senders)?;
    assert_eq!(entries(&lab, "cali0")?, 30);
    let guard = "sender-guard = \"cali*=drop\"\n";
    let mut last = 0;
    let mut is_answered = || {
        last += 1;
        Ok::<_, anyhow::Error>(!p0.ask(&request(p0, [10, 66, 2, last], CALICO_GATEWAY))?.is_empty())
    };
    by_file.reload(&format!("{guard}entry-limit = \"cali*=drop:20\"\n"))?;
    by_file.agent.ask("\"sync\"")?;
    assert!(!is_answered()?, "there are more than twenty");
    by_file.reload(&format!("{guard}entry-limit = \"cali*=drop:40\"\n"))?;
    assert!(is_answered()?, "there is room for ten");
    // Off for a while, in which more senders come than the limit has room for.
    by_file.reload(guard)?;
    let more: Vec<_> = (0..30).map(|number| request(p0, [10, 66, 3, number], CALICO_GATEWAY)).collect();
    send(p0, &more)?;
    lab.node().ip("neigh flush dev cali0 nud all")?;
    by_file.agent.ask("\"sync\"")?;
    by_file.reload(&format!("{guard}entry-limit = \"cali*=drop:20\"\n"))?;
    assert!(is_answered()?, "senders of that time hold no place");
    assert_eq!(count(&by_file.agent, "cali0", "dropped", "entry_limit")?, 1);
    Ok(())
}

#[test]
fn the_binding_holds_from_one_reload_to_the_next() -> Result<()> {
    needs_root!();
    const NODE: [u8; 4] = [192, 168, 0, 1];
    const C2: [u8; 4] = [192, 168, 0, 2];
    let lab = topology::private_vlan()?;
    lab.node().sysctl("net.ipv4.neigh.wifi0.locktime", 0)?;
    let by_file = ByFile::start(&lab, "wifi0", "binding = \"wifi0=count\"\n")?;
    let (c2, c3) = (lab.host("c2"), lab.host("c3"));
    ensure!(c2.can_ping(NODE)?);
    by_file.agent.ask("\"sync\"")?;
    let mut claim = ArpFrame::request(c3.mac().bytes(), C2, NODE);
    claim.dst = NODE_MAC.bytes();
    let is_taken = || {
        send(c3, &[claim.to_bytes().to_vec()])?;
        let entry = lab.node().neighbour("wifi0", C2)?;
        Ok::<_, anyhow::Error>(entry.and_then(|entry| entry.lladdr) == Some(c3.mac()))
    };
    by_file.reload("binding = \"wifi0=drop:fixed\"\n")?;
    assert!(!is_taken()?, "the owner is known from before");
    // The allow list is the binding's, too, where it is the only policy.
    by_file.reload("binding = \"wifi0=drop:fixed\"\nsender-allow = \"wifi0=192.168.0.2\"\n")?;
    assert!(is_taken()?, "an address on the list may move");
    assert_eq!(count(&by_file.agent, "wifi0", "dropped", "other_owner")?, 1);
    Ok(())
}

#[test]
fn a_guard_stays_attached_goes_and_comes_again() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let lab = open()?;
    let by_file = ByFile::start(&lab, "cali*", "sender-guard = \"cali*=count\"\n")?;
    let before = programs(&lab)?;
    assert_eq!(before.len(), 2);
    by_file.reload("sender-guard = \"cali*=drop\"\nbinding = \"cali0=count\"\n")?;
    assert_eq!(programs(&lab)?, before);
    assert_eq!(by_file.policies("cali0")?, serde_json::json!(["sender-guard: drop", "binding: count"]));

    by_file.reload("")?;
    let is_alone = || Ok(programs(&lab)? == before[1..]);
    wait_until(LONG, is_alone, || format!("without a policy there is no guard: {:?}", programs(&lab)))?;
    assert!(by_file.agent.status()?.interface("cali0")["guard"].is_null());
    let p0 = lab.host("p0");
    assert!(!p0.ask(&request(p0, [198, 18, 0, 1], CALICO_GATEWAY))?.is_empty(), "everybody is let up");

    by_file.reload("sender-guard = \"cali*=drop\"\n")?;
    let is_first = || Ok(programs(&lab)? == before);
    wait_until(LONG, is_first, || format!("the same guard is the first again: {:?}", programs(&lab)))?;
    assert!(p0.ask(&request(p0, [198, 18, 0, 2], CALICO_GATEWAY))?.is_empty());
    Ok(())
}

#[test]
fn what_cannot_be_taken_over_leaves_everything_as_it_was() -> Result<()> {
    needs_root!();
    let lab = open()?;
    let p0 = lab.host("p0");
    let by_file = ByFile::start(&lab, "cali*", "lease = 900\nsender-guard = \"cali*=count\"\n")?;
    const RESTART: &str = "restart it (systemctl restart arp-agent)";
    for (policies, named) in [
        // One that is fine stands beside each one that is not.
        ("sender-guard = \"cali*=drop\"\nunresolved-budget = \"cali*=drop\"\n", ["unresolved-budget: ", RESTART]),
        ("sender-guard = \"cali*=drop\"\ngateway = \"cali*=169.254.1.1\"\n", ["gateway: ", RESTART]),
        ("sender-guard = \"cali*=drop\"\nno-delay = \"cali*=count\"\n", ["no-delay: ", RESTART]),
        ("sender-guard = \"cali*=drop\"\nbudget = \"eth0=drop\"\n", ["budget eth0: ", "names no such interface"]),
        ("sender-guard = \"cali*=drop\"\narp-listeners = \"ignore\"\n", ["arp-listeners: ", "restart it"]),
        ("sender-guard = \"cali*=block\"\n", ["sender-guard", "none of off, count and drop"]),
    ] {
        let said = by_file.refusal(&format!("lease = 500\n{policies}"))?;
        assert!(named.iter().all(|part| said.contains(part)), "{policies}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(by_file.policies("cali0")?, serde_json::json!(["sender-guard: count"]), "{policies}");
        assert_eq!(by_file.agent.status()?.0["lease_ms"], 900, "{policies}");
        assert!(!p0.ask(&request(p0, [198, 18, 0, 1], CALICO_GATEWAY))?.is_empty(), "{policies}");
    }
    // By the signal the log has the line.
    fs::write(&by_file.path, text("cali*", "unresolved-budget = \"cali*=drop\"\n"))?;
    by_file.agent.signal(Signal::SIGHUP)?;
    by_file.agent.wait_for_line(&["ERROR", "unresolved-budget: the program of this policy is not loaded", RESTART])?;
    Ok(())
}

#[test]
fn without_any_policy_at_the_start_the_first_one_takes_a_restart() -> Result<()> {
    needs_root!();
    let lab = open()?;
    let by_file = ByFile::start(&lab, "cali*", "")?;
    let said = by_file.refusal("budget = \"cali*=drop\"\nentry-limit = \"cali*=count\"\n")?;
    assert!(said.contains("entry-limit, budget: the program of policies that drop is not loaded"), "{said}");
    assert!(said.contains("restart it"), "{said}");
    assert!(by_file.agent.status()?.interface("cali0")["guard"].is_null());
    // What is off needs nothing.
    by_file.reload("budget = \"cali*=off\"\n")
}

#[test]
fn policies_and_interfaces_change_together() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    for pod in ["cali0", "cali1"] {
        lab.node().sysctl(&format!("net.ipv4.conf.{pod}.rp_filter"), 0)?;
    }
    let by_file = ByFile::start(&lab, "cali0", "sender-guard = \"cali0=drop\"\n")?;
    fs::write(&by_file.path, text("cali*", "sender-guard = [\"cali*=drop\", \"cali0=off\"]\n"))?;
    ensure!(by_file.agent.command(&["reload"])?.status.success());
    by_file.agent.wait_for_interface("cali1", |cali1| cali1["state"] == "answering")?;
    await_guard(&by_file.agent)?;
    for (pod, is_answered) in [("p0", true), ("p1", false)] {
        let pod = lab.host(pod);
        assert_eq!(!pod.ask(&request(pod, [198, 18, 0, 1], CALICO_GATEWAY))?.is_empty(), is_answered);
    }
    Ok(())
}
