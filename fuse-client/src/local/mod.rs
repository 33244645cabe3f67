//! The local side of a transfer: the only module that touches local files. Everything here blocks, and is called from
//! blocking tasks.
//!
//! # Invariants
//! - A file gets its final name by a rename, when it is whole. Until then it has no name, or where the file system knows no
//!   such files `.NAME.dfs-…`, and dropping it removes it.
//! - A link is never followed where an entry of a tree is meant.
//!
//! # Not here
//! What goes where, and what is skipped (`transfer`).

mod meta;
mod scan;
mod sink;
mod source;
mod xattrs;

use std::{
    io,
    path::{Path, PathBuf},
};

pub(crate) use meta::LocalMeta;
pub(crate) use scan::{Body, Found, Group, ScanItem, scan};
pub(crate) use sink::{
    MadeDir, NewLocal, Restore, TempFile, TempNames, add_xattrs, create_dir, finish_dir, hard_link, make_node,
    make_symlink, restore, sync_file,
};
pub(crate) use source::LocalSource;

use wire::{cluster::ClusterId, namespace::Inode};

use crate::transfer::TransferError;

/// Files from this length on pass the page cache by, where that is possible: to give each page of them its place there
/// costs more than to hash it, and throws out what is worth keeping.
const UNCACHED_MIN: u64 = 64 << 20;

/// Which inode of `cluster` stands at a path of this machine, by way of a mount; none if it is something else.
pub(crate) fn inode_in(path: &Path, cluster: ClusterId) -> Option<Inode> {
    xattrs::inode_in(path, cluster)
}

/// A local file could not be handled.
pub(crate) fn failed(path: &Path, action: &'static str, source: io::Error) -> TransferError {
    TransferError::Local { path: PathBuf::from(path), action, source }
}
