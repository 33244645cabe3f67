//! Directories: names come, go and move.
//!
//! # Invariants
//! - Each name has one row by name and one by cookie; both name the same inode.
//! - Cookies of a directory rise and are never given to another name; a name that is replaced keeps its own, so that a
//!   listing under way meets it once.
//! - The size of a directory is the number of its entries; its links are two and one for each directory in it.

use wire::namespace::{Cookie, FileType, Inode, Name, NewInode, OpError, RenameMode, Replace, SessionId, SetTime};

use super::{
    edit::{Edit, Fault},
    inode::type_of,
    row::{Body, Dentry, DirEntry, InodeRow, Standing},
    table,
};

/// Directories between the root and one that is moved into: bounds the search for loops. `PATH_MAX` names half of it.
const DEPTH_MAX: usize = 4096;

/// A directory being changed.
struct OpenDir {
    inode: Inode,
    row: InodeRow,
}

/// A name to put into a directory.
struct NewName<'a> {
    name: &'a Name,
    inode: Inode,
    file_type: FileType,
    /// Of the entry that has the name so far.
    cookie: Option<Cookie>,
}

impl Edit<'_> {
    /// A new inode under a name.
    pub(super) fn create(
        &mut self,
        session: SessionId,
        dir: Inode,
        name: &Name,
        new: &NewInode,
        replace: Replace,
    ) -> Result<(Inode, InodeRow), Fault> {
        let mut dir = self.open_dir(dir)?;
        let old = self.replaced(&dir, name, replace)?;
        let row = self.create_inode(session, new, Some((dir.inode, &dir.row)))?;
        let file_type = type_of(&new.kind);
        self.lose_replaced(old)?;
        self.set_name(&mut dir, NewName { name, inode: new.inode, file_type, cookie: old.map(|old| old.cookie) })?;
        if file_type == FileType::Directory {
            dir.row.links = more_links(dir.row.links)?;
        }
        self.settle_dir(dir)?;
        Ok((new.inode, row))
    }

    /// Another name for what is no directory, or the first for an unnamed inode of this session.
    pub(super) fn link(
        &mut self,
        session: SessionId,
        inode: Inode,
        dir: Inode,
        name: &Name,
        replace: Replace,
    ) -> Result<(Inode, InodeRow), Fault> {
        let mut row = self.inode(inode)?;
        if row.is_directory() {
            return Err(OpError::NotPermitted.into());
        }
        let mut dir = self.open_dir(dir)?;
        let old = self.replaced(&dir, name, replace)?;
        match row.standing {
            Standing::Named if old.is_some_and(|old| old.inode == inode) => return Ok((inode, row)),
            Standing::Named => {}
            Standing::Unnamed(owner) if owner == session => self.remove(table::unnamed(session, inode))?,
            Standing::Unnamed(_) | Standing::Orphan(_) | Standing::Reclaiming => return Err(OpError::NotFound.into()),
        }
        row.standing = Standing::Named;
        row.links = more_links(row.links)?;
        self.touch(&mut row);
        self.put_inode(inode, &row)?;
        self.lose_replaced(old)?;
        let file_type = row.file_type();
        self.set_name(&mut dir, NewName { name, inode, file_type, cookie: old.map(|old| old.cookie) })?;
        self.settle_dir(dir)?;
        Ok((inode, row))
    }

    /// Takes a name from what is not a directory.
    pub(super) fn unlink(&mut self, dir: Inode, name: &Name) -> Result<(Inode, InodeRow), Fault> {
        let mut dir = self.open_dir(dir)?;
        let old = self.dentry(dir.inode, name)?.ok_or(OpError::NotFound)?;
        if old.file_type == FileType::Directory {
            return Err(OpError::IsDirectory.into());
        }
        let row = self.inode(old.inode)?;
        let row = self.lose_name(old.inode, row)?;
        self.remove_name(&mut dir, name, old)?;
        self.settle_dir(dir)?;
        Ok((old.inode, row))
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&mut self, dir: Inode, name: &Name) -> Result<(Inode, InodeRow), Fault> {
        let mut dir = self.open_dir(dir)?;
        let old = self.dentry(dir.inode, name)?.ok_or(OpError::NotFound)?;
        let row = self.inode(old.inode)?;
        if !row.is_directory() {
            return Err(OpError::NotDirectory.into());
        }
        if row.size > 0 {
            return Err(OpError::NotEmpty.into());
        }
        let row = self.lose_name(old.inode, row)?;
        self.remove_name(&mut dir, name, old)?;
        dir.row.links -= 1;
        self.settle_dir(dir)?;
        Ok((old.inode, row))
    }

    /// Moves an entry.
    pub(super) fn rename(
        &mut self,
        (from_dir, from_name): (Inode, &Name),
        (to_dir, to_name): (Inode, &Name),
        mode: RenameMode,
    ) -> Result<(Inode, InodeRow), Fault> {
        self.open_dir(to_dir)?;
        self.open_dir(from_dir)?;
        let source = self.dentry(from_dir, from_name)?.ok_or(OpError::NotFound)?;
        let target = self.dentry(to_dir, to_name)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(OpError::Exists.into()),
            (RenameMode::Exchange, None) => return Err(OpError::NotFound.into()),
            (_, Some(target)) if target.inode == source.inode => return Ok((source.inode, self.inode(source.inode)?)),
            (RenameMode::Replace | RenameMode::NoReplace, _) | (RenameMode::Exchange, Some(_)) => {}
        }
        if from_dir != to_dir && source.file_type == FileType::Directory {
            self.check_no_loop(source.inode, to_dir)?;
        }
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                if from_dir != to_dir && target.file_type == FileType::Directory {
                    self.check_no_loop(target.inode, from_dir)?;
                }
                self.enter(from_dir, from_name, target, Some(source))?;
                self.enter(to_dir, to_name, source, Some(target))?;
            }
            (RenameMode::Replace | RenameMode::NoReplace | RenameMode::Exchange, target) => {
                self.check_replaceable(source, target)?;
                let mut left = self.open_dir(from_dir)?;
                self.remove_name(&mut left, from_name, source)?;
                if source.file_type == FileType::Directory {
                    left.row.links -= 1;
                }
                self.settle_dir(left)?;
                self.lose_replaced(target)?;
                self.enter(to_dir, to_name, source, target)?;
            }
        }
        Ok((source.inode, self.inode(source.inode)?))
    }

    /// Gives `moved` the name in `dir`, in place of `old` if something has it.
    fn enter(&mut self, dir: Inode, name: &Name, moved: Dentry, old: Option<Dentry>) -> Result<(), Fault> {
        let mut dir = self.open_dir(dir)?;
        let cookie = old.map(|old| old.cookie);
        self.set_name(&mut dir, NewName { name, inode: moved.inode, file_type: moved.file_type, cookie })?;
        if old.is_some_and(|old| old.file_type == FileType::Directory) {
            dir.row.links -= 1;
        }
        if moved.file_type == FileType::Directory {
            dir.row.links = more_links(dir.row.links)?;
        }
        let dir_inode = dir.inode;
        self.settle_dir(dir)?;
        let mut row = self.inode(moved.inode)?;
        if let Body::Directory { parent, .. } = &mut row.body {
            *parent = dir_inode;
        }
        self.touch(&mut row);
        self.put_inode(moved.inode, &row)
    }

    /// Refuses to move `moved` into itself or below.
    fn check_no_loop(&self, moved: Inode, into: Inode) -> Result<(), Fault> {
        let mut at = into;
        for _ in 0..DEPTH_MAX {
            if at == moved {
                return Err(OpError::Invalid.into());
            }
            match self.inode(at)?.body {
                Body::Directory { parent, .. } if parent != at => at = parent,
                _ => return Ok(()),
            }
        }
        Err(OpError::TooLarge.into())
    }

    /// Refuses what rename(2) refuses about the types of source and target.
    fn check_replaceable(&self, source: Dentry, target: Option<Dentry>) -> Result<(), Fault> {
        let Some(target) = target else { return Ok(()) };
        match (source.file_type == FileType::Directory, target.file_type == FileType::Directory) {
            (false, false) => Ok(()),
            (true, false) => Err(OpError::NotDirectory.into()),
            (false, true) => Err(OpError::IsDirectory.into()),
            (true, true) if self.inode(target.inode)?.size > 0 => Err(OpError::NotEmpty.into()),
            (true, true) => Ok(()),
        }
    }

    /// A directory that entries can be put into.
    fn open_dir(&self, inode: Inode) -> Result<OpenDir, Fault> {
        let row = self.inode(inode)?;
        match (row.body, row.standing) {
            (Body::Directory { .. }, Standing::Named) => Ok(OpenDir { inode, row }),
            (Body::Directory { .. }, _) => Err(OpError::NotFound.into()),
            (_, _) => Err(OpError::NotDirectory.into()),
        }
    }

    fn settle_dir(&mut self, mut dir: OpenDir) -> Result<(), Fault> {
        self.touch_data(&mut dir.row, SetTime::Now);
        self.put_inode(dir.inode, &dir.row)
    }

    pub(super) fn dentry(&self, dir: Inode, name: &Name) -> Result<Option<Dentry>, Fault> {
        Ok(self.read(&table::dentry(dir, name))?)
    }

    /// The entry that a new one of this name would replace, if it may.
    fn replaced(&self, dir: &OpenDir, name: &Name, replace: Replace) -> Result<Option<Dentry>, Fault> {
        let old = self.dentry(dir.inode, name)?;
        match (old, replace) {
            (None, _) => Ok(None),
            (Some(_), Replace::No) => Err(OpError::Exists.into()),
            (Some(old), Replace::File) if old.file_type == FileType::Directory => Err(OpError::IsDirectory.into()),
            (Some(old), Replace::File) => Ok(Some(old)),
        }
    }

    fn lose_replaced(&mut self, old: Option<Dentry>) -> Result<(), Fault> {
        if let Some(old) = old {
            let row = self.inode(old.inode)?;
            self.lose_name(old.inode, row)?;
        }
        Ok(())
    }

    fn set_name(&mut self, dir: &mut OpenDir, new: NewName<'_>) -> Result<(), Fault> {
        let NewName { name, inode, file_type, cookie } = new;
        let cookie = match (cookie, &mut dir.row.body) {
            (Some(cookie), _) => cookie,
            (None, Body::Directory { next_cookie, .. }) => {
                let cookie = *next_cookie;
                *next_cookie = Cookie(cookie.0 + 1);
                dir.row.size += 1;
                cookie
            }
            (None, _) => unreachable!("an OpenDir is a directory"),
        };
        self.put(table::dentry(dir.inode, name), &Dentry { inode, file_type, cookie })?;
        self.put(table::entry(dir.inode, cookie), &DirEntry { name: name.clone(), inode, file_type })
    }

    fn remove_name(&mut self, dir: &mut OpenDir, name: &Name, old: Dentry) -> Result<(), Fault> {
        dir.row.size -= 1;
        self.remove(table::dentry(dir.inode, name))?;
        self.remove(table::entry(dir.inode, old.cookie))
    }
}

fn more_links(links: u32) -> Result<u32, OpError> {
    links.checked_add(1).ok_or(OpError::TooManyLinks)
}
