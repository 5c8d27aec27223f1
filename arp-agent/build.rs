//! Builds the eBPF object with the toolchain that `cargo xtask setup` found.

use anyhow::Context as _;
use aya_build::{Package, Toolchain};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> anyhow::Result<()> {
    const CHOSEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/bpf-toolchain");
    const OVERRIDE: &str = "ARP_BPF_TOOLCHAIN";
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    println!("cargo:rerun-if-changed={CHOSEN}");
    println!("cargo:rerun-if-changed=../arp-common/src");

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
    // Else the object would hold the paths of the machine that builds it, and differ by folder. It is unstable, too.
    for (setting, value) in [("UNSTABLE_TRIM_PATHS", "true"), ("PROFILE_RELEASE_TRIM_PATHS", "all")] {
        // SAFETY: a build script's main thread, before any other exists.
        unsafe { env::set_var(format!("CARGO_{setting}"), value) };
    }
    let package = Package { name: "arp-ebpf", root_dir: "../arp-ebpf", ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain)).with_context(|| {
        format!(
            "building the eBPF object with toolchain `{toolchain}` failed: `cargo xtask setup` installs what it needs"
        )
    })?;
    let out = env::var_os("OUT_DIR").context("cargo sets no OUT_DIR")?;
    strip(&PathBuf::from(out).join("arp-ebpf")).context("stripping the eBPF object failed")
}

/// Takes the debugging sections out of the object, nine tenths of its size; the kernel and aya read BTF alone.
fn strip(path: &Path) -> anyhow::Result<()> {
    let object = fs::read(path)?;
    let mut builder = Builder::read(object.as_slice())?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete |= name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    builder.delete_orphans();
    // LLVM keeps the sections' names among those of the symbols; here they need a section of their own.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(fs::write(path, stripped)?)
}
