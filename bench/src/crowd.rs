//! A node with many pods: the node ends `cali0`, `cali1` …, all pod ends in one namespace beside it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::{Lab, Namespace};
use nix::net::if_::if_nametoindex;

/// The address that the node itself answers for.
pub(crate) const NODE: [u8; 4] = [10, 9, 0, 1];

/// The lab with the pods.
pub(crate) struct Crowd {
    lab: Lab,
    pods: Namespace,
}

impl Crowd {
    /// A node with `count` pods, their links up.
    pub(crate) fn new(count: u32) -> Result<Self> {
        let mut lab = Lab::new()?;
        let pods = lab.namespace("pods")?;
        let node = lab.node();
        node.ip(&format!("addr add {}/32 dev lo", Ipv4Addr::from(NODE)))?;
        // What later interfaces begin with.
        for key in ["conf.default.forwarding", "conf.default.proxy_arp"] {
            node.sysctl(&format!("net.ipv4.{key}"), 1)?;
        }
        let crowd = Crowd { lab, pods };
        crowd.add(0..count)?;
        Ok(crowd)
    }

    pub(crate) fn node(&self) -> &Namespace {
        self.lab.node()
    }

    /// Where the pod ends are.
    pub(crate) fn pods(&self) -> &Namespace {
        &self.pods
    }

    /// Pods with these numbers: links up, a route to each.
    pub(crate) fn add(&self, numbers: Range<u32>) -> Result<()> {
        let mut lines = String::new();
        for number in numbers.clone() {
            lines += &format!("{}\n", self.create(number));
            lines += &format!("link set cali{number} up\n");
        }
        for number in numbers.clone() {
            lines += &format!("route add {} dev cali{number} scope link\n", Ipv4Addr::from(address(number)));
        }
        self.node().ip_each(&lines)?;
        self.pods.ip_each(&numbers.map(|number| format!("link set p{number} up\n")).collect::<String>())
    }

    /// The `ip` command that creates the pod of that number, both ends down.
    pub(crate) fn create(&self, number: u32) -> String {
        format!("link add cali{number} type veth peer name p{number} netns {}", self.pods.name())
    }

    /// Index of a node end.
    pub(crate) fn index(&self, number: u32) -> Result<u32> {
        let name = format!("cali{number}");
        self.node().run(|| if_nametoindex(name.as_str()))?.with_context(|| format!("the node has no {name}"))
    }
}

/// The address of the pod of that number.
pub(crate) fn address(number: u32) -> [u8; 4] {
    let [_, _, c, d] = number.to_be_bytes();
    [10, 65, c, d]
}

/// A running `ip` that takes one command after the other: no command waits for a program to start.
pub(crate) struct Ip {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Ip {
    pub(crate) fn of(namespace: &Namespace) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["-n", namespace.name(), "-brief", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting ip")?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("ip has no output")?);
        Ok(Ip { child, commands, answers })
    }

    /// Gives a command, and does not wait for it.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("ip has ended")?;
        commands.write_all(format!("{command}\n").as_bytes()).with_context(|| format!("telling ip: {command}"))
    }

    /// Waits until every command so far is carried out.
    pub(crate) fn settle(&mut self) -> Result<()> {
        // A command that prints something: `lo` is always there.
        self.tell("link show lo")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("waiting for ip")?;
        ensure!(line.starts_with("lo"), "ip ended, or answered {line:?}");
        Ok(())
    }
}

impl Drop for Ip {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        self.commands = None;
        if let Err(error) = self.child.wait() {
            eprintln!("waiting for ip: {error}");
        }
    }
}
