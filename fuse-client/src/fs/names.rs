//! Names: looking up, listing, making, moving, removing.

use std::{sync::Arc, time::Duration};

use wire::namespace::{
    Attr, Cookie, Entry, FileType, InlineData, Inode, ListWant, Mode, Name, NewKind, Op, OpError, Query, QueryAnswer,
    RenameMode, Replace, WalkEnd,
};

use super::{
    FileSystem, FsError, Gate, Shared,
    open_files::{DirectoryPage, HandleId},
};
use crate::cluster::{ClusterError, now};

/// Entries asked for at once when a directory is listed.
const PAGE_LIMIT: u32 = 2048;

/// Entries fetched ahead, with their content, when names of a directory are asked for one after the other.
const AHEAD_LIMIT: u32 = 512;

/// Names of one directory that are looked up one by one before the rest is fetched ahead.
const MISSES_BEFORE_AHEAD: u32 = 2;

/// Attributes, and how long they may be believed.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// As they are here, with what is written and not committed.
    pub attr: Attr,
    /// How long the attributes count.
    pub attr_ttl: Duration,
    /// How long the entry that led to them counts.
    pub entry_ttl: Duration,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    /// To this.
    Found(Told),
    /// Nowhere; and how long that counts.
    Missing(Duration),
}

/// What a new inode is for, and what it is.
#[derive(Clone, Debug)]
pub struct Making {
    /// What it is.
    pub kind: NewKind,
    /// Permission bits.
    pub mode: Mode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FileSystem {
    /// What `name` leads to, if that is known; the kernel is told, and holds a reference.
    pub fn lookup_cached(&self, _gate: &Gate<'_>, dir: Inode, name: &Name) -> Option<Lookup> {
        let ttl = self.shared.ttl()?;
        let mut table = self.shared.table.lock();
        let node = table.get(dir).filter(|node| node.is_leased())?;
        let child = node.children.get(name)?;
        let (at, until) = (now(), now() + ttl);
        let entry_ttl = node.name_ttl(ttl, at);
        let Some(inode) = child else {
            table.get_mut(dir)?.children.told(name, at + entry_ttl, false, at);
            return Some(Lookup::Missing(entry_ttl));
        };
        let attr = self.shared.told_attr(&mut table, inode, until)?;
        let is_directory = attr.file_type == FileType::Directory;
        table.get_mut(dir)?.children.told(name, at + entry_ttl, is_directory, at);
        table.remember(inode);
        Some(Lookup::Found(Told { attr, attr_ttl: ttl, entry_ttl }))
    }

    /// What `name` leads to, asked anew. It is not told for longer than this moment: look for it in the cache first.
    pub async fn load_name(&self, dir: Inode, name: &Name) -> Result<Option<Attr>, FsError> {
        let mut queries = vec![Query::Walk { from: dir, path: vec![name.clone()] }];
        queries.extend(self.shared.look_ahead(dir));
        let mut answers = self.shared.ask(Vec::new(), queries).await?.into_iter();
        let answer = answers.next().ok_or_else(|| FsError::from(ClusterError::Confused))??;
        let QueryAnswer::Walked(walked) = answer else { return Err(ClusterError::Confused.into()) };
        match (walked.end, walked.steps.as_slice()) {
            (WalkEnd::NotDirectory, [_]) => Err(OpError::NotDirectory.into()),
            (_, [_, attr]) => Ok(Some(*attr)),
            _ => Ok(None),
        }
    }

    /// The kernel holds one reference more, by an answer that did not come from the cache.
    pub fn remember(&self, inode: Inode) {
        self.shared.table.lock().remember(inode);
    }

    /// The kernel holds `count` references less.
    pub fn forget(&self, inode: Inode, count: u64) {
        let has_file = self.shared.table.lock().forget(inode, count);
        if has_file {
            self.shared.drop_file_if_idle(inode);
        }
    }

    /// Makes an inode under a name that does not exist.
    pub async fn make(&self, dir: Inode, name: &Name, making: Making) -> Result<Attr, FsError> {
        if let Some(attr) = self.shared.make_here(dir, name, &making) {
            return Ok(attr);
        }
        let new = making.inode(self.shared.session().new_inode().await?);
        let inode = new.inode;
        let op = Op::Create { dir, name: name.clone(), new, replace: Replace::No };
        match self.shared.change_names(op).await? {
            Some(attr) => Ok(attr),
            None => self.shared.ask_attr(inode).await,
        }
    }

    /// Makes a symbolic link.
    pub async fn make_symlink(
        &self,
        dir: Inode,
        name: &Name,
        target: &[u8],
        (uid, gid): (u32, u32),
    ) -> Result<Attr, FsError> {
        if target.is_empty() || target.len() > wire::namespace::SYMLINK_LEN_MAX {
            return Err(FsError::NameTooLong);
        }
        let kind = NewKind::Symlink(InlineData::new(target.to_vec()));
        self.make(dir, name, Making { kind, mode: Mode::new(0o777), uid, gid }).await
    }

    /// Gives an inode another name.
    pub async fn link(&self, inode: Inode, dir: Inode, name: &Name) -> Result<Attr, FsError> {
        // A name commits after the bytes of what it names.
        self.shared.flush_if_dirty(inode).await?;
        let op = Op::Link { inode, dir, name: name.clone(), replace: Replace::No };
        match self.shared.change_names(op).await? {
            Some(attr) => Ok(attr),
            None => self.shared.ask_attr(inode).await,
        }
    }

    /// Takes a name from what is not a directory.
    pub async fn unlink(&self, dir: Inode, name: &Name) -> Result<(), FsError> {
        self.shared.change_names(Op::Unlink { dir, name: name.clone() }).await.map(drop)
    }

    /// Removes an empty directory.
    pub async fn remove_directory(&self, dir: Inode, name: &Name) -> Result<(), FsError> {
        self.shared.change_names(Op::RemoveDirectory { dir, name: name.clone() }).await.map(drop)
    }

    /// Moves an entry.
    pub async fn rename(&self, from: (Inode, &Name), to: (Inode, &Name), mode: RenameMode) -> Result<(), FsError> {
        let known = {
            let table = self.shared.table.lock();
            table.get(from.0).and_then(|node| node.children.get(from.1)).flatten()
        };
        // A name commits after the bytes of what it names.
        let named = match known {
            Some(inode) => Some(inode),
            None => self.load_name(from.0, from.1).await?.map(|attr| attr.inode),
        };
        if let Some(inode) = named {
            self.shared.flush_if_dirty(inode).await?;
        }
        let op = Op::Rename { from_dir: from.0, from_name: from.1.clone(), to_dir: to.0, to_name: to.1.clone(), mode };
        self.shared.change_names(op).await.map(drop)
    }

    /// Target of a symbolic link, if it is known. It never changes, but the link must be there.
    pub fn target_cached(&self, _gate: &Gate<'_>, inode: Inode) -> Option<bytes::Bytes> {
        self.shared.ttl()?;
        let table = self.shared.table.lock();
        table.get(inode).filter(|node| node.is_leased())?.target.clone()
    }

    /// Target of a symbolic link.
    pub async fn read_link(&self, inode: Inode) -> Result<Vec<u8>, FsError> {
        match self.shared.ask_one(Query::Content { inode, offset: 0, len: u64::MAX }).await? {
            QueryAnswer::Content { content: wire::namespace::Content::Symlink(target), .. } if target.is_sound() => {
                Ok(target.bytes)
            }
            QueryAnswer::Content { content: wire::namespace::Content::Symlink(_), .. } => {
                Err(crate::download::ReadError::Unsound.into())
            }
            _ => Err(FsError::Invalid),
        }
    }

    /// Entries of an open directory that follow `after`, at least one unless there are none.
    pub async fn list(&self, handle: HandleId, after: Cookie) -> Result<Arc<Vec<Entry>>, FsError> {
        let directory = self.shared.directory_of(handle)?;
        // A listing from the start is new; further on it goes on with the page at hand.
        let kept = directory.page.lock().clone().filter(|_| after != Cookie::default());
        if let Some(page) = kept {
            let rest = page.entries.iter().position(|entry| entry.cookie > after);
            let follows = page.after <= after && page.entries.last().is_some_and(|last| last.cookie >= after);
            match rest {
                Some(0) if follows => return Ok(page.entries),
                Some(first) if follows => {
                    return Ok(Arc::new(page.entries.get(first..).unwrap_or_default().to_vec()));
                }
                None if follows && page.end => return Ok(Arc::default()),
                _ => {}
            }
        }
        let query = Query::List { dir: directory.inode, after, limit: PAGE_LIMIT, want: ListWant::Attrs };
        let QueryAnswer::Page(page) = self.shared.ask_one(query).await? else {
            return Err(ClusterError::Confused.into());
        };
        let until = {
            let mut until = directory.until.lock();
            if after == Cookie::default() {
                *until = Some(page.next);
            }
            *until
        };
        let mut entries = page.entries;
        let listed = entries.partition_point(|entry| until.is_none_or(|until| entry.cookie < until));
        let end = page.end || listed < entries.len();
        entries.truncate(listed);
        let entries = Arc::new(entries);
        let page = DirectoryPage { after, entries: Arc::clone(&entries), end };
        *directory.page.lock() = Some(page);
        Ok(entries)
    }

    /// What the kernel may be told of an entry that was listed, with a reference if `remembered`. With no lease on it
    /// any more, it is told for this moment only.
    pub fn tell_entry(&self, _gate: &Gate<'_>, dir: Inode, entry: &Entry) -> Option<Told> {
        let listed = entry.attr?;
        let ttl = self.shared.ttl().unwrap_or_default();
        let (at, until) = (now(), now() + ttl);
        let mut table = self.shared.table.lock();
        let stands = table
            .get(dir)
            .is_some_and(|node| node.is_leased() && node.children.get(&entry.name) == Some(Some(entry.inode)));
        let entry_ttl = match table.get_mut(dir) {
            Some(node) if stands => {
                let entry_ttl = node.name_ttl(ttl, at);
                let is_directory = listed.file_type == FileType::Directory;
                node.children.told(&entry.name, at + entry_ttl, is_directory, at);
                entry_ttl
            }
            _ => Duration::ZERO,
        };
        let told = self.shared.told_attr(&mut table, entry.inode, until);
        drop(table);
        let attr_ttl = if told.is_some() { ttl } else { Duration::ZERO };
        Some(Told { attr: told.unwrap_or_else(|| self.as_here(listed)), attr_ttl, entry_ttl })
    }
}

impl Shared {
    /// Attributes that the kernel may be told until `until`, if they are known.
    pub(super) fn told_attr(
        &self,
        table: &mut super::table::Table,
        inode: Inode,
        until: std::time::Instant,
    ) -> Option<Attr> {
        let node = table.get_mut(inode).filter(|node| node.is_leased())?;
        let attr = node.attr?;
        node.told_until = node.told_until.max(Some(until));
        Some(node.file.as_ref().map_or(attr, |file| file.state.lock().overlay(&attr)))
    }

    /// When names of a directory are asked for one after the other: the next page of it.
    fn look_ahead(&self, dir: Inode) -> Option<Query> {
        let mut table = self.table.lock();
        let children = &mut table.get_mut(dir)?.children;
        children.misses += 1;
        if children.misses <= MISSES_BEFORE_AHEAD || children.ahead_done {
            return None;
        }
        let after = children.ahead.unwrap_or_default();
        Some(Query::List { dir, after, limit: AHEAD_LIMIT, want: ListWant::Contents })
    }

    /// Commits what is dirty of an inode, if anything is.
    pub(super) async fn flush_if_dirty(self: &Arc<Self>, inode: Inode) -> Result<(), FsError> {
        let file = self.table.lock().get(inode).and_then(|node| node.file.clone());
        match file.filter(|file| file.is_dirty()) {
            Some(file) => self.flush(&file).await,
            None => Ok(()),
        }
    }
}
