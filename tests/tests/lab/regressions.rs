//! The regression corpus: what random scenarios have found, played again: the scripts in `tests/regressions`, as `cargo xtask parity` writes
//! them; or in `ARP_TEST_REGRESSIONS`, where the tests do not run beside their sources.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::{TestHook, needs_root};
use parity::pair::{FastPath, Pair, Script};

#[test]
fn the_regression_corpus_shows_no_difference() -> Result<()> {
    needs_root!();
    let beside_sources = || Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let folder = env::var_os("ARP_TEST_REGRESSIONS").map_or_else(beside_sources, PathBuf::from);
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut scripts: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    scripts.sort();
    ensure!(!scripts.is_empty(), "there are no scripts in {}", folder.display());
    for path in &scripts {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
        let Script(steps) = text.parse().with_context(|| format!("{name}"))?;
        let fast_path = FastPath { hook: TestHook::chosen()?, count_policies: false };
        let divergence = Pair::new(Some(fast_path), 0)?.play(&steps).with_context(|| format!("{name}"))?;
        ensure!(divergence.is_none(), "{name}: {}", divergence.map(|found| found.to_string()).unwrap_or_default());
    }
    Ok(())
}
