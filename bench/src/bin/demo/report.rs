//! Prints what surrounds the requests: the lab, the agent, and the table of the benchmark.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::compare::{Comparison, Slice, TURNS, responders};
use anyhow::Result;
use bench::{BURST, DEFAULT_DELAY, Responder, Spread, units};
use lab::topology::{CALICO_GATEWAY, CALICO_MAC, FAR_HOST, ROUTER_IP, UPLINK_IP};
use lab::{Agent, Lab};
use nix::sys::utsname::uname;
use tabled::builder::Builder;
use tabled::settings::formatting::AlignmentStrategy;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Style};

pub(crate) fn lab(lab: &Lab) -> Result<()> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let [gateway, node, router, far] = [CALICO_GATEWAY, UPLINK_IP, ROUTER_IP, FAR_HOST].map(Ipv4Addr::from);
    let [p0, p1, p2, p3] = ["p0", "p1", "p2", "p3"].map(|pod| {
        let host = lab.host(pod);
        format!("{pod} {} ── {}", Ipv4Addr::from(host.ip()), host.node_end())
    });
    println!(
        "A node as Calico sets it up, in network namespaces of its own (Linux {release}):

  {p0} ─┐
  {p1} ─┼─ node ── eth0 {node} ── {router} external, with {far} behind it
  {p2} ─┤
  {p3} ─┘ (for the benchmark)

  A pod's only route is `default via {gateway}`, an address that nobody has. The node's cali* have no address
  either, only {CALICO_MAC} and proxy_arp=1: the node answers for what it has a route to.
"
    );
    Ok(())
}

pub(crate) fn agent(took: Duration) {
    println!("arp-agent run --interface 'cali*': ready after {} ms\n", took.as_millis());
}

/// The agent's own table.
pub(crate) fn status(agent: &Agent) -> Result<()> {
    let output = agent.command(&["status"])?;
    println!("\narp-agent status:");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("  {}", line.trim_end());
    }
    Ok(())
}

/// Shows that a round begins.
pub(crate) fn round(number: usize, rounds: usize) -> Result<()> {
    print!("{} {number}", if number == 1 { format!("\nBenchmark of {rounds} rounds:") } else { String::new() });
    io::stdout().flush()?;
    Ok(())
}

/// The table, and under which conditions it came about.
pub(crate) fn comparison(comparison: &Comparison) {
    let mut table = Builder::default();
    table.push_record(["who answers", "p50", "p99", "p50 ratio", "replies/s", "ratio"]);
    for responder in responders() {
        let spread = |value: fn(&Slice) -> f64| Spread::of(&comparison.of(responder).map(value).collect::<Vec<_>>());
        let ratio = |value| Spread::of(&comparison.ratios(responder, value));
        let is_base = responder == Responder::Kernel;
        let ratio = |value| if is_base { "1".to_owned() } else { cell("", ratio(value)) };
        table.push_record([
            name(responder, comparison),
            cell("µs", spread(|slice| slice.p50)),
            cell("µs", spread(|slice| slice.p99)),
            ratio(|slice| slice.p50),
            cell("", spread(|slice| slice.rate)),
            ratio(|slice| slice.rate),
        ]);
    }
    let mut table = table.build();
    table
        .with(Style::rounded())
        .with(Modify::new(Columns::new(1..)).with(Alignment::right()).with(AlignmentStrategy::PerLine));
    println!("\n{table}");
    notes(comparison);
}

fn name(responder: Responder, comparison: &Comparison) -> String {
    let mode = comparison.modes.iter().find(|(whose, _)| *whose == responder).map(|(_, mode)| mode.as_str());
    match responder {
        Responder::DelayedKernel => {
            format!("kernel, proxy_delay {DEFAULT_DELAY}\n(default: 0 to {} ms)", DEFAULT_DELAY * 10)
        }
        Responder::Kernel => responder.name().to_owned(),
        _ => format!("fast path ({})", mode.unwrap_or("?")),
    }
}

fn notes(comparison: &Comparison) {
    let requests = |responder| -> usize { comparison.of(responder).map(|slice| slice.requests).sum() };
    let [delayed, kernel, xdp, tc] = responders().map(requests);
    let Comparison { rounds, core, cores, counted, .. } = comparison;
    println!(
        "  Medians of the turns, (lowest–highest) below. Ratios are to the kernel with proxy_delay 0 in the same turn.
  Latency: from send() of a who-has in the pod until recv() of its reply there, one request at a time, {kernel}, {xdp} and
    {tc} in all; under the delay 64 at once, {delayed} in all.
  Replies/s: of the median burst of {BURST}, with the pod's own send() and recv() in it, so nearly the reciprocal of
    the latency; under the delay 64 always in flight, 0.8 s a turn.
  {rounds} rounds of {TURNS} turns, in which the three without delay alternate; the delayed kernel has one turn a round.
    The four pods of one node differ only in who answers them, and with each round the roles move on by one pod. No
    program is attached to the kernel's two.
  Pod and responder share core {core} of {cores} (numbered from 0), with whatever else runs on this machine.
  Checked after each turn: each fast path's own counter rose by the requests of its turns, {counted} in all, and not at
    all in the others'."
    );
}

fn cell(unit: &str, spread: Spread) -> String {
    let [median, _, extremes] = units::spread(unit, &spread);
    format!("{median}\n({extremes})")
}
