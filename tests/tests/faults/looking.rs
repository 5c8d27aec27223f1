//! By looking, the agent changes nothing of what it looks at.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::netlink::{KernelChange, Netlink, index};
use lab::{AgentOptions, Lab, NAMES, Namespace, needs_root, wait_until};

/// What LXC's router mode adds to the node's end.
const GATEWAY: [u8; 4] = [169, 254, 0, 1];

/// A hook that is attached without waiting for anything: what is lost with it is lost by looking.
const SKB: &[&str] = &["--hook", "xdp", "--xdp-mode", "skb"];
/// The hook that an agent takes by itself. Where that is tcx, attaching holds the kernel's lock for some milliseconds: what
/// the kernel itself does about carriers must not come later by that.
const AUTO: &[&str] = &["--hook", "auto"];

#[test]
fn an_entry_added_right_after_link_up_stays() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    starts(SKB, 40, 2)?;
    starts(AUTO, 40, 2)
}

#[test]
fn long_entry_added_right_after_link_up() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    starts(SKB, 200, 4)?;
    starts(AUTO, 200, 4)
}

/// Attaching holds up what the kernel does about carriers. So nothing is attached while an interface is up and its other end
/// is still down; and it is, once that is over.
#[test]
fn an_interface_that_waits_for_its_carrier_is_left_alone() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let mut lab = Lab::new()?;
    let container = lab.namespace("container")?;
    let agent = AgentOptions::new(&["lxc*"]).args(AUTO).start(lab.node())?;
    let node = lab.node();
    for (number, comes_up) in [(0, true), (1, false)] {
        let (ours, theirs) = (format!("lxc{number}"), format!("eth{number}"));
        node.ip(&format!("link add {ours} up type veth peer name {theirs} netns {}", container.name()))?;
        let state = || -> Result<String> { Ok(agent.status()?.interface(&ours).to_string()) };
        thread::sleep(Duration::from_millis(500));
        let meanwhile = state()?;
        ensure!(meanwhile.contains("it has just come, and has no carrier yet"), "{ours}: {meanwhile}");
        let since = Instant::now();
        if comes_up {
            container.ip(&format!("link set {theirs} up"))?;
        }
        wait_until(
            Duration::from_secs(5),
            || Ok(state()?.contains("\"hook\":\"tc\"")),
            || format!("{ours} is attached to"),
        )?;
        println!("{ours}, carrier {comes_up}: attached to after {:?} more", since.elapsed());
    }
    Ok(())
}

/// A container starts as LXC's router mode has it: the node's end goes up while the other end is still down, a proxy entry
/// that is not permanent is added there, and up to 2 ms later the other end comes up. Now and then the kernel itself drops
/// the entry, when it acts on the missing carrier in between: it does so once a second, whoever looks. So the same is done
/// on a node without an agent, in turns; with one, at most so many `more` are lost. Chance takes a part of that: what the kernel does is the same for all
/// network namespaces, and the more links change on the machine, the more often it does it.
fn starts(hook: &[&str], count: u32, more: u32) -> Result<()> {
    let (mut alone, mut fast) = (Lab::new()?, Lab::new()?);
    for lab in [&alone, &fast] {
        // Of few interfaces the agent has always asked for all, which changes nothing.
        for other in 0..8 {
            lab.node().ip(&format!("link add other{other} type bridge"))?;
        }
    }
    // The first interface of all with a program makes the kernel change its own text, which takes as long as a grace period.
    fast.node().ip("link add lxc-first type veth peer name first")?;
    let _agent = AgentOptions::new(&["lxc*"]).args(hook).start(fast.node())?;
    let (one, other) = (alone.namespace("container")?, fast.namespace("container")?);
    let (mut lost_alone, mut lost) = (0, 0);
    for number in 0..count {
        let pause = Duration::from_micros(2000 * u64::from(number) / u64::from(count));
        lost_alone += u32::from(!keeps_entry(alone.node(), &one, number, pause)?);
        lost += u32::from(!keeps_entry(fast.node(), &other, number, pause)?);
    }
    println!(
        "{hook:?}: of {count} starts, the entry was lost in {lost_alone} with the kernel alone, in {lost} with the agent"
    );
    ensure!(
        lost <= lost_alone + more,
        "{hook:?}: {lost} of {count} entries were lost, with the kernel alone {lost_alone}"
    );
    Ok(())
}

/// Whether the entry is there after the start.
fn keeps_entry(node: &Namespace, container: &Namespace, number: u32, pause: Duration) -> Result<bool> {
    let interface = format!("lxc{number}");
    let other = File::open(Path::new(NAMES).join(container.name()))?;
    let [mut netlink, mut others] = [Netlink::open(node)?, Netlink::open(container)?];
    netlink.change(KernelChange::add_veth(&interface, &other))?;
    let [ours, eth0] = [node.run(|| index(&interface))??, container.run(|| index("eth0"))??];
    netlink.change(KernelChange::set_up(ours, true))?;
    netlink.change(KernelChange::add_proxy(GATEWAY, ours))?;
    thread::sleep(pause);
    others.change(KernelChange::set_up(eth0, true))?;
    // With its carrier, the interface keeps what it has by then.
    thread::sleep(Duration::from_millis(20));
    let entries = node.ip(&format!("neigh show proxy dev {interface}"))?;
    node.ip(&format!("link del {interface}"))?;
    Ok(entries.contains("169.254.0.1"))
}
