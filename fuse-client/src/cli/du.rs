//! `dfs du`: how much room files take.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use clap::{ArgAction, Args};
use fuse_client::{FilePath, Namespace, NamespaceError, namespace::Follow};
use serde_json::{Map, Value, json};
use wire::namespace::{Attr, FileType, ListWant};

use super::{
    failure::Failure,
    invocation::{Invocation, parse_paths, tell},
    json::insert_bytes,
    text::{number::short_size, quote::shell},
};

/// Arguments of `dfs du`.
#[derive(Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "\
Sizes are those of the data once, however many replicas there are: holes take
none, and a file with several names counts once. In KiB unless -h or --json
(bytes).

Examples:
  dfs du -sh /photos /music
  dfs du -h -d 1 /               each directory in the root"
)]
pub(crate) struct DuArguments {
    /// Directories or files [default: /]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// One line for each PATH
    #[arg(short, long, conflicts_with_all = ["all", "max_depth"])]
    summarize: bool,
    /// Sizes as 4.0K, 12M
    #[arg(short, long)]
    human_readable: bool,
    /// Also a line for each file
    #[arg(short, long)]
    all: bool,
    /// Lines only down to this depth
    #[arg(short = 'd', long, value_name = "DEPTH")]
    max_depth: Option<usize>,
    /// Lengths of files, not the room they take
    #[arg(long)]
    apparent_size: bool,
    /// As a JSON array
    #[arg(long)]
    json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// A line of the answer.
#[derive(Debug)]
struct Total {
    path: FilePath,
    bytes: u64,
}

/// A directory being added up.
#[derive(Debug)]
struct Level {
    path: FilePath,
    bytes: u64,
    below: Vec<FilePath>,
}

/// Adds up.
pub(crate) async fn run(invocation: &Invocation, arguments: DuArguments) -> Result<(), Failure> {
    let paths = parse_paths("add up", &arguments.paths)?;
    let paths = if paths.is_empty() { vec![FilePath::root()] } else { paths };
    invocation
        .with_files(async |files| {
            let mut sum =
                Sum { invocation, files, arguments: &arguments, seen: BTreeSet::new(), json: Vec::new(), failed: 0 };
            for path in &paths {
                sum.path(path).await?;
            }
            sum.end()
        })
        .await
}

/// An addition under way.
struct Sum<'a> {
    invocation: &'a Invocation,
    files: &'a Namespace,
    arguments: &'a DuArguments,
    /// Inodes with several names that were counted.
    seen: BTreeSet<u64>,
    json: Vec<Value>,
    failed: u64,
}

impl Sum<'_> {
    async fn path(&mut self, path: &FilePath) -> Result<(), Failure> {
        let attr = match self.files.resolve(path, Follow::No).await {
            Ok(attr) => attr,
            Err(error) => return self.fail(path, &error),
        };
        let bytes = self.count(&attr);
        if attr.file_type != FileType::Directory {
            return self.line(&Total { path: path.clone(), bytes });
        }
        let mut levels = Vec::new();
        levels.extend(self.open(path, bytes, 0).await?);
        while let Some(level) = levels.last_mut() {
            if let Some(below) = level.below.pop() {
                let depth = levels.len();
                levels.extend(self.open(&below, 0, depth).await?);
                continue;
            }
            let Level { path, bytes, .. } = levels.pop().expect("there is one");
            let shown = if self.arguments.summarize { levels.is_empty() } else { self.shows(levels.len()) };
            if shown {
                self.line(&Total { path, bytes })?;
            }
            if let Some(above) = levels.last_mut() {
                above.bytes += bytes;
            }
        }
        Ok(())
    }

    /// A directory with the files in it; those below are still to be added.
    async fn open(&mut self, path: &FilePath, own: u64, depth: usize) -> Result<Option<Level>, Failure> {
        match self.read(path, own, depth).await {
            Ok((level, lines)) => {
                for line in &lines {
                    self.line(line)?;
                }
                Ok(Some(level))
            }
            Err(error) => self.fail(path, &error).map(|()| None),
        }
    }

    async fn read(&mut self, path: &FilePath, own: u64, depth: usize) -> Result<(Level, Vec<Total>), NamespaceError> {
        let mut listing = self.files.list(path, ListWant::Attrs).await?;
        let mut level = Level { path: path.clone(), bytes: own, below: Vec::new() };
        // In order of name, so that the same tree gives the same lines.
        let mut below = BTreeMap::new();
        let mut lines = Vec::new();
        while let Some(page) = listing.next_page().await? {
            for entry in page {
                let bytes = entry.attr.as_ref().map_or(0, |attr| self.count(attr));
                level.bytes += bytes;
                let path = path.join(entry.name.clone());
                if entry.file_type == FileType::Directory {
                    below.insert(entry.name, path);
                } else if self.arguments.all && self.shows(depth + 1) {
                    lines.push(Total { path, bytes });
                }
            }
        }
        level.below = below.into_values().rev().collect();
        Ok((level, lines))
    }

    fn shows(&self, depth: usize) -> bool {
        self.arguments.max_depth.is_none_or(|depth_max| depth <= depth_max)
    }

    /// What an inode adds: nothing if it was met under another name.
    fn count(&mut self, attr: &Attr) -> u64 {
        let several = attr.links > 1 && attr.file_type != FileType::Directory;
        if several && !self.seen.insert(attr.inode.0) {
            return 0;
        }
        match attr.file_type {
            FileType::File if self.arguments.apparent_size => attr.size,
            FileType::File
            | FileType::Directory
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => attr.allocated,
        }
    }

    fn line(&mut self, total: &Total) -> Result<(), Failure> {
        let path = total.path.to_bytes();
        if self.arguments.json {
            let mut object = Map::new();
            insert_bytes(&mut object, "path", &path);
            object.insert("bytes".into(), json!(total.bytes));
            self.json.push(Value::Object(object));
            return Ok(());
        }
        let size = if self.arguments.human_readable {
            short_size(total.bytes)
        } else {
            total.bytes.div_ceil(1024).to_string()
        };
        let name = if self.invocation.screen.width.is_some() { shell(&path).into_bytes() } else { path };
        let mut page = self.invocation.screen.page();
        page.push(&[size.as_bytes(), b"\t", &name, b"\n"].concat())?;
        page.finish()
    }

    fn fail(&mut self, path: &FilePath, error: &NamespaceError) -> Result<(), Failure> {
        self.failed += 1;
        tell(self.invocation, "add up", path, error)
    }

    fn end(self) -> Result<(), Failure> {
        if self.arguments.json {
            self.invocation.screen.print_json(&Value::Array(self.json))?;
        }
        if self.failed > 0 { Err(Failure::Reported) } else { Ok(()) }
    }
}
