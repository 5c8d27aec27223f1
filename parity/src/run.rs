//! A run: workers that take generations of scenarios, one after the other, each generation on a pair of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use crate::check::{self, Finding};
use crate::pair::{Pair, Script, ScriptStep};
use anyhow::{Context as _, Result};
use lab::{Lab, Stop, allowed_cores};

use crate::Args;
use crate::report::Progress;
use crate::scenario::{GENERATION, Scenario};
use crate::shrink;

/// How many divergences are shrunk; more are only counted and shown.
const SHRUNK: u64 = 6;

/// What the workers share.
struct Shared<'a> {
    args: &'a Args,
    /// Ends the run at the next batch.
    stop: &'a Stop,
    seed: u64,
    /// The kernel has VRFs.
    vrfs: bool,
    start: Instant,
    next: AtomicU64,
    shrunk: AtomicU64,
    report: Mutex<Progress>,
}

/// A scenario on its way through a pair.
struct Played {
    /// All that was done, up to the finding.
    steps: Vec<ScriptStep>,
    finding: Option<Finding>,
}

/// Runs until the time is over; true if nothing was wrong.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<bool> {
    if let Some(missing) = lab::missing_privilege() {
        anyhow::bail!("the lab cannot be built: {missing}");
    }
    if !args.replay.is_empty() {
        return replay(args);
    }
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 % 1_000_000_007),
    };
    if args.print {
        for (configuration, frames) in Scenario::draw(seed, args.first, args.frames, has_vrfs()?).phases {
            let frames = frames.into_iter().map(ScriptStep::Frame);
            print!("{}", Script(configuration.into_iter().chain(frames).collect()));
        }
        return Ok(true);
    }
    println!("parity: seed {seed}");
    let shared = Shared {
        args,
        stop,
        seed,
        vrfs: has_vrfs()?,
        start: Instant::now(),
        next: AtomicU64::new(args.first / GENERATION),
        shrunk: AtomicU64::new(0),
        report: Mutex::default(),
    };
    let cores = allowed_cores()?;
    let jobs = args.jobs.unwrap_or(cores.len()).max(1);
    let ended: Vec<Result<()>> = thread::scope(|scope| {
        let work = |job: usize| {
            let (shared, core) = (&shared, cores[job % cores.len()]);
            scope.spawn(move || shared.work(core))
        };
        let workers: Vec<_> = (0..jobs).map(work).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let report = shared.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    print!("{}", report.summary(seed, shared.start.elapsed(), !args.kernel_vs_kernel, args.count_policies));
    ended.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(report.divergences == 0 && report.contradictions == 0 && report.explained_wrongly == 0)
}

impl Shared<'_> {
    fn is_over(&self) -> bool {
        self.stop.is_asked() || self.start.elapsed() > self.args.duration()
    }

    fn work(&self, core: usize) -> Result<()> {
        let last = self.args.scenarios.map(|scenarios| self.args.first + scenarios);
        while !self.is_over() {
            let generation = self.next.fetch_add(1, Ordering::Relaxed);
            let mut scenarios = generation * GENERATION..(generation + 1) * GENERATION;
            scenarios.start = scenarios.start.max(self.args.first);
            scenarios.end = scenarios.end.min(last.unwrap_or(u64::MAX));
            if scenarios.is_empty() {
                return Ok(());
            }
            self.generation(scenarios, core)?;
        }
        Ok(())
    }

    fn report(&self) -> MutexGuard<'_, Progress> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self, scenarios: std::ops::Range<u64>, core: usize) -> Result<()> {
        let fast_path = self.args.fast_path()?;
        let mut pair = Pair::new(fast_path, core)?;
        let mut history: Vec<ScriptStep> = Vec::new();
        for number in scenarios {
            if self.is_over() {
                break;
            }
            let scenario = Scenario::draw(self.seed, number, self.args.frames, self.vrfs);
            self.report().scenario(&scenario);
            let played =
                self.play(&mut pair, &scenario).with_context(|| format!("scenario {number} of seed {}", self.seed))?;
            match played.finding {
                None => {
                    self.report().steps += scenario.undo.len() as u64;
                    pair.apply(&scenario.undo)?;
                    history.extend(played.steps.into_iter().filter(|step| step.frame().is_none()));
                    history.extend(scenario.undo);
                }
                Some(finding) => {
                    self.report().agent(&pair);
                    drop(pair);
                    let counts = self.found(&scenario, &history, played.steps, &finding, core)?;
                    self.report().finding(&finding, counts);
                    pair = Pair::new(fast_path, core)?;
                    history.clear();
                }
            }
        }
        self.report().agent(&pair);
        Ok(())
    }

    /// Takes a scenario through a pair, up to the first finding.
    fn play(&self, pair: &mut Pair, scenario: &Scenario) -> Result<Played> {
        let mut steps: Vec<ScriptStep> = Vec::new();
        let mut filtered = false;
        for (configuration, frames) in &scenario.phases {
            let refused = pair.apply(configuration)?;
            {
                let mut report = self.report();
                report.steps += configuration.len() as u64;
                report.refused_steps += refused as u64;
            }
            steps.extend(configuration.iter().cloned());
            let start = Instant::now();
            let state = check::state(pair, configuration, &mut filtered)?;
            *self.report().spent.entry("oracle's reading").or_default() += start.elapsed();
            let first = pair.ifindex(0);
            let finding = check::exchange(pair, frames, state.as_ref(), |batch, verdicts, explained| {
                steps.extend(batch.seen.iter().map(|seen| ScriptStep::Frame(seen.frame.clone())));
                let mut report = self.report();
                report.explained += explained.certain;
                report.explained_openly += explained.open;
                report.batch(batch, verdicts, first, scenario.number);
            })?;
            if let Some(finding) = finding {
                steps.extend(finding.frames().iter().cloned().map(ScriptStep::Frame));
                return Ok(Played { steps, finding: Some(finding) });
            }
        }
        Ok(Played { steps, finding: None })
    }

    /// Shows a finding, and writes the smallest script that shows it. False if the neighbour table was cleared
    /// meanwhile and it does not show again: two kernels alone would have differed.
    fn found(
        &self,
        scenario: &Scenario,
        history: &[ScriptStep],
        steps: Vec<ScriptStep>,
        finding: &Finding,
        core: usize,
    ) -> Result<bool> {
        let title = format!("seed {} scenario {} ({} frames)", self.seed, scenario.number, scenario.frames());
        eprintln!("{}: {title}: {finding}", finding.title());
        if self.args.no_shrink || self.shrunk.fetch_add(1, Ordering::Relaxed) >= SHRUNK {
            return Ok(true);
        }
        let shrunk = shrink::shrink(history, steps, self.args.fast_path()?, core, self.stop)?;
        let mut text = format!("# {title}\n");
        match &shrunk.finding {
            Some(finding) => {
                finding.to_string().lines().for_each(|line| text += &format!("# {line}\n"));
            }
            None => text += &format!("# seen once and not again, in {} trials\n", shrunk.trials),
        }
        text += &Script(shrunk.steps).to_string();
        fs::create_dir_all(&self.args.out).with_context(|| format!("making {}", self.args.out.display()))?;
        let path = self.args.out.join(format!("seed-{}-scenario-{}.txt", self.seed, scenario.number));
        fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
        if shrunk.finding.is_some() {
            eprintln!("smallest script that shows it, after {} trials ({}):\n{text}", shrunk.trials, path.display());
        } else {
            eprintln!("it did not show again in {} trials; all that led to it: {}", shrunk.trials, path.display());
            if finding.collected() {
                eprintln!("the kernel cleared the neighbour table of all namespaces meanwhile: not counted");
            }
        }
        Ok(shrunk.finding.is_some() || !finding.collected())
    }
}

/// Whether the kernel has VRFs: some are built without.
fn has_vrfs() -> Result<bool> {
    Ok(Lab::new()?.node().ip("link add red type vrf table 100").is_ok())
}

fn replay(args: &Args) -> Result<bool> {
    let mut same = true;
    for path in &args.replay {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let Script(steps) = text.parse().with_context(|| format!("{}", path.display()))?;
        let mut pair = Pair::new(args.fast_path()?, 0)?;
        match check::play(&mut pair, &steps)? {
            Some(finding) => {
                println!("{}: {finding}", path.display());
                same = false;
            }
            None => println!("{}: the same", path.display()),
        }
    }
    Ok(same)
}
