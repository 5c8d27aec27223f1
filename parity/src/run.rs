//! A run: workers that take generations of worlds, one after the other, each generation on twins of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use crate::pair::{Divergence, Pair, Script, Step};
use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::Args;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::shrink;
use crate::state::State;

/// Set by SIGINT and SIGTERM.
pub(crate) static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Worlds that the same twins, and the same agent, go through. What a world leaves behind in a namespace for good (that
/// there has been a rule, or a local route of somebody's) is there for the later ones.
const GENERATION: u64 = 20;

/// How many divergences are shrunk; more are only counted and shown.
const SHRUNK: u64 = 6;

/// What the workers share.
struct Shared<'a> {
    args: &'a Args,
    seed: u64,
    start: Instant,
    next: AtomicU64,
    shrunk: AtomicU64,
    report: Mutex<Report>,
}

/// A world on its way through twins.
struct Played {
    /// All that was done, up to the divergence.
    steps: Vec<Step>,
    divergence: Option<Divergence>,
}

/// Runs until the time is over; true if nothing diverged.
pub(crate) fn run(args: &Args) -> Result<bool> {
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
        for (configuration, frames) in Scenario::draw(seed, args.first, args.frames).phases {
            let frames = frames.into_iter().map(Step::Frame);
            print!("{}", Script(configuration.into_iter().chain(frames).collect()));
        }
        return Ok(true);
    }
    println!("parity: seed {seed}");
    let shared = Shared {
        args,
        seed,
        start: Instant::now(),
        next: AtomicU64::new(args.first / GENERATION),
        shrunk: AtomicU64::new(0),
        report: Mutex::default(),
    };
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("reading the allowed cores")?;
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true)).collect();
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
    print!("{}", report.summary(seed, shared.start.elapsed(), !args.kernel_vs_kernel));
    ended.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(report.divergences == 0)
}

impl Shared<'_> {
    fn is_over(&self) -> bool {
        STOP.load(Ordering::Relaxed) || self.start.elapsed() > self.args.duration()
    }

    fn work(&self, core: usize) -> Result<()> {
        let last = self.args.worlds.map(|worlds| self.args.first + worlds);
        while !self.is_over() {
            let generation = self.next.fetch_add(1, Ordering::Relaxed);
            let mut worlds = generation * GENERATION..(generation + 1) * GENERATION;
            worlds.start = worlds.start.max(self.args.first);
            worlds.end = worlds.end.min(last.unwrap_or(u64::MAX));
            if worlds.is_empty() {
                return Ok(());
            }
            let mut report = Report::default();
            let done = self.generation(worlds, core, &mut report);
            self.report.lock().unwrap_or_else(PoisonError::into_inner).merge(report);
            done?;
        }
        Ok(())
    }

    fn generation(&self, worlds: std::ops::Range<u64>, core: usize, report: &mut Report) -> Result<()> {
        let hook = self.args.hook()?;
        let mut pair = Pair::new(hook, core)?;
        let mut history: Vec<Step> = Vec::new();
        for number in worlds {
            if self.is_over() {
                break;
            }
            let world = Scenario::draw(self.seed, number, self.args.frames);
            report.world(&world);
            let played = play(&mut pair, &world, report, hook.is_some())
                .with_context(|| format!("world {number} of seed {}", self.seed))?;
            match played.divergence {
                None => {
                    report.steps += world.undo.len() as u64;
                    pair.apply(&world.undo)?;
                    history.extend(played.steps.into_iter().filter(|step| step.frame().is_none()));
                    history.extend(world.undo);
                }
                Some(divergence) => {
                    report.agent(&pair);
                    drop(pair);
                    if self.found(&world, &history, played.steps, &divergence, core)? {
                        report.divergences += 1;
                    } else {
                        report.collected += 1;
                    }
                    pair = Pair::new(hook, core)?;
                    history.clear();
                }
            }
        }
        report.agent(&pair);
        Ok(())
    }

    /// Shows a divergence, and writes the smallest script that shows it. False if the neighbour table was cleared
    /// meanwhile and it does not show again: two kernels alone would have differed.
    fn found(
        &self,
        world: &Scenario,
        history: &[Step],
        steps: Vec<Step>,
        divergence: &Divergence,
        core: usize,
    ) -> Result<bool> {
        let title = format!("seed {} world {} ({} frames)", self.seed, world.number, world.frames());
        eprintln!("DIVERGENCE: {title}: {divergence}");
        if self.args.no_shrink || self.shrunk.fetch_add(1, Ordering::Relaxed) >= SHRUNK {
            return Ok(true);
        }
        let shrunk = shrink::shrink(history, steps, self.args.hook()?, core)?;
        let mut text = format!("# {title}\n");
        match &shrunk.divergence {
            Some(divergence) => {
                divergence.what.lines().for_each(|line| text += &format!("# {line}\n"));
            }
            None => text += &format!("# seen once and not again, in {} trials\n", shrunk.trials),
        }
        text += &Script(shrunk.steps).to_string();
        fs::create_dir_all(&self.args.out).with_context(|| format!("making {}", self.args.out.display()))?;
        let path = self.args.out.join(format!("seed-{}-world-{}.txt", self.seed, world.number));
        fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
        if shrunk.divergence.is_some() {
            eprintln!("smallest script that shows it, after {} trials ({}):\n{text}", shrunk.trials, path.display());
        } else {
            eprintln!("it did not show again in {} trials; all that led to it: {}", shrunk.trials, path.display());
            if divergence.collected {
                eprintln!("the kernel cleared the neighbour table of all namespaces meanwhile: not counted");
            }
        }
        Ok(shrunk.divergence.is_some() || !divergence.collected)
    }
}

/// Takes a world through twins, up to the first divergence.
fn play(pair: &mut Pair, world: &Scenario, report: &mut Report, oracle: bool) -> Result<Played> {
    let mut steps: Vec<Step> = Vec::new();
    let mut filtered = false;
    for (configuration, frames) in &world.phases {
        report.steps += configuration.len() as u64;
        report.refused_steps += pair.apply(configuration)? as u64;
        steps.extend(configuration.iter().cloned());
        filtered |= configuration.iter().any(|step| matches!(step, Step::Nft(_)));
        let start = Instant::now();
        let state = if oracle && !filtered { Some(State::read(pair.node())?) } else { None };
        *report.spent.entry("oracle's reading").or_default() += start.elapsed();
        let first = pair.ifindex(0);
        let divergence = pair.exchange(frames, |batch| {
            steps.extend(batch.seen.iter().map(|seen| Step::Frame(seen.frame.clone())));
            report.batch(batch, state.as_ref(), |port| first + u32::from(port), world.number);
        })?;
        if let Some(divergence) = divergence {
            steps.extend(divergence.frames.iter().cloned().map(Step::Frame));
            return Ok(Played { steps, divergence: Some(divergence) });
        }
    }
    Ok(Played { steps, divergence: None })
}

fn replay(args: &Args) -> Result<bool> {
    let mut same = true;
    for path in &args.replay {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let Script(steps) = text.parse().with_context(|| format!("{}", path.display()))?;
        let mut pair = Pair::new(args.hook()?, 0)?;
        match pair.play(&steps)? {
            Some(divergence) => {
                println!("{}: {divergence}", path.display());
                same = false;
            }
            None => println!("{}: the same", path.display()),
        }
    }
    Ok(same)
}
