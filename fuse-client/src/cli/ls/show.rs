//! How a listing looks: lines, columns, the long form, JSON.

use chrono::Local;
use fuse_client::FilePath;
use serde_json::{Map, Value, json};
use wire::namespace::{Attr, FileType, Timestamp};

use super::{
    LsArguments,
    collect::{Item, Listed},
};
use crate::cli::{
    failure::Failure,
    invocation::Invocation,
    json::{insert_attr, insert_bytes},
    owners::Owners,
    screen::Page,
    text::{
        columns::in_columns,
        date::list_date,
        mode::{device_numbers, mode_text},
        number::short_size,
        quote::shell,
    },
};

/// Prints blocks of a listing one after the other.
#[derive(Debug)]
pub(super) struct Look<'a> {
    invocation: &'a Invocation,
    arguments: &'a LsArguments,
    owners: Owners,
    headings: bool,
    blocks: usize,
    page: Page,
    json: Vec<Value>,
}

impl<'a> Look<'a> {
    /// Nothing printed yet. With `headings`, each directory has its path above it.
    pub(super) fn new(invocation: &'a Invocation, arguments: &'a LsArguments, headings: bool) -> Self {
        let owners = if arguments.long || arguments.json { Owners::load() } else { Owners::default() };
        let page = invocation.screen.page();
        Self { invocation, arguments, owners, headings, blocks: 0, page, json: Vec::new() }
    }

    /// What stands for itself.
    pub(super) fn block(&mut self, items: Vec<Item>) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        self.blocks += 1;
        self.items(items)
    }

    /// A directory.
    pub(super) fn directory(&mut self, path: &FilePath, listed: Listed) -> Result<(), Failure> {
        if !self.arguments.json {
            let gap = if self.blocks > 0 { "\n" } else { "" };
            if self.headings {
                let heading = self.name(&path.to_bytes());
                self.page.push(&[gap.as_bytes(), &heading, b":\n"].concat())?;
            }
            if self.arguments.long {
                let bytes: u64 = listed.items.iter().filter_map(|item| item.attr).map(|attr| attr.allocated).sum();
                let total =
                    if self.arguments.human_readable { short_size(bytes) } else { bytes.div_ceil(1024).to_string() };
                self.page.push(format!("total {total}\n").as_bytes())?;
            }
        }
        self.blocks += 1;
        self.items(listed.items)
    }

    /// Everything so far goes out, so that an error message stands in its place.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.page.flush()
    }

    /// The last of it.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        if self.arguments.json {
            self.page.push(format!("{:#}\n", Value::Array(self.json)).as_bytes())?;
        }
        self.page.finish()
    }

    fn items(&mut self, items: Vec<Item>) -> Result<(), Failure> {
        if self.arguments.json {
            self.json.extend(items.iter().map(|item| json_item(item, &self.owners)));
            return Ok(());
        }
        if self.arguments.long {
            return self.long(&items);
        }
        match self.invocation.screen.width {
            Some(width) if !self.arguments.one_per_line => {
                let names: Vec<String> = items.iter().map(|item| shell(&item.name)).collect();
                self.page.push(in_columns(&names, width).as_bytes())
            }
            Some(_) | None => {
                for item in &items {
                    let mut line = self.name(&item.name);
                    line.push(b'\n');
                    self.page.push(&line)?;
                }
                Ok(())
            }
        }
    }

    /// As a shell takes it on a terminal; as it is elsewhere.
    fn name(&self, name: &[u8]) -> Vec<u8> {
        if self.invocation.screen.width.is_some() { shell(name).into_bytes() } else { name.to_vec() }
    }

    fn long(&mut self, items: &[Item]) -> Result<(), Failure> {
        let now = self.invocation.environment.now;
        let rows: Vec<LongRow> = items
            .iter()
            .filter_map(|item| item.attr.as_ref())
            .map(|attr| LongRow::new(attr, &self.owners, self.arguments, now))
            .collect();
        let widths = rows.iter().fold([0; 4], |widths, row| {
            let cells = [&row.links, &row.owner, &row.group, &row.size];
            std::array::from_fn(|at| {
                let width = widths.get(at).copied().unwrap_or(0);
                width.max(cells.get(at).map_or(0, |cell| cell.len()))
            })
        });
        for (item, row) in items.iter().filter(|item| item.attr.is_some()).zip(&rows) {
            let mut line = row.text(widths).into_bytes();
            line.extend(self.name(&item.name));
            if let Some(target) = &item.target {
                line.extend(b" -> ");
                line.extend(self.name(target));
            }
            line.push(b'\n');
            self.page.push(&line)?;
        }
        Ok(())
    }
}

/// The columns before the name.
#[derive(Debug)]
struct LongRow {
    mode: String,
    links: String,
    owner: String,
    group: String,
    size: String,
    date: String,
}

impl LongRow {
    fn new(attr: &Attr, owners: &Owners, arguments: &LsArguments, now: Timestamp) -> Self {
        let size = match attr.file_type {
            FileType::CharDevice | FileType::BlockDevice => {
                let (major, minor) = device_numbers(attr.device);
                format!("{major}, {minor}")
            }
            FileType::File | FileType::Directory | FileType::Symlink | FileType::Fifo | FileType::Socket => {
                if arguments.human_readable { short_size(attr.size) } else { attr.size.to_string() }
            }
        };
        Self {
            mode: mode_text(attr.file_type, attr.mode),
            links: attr.links.to_string(),
            owner: owners.user(attr.uid),
            group: owners.group(attr.gid),
            size,
            date: list_date(attr.modified, now, &Local),
        }
    }

    fn text(&self, [links, owner, group, size]: [usize; 4]) -> String {
        let Self { mode, .. } = self;
        format!(
            "{mode} {:>links$} {:<owner$} {:<group$} {:>size$} {} ",
            self.links, self.owner, self.group, self.size, self.date
        )
    }
}

/// An entry as JSON.
fn json_item(item: &Item, owners: &Owners) -> Value {
    let mut object = Map::new();
    // What was named on the command line has its whole path for a name; its last part is what a program wants.
    let name = item.path.file_name().map_or(item.name.as_slice(), |name| name.as_bytes());
    insert_bytes(&mut object, "name", name);
    insert_bytes(&mut object, "path", &item.path.to_bytes());
    match &item.attr {
        Some(attr) => insert_attr(&mut object, attr, owners),
        None => drop(object.insert("inode".into(), json!(item.inode.0))),
    }
    if let Some(target) = &item.target {
        insert_bytes(&mut object, "target", target);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use wire::namespace::{Attr, FileType, Inode, Mode, Timestamp};

    use super::LongRow;
    use crate::cli::{arguments::Arguments, arguments::Command, ls::LsArguments, owners::Owners};
    use clap::Parser;

    fn arguments(line: &[&str]) -> LsArguments {
        match Arguments::parse_from([&["dfs", "ls"], line].concat()).command {
            Command::Ls(arguments) => arguments,
            other => panic!("not ls: {other:?}"),
        }
    }

    fn attr(file_type: FileType, size: u64) -> Attr {
        let time = Timestamp::new(1_577_880_000, 0).unwrap();
        Attr {
            inode: Inode(7),
            file_type,
            mode: Mode::new(0o644),
            uid: 0,
            gid: 1234,
            links: 1,
            size,
            allocated: size,
            device: 0x0103,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            change: 1,
            data_version: 1,
        }
    }

    #[test]
    fn a_long_row_has_the_columns_of_ls() {
        let owners = Owners::parse(b"root:x:0:0::/root:/bin/sh", b"");
        let now = Timestamp::new(1_795_000_000, 0).unwrap();
        let row = LongRow::new(&attr(FileType::File, 4096), &owners, &arguments(&["-l"]), now);
        assert_eq!(row.text([2, 5, 5, 7]), "-rw-r--r--  1 root  1234     4096 Jan  1  2020 ");
        let row = LongRow::new(&attr(FileType::File, 4096), &owners, &arguments(&["-lh"]), now);
        assert_eq!(row.text([1, 4, 4, 4]), "-rw-r--r-- 1 root 1234 4.0K Jan  1  2020 ");
        let row = LongRow::new(&attr(FileType::CharDevice, 0), &owners, &arguments(&["-l"]), now);
        assert_eq!(row.text([1, 4, 4, 4]), "crw-r--r-- 1 root 1234 1, 3 Jan  1  2020 ");
    }
}
