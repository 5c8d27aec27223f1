//! Programs of others that no policy may hurt: DHCP clients that look for conflicts (RFC 5227), and virtual routers whose
//! address moves (RFC 5798). What they reach beside the kernel alone, they reach under all policies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::topology;
use lab::{Agent, AgentOptions, Lab, Namespace, fetched_program, needs_root, stretched, wait_until};

use super::await_guard;

/// Every policy in `drop` on an interface with several clients.
fn policies(interface: &str) -> Vec<String> {
    let each = |policy: &str| [format!("--{policy}"), format!("{interface}=drop")];
    let policies = ["sender-guard", "entry-limit", "budget", "binding", "unresolved-budget"].map(each);
    policies.into_iter().flatten().chain(["--sender-grace".to_owned(), "0".to_owned()]).collect()
}

fn guarded(lab: &Lab, interface: &str, further: &[&str]) -> Result<Agent> {
    let policies = policies(interface);
    let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
    let agent = AgentOptions::new(&[interface]).args(&policies).args(further).start(lab.node())?;
    await_guard(&agent)?;
    Ok(agent)
}

/// A program that is ended with the test.
struct Running(Child);

impl Running {
    /// Starts a shell command in a namespace. What it writes to the usual places is gone with it, and so are its children.
    fn start(namespace: &Namespace, command: &str) -> Result<Self> {
        let mut shell = Command::new("unshare");
        let places = "for place in /run /var/lib /tmp; do mount -t tmpfs tmpfs $place; done";
        shell.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
            "sh",
            "-c",
            &format!("{places}; exec {command}"),
        ]);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running(namespace.run(|| shell.spawn())?.with_context(|| format!("starting {command}"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client's namespace has an address of the pool.
fn leased(client: &Namespace) -> Result<bool> {
    let links = client.ip_json("-4 addr show dev eth0")?;
    let addresses = links[0]["addr_info"].as_array().into_iter().flatten();
    Ok(addresses.filter_map(|address| address["local"].as_str()).any(|address| address.starts_with("192.168.0.5")))
}

/// A client asks the node's DHCP server for an address, looks whether somebody has it, announces and uses it.
fn lease(lab: &Lab, folder: &Path, server: &Path, client: &str) -> Result<Duration> {
    let pod = lab.host("client").namespace();
    pod.ip("addr flush dev eth0")?;
    let configuration = folder.join("udhcpd.conf");
    // Its files are in a place of its own, see [`Running::start`].
    fs::write(
        &configuration,
        "start 192.168.0.50\nend 192.168.0.59\ninterface eth0\nlease_file /run/leases\npidfile /run/pid\n\
         opt subnet 255.255.255.0\nopt router 192.168.0.1\nopt lease 3600\n",
    )?;
    let _server = Running::start(lab.node(), &format!("{} udhcpd -f {}", server.display(), configuration.display()))?;
    let begin = Instant::now();
    let _client = Running::start(pod, client)?;
    wait_until(Duration::from_secs(20), || leased(pod), || "a lease".to_owned())?;
    let took = begin.elapsed();
    wait_until(Duration::from_secs(5), || pod.can_ping([192, 168, 0, 1]), || "the client reaches the node".to_owned())?;
    wait_until(Duration::from_secs(5), || pod.can_ping(topology::FAR_HOST), || "and the world".to_owned())?;
    Ok(took)
}

/// The lease is had beside the kernel alone, and under all policies, of which none drops a frame.
fn lease_under_policies(command: impl Fn(&Path) -> Result<String>) -> Result<()> {
    let Some(busybox) = fetched_program("busybox") else { return Ok(()) };
    // Not in /tmp, which the programs have for themselves.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let command = command(folder.path())?;
    let alone = lease(&topology::lan()?, folder.path(), &busybox, &command)?;
    let lab = topology::lan()?;
    let agent = guarded(&lab, "eth0", &[])?;
    let took = lease(&lab, folder.path(), &busybox, &command)?;
    println!("{alone:?} beside the kernel alone, {took:?} under all policies");
    let dropped = agent.status()?.0["dropped"].clone();
    ensure!(dropped.as_object().is_some_and(serde_json::Map::is_empty), "dropped: {dropped}");
    Ok(())
}

#[test]
fn udhcpc_gets_its_lease() -> Result<()> {
    needs_root!();
    let Some(busybox) = fetched_program("busybox") else { return Ok(()) };
    lease_under_policies(|folder| {
        let script = folder.join("script");
        fs::write(
            &script,
            "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/24 dev $interface\n\
             ip route replace default via $router\n",
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        // `-a`: it asks for the address before it takes it.
        Ok(format!("{} udhcpc -f -a -i eth0 -t 10 -T 1 -s {}", busybox.display(), script.display()))
    })
}

#[test]
fn dhcpcd_gets_its_lease() -> Result<()> {
    needs_root!();
    let Some(dhcpcd) = fetched_program("dhcpcd") else { return Ok(()) };
    lease_under_policies(|folder| {
        let configuration = folder.join("dhcpcd.conf");
        fs::write(&configuration, "ipv4only\noption routers, subnet_mask\nnohook resolv.conf, hostname\n")?;
        Ok(format!("{} -B -f {} -c /bin/true eth0", dhcpcd.display(), configuration.display()))
    })
}

/// The address that moves.
const VIRTUAL: [u8; 4] = [192, 168, 0, 100];

/// keepalived on a host of the segment.
fn keepalived(lab: &Lab, host: &str, folder: &Path, program: &Path, priority: u8, vmac: &str) -> Result<Running> {
    let configuration = folder.join(format!("{host}.conf"));
    fs::write(
        &configuration,
        format!(
            "global_defs {{\n router_id {host}\n vrrp_garp_master_delay 1\n}}\n\
             vrrp_instance one {{\n state BACKUP\n interface eth0\n virtual_router_id 7\n priority {priority}\n \
             advert_int 1\n {vmac}\n virtual_ipaddress {{\n  192.168.0.100/24\n }}\n}}\n"
        ),
    )?;
    Running::start(
        lab.host(host).namespace(),
        &format!("{} -n -l -P -f {}", program.display(), configuration.display()),
    )
}

/// Two virtual routers behind one interface; the master is killed. For how long the node does not reach the address.
fn fail_over(lab: &Lab, folder: &Path, program: &Path, vmac: &str) -> Result<Duration> {
    // On one segment with each other, unlike in a private VLAN.
    for port in ["c2", "c3"] {
        lab.node().exec(&format!("ip -n {}-switch link set {port} type bridge_slave isolated off", lab.prefix()))?;
    }
    let master = keepalived(lab, "c2", folder, program, 200, vmac)?;
    let _backup = keepalived(lab, "c3", folder, program, 100, vmac)?;
    let reaches = || lab.node().can_ping(VIRTUAL);
    wait_until(Duration::from_secs(15), reaches, || "the node reaches the virtual address".to_owned())?;
    drop(master);
    // The killed one leaves its address behind, as a machine that has lost its power would not.
    lab.host("c2").namespace().ip("link set eth0 down")?;
    let begin = Instant::now();
    wait_until(Duration::from_secs(20), reaches, || "the node reaches the other router".to_owned())?;
    Ok(begin.elapsed())
}

/// The node reaches the address about as soon under all policies as beside the kernel alone.
fn fail_over_under_policies(vmac: &str, further: &[&str]) -> Result<()> {
    let Some(program) = fetched_program("keepalived") else { return Ok(()) };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let alone = topology::private_vlan()?;
    let alone = fail_over(&alone, folder.path(), &program, vmac).context("beside the kernel alone")?;
    let lab = topology::private_vlan()?;
    let _agent = guarded(&lab, "wifi0", further)?;
    let took = fail_over(&lab, folder.path(), &program, vmac).context("under all policies")?;
    println!("{alone:?} beside the kernel alone, {took:?} under all policies");
    // The binding asks the old owner first, which takes up to two seconds more (docs/protection.md).
    ensure!(took < alone + stretched(Duration::from_secs(4)), "{took:?}, and {alone:?} beside the kernel alone");
    Ok(())
}

#[test]
fn a_virtual_address_moves_from_router_to_router() -> Result<()> {
    needs_root!();
    fail_over_under_policies("", &[])
}

#[test]
fn a_virtual_router_with_its_own_mac_moves() -> Result<()> {
    needs_root!();
    // It asks from the virtual address with its own MAC, too, which the binding takes for another's claim.
    fail_over_under_policies("use_vmac", &["--sender-allow", "wifi0=192.168.0.100"])
}
