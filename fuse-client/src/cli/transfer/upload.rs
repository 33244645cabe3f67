//! `dfs upload`: from this machine into the store.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use fuse_client::transfer::{LocalDurability, UploadItem, upload};

use super::{TransferArguments, existing};
use crate::cli::{failure::Failure, invocation::Invocation, remote_target::remote_targets};

/// Arguments of `dfs upload`.
#[derive(Args, Debug)]
#[command(after_help = "\
As cp: if DST is a directory, each SRC goes into it under its own name; else
the one SRC gets the name DST. `dir` and `dir/` mean the directory itself,
`dir/.` what is in it. A link at DST stays, and what it leads to is written;
below, links are replaced. With -T, DST is always the name itself, so the same
command again finds what is there. DST must be a directory if it ends in /
(dfs mkdir makes one).

When the command returns, everything is on stable storage on a quorum of
nodes. Under each name stands the old file or the whole new one, never a part.
What is there and equal is skipped, so an interrupted upload goes on where it
was.

Examples:
  dfs upload notes.txt /                    /notes.txt
  dfs upload -r ~/photos /                  /photos with all below
  dfs upload -rT ~/photos /backup/photos    again and again: only what changed
  dfs upload a.iso b.iso /images/           into the directory")]
pub(crate) struct UploadArguments {
    /// Files and directories of this machine
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<OsString>,
    /// Path in the store
    #[arg(value_name = "DST")]
    dst: OsString,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// Uploads.
pub(crate) async fn run(invocation: &Invocation, arguments: UploadArguments) -> Result<(), Failure> {
    let UploadArguments { sources, dst, transfer } = arguments;
    invocation
        .with_files(async |files| {
            let targets = remote_targets("upload", files, &sources, &dst, transfer.directory_rule()).await?;
            let items = sources.iter().map(PathBuf::from).zip(targets);
            let items =
                items.map(|(source, target)| UploadItem { existing: existing(source.as_os_str()), source, target });
            let items = items.collect();
            let options = transfer.options(LocalDurability::Unsynced);
            transfer.show(invocation, "uploaded", async |meter| upload(files, items, &options, meter).await).await
        })
        .await
}
