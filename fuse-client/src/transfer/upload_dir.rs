//! A directory on its way into the store.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
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

/// What a directory is to the transfer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    /// The one that an item goes into.
    Above,
    /// The copy of one of the source.
    Copy,
}

/// A directory of the tree. Each group of its entries, and each directory below, holds it: when the last of them is
/// done, its attributes are restored, the times last of all.
#[derive(Debug)]
pub(crate) struct UploadDir {
    local: PathBuf,
    target: FilePath,
    role: Role,
    /// What to restore; none for a directory that is not ours.
    meta: Option<LocalMeta>,
    remote: watch::Sender<RemoteDir>,
    finished: mpsc::UnboundedSender<FinishedDir>,
    parent: Option<Arc<UploadDir>>,
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
    /// The directory that an item goes into.
    pub(crate) fn above(
        local: PathBuf,
        dir: Attr,
        target: FilePath,
        finished: mpsc::UnboundedSender<FinishedDir>,
    ) -> Arc<Self> {
        Self::existing(Role::Above, local, dir, target, finished)
    }

    /// A directory that takes in what is in the source, and stays what it is.
    pub(crate) fn at(
        local: PathBuf,
        dir: Attr,
        target: FilePath,
        finished: mpsc::UnboundedSender<FinishedDir>,
    ) -> Arc<Self> {
        Self::existing(Role::Copy, local, dir, target, finished)
    }

    fn existing(
        role: Role,
        local: PathBuf,
        dir: Attr,
        target: FilePath,
        finished: mpsc::UnboundedSender<FinishedDir>,
    ) -> Arc<Self> {
        let remote = watch::Sender::new(RemoteDir::Ready { inode: dir.inode, after: None, existing: Some(dir) });
        Arc::new(Self { local, target, role, meta: None, remote, finished, parent: None })
    }

    /// A directory in `parent`.
    pub(crate) fn below(parent: &Arc<Self>, local: PathBuf, name: Name, meta: LocalMeta) -> Arc<Self> {
        Arc::new(Self {
            local,
            target: parent.target.join(name),
            role: Role::Copy,
            meta: Some(meta),
            remote: watch::Sender::new(RemoteDir::Awaited),
            finished: parent.finished.clone(),
            parent: Some(Arc::clone(parent)),
        })
    }

    pub(crate) fn local(&self) -> &Path {
        &self.local
    }

    pub(crate) fn target(&self) -> &FilePath {
        &self.target
    }

    /// Whether its copy, or that of one above it, is this inode.
    pub(crate) fn is_within(&self, inode: Inode) -> bool {
        let mut chain = std::iter::successors(Some(self), |dir| dir.parent.as_deref());
        chain.any(|dir| dir.role == Role::Copy && dir.is_copied_to(inode))
    }

    fn is_copied_to(&self, copy: Inode) -> bool {
        matches!(*self.remote.borrow(), RemoteDir::Ready { inode, .. } if inode == copy)
    }

    /// Its copy is known, or known not to be.
    pub(crate) fn settle(&self, remote: RemoteDir) {
        self.remote.send_replace(remote);
    }

    /// As [`UploadDir::settle`], unless it is known already.
    fn settle_if_awaited(&self, remote: RemoteDir) {
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

/// Directories of which it is to be known once whether there are copies. If the transfer breaks off before, there are none:
/// those who wait for them must not wait for ever.
#[derive(Debug)]
pub(crate) struct Unsettled(Vec<Weak<UploadDir>>);

impl Unsettled {
    pub(crate) fn new<'a>(dirs: impl Iterator<Item = &'a Arc<UploadDir>>) -> Self {
        Self(dirs.map(Arc::downgrade).collect())
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        for dir in self.0.iter().filter_map(Weak::upgrade) {
            dir.settle_if_awaited(RemoteDir::Failed);
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
