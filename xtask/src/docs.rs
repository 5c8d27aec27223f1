//! `cargo xtask docs`: writes the documents that are made of the code. The agent's unit tests make them and compare
//! them with what is committed; with a variable set they write them instead.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{self, Need};
use crate::{process, vm, workspace};

pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let mut command = workspace::cargo();
    command.args(["test", "-q", "-p", "arp-agent", "--lib", "document::"]).env("ARP_WRITE_DOCS", "1");
    process::run(&mut command)?;
    vm::write_page()?;
    Ok(ExitCode::SUCCESS)
}
