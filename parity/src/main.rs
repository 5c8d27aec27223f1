//! `cargo xtask parity`.

use std::process::ExitCode;

fn main() -> ExitCode {
    parity::main()
}
