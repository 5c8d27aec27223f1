//! The pods' own stacks at work: `arping`, `ping`, and what their neighbour tables hold then.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use tests::topology::{CALICO_GATEWAY, FAR_HOST};
use tests::{Agent, Host, Lab};

/// Runs the clients and shows the line of each that matters, with what the fast path counted meanwhile.
pub(crate) fn walk(lab: &Lab, agent: &Agent) -> Result<()> {
    let [p0, p1] = ["p0", "p1"].map(|pod| lab.host(pod));
    let [gateway, far, other] = [CALICO_GATEWAY, FAR_HOST, p1.ip()].map(Ipv4Addr::from);
    println!("\nThe pods' own stacks, and how many of their requests the fast path answered meanwhile:");
    let show = Show { agent, pods: [p0, p1] };
    show.client(p0, &format!("arping -c 1 -w 2 -I eth0 {far}"), "reply from")?;
    show.client(p0, &format!("ping -n -c 1 -W 2 {other}"), "bytes from")?;
    show.client(p0, &format!("ping -n -c 1 -W 2 {far}"), "bytes from")?;
    for pod in [p0, p1] {
        let entry = pod.namespace().ip(&format!("neigh show {gateway}"))?;
        ensure!(!entry.trim().is_empty(), "{} has no neighbour entry for {gateway}", pod.name());
        println!("  {}$ {:<32} {}", pod.name(), "ip neigh", entry.trim());
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
        let counted: Vec<String> = self
            .pods
            .iter()
            .map(|pod| (pod.name(), after.answered(pod.node_end()) - before.answered(pod.node_end())))
            .filter(|&(_, answered)| answered > 0)
            .map(|(name, answered)| format!("{name} {answered}"))
            .collect();
        let counted = if counted.is_empty() { "none asked".to_owned() } else { counted.join(", ") };
        println!("  {}$ {command:<32} {line}  [{counted}]", pod.name());
        Ok(())
    }
}
