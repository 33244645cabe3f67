//! Copies within the store: they share the chunks of their source, and move no data.

use futures::{StreamExt, stream};
use wire::namespace::{
    Attr, CAPABILITY_XATTR, Content, Entry, FileType, Inode, ListWant, Mode, NewContent, NewGroup, NewInode, NewKind,
    Op, OpDone, OpError, Query, QueryAnswer, Replace, SetAttr, SetId, SetTime, Times, Xattr, XattrMode,
};

use super::{Follow, Listing, Namespace, NamespaceError, Permission, Place, TreeNews, is_directory};
use crate::path::FilePath;

/// Files being copied at once; each takes a few round trips, and the session packs what they ask for.
const COPIES_IN_FLIGHT: usize = 256;

/// What is copied, as it was at one moment.
struct Source {
    path: FilePath,
    attr: Attr,
    content: Content,
    xattrs: Vec<Xattr>,
}

/// A directory that is being copied.
struct Level {
    listing: Listing,
    from: FilePath,
    to: FilePath,
    /// The copy.
    copy: Inode,
    /// Directories of the page at hand.
    below: Vec<Source>,
}

impl Namespace {
    /// Copies a file (or pipe, device) to the path `to`, replacing a file there, or the one that a link there leads to. Moves
    /// no data. Mode and times are the source's, the owner too if the caller is root.
    pub async fn copy_file(&self, from: &FilePath, to: &FilePath) -> Result<Attr, NamespaceError> {
        let attr = self.resolve(from, Follow::Yes).await?;
        if is_directory(&attr) {
            return Err(NamespaceError::op(from, OpError::IsDirectory));
        }
        let source = self.source(from, attr.inode).await?;
        let place = self.place_through(to).await?;
        self.may_fill(to, &place, Replace::File)?;
        if place.existing.is_some_and(|existing| existing.inode == attr.inode) {
            return Err(NamespaceError::SameFile { path: from.clone() });
        }
        let copy = self.copy_one(source, &place, to).await?;
        self.attr(to, copy).await
    }

    /// Copies a file or directory with all below it to the path `to`, which must not exist if `from` is a directory.
    /// Moves no data. Links are copied as links. Entries below that cannot be copied are told to `news`, and left out.
    pub async fn copy_tree(
        &self,
        from: &FilePath,
        to: &FilePath,
        mut news: impl FnMut(TreeNews),
    ) -> Result<(), NamespaceError> {
        let attr = self.resolve(from, Follow::No).await?;
        if is_directory(&attr) {
            self.refuse_below(attr.inode, from, to).await?;
        }
        let source = self.source(from, attr.inode).await?;
        let place = self.place_for(to, if is_directory(&attr) { Replace::No } else { Replace::File }).await?;
        if !is_directory(&attr) {
            if place.existing.is_some_and(|existing| existing.inode == attr.inode) {
                return Err(NamespaceError::SameFile { path: from.clone() });
            }
            self.copy_one(source, &place, to).await?;
            news(TreeNews::Done);
            return Ok(());
        }
        let first = self.level_of_copy(source, &place, to.clone()).await?;
        news(TreeNews::Done);
        let whole = first.copy;
        let mut levels = vec![first];
        while let Some(level) = levels.last_mut() {
            if let Some(source) = level.below.pop() {
                let name = source.path.file_name().cloned().ok_or_else(NamespaceError::confused)?;
                let to = level.to.join(name.clone());
                let dir = Attr { inode: level.copy, ..*level.listing.dir() };
                let from = source.path.clone();
                match self.level_of_copy(source, &Place { dir, name, existing: None }, to).await {
                    Ok(level) => {
                        levels.push(level);
                        news(TreeNews::Done);
                    }
                    Err(error) => left_out(from, error, &mut news)?,
                }
            } else if let Some(entries) = level.listing.next_page().await? {
                self.copy_page(level, entries, whole, &mut news).await?;
            } else if let Some(level) = levels.pop() {
                self.restore_times(&level.to, level.copy, level.listing.dir()).await?;
            }
        }
        Ok(())
    }

    /// Refuses a destination that lies in the source by its path.
    async fn refuse_below(&self, source: Inode, from: &FilePath, to: &FilePath) -> Result<(), NamespaceError> {
        let mut above = to.parent();
        while let Some(path) = above {
            let there = self.lookup(&path, Follow::Yes).await?;
            if there.is_some_and(|there| there.inode == source) {
                return Err(NamespaceError::IntoItself { path: from.clone() });
            }
            above = path.parent();
        }
        Ok(())
    }

    async fn level_of_copy(&self, source: Source, place: &Place, to: FilePath) -> Result<Level, NamespaceError> {
        self.require(Permission::Search, &source.attr, &source.path)?;
        let listing = self.list_dir(source.path.clone(), source.attr, ListWant::Contents)?;
        let from = source.path.clone();
        let copy = self.copy_one(source, place, &to).await?;
        Ok(Level { listing, from, to, copy, below: Vec::new() })
    }

    /// Copies a page of a directory. `whole` is the copy of the tree: met on the way, it would be copied without end.
    async fn copy_page(
        &self,
        level: &mut Level,
        entries: Vec<Entry>,
        whole: Inode,
        news: &mut impl FnMut(TreeNews),
    ) -> Result<(), NamespaceError> {
        let dir = Attr { inode: level.copy, ..*level.listing.dir() };
        let mut copies = Vec::with_capacity(entries.len());
        for Entry { name, attr, content, xattrs, .. } in entries {
            let (Some(attr), Some(content)) = (attr, content) else {
                return Err(NamespaceError::confused());
            };
            if attr.inode == whole {
                return Err(NamespaceError::IntoItself { path: level.from.clone() });
            }
            let source = Source { path: level.from.join(name.clone()), attr, content, xattrs };
            if is_directory(&attr) {
                level.below.push(source);
            } else {
                copies.push((source, Place { dir, name: name.clone(), existing: None }, level.to.join(name)));
            }
        }
        let copy = |(source, place, to): (Source, Place, FilePath)| async move {
            let from = source.path.clone();
            self.copy_one(source, &place, &to).await.map_err(|error| (from, error))
        };
        let mut copying = stream::iter(copies).map(copy).buffer_unordered(COPIES_IN_FLIGHT);
        while let Some(copied) = copying.next().await {
            match copied {
                Ok(_) => news(TreeNews::Done),
                Err((from, error)) => left_out(from, error, news)?,
            }
        }
        Ok(())
    }

    async fn source(&self, path: &FilePath, inode: Inode) -> Result<Source, NamespaceError> {
        let queries = vec![Query::Content { inode, offset: 0, len: u64::MAX }, Query::Xattrs { inode }];
        let mut answers = self.cluster().query(queries).await?.into_iter();
        let (Some(content), Some(xattrs)) = (answers.next(), answers.next()) else {
            return Err(NamespaceError::confused());
        };
        let refused = |source| NamespaceError::op(path, source);
        match (content.map_err(refused)?, xattrs.map_err(refused)?) {
            (QueryAnswer::Content { attr, content }, QueryAnswer::Xattrs(xattrs)) => {
                Ok(Source { path: path.clone(), attr, content, xattrs })
            }
            _ => Err(NamespaceError::confused()),
        }
    }

    /// Copies what is no file in one operation, a file in three: an unnamed one, its clones, its name.
    async fn copy_one(&self, source: Source, place: &Place, to: &FilePath) -> Result<Inode, NamespaceError> {
        let Source { path, attr, content, xattrs } = source;
        let kind = match (attr.file_type, content) {
            (FileType::File, Content::Inline(data)) => NewKind::File(NewContent::Inline(data)),
            (FileType::File, _) => NewKind::File(NewContent::Empty),
            (FileType::Symlink, Content::Symlink(target)) => NewKind::Symlink(target),
            (FileType::Symlink, _) => return Err(NamespaceError::confused()),
            (FileType::Directory, _) => NewKind::Directory,
            (FileType::Fifo, _) => NewKind::Fifo,
            (FileType::Socket, _) => NewKind::Socket,
            (FileType::CharDevice, _) => NewKind::CharDevice { device: attr.device },
            (FileType::BlockDevice, _) => NewKind::BlockDevice { device: attr.device },
        };
        if attr.file_type == FileType::File {
            self.require(Permission::Read, &attr, &path)?;
        }
        let in_chunks = matches!(kind, NewKind::File(NewContent::Empty)) && attr.size > 0;
        let session = self.session().await?;
        let inode = session.new_inode().await.map_err(|error| NamespaceError::change(to, error))?;
        let new = self.like(&attr, inode, kind, xattrs);
        let (dir, name) = (place.dir.inode, place.name.clone());
        if in_chunks {
            self.clone_into(&path, &attr, new, to).await?;
            self.change(to, Op::Link { inode, dir, name, replace: Replace::File }).await?;
        } else {
            let replace = if is_directory(&attr) { Replace::No } else { Replace::File };
            self.change(to, Op::Create { dir, name, new, replace }).await?;
        }
        Ok(inode)
    }

    /// A new inode that is as much like `attr` as the caller may make it.
    fn like(&self, attr: &Attr, inode: Inode, kind: NewKind, mut xattrs: Vec<Xattr>) -> NewInode {
        let caller = self.caller();
        if !caller.is_root() {
            // The others are given by the administrator: capabilities of a program, say.
            xattrs.retain(|xattr| xattr.name.as_bytes().starts_with(b"user."));
        }
        let (mode, uid, gid) = if caller.is_root() {
            (attr.mode, attr.uid, NewGroup::Exactly(attr.gid))
        } else {
            let kept = if attr.uid == caller.uid { 0o7777 } else { 0o1777 };
            (Mode::new(attr.mode.bits() & kept), caller.uid, NewGroup::Caller(caller.gid))
        };
        let times = Some(Times { accessed: attr.accessed, modified: attr.modified });
        NewInode { inode, kind, mode, uid, gid, times, xattrs }
    }

    async fn clone_into(
        &self,
        path: &FilePath,
        attr: &Attr,
        new: NewInode,
        to: &FilePath,
    ) -> Result<(), NamespaceError> {
        let target = new.inode;
        // Whatever writes to a program takes its capabilities away, and so do clones.
        let capability = new.xattrs.iter().find(|xattr| xattr.name.as_bytes() == CAPABILITY_XATTR).cloned();
        self.change(to, Op::CreateUnnamed { new }).await?;
        let mut offset = 0;
        while offset < attr.size {
            let op = Op::Clone {
                from: attr.inode,
                from_offset: offset,
                to: target,
                to_offset: offset,
                len: attr.size - offset,
                if_version: Some(attr.data_version),
                set_id: SetId::Keep,
            };
            let OpDone { offset: cloned, .. } = match self.change(to, op).await {
                Err(NamespaceError::Op { source: OpError::VersionChanged, .. }) => {
                    return Err(NamespaceError::ChangedDuringCopy { path: path.clone() });
                }
                other => other?.done,
            };
            if cloned == 0 {
                break;
            }
            offset += cloned;
        }
        self.restore_times(to, target, attr).await?;
        if let Some(xattr) = capability {
            self.change(to, Op::SetXattr { inode: target, xattr, mode: XattrMode::Set }).await?;
        }
        Ok(())
    }

    /// Gives the copy the times of its source, and a file its length, which ends in a hole perhaps.
    async fn restore_times(&self, to: &FilePath, copy: Inode, attr: &Attr) -> Result<(), NamespaceError> {
        let set = SetAttr {
            size: (attr.file_type == FileType::File).then_some(attr.size),
            accessed: SetTime::To(attr.accessed),
            modified: SetTime::To(attr.modified),
            ..SetAttr::default()
        };
        self.change(to, Op::SetAttr { inode: copy, set }).await.map(drop)
    }
}

/// Tells of an entry that cannot be copied; one that means that no other can fare better ends the copy.
fn left_out(path: FilePath, error: NamespaceError, news: &mut impl FnMut(TreeNews)) -> Result<(), NamespaceError> {
    if error.is_fatal() || matches!(error, NamespaceError::IntoItself { .. }) {
        return Err(error);
    }
    news(TreeNews::Failed { path, error });
    Ok(())
}
