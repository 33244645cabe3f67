//! A directory on its way to this machine.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::mpsc;
use wire::namespace::{Inode, Xattr};

use crate::local::Restore;

/// A local directory. Each of its entries under way, and each directory below, holds it: when the last of them is done,
/// its attributes are restored, the times last of all.
#[derive(Debug)]
pub(super) struct LocalDir {
    pub(super) path: PathBuf,
    /// Whether this transfer made it: then nothing can be in it that was there before.
    pub(super) fresh: bool,
    /// What it is in the store that it comes from, if it lies in a mount of that.
    stored: Option<Inode>,
    /// None for a directory that is not ours: the one above an item, or one of somebody else.
    dressed: Option<(Restore, Vec<Xattr>)>,
    /// Whether something that was to be in it is in it now.
    filled: AtomicBool,
    finished: mpsc::UnboundedSender<FinishedLocalDir>,
    parent: Option<Arc<LocalDir>>,
}

/// A directory in which everything is done.
#[derive(Debug)]
pub(super) struct FinishedLocalDir {
    pub(super) path: PathBuf,
    pub(super) dressed: Option<(Restore, Vec<Xattr>)>,
}

impl LocalDir {
    /// The directory that an item goes into.
    pub(super) fn above(path: PathBuf, finished: mpsc::UnboundedSender<FinishedLocalDir>) -> Arc<Self> {
        Arc::new(Self {
            path,
            fresh: false,
            stored: None,
            dressed: None,
            filled: AtomicBool::new(false),
            finished,
            parent: None,
        })
    }

    /// A directory in `parent`.
    pub(super) fn below(
        parent: &Arc<Self>,
        path: PathBuf,
        fresh: bool,
        stored: Option<Inode>,
        dressed: Option<(Restore, Vec<Xattr>)>,
    ) -> Arc<Self> {
        parent.handle_filled();
        let (finished, parent) = (parent.finished.clone(), Some(Arc::clone(parent)));
        Arc::new(Self { path, fresh, stored, dressed, filled: AtomicBool::new(false), finished, parent })
    }

    /// Whether it is this inode of the store, or lies below: what is in there is being written.
    pub(super) fn is_within(&self, inode: Inode) -> bool {
        let mut chain = std::iter::successors(Some(self), |dir| dir.parent.as_deref());
        chain.any(|dir| dir.stored == Some(inode))
    }

    /// Something that was to be in it is in it.
    pub(super) fn handle_filled(&self) {
        self.filled.store(true, Ordering::Release);
    }
}

impl Drop for LocalDir {
    fn drop(&mut self) {
        let dressed = self.dressed.take();
        if dressed.is_some() || self.filled.load(Ordering::Acquire) {
            let path = std::mem::take(&mut self.path);
            // Nobody listens when the transfer was stopped.
            let _stopped = self.finished.send(FinishedLocalDir { path, dressed }).is_err();
        }
    }
}
