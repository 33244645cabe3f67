//! `dfs mv`.

use std::ffi::OsString;

use clap::Args;
use wire::namespace::RenameMode;

use super::{
    failure::{Failure, Line},
    invocation::{Invocation, cannot, parse_path, parse_paths},
    remote_target::remote_targets,
    target::IntoDirectory,
    text::quote::quoted,
};

/// Arguments of `dfs mv`.
#[derive(Args, Debug)]
#[command(after_help = "\
If DST is a directory, each SRC goes into it under its own name; else the one
SRC gets the name DST, and replaces a file there, in one step. With -T, DST is
always the name itself.

Examples:
  dfs mv /a.txt /b.txt
  dfs mv /2025 /2026 /archive    both into the directory
  dfs mv -nT /new /current       only if /current does not exist
  dfs mv --exchange /new /old    swap the two")]
pub(crate) struct MvArguments {
    /// What to move
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<OsString>,
    /// Where to
    #[arg(value_name = "DST")]
    dst: OsString,
    /// Fail if the target exists
    #[arg(short, long)]
    no_clobber: bool,
    /// DST is the name itself, even if it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Swap SRC and DST, which must both exist
    #[arg(long, conflicts_with_all = ["no_clobber", "no_target_directory"])]
    exchange: bool,
}

/// Moves.
pub(crate) async fn run(invocation: &Invocation, arguments: MvArguments) -> Result<(), Failure> {
    let sources = parse_paths("move", &arguments.sources)?;
    let into = if arguments.no_target_directory { IntoDirectory::No } else { IntoDirectory::Yes };
    let mode = match (arguments.exchange, arguments.no_clobber) {
        (true, _) => RenameMode::Exchange,
        (false, true) => RenameMode::NoReplace,
        (false, false) => RenameMode::Replace,
    };
    if arguments.exchange && sources.len() != 1 {
        return Err(Line::new("--exchange takes one SRC and one DST").usage());
    }
    invocation
        .with_files(async |files| {
            let targets = if arguments.exchange {
                vec![parse_path("move to", &arguments.dst)?]
            } else {
                remote_targets("move", files, &arguments.sources, &arguments.dst, into).await?
            };
            let mut failed = false;
            for (source, target) in sources.iter().zip(&targets) {
                if let Err(error) = files.rename(source, target, mode).await {
                    failed = true;
                    let action = format!("move {} to", quoted(&source.to_bytes()));
                    invocation.screen.report(&cannot(&action, target, &error));
                }
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}
