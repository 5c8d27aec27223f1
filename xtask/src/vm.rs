//! `cargo xtask vm`: the tests that need root, on Debian's other kernels, each booted in qemu.
//!
//! The guest has no disk and no network. Its only file system is an initramfs ([`image`]) with this machine's own
//! programs, or those of Debian's packages for another processor ([`userland`]), and the kernel's own modules. Two
//! lines carry what the tests print and their results ([`guest`]).

mod cpio;
mod guest;
mod image;
mod kernel;
mod qemu;
mod record;
mod userland;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::arch::{self, Arch};
use crate::setup::{self, Need};
use crate::test::report::{self, TestCounts, TierOutcome};
use crate::test::{AGENT, Tier};
use crate::workspace;
use kernel::Version;
pub(crate) use record::write_page;
use userland::Userland;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel versions such as 6.1, and tiers (program, kernel, lab, lab-skb, lab-driver, faults); no tier means the first three
    #[arg(required = true, value_name = "VERSION|TIER")]
    what: Vec<Word>,
    /// The guests' processor
    #[arg(long, value_enum, default_value = "amd64")]
    arch: Arch,
    /// Only the tests whose name contains this; given several times, those that contain any
    #[arg(long, value_name = "SUBSTR")]
    filter: Vec<String>,
    /// Then random scenarios for so many seconds
    #[arg(long, value_name = "SECONDS")]
    parity: Option<u64>,
    /// Their seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How qemu runs the guest: tcg (emulated, works anywhere), kvm
    #[arg(long, default_value = "tcg", value_name = "NAME")]
    accel: String,
    /// Factor by which the tests' bounds on time are stretched in the guest
    #[arg(long, default_value_t = 6, value_name = "FACTOR")]
    slack: u32,
    /// After so many minutes a guest is ended
    #[arg(long, default_value_t = 40, value_name = "MINUTES")]
    limit: u64,
    /// Processors of a guest [default: 1; for arm64, whose processors are emulated in parallel, 2]
    #[arg(long, value_name = "N")]
    cpus: Option<usize>,
    /// Boot the guests locked down for confidentiality, as by `lockdown=confidentiality`
    #[arg(long, conflicts_with = "record")]
    lockdown: bool,
    /// Keep the results in docs/kernels.json, and write the tables of docs/kernels.md anew
    #[arg(long)]
    record: bool,
}

impl Args {
    fn cpus(&self) -> usize {
        self.cpus.unwrap_or(match self.arch {
            Arch::Amd64 => 1,
            Arch::Arm64 => 2,
        })
    }
}

/// One of the words after `vm`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Version(Version),
    Tier(Tier),
}

impl FromStr for Word {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if let Some(version) = Version::parse(word) {
            return Ok(Word::Version(version));
        }
        match Tier::from_str(word, false) {
            Ok(tier) if tier.runs_in_guests() => Ok(Word::Tier(tier)),
            Ok(Tier::FaultsLong) => Err("emulation is too slow for minutes of faults".to_owned()),
            Ok(Tier::Packages) => Err("packages are tried in a Debian on this kernel".to_owned()),
            Ok(Tier::Parity) => Err("random scenarios are asked for with --parity SECONDS".to_owned()),
            Ok(_) => Err("the unit tests do not depend on the kernel".to_owned()),
            Err(_) => Err("neither a kernel version such as 6.1 nor a tier".to_owned()),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let versions: Vec<&Version> = args
        .what
        .iter()
        .filter_map(|word| if let Word::Version(version) = word { Some(version) } else { None })
        .collect();
    let mut tiers: Vec<Tier> =
        args.what.iter().filter_map(|word| if let Word::Tier(tier) = word { Some(*tier) } else { None }).collect();
    anyhow::ensure!(!versions.is_empty(), "which kernel? For example: cargo xtask vm 6.1 6.12 lab");
    if tiers.is_empty() && args.parity.is_none() {
        tiers = vec![Tier::Program, Tier::Kernel, Tier::Lab];
    }
    anyhow::ensure!(
        args.arch == Arch::Arm64 || Arch::own() == Some(args.arch),
        "guests with an amd64 processor run the programs of a machine with such a processor, which this one has not"
    );
    setup::ensure(&[Need::Build, Need::Lab, Need::Vm(args.arch)])?;
    // Of what is built here: guests take so long that there may be another when they end.
    let commit = record::commit()?;
    let programs = GuestPrograms::build(args.arch, &tiers, args.parity.is_some())?;
    let userland = Userland::of(args.arch)?;

    let (mut outcomes, mut scenarios) = (Vec::new(), Vec::new());
    for version in versions {
        match run_kernel(version, &tiers, &programs, &userland, args, &commit) {
            Ok((of_kernel, of_scenarios)) => {
                outcomes.extend(of_kernel);
                scenarios.extend(of_scenarios);
            }
            Err(error) => outcomes.push(TierOutcome::broken(&version.to_string(), format!("{error:#}"))),
        }
    }
    let total: TestCounts = outcomes.iter().map(|outcome| outcome.counts).sum();
    // A kernel without a feature is what this verb is for: its skips are told, also to CI, and are no failure.
    let refused = report::verdict(total, false, false);
    print!("{}", report::summary(&outcomes, "The guests"));
    for line in scenarios {
        println!("{line}");
    }
    if let Some(why) = refused {
        println!("{why}");
    }
    println!("{total}");
    Ok(if refused.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What runs in the guest, built once on this machine.
struct GuestPrograms {
    /// Only where something in the guest starts it.
    agent: Option<PathBuf>,
    /// By tier, which names them in the guest too.
    tests: Vec<(Tier, PathBuf)>,
    parity: Option<PathBuf>,
}

impl GuestPrograms {
    fn build(arch: Arch, tiers: &[Tier], parity: bool) -> Result<Self> {
        // For another processor without libraries, whose linker comes with Rust.
        let target = if Arch::own() == Some(arch) { None } else { Some(arch.static_target()) };
        if let Some(target) = &target {
            arch::add_target(target)?;
        }
        let target: Vec<&str> = target.iter().flat_map(|target| ["--target", target]).collect();
        let build = |arguments: &[&str], name| {
            let made = workspace::build(&[arguments, &target].concat())?;
            workspace::find_executable(&made, name)
        };
        let starts_agents = parity || tiers.iter().any(|tier| tier.starts_agents());
        let agent = match env::var_os(AGENT) {
            _ if !starts_agents => None,
            Some(agent) => Some(PathBuf::from(agent)),
            None => Some(build(&["--release", "-p", "arp-agent", "--bin", "arp-agent"], "arp-agent")?),
        };
        let test = |tier: &Tier| {
            let (package, name) = tier.target().context("the unit tests do not depend on the kernel")?;
            let made = workspace::build_tests(package, name, &target)?;
            Ok((*tier, workspace::find_executable(&made, name)?))
        };
        let tests = tiers.iter().map(test).collect::<Result<_>>()?;
        let parity = parity.then(|| build(&["-p", "parity", "--bin", "parity"], "parity")).transpose()?;
        Ok(GuestPrograms { agent, tests, parity })
    }
}

fn run_kernel(
    version: &Version,
    tiers: &[Tier],
    programs: &GuestPrograms,
    userland: &Userland,
    args: &Args,
    commit: &str,
) -> Result<(Vec<TierOutcome>, Option<String>)> {
    let kernel = kernel::fetch(version, args.arch)?;
    println!("\n== {} (package {})", kernel.release, kernel.package);
    let modules = kernel.modules(guest::line_modules(args.arch))?;
    for absent in &modules.absent {
        println!("this kernel has no module {absent}");
    }
    let plan = guest::GuestPlan {
        arch: args.arch,
        tiers: tiers.to_vec(),
        filters: &args.filter,
        slack: args.slack,
        // Mostly they wait, for bounds that are long here.
        threads: 3 * args.cpus(),
        modules: &modules.names,
        parity: args.parity.map(|seconds| (seconds, args.seed)),
    };
    let image = kernel.beside("cpio");
    image::write(&image, &kernel, &modules, programs, userland, &plan)
        .with_context(|| format!("cannot make the guest's image {}", image.display()))?;
    let limit = Duration::from_secs(60 * args.limit);
    let machine = qemu::VirtualMachine {
        arch: args.arch,
        kernel: &kernel.image,
        initramfs: &image,
        accel: &args.accel,
        cpus: args.cpus(),
        lockdown: args.lockdown,
    };
    let (console, results) = (kernel.beside("console"), kernel.beside("results"));
    let output = machine.run(&console, &results, limit)?;
    // Made anew each time; the console stays only where it may say what went wrong.
    for (file, keep) in [(&image, false), (&results, false), (&console, output.cut_short.is_some())] {
        if !keep {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    let scenarios = guest::scenarios(&output);
    let mut outcomes = guest::outcomes(&kernel.release, tiers, &output);
    outcomes.extend(args.parity.map(|_| guest::parity_outcome(&kernel.release, &output)));
    if args.record {
        let names = tiers.iter().map(|tier| Some(*tier)).chain([None]);
        let runs: Vec<record::TierRun> = outcomes
            .iter()
            .zip(names)
            .map(|(outcome, tier)| record::TierRun {
                kernel: version.to_string(),
                arch: args.arch,
                package: &kernel.package,
                cpus: args.cpus(),
                accel: &args.accel,
                tier: tier.map_or(guest::PARITY_WORD, Tier::name),
                filters: if tier.is_some() { &args.filter } else { &[] },
                outcome,
                line: scenarios.as_deref().filter(|_| tier.is_none()),
                devices: tier.map(|tier| record::devices(&output, tier, &outcome.skips)).unwrap_or_default(),
            })
            .collect();
        record::keep(&runs, commit).context("cannot keep the results")?;
    }
    let scenarios = scenarios.map(|line| format!("{}  {line}", kernel.release));
    Ok((outcomes, scenarios))
}

/// The name of a file, for the guest's folders.
fn file_name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_version_or_a_guest_tier() {
        assert!(matches!("6.12".parse(), Ok(Word::Version(_))));
        assert_eq!("lab".parse(), Ok(Word::Tier(Tier::Lab)));
        assert!("unit".parse::<Word>().is_err());
        assert!("parity".parse::<Word>().is_err());
        assert!("6".parse::<Word>().is_err());
        assert!("linux".parse::<Word>().is_err());
    }
}
