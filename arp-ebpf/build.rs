//! Tells bpf-linker, which generates the code, what the CPU can do.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |variable, values: &[&str]| env::var(variable).is_ok_and(|value| values.contains(&value.as_str()));
    // A frame's fields lie where they lie. On CPUs that load words from anywhere the verifier allows it too; otherwise
    // each address is put together from single bytes, which costs a third of the decision.
    if is("CARGO_CFG_TARGET_ARCH", &["bpf"]) && is("CARGO_CFG_BPF_TARGET_ARCH", &["x86_64", "aarch64"]) {
        println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    }
}
