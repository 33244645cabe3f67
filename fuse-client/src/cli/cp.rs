//! `dfs cp`: within the store.

use std::ffi::OsString;

use clap::Args;
use fuse_client::{FilePath, Namespace, NamespaceError, namespace::Follow};
use wire::namespace::{FileType, ListWant, OpError};

use super::{
    failure::Failure,
    invocation::{Invocation, cannot, parse_paths},
    remote_target::remote_targets,
    target::IntoDirectory,
    text::quote::quoted,
};

/// Arguments of `dfs cp`.
#[derive(Args, Debug)]
#[command(after_help = "\
The copy shares its chunks with the original, so it takes no time and no room,
and each can be changed without the other. Modes and times are copied too, and
owners if root copies. If DST is a directory, each SRC goes into it; with -T,
DST is always the name itself. To copy from or to this machine: dfs upload,
dfs download.

Examples:
  dfs cp /a.txt /b.txt
  dfs cp -r /photos /photos.bak
  dfs cp -r /photos/. /all       what is in /photos, into the directory /all")]
pub(crate) struct CpArguments {
    /// What to copy
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<OsString>,
    /// Where to
    #[arg(value_name = "DST")]
    dst: OsString,
    /// Directories with all below them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// DST is the name itself, even if it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
}

/// Copies.
pub(crate) async fn run(invocation: &Invocation, arguments: CpArguments) -> Result<(), Failure> {
    let sources = parse_paths("copy", &arguments.sources)?;
    let into = if arguments.no_target_directory { IntoDirectory::No } else { IntoDirectory::Yes };
    invocation
        .with_files(async |files| {
            let targets = remote_targets("copy", files, &arguments.sources, &arguments.dst, into).await?;
            let mut failed = false;
            for (source, target) in sources.iter().zip(&targets) {
                let mut tell = |source: &FilePath, error: &NamespaceError| {
                    failed = true;
                    let action = format!("copy {} to", quoted(&source.to_bytes()));
                    invocation.screen.report(&cannot(&action, target, error));
                };
                if let Err(error) = copy(files, source, target, arguments.recursive, &mut tell).await {
                    tell(source, &error);
                    if matches!(error, NamespaceError::Cluster(_)) {
                        break;
                    }
                }
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}

/// Copies one source. What is a directory here and there is merged, as `cp` does; below, links are copied as links, and
/// what cannot be copied is told and left out.
async fn copy(
    files: &Namespace,
    source: &FilePath,
    target: &FilePath,
    recursive: bool,
    tell: &mut impl FnMut(&FilePath, &NamespaceError),
) -> Result<(), NamespaceError> {
    // As cp: links are followed, unless a tree is copied as it is.
    let follow = if recursive { Follow::No } else { Follow::Yes };
    let mut left = vec![(source.clone(), target.clone())];
    while let Some((source, target)) = left.pop() {
        let attr = files.resolve(&source, follow).await?;
        let is_directory = attr.file_type == FileType::Directory;
        if is_directory && !recursive {
            return Err(NamespaceError::Op { path: source, source: OpError::IsDirectory });
        }
        let mut tell = |path: FilePath, error: NamespaceError| tell(&path, &error);
        let there = files.lookup(&target, Follow::Yes).await?.map(|attr| attr.file_type);
        let copied = match (is_directory, there) {
            // A link is copied as one by copy_tree; copy_file follows it.
            (false, _) if follow == Follow::Yes => files.copy_file(&source, &target).await.map(drop),
            (false, _) | (true, None) => files.copy_tree(&source, &target, &mut tell).await.map(drop),
            (true, Some(FileType::Directory)) => match entries(files, &source, &target).await {
                Ok(below) => {
                    left.extend(below);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            (true, Some(_)) => Err(NamespaceError::Op { path: target, source: OpError::NotDirectory }),
        };
        match copied {
            Ok(()) => {}
            Err(error @ (NamespaceError::Cluster(_) | NamespaceError::SessionEnded { .. })) => return Err(error),
            Err(error) => tell(source, error),
        }
    }
    Ok(())
}

/// The entries of a directory, each with its path in another one.
async fn entries(
    files: &Namespace,
    source: &FilePath,
    target: &FilePath,
) -> Result<Vec<(FilePath, FilePath)>, NamespaceError> {
    let mut listing = files.list(source, ListWant::Names).await?;
    let mut pairs = Vec::new();
    while let Some(page) = listing.next_page().await? {
        pairs.extend(page.into_iter().map(|entry| (source.join(entry.name.clone()), target.join(entry.name))));
    }
    Ok(pairs)
}
