//! Calls of cargo.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{paths, process};

/// The cargo that runs this xtask, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).env("PATH", process::cargo_path());
    command
}

/// The compiler that this cargo calls.
pub(crate) fn rustc() -> Command {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(paths::root()).env("PATH", process::cargo_path());
    command
}

/// `cargo metadata` of the workspace's own packages.
pub(crate) fn metadata() -> Result<Value> {
    let text = process::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cargo metadata printed something that is not JSON")
}

/// Cargo's target folder, wherever CARGO_TARGET_DIR or a configuration puts it.
pub(crate) fn target_directory(metadata: &Value) -> Result<PathBuf> {
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target_directory")
}

/// Whether `package` has a target `name` of that kind (`bin`, `test`, …).
pub(crate) fn has_target(metadata: &Value, package: &str, kind: &str, name: &str) -> bool {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|found| found["name"] == package)
        .flat_map(|found| found["targets"].as_array().into_iter().flatten())
        .any(|target| target["name"] == name && target["kind"].as_array().is_some_and(|k| k.contains(&kind.into())))
}

/// Runs `cargo build` with these arguments; the executables that it made (or found fresh), by name.
pub(crate) fn build(arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo();
    command.arg("build").args(arguments);
    executables_of(command)
}

/// Builds a test program of a package without running it; the executables by name. `more`: for which processor.
pub(crate) fn build_tests(package: &str, target: &str, more: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "-p", package, "--test", target]).args(more);
    executables_of(command)
}

/// Runs a cargo command that builds.
fn executables_of(mut command: Command) -> Result<Vec<(String, PathBuf)>> {
    let described = process::describe(&command);
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {described}"))?;
    let mut made = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            made.extend(executable(&line.context("cannot read cargo's messages")?));
        }
    }
    let status = child.wait().with_context(|| format!("lost track of {described}"))?;
    if !status.success() {
        bail!("{described} failed ({status}); its messages are above");
    }
    Ok(made)
}

/// The path of the executable `name` among those that [`build`] or [`build_tests`] made.
pub(crate) fn find_executable(made: &[(String, PathBuf)], name: &str) -> Result<PathBuf> {
    let found = made.iter().find(|(made, _)| made == name);
    found.map(|(_, path)| path.clone()).with_context(|| format!("cargo made no executable `{name}`"))
}

/// The executable that one line of cargo's JSON messages announces, if it does.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_are_taken_from_cargos_messages() {
        let with = r#"{"reason":"compiler-artifact","target":{"name":"demo"},"executable":"/t/release/demo"}"#;
        let without = r#"{"reason":"compiler-artifact","target":{"name":"anyhow"},"executable":null}"#;
        assert_eq!(executable(with), Some(("demo".to_owned(), PathBuf::from("/t/release/demo"))));
        assert_eq!(executable(without), None);
        assert_eq!(executable("warning: not JSON at all"), None);
    }

    #[test]
    fn targets_are_found_by_package_kind_and_name() {
        let metadata: Value = serde_json::from_str(
            r#"{"packages":[{"name":"tests","targets":[{"name":"lab","kind":["test"]},{"name":"demo","kind":["bin"]}]}]}"#,
        )
        .unwrap();
        assert!(has_target(&metadata, "tests", "test", "lab"));
        assert!(!has_target(&metadata, "tests", "bin", "lab"));
        assert!(!has_target(&metadata, "xtask", "test", "lab"));
    }
}
