//! A network card whose driver runs XDP: virtio-net, as far as an emulated machine has one. `cargo xtask vm` gives its
//! guests two cards that are linked to each other, and says so in `ARP_TEST_CARDS`; no test takes a card elsewhere.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lab::{AgentOptions, kernel_is_since, needs_root, topology};

use super::hooks::{DRIVER, SKB, TCX};
use super::kinds::{DEVICE, joined, probe, request};
use super::{L, X};

/// The link-layer addresses of the cards: the node's, the host's.
const CARDS: &str = "ARP_TEST_CARDS";

/// The interfaces that have these addresses.
fn interfaces(addresses: &str) -> Result<Vec<String>> {
    let mut interfaces = Vec::new();
    for address in addresses.split_whitespace() {
        for entry in fs::read_dir("/sys/class/net").context("the machine's interfaces")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("address")).is_ok_and(|has| has.trim() == address) {
                interfaces.extend(entry.file_name().into_string().ok());
            }
        }
    }
    Ok(interfaces)
}

#[test]
fn xdp_in_driver_mode_and_other_hooks_on_a_card() -> Result<()> {
    needs_root!();
    let Ok(addresses) = env::var(CARDS) else {
        lab::skip("only a guest of `cargo xtask vm` has network cards to give away");
        return Ok(());
    };
    let interfaces = interfaces(&addresses)?;
    let [node_card, host_card] = &interfaces[..] else {
        lab::skip(&format!("this kernel shows {} of the guest's two network cards", interfaces.len()));
        return Ok(());
    };
    let mut lab = topology::matrix()?;
    let host = lab.namespace("t0")?;
    for (card, namespace, name) in [(node_card, lab.node(), DEVICE), (host_card, &host, "eth0")] {
        let words = ["link", "set", card, "netns", namespace.name(), "name", name];
        let moved = Command::new("ip").args(words).output().context("starting ip")?;
        ensure!(moved.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&moved.stderr));
    }
    let lab = joined(lab, host)?;
    let t0 = lab.host("t0");

    // As a card pads it, and a tag that the kernel takes off, which XDP sees as another EtherType.
    let mut padded = request(L);
    padded.resize(60, 0);
    let mut tagged = request(L);
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    let answered = [request(L), request(X), probe(L), padded];
    let passed = [probe(X), request([10, 6, 0, 6]), tagged];
    let ask_all = |frames: &[Vec<u8>]| frames.iter().map(|frame| t0.ask(frame)).collect::<Result<Vec<_>>>();
    let alone = [ask_all(&answered)?, ask_all(&passed)?];
    ensure!(alone[0].iter().all(|replies| replies.len() == 1), "the kernel alone: {:02x?}", alone[0]);
    ensure!(alone[1].iter().map(Vec::len).eq([0, 0, 1]), "the kernel alone: {:02x?}", alone[1]);

    for (hook, mode) in [(DRIVER, "driver"), (SKB, "skb"), (TCX, "tcx")] {
        if mode == "tcx" && !kernel_is_since(6, 6) {
            continue;
        }
        let mut agent = AgentOptions::new(&[DEVICE]).args(hook).start(lab.node())?;
        let shown = agent.status()?.interface(DEVICE).clone();
        ensure!(shown["mode"] == mode && shown["state"] == "answering", "{shown}");
        ensure!(ask_all(&answered)? == alone[0], "{mode}: {:02x?}, not {:02x?}", ask_all(&answered)?, alone[0]);
        let after = agent.status()?;
        ensure!(after.answered(DEVICE) == answered.len() as u64, "{mode}: {}", after.0);
        ensure!(ask_all(&passed)? == alone[1], "{mode}: {:02x?}, not {:02x?}", ask_all(&passed)?, alone[1]);
        ensure!(agent.status()?.answered(DEVICE) == answered.len() as u64, "{mode}: {}", agent.status()?.0);
        agent.stop()?;
        ensure!(ask_all(&answered)? == alone[0], "{mode}: after the agent's end");
    }
    Ok(())
}
