//! The lab itself: a node and what is linked to it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use anyhow::{Context, Result, ensure};
use arp_common::settings::CONF;

use crate::hook::TestHook;
use crate::host::Host;
use crate::namespace::{NAMES, Namespace, remove_name};
use crate::netlink::Netlink;
use crate::skip::missing_privilege;
use crate::slack::{stretched, wait_until};
use arp_common::Lladdr;

/// Settings that a namespace may take over from the machine: back to the kernel's own defaults, so that a lab is the same everywhere.
fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    CONF.into_iter().map(|name| (name, "0")).chain([("arp_accept", "0"), ("send_redirects", "1")])
}

/// A node in a namespace of its own, with hosts linked to it by veth pairs. Nothing of it touches the machine's
/// namespace; all of it is gone when the lab is dropped, also by a panic.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    node: Namespace,
    namespaces: Vec<Namespace>,
    hosts: BTreeMap<String, Host>,
    /// Held while the lab is there, see [`Alone`].
    _present: Option<File>,
}

/// Every lab holds this file's lock, shared with the others. Of the whole machine: what labs share is the kernel's.
const PRESENCE: &str = "/run/arp-lab.lock";
/// How long to wait for the last of the other labs.
const PRESENCE_WAIT: Duration = Duration::from_secs(1200);

thread_local! {
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// While this is held, no lab but the calling thread's own is there, in this process or another: for what touches state
/// that all network namespaces share, such as the size of the neighbour table.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

impl Alone {
    /// Waits until every other lab is gone. The calling thread must have none yet.
    pub fn wait() -> Result<Self> {
        let deadline = Instant::now() + stretched(PRESENCE_WAIT);
        loop {
            if let Some(alone) = Self::now()? {
                return Ok(alone);
            }
            thread::sleep(Duration::from_millis(20));
            ensure!(Instant::now() < deadline, "other labs are still there after {PRESENCE_WAIT:?}");
        }
    }

    /// The same without waiting; `None` if there is another lab.
    pub fn now() -> Result<Option<Self>> {
        let lock = presence()?;
        match lock.try_lock() {
            Ok(()) => {
                IS_ALONE.set(true);
                Ok(Some(Alone { _lock: lock }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {PRESENCE}")),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        IS_ALONE.set(false);
    }
}

fn presence() -> Result<File> {
    File::options().create(true).append(true).open(PRESENCE).with_context(|| format!("opening {PRESENCE}"))
}

impl Lab {
    /// A lab whose node has no links yet. Every IPv4 setting is the kernel's default.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        if let Some(missing) = missing_privilege() {
            ensure!(false, "the lab cannot be built: {missing}");
        }
        SWEEP.call_once(sweep);
        let present = if IS_ALONE.get() {
            None
        } else {
            let lock = presence()?;
            lock.lock_shared().with_context(|| format!("locking {PRESENCE}"))?;
            Some(lock)
        };
        let prefix = format!("arp-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let node = Namespace::new(format!("{prefix}-node"))?;
        let lab = Lab { prefix, namespaces: vec![node.clone()], node, hosts: BTreeMap::new(), _present: present };
        set_defaults(&lab.node)?;
        // Others', whose namespace has ended before they were deleted.
        Netlink::open(&lab.node)?.forget_proxies_on_any()?;
        Ok(lab)
    }

    /// The node's namespace.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// What the names of the lab's namespaces begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A namespace of the lab, linked to nothing yet.
    pub fn namespace(&mut self, name: &str) -> Result<Namespace> {
        let namespace = Namespace::new(format!("{}-{name}", self.prefix))?;
        self.namespaces.push(namespace.clone());
        set_defaults(&namespace)?;
        Ok(namespace)
    }

    /// A host `name` with a veth pair to the node: `eth0` there with `mac`, `node_end` here with `node_mac`; both up,
    /// without addresses.
    pub fn attach(&mut self, name: &str, mac: Lladdr, node_end: &str, node_mac: Lladdr) -> Result<&Host> {
        let namespace = self.namespace(name)?;
        self.node.ip_each(&format!(
            "link add {node_end} address {node_mac} type veth peer name eth0 address {mac} netns {}
             link set {node_end} up",
            namespace.name(),
        ))?;
        namespace.ip("link set eth0 up")?;
        self.add_host(name, namespace, mac, node_end)
    }

    /// Makes a host of a namespace whose `eth0` reaches `node_end` in some way that the caller has built.
    pub fn add_host(&mut self, name: &str, namespace: Namespace, mac: Lladdr, node_end: &str) -> Result<&Host> {
        take_xdp(&namespace, "eth0")?;
        let host = Host::new(name, namespace, mac, &self.node, node_end)?;
        Ok(self.hosts.entry(name.to_owned()).insert_entry(host).into_mut())
    }

    /// The host of that name.
    ///
    /// # Panics
    /// If there is none: a mistake in the test.
    pub fn host(&self, name: &str) -> &Host {
        match self.hosts.get(name) {
            Some(host) => host,
            None => panic!("no host {name} in this lab, only {:?}", self.hosts.keys()),
        }
    }

    /// Removes the host of that name, and its namespace.
    pub fn forget_host(&mut self, name: &str) {
        if let Some(host) = self.hosts.remove(name) {
            host.namespace().remove();
            self.namespaces.retain(|namespace| namespace.name() != host.namespace().name());
        }
    }

    /// Takes a host's end of its link down, and waits until the node has acted on the loss of carrier: the kernel
    /// does that up to a second later.
    pub fn unplug(&self, name: &str) -> Result<()> {
        // 6.1 says that it is the lower layer, the other end, that is down.
        self.set_carrier(name, "down", &["DOWN", "LOWERLAYERDOWN"])
    }

    /// Takes a host's end of its link up again, and waits until the node has acted on it.
    pub fn plug(&self, name: &str) -> Result<()> {
        self.set_carrier(name, "up", &["UP"])
    }

    /// Gives the node's interface that leads to a host another name. It is down meanwhile: its routes and neighbour entries
    /// go.
    pub fn rename_node_end(&mut self, name: &str, to: &str) -> Result<()> {
        let from = self.host(name).node_end();
        self.node.ip_each(&format!("link set {from} down\n link set {from} name {to}\n link set {to} up"))?;
        if let Some(host) = self.hosts.get_mut(name) {
            host.set_node_end(to);
        }
        Ok(())
    }

    fn set_carrier(&self, name: &str, link: &str, operstates: &[&str]) -> Result<()> {
        let host = self.host(name);
        host.namespace().ip(&format!("link set eth0 {link}"))?;
        let done = || {
            let shown = self.node.ip_json(&format!("link show {}", host.node_end()))?;
            Ok(operstates.iter().any(|&state| shown[0]["operstate"] == state))
        };
        wait_until(Duration::from_secs(3), done, || format!("{} is {operstates:?}", host.node_end()))?;
        // The routes follow within the same step of the kernel's.
        thread::sleep(stretched(Duration::from_millis(20)));
        Ok(())
    }

    /// The host of that name, to give it an address.
    pub(crate) fn host_mut(&mut self, name: &str) -> Option<&mut Host> {
        self.hosts.get_mut(name)
    }

    /// The hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The names first and all of them, whoever still holds a handle.
        self.namespaces.iter().for_each(Namespace::remove);
    }
}

/// Lets the far end of a veth take what XDP sends it, if that is the hook.
pub(crate) fn take_xdp(namespace: &Namespace, interface: &str) -> Result<()> {
    if TestHook::chosen()? == TestHook::XdpDriver {
        namespace.exec(&format!("ethtool -K {interface} gro on"))?;
    }
    Ok(())
}

fn set_defaults(namespace: &Namespace) -> Result<()> {
    namespace.run(|| {
        for scope in ["all", "default", "lo"] {
            for (key, value) in defaults() {
                let path = format!("/proc/sys/net/ipv4/conf/{scope}/{key}");
                // A key that this kernel does not know has no value to reset. One that is right is not written:
                // interfaces made after a write to `default` no longer follow later ones.
                if fs::read_to_string(&path).is_ok_and(|now| now.trim_end() != value) {
                    fs::write(path, value)?;
                }
            }
        }
        Ok(())
    })?
}

/// Removes names that a killed process of the lab left behind: those with the id of a process that is no more.
fn sweep() {
    let Ok(names) = fs::read_dir(NAMES) else {
        return;
    };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let id = name.strip_prefix("arp-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            remove_name(&name);
        }
    }
}
