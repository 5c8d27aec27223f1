//! What `arp-agent explain` says of frames, beside what the kernel alone did with them: a batch of frames is handed to it
//! as a capture, in the node's namespace.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{Namespace, agent_binary};
use serde_json::Value;

use crate::pair::{Frame, PORTS, Seen};

/// Of a pcapng file (draft-ietf-opsawg-pcapng): block types, and the
/// option that names an interface.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const IF_NAME: u16 = 2;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u32 = 1;

/// What `explain` says of some frames.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    /// How many it said something certain of.
    pub(crate) certain: u64,
    /// Of how many it said that nobody can say, or that a hash decides.
    pub(crate) open: u64,
    /// A frame of which it said what the kernel did not do, and what it said.
    pub(crate) wrong: Option<(Frame, String)>,
}

/// Asks about a batch. A frame that did not reach the node is left out.
pub(crate) fn explain(node: &Namespace, seen: &[Seen<'_>]) -> Result<Explained> {
    let arrived: Vec<&Seen<'_>> = seen.iter().filter(|seen| seen.taken.is_some()).collect();
    let mut explained = Explained::default();
    for line in ask(node, &arrived.iter().map(|seen| seen.frame).collect::<Vec<_>>())? {
        // Frames are told apart by their time.
        let number = line["at_s"].as_f64().context("a line without a time")? as usize;
        let Some(seen) = arrived.get(number) else { continue };
        let said = match line["kernel"].as_str() {
            Some("answers") => true,
            // A delay is longer than any run.
            Some("silent" | "answers_after_delay") => false,
            _ => {
                explained.open += 1;
                continue;
            }
        };
        explained.certain += 1;
        if said != seen.answered && explained.wrong.is_none() {
            let did = if seen.answered { "answered" } else { "was silent" };
            explained.wrong = Some((seen.frame.clone(), format!("explain says that {}, and it {did}", line["why"])));
        }
    }
    Ok(explained)
}

fn ask(node: &Namespace, frames: &[&Frame]) -> Result<Vec<Value>> {
    let mut command = Command::new(agent_binary()?);
    command.args(["explain", "--pcap", "-", "--json", "--run-dir", "/nonexistent"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.run(|| command.spawn())?.context("starting arp-agent explain")?;
    let capture = capture(frames);
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(&capture)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "arp-agent explain: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// The frames as a pcapng file, each a second after the one before.
fn capture(frames: &[&Frame]) -> Vec<u8> {
    let mut file = Vec::new();
    let version = [1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat();
    block(&mut file, SECTION, &[&BYTE_ORDER.to_ne_bytes()[..], &version, &u64::MAX.to_ne_bytes()].concat());
    for port in 0..PORTS {
        let name = format!("v{port}");
        let mut body = [&ETHERNET.to_ne_bytes()[..], &0u32.to_ne_bytes(), &IF_NAME.to_ne_bytes()].concat();
        body.extend((name.len() as u16).to_ne_bytes());
        body.extend(name.as_bytes());
        body.resize(body.len().next_multiple_of(4), 0);
        // The end of the options.
        body.extend([0; 4]);
        block(&mut file, INTERFACE, &body);
    }
    for (number, frame) in frames.iter().enumerate() {
        let micros = number as u64 * 1_000_000;
        let len = (frame.bytes.len() as u32).to_ne_bytes();
        let time = [((micros >> 32) as u32).to_ne_bytes(), (micros as u32).to_ne_bytes()].concat();
        let mut body = [&u32::from(frame.port).to_ne_bytes()[..], &time, &len, &len, &frame.bytes].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        block(&mut file, PACKET, &body);
    }
    file
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let len = (body.len() as u32 + 12).to_ne_bytes();
    file.extend(kind.to_ne_bytes());
    file.extend(len);
    file.extend(body);
    file.extend(len);
}
