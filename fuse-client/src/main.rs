//! The `dfs` command.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on should say where"))]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
