//! A directory on its way to this machine.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::mpsc;

use crate::local::Restore;

/// A local directory. Each of its entries under way, and each directory below, holds it: when the last of them is done,
/// its attributes are restored, the times last of all.
#[derive(Debug)]
pub(super) struct LocalDir {
    pub(super) path: PathBuf,
    /// Whether this transfer made it: then nothing can be in it that was there before.
    pub(super) fresh: bool,
    /// None for the directory above an item, which is not ours.
    restore: Option<Restore>,
    finished: mpsc::UnboundedSender<(PathBuf, Restore)>,
    _parent: Option<Arc<LocalDir>>,
}

impl LocalDir {
    /// The directory that an item goes into.
    pub(super) fn above(path: PathBuf, finished: mpsc::UnboundedSender<(PathBuf, Restore)>) -> Arc<Self> {
        Arc::new(Self { path, fresh: false, restore: None, finished, _parent: None })
    }

    /// A directory in `parent`.
    pub(super) fn below(parent: &Arc<Self>, path: PathBuf, fresh: bool, restore: Restore) -> Arc<Self> {
        let finished = parent.finished.clone();
        Arc::new(Self { path, fresh, restore: Some(restore), finished, _parent: Some(Arc::clone(parent)) })
    }
}

impl Drop for LocalDir {
    fn drop(&mut self) {
        if let Some(restore) = self.restore.take() {
            // Nobody listens when the transfer was stopped.
            let _stopped = self.finished.send((std::mem::take(&mut self.path), restore)).is_err();
        }
    }
}
