//! `dfs ln`.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use clap::Args;
use wire::namespace::Replace;

use super::{
    failure::Failure,
    invocation::{Invocation, parse_path, tell},
    remote_target::remote_targets,
    target::IntoDirectory,
};

/// Arguments of `dfs ln`.
#[derive(Args, Debug)]
#[command(after_help = "\
If LINK is a directory, each link goes into it, under the name of its target;
with -T, LINK is always the name itself. The target of a symbolic link is kept
as it is written, and a relative one is read from the link's directory.

Examples:
  dfs ln /a.txt /also-a.txt      a second name for the same file
  dfs ln -s ../photos /ann/photos
  dfs ln -sfT /releases/2 /current")]
pub(crate) struct LnArguments {
    /// What to link to
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<OsString>,
    /// The new name, or a directory for it
    #[arg(value_name = "LINK")]
    link: OsString,
    /// Symbolic, not hard
    #[arg(short, long)]
    symbolic: bool,
    /// Replace a file that has the name, in one step
    #[arg(short, long)]
    force: bool,
    /// LINK is the name itself, even if it is a directory
    #[arg(short = 'T', long, visible_short_alias = 'n')]
    no_target_directory: bool,
}

/// Links.
pub(crate) async fn run(invocation: &Invocation, arguments: LnArguments) -> Result<(), Failure> {
    let into = if arguments.no_target_directory { IntoDirectory::No } else { IntoDirectory::Yes };
    let replace = if arguments.force { Replace::File } else { Replace::No };
    invocation
        .with_files(async |files| {
            let links = remote_targets("link", files, &arguments.targets, &arguments.link, into).await?;
            let mut failed = false;
            for (target, link) in arguments.targets.iter().zip(&links) {
                let made = if arguments.symbolic {
                    files.symlink(target.as_bytes(), link, replace).await
                } else {
                    files.link(&parse_path("link", target)?, link, replace).await
                };
                if let Err(error) = made {
                    failed = true;
                    tell(invocation, "link", link, &error)?;
                }
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}
