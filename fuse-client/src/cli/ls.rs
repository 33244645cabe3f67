//! `dfs ls`: directories, as `ls` shows them.

mod collect;
mod show;

use std::ffi::OsString;

use clap::{ArgAction, Args};
use fuse_client::{FilePath, Namespace};

use super::{
    failure::Failure,
    invocation::{Invocation, parse_paths, tell},
};
use collect::{Descend, Item};
use show::Look;

/// Arguments of `dfs ls`.
#[derive(Args, Clone, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  dfs ls -l /photos              like ls -l
  dfs ls -lh -S /photos          the largest first, sizes for people
  dfs ls -R --json / | jq -r '.[].path'

Names that are not UTF-8 stand in --json as name_base64 and path_base64."
)]
pub(crate) struct LsArguments {
    /// Directories or files [default: /]
    #[arg(value_name = "PATH")]
    pub(super) paths: Vec<OsString>,
    /// Long: mode, links, owner, group, size, time of change, name
    #[arg(short)]
    pub(super) long: bool,
    /// Also names that begin with a dot, . and .. among them
    #[arg(short, long)]
    pub(super) all: bool,
    /// Also names that begin with a dot, but not . and ..
    #[arg(short = 'A', long)]
    pub(super) almost_all: bool,
    /// Sizes as 4.0K, 12M
    #[arg(short, long)]
    pub(super) human_readable: bool,
    /// Directories themselves, not what is in them
    #[arg(short, long)]
    pub(super) directory: bool,
    /// With all directories below
    #[arg(short = 'R', long)]
    pub(super) recursive: bool,
    /// Newest first
    #[arg(short = 't')]
    pub(super) by_time: bool,
    /// Largest first
    #[arg(short = 'S')]
    pub(super) by_size: bool,
    /// The other way round
    #[arg(short, long)]
    pub(super) reverse: bool,
    /// One name a line, also on a terminal
    #[arg(short = '1')]
    pub(super) one_per_line: bool,
    /// As a JSON array, with all attributes
    #[arg(long)]
    pub(super) json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Lists.
pub(crate) async fn run(invocation: &Invocation, arguments: LsArguments) -> Result<(), Failure> {
    let paths = parse_paths("list", &arguments.paths)?;
    let paths = if paths.is_empty() { vec![FilePath::root()] } else { paths };
    invocation.with_files(async |files| list(invocation, files, &arguments, &paths).await).await
}

/// First what is no directory, in one block; then each directory under its heading.
async fn list(
    invocation: &Invocation,
    files: &Namespace,
    arguments: &LsArguments,
    paths: &[FilePath],
) -> Result<(), Failure> {
    let mut failed = false;
    let (mut singles, mut directories) = (Vec::new(), Vec::new());
    for path in paths {
        match collect::named(files, path, arguments).await {
            Ok((item, Descend::Yes)) => directories.push(item),
            Ok((item, Descend::No)) => singles.push(item),
            Err(error) => {
                failed = true;
                tell(invocation, "list", path, &error)?;
            }
        }
    }
    let headings = paths.len() > 1 || arguments.recursive;
    let mut look = Look::new(invocation, arguments, headings);
    collect::sort(&mut singles, arguments);
    look.block(singles)?;
    collect::sort(&mut directories, arguments);
    // The next one is at the end: those below a directory come right after it.
    let mut directories: Vec<FilePath> = directories.into_iter().rev().map(|item| item.path).collect();
    while let Some(path) = directories.pop() {
        match collect::directory(files, &path, arguments).await {
            Ok(listed) => {
                let below = listed.items.iter().filter(|item| arguments.recursive && item.is_below());
                directories.extend(below.map(|item| item.path.clone()).rev().collect::<Vec<_>>());
                look.directory(&path, listed)?;
            }
            Err(error) => {
                failed = true;
                look.flush()?;
                tell(invocation, "list", &path, &error)?;
            }
        }
    }
    look.finish()?;
    if failed { Err(Failure::Reported) } else { Ok(()) }
}

impl Item {
    /// Whether a recursive listing goes into it.
    fn is_below(&self) -> bool {
        self.file_type == wire::namespace::FileType::Directory && !self.is_dots()
    }

    /// `.` or `..`.
    fn is_dots(&self) -> bool {
        self.name == b"." || self.name == b".."
    }
}
