//! Sets up the other responders.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context as _, Result, bail, ensure};
use arp_common::Lladdr;
use bench::Subject;
use lab::packet::hex;
use lab::{Lab, Namespace, wait_until};
use tempfile::TempDir;

/// Where `cargo xtask bench` has unpacked the packages.
const FOLDER: &str = "ARP_BENCH_PEERS";
const POD_MAC: Lladdr = Lladdr::new([2, 0, 0, 0, 0x0a, 2]);
const POD: [u8; 4] = [10, 60, 0, 2];
const NODE: [u8; 4] = [10, 60, 0, 1];
/// Nobody has it.
const TARGET: [u8; 4] = [10, 60, 0, 77];
/// What replies say.
const ANSWER: Lladdr = Lladdr::new([0xee; 6]);
/// How long a daemon may take to be ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of the other responders, ready to measure.
pub(super) struct OtherResponder {
    pub(super) subject: Subject,
    /// Its name and version.
    pub(super) version: String,
    /// Whether it works on the core that the request was sent from, so that its cost can be measured from outside.
    pub(super) shares_the_core: bool,
    /// Whether it can answer many requests at once.
    pub(super) storms: bool,
    /// How many requests a round may send one at a time.
    pub(super) patience: usize,
    /// How many requests it has answered by its own counter, if it has one.
    counter: Option<Box<dyn Fn() -> Result<u64>>>,
    daemons: Vec<Daemon>,
}

type Start = fn(&mut Lab, &str, usize) -> Result<OtherResponder>;

pub(super) const ALL: [(&str, Start); 3] = [
    ("ebtables arpreply on a bridge", ebtables),
    ("Open vSwitch, userspace, ARP flow", open_vswitch),
    ("parprouted", parprouted),
];

impl OtherResponder {
    pub(super) fn answered(&self) -> Result<Option<u64>> {
        self.counter.as_ref().map(|counter| counter()).transpose()
    }

    /// The same, after waiting for counters that are updated only from time to time.
    pub(super) fn settled(&self) -> Result<Option<u64>> {
        if !self.daemons.is_empty() {
            thread::sleep(Duration::from_millis(1200));
        }
        self.answered()
    }

    /// The last lines of its daemons' logs.
    pub(super) fn said(&self) -> String {
        let last = |daemon: &Daemon| {
            let log = fs::read_to_string(&daemon.log).unwrap_or_default();
            format!("{} said {:?}", daemon.name, log.lines().next_back().unwrap_or_default())
        };
        self.daemons.iter().map(last).collect::<Vec<_>>().join(", ")
    }
}

/// A child process; ended when dropped.
struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    _scratch: Option<TempDir>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pod behind a veth whose other end is `port` in a namespace of the responder's.
fn pod(lab: &mut Lab, label: &str, name: &str, core: usize) -> Result<(Namespace, Subject)> {
    let responder = lab.namespace(&format!("{label}-node"))?;
    let namespace = lab.namespace(&format!("{label}-pod"))?;
    responder.ip_each(&format!(
        "link add port type veth peer name eth0 address {POD_MAC} netns {}
         link set port up",
        namespace.name()
    ))?;
    namespace.ip_each(&format!("link set eth0 up\n addr add {}/24 dev eth0", Ipv4Addr::from(POD)))?;
    let name = name.to_owned();
    Ok((responder, Subject { name, namespace, mac: POD_MAC, ip: POD, target: TARGET, core }))
}

fn ebtables(lab: &mut Lab, name: &str, core: usize) -> Result<OtherResponder> {
    let tool = PeerProgram::find("xtables-nft-multi")?;
    let (node, subject) = pod(lab, "ebt", name, core)?;
    // No forwarding delay, no snooping: it carries frames as soon as it is up.
    node.ip_each(
        "link add br0 type bridge forward_delay 0 mcast_snooping 0\n link set br0 up\n link set port master br0",
    )?;
    let target = Ipv4Addr::from(TARGET);
    let rule = format!(
        "ebtables -t nat -A PREROUTING -p arp --arp-opcode Request --arp-ip-dst {target} -j arpreply --arpreply-mac {ANSWER} --arpreply-target DROP"
    );
    tool.run(&node, &rule)?;
    let version = tool.run(&node, "ebtables --version")?;
    let counter = move || {
        let listed = tool.run(&node, "ebtables -t nat -L PREROUTING --Lc")?;
        number_after(&listed, "pcnt = ").with_context(|| format!("no counter in {listed:?}"))
    };
    Ok(OtherResponder {
        subject,
        version: version.trim().to_owned(),
        shares_the_core: true,
        storms: true,
        patience: usize::MAX,
        counter: Some(Box::new(counter)),
        daemons: Vec::new(),
    })
}

fn open_vswitch(lab: &mut Lab, name: &str, core: usize) -> Result<OtherResponder> {
    let [create, database, switch, control, flows] =
        ["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl"].map(PeerProgram::find);
    let (create, database, switch, control, flows) = (create?, database?, switch?, control?, flows?);
    let (node, subject) = pod(lab, "ovs", name, core)?;
    let scratch = tempfile::Builder::new().prefix("arp-bench-").tempdir().context("making a folder")?;
    let folder = scratch.path().display().to_string();
    let schema = create.share("openvswitch/vswitch.ovsschema")?;
    create.run(&node, &format!("create {folder}/conf.db {}", schema.display()))?;
    let socket = format!("unix:{folder}/db.sock");
    let remote = format!("{folder}/conf.db --remote=punix:{folder}/db.sock --no-chdir");
    let mut daemons = vec![database.daemon(&node, &remote, scratch.path())?];
    await_file(&scratch.path().join("db.sock"))?;
    daemons.push(switch.daemon(&node, &format!("{socket} --no-chdir --disable-system"), scratch.path())?);
    let database = format!("--timeout=5 --db={socket}");
    control.run(&node, &format!("{database} add-br br0 -- set bridge br0 datapath_type=netdev"))?;
    control.run(&node, &format!("{database} add-port br0 port"))?;
    let flow = format!(
        "arp,arp_op=1,arp_tpa={},actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],mod_dl_src:{ANSWER},load:0x2->NXM_OF_ARP_OP[],\
         move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],load:0x{}->NXM_NX_ARP_SHA[],\
         load:0x{}->NXM_OF_ARP_SPA[],in_port",
        Ipv4Addr::from(TARGET),
        hex(&ANSWER.bytes()),
        hex(&TARGET)
    );
    let bridge = format!("unix:{folder}/br0.mgmt");
    flows.run(&node, &format!("add-flow {bridge} {flow}"))?;
    let version = flows.run(&node, "--version")?;
    let counter = move || {
        let listed = flows.run(&node, &format!("dump-flows {bridge} arp"))?;
        number_after(&listed, "n_packets=").with_context(|| format!("no counter in {listed:?}"))
    };
    // The folder goes after the daemons.
    if let Some(last) = daemons.first_mut() {
        last._scratch = Some(scratch);
    }
    daemons.reverse();
    Ok(OtherResponder {
        subject,
        version: version.lines().next().unwrap_or_default().to_owned(),
        shares_the_core: false,
        storms: true,
        patience: 500,
        counter: Some(Box::new(counter)),
        daemons,
    })
}

/// It answers for what it has seen on its other interface: a host there has the address. (Debian's other daemon, farpd,
/// sends its replies to the broadcast or zero address that the request carries as `tha`: no pod receives them.)
fn parprouted(lab: &mut Lab, name: &str, core: usize) -> Result<OtherResponder> {
    let tool = PeerProgram::find("parprouted")?;
    let (node, subject) = pod(lab, "parp", name, core)?;
    let owner = lab.namespace("parp-host")?;
    node.ip_each(&format!("link add other type veth peer name eth0 netns {}\n link set other up", owner.name()))?;
    owner.ip_each(&format!("link set eth0 up\n addr add {}/24 dev eth0", Ipv4Addr::from(TARGET)))?;
    let address = Ipv4Addr::from(NODE);
    node.ip_each(&format!("addr add {address}/24 dev port\n addr add {address}/24 dev other"))?;
    node.sysctl("net.ipv4.ip_forward", 1)?;
    let scratch = tempfile::Builder::new().prefix("arp-bench-").tempdir().context("making a folder")?;
    let mut daemon = tool.daemon(&node, "-d port other", scratch.path())?;
    daemon._scratch = Some(scratch);
    Ok(OtherResponder {
        subject,
        version: "Debian's 0.70, which has no counter, nor proxy_arp beside it; requests wait for one another, so a storm is \
                  its latency again"
            .to_owned(),
        shares_the_core: false,
        storms: false,
        patience: 8,
        counter: None,
        daemons: vec![daemon],
    })
}

/// A program, unpacked or installed.
struct PeerProgram {
    path: PathBuf,
    root: Option<PathBuf>,
}

impl PeerProgram {
    fn find(name: &str) -> Result<Self> {
        const FOLDERS: [&str; 3] = ["usr/sbin", "usr/bin", "usr/lib/openvswitch-switch"];
        let roots = env::var_os(FOLDER).map(PathBuf::from).into_iter().map(Some).chain([None]);
        for root in roots {
            let base = root.clone().unwrap_or_else(|| PathBuf::from("/"));
            if let Some(path) =
                FOLDERS.map(|folder| base.join(folder).join(name)).into_iter().find(|path| path.is_file())
            {
                return Ok(PeerProgram { path, root });
            }
        }
        bail!("this machine has no {name}, and it could not be unpacked from Debian's packages")
    }

    /// A file that the package shares.
    fn share(&self, file: &str) -> Result<PathBuf> {
        let path = self.root.clone().unwrap_or_else(|| PathBuf::from("/")).join("usr/share").join(file);
        ensure!(path.is_file(), "{} is missing", path.display());
        Ok(path)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments.split_whitespace()).stdin(Stdio::null());
        if let Some(root) = &self.root {
            let libraries = root.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH));
            command.env("XTABLES_LIBDIR", libraries.join("xtables")).env("LD_LIBRARY_PATH", libraries);
            command.env("OVS_PKGDATADIR", root.join("usr/share/openvswitch"));
        }
        command
    }

    /// Runs it in a namespace to its end, for what it prints.
    fn run(&self, namespace: &Namespace, arguments: &str) -> Result<String> {
        let mut command = self.command(arguments);
        let output =
            namespace.run(|| command.output())?.with_context(|| format!("starting {}", self.path.display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {arguments}: {}", self.path.display(), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts it in a namespace, its files and its log in `folder`.
    fn daemon(&self, namespace: &Namespace, arguments: &str, folder: &Path) -> Result<Daemon> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = self.command(arguments);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, folder);
        }
        command.stdout(file.try_clone()?).stderr(file);
        let child = namespace.run(|| command.spawn())?.with_context(|| format!("starting {}", self.path.display()))?;
        Ok(Daemon { name, child, log, _scratch: None })
    }
}

fn await_file(path: &Path) -> Result<()> {
    wait_until(PATIENCE, || Ok(path.exists()), || format!("{} is there", path.display()))
}

/// The number that follows the first `mark`.
fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_what_the_tools_print() {
        let ebtables = "-p ARP --arp-op Request --arp-ip-dst 10.1.1.254 -j arpreply , pcnt = 2 -- bcnt = 56";
        assert_eq!(number_after(ebtables, "pcnt = "), Some(2));
        let flow = "NXST_FLOW reply (xid=0x4):\n cookie=0x0, duration=1.1s, table=0, n_packets=17, n_bytes=84, arp";
        assert_eq!(number_after(flow, "n_packets="), Some(17));
        assert_eq!(number_after("nothing", "n_packets="), None);
    }
}
