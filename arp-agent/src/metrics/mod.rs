//! Metrics for Prometheus: each family once, with its name, its type, its labels and its help.
//!
//! Names and labels are a promise, as reasons are: never used for something else.

pub(crate) mod http;

use crate::control::figures::{Figures, InterfaceGroup, ProcessFigures, ShadowFigures};
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricType};
use std::collections::BTreeMap;

/// What one scrape is made of.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// The agent's figures; `None`: it does not answer.
    pub figures: Option<Figures>,
    /// Since the agent's loop last turned, in seconds, where it is known.
    pub heartbeat_age: Option<f64>,
}

/// A metric.
struct MetricFamily {
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Scrape) -> Vec<MetricSample>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Counter,
    Gauge,
}

/// The values of the labels, and the value.
type MetricSample = (Vec<String>, f64);

/// One metric without labels, from the figures.
macro_rules! single {
    ($kind:ident $name:literal, $help:literal, |$figures:ident| $value:expr) => {
        MetricFamily {
            name: $name,
            kind: MetricKind::$kind,
            labels: &[],
            help: $help,
            samples: |scrape| of(scrape, |$figures| vec![(Vec::new(), $value)]),
        }
    };
}

/// The same from those of `--shadow`.
macro_rules! shadow {
    ($kind:ident $name:literal, $help:literal, |$shadow:ident| $value:expr) => {
        MetricFamily {
            name: $name,
            kind: MetricKind::$kind,
            labels: &[],
            help: $help,
            samples: |scrape| of_shadow(scrape, |$shadow| vec![(Vec::new(), $value)]),
        }
    };
}

/// The same from those of the agent's process.
macro_rules! process {
    ($kind:ident $name:literal, $help:literal, |$process:ident| $value:expr) => {
        MetricFamily {
            name: $name,
            kind: MetricKind::$kind,
            labels: &[],
            help: $help,
            samples: |scrape| of_process(scrape, |$process| $value),
        }
    };
}

const FAMILIES: &[MetricFamily] = &[
    MetricFamily {
        name: "arp_agent_build_info",
        kind: MetricKind::Gauge,
        labels: &["version"],
        help: "Always 1; the label is the version that runs.",
        samples: |scrape| of(scrape, |figures| vec![(vec![figures.version.clone()], 1.0)]),
    },
    MetricFamily {
        name: "arp_agent_up",
        kind: MetricKind::Gauge,
        labels: &[],
        help: "1 if the agent answered this scrape, 0 if it is gone, stopped or overloaded.",
        samples: |scrape| vec![(Vec::new(), number(scrape.figures.is_some()))],
    },
    single!(Gauge "arp_agent_ready", "1 while the maps are in sync with the kernel and all interfaces of the start are attached.", |figures| number(figures.ready)),
    MetricFamily {
        name: "arp_agent_heartbeat_age_seconds",
        kind: MetricKind::Gauge,
        labels: &[],
        help: "Time since the agent's event loop last turned (only over HTTP).",
        samples: |scrape| scrape.heartbeat_age.map(|age| (Vec::new(), age)).into_iter().collect(),
    },
    single!(Counter "arp_agent_replies_total", "ARP requests that the fast path answered.", |figures| figures.answered as f64),
    MetricFamily {
        name: "arp_agent_passes_total",
        kind: MetricKind::Counter,
        labels: &["reason"],
        help: "ARP frames that were left to the kernel, by reason.",
        samples: |scrape| {
            of(scrape, |figures| {
                figures.passed.iter().map(|(reason, &count)| (vec![reason.clone()], count as f64)).collect()
            })
        },
    },
    MetricFamily {
        name: "arp_agent_policy_replies_total",
        kind: MetricKind::Counter,
        labels: &["policy"],
        help: "ARP requests that a policy answered, and the kernel would not, or not at once.",
        samples: |scrape| of(scrape, |figures| by_policy(&figures.answered_by_policy)),
    },
    MetricFamily {
        name: "arp_agent_policy_would_reply_total",
        kind: MetricKind::Counter,
        labels: &["policy"],
        help: "ARP requests that a policy which only counts would have answered.",
        samples: |scrape| of(scrape, |figures| by_policy(&figures.would_answer)),
    },
    MetricFamily {
        name: "arp_agent_interfaces",
        kind: MetricKind::Gauge,
        labels: &["hook", "mode", "state", "reason"],
        help: "Interfaces that match, by state; the reason is empty unless they pass.",
        samples: |scrape| {
            of(scrape, |figures| {
                let sample = |group: &InterfaceGroup| {
                    let labels = [&group.hook, &group.mode, &group.state, &group.reason].map(String::clone);
                    (labels.into(), group.count as f64)
                };
                figures.interfaces.iter().map(sample).collect()
            })
        },
    },
    MetricFamily {
        name: "arp_agent_pattern_interfaces",
        kind: MetricKind::Gauge,
        labels: &["pattern"],
        help: "Interfaces that match a pattern of the setting `interface`.",
        samples: |scrape| {
            of(scrape, |figures| {
                figures.patterns.iter().map(|(pattern, &count)| (vec![pattern.clone()], count as f64)).collect()
            })
        },
    },
    single!(Gauge "arp_agent_routes", "Prefixes that are mirrored, in all views.", |figures| figures.routes as f64),
    single!(Gauge "arp_agent_neighbours", "Neighbour entries that are mirrored.", |figures| figures.neighbours as f64),
    single!(Gauge "arp_agent_views", "Ways in which senders' targets are looked up, by routing rules.", |figures| figures.views as f64),
    single!(Gauge "arp_agent_fib_nodes", "Nodes of the lookup tries in use, 1 KiB each.", |figures| f64::from(figures.fib_nodes)),
    single!(Counter "arp_agent_refused_entries_total", "Entries for which a map had no room; their frames pass.", |figures| figures.refused_entries as f64),
    single!(Counter "arp_agent_resyncs_total", "Complete dumps of the kernel's state, the first included.", |figures| figures.resyncs as f64),
    single!(Counter "arp_agent_resync_seconds_total", "Time that complete dumps took.", |figures| figures.resync_seconds),
    single!(Counter "arp_agent_netlink_overruns_total", "How often notifications of the kernel were lost.", |figures| figures.overruns as f64),
    single!(Counter "arp_agent_out_of_step_seconds_total", "Time in which every frame passed, because the maps were not in sync.", |figures| figures.out_of_step_seconds),
    single!(Gauge "arp_agent_held_back", "Interfaces and neighbour entries that change too often to be followed.", |figures| figures.held_back as f64),
    single!(Counter "arp_agent_held_back_total", "How often an interface or a neighbour entry was held back.", |figures| figures.times_held_back as f64),
    single!(Gauge "arp_agent_sysctl_hook", "1 if writes of sysctls are noticed before they take effect.", |figures| number(figures.sysctl_hook)),
    single!(Counter "arp_agent_settings_written_total", "Writes of sysctls that made frames pass.", |figures| figures.settings_written as f64),
    single!(Counter "arp_agent_settings_written_elsewhere_total", "Writes of sysctls that made no frame pass.", |figures| figures.settings_written_elsewhere as f64),
    single!(Gauge "arp_agent_config_stale", "1 if the last reload was refused, and older settings are in force.", |figures| number(figures.config_stale)),
    MetricFamily {
        name: "arp_agent_dropped_total",
        kind: MetricKind::Counter,
        labels: &["reason"],
        help: "ARP frames that policies dropped, by reason.",
        samples: |scrape| of(scrape, |figures| by_label(&figures.dropped)),
    },
    MetricFamily {
        name: "arp_agent_would_drop_total",
        kind: MetricKind::Counter,
        labels: &["reason"],
        help: "ARP frames that policies which only count would have dropped, by reason.",
        samples: |scrape| of(scrape, |figures| by_label(&figures.would_drop)),
    },
    MetricFamily {
        name: "arp_agent_events_total",
        kind: MetricKind::Counter,
        labels: &["kind"],
        help: "Events (`arp-agent events`), by kind; those that were not told one by one are included.",
        samples: |scrape| of(scrape, |figures| by_label(&figures.events)),
    },
    single!(Counter "arp_agent_events_lost_total", "Events of policies that were not told, because the ring buffer was full; the counters of drops have them.", |figures| figures.events_lost as f64),
    single!(Gauge "arp_agent_trace_clients", "Clients of `arp-agent trace`; while there is one, each frame costs more.", |figures| figures.trace_clients as f64),
    single!(Counter "arp_agent_trace_lost_total", "Frames that traces left out, because the ring buffer was full; what clients did not read fast enough is not among them.", |figures| figures.trace_lost as f64),
    MetricFamily {
        name: "arp_agent_neighbour_table_entries",
        kind: MetricKind::Gauge,
        labels: &[],
        help: "Entries in the neighbour table, which all network namespaces of the machine share.",
        samples: |scrape| of(scrape, |figures| table(figures.neighbour_table.map(|(entries, _)| entries))),
    },
    MetricFamily {
        name: "arp_agent_neighbour_table_limit",
        kind: MetricKind::Gauge,
        labels: &[],
        help: "The most entries that the neighbour table may hold (gc_thresh3).",
        samples: |scrape| of(scrape, |figures| table(figures.neighbour_table.map(|(_, most)| most))),
    },
    MetricFamily {
        name: "arp_agent_attach_failures_total",
        kind: MetricKind::Counter,
        labels: &["program"],
        help: "How often a program could not be attached to an interface: `answer`, `guard` (of policies that drop), `shadow`.",
        samples: |scrape| of(scrape, |figures| by_label(&figures.attach_failures)),
    },
    MetricFamily {
        name: "arp_agent_map_entries",
        kind: MetricKind::Gauge,
        labels: &["map"],
        help: "Entries of a BPF map that follows the kernel's state.",
        samples: |scrape| of(scrape, |figures| by_map(&figures.maps, 0)),
    },
    MetricFamily {
        name: "arp_agent_map_max_entries",
        kind: MetricKind::Gauge,
        labels: &["map"],
        help: "The most entries that the map may have. Above three quarters of it `interfaces` and `neighbours` may find no room for one more.",
        samples: |scrape| of(scrape, |figures| by_map(&figures.maps, 1)),
    },
    MetricFamily {
        name: "arp_agent_shadow_compared_total",
        kind: MetricKind::Counter,
        labels: &["verdict", "kernel"],
        help: "Requests that were compared with what the kernel does (only with shadow): `answer` or the reason for a pass, and whether the kernel `answered` or was `silent`.",
        samples: |scrape| {
            of_shadow(scrape, |shadow| {
                let each = shadow.verdicts.iter();
                let both = each.flat_map(|of| {
                    [("answered", of.kernel_answered), ("silent", of.kernel_silent)]
                        .map(|(kernel, count)| (vec![of.verdict.clone(), kernel.to_owned()], count as f64))
                });
                both.collect()
            })
        },
    },
    MetricFamily {
        name: "arp_agent_shadow_kernel_seconds_total",
        kind: MetricKind::Counter,
        labels: &["verdict"],
        help: "Time that the kernel's answers to these requests took (only with shadow).",
        samples: |scrape| {
            of_shadow(scrape, |shadow| {
                shadow.verdicts.iter().map(|of| (vec![of.verdict.clone()], of.kernel_seconds)).collect()
            })
        },
    },
    shadow!(Counter "arp_agent_shadow_would_reply_total", "Requests that the fast path would have answered as the kernel did (only with shadow).", |shadow| shadow.would_have_answered as f64),
    shadow!(Counter "arp_agent_shadow_disagreements_total", "Requests that the fast path would have answered, and the kernel did not, or otherwise (only with shadow).", |shadow| shadow.disagreements as f64),
    shadow!(Counter "arp_agent_shadow_not_compared_total", "Requests that came faster than the comparison, or again before it was done (only with shadow).", |shadow| shadow.not_compared as f64),
    shadow!(Gauge "arp_agent_shadow_unseen_interfaces", "Interfaces on which the kernel's answers cannot be seen (only with shadow).", |shadow| shadow.not_seen as f64),
    MetricFamily {
        name: "arp_agent_interface_replies_total",
        kind: MetricKind::Counter,
        labels: &["interface"],
        help: "ARP requests that the fast path answered on an interface (only with metrics-interfaces).",
        samples: |scrape| {
            of(scrape, |figures| {
                figures.each_interface.iter().map(|of| (vec![of.name.clone()], of.answered as f64)).collect()
            })
        },
    },
    MetricFamily {
        name: "arp_agent_interface_passes_total",
        kind: MetricKind::Counter,
        labels: &["interface", "reason"],
        help: "ARP frames of an interface that were left to the kernel, by reason (only with metrics-interfaces).",
        samples: |scrape| {
            of(scrape, |figures| {
                let each = figures.each_interface.iter();
                let passed =
                    each.flat_map(|of| of.passed.iter().map(move |(reason, &count)| (&of.name, reason, count)));
                passed.map(|(name, reason, count)| (vec![name.clone(), reason.clone()], count as f64)).collect()
            })
        },
    },
    process!(Counter "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", |process| Some(process.cpu_seconds)),
    process!(Gauge "process_max_fds", "Maximum number of open file descriptors.", |process| process.max_fds.map(|most| most as f64)),
    process!(Gauge "process_open_fds", "Number of open file descriptors.", |process| Some(process.open_fds as f64)),
    process!(Gauge "process_resident_memory_bytes", "Resident memory size in bytes.", |process| Some(process.resident_bytes as f64)),
    process!(Gauge "process_start_time_seconds", "Start time of the process since unix epoch in seconds.", |process| Some(process.started)),
    process!(Gauge "process_threads", "Number of OS threads in the process.", |process| Some(process.threads as f64)),
    process!(Gauge "process_virtual_memory_bytes", "Virtual memory size in bytes.", |process| Some(process.virtual_bytes as f64)),
];

fn of(scrape: &Scrape, samples: impl FnOnce(&Figures) -> Vec<MetricSample>) -> Vec<MetricSample> {
    scrape.figures.as_ref().map(samples).unwrap_or_default()
}

fn of_shadow(scrape: &Scrape, samples: impl FnOnce(&ShadowFigures) -> Vec<MetricSample>) -> Vec<MetricSample> {
    of(scrape, |figures| figures.shadow.as_ref().map(samples).unwrap_or_default())
}

fn of_process(scrape: &Scrape, value: impl FnOnce(&ProcessFigures) -> Option<f64>) -> Vec<MetricSample> {
    of(scrape, |figures| {
        figures.process.as_ref().and_then(value).map(|value| (Vec::new(), value)).into_iter().collect()
    })
}

fn by_map(maps: &BTreeMap<String, [u32; 2]>, which: usize) -> Vec<MetricSample> {
    maps.iter().map(|(map, size)| (vec![map.clone()], f64::from(size[which]))).collect()
}

fn by_policy(counts: &BTreeMap<String, u64>) -> Vec<MetricSample> {
    counts.iter().map(|(policy, &count)| (vec![policy.clone()], count as f64)).collect()
}

fn by_label(counts: &BTreeMap<String, u64>) -> Vec<MetricSample> {
    counts.iter().map(|(label, &count)| (vec![label.clone()], count as f64)).collect()
}

fn table(size: Option<u64>) -> Vec<MetricSample> {
    size.map(|size| (Vec::new(), size as f64)).into_iter().collect()
}

fn number(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// The text that Prometheus scrapes.
///
/// # Errors
/// A name is not one that Prometheus takes.
pub(crate) fn text(scrape: &Scrape) -> anyhow::Result<String> {
    // Not by the library's registry, whose families are made to be kept: each scrape would make them all anew, which
    // takes longer than all the rest of it.
    let mut families: Vec<prometheus::proto::MetricFamily> =
        FAMILIES.iter().map(|family| family.filled(scrape)).filter(|family| !family.get_metric().is_empty()).collect();
    families.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(TextEncoder::new().encode_to_string(&families)?)
}

impl MetricFamily {
    /// The family with its samples, as the library writes them.
    fn filled(&self, scrape: &Scrape) -> prometheus::proto::MetricFamily {
        let label = |(name, value): (&&str, String)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value(value);
            label
        };
        let metric = |(values, value): MetricSample| {
            let mut labels: Vec<LabelPair> = self.labels.iter().zip(values).map(label).collect();
            labels.sort_by(|one, other| one.name().cmp(other.name()));
            let mut metric = Metric::from_label(labels);
            match self.kind {
                MetricKind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                MetricKind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        };
        let mut family = prometheus::proto::MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            MetricKind::Counter => MetricType::COUNTER,
            MetricKind::Gauge => MetricType::GAUGE,
        });
        family.set_metric((self.samples)(scrape).into_iter().map(metric).collect());
        family
    }
}

#[cfg(test)]
mod document;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::control::figures::{InterfaceCounts, VerdictFigures};

    /// Figures in which each family has a sample.
    pub(crate) fn scrape() -> Scrape {
        let passed = [("no_route".to_owned(), 3)];
        let figures = Figures {
            version: "1".into(),
            process: Some(ProcessFigures { open_fds: 17, max_fds: Some(1024), ..ProcessFigures::default() }),
            answered: 7,
            passed: passed.clone().into(),
            answered_by_policy: [("gateway".to_owned(), 2)].into(),
            would_answer: [("no_delay".to_owned(), 1)].into(),
            dropped: [("entry_limit".to_owned(), 4)].into(),
            would_drop: [("entry_limit".to_owned(), 6)].into(),
            events: [("spoofed".to_owned(), 9)].into(),
            neighbour_table: Some((12, 1024)),
            interfaces: vec![InterfaceGroup { hook: "tc".into(), count: 2, ..InterfaceGroup::default() }],
            each_interface: vec![InterfaceCounts { name: "cali0".into(), answered: 5, passed: passed.into() }],
            patterns: [("cali*".to_owned(), 2)].into(),
            shadow: Some(ShadowFigures {
                would_have_answered: 11,
                disagreements: 1,
                verdicts: vec![VerdictFigures {
                    verdict: "answer".into(),
                    kernel_answered: 12,
                    kernel_silent: 0,
                    kernel_seconds: 0.5,
                }],
                ..ShadowFigures::default()
            }),
            attach_failures: [("guard".to_owned(), 3)].into(),
            maps: [("neighbours".to_owned(), [13, 98_304])].into(),
            ..Figures::default()
        };
        Scrape { figures: Some(figures), heartbeat_age: Some(0.25) }
    }

    #[test]
    fn each_family_has_help_type_and_samples() {
        let text = text(&scrape()).unwrap();
        for MetricFamily { name, kind, help, .. } in FAMILIES {
            let kind = if *kind == MetricKind::Counter { "counter" } else { "gauge" };
            assert!(text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}")), "{name}: {text}");
        }
        for line in [
            "arp_agent_replies_total 7\n",
            "arp_agent_passes_total{reason=\"no_route\"} 3\n",
            "arp_agent_interfaces{hook=\"tc\",mode=\"\",reason=\"\",state=\"\"} 2\n",
            "arp_agent_dropped_total{reason=\"entry_limit\"} 4\n",
            "arp_agent_would_drop_total{reason=\"entry_limit\"} 6\n",
            "arp_agent_events_total{kind=\"spoofed\"} 9\n",
            "arp_agent_neighbour_table_limit 1024\n",
            "arp_agent_attach_failures_total{program=\"guard\"} 3\n",
            "arp_agent_map_entries{map=\"neighbours\"} 13\n",
            "arp_agent_map_max_entries{map=\"neighbours\"} 98304\n",
            "arp_agent_shadow_compared_total{kernel=\"answered\",verdict=\"answer\"} 12\n",
            "arp_agent_shadow_compared_total{kernel=\"silent\",verdict=\"answer\"} 0\n",
            "arp_agent_shadow_kernel_seconds_total{verdict=\"answer\"} 0.5\n",
            "arp_agent_shadow_would_reply_total 11\n",
            "arp_agent_shadow_disagreements_total 1\n",
            "arp_agent_interface_passes_total{interface=\"cali0\",reason=\"no_route\"} 3\n",
            "process_open_fds 17\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn an_agent_that_tells_nothing_of_its_process_has_no_such_metrics() {
        let Scrape { figures: Some(figures), heartbeat_age } = scrape() else { panic!("no figures") };
        let without = |process| Scrape { figures: Some(Figures { process, ..figures.clone() }), heartbeat_age };
        assert!(!text(&without(None)).unwrap().contains("process_"));
        let unlimited = text(&without(Some(ProcessFigures::default()))).unwrap();
        assert!(unlimited.contains("process_open_fds 0\n") && !unlimited.contains("process_max_fds"), "{unlimited}");
    }

    #[test]
    fn an_agent_that_does_not_answer_is_down() {
        let text = text(&Scrape { figures: None, heartbeat_age: Some(20.0) }).unwrap();
        assert!(text.contains("arp_agent_up 0\n") && text.contains("arp_agent_heartbeat_age_seconds 20\n"), "{text}");
        assert!(!text.contains("arp_agent_ready") && !text.contains("process_"), "{text}");
    }

    #[test]
    fn counters_end_in_total_and_gauges_do_not() {
        for MetricFamily { name, kind, .. } in FAMILIES {
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
        }
    }
}
