//! What is printed around the requests: the lab, the agent, and the table of the benchmark.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use nix::sys::utsname::uname;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Style};
use tests::bench::{Comparison, Responder, Slice, Spread, TURNS};
use tests::topology::{CALICO_GATEWAY, CALICO_MAC, FAR_HOST, ROUTER_IP, UPLINK_IP};
use tests::{Agent, Lab};

pub(crate) fn lab(lab: &Lab) -> Result<()> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let [gateway, node, router, far] = [CALICO_GATEWAY, UPLINK_IP, ROUTER_IP, FAR_HOST].map(Ipv4Addr::from);
    let [p0, p1, p2] = ["p0", "p1", "p2"].map(|pod| {
        let host = lab.host(pod);
        format!("{pod} {} ── {}", Ipv4Addr::from(host.ip()), host.node_end())
    });
    println!(
        "A node as Calico sets it up, in network namespaces of its own (Linux {release}):

  {p0} ─┐
  {p1} ─┼─ node ── eth0 {node} ── {router} external, with {far} behind it
  {p2} ─┘

  A pod's only route is `default via {gateway}`, an address that nobody has. The node's cali* have no address
  either, only {CALICO_MAC} and proxy_arp=1: the node answers for what it has a route to.
"
    );
    Ok(())
}

pub(crate) fn agent(agent: &Agent, took: Duration) {
    println!("arp-agent run --interface 'cali*': process {}, ready after {} ms\n", agent.pid(), took.as_millis());
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

pub(crate) fn before_comparison(rounds: usize) -> Result<()> {
    println!("\nBenchmark, {rounds} rounds …");
    io::stdout().flush()?;
    Ok(())
}

/// The table, and under which conditions it came about.
pub(crate) fn comparison(comparison: &Comparison) {
    let mut table = Builder::default();
    table.push_record(["who answers", "p50, µs", "p99, µs", "p50 ratio", "replies/s", "ratio"]);
    for responder in Responder::ALL {
        let spread = |value: fn(&Slice) -> f64| Spread::of(comparison.of(responder).map(value));
        let ratio = |value| Spread::of(comparison.ratios(responder, value));
        let is_base = responder == Responder::Kernel;
        let ratio = |value| if is_base { "1".to_owned() } else { cell(ratio(value)) };
        table.push_record([
            name(responder, comparison),
            cell(spread(|slice| slice.p50)),
            cell(spread(|slice| slice.p99)),
            ratio(|slice| slice.p50),
            cell(spread(Slice::rate)),
            ratio(Slice::rate),
        ]);
    }
    let mut table = table.build();
    table.with(Style::rounded()).with(Modify::new(Columns::new(1..)).with(Alignment::right()));
    println!("{table}");
    notes(comparison);
}

fn name(responder: Responder, comparison: &Comparison) -> String {
    let delay = comparison.default_delay;
    match responder {
        Responder::DelayedKernel => format!("kernel, proxy_delay {delay}\n(its default: 0 to {} ms)", delay * 10),
        Responder::Kernel => "kernel, proxy_delay 0".to_owned(),
        Responder::FastPath => format!("fast path ({})", comparison.mode),
    }
}

fn notes(comparison: &Comparison) {
    let requests = |responder| -> usize { comparison.of(responder).map(|slice| slice.requests).sum() };
    let [delayed, kernel, fast] = Responder::ALL.map(requests);
    let Comparison { rounds, core, cores, counted, .. } = comparison;
    println!(
        "  Medians of the turns, (lowest–highest) below; ratios are to the kernel with proxy_delay 0 in the same turn.
  Latency: from before send() of a who-has in the pod to after recv() of its reply there; one request at a time,
    {kernel} and {fast} in all; with the delay up to 64 at once, {delayed} in all.
  Replies/s: bursts of 64 from the pod, 0.1 s a turn, the pod's own send() and recv() included; with the delay 64
    requests always in flight for 0.8 s.
  {rounds} rounds of {TURNS} turns, the responders taking turns ({rounds} turns of the delayed one); three pods of one node, alike but for
    who answers; each round the roles move on. All on core {core} of {cores}, which also runs whatever else the machine does.
  Checked after each turn: the fast path's counter moved by the requests of its own turns, {counted} in all, and by none
    of the kernel's."
    );
}

fn cell(spread: Spread) -> String {
    let Spread { median, lowest, highest } = spread;
    format!("{}\n({}–{})", number(median), number(lowest), number(highest))
}

/// Three digits, or all in front of the point, by thousands.
fn number(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let decimals = (2.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match fraction {
        Some(fraction) => format!("{grouped}.{fraction}"),
        None => grouped,
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_three_digits_or_thousands() {
        let cases = [
            (0.0, "0.00"),
            (0.000_123_4, "0.000123"),
            (0.853, "0.853"),
            (3.625, "3.62"),
            (48.61, "48.6"),
            (151.9, "152"),
            (412_331.2, "412,331"),
            (1_000_000.0, "1,000,000"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
