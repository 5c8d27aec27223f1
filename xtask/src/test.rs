//! `cargo xtask test`: runs every tier that this machine can run, and lists what it could not run.

pub(crate) mod report;

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde_json::Value;

use crate::setup::{self, Need};
use crate::{machine, package, process, workspace};
use report::{Libtest, Skip, TestCounts, TierOutcome};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which tiers; none means all that this machine can run
    tiers: Vec<Tier>,
    /// Only the tests whose name contains this
    #[arg(long, value_name = "SUBSTR")]
    filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    /// What needs neither root nor BPF
    Unit,
    /// The eBPF program alone, loaded into this kernel and given frames
    Program,
    /// What the agent reads of the live kernel: netlink and procfs
    Kernel,
    /// The agent and the program in namespaces of their own
    Lab,
    /// The lab's exactness matrix with XDP on socket buffers
    LabSkb,
    /// The lab's exactness matrix with XDP in driver mode
    LabDriver,
    /// The fault catalogue: load, crashes, hostile neighbours; each fault with its bound
    Faults,
    /// The same for longer: minutes each, only if asked for
    FaultsLong,
    /// A minute of random scenarios, the kernel alone against the fast path
    Parity,
    /// The packages: made, installed in a clean Debian, upgraded, removed; the image; only if asked for
    Packages,
}

impl Tier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tier::Unit => "unit",
            Tier::Program => "program",
            Tier::Kernel => "kernel",
            Tier::Lab => "lab",
            Tier::LabSkb => "lab-skb",
            Tier::LabDriver => "lab-driver",
            Tier::Faults => "faults",
            Tier::FaultsLong => "faults-long",
            Tier::Parity => "parity",
            Tier::Packages => "packages",
        }
    }

    /// The hook that the tier's agents use instead of the default one (`ARP_TEST_HOOK`).
    pub(crate) fn hook(self) -> Option<&'static str> {
        match self {
            Tier::LabSkb => Some("xdp-skb"),
            Tier::LabDriver => Some("xdp-driver"),
            _ => None,
        }
    }

    /// The package and the test target that hold the tier; the unit tests are in the packages themselves.
    pub(crate) fn target(self) -> Option<(&'static str, &'static str)> {
        match self {
            Tier::Unit => None,
            Tier::Program => Some(("tests", "program")),
            Tier::Kernel => Some(("arp-agent", "kernel_io")),
            Tier::Lab | Tier::LabSkb | Tier::LabDriver => Some(("tests", "lab")),
            Tier::Faults | Tier::FaultsLong => Some(("tests", "faults")),
            Tier::Parity => Some(("parity", "parity")),
            Tier::Packages => Some(("tests", "packages")),
        }
    }

    /// Whether it runs where no tier is named.
    fn is_default(self) -> bool {
        !matches!(self, Tier::FaultsLong | Tier::Packages)
    }

    /// Which tests, if not all: of a hook's tier the matrix, unless somebody asks for others.
    pub(crate) fn filter(self, asked: Option<&str>) -> Option<&str> {
        let own = match self {
            Tier::FaultsLong => Some(LONG),
            _ => self.hook().map(|_| MATRIX),
        };
        asked.or(own)
    }

    /// Which tests of its target belong elsewhere.
    pub(crate) fn skipped(self) -> &'static [&'static str] {
        match self {
            Tier::Lab | Tier::LabSkb | Tier::LabDriver => &ELSEWHERE,
            Tier::Faults => &[LONG],
            Tier::Unit | Tier::Program | Tier::Kernel | Tier::FaultsLong | Tier::Parity | Tier::Packages => &[],
        }
    }

    /// Whether `cargo xtask vm` runs the tier in a guest. Random scenarios have an option of their own there.
    pub(crate) fn runs_in_guests(self) -> bool {
        !matches!(self, Tier::Unit | Tier::FaultsLong | Tier::Parity | Tier::Packages)
    }

    /// Whether its tests start the agent's binary.
    pub(crate) fn starts_agents(self) -> bool {
        !matches!(self, Tier::Unit | Tier::Program | Tier::Kernel | Tier::Packages)
    }

    fn cargo_test(self) -> Command {
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--no-fail-fast"]);
        match self.target() {
            None => cargo.args(UNIT.iter().flat_map(|package| ["-p", package])).args(["--lib", "--bins"]),
            Some((package, target)) => cargo.args(["-p", package, "--test", target]),
        };
        cargo
    }
}

/// The packages with unit tests.
const UNIT: [&str; 6] = ["arp-common", "arp-agent", "bench", "lab", "parity", "xtask"];
/// The variable by which the lab's tests are told the hook.
pub(crate) const HOOK: &str = "ARP_TEST_HOOK";
/// The exactness matrix in the lab.
const MATRIX: &str = "matrix::";
/// Rows about devices and actions of tc that this kernel may lack: `cargo xtask vm` runs them on other kernels.
const ELSEWHERE: [&str; 6] =
    ["lockdown::", "matrix::cards::", "matrix::devices::", "matrix::kinds::", "matrix::vrf::", "::k370_"];
/// Faults that are tried for minutes.
const LONG: &str = "::long_";
/// The names of the tests that ran but could not do their work here, one `name<tab>reason` a line: the tests write it.
const SKIPS: &str = "ARP_TEST_SKIPS";
/// The agent under test, as it is shipped: optimised.
pub(crate) const AGENT: &str = "ARP_AGENT_BIN";
/// The packages under test, and the clean Debian to try them in.
const PACKAGES: &str = "ARP_PACKAGES";
const DEBIAN: &str = "ARP_DEBIAN";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let default: Vec<Tier> = Tier::value_variants().iter().copied().filter(|tier| tier.is_default()).collect();
    let tiers = if args.tiers.is_empty() { default.as_slice() } else { args.tiers.as_slice() };
    let metadata = workspace::metadata()?;
    setup::ensure(&[Need::Build])?;

    let mut outcomes = Vec::new();
    let mut lab = LabTools::default();
    for &tier in tiers {
        println!("\n== {}", tier.name());
        let obstacle = match tier.target() {
            Some(target) => obstacle(&metadata, target).or_else(|| lab.obstacle()),
            None => None,
        };
        let outcome = match obstacle {
            Some(why) => not_run(tier, args.filter.as_deref(), &metadata, why),
            None => match lab.environment(tier) {
                Ok(given) => run_tier(tier, args.filter.as_deref(), &given, &workspace::target_directory(&metadata)?)?,
                Err(error) => TierOutcome::broken(tier.name(), format!("{error:#}")),
            },
        };
        outcomes.push(outcome);
    }

    let total: TestCounts = outcomes.iter().map(|outcome| outcome.counts).sum();
    let ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    let refused = report::verdict(total, outcomes.iter().any(TierOutcome::has_skips), ci);
    // The last line is for machines: nothing may follow it, on either stream.
    print!("{}", report::summary(&outcomes, "This machine"));
    if let Some(why) = refused {
        println!("{why}");
    }
    println!("{total}");
    Ok(if refused.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Why the tiers that need root cannot run on this machine, if they cannot.
fn obstacle(metadata: &Value, (package, target): (&str, &str)) -> Option<String> {
    machine::lab_obstacle().or_else(|| {
        let there = workspace::has_target(metadata, package, "test", target);
        (!there).then(|| format!("the package `{package}` has no test target `{target}`"))
    })
}

/// What the tiers that need root share; made once, for the first of them.
#[derive(Default)]
struct LabTools {
    clients: Option<Result<(), String>>,
    agent: Option<PathBuf>,
}

impl LabTools {
    fn obstacle(&mut self) -> Option<String> {
        let made =
            self.clients.get_or_insert_with(|| setup::ensure(&[Need::Lab]).map_err(|error| format!("{error:#}")));
        made.clone().err()
    }

    /// What a tier's tests find in their environment.
    fn environment(&mut self, tier: Tier) -> Result<Vec<(&'static str, PathBuf)>> {
        match tier {
            Tier::Unit => Ok(Vec::new()),
            Tier::Packages => {
                setup::ensure(&[Need::Packages])?;
                Ok(vec![(DEBIAN, setup::debian()?), (PACKAGES, package::for_tests()?)])
            }
            _ => {
                if self.agent.is_none() {
                    let made = workspace::build(&["--release", "-p", "arp-agent", "--bin", "arp-agent"])?;
                    self.agent = Some(workspace::find_executable(&made, "arp-agent")?);
                }
                Ok(self.agent.iter().map(|agent| (AGENT, agent.clone())).collect())
            }
        }
    }
}

/// Runs a tier, its output passing through to the reader.
fn run_tier(
    tier: Tier,
    filter: Option<&str>,
    given: &[(&'static str, PathBuf)],
    target_directory: &Path,
) -> Result<TierOutcome> {
    let skips = target_directory.join(format!("test-skips-{}-{}", tier.name(), std::process::id()));
    fs::create_dir_all(target_directory)
        .and_then(|()| fs::write(&skips, ""))
        .with_context(|| format!("cannot write {}", skips.display()))?;

    let mut command = tier.cargo_test();
    command.args(tier.filter(filter)).args(["--", "--color=never"]);
    if let Some(hook) = tier.hook() {
        command.env(HOOK, hook);
    }
    if tier.target() == Tier::Lab.target() {
        let elsewhere = ELSEWHERE.join(", ");
        println!(
            "without {elsewhere}: `cargo xtask vm` boots kernels that have the devices and network cards, and policing, \
             and with --lockdown one that is locked down"
        );
    }
    command.args(tier.skipped().iter().flat_map(|elsewhere| ["--skip", elsewhere]));
    command.env(SKIPS, &skips).stdout(Stdio::piped());
    if !given.is_empty() {
        // Each test of these tiers has namespaces and an agent of its own: more at a time than there are CPUs only
        // makes their deadlines tight.
        // Not one: libtest would then run the tests on its main thread, and a skip is recorded under the thread's name.
        let threads = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
        command.arg(format!("--test-threads={threads}")).envs(given.iter().map(|(name, path)| (name, path)));
    }

    let start = Instant::now();
    let described = process::describe(&command);
    let mut child = command.spawn().with_context(|| format!("cannot start {described}"))?;
    let mut libtest = Libtest::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("cannot read the output of {described}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            libtest.line(&line);
        }
    }
    let status = child.wait().with_context(|| format!("lost track of {described}"))?;
    let written = fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    // Only a leftover in the target folder if it stays.
    let _ = fs::remove_file(&skips);
    Ok(libtest.outcome(tier.name(), Skip::parse(&written), status.success(), start.elapsed()))
}

/// The outcome of a tier that this machine cannot run: its tests are counted all the same.
fn not_run(tier: Tier, filter: Option<&str>, metadata: &Value, why: String) -> TierOutcome {
    println!("not run: {why}");
    let there = tier.target().is_none_or(|(package, target)| workspace::has_target(metadata, package, "test", target));
    let listed = there.then(|| process::output(tier.cargo_test().args(tier.filter(filter)).args(["--", "--list"])));
    let tests = listed.and_then(Result::ok).map(|list| report::count_listed(&list));
    TierOutcome::not_run(tier.name(), tests, why)
}
