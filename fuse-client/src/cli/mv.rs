//! `dfs mv`.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use clap::Args;
use fuse_client::{FilePath, Namespace, NamespaceError, namespace::Follow};
use wire::namespace::RenameMode;

use super::{
    failure::{Failure, Line},
    invocation::{Invocation, parse_path, parse_paths, tell},
    remote_target::remote_targets,
    target::{IntoDirectory, last_name},
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
            for ((source, target), written) in sources.iter().zip(&targets).zip(&arguments.sources) {
                if last_name(written.as_bytes()).is_none() {
                    failed = true;
                    let line = Line::new(format!("cannot move {}", quoted(written.as_bytes())));
                    invocation.screen.report(&line.why("it is /, or ends in . or ..").advice("name what is to go"));
                } else if let Err(error) = move_one(files, source, target, mode).await {
                    failed = true;
                    let action = format!("move {} to", quoted(&source.to_bytes()));
                    tell(invocation, &action, target, &error)?;
                }
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}

/// Moves one entry. Two names of one file are left with the new one, as `mv` does; `rename` would keep both.
async fn move_one(
    files: &Namespace,
    source: &FilePath,
    target: &FilePath,
    mode: RenameMode,
) -> Result<(), NamespaceError> {
    if mode == RenameMode::Replace
        && let (Some(from), Some(to)) =
            (files.lookup(source, Follow::No).await?, files.lookup(target, Follow::No).await?)
        && from.inode == to.inode
    {
        if is_same_name(files, source, target).await? {
            return Err(NamespaceError::SameFile { path: source.clone() });
        }
        return files.remove_file(source).await;
    }
    files.rename(source, target, mode).await
}

async fn is_same_name(files: &Namespace, one: &FilePath, other: &FilePath) -> Result<bool, NamespaceError> {
    let (Some(above), Some(beside)) = (one.parent(), other.parent()) else { return Ok(true) };
    let (above, beside) = (files.resolve(&above, Follow::Yes).await?, files.resolve(&beside, Follow::Yes).await?);
    Ok(above.inode == beside.inode && one.file_name() == other.file_name())
}
