//! Removing whole trees.

use futures::{StreamExt, TryStreamExt, stream};
use wire::namespace::{Attr, Entry, Inode, ListWant, Name, Op, OpError};

use super::{Listing, Namespace, NamespaceError, Permission, is_directory};
use crate::path::FilePath;

/// Removals handed in at once; the session packs them into batches.
const REMOVALS_IN_FLIGHT: usize = 1024;

/// A directory that is being emptied.
struct Level {
    listing: Listing,
    path: FilePath,
    /// Where it hangs: what is removed when it is empty.
    parent: Inode,
    name: Name,
    /// Directories of the page at hand.
    below: Vec<(Name, Attr)>,
}

impl Namespace {
    /// Removes what `path` names and, if it is a directory, all below it. Returns how many entries went. Stops at the
    /// first that cannot be removed.
    pub async fn remove_tree(&self, path: &FilePath) -> Result<u64, NamespaceError> {
        let (parent, name, entry) = self.taken_out(path).await?;
        if !is_directory(&entry) {
            self.remove_entry(path.clone(), Op::Unlink { dir: parent, name }).await?;
            return Ok(1);
        }
        let mut removed = 0;
        let mut levels = vec![self.level(path.clone(), parent, name, entry)?];
        while let Some(level) = levels.last_mut() {
            if let Some((name, attr)) = level.below.pop() {
                let below = self.level(level.path.join(name.clone()), level.listing.dir().inode, name, attr)?;
                levels.push(below);
            } else if let Some(entries) = level.listing.next_page().await? {
                removed += self.remove_page(level, entries).await?;
            } else if let Some(Level { path, parent, name, .. }) = levels.pop() {
                self.remove_entry(path, Op::RemoveDirectory { dir: parent, name }).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn level(&self, path: FilePath, parent: Inode, name: Name, dir: Attr) -> Result<Level, NamespaceError> {
        self.require(Permission::Search, &dir, &path)?;
        let listing = self.list_dir(path.clone(), dir, ListWant::Attrs)?;
        Ok(Level { listing, path, parent, name, below: Vec::new() })
    }

    /// Removes what is no directory, and notes what is.
    async fn remove_page(&self, level: &mut Level, entries: Vec<Entry>) -> Result<u64, NamespaceError> {
        let dir = *level.listing.dir();
        let mut removals = Vec::with_capacity(entries.len());
        for Entry { name, attr, .. } in entries {
            let attr = attr.ok_or_else(NamespaceError::confused)?;
            let path = level.path.join(name.clone());
            if !self.caller().may_take_out(&dir, &attr) {
                return Err(NamespaceError::Denied { path });
            }
            if is_directory(&attr) {
                level.below.push((name, attr));
            } else {
                removals.push((path, Op::Unlink { dir: dir.inode, name }));
            }
        }
        let count = removals.len() as u64;
        stream::iter(removals)
            .map(|(path, op)| self.remove_entry(path, op))
            .buffer_unordered(REMOVALS_IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        Ok(count)
    }

    /// What has gone meanwhile is as good as removed.
    async fn remove_entry(&self, path: FilePath, op: Op) -> Result<(), NamespaceError> {
        match self.change(&path, op).await {
            Ok(_) | Err(NamespaceError::Op { source: OpError::NotFound | OpError::StaleInode, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
