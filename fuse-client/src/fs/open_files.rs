//! Handles: open files and directories.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use wire::namespace::{Cookie, Entry, Inode, LockOwner, OpError, Query, QueryAnswer};

use super::{FileSystem, FsError, Gate, Shared, file::File, locks::Unlocking};

/// Open inodes that one keep-alive may tell of.
const OPEN_TOLD_MAX: usize = 65_536;

/// Number of a handle.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct HandleId(pub u64);

/// A handle was made.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its number.
    pub handle: HandleId,
    /// The kernel's pages of the file are those of its bytes now.
    pub keep_pages: bool,
}

/// All handles.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: u64,
    files: HashMap<HandleId, OpenFile>,
    directories: HashMap<HandleId, Arc<OpenDirectory>>,
    /// Who took locks through a file's handle and has not closed a descriptor of it since.
    lockers: HashMap<HandleId, HashSet<LockOwner>>,
}

/// An open file.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub(super) file: Arc<File>,
    /// Failures of deferred writes that were there before this handle.
    pub(super) since: u64,
    /// Failures that a sync of this handle has reported, or one of another handle before it.
    pub(super) reported: Arc<std::sync::atomic::AtomicU64>,
    /// Locks on the file were lost while it was open like this.
    cut_off: Arc<AtomicBool>,
}

impl OpenFile {
    /// Whether it may be used.
    pub(super) fn check(&self) -> Result<(), FsError> {
        if self.cut_off.load(Ordering::Acquire) { Err(FsError::LocksLost) } else { Ok(()) }
    }
}

/// An open directory, and the page that was read last.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    pub(super) inode: Inode,
    /// Guards itself alone.
    pub(super) page: Mutex<Option<DirectoryPage>>,
    /// Where the listing ends: at what came into the directory after it began, also what was only renamed. Otherwise who
    /// renames what it lists would never come to the end. Guards itself alone.
    pub(super) until: Mutex<Option<Cookie>>,
}

/// Entries that follow `after`.
#[derive(Clone, Debug)]
pub(super) struct DirectoryPage {
    pub(super) after: Cookie,
    pub(super) entries: Arc<Vec<Entry>>,
    pub(super) end: bool,
}

impl Handles {
    fn number(&mut self) -> HandleId {
        self.next += 1;
        HandleId(self.next)
    }
}

impl FileSystem {
    /// Opens a file of which everything needed is known.
    pub fn open_cached(&self, _gate: &Gate<'_>, inode: Inode) -> Option<Opened> {
        self.shared.ttl()?;
        let mut table = self.shared.table.lock();
        let node = table.get_mut(inode)?;
        let attr = node.attr.filter(|_| node.is_leased())?;
        if attr.links == 0 || self.shared.is_crowded() {
            return None;
        }
        node.opens += 1;
        Some(self.shared.register(node, inode, &attr))
    }

    /// Opens a file.
    pub async fn open_file(&self, inode: Inode) -> Result<Opened, FsError> {
        if self.shared.is_crowded() {
            return Err(FsError::TooManyOpen);
        }
        // It counts as open before it is looked at: what is looked at afterwards cannot be reclaimed unseen.
        let was_open = {
            let mut table = self.shared.table.lock();
            let node = table.entry(inode);
            node.opens += 1;
            node.opens > 1
        };
        // Counted no more if whoever asks is not there any longer.
        let counted = Counted { shared: &self.shared, inode };
        let looked = self.shared.ask_one(Query::Content { inode, offset: 0, len: u64::MAX }).await;
        let attr = match looked {
            Ok(QueryAnswer::Content { attr, .. }) if attr.links > 0 || was_open => Ok(attr),
            // Its last name is gone, and the cluster was told that it is not open here.
            Ok(QueryAnswer::Content { .. }) => Err(OpError::StaleInode.into()),
            Ok(_) => Err(FsError::Invalid),
            Err(error) => Err(error),
        };
        let attr = attr?;
        std::mem::forget(counted);
        let mut table = self.shared.table.lock();
        let node = table.entry(inode);
        Ok(self.shared.register(node, inode, &attr))
    }

    /// Notes that `owner` takes a lock through a handle.
    pub fn note_locker(&self, handle: HandleId, owner: LockOwner) {
        let mut handles = self.shared.handles.lock();
        if handles.files.contains_key(&handle) {
            handles.lockers.entry(handle).or_default().insert(owner);
        }
    }

    /// A process closes a descriptor of a handle: what it has locked, through whichever, it gives up.
    pub fn forget_locker(&self, handle: HandleId, owner: LockOwner) {
        if let Some(lockers) = self.shared.handles.lock().lockers.get_mut(&handle) {
            lockers.remove(&owner);
        }
    }

    /// The last reference to a handle is gone; what is dirty is written out soon. Returns those whose locks end with it,
    /// `owner` among them: the kernel says of a process when it closes a file, but nothing of an open file description
    /// (`F_OFD_SETLK`). Its owners are addresses, which it uses again at once: what another handle has locked stays.
    pub fn release_file(&self, handle: HandleId, owner: Option<LockOwner>) -> Vec<Unlocking> {
        let (open, mut lockers) = {
            let mut handles = self.shared.handles.lock();
            (handles.files.remove(&handle), handles.lockers.remove(&handle).unwrap_or_default())
        };
        let Some(OpenFile { file, .. }) = open else { return Vec::new() };
        let inode = file.inode;
        lockers.extend(owner);
        // In this order: whoever has the same address now is noted before it gets what is held then.
        lockers.retain(|owner| self.may_have_locked(inode, *owner));
        let mut unlocking: Vec<Unlocking> = lockers.into_iter().map(|owner| self.begin_unlock(inode, owner)).collect();
        if !unlocking.is_empty() {
            let noted: HashSet<LockOwner> = self.shared.handles.lock().lockers.values().flatten().copied().collect();
            unlocking.retain(|unlocking| !noted.contains(&unlocking.owner()));
        }
        if file.is_dirty() && !self.shared.defer_small(&file) {
            self.write_out_soon(&file);
        }
        drop(file);
        self.shared.drop_open(inode);
        unlocking
    }

    /// Opens a directory.
    pub fn open_directory(&self, inode: Inode) -> HandleId {
        self.shared.table.lock().entry(inode).opens += 1;
        let mut handles = self.shared.handles.lock();
        let handle = handles.number();
        handles
            .directories
            .insert(handle, Arc::new(OpenDirectory { inode, page: Mutex::default(), until: Mutex::default() }));
        handle
    }

    /// Closes a directory.
    pub fn release_directory(&self, handle: HandleId) {
        let open = self.shared.handles.lock().directories.remove(&handle);
        if let Some(directory) = open {
            self.shared.drop_open(directory.inode);
        }
    }
}

/// An inode counts as open until this is dropped.
struct Counted<'a> {
    shared: &'a Shared,
    inode: Inode,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.drop_open(self.inode);
    }
}

impl Shared {
    fn is_crowded(&self) -> bool {
        self.handles.lock().files.len() >= self.config.open_files
    }

    fn register(&self, node: &mut super::table::Node, inode: Inode, attr: &wire::namespace::Attr) -> Opened {
        let file = Arc::clone(node.file.get_or_insert_with(|| File::new(inode)));
        // Bytes that came with a listing are as good as asked for.
        if let Some((version, content)) = node.content.take().filter(|(version, _)| *version == attr.data_version) {
            let known_to = match &content {
                wire::namespace::Content::Extents { next: Some(next), .. } => *next,
                _ => u64::MAX,
            };
            file.state.lock().learn_listed(version, 0..known_to, &content);
        }
        let keep_pages = node.pages == Some(attr.data_version) && node.is_leased();
        node.pages = Some(attr.data_version);
        let (since, reported) = {
            let state = file.state.lock();
            (state.failures, Arc::new(state.reported.into()))
        };
        let mut handles = self.handles.lock();
        let handle = handles.number();
        handles.files.insert(handle, OpenFile { file, since, reported, cut_off: Arc::default() });
        Opened { handle, keep_pages }
    }

    pub(super) fn file_of(&self, handle: HandleId) -> Result<OpenFile, FsError> {
        let open = self.handles.lock().files.get(&handle).cloned().ok_or(FsError::Invalid)?;
        open.check()?;
        Ok(open)
    }

    /// Lets those who have any of `inodes` open do nothing with it any more; which files that are.
    pub(super) fn cut_off(&self, inodes: &HashSet<Inode>) -> Vec<Arc<File>> {
        let handles = self.handles.lock();
        let open = handles.files.values().filter(|open| inodes.contains(&open.file.inode));
        open.map(|open| {
            open.cut_off.store(true, Ordering::Release);
            Arc::clone(&open.file)
        })
        .collect()
    }

    pub(super) fn directory_of(&self, handle: HandleId) -> Result<Arc<OpenDirectory>, FsError> {
        self.handles.lock().directories.get(&handle).cloned().ok_or(FsError::Invalid)
    }

    /// One handle of an inode less.
    fn drop_open(&self, inode: Inode) {
        let mut table = self.table.lock();
        if let Some(node) = table.get_mut(inode) {
            node.opens = node.opens.saturating_sub(1);
            if node.opens == 0 && node.file.as_ref().is_some_and(|file| is_idle(file, node.lookups > 0)) {
                node.file = None;
            }
        }
        table.drop_if_idle(inode);
    }

    /// A file that is not open and has nothing to write any more needs no state.
    pub(super) fn drop_file_if_idle(&self, inode: Inode) {
        let mut table = self.table.lock();
        if let Some(node) = table.get_mut(inode)
            && node.opens == 0
            && node.file.as_ref().is_some_and(|file| is_idle(file, node.lookups > 0))
        {
            node.file = None;
        }
        table.drop_if_idle(inode);
    }

    /// Files that are open, or have something to write; as many as one word to the cluster may tell of.
    pub(super) fn open_inodes(&self) -> Vec<Inode> {
        let table = self.table.lock();
        let open = table.iter().filter(|(_, node)| node.opens > 0 || node.file.is_some());
        open.map(|(inode, _)| inode).take(OPEN_TOLD_MAX).collect()
    }

    /// The file's state, made if there is none.
    pub(super) fn file(&self, inode: Inode) -> Arc<File> {
        let mut table = self.table.lock();
        Arc::clone(table.entry(inode).file.get_or_insert_with(|| File::new(inode)))
    }
}

/// Whether a file's state may go: nothing is written, nobody else is at work on it, and nobody who opens it again would
/// have to be told of a failure. As local file systems, this one forgets those with what the kernel knows of the file.
fn is_idle(file: &Arc<File>, is_known: bool) -> bool {
    let untold = is_known && file.state.lock().is_failure_untold();
    !untold && !file.is_dirty() && Arc::strong_count(file) == 1
}
