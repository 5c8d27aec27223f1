//! docs/metrics.md: made of the families, and compared with what is committed. `cargo xtask docs` writes it.

use super::{FAMILIES, MetricFamily, MetricKind};
use std::fmt::Write as _;

const INTRODUCTION: &str = "# Metrics, probes, alerts

<!-- `cargo xtask docs` writes this file from arp-agent/src/metrics. -->

The agent serves metrics and probes over HTTP where `listen-address` names an address (docs/configuration.md), for
example `127.0.0.1:9798`. By default it serves nothing. Without a port, `arp-agent metrics` prints the same text for
node_exporter's textfile collector:

```
arp-agent metrics > /var/lib/node_exporter/arp-agent.prom.new
mv /var/lib/node_exporter/arp-agent.prom.new /var/lib/node_exporter/arp-agent.prom
```

| path | answer |
|---|---|
| `/metrics` | all metrics below, in Prometheus' text format. If the agent does not answer within 2 s, `arp_agent_up` is 0 and most others are missing |
| `/livez` | 200 if the agent's event loop has turned in the last 15 s, else 503. It does not depend on the kernel or on interfaces |
| `/readyz` | 200 if the maps are in sync and all interfaces of the start are attached, else 503 with the reason. An interface that does not answer does not change it |

Only GET and HEAD are served, without TLS and without authentication: the metrics have names of interfaces and patterns,
and no other secrets. Listen on the loopback address, or restrict the port with a firewall. At most 16 connections are
open for each address, each for one request of at most 8 KiB and for at most 10 s; one more replaces the oldest. A
thread of its own serves them. It asks the agent at most ten times a second, however often it is asked itself.

packaging/prometheus/alerts.yaml has alerts, packaging/grafana/arp-agent.json a dashboard.

## Metrics
Names and labels stay. The counters count since the start of the agent. They include interfaces that are gone, except
those with the label `interface`. Each reason is there from the start, with 0 (docs/operations.md, *All reasons*).

| metric | type | labels | meaning |
|---|---|---|---|
";

fn markdown() -> String {
    let mut markdown = INTRODUCTION.to_owned();
    for MetricFamily { name, kind, labels, help, .. } in FAMILIES {
        let kind = if *kind == MetricKind::Counter { "counter" } else { "gauge" };
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(markdown, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    markdown
}

#[test]
fn the_metrics_are_documented_as_they_are() {
    crate::claims::assert_generated("docs/metrics.md", &markdown());
}
