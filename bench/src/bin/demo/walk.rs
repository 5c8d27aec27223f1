//! The pods' own stacks at work: `arping`, `ping`, and what their neighbour tables hold then.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use lab::topology::{CALICO_GATEWAY, FAR_HOST};
use lab::{Agent, AgentStatus, Counted, Host, Lab};

/// Runs the clients and shows the line of each that matters, with what the fast path counted meanwhile.
pub(crate) fn walk(lab: &Lab, agent: &Agent) -> Result<()> {
    let [p0, p1] = ["p0", "p1"].map(|pod| lab.host(pod));
    let [gateway, far, other] = [CALICO_GATEWAY, FAR_HOST, p1.ip()].map(Ipv4Addr::from);
    println!("\nThe pods' own stacks; on the right their ARP requests, by the fast path's counters:");
    let show = Show { agent, pods: [p0, p1] };
    // Two programs have this name, and one takes the other's place: that of iputils, and Habets'.
    let version = p0.namespace().output("arping -V")?;
    if String::from_utf8_lossy(&version.stdout).contains("iputils") {
        show.client(p0, &format!("arping -c 1 -w 2 -I eth0 {far}"), "reply from")?;
    } else {
        show.client(p0, &format!("arping -c 1 -w 2 -i eth0 {far}"), "bytes from")?;
    }
    show.client(p0, &format!("ping -c 1 -W 2 {other}"), "bytes from")?;
    show.client(p0, &format!("ping -c 1 -W 2 {far}"), "bytes from")?;
    for pod in [p0, p1] {
        let entry = pod.namespace().ip(&format!("neigh show {gateway}"))?;
        ensure!(!entry.trim().is_empty(), "{} has no neighbour entry for {gateway}", pod.name());
        println!("  {}$ ip neigh\n      {}", pod.name(), entry.trim());
    }
    Ok(())
}

struct Show<'lab> {
    agent: &'lab Agent,
    pods: [&'lab Host; 2],
}

impl Show<'_> {
    /// Runs a client in a pod, and shows the first line of its output that contains `wanted`.
    fn client(&self, pod: &Host, command: &str, wanted: &str) -> Result<()> {
        let before = self.agent.status()?;
        let output = pod.namespace().output(command)?;
        let after = self.agent.status()?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let line = stdout.lines().find(|line| line.contains(wanted));
        let line = line.with_context(|| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("{command} in {} ended with {}: {stdout}{stderr}", pod.name(), output.status)
        })?;
        let counted: Vec<String> = self.pods.iter().filter_map(|pod| describe(pod, &before, &after)).collect();
        let counted = if counted.is_empty() { "no request".to_owned() } else { counted.join("; ") };
        println!("  {:<45} {counted}\n      {line}", format!("{}$ {command}", pod.name()));
        Ok(())
    }
}

/// What a pod's stack asked between two readings of the counters, and who answered; `None` if nothing.
fn describe(pod: &Host, before: &AgentStatus, after: &AgentStatus) -> Option<String> {
    let Counted { answered, mut passed } = Counted::between(before, after, pod.node_end());
    // The pod's replies to the node.
    passed.remove("not_request");
    let passed: Vec<String> = passed.into_iter().map(|(reason, count)| format!("{count} passed ({reason})")).collect();
    let answered = (answered > 0).then(|| format!("{answered} answered"));
    let parts: Vec<String> = answered.into_iter().chain(passed).collect();
    (!parts.is_empty()).then(|| format!("{}: {}", pod.name(), parts.join(", ")))
}
