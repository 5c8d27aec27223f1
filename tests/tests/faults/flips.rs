//! A sender whose link-layer address changes and changes back before the agent has heard of it: two hosts with one
//! address, failover, migration. The second change must not be answered from the entry as it was before the first.

use anyhow::{Context as _, Result, ensure};
use arp_common::{ArpFrame, Lladdr};
use lab::topology::{self, CALICO_GATEWAY};
use lab::{AgentOptions, Answerer, Host, SideBySide, needs_root};
use std::net::Ipv4Addr;

const OTHER: Lladdr = Lladdr::new([2, 0, 0, 0x77, 0, 0x66]);

/// The control request after which the agent has followed, and trusts what it knows.
const IN_SYNC: &str = "\"sync\"";

/// A flip: what is sent at once, from the host itself (`Own`) and from the other with its address.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// A request from the host.
    Own,
    /// A request from the other.
    Request,
    /// An announcement of the other.
    Announcement,
    /// A reply of the other to the node.
    Reply,
    /// A request of the other with so many tags of VLAN 0, which the kernel takes off.
    Tagged(usize),
}

impl Sent {
    fn frame(self, host: &Host) -> Vec<u8> {
        let mut other = ArpFrame::request(OTHER.bytes(), host.ip(), CALICO_GATEWAY);
        match self {
            Sent::Own => return host.who_has(CALICO_GATEWAY).to_vec(),
            Sent::Request | Sent::Tagged(_) => {}
            Sent::Announcement => other.arp.tpa = other.arp.spa,
            Sent::Reply => {
                other.arp.oper = [0, 2];
                other.dst = [0xee; 6];
                other.arp.tha = [0xee; 6];
            }
        }
        let mut bytes = other.to_bytes().to_vec();
        if let Sent::Tagged(tags) = self {
            (0..tags).for_each(|_| drop(bytes.splice(12..12, [0x81, 0x00, 0x00, 0x00])));
        }
        bytes
    }
}

/// Sends the frames in both labs, `times` times, each time from the same entry; gives how often the entries were not
/// the same afterwards, in this many of which the node with the fast path had not the host's own address.
fn flip(parity: &mut SideBySide, times: usize, known: bool, sent: &[Sent]) -> Result<(usize, usize)> {
    let (mut differ, mut wrong) = (0, 0);
    for _ in 0..times {
        let prepare = |lab: &mut lab::Lab| {
            let host = lab.host("p0");
            let (ip, dev) = (Ipv4Addr::from(host.ip()), host.node_end());
            if known {
                lab.node().ip(&format!("neigh replace {ip} lladdr {} dev {dev} nud stale", host.mac())).map(drop)
            } else {
                // There may be none.
                lab.node().output(&format!("ip neigh del {ip} dev {dev}")).map(drop)
            }
        };
        parity.both(prepare)?;
        parity.agent().ask(IN_SYNC)?;
        let entries = [parity.alone(), parity.fast()].map(|lab| -> Result<Option<Lladdr>> {
            let host = lab.host("p0");
            let frames: Vec<Vec<u8>> = sent.iter().map(|sent| sent.frame(host)).collect();
            host.exchange(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            let entry = lab.node().neighbour(host.node_end(), host.ip())?;
            Ok(entry.and_then(|entry| entry.lladdr))
        });
        let [alone, fast] = entries;
        let (alone, fast) = (alone?.context("the kernel alone has no entry")?, fast?);
        differ += usize::from(fast != Some(alone));
        wrong += usize::from(fast != Some(parity.fast().host("p0").mac()));
    }
    Ok((differ, wrong))
}

#[test]
fn an_address_that_flips_is_learnt_as_by_the_kernel() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    // The default interval: nothing is to depend on polls.
    let options = AgentOptions::new(&["cali*"]).default_reread();
    let mut parity = SideBySide::start_with(|| topology::calico(1), options)?;
    // So that no unanswered frame is ignored because it comes too soon.
    parity.node_sysctl("net.ipv4.neigh.cali0.locktime", -1)?;
    use Sent::{Announcement, Own, Reply, Request};
    let mut failed = Vec::new();
    for (times, known, sent) in [
        (100, true, [Request, Own].as_slice()),
        (20, true, &[Announcement, Own]),
        (20, true, &[Reply, Own]),
        (20, true, &[Request, Own, Request, Own]),
        (20, true, &[Own, Request, Announcement, Reply, Own]),
        (30, false, &[Own, Request, Own]),
        (20, false, &[Own, Own, Reply, Own]),
    ] {
        let (differ, wrong) = flip(&mut parity, times, known, sent)?;
        println!(
            "{sent:?}, known before: {known}: {differ} of {times} entries differ, {wrong} are not the last sender's"
        );
        if (differ, wrong) != (0, 0) {
            failed.push(format!("{sent:?}, known before: {known}: {differ} and {wrong} of {times}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    // When that is over, the entry is trusted again.
    parity.agent().ask(IN_SYNC)?;
    let by = parity.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?.by;
    ensure!(by == Answerer::FastPath, "after the flips: {by:?}");
    Ok(())
}

/// Where the program sees tagged frames: with clsact it is asked about none (docs/semantics.md). The stub is in their
/// way, too.
#[test]
fn tags_of_vlan_0_hide_no_change() -> Result<()> {
    needs_root!();
    let _turn = super::turn();
    let mut failed = Vec::new();
    for how in [["--hook", "xdp", "--xdp-mode", "skb"], ["--hook", "tc", "--tc-attach", "auto"]] {
        let options = how.iter().fold(AgentOptions::new(&["cali*"]), |options, argument| options.arg(argument));
        let mut parity = SideBySide::start_with(|| topology::calico(1), options)?;
        if parity.agent().ask("\"status\"")?.to_string().contains("\"clsact\"") {
            println!("{how:?}: this kernel has no tcx, and a filter sees no tagged frames");
            continue;
        }
        for tags in 1..=4 {
            let (differ, wrong) = flip(&mut parity, 10, true, &[Sent::Tagged(tags), Sent::Own])?;
            println!("{how:?}, {tags} tags: {differ} of 10 entries differ, {wrong} are not the last sender's");
            if (differ, wrong) != (0, 0) {
                failed.push(format!("{how:?}, {tags} tags: {differ} and {wrong} of 10"));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
