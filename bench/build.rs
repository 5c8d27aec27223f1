//! Builds the benchmarks' own eBPF object, with the toolchain that `cargo xtask setup` found.

use anyhow::Context as _;
use aya_build::{Package, Toolchain};
use std::path::PathBuf;
use std::{env, fs};

fn main() -> anyhow::Result<()> {
    const CHOSEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/bpf-toolchain");
    const OVERRIDE: &str = "ARP_BPF_TOOLCHAIN";
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    println!("cargo:rerun-if-changed={CHOSEN}");
    println!("cargo:rerun-if-changed=../arp-common/src");
    println!("cargo:rerun-if-changed=../bench-ebpf");

    // Benchmarks run only as they are measured. Whoever checks, lints or tests the crate need not wait for a second
    // object; one that is empty is refused when it is loaded.
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        let object = PathBuf::from(env::var("OUT_DIR")?).join("bench-ebpf");
        return fs::write(&object, "").with_context(|| format!("writing {}", object.display()));
    }

    // SAFETY: a build script's main thread, before any other exists. Else each line of the inner build comes out as a
    // warning of the outer one.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    let toolchain = match env::var(OVERRIDE) {
        Ok(name) => name,
        Err(_) => fs::read_to_string(CHOSEN).unwrap_or_else(|_| "nightly".into()),
    };
    let toolchain = toolchain.trim();
    if !toolchain.starts_with("nightly") {
        // SAFETY: a build script's main thread, before any other exists. The distribution's compiler is a stable
        // one, and building core for BPF is unstable.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    let package = Package { name: "bench-ebpf", root_dir: "../bench-ebpf", ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain)).with_context(|| {
        format!("building the benchmarks' eBPF object with toolchain `{toolchain}` failed: `cargo xtask setup` installs what it needs")
    })
}
