//! `dfs cp`: within the store.

use std::ffi::OsString;

use clap::Args;
use fuse_client::{
    FilePath, Namespace, NamespaceError,
    namespace::{Follow, TreeNews},
};
use wire::namespace::{FileType, ListWant, OpError};

use super::{
    failure::Failure,
    invocation::{Invocation, cannot, parse_paths},
    progress::Counter,
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
DST is always the name itself. A file goes through a link at DST into the file
that the link leads to; in a tree, links are copied and replaced as links. To
copy from or to this machine: dfs upload, dfs download.

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
                let counter = Counter::new("copied", invocation.screen);
                let mut told = |news| match news {
                    TreeNews::Done => counter.add(),
                    TreeNews::Failed { path, error } => {
                        failed = true;
                        let action = format!("copy {} to", quoted(&path.to_bytes()));
                        counter.aside(|| invocation.screen.report(&cannot(&action, target, &error)));
                    }
                };
                if let Err(error) = copy(files, source, target, arguments.recursive, &mut told).await {
                    let is_over = matches!(error, NamespaceError::Cluster(_));
                    told(TreeNews::Failed { path: source.clone(), error });
                    if is_over {
                        break;
                    }
                }
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}

/// Copies one source: of a file the bytes, through a link at the target.
async fn copy(
    files: &Namespace,
    source: &FilePath,
    target: &FilePath,
    recursive: bool,
    told: &mut impl FnMut(TreeNews),
) -> Result<(), NamespaceError> {
    // As cp: links are followed, unless a tree is copied as it is.
    let follow = if recursive { Follow::No } else { Follow::Yes };
    match files.resolve(source, follow).await?.file_type {
        FileType::Directory if !recursive => {
            Err(NamespaceError::Op { path: source.clone(), source: OpError::IsDirectory })
        }
        file_type if !recursive || file_type == FileType::File => files.copy_file(source, target).await.map(drop),
        _ => copy_tree(files, source, target, told).await,
    }
}

/// Copies a tree. What is a directory here and there is merged, as `cp` does; links are copied as links and replaced as
/// such, and what cannot be copied is told and left out.
async fn copy_tree(
    files: &Namespace,
    source: &FilePath,
    target: &FilePath,
    told: &mut impl FnMut(TreeNews),
) -> Result<(), NamespaceError> {
    let mut left = vec![(source.clone(), target.clone())];
    while let Some((source, target)) = left.pop() {
        match copy_one(files, &source, &target, told).await {
            Ok(below) => left.extend(below),
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => told(TreeNews::Failed { path: source, error }),
        }
    }
    Ok(())
}

/// Copies one entry, but for what is in a directory that is there already: those entries are still to be copied.
async fn copy_one(
    files: &Namespace,
    source: &FilePath,
    target: &FilePath,
    told: &mut impl FnMut(TreeNews),
) -> Result<Vec<(FilePath, FilePath)>, NamespaceError> {
    let attr = files.resolve(source, Follow::No).await?;
    if attr.file_type == FileType::Directory
        && let Some(there) = files.lookup(target, Follow::Yes).await?
    {
        return match there.file_type {
            _ if there.inode == attr.inode => Err(NamespaceError::IntoItself { path: source.clone() }),
            FileType::Directory => entries(files, source, target).await,
            _ => Err(NamespaceError::Op { path: target.clone(), source: OpError::NotDirectory }),
        };
    }
    files.copy_tree(source, target, told).await.map(|()| Vec::new())
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
