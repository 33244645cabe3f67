//! `dfs tree`: a directory and all below it, drawn.

use std::ffi::OsString;

use clap::Args;
use fuse_client::{FilePath, Namespace, NamespaceError};
use serde_json::{Map, Value, json};
use wire::namespace::{Entry, FileType, ListWant};

use super::{
    failure::Failure,
    invocation::{Invocation, parse_paths, tell},
    json::insert_bytes,
    screen::Page,
    text::{mode::type_word, number::counted, quote::shell},
};

/// Arguments of `dfs tree`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dfs tree /photos
  dfs tree -L 2                  two levels, from the root")]
pub(crate) struct TreeArguments {
    /// Directories [default: /]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Levels to go down
    #[arg(short = 'L', long, value_name = "LEVELS", value_parser = clap::value_parser!(u32).range(1..))]
    level: Option<u32>,
    /// Also names that begin with a dot
    #[arg(short, long)]
    all: bool,
    /// Directories only
    #[arg(short, long)]
    directories: bool,
    /// As a JSON array of trees
    #[arg(long)]
    json: bool,
}

/// Draws trees.
pub(crate) async fn run(invocation: &Invocation, arguments: TreeArguments) -> Result<(), Failure> {
    let paths = parse_paths("list", &arguments.paths)?;
    let paths = if paths.is_empty() { vec![FilePath::root()] } else { paths };
    invocation
        .with_files(async |files| {
            let page = invocation.screen.page();
            let mut walk = Walk { files, arguments: &arguments, invocation, page, counts: Counts::default() };
            let mut trees = Vec::new();
            for path in &paths {
                trees.extend(walk.tree(path).await?);
            }
            walk.end(trees)
        })
        .await
}

/// What was drawn.
#[derive(Debug, Default)]
struct Counts {
    directories: u64,
    others: u64,
    failed: u64,
}

/// A drawing under way.
struct Walk<'a> {
    files: &'a Namespace,
    arguments: &'a TreeArguments,
    invocation: &'a Invocation,
    page: Page,
    counts: Counts,
}

/// A directory whose entries are being drawn.
struct Level {
    path: FilePath,
    /// What stands before the branches of its entries.
    indent: String,
    rest: std::vec::IntoIter<Entry>,
    object: Map<String, Value>,
    contents: Vec<Value>,
}

impl Walk<'_> {
    /// One tree; drawn at once, or handed back as JSON.
    async fn tree(&mut self, path: &FilePath) -> Result<Option<Value>, Failure> {
        let root = match self.open(path, String::new(), Map::new()).await {
            Ok(level) => level,
            Err(error) => {
                self.fail(path, &error)?;
                return Ok(None);
            }
        };
        self.counts.directories += 1;
        self.line(&[shell(&path.to_bytes()).as_str()])?;
        let mut levels = vec![root];
        loop {
            let level = levels.last_mut().expect("the root level leaves the loop");
            let Some(entry) = level.rest.next() else {
                let done = levels.pop().expect("there is one");
                let value = done.into_json();
                match levels.last_mut() {
                    Some(above) => above.contents.push(value),
                    None => return Ok(Some(value)),
                }
                continue;
            };
            let last = level.rest.as_slice().is_empty();
            let branch = format!("{}{}", level.indent, if last { "└── " } else { "├── " });
            let indent = format!("{}{}", level.indent, if last { "    " } else { "│   " });
            let path = level.path.join(entry.name.clone());
            self.line(&[&branch, &shell(entry.name.as_bytes())])?;
            let deeper = self.arguments.level.is_none_or(|level_max| levels.len() < level_max as usize);
            if entry.file_type == FileType::Directory && deeper {
                match self.open(&path, indent, object_of(&entry)).await {
                    Ok(level) => {
                        self.counts.directories += 1;
                        levels.push(level);
                        continue;
                    }
                    Err(error) => self.fail(&path, &error)?,
                }
            }
            if entry.file_type == FileType::Directory {
                self.counts.directories += 1;
            } else {
                self.counts.others += 1;
            }
            levels.last_mut().expect("the level of this entry").contents.push(Value::Object(object_of(&entry)));
        }
    }

    async fn open(
        &self,
        path: &FilePath,
        indent: String,
        mut object: Map<String, Value>,
    ) -> Result<Level, NamespaceError> {
        let mut listing = self.files.list(path, ListWant::Names).await?;
        let mut entries = Vec::new();
        while let Some(page) = listing.next_page().await? {
            entries.extend(page.into_iter().filter(|entry| {
                let hidden = entry.name.as_bytes().starts_with(b".") && !self.arguments.all;
                let skipped = self.arguments.directories && entry.file_type != FileType::Directory;
                !hidden && !skipped
            }));
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if object.is_empty() {
            insert_bytes(&mut object, "name", &path.to_bytes());
            object.insert("type".into(), json!(type_word(FileType::Directory)));
        }
        Ok(Level { path: path.clone(), indent, rest: entries.into_iter(), object, contents: Vec::new() })
    }

    fn line(&mut self, parts: &[&str]) -> Result<(), Failure> {
        if self.arguments.json {
            return Ok(());
        }
        self.page.push(parts.concat().as_bytes())?;
        self.page.push(b"\n")
    }

    fn fail(&mut self, path: &FilePath, error: &NamespaceError) -> Result<(), Failure> {
        self.counts.failed += 1;
        self.page.flush()?;
        tell(self.invocation, "list", path, error)
    }

    fn end(mut self, trees: Vec<Value>) -> Result<(), Failure> {
        let Counts { directories, others, failed } = self.counts;
        if self.arguments.json {
            self.page.push(format!("{:#}\n", Value::Array(trees)).as_bytes())?;
        } else if !trees.is_empty() {
            let directories = counted(directories, "directory", "directories");
            let summary = if self.arguments.directories {
                format!("\n{directories}\n")
            } else {
                format!("\n{directories}, {}\n", counted(others, "file", "files"))
            };
            self.page.push(summary.as_bytes())?;
        }
        self.page.finish()?;
        if failed > 0 { Err(Failure::Reported) } else { Ok(()) }
    }
}

impl Level {
    fn into_json(mut self) -> Value {
        self.object.insert("contents".into(), Value::Array(self.contents));
        Value::Object(self.object)
    }
}

fn object_of(entry: &Entry) -> Map<String, Value> {
    let mut object = Map::new();
    insert_bytes(&mut object, "name", entry.name.as_bytes());
    object.insert("type".into(), json!(type_word(entry.file_type)));
    object
}
