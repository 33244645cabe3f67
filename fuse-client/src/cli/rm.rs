//! `dfs rm`.

use std::ffi::OsString;

use clap::Args;
use fuse_client::{
    FilePath, Namespace, NamespaceError,
    namespace::{Follow, TreeNews},
};
use wire::namespace::{FileType, OpError};

use super::{
    failure::{Failure, Line},
    invocation::{Invocation, cannot, each_path, parse_paths},
    progress::Counter,
    text::quote::quoted,
};

/// Arguments of `dfs rm`.
#[derive(Args, Debug)]
#[command(after_help = "\
What cannot be removed is named, and stays with the directories above it; all
else goes.

Examples:
  dfs rm /notes.txt
  dfs rm -r /photos/old          a directory with all below it
  dfs rm -d /empty               an empty directory")]
pub(crate) struct RmArguments {
    /// What to remove
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
    /// Directories with all below them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// No error for what does not exist
    #[arg(short, long)]
    force: bool,
    /// Empty directories
    #[arg(short, long)]
    dir: bool,
}

/// Removes.
pub(crate) async fn run(invocation: &Invocation, arguments: RmArguments) -> Result<(), Failure> {
    let paths = parse_paths("remove", &arguments.paths)?;
    for (path, given) in paths.iter().zip(&arguments.paths) {
        if path.file_name().is_none() {
            use std::os::unix::ffi::OsStrExt;
            let line = Line::new(format!("cannot remove {}", quoted(given.as_bytes())));
            return Err(line.why("it ends in /, . or ..").advice("name what is to go").failed());
        }
    }
    invocation
        .with_files(async |files| {
            let mut stays = false;
            let removed = each_path(invocation, "remove", &paths, async |path| {
                let counter = Counter::new("removed", invocation.screen);
                let told = |news| match news {
                    TreeNews::Done => counter.add(),
                    TreeNews::Failed { path, error } => {
                        stays = true;
                        counter.aside(|| invocation.screen.report(&cannot("remove", &path, &error)));
                    }
                };
                match remove(files, path, &arguments, told).await {
                    Err(NamespaceError::Op { source: OpError::NotFound | OpError::NotDirectory, .. })
                        if arguments.force =>
                    {
                        Ok(())
                    }
                    outcome => outcome,
                }
            });
            removed.await?;
            if stays { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}

async fn remove(
    files: &Namespace,
    path: &FilePath,
    arguments: &RmArguments,
    told: impl FnMut(TreeNews),
) -> Result<(), NamespaceError> {
    let attr = files.resolve(path, Follow::No).await?;
    if attr.file_type != FileType::Directory {
        return files.remove_file(path).await;
    }
    if arguments.recursive {
        return files.remove_tree(path, told).await;
    }
    if arguments.dir {
        return files.remove_dir(path).await;
    }
    Err(NamespaceError::Op { path: path.clone(), source: OpError::IsDirectory })
}
