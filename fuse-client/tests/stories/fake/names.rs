//! A namespace of a minimal kind: no permissions, no counters that nobody looks at; but sessions with their windows,
//! exactly once.

use std::collections::{BTreeMap, BTreeSet};

use ring::ChunkKey;
use wire::namespace::{
    Attr, Batch, ChunkSlice, Content, Cookie, Entry, Extent, ExtentBody, FileType, INLINE_LEN_MAX, InlineData, Inode,
    JournaledChunk, ListWant, Name, NewContent, NewExtent, NewGroup, NewInode, NewKind, NumberedOp, Op, OpAnswer,
    OpDone, OpError, OpNumber, OpOutcome, Page, Query, QueryAnswer, RenameMode, Replace, SessionId, SessionNonce,
    SetAttr, SetTime, Timestamp, Usage, WalkEnd, Walked, Xattr,
};

/// An inode of any kind.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) attr: Attr,
    pub(crate) inline: Option<InlineData>,
    pub(crate) extents: BTreeMap<u64, Extent>,
    pub(crate) entries: BTreeMap<Name, (u64, Inode)>,
    pub(crate) xattrs: Vec<Xattr>,
}

#[derive(Default)]
struct Session {
    outcomes: BTreeMap<OpNumber, OpOutcome>,
    lowest: u64,
}

/// Everything.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) files: BTreeMap<Inode, File>,
    pub(crate) nonces: BTreeMap<SessionNonce, SessionId>,
    /// Operations executed, ever: each number once.
    pub(crate) executed: BTreeSet<(SessionId, OpNumber)>,
    /// The next so many operations with extents are refused as put at an epoch that has ended.
    pub(crate) stale_commits: u32,
    /// Chunks whose bytes are here.
    pub(crate) journal: BTreeMap<ChunkKey, JournaledChunk>,
    sessions: BTreeMap<SessionId, Session>,
    clock: i64,
    cookies: u64,
}

type Done = Result<Inode, OpError>;

fn attr(inode: Inode, file_type: FileType) -> Attr {
    let zero = Timestamp::default();
    Attr {
        inode,
        file_type,
        mode: wire::namespace::Mode::new(0o755),
        uid: 0,
        gid: 0,
        links: 0,
        size: 0,
        allocated: 0,
        device: 0,
        accessed: zero,
        modified: zero,
        changed: zero,
        born: zero,
        change: 0,
        data_version: 0,
    }
}

impl Names {
    pub(crate) fn new() -> Self {
        let root = File {
            attr: attr(Inode::ROOT, FileType::Directory),
            inline: None,
            extents: BTreeMap::new(),
            entries: BTreeMap::new(),
            xattrs: Vec::new(),
        };
        Self { files: BTreeMap::from([(Inode::ROOT, root)]), ..Self::default() }
    }

    pub(crate) fn open(&mut self, session: SessionId, nonce: SessionNonce) {
        self.nonces.insert(nonce, session);
        self.sessions.insert(session, Session::default());
    }

    pub(crate) fn knows(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(crate) fn close(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The inode at an absolute path without links.
    pub(crate) fn at(&self, path: &str) -> Option<&File> {
        let mut here = self.files.get(&Inode::ROOT)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            here = self.files.get(&here.entries.get(&Name::new(part).unwrap())?.1)?;
        }
        Some(here)
    }

    pub(crate) fn execute(&mut self, batch: Batch) -> Vec<OpOutcome> {
        assert!(batch.ops.len() <= 1024, "a batch holds at most 1,024 operations");
        let id = batch.session;
        let session = self.sessions.get_mut(&id).unwrap();
        session.lowest = session.lowest.max(batch.lowest_unanswered.0);
        let lowest = session.lowest;
        session.outcomes.retain(|number, _| number.0 >= lowest);
        batch.ops.into_iter().map(|op| self.numbered(id, lowest, op)).collect()
    }

    fn numbered(&mut self, id: SessionId, lowest: u64, op: NumberedOp) -> OpOutcome {
        let NumberedOp { number, after, op } = op;
        assert!(number.0 < lowest + 1024, "a number lies in the window");
        if number.0 < lowest {
            return Err(OpError::BelowWindow);
        }
        let outcomes = &self.sessions.get(&id).unwrap().outcomes;
        if let Some(outcome) = outcomes.get(&number) {
            return outcome.map(|answer| OpAnswer { attr: None, ..answer });
        }
        if after.is_some_and(|after| after.0 >= lowest && !outcomes.contains_key(&after)) {
            return Err(OpError::OutOfOrder);
        }
        assert!(self.executed.insert((id, number)), "executed twice");
        let (offset, done) = self.apply(op);
        let outcome = done.map(|inode| {
            let attr = self.files[&inode].attr;
            OpAnswer { done: OpDone { inode, version: attr.data_version, offset }, attr: Some(attr) }
        });
        self.sessions.get_mut(&id).unwrap().outcomes.insert(number, outcome);
        outcome
    }

    fn apply(&mut self, op: Op) -> (u64, Done) {
        self.clock += 1;
        if let Op::Clone { from, from_offset, to, to_offset, len, if_version, .. } = op {
            return match self.clone_range(from, from_offset, to, to_offset, len, if_version) {
                Ok(cloned) => (cloned, Ok(to)),
                Err(error) => (0, Err(error)),
            };
        }
        let done = match op {
            Op::Create { dir, name, new, replace } => self.create(dir, name, new, replace),
            Op::CreateUnnamed { new } => self.insert(new),
            Op::Link { inode, dir, name, replace } => self.name(inode, dir, name, replace),
            Op::Unlink { dir, name } => self.unlink(dir, &name),
            Op::RemoveDirectory { dir, name } => self.remove_directory(dir, &name),
            Op::Rename { from_dir, from_name, to_dir, to_name, mode } => {
                self.rename(from_dir, from_name, to_dir, to_name, mode)
            }
            Op::SetAttr { inode, set } => self.set(inode, &set),
            Op::WriteExtents { inode, extents, .. } => self.write(inode, extents),
            Op::SetXattr { inode, xattr, .. } => self.file(inode).map(|file| {
                file.xattrs.retain(|known| known.name != xattr.name);
                file.xattrs.push(xattr);
                inode
            }),
            Op::RemoveXattr { inode, name } => self.file(inode).map(|file| {
                file.xattrs.retain(|known| known.name != name);
                inode
            }),
            Op::WriteInline { .. }
            | Op::WriteJournaled { .. }
            | Op::Append { .. }
            | Op::Punch { .. }
            | Op::Lock { .. }
            | Op::Unlock { .. }
            | Op::DelegateLocks { .. }
            | Op::ReturnLocks { .. } => Err(OpError::Invalid),
            Op::Clone { .. } => unreachable!("clones are done above"),
        };
        (0, done)
    }

    fn file(&mut self, inode: Inode) -> Result<&mut File, OpError> {
        self.files.get_mut(&inode).ok_or(OpError::StaleInode)
    }

    fn create(&mut self, dir: Inode, name: Name, new: NewInode, replace: Replace) -> Done {
        if self.file(dir)?.attr.file_type != FileType::Directory {
            return Err(OpError::NotDirectory);
        }
        let inode = new.inode;
        self.check(dir, &name, replace)?;
        self.insert(new)?;
        self.name(inode, dir, name, replace)
    }

    fn check(&mut self, dir: Inode, name: &Name, replace: Replace) -> Result<(), OpError> {
        let there = self.file(dir)?.entries.get(name).map(|(_, inode)| *inode);
        match (there, replace) {
            (None, _) => Ok(()),
            (Some(_), Replace::No) => Err(OpError::Exists),
            (Some(there), Replace::File) if self.file(there)?.attr.file_type == FileType::Directory => {
                Err(OpError::IsDirectory)
            }
            (Some(_), Replace::File) => Ok(()),
        }
    }

    fn insert(&mut self, new: NewInode) -> Done {
        assert!(!self.files.contains_key(&new.inode), "an inode number is used once");
        let now = Timestamp::new(self.clock, 0).unwrap();
        let NewInode { inode, kind, mode, uid, gid, times, xattrs } = new;
        let (file_type, inline, extents, size) = match kind {
            NewKind::File(NewContent::Empty) => (FileType::File, None, Vec::new(), 0),
            NewKind::File(NewContent::Inline(data)) => {
                assert!(data.is_sound() && data.bytes.len() <= INLINE_LEN_MAX);
                let size = data.bytes.len() as u64;
                (FileType::File, Some(data), Vec::new(), size)
            }
            NewKind::File(NewContent::Extents { extents, size }) => (FileType::File, None, extents, size),
            NewKind::Directory => (FileType::Directory, None, Vec::new(), 0),
            NewKind::Symlink(data) => {
                let size = data.bytes.len() as u64;
                (FileType::Symlink, Some(data), Vec::new(), size)
            }
            NewKind::Fifo => (FileType::Fifo, None, Vec::new(), 0),
            NewKind::Socket => (FileType::Socket, None, Vec::new(), 0),
            NewKind::CharDevice { .. } => (FileType::CharDevice, None, Vec::new(), 0),
            NewKind::BlockDevice { .. } => (FileType::BlockDevice, None, Vec::new(), 0),
        };
        self.stale(&extents)?;
        let gid = match gid {
            NewGroup::Caller(gid) | NewGroup::Exactly(gid) => gid,
        };
        let attr = Attr {
            mode,
            uid,
            gid,
            size,
            accessed: times.map_or(now, |times| times.accessed),
            modified: times.map_or(now, |times| times.modified),
            changed: now,
            ..attr(inode, file_type)
        };
        let extents = extents.into_iter().map(extent).collect();
        self.files.insert(inode, File { attr, inline, extents, entries: BTreeMap::new(), xattrs });
        Ok(inode)
    }

    fn stale(&mut self, extents: &[NewExtent]) -> Result<(), OpError> {
        assert!(extents.len() <= 1000);
        if !extents.is_empty() && self.stale_commits > 0 {
            self.stale_commits -= 1;
            return Err(OpError::StaleEpoch);
        }
        Ok(())
    }

    fn name(&mut self, inode: Inode, dir: Inode, name: Name, replace: Replace) -> Done {
        self.check(dir, &name, replace)?;
        self.cookies += 1;
        let (cookie, now) = (self.cookies, Timestamp::new(self.clock, 0).unwrap());
        self.file(inode)?.attr.links += 1;
        let dir = self.file(dir)?;
        dir.attr.modified = now;
        dir.attr.data_version += 1;
        if let Some((_, replaced)) = dir.entries.insert(name, (cookie, inode)) {
            self.file(replaced)?.attr.links -= 1;
        }
        Ok(inode)
    }

    fn unlink(&mut self, dir: Inode, name: &Name) -> Done {
        let (_, inode) = *self.file(dir)?.entries.get(name).ok_or(OpError::NotFound)?;
        if self.file(inode)?.attr.file_type == FileType::Directory {
            return Err(OpError::IsDirectory);
        }
        self.file(dir)?.entries.remove(name);
        self.file(inode)?.attr.links -= 1;
        Ok(inode)
    }

    fn remove_directory(&mut self, dir: Inode, name: &Name) -> Done {
        let (_, inode) = *self.file(dir)?.entries.get(name).ok_or(OpError::NotFound)?;
        if !self.file(inode)?.entries.is_empty() {
            return Err(OpError::NotEmpty);
        }
        self.file(dir)?.entries.remove(name);
        Ok(inode)
    }

    fn rename(&mut self, from: Inode, from_name: Name, to: Inode, to_name: Name, mode: RenameMode) -> Done {
        let (cookie, inode) = *self.file(from)?.entries.get(&from_name).ok_or(OpError::NotFound)?;
        if mode == RenameMode::NoReplace && self.file(to)?.entries.contains_key(&to_name) {
            return Err(OpError::Exists);
        }
        self.file(from)?.entries.remove(&from_name);
        self.file(to)?.entries.insert(to_name, (cookie, inode));
        Ok(inode)
    }

    fn set(&mut self, inode: Inode, set: &SetAttr) -> Done {
        let now = Timestamp::new(self.clock, 0).unwrap();
        let attr = &mut self.file(inode)?.attr;
        attr.mode = set.mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.size = set.size.unwrap_or(attr.size);
        for (time, to) in [(&mut attr.accessed, set.accessed), (&mut attr.modified, set.modified)] {
            match to {
                SetTime::Keep => {}
                SetTime::Now => *time = now,
                SetTime::To(at) => *time = at,
            }
        }
        Ok(inode)
    }

    fn write(&mut self, inode: Inode, extents: Vec<NewExtent>) -> Done {
        self.stale(&extents)?;
        let file = self.file(inode)?;
        for new in extents {
            let (offset, extent) = extent(new);
            file.attr.size = file.attr.size.max(extent.end());
            file.extents.insert(offset, extent);
        }
        file.attr.data_version += 1;
        Ok(inode)
    }

    /// Whole extents only, at most two at once, so that clones take several steps.
    fn clone_range(
        &mut self,
        from: Inode,
        from_offset: u64,
        to: Inode,
        to_offset: u64,
        len: u64,
        if_version: Option<u64>,
    ) -> Result<u64, OpError> {
        let source = self.file(from)?;
        if if_version.is_some_and(|version| version != source.attr.data_version) {
            return Err(OpError::VersionChanged);
        }
        let mut chosen: Vec<Extent> = source.extents.range(from_offset..from_offset + len).map(|(_, e)| *e).collect();
        let done = match chosen.get(2) {
            Some(third) => third.offset - from_offset,
            None => len,
        };
        chosen.truncate(2);
        let target = self.file(to)?;
        for extent in chosen {
            let offset = extent.offset - from_offset + to_offset;
            target.extents.insert(offset, Extent { offset, ..extent });
        }
        target.attr.size = target.attr.size.max(to_offset + done);
        Ok(done)
    }

    pub(crate) fn query(&self, query: &Query) -> Result<QueryAnswer, OpError> {
        let file = |inode: &Inode| self.files.get(inode).ok_or(OpError::StaleInode);
        match query {
            Query::Walk { from, path } => Ok(QueryAnswer::Walked(self.walk(file(from)?, path))),
            Query::Attr { inode } => Ok(QueryAnswer::Attr(file(inode)?.attr)),
            Query::Content { inode, offset, len } => {
                let file = file(inode)?;
                Ok(QueryAnswer::Content { attr: file.attr, content: content(file, *offset, *len) })
            }
            Query::List { dir, after, limit, want } => {
                Ok(QueryAnswer::Page(self.list(file(dir)?, *after, *limit, *want)))
            }
            Query::Xattrs { inode } => Ok(QueryAnswer::Xattrs(file(inode)?.xattrs.clone())),
            Query::Lock { .. } => Err(OpError::Invalid),
            Query::Journaled { key } => Ok(QueryAnswer::Journaled(self.journal.get(key).cloned())),
            Query::Usage => Ok(QueryAnswer::Usage(Usage { inodes: self.files.len() as u64, bytes: 0 })),
        }
    }

    fn walk(&self, from: &File, path: &[Name]) -> Walked {
        let mut steps = vec![from.attr];
        let mut here = from;
        for name in path {
            match here.attr.file_type {
                FileType::Directory => {}
                FileType::Symlink => return Walked { steps, end: WalkEnd::Symlink(here.inline.clone().unwrap()) },
                _ => return Walked { steps, end: WalkEnd::NotDirectory },
            }
            match here.entries.get(name) {
                Some((_, inode)) => here = &self.files[inode],
                None => return Walked { steps, end: WalkEnd::Missing },
            }
            steps.push(here.attr);
        }
        let end = match here.attr.file_type {
            FileType::Symlink => WalkEnd::Symlink(here.inline.clone().unwrap()),
            _ => WalkEnd::Reached,
        };
        Walked { steps, end }
    }

    /// Pages of at most 100 entries, so that there are several.
    fn list(&self, dir: &File, after: Cookie, limit: u32, want: ListWant) -> Page {
        let mut entries: Vec<Entry> = dir
            .entries
            .iter()
            .filter(|(_, (cookie, _))| *cookie > after.0)
            .map(|(name, (cookie, inode))| {
                let file = &self.files[inode];
                let full = want == ListWant::Contents;
                Entry {
                    cookie: Cookie(*cookie),
                    name: name.clone(),
                    inode: *inode,
                    file_type: file.attr.file_type,
                    attr: (want != ListWant::Names).then_some(file.attr),
                    content: full.then(|| content(file, 0, u64::MAX)),
                    xattrs: if full { file.xattrs.clone() } else { Vec::new() },
                }
            })
            .collect();
        entries.sort_by_key(|entry| entry.cookie);
        let limit = (limit as usize).min(100);
        let end = entries.len() <= limit;
        entries.truncate(limit);
        let next = dir.entries.values().map(|(cookie, _)| Cookie(cookie + 1)).max().unwrap_or(Cookie(1));
        Page { entries, end, version: dir.attr.data_version, next }
    }
}

/// At most three extents an answer, so that there are several.
fn content(file: &File, offset: u64, len: u64) -> Content {
    match (file.attr.file_type, &file.inline) {
        (FileType::File, Some(data)) => Content::Inline(data.clone()),
        (FileType::Symlink, Some(data)) => Content::Symlink(data.clone()),
        (FileType::File, None) => {
            let end = offset.saturating_add(len);
            let touching = |extent: &&Extent| extent.end() > offset && extent.offset < end;
            let mut extents: Vec<Extent> = file.extents.values().filter(touching).copied().collect();
            let next = extents.get(3).map(|fourth| fourth.offset);
            extents.truncate(3);
            Content::Extents { extents, next }
        }
        _ => Content::None,
    }
}

fn extent(new: NewExtent) -> (u64, Extent) {
    let slice: ChunkSlice = new.slice;
    assert!(slice.is_sound());
    (new.offset, Extent { offset: new.offset, body: ExtentBody::Chunk(slice) })
}
