//! `cargo xtask lint`: everything that is checked without running the code. All steps run; the list at the end says
//! which were refused.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::setup::{self, Need};
use crate::{machine, process, workspace};

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
/// The crates that end up in the eBPF object.
const BPF: [&str; 6] = ["-p", "arp-common", "-p", "arp-ebpf", "--target", "bpfel-unknown-none"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let deny = args.deny || env::var_os("CI").is_some_and(|value| !value.is_empty());
    let steps: [(&str, &dyn Fn() -> Result<Done>); 5] = [
        ("formatting", &formatting),
        ("clippy, host", &clippy_host),
        ("clippy, BPF", &clippy_bpf),
        ("documentation", &documentation),
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
    clean(workspace::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn clippy_bpf() -> Result<Done> {
    let (mut cargo, toolchain) = setup::bpf_cargo()?;
    // A folder of its own: another compiler's work in the same one would be thrown away each time.
    let target = workspace::target_directory(&workspace::metadata()?)?.join("lint-bpf");
    cargo.env("CARGO_TARGET_DIR", target);
    let clippy = toolchain.sysroot.join("bin/cargo-clippy");
    if !clippy.is_file() && toolchain.name == "/usr" && machine::is_root() {
        // Without it the compiler's own lints remain, and the list says so.
        if let Err(error) = setup::install_distribution_clippy() {
            eprintln!("{error:#}");
        }
    }
    if clippy.is_file() {
        return clean(cargo.args(["clippy", "-Z", "build-std=core"]).args(BPF).args(["--", "-D", "warnings"]));
    }
    process::run(cargo.args(["check", "-Z", "build-std=core"]).args(BPF).env("RUSTFLAGS", "-D warnings"))?;
    Ok(Done::Less(format!("toolchain `{}` has no clippy: the compiler's own lints only", toolchain.name)))
}

fn documentation() -> Result<Done> {
    let mut cargo = workspace::cargo();
    cargo.args(["doc", "--no-deps", "--workspace", "--document-private-items"]);
    clean(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Licences, sources and duplicates of the dependencies. Advisories need a database from the network: not here.
fn dependencies() -> Result<Done> {
    let deny = match cargo_deny() {
        Ok(deny) => deny,
        Err(error) => return Ok(Done::Less(format!("cannot install cargo-deny: {error:#}"))),
    };
    let mut command = Command::new(deny);
    clean(command.current_dir(workspace::root()).args(["check", "bans", "licenses", "sources"]))
}

/// The one in PATH, else the project's own, built where there is none.
fn cargo_deny() -> Result<PathBuf> {
    let ours = workspace::tools().join("bin/cargo-deny");
    if let Some(found) = process::find_program("cargo-deny").or_else(|| ours.is_file().then(|| ours.clone())) {
        return Ok(found);
    }
    let mut cargo = workspace::cargo();
    cargo.args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--root"]).arg(workspace::tools());
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
