//! Rows about devices that some kernels lack: VLAN (K023 to K025), VRF, bond and team (K030), ipvlan (K029), and addresses on a
//! dummy (K054, K066, K070). A test skips where the kernel cannot make its devices; `cargo xtask vm` has
//! kernels that can.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use arp_common::{ArpFrame, Lladdr};
use lab::topology::{self, ROUTED_TARGET};
use lab::{Answerer, Host, Lab, Namespace, SideBySide, Wire, reply_bytes, stretched};

use super::Ask::{For, Probe, Raw};
use super::Expect::{Fast, Kernel, Silent};
use super::first::commands;
use super::{L, TAGGED, X, ask, base, check, run_all, when};

/// Ends the test, recorded as skipped, where it needs root and has it not, or a kind of device that there is not.
macro_rules! needs_devices {
    ($($kind:literal),+) => {
        lab::needs_root!();
        if let Some(missing) = $crate::matrix::devices::missing_device(&[$($kind),+])? {
            lab::skip(&missing);
            return Ok(());
        }
    };
}
pub(super) use needs_devices;

/// Which of these kinds of devices the kernel cannot make: tried out in a namespace.
pub(super) fn missing_device(kinds: &[&str]) -> Result<Option<String>> {
    let lab = Lab::new()?;
    lab.node().ip("link add below type veth peer name other")?;
    for &kind in kinds {
        let made = lab.node().ip(&match kind {
            "vlan" => "link add link below name tried type vlan id 7".to_owned(),
            "ipvlan" | "macvlan" => format!("link add link below name tried type {kind}"),
            "vrf" => "link add tried type vrf table 7".to_owned(),
            "vxlan" => "link add tried type vxlan external dstport 4789".to_owned(),
            "geneve" | "gretap" => format!("link add tried type {kind} external"),
            _ => format!("link add tried type {kind}"),
        });
        match made {
            Ok(_) => lab.node().ip("link del tried").map(drop)?,
            Err(error) if error.to_string().contains("Unknown device type") => {
                return Ok(Some(format!("this kernel has no {kind} devices")));
            }
            Err(error) => bail!(error),
        }
    }
    Ok(None)
}

/// The base's request for L behind an 802.1Q header.
fn tagged(host: &Host, id: u8) -> Vec<u8> {
    let mut frame = host.who_has(L).to_vec();
    frame.splice(12..12, [0x81, 0, 0, id]);
    frame
}

/// What comes back in each lab within `wait` and a little more, sorted: where several devices answer, none is the first. For links that
/// carry no marker.
pub(super) fn answers(
    parity: &mut SideBySide,
    wait: Duration,
    frame: impl Fn(&Host) -> Vec<u8>,
) -> Result<[Vec<Vec<u8>>; 2]> {
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        let mut received = p0.ask_within(&frame(p0), wait + stretched(Duration::from_millis(100)))?;
        received.sort();
        answers.push(received);
        Ok(())
    })?;
    match <[_; 2]>::try_from(answers) {
        Ok(answers) => Ok(answers),
        Err(answers) => bail!("{} labs instead of two", answers.len()),
    }
}

/// The same frames to both labs, of which the answers come within `wait`: both must answer alike, and the fast path must
/// pass each for `reason`. The number of answers to each.
pub(super) fn pass_for(
    parity: &mut SideBySide,
    reason: &str,
    wait: Duration,
    frames: &[fn(&Host) -> Vec<u8>],
) -> Result<Vec<usize>> {
    let before = parity.agent().status()?;
    let mut counts = Vec::new();
    for frame in frames {
        let [alone, fast] = answers(parity, wait, frame)?;
        ensure!(alone == fast, "frame {}: the kernel alone {alone:02x?}\nwith the fast path {fast:02x?}", counts.len());
        counts.push(alone.len());
    }
    let after = parity.agent().status()?;
    ensure!(after.answered("v0") == before.answered("v0"), "the fast path answered: {}", after.0);
    let count = |passed: BTreeMap<String, u64>| passed.get(reason).copied().unwrap_or_default();
    let passed = count(after.passed("v0")) - count(before.passed("v0"));
    ensure!(passed >= frames.len() as u64, "{passed} frames passed for {reason}: {}", after.0);
    Ok(counts)
}

#[test]
fn k024_a_tag_with_a_device_for_it() -> Result<()> {
    needs_devices!("vlan");
    const VLAN: &[&str] = &["link add link v0 name v0.100 type vlan id 100", "link set v0.100 up"];
    check(&[
        when(VLAN, Raw(|p0| tagged(p0, 0)), Kernel(TAGGED)),
        ask(Raw(|p0| tagged(p0, 100)), Kernel(TAGGED)),
        ask(Raw(|p0| tagged(p0, 200)), Silent(TAGGED)),
        ask(For(L), Kernel("interface_has_upper")),
        when(&["link del v0.100"], For(L), Fast),
    ])
}

#[test]
#[ignore = "known exception (docs/semantics.md): a tag beside the frame cannot be seen, and it is answered"]
fn k025_a_tag_beside_the_frame_from_the_pod() -> Result<()> {
    needs_devices!("vlan");
    let mut parity = base()?;
    // The pod's VLAN device leaves the tag to the veth, which leaves it beside the frame.
    let mut received = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        p0.namespace().ip_each("link add link eth0 name eth0.100 type vlan id 100\n link set eth0.100 up")?;
        Wire::open(p0.namespace(), "eth0.100")?.send(&p0.who_has(L))?;
        received.push(p0.collect(stretched(Duration::from_millis(100)))?);
        Ok(())
    })?;
    assert_eq!(received, [Vec::<Vec<u8>>::new(), Vec::new()], "id 100, without a device for it: nobody answers");
    Ok(())
}

/// The base, and the host `t0` behind the node's VLAN device `w0.100`.
fn with_vlan() -> Result<Lab> {
    let mut lab = topology::matrix()?;
    let namespace = lab.namespace("t0")?;
    let node = lab.node().clone();
    node.ip_each(&format!(
        "link add w0 address 02:00:00:00:06:01 type veth peer name wire netns {}
         link set w0 up
         link add link w0 name w0.100 type vlan id 100
         link set w0.100 up",
        namespace.name(),
    ))?;
    namespace.ip_each(&format!(
        "link set wire up
         link add link wire name eth0 address {TAGGED_MAC} type vlan id 100
         link set eth0 up"
    ))?;
    // The name has a dot, so the keys have slashes.
    node.sysctl("net/ipv4/conf/w0.100/proxy_arp", 1)?;
    node.sysctl("net/ipv4/neigh/w0.100/proxy_delay", 0)?;
    node.ip_each(&format!(
        "route add 10.6.0.5/32 dev w0.100 scope link
         neigh add 10.6.0.5 lladdr {TAGGED_MAC} dev w0.100 nud stale"
    ))?;
    lab.add_host("t0", namespace, TAGGED_MAC, "w0.100")?;
    Ok(lab)
}

const TAGGED_MAC: Lladdr = Lladdr::new([0x02, 0, 0, 0, 0x06, 5]);
const TAGGED_IP: [u8; 4] = [10, 6, 0, 5];

#[test]
fn a_vlan_device_is_an_interface_like_any_other() -> Result<()> {
    needs_devices!("vlan");
    let mut parity = SideBySide::start(with_vlan, &["w0.100"])?;
    let request = |tpa| move |_: &Host| ArpFrame::request(TAGGED_MAC.bytes(), TAGGED_IP, tpa).to_bytes();
    for tpa in [L, X] {
        let outcome = parity.ask("t0", request(tpa))?;
        assert_eq!(outcome.by, Answerer::FastPath, "{tpa:?}");
        let node = Lladdr::new([0x02, 0, 0, 0, 0x06, 1]);
        assert_eq!(outcome.replies, [reply_bytes(node, TAGGED_MAC, TAGGED_IP, tpa)]);
    }
    parity.change(|lab| lab.node().sysctl("net/ipv4/conf/w0.100/proxy_arp", 0))?;
    assert_eq!(parity.ask("t0", request(X))?.by, Answerer::nobody("proxy_arp_off"));
    Ok(())
}

#[test]
fn k030_a_vrf_device_as_master() -> Result<()> {
    needs_devices!("vrf");
    const MASTER: &[&str] = &["link add vrf0 type vrf table 100", "link set vrf0 up", "link set v0 master vrf0"];
    const OF_VRF: [u8; 4] = [10, 70, 0, 1];
    check(&[
        // The rule for local addresses still comes before the VRF's.
        // The entries of the interface go when it becomes a port, and when it leaves.
        when(MASTER, For(L), Kernel("neighbour_unknown")),
        ask(For(L), Fast),
        // A probe looks into the VRF's table alone.
        ask(Probe(L), Silent("probe_not_local")),
        when(&["addr add 10.70.0.1/32 dev vrf0"], Probe(OF_VRF), Fast),
        ask(For(OF_VRF), Fast),
        // What the VRF has no route for, table main may have.
        ask(For(X), Fast),
        // The rule of the first VRF stays when the VRF goes.
        when(&["link set v0 nomaster", "link del vrf0"], For(L), Kernel("neighbour_unknown")),
        when(&["rule del pref 1000", "route replace 10.5.0.5/32 dev v0 scope link"], For(L), Fast),
    ])
}

#[test]
fn k030_the_uplink_in_a_vrf() -> Result<()> {
    needs_devices!("vrf");
    const MASTER: &[&str] = &["link add vrf0 type vrf table 100", "link set vrf0 up", "link set u0 master vrf0"];
    check(&[
        when(MASTER, For(X), Silent("no_route")),
        ask(For(topology::UPLINK_IP), Silent("no_route")),
        ask(For(L), Fast),
    ])
}

/// `v0` becomes a port of another device, and is released.
fn enslaved(make: &[&str], release: &[&str], answered: &[usize]) -> Result<()> {
    let mut parity = base()?;
    parity.change(|lab| run_all(lab, make))?;
    let frames: [fn(&Host) -> Vec<u8>; 3] =
        [|p0| p0.who_has(L).to_vec(), |p0| p0.who_has(X).to_vec(), |p0| p0.probe(L).to_vec()];
    assert_eq!(pass_for(&mut parity, "interface_has_master", Duration::ZERO, &frames)?, answered);
    parity.change(|lab| run_all(lab, release))?;
    parity.learn("p0", L)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(L))?.by, Answerer::FastPath, "released");
    Ok(())
}

const RELEASED: [&str; 4] = [
    "link set v0 nomaster",
    "link set v0 address 02:00:00:00:01:00",
    "link set v0 up",
    "route replace 10.5.0.5/32 dev v0 scope link",
];

#[test]
fn k030_a_bond_as_master() -> Result<()> {
    needs_devices!("bond");
    let make = ["link add bond0 type bond", "link set v0 down", "link set v0 master bond0", "link set bond0 up"];
    // The bond has no proxy_arp, but the node's addresses are everywhere.
    enslaved(&make, &RELEASED, &[1, 0, 1])
}

#[test]
fn k030_a_team_as_master() -> Result<()> {
    needs_devices!("team");
    let make = ["link add team0 type team", "link set v0 down", "link set v0 master team0", "link set team0 up"];
    // Without a mode, for which it needs a program of its own, a team lets nothing out.
    enslaved(&make, &RELEASED, &[0, 0, 0])
}

#[test]
fn a_bond_is_an_interface_like_any_other() -> Result<()> {
    needs_devices!("bond");
    let build = || {
        let mut lab = topology::matrix()?;
        lab.attach("b0", TAGGED_MAC, "w0", Lladdr::new([0x02, 0, 0, 0, 0x06, 1]))?;
        lab.node().ip_each(&format!(
            "link add bond0 type bond
             link set w0 down
             link set w0 master bond0
             link set bond0 up
             route add 10.6.0.5/32 dev bond0 scope link
             neigh add 10.6.0.5 lladdr {TAGGED_MAC} dev bond0 nud stale"
        ))?;
        let namespace = lab.host("b0").namespace().clone();
        // The same host, seen from the bond.
        lab.add_host("b0", namespace, TAGGED_MAC, "bond0")?;
        Ok(lab)
    };
    let mut parity = SideBySide::start(build, &["bond0"])?;
    let outcome = parity.ask("b0", |_| ArpFrame::request(TAGGED_MAC.bytes(), TAGGED_IP, L).to_bytes())?;
    assert_eq!(outcome.by, Answerer::FastPath);
    Ok(())
}

/// Devices over `v0`, by what makes them and takes them away: there before the agent, come while it runs, gone again
/// ([`super::first`]). While one is there, a request for L passes for the reason, and gets so many answers.
macro_rules! come_and_go {
    ($($name:ident: $kind:literal, $reason:literal, $answers:literal, $make:expr, $unmake:expr;)+) => {$(
        #[test]
        fn $name() -> Result<()> {
            needs_devices!($kind);
            commands($reason, $answers, $make, $unmake)
        }
    )+};
}

come_and_go! {
    k024_a_vlan_device_on_the_interface: "vlan", "interface_has_upper", 1,
        &["link add link v0 name above0 type vlan id 100", "link set above0 up"],
        &["link del above0"];
    // The device answers too, and all must see the frame.
    k029_a_macvlan_on_the_interface: "macvlan", "interface_has_upper", 2,
        &["link add link v0 name above0 address 02:00:00:00:06:06 type macvlan mode bridge", "link set above0 up"],
        &["link del above0"];
    k029_an_ipvlan_on_the_interface: "ipvlan", "interface_has_upper", 2,
        &["link add link v0 name above0 type ipvlan mode l2", "link set above0 up"],
        &["link del above0"];
    k030_a_bond_over_the_interface: "bond", "interface_has_master", 1,
        &["link add bond0 type bond", "link set v0 down", "link set v0 master bond0", "link set bond0 up"],
        &[RELEASED[0], RELEASED[1], RELEASED[2], RELEASED[3], "link del bond0"];
    k030_a_team_over_the_interface: "team", "interface_has_master", 0,
        &["link add team0 type team", "link set v0 down", "link set v0 master team0", "link set team0 up"],
        &[RELEASED[0], RELEASED[1], RELEASED[2], RELEASED[3], "link del team0"];
}

/// Two labs with a device stacked on `v0` that lives in another namespace, as a pod's does: the node's own links do not show
/// it. Gives also these namespaces.
fn stacked_elsewhere(what: &str) -> Result<(SideBySide, Vec<Namespace>)> {
    let namespaces: RefCell<Vec<Namespace>> = RefCell::default();
    let build = || {
        let mut lab = topology::matrix()?;
        let elsewhere = lab.namespace("elsewhere")?;
        lab.node().ip(&format!("link add link v0 name above0 netns {} {what}", elsewhere.name()))?;
        elsewhere.ip_each("addr add 10.60.0.9/24 dev above0\n link set above0 up")?;
        namespaces.borrow_mut().push(elsewhere);
        Ok(lab)
    };
    let parity = SideBySide::start(build, &["v0"])?;
    Ok((parity, namespaces.take()))
}

/// A request for the address of that device.
fn for_the_device_elsewhere(p0: &Host) -> Vec<u8> {
    p0.who_has([10, 60, 0, 9]).to_vec()
}

#[test]
fn k029_a_macvlan_in_another_namespace() -> Result<()> {
    needs_devices!("macvlan");
    let (mut parity, elsewhere) = stacked_elsewhere("address 02:00:00:00:06:06 type macvlan mode bridge")?;
    let answers = pass_for(&mut parity, "interface_has_upper", Duration::ZERO, &[for_the_device_elsewhere])?;
    ensure!(answers != [0], "the device elsewhere does not answer");
    // While it is down it takes nothing, and is not seen.
    let set =
        |state: &str| elsewhere.iter().try_for_each(|each| each.ip(&format!("link set above0 {state}")).map(drop));
    set("down")?;
    parity.agent().in_sync()?;
    parity.learn("p0", L)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(L))?.by, Answerer::FastPath);
    set("up")?;
    parity.agent().in_sync()?;
    pass_for(&mut parity, "interface_has_upper", Duration::ZERO, &[for_the_device_elsewhere])?;
    Ok(())
}

#[test]
#[ignore = "known exception (docs/semantics.md): an ipvlan device stacked on the interface from elsewhere cannot be seen"]
fn k029_an_ipvlan_in_another_namespace() -> Result<()> {
    needs_devices!("ipvlan");
    let (mut parity, _) = stacked_elsewhere("type ipvlan mode l2")?;
    let [alone, fast] = answers(&mut parity, Duration::ZERO, for_the_device_elsewhere)?;
    assert!(!alone.is_empty(), "{alone:02x?}");
    assert_eq!(fast, alone, "the device elsewhere answers too");
    Ok(())
}

#[test]
fn k054_k066_and_k070_a_service_address_on_a_dummy() -> Result<()> {
    needs_devices!("dummy");
    // As kube-proxy does in IPVS mode: its dummy is down and does no ARP.
    const MAKE: &[&str] = &["link add kube-ipvs0 type dummy", "addr add 10.96.0.10/32 dev kube-ipvs0"];
    const SERVICE: [u8; 4] = [10, 96, 0, 10];
    const STRICT: &[&str] = &["all.arp_ignore=1", "all.arp_announce=2"];
    check(&[
        when(MAKE, For(SERVICE), Fast),
        ask(Probe(SERVICE), Fast),
        when(&["link set kube-ipvs0 up"], For(SERVICE), Fast),
        when(STRICT, For(SERVICE), Silent("arp_ignore")),
        ask(Probe(SERVICE), Silent("arp_ignore")),
        ask(For(ROUTED_TARGET), Fast),
        when(&["all.arp_ignore=3"], For(SERVICE), Kernel("arp_ignore")),
        when(&["addr add 10.96.0.11/32 dev kube-ipvs0 scope host"], For([10, 96, 0, 11]), Silent("arp_ignore")),
        when(&["all.arp_ignore=0", "link del kube-ipvs0"], Probe(SERVICE), Silent("probe_not_local")),
    ])
}
