//! Pages of directories.
//!
//! Entries come in order of cookie, from one scan. What they tell of their inodes is looked up in runs of near
//! numbers: a directory that was filled by one session has its inodes side by side, and a scan shows ten rows in the
//! time of one lookup.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use wire::namespace::{Attr, Content, Cookie, Entry, InlineData, Inode, ListWant, Page, Xattr};

use super::{
    edit::collect_with,
    query, row,
    row::{Body, DirEntry, InodeRow, Storage},
    table, xattrs,
};
use crate::kv::{KvError, KvRead};

/// Bytes of a page: fits a frame with room to spare.
const PAGE_LEN_MAX: usize = 1 << 20;

/// Entries that are looked at together: many enough for runs and few scans, few enough that little is thrown away
/// when a page is full (some 250 files of 4 KiB fill one).
fn group_len(want: ListWant) -> usize {
    match want {
        ListWant::Names | ListWant::Attrs => 2048,
        ListWant::Contents => 64,
    }
}

/// Extents of a file that a page tells: 64 MiB in whole chunks. The rest is asked for by itself.
const EXTENTS_PER_ENTRY: usize = 16;

/// Distance of two inodes that a scan still steps over: about what a lookup costs.
const GAP_MAX: u64 = 16;

/// The entries of `dir` after a cookie, as many as are wanted and fit.
pub(super) fn page(
    rows: &dyn KvRead,
    dir: Inode,
    (version, next): (u64, Cookie),
    after: Cookie,
    limit: u32,
    want: ListWant,
) -> Result<Page, KvError> {
    let mut page = Page { entries: Vec::new(), end: false, version, next };
    let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
    let (mut after, mut len) = (after, 0);
    loop {
        let wanted = group_len(want).min(limit - page.entries.len());
        let group = entries(rows, dir, after, wanted)?;
        let last = group.len() < wanted;
        let told = Told::of(rows, &group, want)?;
        for (cookie, entry) in group {
            let entry = told.entry(cookie, entry);
            len += encoded_len(&entry);
            if len > PAGE_LEN_MAX && !page.entries.is_empty() {
                return Ok(page);
            }
            after = cookie;
            page.entries.push(entry);
        }
        if last || page.entries.len() >= limit {
            page.end = last;
            return Ok(page);
        }
    }
}

fn entries(rows: &dyn KvRead, dir: Inode, after: Cookie, limit: usize) -> Result<Vec<(Cookie, DirEntry)>, KvError> {
    let Some(first) = after.0.checked_add(1) else { return Ok(Vec::new()) };
    let (_, to) = table::rows_of(table::ENTRY, dir.0);
    collect_with(rows, &table::entry(dir, Cookie(first)), &to, limit, |key, value| {
        Ok(Some((Cookie(table::last_number(key).unwrap_or(0)), row::decode(key, value)?)))
    })
}

/// What is told of the inodes of a group.
#[derive(Default)]
struct Told {
    /// In order of inode.
    attrs: Vec<(Inode, Attr)>,
    contents: BTreeMap<Inode, Content>,
    xattrs: BTreeMap<Inode, Vec<Xattr>>,
}

impl Told {
    fn of(rows: &dyn KvRead, group: &[(Cookie, DirEntry)], want: ListWant) -> Result<Self, KvError> {
        let mut told = Self::default();
        if want == ListWant::Names {
            return Ok(told);
        }
        let mut inodes: Vec<Inode> = group.iter().map(|(_, entry)| entry.inode).collect();
        inodes.sort_unstable();
        inodes.dedup();
        for run in inodes.chunk_by(|a, b| b.0 - a.0 <= GAP_MAX) {
            let found: Vec<(Inode, InodeRow)> = run_rows(rows, table::INODE, run)?;
            told.attrs.extend(found.iter().map(|(inode, row)| (*inode, row.attr(*inode))));
            if want == ListWant::Contents {
                told.add_contents(rows, run, &found)?;
            }
        }
        Ok(told)
    }

    fn add_contents(&mut self, rows: &dyn KvRead, run: &[Inode], found: &[(Inode, InodeRow)]) -> Result<(), KvError> {
        let mut inline: BTreeMap<Inode, InlineData> = run_rows(rows, table::INLINE, run)?.into_iter().collect();
        for (inode, row) in found {
            let content = match (row.body, inline.remove(inode)) {
                (Body::File { storage: Storage::Inline, .. }, Some(data)) => Content::Inline(data),
                (Body::Symlink, Some(target)) => Content::Symlink(target),
                (_, _) => query::content(rows, *inode, row, 0, u64::MAX, EXTENTS_PER_ENTRY)?,
            };
            self.contents.insert(*inode, content);
        }
        let read = |inode, key: &[u8], value: &[u8]| Ok((inode, xattrs::xattr_at(key, value.to_vec())?));
        for (inode, xattr) in scan_run(rows, table::XATTR, run, read)? {
            self.xattrs.entry(inode).or_default().push(xattr);
        }
        Ok(())
    }

    fn entry(&self, cookie: Cookie, entry: DirEntry) -> Entry {
        let DirEntry { name, inode, file_type } = entry;
        let at = self.attrs.binary_search_by_key(&inode, |(inode, _)| *inode).ok();
        let attr = at.and_then(|at| self.attrs.get(at)).map(|(_, attr)| *attr);
        let content = self.contents.get(&inode).cloned();
        let xattrs = self.xattrs.get(&inode).cloned().unwrap_or_default();
        Entry { cookie, name, inode, file_type, attr, content, xattrs }
    }
}

/// The rows of a table whose only field is an inode of `run`, in order.
fn run_rows<T: DeserializeOwned>(rows: &dyn KvRead, table: u8, run: &[Inode]) -> Result<Vec<(Inode, T)>, KvError> {
    if let [inode] = run {
        let row = row::read(rows, &table::number(table, inode.0))?;
        return Ok(row.map(|row| (*inode, row)).into_iter().collect());
    }
    scan_run(rows, table, run, |inode, key, value| Ok((inode, row::decode(key, value)?)))
}

/// What `read` makes of the rows of a table whose first field is an inode of `run`, which is in order.
fn scan_run<T>(
    rows: &dyn KvRead,
    table: u8,
    run: &[Inode],
    read: impl Fn(Inode, &[u8], &[u8]) -> Result<T, KvError>,
) -> Result<Vec<T>, KvError> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
    let (from, _) = table::rows_of(table, first.0);
    let (_, to) = table::rows_of(table, last.0);
    let mut wanted = run.iter().peekable();
    collect_with(rows, &from, &to, usize::MAX, |key, value| {
        let inode = Inode(table::first_number(key).unwrap_or(0));
        while wanted.next_if(|next| **next < inode).is_some() {}
        // It stays wanted: an inode may have several rows.
        wanted.peek().filter(|next| ***next == inode).map(|_| read(inode, key, value)).transpose()
    })
}

/// Bytes of an entry in a message, at most.
fn encoded_len(entry: &Entry) -> usize {
    const NUMBERS: usize = 32;
    const ATTR: usize = 128;
    const EXTENT: usize = 64;
    let content = match &entry.content {
        Some(Content::Inline(data) | Content::Symlink(data)) => data.bytes.len() + 40,
        Some(Content::Extents { extents, .. }) => 16 + extents.len() * EXTENT,
        Some(Content::None) | None => 0,
    };
    let xattrs: usize = entry.xattrs.iter().map(|xattr| xattr.name.as_bytes().len() + xattr.value.len() + 8).sum();
    NUMBERS + entry.name.as_bytes().len() + entry.attr.map_or(0, |_| ATTR) + content + xattrs
}
