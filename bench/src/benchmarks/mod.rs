//! The benchmarks, one a file.

mod decide;
mod mirror;
mod noise;
mod peers;
mod protection;
mod reply;
mod rules;
mod scale;
mod spoof;
mod storm;
mod tax;
mod trace;
mod window;

use anyhow::Result;

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::Table;

/// A benchmark, by the name under which `cargo xtask bench` knows it.
pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    /// What it measures, in a line.
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Context, &mut Findings) -> Result<()>,
    /// What docs/performance.md shows of it.
    pub(crate) tables: &'static [Table],
}

/// All of them, in the order in which they run.
pub(crate) const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "noise",
        what: "the same thing against itself: what this machine cannot tell apart",
        run: noise::run,
        tables: noise::TABLES,
    },
    Benchmark {
        name: "decide",
        what: "what a decision costs, by the number of routes",
        run: decide::run,
        tables: decide::TABLES,
    },
    Benchmark {
        name: "reply",
        what: "how long a pod waits for a reply, one request at a time",
        run: reply::run,
        tables: reply::TABLES,
    },
    Benchmark {
        name: "storm",
        what: "many requests at once: replies a second, and what each costs",
        run: storm::run,
        tables: storm::TABLES,
    },
    Benchmark {
        name: "peers",
        what: "`reply` and `storm` against what people use instead",
        run: peers::run,
        tables: peers::TABLES,
    },
    Benchmark { name: "trace", what: "what a trace costs each frame", run: trace::run, tables: trace::TABLES },
    Benchmark { name: "tax", what: "what attaching costs traffic that is not ARP", run: tax::run, tables: tax::TABLES },
    Benchmark {
        name: "mirror",
        what: "how far the maps are behind the kernel",
        run: mirror::run,
        tables: mirror::TABLES,
    },
    Benchmark { name: "rules", what: "what routing rules cost the agent", run: rules::run, tables: rules::TABLES },
    Benchmark {
        name: "window",
        what: "how long the old state is answered after a change in the kernel",
        run: window::run,
        tables: window::TABLES,
    },
    Benchmark {
        name: "protection",
        what: "what floods and scans of one pod take from others, with and without policies",
        run: protection::run,
        tables: protection::TABLES,
    },
    Benchmark {
        name: "scale",
        what: "many interfaces: how soon a new one is answered on, and what the agent costs",
        run: scale::run,
        tables: scale::TABLES,
    },
];

pub(crate) fn names() -> Vec<&'static str> {
    BENCHMARKS.iter().map(|benchmark| benchmark.name).collect()
}
