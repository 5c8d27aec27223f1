//! `cargo xtask lint`: everything that is checked without running the code. All steps run; the list at the end says
//! which were refused.

mod commits;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need, Toolchain};
use crate::{machine, paths, process, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check the dependencies too (always done when CI is set): takes minutes where cargo-deny must be built
    #[arg(long)]
    deny: bool,
}

/// How a step ended, if it was not refused.
enum Done {
    Clean,
    /// Not or only partly done, for this reason.
    Less(String),
}

const CARGO_DENY: &str = "0.20.2";
const BUILD: Duration = Duration::from_secs(60 * 60);
/// The eBPF crates on the target that they are for.
const BPF: [&str; 8] = ["-Z", "build-std=core", "--target", "bpfel-unknown-none", "-p", "arp-ebpf", "-p", "bench-ebpf"];
/// As `bpf_target_arch` names them.
const CPUS: [&str; 2] = ["x86_64", "aarch64"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let deny = args.deny || env::var_os("CI").is_some_and(|value| !value.is_empty());
    let steps: [(&str, &dyn Fn() -> Result<Done>); 6] = [
        ("formatting", &formatting),
        ("clippy, host", &clippy_host),
        ("clippy, BPF", &clippy_bpf),
        ("documentation", &documentation),
        ("commit messages", &commits::check),
        ("dependencies", &|| {
            if deny { dependencies() } else { Ok(Done::Less("only with --deny or under CI".to_owned())) }
        }),
    ];
    let mut refused = 0;
    let mut lines = String::new();
    for (name, step) in steps {
        eprintln!("== {name}");
        let word = match step() {
            Ok(Done::Clean) => "clean".to_owned(),
            Ok(Done::Less(why)) => format!("NOT ALL CHECKED: {why}"),
            Err(error) => {
                refused += 1;
                format!("REFUSED: {error:#}")
            }
        };
        lines.push_str(&format!("{name:<16}{word}\n"));
    }
    print!("\n{lines}");
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn formatting() -> Result<Done> {
    clean(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy_host() -> Result<Done> {
    clean(workspace::cargo().args(["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"]))
}

/// For each CPU that the object can be built for, since code may depend on it: an object is made for the CPU that it
/// runs on.
fn clippy_bpf() -> Result<Done> {
    let mut done = Ok(Done::Clean);
    for cpu in CPUS {
        let (mut cargo, toolchain) = bpf_cargo(cpu, &[])?;
        let clippy = toolchain.sysroot.join("bin/cargo-clippy");
        if !clippy.is_file() && toolchain.is_the_distributions() && machine::is_root() {
            // Without it the compiler's own lints remain, and the list says so.
            if let Err(error) = setup::install_distribution_clippy() {
                eprintln!("{error:#}");
            }
        }
        let checked = if clippy.is_file() {
            clean(cargo.arg("clippy").args(BPF).args(["-p", "arp-common", "--", "-D", "warnings"]))
        } else {
            let (mut cargo, toolchain) = bpf_cargo(cpu, &["-Dwarnings"])?;
            let why = format!("toolchain `{}` has no clippy: the compiler's own lints only", toolchain.name);
            process::run(cargo.arg("check").args(BPF).args(["-p", "arp-common"])).map(|()| Done::Less(why))
        };
        // The other CPU is checked all the same: each may have complaints of its own.
        done = done.and(checked.with_context(|| format!("for {cpu}")));
    }
    done
}

/// Cargo for the BPF target, called as aya-build calls it.
fn bpf_cargo(cpu: &str, flags: &[&str]) -> Result<(Command, Toolchain)> {
    let (mut cargo, toolchain) = setup::bpf_cargo()?;
    let cfg = format!("--cfg=bpf_target_arch=\"{cpu}\"");
    // A folder of its own: two compilers in one would throw away each other's work.
    let target = workspace::target_directory(&workspace::metadata()?)?.join("lint-bpf");
    cargo.env("CARGO_TARGET_DIR", target);
    cargo.env("RUSTDOCFLAGS", format!("-D warnings {cfg}"));
    let flags: Vec<&str> = [cfg.as_str()].into_iter().chain(flags.iter().copied()).collect();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok((cargo, toolchain))
}

/// Links and examples of every crate; the eBPF crates' on their own target, since the host sees empty ones.
fn documentation() -> Result<Done> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "doc",
        "--keep-going",
        "--no-deps",
        "--workspace",
        "--exclude",
        "arp-ebpf",
        "--exclude",
        "bench-ebpf",
        "--document-private-items",
    ]);
    let host = clean(cargo.env("RUSTDOCFLAGS", "-D warnings"));
    let (mut cargo, _) = bpf_cargo(CPUS[0], &[])?;
    let bpf = clean(cargo.args(["doc", "--no-deps", "--document-private-items"]).args(BPF));
    host.and(bpf)
}

/// Licences, sources and duplicates of the dependencies. Advisories need a database from the network: not here.
fn dependencies() -> Result<Done> {
    let deny = match cargo_deny() {
        Ok(deny) => deny,
        Err(error) => return Ok(Done::Less(format!("cannot install cargo-deny: {error:#}"))),
    };
    let mut command = Command::new(deny);
    clean(command.current_dir(paths::root()).args(["check", "bans", "licenses", "sources"]))
}

/// The cargo-deny in PATH, else the project's own, which is built if it is not there.
fn cargo_deny() -> Result<PathBuf> {
    let ours = paths::tools().join("bin/cargo-deny");
    if let Some(found) = process::find_program("cargo-deny").or_else(|| ours.is_file().then(|| ours.clone())) {
        return Ok(found);
    }
    let mut cargo = workspace::cargo();
    cargo.args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--root"]).arg(paths::tools());
    cargo.env_remove("CARGO_TARGET_DIR");
    process::long(&format!("building cargo-deny {CARGO_DENY} (some minutes)"), "cargo-deny", BUILD, &mut cargo)?;
    if !ours.is_file() {
        bail!("cargo install made no {}", ours.display());
    }
    Ok(ours)
}

fn clean(command: &mut Command) -> Result<Done> {
    process::run(command)?;
    Ok(Done::Clean)
}
