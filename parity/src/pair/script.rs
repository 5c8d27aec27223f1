//! The steps that are done to both nodes, as text: one step a line; `#` begins a comment.
//!
//! ```text
//! ip addr add 10.0.0.1/24 dev v0      on the node
//! peer link set p0 down               an `ip` command at the peers
//! sysctl net/ipv4/conf/v0/proxy_arp 1
//! nft add table arp filter
//! proxy add 10.0.0.7                  a static proxy entry for all interfaces, which `ip` cannot make; or `proxy del`
//! settle                              wait for a bridge's timers (every step waits for carriers)
//! restart                             the agent ends, and another one finds what there is
//! frame v0 ffffffffffff02…            in hexadecimal; `*N` at the end for N zero bytes
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::frames::{Frame, unhex};
use lab::packet::hex;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptStep {
    /// An `ip` command on the node.
    Ip(String),
    /// An `ip` command in the peers' namespace.
    Peer(String),
    /// A file below /proc/sys and what is written to it, on the node.
    Sysctl(String, String),
    /// An `nft` command on the node.
    Nft(String),
    /// A static proxy entry without an interface, on the node: it is added or deleted.
    AnyProxy {
        /// Whether it comes or goes.
        add: bool,
        /// For whom it answers.
        ip: Ipv4Addr,
    },
    /// Wait until a bridge forwards. (That the kernel has acted on carriers is waited for after every step.)
    Settle,
    /// The agent, if there is one, ends, and another one starts.
    Restart,
    /// A frame to the node.
    Frame(Frame),
}

impl ScriptStep {
    /// The frame, if the step is one.
    pub fn frame(&self) -> Option<&Frame> {
        match self {
            ScriptStep::Frame(frame) => Some(frame),
            _ => None,
        }
    }

    /// The command and the route, if the step changes a route with a realm.
    pub(super) fn realm(&self) -> Option<(&str, &str)> {
        match self {
            ScriptStep::Ip(command) if command.contains(" realm ") => command.strip_prefix("route ")?.split_once(' '),
            _ => None,
        }
    }
}

impl fmt::Display for ScriptStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScriptStep::Ip(command) => write!(f, "ip {command}"),
            ScriptStep::Peer(command) => write!(f, "peer {command}"),
            ScriptStep::Sysctl(path, value) => write!(f, "sysctl {path} {value}"),
            ScriptStep::Nft(command) => write!(f, "nft {command}"),
            ScriptStep::AnyProxy { add, ip } => write!(f, "proxy {} {ip}", if *add { "add" } else { "del" }),
            ScriptStep::Settle => f.write_str("settle"),
            ScriptStep::Restart => f.write_str("restart"),
            ScriptStep::Frame(Frame { port, bytes }) => {
                let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                write!(f, "frame v{port} {}", hex(&bytes[..end]))?;
                if end < bytes.len() { write!(f, "*{}", bytes.len() - end) } else { Ok(()) }
            }
        }
    }
}

impl FromStr for ScriptStep {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        Ok(match verb {
            "ip" => ScriptStep::Ip(rest.to_owned()),
            "peer" => ScriptStep::Peer(rest.to_owned()),
            "nft" => ScriptStep::Nft(rest.to_owned()),
            "proxy" => match rest.split_once(' ') {
                Some(("add", ip)) => ScriptStep::AnyProxy { add: true, ip: ip.trim().parse()? },
                Some(("del", ip)) => ScriptStep::AnyProxy { add: false, ip: ip.trim().parse()? },
                _ => bail!("a proxy entry is added or deleted: {rest:?}"),
            },
            "settle" => ScriptStep::Settle,
            "restart" => ScriptStep::Restart,
            "sysctl" => {
                let (path, value) = rest.split_once(' ').context("a sysctl without a value")?;
                ScriptStep::Sysctl(path.to_owned(), value.trim().to_owned())
            }
            "frame" => {
                let (port, bytes) = rest.split_once(' ').context("a frame without bytes")?;
                let port = port.strip_prefix('v').and_then(|number| number.parse().ok());
                ScriptStep::Frame(Frame {
                    port: port.context("a frame's port is v0, v1 …")?,
                    bytes: unhex(bytes.trim())?,
                })
            }
            _ => bail!("no such step: {verb:?}"),
        })
    }
}

/// Steps in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(pub Vec<ScriptStep>);

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl FromStr for Script {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).enumerate();
        let steps = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let steps = steps.map(|(at, line)| line.parse().with_context(|| format!("line {}: {line}", at + 1)));
        Ok(Script(steps.collect::<Result<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_being_written_and_read() {
        let text = "ip route add 10.0.0.0/8 dev v1\npeer link set p0 down\nsettle\nrestart\nnft add table arp x\n\
                    proxy add 10.0.0.7\nproxy del 10.0.0.7\nsysctl net/ipv4/conf/v0/proxy_arp 1\nframe v3 ffff0001*40\nframe v0 *3\n";
        let script: Script = text.parse().unwrap();
        assert_eq!(script.0.len(), 10);
        assert_eq!(script.0[8].frame().unwrap().bytes.len(), 44);
        assert_eq!(script.to_string(), text);
        assert!("frame v0 abc".parse::<Script>().is_err());
        assert!("proxy for 10.0.0.1".parse::<Script>().is_err());
        assert!("fly".parse::<Script>().is_err());
    }
}
