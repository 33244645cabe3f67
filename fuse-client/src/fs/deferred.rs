//! Operations executed here first: answered at once, under exclusive leases, and told to the leader behind the answer.
//!
//! # Invariants
//! - What is executed here is handed to the session under the table's lock: the leader gets it in the order in which
//!   callers were answered, and nothing that waits for others goes between.
//! - A lease is given back, a question asked, a directory or file synced only when what was deferred before is committed.
//! - Names and attributes of a file are not changed here while bytes of it are on their way: those would be committed
//!   after. Few bytes go before them, as another such operation.
//!
//! # Not here
//! What an operation comes to (`table::foresee`).

use std::sync::Arc;

use bytes::Bytes;
use tracing::{debug, error, warn};
use wire::{
    lease::MadeAt,
    namespace::{
        Attr, InlineData, Inode, Name, NewGroup, NewInode, Op, Query, RenameMode, Replace, SetAttr, SetId, SetTime,
        Timestamp,
    },
};

use super::{
    FileSystem, FsError, Making, OP_DEADLINE, Shared,
    file::{File, Known, KnownBody},
    now,
    table::{Foreseen, Surprise, Table},
};

impl FileSystem {
    /// Makes an inode under a name that does not exist, if that needs no question.
    pub fn make_cached(&self, dir: Inode, name: &Name, making: &Making) -> Option<Attr> {
        self.shared.make_here(dir, name, making)
    }

    /// Gives an inode another name, if that needs no question.
    pub fn link_cached(&self, inode: Inode, dir: Inode, name: &Name) -> Option<Attr> {
        self.shared.execute(Op::Link { inode, dir, name: name.clone(), replace: Replace::No })
    }

    /// Takes a name from what is not a directory, if that needs no question.
    pub fn unlink_cached(&self, dir: Inode, name: &Name) -> Option<()> {
        self.shared.execute(Op::Unlink { dir, name: name.clone() }).map(drop)
    }

    /// Removes an empty directory, if that needs no question.
    pub fn remove_directory_cached(&self, dir: Inode, name: &Name) -> Option<()> {
        self.shared.execute(Op::RemoveDirectory { dir, name: name.clone() }).map(drop)
    }

    /// Moves an entry, if that needs no question.
    pub fn rename_cached(&self, from: (Inode, &Name), to: (Inode, &Name), mode: RenameMode) -> Option<()> {
        let op = Op::Rename { from_dir: from.0, from_name: from.1.clone(), to_dir: to.0, to_name: to.1.clone(), mode };
        self.shared.execute(op).map(drop)
    }

    /// Changes attributes, but not the length, if that needs no question.
    pub fn set_attr_cached(&self, inode: Inode, set: SetAttr) -> Option<Attr> {
        self.shared.execute(Op::SetAttr { inode, set })
    }

    /// Makes the names of a directory durable; reports what went wrong with them since the last time.
    pub async fn sync_directory(&self, dir: Inode) -> Result<(), FsError> {
        self.shared.commit_deferred().await?;
        self.shared.take_failure(dir).map_or(Ok(()), Err)
    }
}

impl Shared {
    /// Makes an inode here.
    pub(super) fn make_here(&self, dir: Inode, name: &Name, making: &Making) -> Option<Attr> {
        {
            // A number is taken only for what may well be made.
            let table = self.table.lock();
            table.get(dir).filter(|node| node.children.get(name) == Some(None))?;
        }
        let inode = self.session().try_new_inode()?;
        self.execute(Op::Create { dir, name: name.clone(), new: making.inode(inode), replace: Replace::No })
    }

    /// Executes an operation here, if it can be foreseen; attributes of what it is about.
    pub(super) fn execute(&self, op: Op) -> Option<Attr> {
        self.ttl()?;
        let session = self.session();
        let at = (self.config.wall_clock)();
        let mut table = self.table.lock();
        if let Some(inode) = named(&table, &op) {
            // A name commits after the bytes of what it names.
            self.defer_bytes(&mut table, inode, at);
        }
        let foreseen = table.foresee(&op, at)?;
        let subject = *foreseen.subject()?;
        let bytes = judge_bytes(&table, &op, &foreseen)?;
        let number = session.try_defer(op, MadeAt { time: at, before: foreseen.before().to_vec() })?;
        if let Some(file) = table.get(subject.inode).and_then(|node| node.file.as_ref()) {
            let mut state = file.state.lock();
            match bytes {
                Waiting::Stay => {}
                Waiting::Drop => state.drop_news(),
                Waiting::WrittenAt(time) => state.modified = Some(time),
            }
        }
        table.defer(number, foreseen);
        let file = table.get(subject.inode).and_then(|node| node.file.clone());
        Some(file.map_or(subject, |file| file.state.lock().overlay(&subject)))
    }

    /// Hands in what is written to a small file, behind the answers as names are, so that what is done to its name next
    /// need not wait for it. Whether that was possible.
    pub(super) fn defer_small(&self, file: &File) -> bool {
        let leases_count = self.ttl().is_some();
        leases_count && self.defer_bytes(&mut self.table.lock(), file.inode, (self.config.wall_clock)()).is_some()
    }

    fn defer_bytes(&self, table: &mut Table, inode: Inode, at: Timestamp) -> Option<()> {
        let node = table.get(inode)?;
        let (attr, losses, file) = (node.attr?, node.losses, node.file.clone()?);
        // Nobody else is at work on what is committed.
        let _turn = file.turn.try_lock().ok()?;
        let mut state = file.state.lock();
        let (whole, modified) = state.small_news(&attr, losses)?;
        let bytes = Bytes::copy_from_slice(&whole);
        let (content, if_version) = (InlineData::new(whole), Some(attr.data_version));
        let op = Op::WriteInline { inode, content, if_version, modified, set_id: SetId::Keep };
        let foreseen = table.foresee(&op, at)?;
        let version = foreseen.subject()?.data_version;
        let number = self.session().try_defer(op, MadeAt { time: at, before: foreseen.before().to_vec() })?;
        table.defer(number, foreseen);
        state.drop_news();
        state.content = Some(Known { version, body: KnownBody::Inline(bytes) });
        // The kernel's pages hold what was written here.
        if let Some(node) = table.get_mut(inode).filter(|node| node.pages == Some(attr.data_version)) {
            node.pages = Some(version);
        }
        Some(())
    }

    /// Changes names: here if that can be, else by asking the leader. Attributes of what it is about, if they are known.
    pub(super) async fn change_names(&self, op: Op) -> Result<Option<Attr>, FsError> {
        if let Some(attr) = self.execute(op.clone()) {
            return Ok(Some(attr));
        }
        let wanted = self.table.lock().worth_holding(&op, now());
        if let Some(wanted) = wanted {
            let unknown = |inode: &Inode| self.table.lock().get(*inode).is_none_or(|node| node.attr.is_none());
            let queries = wanted.iter().copied().filter(unknown).map(|inode| Query::Attr { inode }).collect();
            // What it may fail of, the change will fail of as well.
            if self.ask(wanted, queries).await.is_ok()
                && let Some(attr) = self.execute(op.clone())
            {
                return Ok(Some(attr));
            }
        }
        self.table.lock().note_asked();
        Ok(self.change(op).await?.attr)
    }

    /// Waits until everything executed here so far is committed.
    pub(super) async fn commit_deferred(&self) -> Result<(), FsError> {
        let committed = tokio::time::timeout(OP_DEADLINE, self.session().deferred()).await;
        Ok(committed.map_err(|_| FsError::Deadline)??)
    }

    /// Before the leader is asked about inodes: it must have heard what was done here.
    pub(super) async fn commit_before_asking(&self, exclusive: &[Inode], queries: &[Query]) -> Result<(), FsError> {
        let is_ahead = {
            let asked = queries.iter().filter_map(Query::about).chain(exclusive.iter().copied());
            self.table.lock().is_ahead(asked)
        };
        if is_ahead { self.commit_deferred().await } else { Ok(()) }
    }

    /// The leader came to something else than was foreseen: its word stands.
    pub(super) fn handle_surprise(self: &Arc<Self>, surprise: Surprise) {
        for (here, there) in surprise.other {
            let (changed, modified, accessed, born) = (there.changed, there.modified, there.accessed, there.born);
            if (Attr { changed, modified, accessed, born, ..here }) == there {
                debug!(?here, ?there, "the leader came to other times than were foreseen: clocks differ");
            } else {
                error!(?here, ?there, "the leader came to other attributes than were foreseen");
            }
        }
        let mut lost = surprise.unleased;
        for (op, touched, failure) in surprise.failed {
            warn!(?op, error = %failure, "a change that had been answered could not be made");
            self.note_failed(touched.iter().copied(), &failure);
            lost.extend(touched);
        }
        if !lost.is_empty() {
            let shared = Arc::clone(self);
            self.spawn(async move { shared.lose(&lost).await });
        }
    }

    /// The session ended before what was executed here was committed.
    pub(super) fn abandon_deferred(&self) {
        let touched = self.table.lock().abandon_deferred();
        if !touched.is_empty() {
            warn!(inodes = touched.len(), "changes that had been answered are lost with the session");
            self.note_failed(touched.into_iter(), &FsError::SessionEnded);
        }
    }

    /// What went wrong with names of `inode` since this was last asked.
    pub(super) fn take_failure(&self, inode: Inode) -> Option<FsError> {
        self.table.lock().get_mut(inode).and_then(|node| node.failure.take())
    }

    /// Whoever syncs or closes any of `inodes` next is told.
    fn note_failed(&self, inodes: impl Iterator<Item = Inode>, failure: &FsError) {
        let mut table = self.table.lock();
        for inode in inodes {
            if let Some(node) = table.get_mut(inode) {
                node.failure = Some(failure.clone());
                if let Some(file) = &node.file {
                    file.state.lock().fail(failure.clone());
                }
            }
        }
    }
}

impl Making {
    /// The new inode under its number.
    pub(super) fn inode(&self, inode: Inode) -> NewInode {
        let Self { kind, mode, uid, gid } = self.clone();
        NewInode { inode, kind, mode, uid, gid: NewGroup::Caller(gid), times: None, xattrs: Vec::new() }
    }
}

/// The inode that gets a name, if it may have bytes that are not committed.
fn named(table: &Table, op: &Op) -> Option<Inode> {
    match op {
        Op::Link { inode, .. } => Some(*inode),
        Op::Rename { from_dir, from_name, .. } => table.get(*from_dir)?.children.get(from_name)?,
        _ => None,
    }
}

/// What becomes of bytes that are not committed, of the file that an operation is about.
enum Waiting {
    Stay,
    /// Nobody can read them any more.
    Drop,
    /// They count as written then.
    WrittenAt(Timestamp),
}

/// What becomes of the bytes of the file that an operation is about; none if they must be committed first.
fn judge_bytes(table: &Table, op: &Op, foreseen: &Foreseen) -> Option<Waiting> {
    let subject = foreseen.subject()?;
    let node = table.get(subject.inode);
    let Some(file) = node.and_then(|node| node.file.as_ref()) else { return Some(Waiting::Stay) };
    let state = file.state.lock();
    if !state.has_news() {
        return Some(Waiting::Stay);
    }
    if !state.flushing.is_empty() {
        return None;
    }
    match op {
        Op::Unlink { .. } => {
            let is_gone = subject.links == 0 && node.is_some_and(|node| node.opens == 0 && node.is_unseen);
            Some(if is_gone { Waiting::Drop } else { Waiting::Stay })
        }
        // A name commits after the bytes of what it names.
        Op::SetAttr { set, .. } => {
            // Bits that a write has cleared are cleared when it is committed: after this.
            let bits = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
            if state.set_id != SetId::Keep && bits {
                return None;
            }
            match set.modified {
                SetTime::Keep => Some(Waiting::Stay),
                SetTime::Now | SetTime::To(_) => Some(Waiting::WrittenAt(subject.modified)),
            }
        }
        _ => None,
    }
}
