//! What `explain` says of a frame, beside what the kernel did with it.

use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use lab::{Namespace, agent_binary};
use serde_json::Value;

/// Runs `arp-agent explain` in a namespace in which no agent runs.
pub(crate) fn explain(node: &Namespace, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(agent_binary()?);
    // A directory that no agent has.
    command.arg("explain").args(arguments).args(["--run-dir", "/nonexistent"]).stdin(Stdio::null());
    node.run(|| command.output())?.with_context(|| format!("running arp-agent explain {}", arguments.join(" ")))
}

/// What it says of a request, as JSON.
pub(crate) fn explained(node: &Namespace, arguments: &[&str]) -> Result<Value> {
    let output = explain(node, &[arguments, &["--json"]].concat())?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?}: {output:?}"))
}

/// What it says of a frame that comes in on an interface; `None` if the frame is none that `explain` can be asked about.
pub(crate) fn explained_frame(node: &Namespace, interface: &str, frame: &[u8]) -> Result<Option<Value>> {
    let Some(parsed) = ArpFrame::from_bytes(frame) else { return Ok(None) };
    let usual = ArpFrame::request(parsed.arp.sha, parsed.arp.spa, parsed.arp.tpa);
    let is_usual = parsed.is_arp()
        && (parsed.arp.htype, parsed.arp.ptype, parsed.arp.hlen, parsed.arp.plen, parsed.arp.oper)
            == (usual.arp.htype, usual.arp.ptype, usual.arp.hlen, usual.arp.plen, usual.arp.oper);
    let mac = node.ip_json(&format!("link show {interface}"))?[0]["address"].as_str().unwrap_or_default().to_owned();
    let to = Lladdr::new(parsed.dst);
    if !is_usual || !to.is_group() && to.to_string() != mac {
        return Ok(None);
    }
    let target = Ipv4Addr::from(parsed.arp.tpa).to_string();
    let sender = Ipv4Addr::from(parsed.arp.spa).to_string();
    let sha = Lladdr::new(parsed.arp.sha).to_string();
    let mut arguments = vec![interface, &target, "--sender", &sender, "--sender-mac", &sha];
    if !to.is_group() {
        arguments.push("--unicast");
    }
    explained(node, &arguments).map(Some)
}

/// An error if `explain` says of a frame what the kernel did not do: `replied` times of so many.
pub(crate) fn agrees(node: &Namespace, interface: &str, frame: &[u8], replied: usize, of: usize) -> Result<()> {
    let Some(explanation) = explained_frame(node, interface, frame)? else { return Ok(()) };
    let kernel = &explanation["kernel"];
    let said = kernel["answer"].as_str().unwrap_or_default();
    let is_so = match said {
        "answers" => replied == of,
        "silent" => replied == 0,
        // What comes later is not waited for; and of few requests all may be hashed alike.
        "answers_after_delay" | "sometimes" => true,
        // Only where a program or chain of others, or what others did before, decides.
        "undecided" => {
            ["program", "chain", "link", "route"].contains(&kernel["decided_by"]["kind"].as_str().unwrap_or(""))
        }
        _ => false,
    };
    let fast = explanation["verdict"] != "reply" || said == "answers";
    ensure!(is_so, "explain says {kernel}, and the kernel replied {replied} times of {of}");
    ensure!(fast, "explain says that the fast path answers, and of the kernel {kernel}");
    Ok(())
}
