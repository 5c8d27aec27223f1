//! The same thing against itself. A ratio in another benchmark means nothing if it is nearer to 1 than these.

use std::time::Instant;

use anyhow::Result;
use arp_agent::dataplane::bpf::Bpf;
use lab::OnCore;

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::samples::{Key, order};

/// `lo`, the first interface of every namespace.
const INGRESS: u32 = 1;

const RUN: &str = "one run of the program";

pub(crate) const TABLES: &[Table] = &[Table { columns: Columns::Cases, measures: &[(RUN, RUN)], cases: &[] }];

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let _core = OnCore::enter(context.core)?;
    let (rounds, runs) = context.either((31, 20_000), (3, 200));
    // Not ARP: the program passes it after a look at its EtherType.
    let frame = [0; 60];
    let mut bpf = Bpf::load()?;
    for round in 0..rounds {
        context.check()?;
        for case in order(round, 2) {
            let begin = Instant::now();
            for _ in 0..runs {
                bpf.run(INGRESS, &frame)?;
            }
            let micros = begin.elapsed().as_secs_f64() * 1e6 / f64::from(runs);
            findings.push(Key::new(RUN, ["it", "itself"][case]), "µs", micros);
        }
    }
    findings.compare(RUN, "it");
    findings
        .note(format!("One BPF_PROG_TEST_RUN a run, system call and all, {runs} a round, on core {}.", context.core));
    Ok(())
}
