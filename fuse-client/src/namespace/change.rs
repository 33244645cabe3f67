//! Single changes by path.

use wire::namespace::{
    Attr, InlineData, Inode, Mode, Name, NewGroup, NewInode, NewKind, Op, OpAnswer, OpError, Query, QueryAnswer,
    RenameMode, Replace, SYMLINK_LEN_MAX, SetAttr, SetId, SetTime, Xattr, XattrMode, XattrName,
};

use super::{Follow, Namespace, NamespaceError, Permission, Place, is_directory};
use crate::path::{Component, FilePath};

impl Namespace {
    /// A new, empty directory.
    pub async fn create_dir(&self, path: &FilePath, mode: Mode) -> Result<Attr, NamespaceError> {
        let place = self.place(path).await?;
        if place.existing.is_some() {
            return Err(NamespaceError::op(path, OpError::Exists));
        }
        self.require(Permission::Change, &place.dir, path)?;
        self.create(path, &place, NewKind::Directory, mode, Replace::No).await
    }

    /// A directory and those above it, where they are missing; those get the mode `parents`.
    pub async fn create_dir_all(&self, path: &FilePath, mode: Mode, parents: Mode) -> Result<Attr, NamespaceError> {
        let mut missing = Vec::new();
        let mut above = path.clone();
        let found = loop {
            match self.lookup(&above, Follow::Yes).await? {
                Some(found) => break found,
                None => {
                    let name = above.file_name().cloned();
                    missing.push(name.ok_or_else(|| NamespaceError::op(path, OpError::NotFound))?);
                    above = above.parent().ok_or_else(|| NamespaceError::op(path, OpError::NotFound))?;
                }
            }
        };
        if !is_directory(&found) {
            let source = if missing.is_empty() { OpError::Exists } else { OpError::NotDirectory };
            return Err(NamespaceError::op(path, source));
        }
        let mut last = found;
        while let Some(name) = missing.pop() {
            above = above.join(name);
            let mode = if missing.is_empty() { mode } else { parents };
            last = match self.create_dir(&above, mode).await {
                // Somebody else made it meanwhile: as good.
                Err(NamespaceError::Op { source: OpError::Exists, .. }) => self.resolve(&above, Follow::Yes).await?,
                other => other?,
            };
        }
        Ok(last)
    }

    async fn create(
        &self,
        path: &FilePath,
        place: &Place,
        kind: NewKind,
        mode: Mode,
        replace: Replace,
    ) -> Result<Attr, NamespaceError> {
        let session = self.session().await?;
        let inode = session.new_inode().await.map_err(|error| NamespaceError::change(path, error))?;
        let caller = self.caller();
        let new = NewInode {
            inode,
            kind,
            mode,
            uid: caller.uid,
            gid: NewGroup::Caller(caller.gid),
            times: None,
            xattrs: Vec::new(),
        };
        let op = Op::Create { dir: place.dir.inode, name: place.name.clone(), new, replace };
        let answer = self.change(path, op).await?;
        self.attr_after(path, answer).await
    }

    /// Executes a change of `path`.
    pub(crate) async fn change(&self, path: &FilePath, op: Op) -> Result<OpAnswer, NamespaceError> {
        let session = self.session().await?;
        session.change(op).await.map_err(|error| NamespaceError::change(path, error))
    }

    /// The attributes that came with the answer; asked for, if it was repeated without them.
    pub(crate) async fn attr_after(&self, path: &FilePath, answer: OpAnswer) -> Result<Attr, NamespaceError> {
        match answer.attr {
            Some(attr) => Ok(attr),
            None => self.attr(path, answer.done.inode).await,
        }
    }

    pub(super) async fn attr(&self, path: &FilePath, inode: Inode) -> Result<Attr, NamespaceError> {
        match self.ask(path, Query::Attr { inode }).await? {
            QueryAnswer::Attr(attr) => Ok(attr),
            _ => Err(NamespaceError::confused()),
        }
    }

    /// Removes the name of what is no directory.
    pub async fn remove_file(&self, path: &FilePath) -> Result<(), NamespaceError> {
        let (dir, name, entry) = self.taken_out(path).await?;
        if is_directory(&entry) {
            return Err(NamespaceError::op(path, OpError::IsDirectory));
        }
        self.change(path, Op::Unlink { dir, name }).await.map(drop)
    }

    /// Removes an empty directory.
    pub async fn remove_dir(&self, path: &FilePath) -> Result<(), NamespaceError> {
        let (dir, name, entry) = self.taken_out(path).await?;
        if !is_directory(&entry) {
            return Err(NamespaceError::op(path, OpError::NotDirectory));
        }
        self.change(path, Op::RemoveDirectory { dir, name }).await.map(drop)
    }

    /// An entry that is there and that the caller may take out of its directory.
    pub(super) async fn taken_out(&self, path: &FilePath) -> Result<(Inode, Name, Attr), NamespaceError> {
        let plain = plain(path);
        let Place { dir, name, existing } = self.place(&plain).await?;
        let entry = existing.ok_or_else(|| NamespaceError::op(path, OpError::NotFound))?;
        if path.wants_directory() && !is_directory(&entry) {
            return Err(NamespaceError::op(path, OpError::NotDirectory));
        }
        if !self.caller().may_take_out(&dir, &entry) {
            return Err(NamespaceError::Denied { path: path.clone() });
        }
        Ok((dir.inode, name, entry))
    }

    /// Moves an entry.
    pub async fn rename(&self, from: &FilePath, to: &FilePath, mode: RenameMode) -> Result<(), NamespaceError> {
        let (from_dir, from_name, entry) = self.taken_out(from).await?;
        let target = self.place(&plain(to)).await?;
        self.require(Permission::Change, &target.dir, to)?;
        match &target.existing {
            Some(existing) if mode != RenameMode::NoReplace && !self.caller().may_take_out(&target.dir, existing) => {
                return Err(NamespaceError::Denied { path: to.clone() });
            }
            _ => {}
        }
        if to.wants_directory() && !is_directory(&entry) {
            return Err(NamespaceError::op(to, OpError::NotDirectory));
        }
        let op = Op::Rename { from_dir, from_name, to_dir: target.dir.inode, to_name: target.name, mode };
        match self.change(to, op).await {
            Ok(_) => Ok(()),
            Err(NamespaceError::Op { source: OpError::Invalid, .. }) => {
                Err(NamespaceError::IntoItself { path: from.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Another name for a file (a link at the end of `from` is linked itself).
    pub async fn link(&self, from: &FilePath, to: &FilePath, replace: Replace) -> Result<Attr, NamespaceError> {
        let source = self.resolve(from, Follow::No).await?;
        if is_directory(&source) {
            return Err(NamespaceError::DirectoryLink { path: from.clone() });
        }
        let place = self.place_for(to, replace).await?;
        if replace == Replace::File && place.existing.is_some_and(|existing| existing.inode == source.inode) {
            // It has the name already.
            return Ok(source);
        }
        let op = Op::Link { inode: source.inode, dir: place.dir.inode, name: place.name, replace };
        let answer = self.change(to, op).await?;
        self.attr_after(to, answer).await
    }

    /// A symbolic link at `path` to `target`.
    pub async fn symlink(&self, target: &[u8], path: &FilePath, replace: Replace) -> Result<Attr, NamespaceError> {
        if target.is_empty() || target.len() > SYMLINK_LEN_MAX || target.contains(&0) {
            return Err(NamespaceError::op(path, OpError::Invalid));
        }
        let place = self.place_for(path, replace).await?;
        if let Some(existing) = &place.existing {
            self.refuse_itself(target, path, existing).await?;
        }
        let kind = NewKind::Symlink(InlineData::new(target.to_vec()));
        self.create(path, &place, kind, Mode::new(0o777), replace).await
    }

    /// A link in the place of the file that it is to lead to would leave nothing but the link.
    async fn refuse_itself(&self, target: &[u8], path: &FilePath, existing: &Attr) -> Result<(), NamespaceError> {
        let mut written = match (target.first(), path.parent()) {
            (Some(b'/'), _) | (_, None) => Vec::new(),
            (_, Some(above)) => [above.to_bytes(), vec![b'/']].concat(),
        };
        written.extend_from_slice(target);
        let Ok(leads_to) = FilePath::parse(&written) else { return Ok(()) };
        for follow in [Follow::Yes, Follow::No] {
            match self.lookup(&leads_to, follow).await {
                Ok(Some(found)) if found.inode == existing.inode => {
                    return Err(NamespaceError::SameFile { path: path.clone() });
                }
                Err(error @ NamespaceError::Cluster(_)) => return Err(error),
                // A link may lead anywhere.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// A place that the caller may fill.
    pub(crate) async fn place_for(&self, path: &FilePath, replace: Replace) -> Result<Place, NamespaceError> {
        let place = self.place(path).await?;
        self.may_fill(path, &place, replace)?;
        Ok(place)
    }

    /// Whether the caller may give the place to something new.
    pub(crate) fn may_fill(&self, path: &FilePath, place: &Place, replace: Replace) -> Result<(), NamespaceError> {
        self.require(Permission::Change, &place.dir, path)?;
        match (&place.existing, replace) {
            (None, _) => Ok(()),
            (Some(_), Replace::No) => Err(NamespaceError::op(path, OpError::Exists)),
            (Some(existing), Replace::File) if is_directory(existing) => {
                Err(NamespaceError::op(path, OpError::IsDirectory))
            }
            (Some(existing), Replace::File) if self.caller().may_take_out(&place.dir, existing) => Ok(()),
            (Some(_), Replace::File) => Err(NamespaceError::Denied { path: path.clone() }),
        }
    }

    /// Changes attributes.
    pub async fn set_attr(&self, path: &FilePath, follow: Follow, set: SetAttr) -> Result<Attr, NamespaceError> {
        let attr = self.resolve(path, follow).await?;
        if !self.may_set(&attr, &set) {
            return Err(NamespaceError::Denied { path: path.clone() });
        }
        let set_id = if self.caller().is_root() { set.set_id } else { SetId::Clear };
        let answer = self.change(path, Op::SetAttr { inode: attr.inode, set: SetAttr { set_id, ..set } }).await?;
        self.attr_after(path, answer).await
    }

    /// Only root gives files away; an owner may choose among its groups; times may be set to now by who may write.
    fn may_set(&self, attr: &Attr, set: &SetAttr) -> bool {
        let caller = self.caller();
        let owns = caller.owns(attr);
        let writes = caller.may(Permission::Write, attr);
        let time = |time: SetTime| match time {
            SetTime::Keep => true,
            SetTime::Now => owns || writes,
            SetTime::To(_) => owns,
        };
        let group = |gid: u32| gid == attr.gid || caller.is_root() || (owns && caller.is_in_group(gid));
        (set.mode.is_none() || owns)
            && set.uid.is_none_or(|uid| caller.is_root() || (owns && uid == attr.uid))
            && set.gid.is_none_or(group)
            && (set.size.is_none() || writes)
            && time(set.accessed)
            && time(set.modified)
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(&self, path: &FilePath, xattr: Xattr, mode: XattrMode) -> Result<(), NamespaceError> {
        let inode = self.xattr_target(path, &xattr.name).await?;
        self.change(path, Op::SetXattr { inode, xattr, mode }).await.map(drop)
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, path: &FilePath, name: XattrName) -> Result<(), NamespaceError> {
        let inode = self.xattr_target(path, &name).await?;
        self.change(path, Op::RemoveXattr { inode, name }).await.map(drop)
    }

    /// `user.` attributes belong to who may write the file; all others to root.
    async fn xattr_target(&self, path: &FilePath, name: &XattrName) -> Result<Inode, NamespaceError> {
        let attr = self.resolve(path, Follow::Yes).await?;
        if !name.as_bytes().starts_with(b"user.") && !self.caller().is_root() {
            return Err(NamespaceError::Denied { path: path.clone() });
        }
        self.require(Permission::Write, &attr, path)?;
        Ok(attr.inode)
    }
}

/// The path without the slash at its end that asks for a directory: an entry is removed or renamed, not its target.
fn plain(path: &FilePath) -> FilePath {
    match (path.parent(), path.components().last()) {
        (Some(parent), Some(Component::Name(name))) => parent.join(name.clone()),
        _ => path.clone(),
    }
}
