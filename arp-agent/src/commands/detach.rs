//! `arp-agent detach`: removes what dead agents left.

use super::Exit;
use super::output::print_line;
use crate::cli;
use crate::control::Request;
use crate::control::client::{AgentAnswer, ask};
use crate::hooks::clsact::Filters;
use crate::hooks::interface_name as name;
use crate::hooks::pins::Pins;
use anyhow::{Context as _, bail};
use globset::{Glob, GlobSetBuilder};

/// Removes what agents of this network namespace left that no longer run, and prints what it removed.
///
/// # Errors
/// An agent runs, or the kernel refuses.
pub fn detach(arguments: &cli::DetachArgs) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let dry_run = arguments.dry_run;
    let runs = !matches!(ask(run_dir, &Request::Status)?, AgentAnswer::NotRunning);
    if runs && !dry_run {
        bail!("an agent runs with run directory {}: end it first (systemctl stop, SIGTERM)", run_dir.display());
    }
    let mut wanted = GlobSetBuilder::new();
    for pattern in &arguments.interfaces {
        wanted.add(Glob::new(pattern).with_context(|| format!("--interface {pattern}: not a glob"))?);
    }
    let wanted = wanted.build()?;
    let is_wanted = |ifindex: u32| wanted.is_empty() || wanted.is_match(name(ifindex));
    let did = if dry_run { "would remove" } else { "removed" };
    let mut outcome = Detached { done: 0, failed: 0, untold: None };

    let mut filters = Filters::new()?;
    let found = filters.find().context("looking for tc filters failed")?;
    let mut living = found.living;
    let mut made = Vec::new();
    for left in found.left.iter().filter(|left| is_wanted(left.ifindex())) {
        let ifindex = left.ifindex();
        // Asked before: the filter of an older version says so, and goes.
        if filters.was_made_here(left) {
            made.push(ifindex);
        }
        let removed = if dry_run { Ok(true) } else { filters.remove_left(left) };
        outcome.say(&removed, || format!("{}: {did} the tc filter", name(ifindex)));
    }
    for ifindex in found.hooked.into_iter().filter(|&ifindex| is_wanted(ifindex)) {
        let removed = match dry_run && made.contains(&ifindex) {
            true => Ok(true),
            false => filters.remove_made_qdisc(ifindex, made.contains(&ifindex), dry_run),
        };
        outcome.say(&removed, || format!("{}: {did} the empty clsact queueing discipline", name(ifindex)));
    }

    let bpffs = arguments.bpffs.as_path();
    if let Some(pins) = Pins::open(bpffs, filters.name())? {
        let found =
            pins.find().with_context(|| format!("looking for pinned links under {} failed", bpffs.display()))?;
        living.extend(found.living);
        for left in found.left.into_iter().filter(|left| is_wanted(left.ifindex)) {
            let (ifindex, hook, path) = (left.ifindex, left.how.hook(), left.path().to_owned());
            let removed = if dry_run { Ok(true) } else { left.unpin().map(|_link| true).map_err(Into::into) };
            outcome.say(&removed, || format!("{}: {did} the {hook} program ({})", name(ifindex), path.display()));
        }
        pins.tidy();
    }

    living.retain(|(ifindex, _)| is_wanted(*ifindex));
    for (ifindex, agent) in &living {
        eprintln!("{}: left alone: agent {agent} still runs; end it first", name(*ifindex));
    }
    if outcome.failed > 0 {
        bail!("{} of {} could not be removed", outcome.failed, outcome.done + outcome.failed);
    }
    if let Some(error) = outcome.untold {
        return Err(error.context("all is removed that could be, but it cannot be told"));
    }
    if runs {
        eprintln!(
            "an agent runs with run directory {}: its programs are not counted here, and `detach` removes nothing before it \
             has ended",
            run_dir.display()
        );
    } else if outcome.done == 0 && living.is_empty() {
        print_line("nothing is left of any agent")?;
    }
    Ok(if living.is_empty() && !runs { Exit::Ok } else { Exit::No })
}

struct Detached {
    done: usize,
    failed: usize,
    /// Why it could not be told. The rest is removed all the same.
    untold: Option<anyhow::Error>,
}

impl Detached {
    /// Says what was done, unless there was nothing to do.
    fn say(&mut self, removed: &anyhow::Result<bool>, what: impl Fn() -> String) {
        match removed {
            Ok(false) => {}
            Ok(true) => {
                self.done += 1;
                self.untold = self.untold.take().or(print_line(what()).err());
            }
            Err(error) => {
                self.failed += 1;
                eprintln!("{} failed: {error:#}", what());
            }
        }
    }
}
