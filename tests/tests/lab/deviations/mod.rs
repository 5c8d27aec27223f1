//! Policies that answer where the kernel would not, or not at once (docs/protection.md). The same lab without an agent says
//! what the kernel does.

mod gateway;
mod no_delay;

use anyhow::Result;
use lab::Agent;

/// How many requests of an interface a policy has answered (`answered_by_policy`), or would have (`would_answer`).
fn count(agent: &Agent, interface: &str, what: &str, policy: &str) -> Result<u64> {
    Ok(agent.status()?.interface(interface)[what][policy].as_u64().unwrap_or_default())
}

/// What `explain` prints about a request.
fn explained(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let output = agent.command(&[&["explain"], arguments].concat())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
