//! Removing whole trees.

use futures::{StreamExt, stream};
use wire::namespace::{Attr, Entry, Inode, ListWant, Name, Op};

use super::{Listing, Namespace, NamespaceError, Permission, TreeNews, is_directory};
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
    /// Whether something stays in it, which was told: then so does the directory.
    stays: bool,
}

impl Namespace {
    /// Removes what `path` names and, if it is a directory, all below it. What cannot be removed is told to `news`, and stays
    /// with the directories above it; all else goes. An error is one after which nothing else could be removed either.
    pub async fn remove_tree(&self, path: &FilePath, mut news: impl FnMut(TreeNews)) -> Result<(), NamespaceError> {
        let (parent, name, entry) = self.taken_out(path).await?;
        if !is_directory(&entry) {
            self.remove_entry(path, Op::Unlink { dir: parent, name }).await?;
            news(TreeNews::Done);
            return Ok(());
        }
        let mut levels = vec![self.level(path.clone(), parent, name, entry)?];
        while let Some(level) = levels.last_mut() {
            let failed = match level.below.pop() {
                Some((name, attr)) => {
                    let path = level.path.join(name.clone());
                    match self.level(path.clone(), level.listing.dir().inode, name, attr) {
                        Ok(below) => {
                            levels.push(below);
                            continue;
                        }
                        Err(error) => Some((path, error)),
                    }
                }
                None => match level.listing.next_page().await {
                    Ok(Some(entries)) => {
                        self.remove_page(level, entries, &mut news).await?;
                        continue;
                    }
                    Ok(None) => self.remove_emptied(&mut levels, &mut news).await,
                    Err(error) => levels.pop().map(|level| (level.path, error)).filter(|(_, error)| !error.is_gone()),
                },
            };
            if let Some((path, error)) = failed {
                stays(levels.last_mut(), path, error, &mut news)?;
            }
        }
        Ok(())
    }

    fn level(&self, path: FilePath, parent: Inode, name: Name, dir: Attr) -> Result<Level, NamespaceError> {
        self.require(Permission::Search, &dir, &path)?;
        let listing = self.list_dir(path.clone(), dir, ListWant::Attrs)?;
        Ok(Level { listing, path, parent, name, below: Vec::new(), stays: false })
    }

    /// Removes the last directory, of which everything has been tried. What cannot be removed is handed back.
    async fn remove_emptied(
        &self,
        levels: &mut Vec<Level>,
        news: &mut impl FnMut(TreeNews),
    ) -> Option<(FilePath, NamespaceError)> {
        let Level { path, parent, name, stays, .. } = levels.pop()?;
        if stays {
            if let Some(above) = levels.last_mut() {
                above.stays = true;
            }
            return None;
        }
        match self.remove_entry(&path, Op::RemoveDirectory { dir: parent, name }).await {
            Ok(()) => {
                news(TreeNews::Done);
                None
            }
            Err(error) => Some((path, error)),
        }
    }

    /// Removes what is no directory, and notes what is.
    async fn remove_page(
        &self,
        level: &mut Level,
        entries: Vec<Entry>,
        news: &mut impl FnMut(TreeNews),
    ) -> Result<(), NamespaceError> {
        let dir = *level.listing.dir();
        let mut removals = Vec::with_capacity(entries.len());
        for Entry { name, attr, .. } in entries {
            let attr = attr.ok_or_else(NamespaceError::confused)?;
            let path = level.path.join(name.clone());
            if !self.caller().may_take_out(&dir, &attr) {
                let error = NamespaceError::Denied { path: path.clone() };
                stays(Some(level), path, error, news)?;
            } else if is_directory(&attr) {
                level.below.push((name, attr));
            } else {
                removals.push((path, Op::Unlink { dir: dir.inode, name }));
            }
        }
        let remove = |(path, op): (FilePath, Op)| async move {
            let removed = self.remove_entry(&path, op).await;
            removed.map_err(|error| (path, error))
        };
        let mut removing = stream::iter(removals).map(remove).buffer_unordered(REMOVALS_IN_FLIGHT);
        while let Some(removed) = removing.next().await {
            match removed {
                Ok(()) => news(TreeNews::Done),
                Err((path, error)) => stays(Some(level), path, error, news)?,
            }
        }
        Ok(())
    }

    /// What has gone meanwhile is as good as removed.
    async fn remove_entry(&self, path: &FilePath, op: Op) -> Result<(), NamespaceError> {
        match self.change(path, op).await {
            Err(error) if !error.is_gone() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Tells of an entry of `level` that cannot be removed; one that means that no other can ends the removal.
fn stays(
    level: Option<&mut Level>,
    path: FilePath,
    error: NamespaceError,
    news: &mut impl FnMut(TreeNews),
) -> Result<(), NamespaceError> {
    if error.is_fatal() {
        return Err(error);
    }
    if let Some(level) = level {
        level.stays = true;
    }
    news(TreeNews::Failed { path, error });
    Ok(())
}
