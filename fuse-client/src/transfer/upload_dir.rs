//! A directory on its way into the store.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{mpsc, watch};
use wire::namespace::{Attr, Inode, Name, OpNumber};

use crate::{local::LocalMeta, path::FilePath};

/// What is known of the copy of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RemoteDir {
    /// Nothing yet.
    Awaited,
    /// It is there, or will be once `after` is executed.
    Ready { inode: Inode, after: Option<OpNumber>, existing: Option<Attr> },
    /// It cannot be made, which was told.
    Failed,
}

/// A directory of the tree. Each group of its entries, and each directory below, holds it: when the last of them is
/// done, its attributes are restored, the times last of all.
#[derive(Debug)]
pub(crate) struct UploadDir {
    local: PathBuf,
    target: FilePath,
    /// What to restore; none for the directory above an item, which is not ours.
    meta: Option<LocalMeta>,
    remote: watch::Sender<RemoteDir>,
    finished: mpsc::UnboundedSender<FinishedDir>,
    _parent: Option<Arc<UploadDir>>,
}

/// A directory in which everything is done.
#[derive(Debug)]
pub(crate) struct FinishedDir {
    pub(crate) target: FilePath,
    pub(crate) inode: Inode,
    pub(crate) meta: LocalMeta,
    pub(crate) existing: Option<Attr>,
}

impl UploadDir {
    /// A directory that exists and is not ours to restore: the one that an item goes into.
    pub(crate) fn at(
        local: PathBuf,
        dir: Attr,
        target: FilePath,
        finished: mpsc::UnboundedSender<FinishedDir>,
    ) -> Arc<Self> {
        let remote = watch::Sender::new(RemoteDir::Ready { inode: dir.inode, after: None, existing: Some(dir) });
        Arc::new(Self { local, target, meta: None, remote, finished, _parent: None })
    }

    /// A directory in `parent`.
    pub(crate) fn below(parent: &Arc<Self>, local: PathBuf, name: Name, meta: LocalMeta) -> Arc<Self> {
        Arc::new(Self {
            local,
            target: parent.target.join(name),
            meta: Some(meta),
            remote: watch::Sender::new(RemoteDir::Awaited),
            finished: parent.finished.clone(),
            _parent: Some(Arc::clone(parent)),
        })
    }

    pub(crate) fn local(&self) -> &Path {
        &self.local
    }

    pub(crate) fn target(&self) -> &FilePath {
        &self.target
    }

    /// Its copy is known, or known not to be.
    pub(crate) fn settle(&self, remote: RemoteDir) {
        self.remote.send_replace(remote);
    }

    /// As [`UploadDir::settle`], unless it is known already.
    pub(crate) fn settle_if_awaited(&self, remote: RemoteDir) {
        self.remote.send_if_modified(|known| {
            let awaited = matches!(known, RemoteDir::Awaited);
            if awaited {
                *known = remote;
            }
            awaited
        });
    }

    /// Its copy, once known: inode, what must be executed first, and what was there; none if it failed.
    pub(crate) async fn remote(&self) -> Option<(Inode, Option<OpNumber>, Option<Attr>)> {
        let mut remote = self.remote.subscribe();
        let known = remote.wait_for(|remote| !matches!(remote, RemoteDir::Awaited)).await;
        match known.as_deref() {
            Ok(RemoteDir::Ready { inode, after, existing }) => Some((*inode, *after, *existing)),
            Ok(RemoteDir::Awaited | RemoteDir::Failed) | Err(_) => None,
        }
    }
}

impl Drop for UploadDir {
    fn drop(&mut self) {
        let remote = *self.remote.borrow();
        if let (RemoteDir::Ready { inode, existing, .. }, Some(meta)) = (remote, self.meta) {
            let target = std::mem::take(&mut self.target);
            // Nobody listens when the transfer was stopped.
            let _stopped = self.finished.send(FinishedDir { target, inode, meta, existing }).is_err();
        }
    }
}
