//! `preflight`: what it foretells is what the agent then makes of each interface, and it leaves nothing behind.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use lab::topology;
use lab::{AgentOptions, Lab, Wire, agent_binary, kernel_is_since, needs_root, wait_until};
use serde_json::Value;

use crate::foreign::{Does, Place, TcProgram, drop_arp_by_xdp};

fn preflight(lab: &Lab, wrapper: &[&str], arguments: &[&str]) -> Result<Output> {
    let binary = agent_binary()?;
    let mut words = wrapper.iter().map(Path::new).chain([binary.as_path()]);
    let mut command = Command::new(words.next().context("no program")?);
    command.args(words).args(["preflight", "--json", "--bpffs", "off", "--interface"]).args(arguments);
    lab.node().run(|| command.output())?.context("starting arp-agent preflight")
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// What matters of an interface, as both documents name it.
fn essence(document: &Value) -> Vec<String> {
    let interfaces = document["interfaces"].as_array().into_iter().flatten();
    let of = |interface: &Value| {
        ["name", "state", "hook", "mode", "reason_id"].map(|key| interface[key].as_str().unwrap_or("-")).join(" ")
    };
    interfaces.map(of).collect()
}

/// What is attached on the node.
fn attached(lab: &Lab) -> Result<String> {
    let mut all = lab.node().exec("tc qdisc show")? + &lab.node().ip("-details link show")?;
    for interface in 0..PODS {
        all += &lab.node().exec(&format!("tc filter show dev cali{interface} ingress")).unwrap_or_default();
    }
    // What links count changes by itself.
    Ok(all.lines().filter(|line| !line.contains("promiscuity")).collect::<Vec<_>>().join("\n"))
}

const PODS: u8 = 11;

#[test]
fn what_preflight_foretells_comes_true() -> Result<()> {
    needs_root!();
    let lab = topology::calico(PODS)?;
    let node = lab.node();
    node.exec("nft add table arp t")?;
    node.exec("nft add chain arp t c { type filter hook input priority 0 ; }")?;
    node.exec("nft add rule arp t c iifname cali1 drop")?;
    node.ip("link add link cali2 name mv2 type macvlan")?;
    let _tc = TcProgram::attach(node, "cali3", TcAttachType::Ingress, Does::Nothing)?;
    let _filter = TcProgram::attach_at(node, "cali4", TcAttachType::Ingress, Place::Filter(5), Does::Nothing)?;
    let _xdp = drop_arp_by_xdp(node, "cali5")?;
    let _listener = Wire::open_for_arp(node, "cali6")?;
    node.ip("link set cali7 down")?;
    node.exec("nft add table netdev t")?;
    node.exec("nft add chain netdev t c { type filter hook ingress device cali8 priority 0 ; }")?;
    let _egress = TcProgram::attach(node, "cali9", TcAttachType::Egress, Does::Nothing)?;
    lab.host("p10").namespace().exec("ethtool -K eth0 gro on")?;

    let mut hooks = vec![
        &["--hook", "auto"][..],
        &["--hook", "xdp", "--xdp-mode", "skb"],
        &["--hook", "tc", "--tc-attach", "clsact"],
    ];
    if kernel_is_since(6, 3) {
        hooks.push(&["--hook", "xdp", "--xdp-mode", "driver"]);
    }
    let mut seen = Vec::new();
    for hook in hooks {
        let before = attached(&lab)?;
        let output = preflight(&lab, &[], &[&["cali*"], hook].concat())?;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(attached(&lab)?, before, "{hook:?}: nothing is attached");
        let foretold = essence(&json(&output)?);
        assert_eq!(foretold.len(), usize::from(PODS), "{foretold:#?}");

        let mut agent = AgentOptions::new(&["cali*"]).args(hook).start(node)?;
        let is_settled = || Ok(!agent.status()?.0.to_string().contains("self_test_pending"));
        wait_until(Duration::from_secs(10), is_settled, || format!("{hook:?}: {:?}", agent.status()))?;
        agent.in_sync()?;
        let came = essence(&agent.status()?.0);
        assert_eq!(foretold, came, "{hook:?}; the agent's log:\n{}", agent.log());
        seen.extend(came);
        agent.stop()?;
    }
    // The lab has what it is meant to have.
    for reason in ["arp_netfilter", "interface_has_upper", "ingress_hook", "arp_listener", "interface_down"] {
        assert!(seen.iter().any(|line| line.ends_with(reason)), "{reason}: {seen:#?}");
    }
    for state in ["cali0 answering", "cali3 answering", "cali4 answering tc clsact", "cali5 detached"] {
        assert!(seen.iter().any(|line| line.starts_with(state)), "{state}: {seen:#?}");
    }
    Ok(())
}

#[test]
fn preflight_tells_all_some_and_not_at_all_apart() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let all = preflight(&lab, &[], &["cali*", "--hook", "tc"])?;
    assert_eq!(all.status.code(), Some(0), "{all:?}");
    let document = json(&all)?;
    assert_eq!(document["can_run"], true, "{document}");
    assert_eq!(document["patterns"]["cali*"], 2, "{document}");

    // The kernel answers these requests late, and the program passes them.
    lab.node().sysctl("net.ipv4.neigh.cali1.proxy_delay", 80)?;
    let some = preflight(&lab, &[], &["cali*", "--hook", "tc"])?;
    assert_eq!(some.status.code(), Some(3), "{some:?}");
    let document = json(&some)?;
    assert_eq!(document["interfaces"][1]["limits"][0]["reason_id"], "proxy_delay", "{document}");
    assert_eq!(document["interfaces"][0]["limits"], Value::Array(Vec::new()), "{document}");
    lab.node().sysctl("net.ipv4.neigh.cali1.proxy_delay", 0)?;

    // The kernel gives no answer for others without proxy_arp, so nothing is lost.
    lab.node().sysctl("net.ipv4.conf.cali1.proxy_arp", 0)?;
    let silent = preflight(&lab, &[], &["cali*", "--hook", "tc"])?;
    assert_eq!(silent.status.code(), Some(0), "{silent:?}");
    assert_eq!(json(&silent)?["interfaces"][1]["limits"][0]["reason_id"], "proxy_arp_off");

    let none = preflight(&lab, &[], &["veth*", "--hook", "tc"])?;
    assert_eq!(none.status.code(), Some(3), "no interface matches: {none:?}");

    let bounds = "--bounding-set=-all,+bpf,+net_admin";
    let cannot = preflight(&lab, &["setpriv", bounds], &["cali*"])?;
    assert_eq!(cannot.status.code(), Some(1), "{cannot:?}");
    let document = json(&cannot)?;
    assert_eq!(document["can_run"], false, "{document}");
    let checks = document["checks"].as_array().into_iter().flatten();
    let failed: Vec<&Value> = checks.filter(|check| check["needed"] == true && check["ok"] == false).collect();
    assert!(failed.iter().any(|check| check["found"].as_str().is_some_and(|found| found.contains("CAP_PERFMON"))));
    assert_eq!(document["interfaces"].as_array().map(Vec::len), Some(2), "what is in the way is told all the same");
    Ok(())
}
