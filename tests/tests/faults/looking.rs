//! By looking, the agent changes nothing of what it looks at.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::netlink::{KernelChange, Netlink, index};
use lab::{AgentOptions, Lab, NAMES, Namespace, needs_root};

/// What LXC's router mode adds to the node's end.
const GATEWAY: [u8; 4] = [169, 254, 0, 1];

#[test]
fn an_entry_added_right_after_link_up_stays() -> Result<()> {
    starts(40)
}

#[test]
fn long_entry_added_right_after_link_up() -> Result<()> {
    starts(200)
}

/// A container starts as LXC's router mode has it: the node's end goes up while the other end is still down, a proxy entry
/// that is not permanent is added there, and up to 2 ms later the other end comes up. Now and then the kernel itself drops
/// the entry, when it acts on the missing carrier in between: it does so once a second, whoever looks. So the same is done
/// on a node without an agent, in turns.
fn starts(count: u32) -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let (mut alone, mut fast) = (Lab::new()?, Lab::new()?);
    for lab in [&alone, &fast] {
        // Of few interfaces the agent has always asked for all, which changes nothing.
        for other in 0..8 {
            lab.node().ip(&format!("link add other{other} type bridge"))?;
        }
    }
    let _agent = AgentOptions::new(&["lxc*"]).start(fast.node())?;
    let (one, other) = (alone.namespace("container")?, fast.namespace("container")?);
    let (mut lost_alone, mut lost) = (0, 0);
    for number in 0..count {
        let pause = Duration::from_micros(2000 * u64::from(number) / u64::from(count));
        lost_alone += u32::from(!keeps_entry(alone.node(), &one, number, pause)?);
        lost += u32::from(!keeps_entry(fast.node(), &other, number, pause)?);
    }
    println!("of {count} starts, the entry was lost in {lost_alone} with the kernel alone, in {lost} with the agent");
    // What the kernel does by itself, twice over, for chance.
    let bound = 2 * lost_alone + count / 20;
    ensure!(lost <= bound, "{lost} of {count} entries were lost, with the kernel alone {lost_alone}");
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
