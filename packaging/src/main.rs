//! Writes the man pages and the shell completions into a folder: `man8/`, `man5/`, `completions/`.

mod pages;
mod worked;

use anyhow::{Context as _, Result};
use arp_agent::cli::Cli;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from).context("usage: packaging FOLDER")?;
    for (path, text) in pages::pages()? {
        write(&folder.join(path), &text)?;
    }
    let completions = folder.join("completions");
    fs::create_dir_all(&completions).with_context(|| format!("cannot create {}", completions.display()))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "arp-agent", &completions)?;
    }
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}
