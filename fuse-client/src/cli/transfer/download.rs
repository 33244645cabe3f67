//! `dfs download`: from the store to this machine.

use std::ffi::OsString;

use clap::Args;
use fuse_client::transfer::{DownloadItem, LocalDurability, download};

use super::{TransferArguments, existing};
use crate::cli::{
    failure::Failure,
    invocation::{Invocation, parse_paths},
    local_target::local_targets,
};

/// Arguments of `dfs download`.
#[derive(Args, Debug)]
#[command(after_help = "\
As cp: if DST is a directory, each SRC goes into it under its own name; else
the one SRC gets the name DST. `/dir` and `/dir/` mean the directory itself,
`/dir/.` what is in it. With -T, DST is always the name itself, so the same
command again finds what is there. DST must be a directory if it ends in /
(mkdir makes one).

Every byte is checked against its BLAKE3 hash before it is written; if a
replica is bad or gone, another is read. Under each name stands the old file
or the whole new one, never a part. What is there and equal is skipped, so an
interrupted download goes on where it was. A device or pipe is not replaced.

Without --sync the system writes the bytes when it likes, as with cp: after a
power cut, files of the last minute may be incomplete though their size and
time are right. Then repeat the command with --checksum.

Examples:
  dfs download /notes.txt .
  dfs download -r /photos ~/                     ~/photos with all below
  dfs download -rT --checksum /photos ~/photos   compare bytes, not times
  dfs download --sync /backup.tar /mnt/usb/      on the disk when it returns")]
pub(crate) struct DownloadArguments {
    /// Paths in the store
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<OsString>,
    /// File or directory of this machine
    #[arg(value_name = "DST")]
    dst: OsString,
    /// Sync each file before it gets its name, and each directory at its end
    #[arg(long)]
    sync: bool,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// Downloads.
pub(crate) async fn run(invocation: &Invocation, arguments: DownloadArguments) -> Result<(), Failure> {
    let DownloadArguments { sources, dst, sync, transfer } = arguments;
    let paths = parse_paths("download", &sources)?;
    let targets = local_targets(&sources, &dst, transfer.directory_rule())?;
    invocation
        .with_files(async |files| {
            let items = paths.into_iter().zip(targets).zip(&sources);
            let items =
                items.map(|((source, target), written)| DownloadItem { existing: existing(written), source, target });
            let items = items.collect();
            let options = transfer.options(if sync { LocalDurability::Synced } else { LocalDurability::Unsynced });
            transfer.show(invocation, "downloaded", async |meter| download(files, items, &options, meter).await).await
        })
        .await
}
