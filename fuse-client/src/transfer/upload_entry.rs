//! One entry of a tree going up.

use std::sync::Arc;

use wire::namespace::{
    Attr, FileType, InlineData, Inode, Mode, NewContent, NewGroup, NewInode, NewKind, Op, OpAnswer, OpError, OpNumber,
    Query, QueryAnswer, Replace, SetAttr, SetTime, WalkEnd, Xattr, XattrMode, XattrName,
};

use super::{
    Equality, Outcome, Recurse, TransferError,
    equality::{Decision, Owners, decide},
    upload_dir::{RemoteDir, UploadDir},
    upload_file::{blocking, same_bytes, upload_file},
    upload_tree::UploadTree,
};
use crate::{
    local::{self, Body, Found, LocalMeta},
    namespace::{Follow, NamespaceError, Permission},
    path::FilePath,
    upload::{NewFile, Target},
};

/// The directory that entries go into.
pub(super) struct Into {
    pub(super) dir: Arc<UploadDir>,
    pub(super) inode: Inode,
    /// Its creation, which may still be under way.
    pub(super) after: Option<OpNumber>,
    /// If it was there before.
    pub(super) existing: Option<Attr>,
}

/// What has the name already.
pub(super) struct There {
    attr: Attr,
    link: Option<InlineData>,
    xattrs: Vec<Xattr>,
}

impl Found {
    /// Its directory failed: so does it, which was told, and what is below.
    pub(super) fn abandon(&self) {
        if let Body::Directory(below) = &self.body {
            below.settle(RemoteDir::Failed);
        }
    }
}

impl UploadTree {
    /// What is there under the names of the entries; one question each, all in one request, and another one each about
    /// those that are there.
    pub(super) async fn look_up(
        &self,
        dir: &UploadDir,
        inode: Inode,
        entries: &[Found],
    ) -> Result<Vec<Option<There>>, NamespaceError> {
        let walks = entries.iter().map(|found| Query::Walk { from: inode, path: vec![found.name.clone()] });
        let answers = self.namespace.cluster().query(walks.collect()).await?;
        let there = answers.into_iter().map(|answer| match answer {
            Ok(QueryAnswer::Walked(walked)) => {
                let attr = walked.steps.get(1).copied();
                let link = match walked.end {
                    WalkEnd::Symlink(target) => Some(target),
                    WalkEnd::Reached | WalkEnd::Missing | WalkEnd::NotDirectory => None,
                };
                Ok(attr.map(|attr| There { attr, link, xattrs: Vec::new() }))
            }
            Ok(_) => Err(NamespaceError::confused()),
            Err(error) => Err(NamespaceError::op(dir.target(), error)),
        });
        let mut there: Vec<Option<There>> = there.collect::<Result<_, _>>()?;
        self.look_at_xattrs(&mut there).await?;
        Ok(there)
    }

    async fn look_at_xattrs(&self, there: &mut [Option<There>]) -> Result<(), NamespaceError> {
        let mut found: Vec<&mut There> =
            there.iter_mut().flatten().filter(|there| there.attr.file_type != FileType::Symlink).collect();
        if found.is_empty() {
            return Ok(());
        }
        let queries = found.iter().map(|there| Query::Xattrs { inode: there.attr.inode }).collect();
        let answers = self.namespace.cluster().query(queries).await?;
        for (there, answer) in found.iter_mut().zip(answers) {
            match answer {
                Ok(QueryAnswer::Xattrs(xattrs)) => there.xattrs = xattrs,
                Ok(_) => return Err(NamespaceError::confused()),
                // Gone since: whatever is done about it will meet that.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Uploads one entry, and tells what became of it.
    pub(super) async fn entry(&self, into: &Into, found: Found, there: Option<There>) {
        if let Body::Directory(below) = &found.body {
            let below = Arc::clone(below);
            if let Err(error) = self.directory(into, found, there, &below).await {
                below.settle(RemoteDir::Failed);
                self.fail(&error);
            }
            return;
        }
        let shared = found.meta.links > 1;
        if shared && !self.links.lock().is_first(found.meta.identity) {
            self.links.lock().later.push((Arc::clone(&into.dir), found));
            return;
        }
        let identity = found.meta.identity;
        match self.file(into, found, there).await {
            Ok(copy) if shared => self.links.lock().handle_done(identity, copy),
            Ok(_) => {}
            Err(error) => self.fail(&error),
        }
    }

    async fn directory(
        &self,
        into: &Into,
        found: Found,
        there: Option<There>,
        below: &UploadDir,
    ) -> Result<(), TransferError> {
        let (there, xattrs) = there.map(|there| (there.attr, there.xattrs)).unzip();
        // By way of a mount, where numbers of inodes are those of the store, a tree may lead to its own copy.
        let here = Inode(found.meta.identity.1);
        if there.is_some_and(|there| there.inode == here) || into.dir.is_within(here) {
            let (path, cluster) = (found.path.clone(), self.namespace.cluster().map().cluster);
            if blocking(move || local::inode_in(&path, cluster)).await == Some(here) {
                return Err(TransferError::IntoItself { path: found.path });
            }
        }
        match decide(&found.meta, there.as_ref(), self.owners) {
            Decision::InTheWay { reason } => Err(in_the_way(below.target(), reason)),
            Decision::Same { .. } => {
                let inode = there.map_or(into.inode, |there| there.inode);
                if there.is_some_and(|there| self.namespace.caller().owns(&there)) {
                    self.set_xattrs(below.target(), inode, &found.xattrs, &xattrs.unwrap_or_default()).await?;
                }
                below.settle(RemoteDir::Ready { inode, after: None, existing: there });
                self.directory_done(&found.path, Outcome::Skipped);
                Ok(())
            }
            Decision::Write => {
                self.may_make(into, None, below.target())?;
                let target = below.target();
                let inode = self.new_inode(target).await?;
                // Its final mode, which may forbid its owner to write, comes last.
                let mode = Mode::new(self.mode_of(&found.meta).bits() | 0o700);
                let new = NewInode { mode, ..self.new_node(inode, NewKind::Directory, &found.meta, found.xattrs) };
                let op = Op::Create { dir: into.inode, name: found.name, new, replace: Replace::No };
                let made = self.session.submit(op, into.after).await;
                let made = made.map_err(|error| NamespaceError::change(target, error))?;
                // What goes into it may follow at once, in the same batch.
                below.settle(RemoteDir::Ready { inode, after: Some(made.number), existing: None });
                made.outcome().await.map_err(|error| NamespaceError::change(target, error))?;
                self.directory_done(&found.path, Outcome::Transferred);
                Ok(())
            }
        }
    }

    /// Uploads what is no directory. Returns its copy.
    async fn file(&self, into: &Into, found: Found, there: Option<There>) -> Result<Inode, TransferError> {
        let path = into.dir.target().join(found.name.clone());
        let shown = found.path.display().to_string();
        let bytes = if found.meta.file_type == FileType::File { found.meta.size } else { 0 };
        let decision = self.decide(&found, there.as_ref(), &path).await?;
        match (decision, there) {
            (Decision::InTheWay { reason }, _) => Err(in_the_way(&path, reason)),
            (Decision::Same { touch }, Some(There { attr, xattrs, .. })) => {
                if self.namespace.caller().owns(&attr) {
                    self.set_xattrs(&path, attr.inode, &found.xattrs, &xattrs).await?;
                    if touch {
                        self.touch(&path, attr.inode, &found.meta).await?;
                    }
                }
                self.tally.skipped(&shown, bytes);
                Ok(attr.inode)
            }
            (Decision::Same { .. } | Decision::Write, there) => {
                self.may_make(into, there.map(|there| there.attr).as_ref(), &path)?;
                let (answer, bytes) = self.write(into, found, path).await?;
                self.tally.transferred(&shown, bytes);
                Ok(answer.done.inode)
            }
        }
    }

    async fn decide(&self, found: &Found, there: Option<&There>, path: &FilePath) -> Result<Decision, TransferError> {
        let Some(There { attr, link, .. }) = there else { return Ok(Decision::Write) };
        let meta = LocalMeta { mode: self.mode_of(&found.meta), ..found.meta };
        if let (Body::Symlink(target), FileType::Symlink) = (&found.body, attr.file_type) {
            let same = link.as_ref().is_some_and(|link| link.is_sound() && link.bytes == *target);
            return Ok(if same { decide(&meta, Some(attr), self.owners) } else { Decision::Write });
        }
        let both_files = (meta.file_type, attr.file_type) == (FileType::File, FileType::File);
        if self.options.equality == Equality::Checksum && both_files && meta.size == attr.size {
            let same = same_bytes(&self.namespace, &found.path, self.follow(), attr, path).await?;
            let touch = attr.modified != meta.times.modified
                || decide(&meta, Some(attr), self.owners) == Decision::Same { touch: true };
            return Ok(if same { Decision::Same { touch } } else { Decision::Write });
        }
        Ok(decide(&meta, Some(attr), self.owners))
    }

    /// Links named by a person are followed, those in a tree are not.
    fn follow(&self) -> Follow {
        match self.options.recurse {
            Recurse::No => Follow::Yes,
            Recurse::Yes => Follow::No,
        }
    }

    /// Whether the caller may put something there.
    fn may_make(&self, into: &Into, replaced: Option<&Attr>, path: &FilePath) -> Result<(), TransferError> {
        let Some(dir) = &into.existing else { return Ok(()) };
        self.namespace.require(Permission::Change, dir, path)?;
        if replaced.is_some_and(|replaced| !self.namespace.caller().may_take_out(dir, replaced)) {
            return Err(NamespaceError::Denied { path: path.clone() }.into());
        }
        Ok(())
    }

    async fn write(&self, into: &Into, found: Found, path: FilePath) -> Result<(OpAnswer, u64), TransferError> {
        let Found { name, path: source, meta, xattrs, body } = found;
        let (kind, bytes) = match body {
            Body::Large => {
                let _job = self.jobs.acquire().await.expect("the semaphore is never closed");
                if self.stop.is_stopped() {
                    return Err(TransferError::Abandoned { path: source });
                }
                let target = Target { path, dir: into.inode, name, after: into.after };
                let make = |meta: &LocalMeta| self.new_file(meta, xattrs);
                let stored = upload_file(&self.namespace, &source, self.follow(), target, make, &self.tally).await?;
                self.stop.handle_stored();
                return Ok(stored);
            }
            Body::Small(bytes) if bytes.is_empty() => (NewKind::File(NewContent::Empty), 0),
            Body::Small(bytes) => {
                let len = bytes.len() as u64;
                (NewKind::File(NewContent::Inline(InlineData::new(bytes))), len)
            }
            Body::Symlink(target) => (NewKind::Symlink(InlineData::new(target)), 0),
            Body::Node => (node_kind(&meta), 0),
            Body::Directory(_) => unreachable!("directories are made elsewhere"),
        };
        let inode = self.new_inode(&path).await?;
        let new = self.new_node(inode, kind, &meta, xattrs);
        let op = Op::Create { dir: into.inode, name, new, replace: Replace::File };
        let refused = |error| NamespaceError::change(&path, error);
        let answer = self.session.submit(op, into.after).await.map_err(refused)?.outcome().await.map_err(refused)?;
        self.tally.advanced(bytes);
        Ok((answer, bytes))
    }

    /// Sets attributes of what has the same bytes.
    async fn touch(&self, path: &FilePath, inode: Inode, meta: &LocalMeta) -> Result<(), NamespaceError> {
        let owner = |id: u32| (self.owners == Owners::Kept).then_some(id);
        let set = SetAttr {
            mode: (meta.file_type != FileType::Symlink).then(|| self.mode_of(meta)),
            uid: owner(meta.uid),
            gid: owner(meta.gid),
            accessed: SetTime::To(meta.times.accessed),
            modified: SetTime::To(meta.times.modified),
            ..SetAttr::default()
        };
        self.namespace.change(path, Op::SetAttr { inode, set }).await.map(drop)
    }

    /// Makes the attributes `user.*` of what is there those of the source.
    async fn set_xattrs(
        &self,
        path: &FilePath,
        inode: Inode,
        wanted: &[Xattr],
        there: &[Xattr],
    ) -> Result<(), NamespaceError> {
        for xattr in wanted.iter().filter(|xattr| !there.contains(xattr)) {
            let op = Op::SetXattr { inode, xattr: xattr.clone(), mode: XattrMode::Set };
            self.namespace.change(path, op).await?;
        }
        let is_left = |name: &XattrName| wanted.iter().all(|xattr| xattr.name != *name);
        let of_users = there.iter().map(|xattr| &xattr.name).filter(|name| name.as_bytes().starts_with(b"user."));
        for name in of_users.filter(|name| is_left(name)) {
            self.namespace.change(path, Op::RemoveXattr { inode, name: name.clone() }).await?;
        }
        Ok(())
    }

    /// Another name for a file whose copy is there.
    pub(super) async fn link_later(&self, dir: Arc<UploadDir>, found: Found) {
        let path = dir.target().join(found.name.clone());
        if let Err(error) = self.link(&dir, found, &path).await {
            self.fail(&error);
        }
    }

    async fn link(&self, dir: &Arc<UploadDir>, found: Found, path: &FilePath) -> Result<(), TransferError> {
        // Its directory failed, which was told.
        let Some((inode, after, existing)) = dir.remote().await else { return Ok(()) };
        let into = Into { dir: Arc::clone(dir), inode, after, existing };
        let there = self.look_up(dir, inode, std::slice::from_ref(&found)).await?.pop().flatten();
        let identity = found.meta.identity;
        let copy = self.links.lock().copy_of(identity);
        let Some(copy) = copy else {
            // None of its names could be made so far: each was told, and is no reason against this one.
            let copy = self.file(&into, found, there).await?;
            self.links.lock().handle_done(identity, copy);
            return Ok(());
        };
        let shown = found.path.display().to_string();
        let bytes = if found.meta.file_type == FileType::File { found.meta.size } else { 0 };
        if there.as_ref().is_some_and(|there| there.attr.inode == copy) {
            self.tally.skipped(&shown, bytes);
            return Ok(());
        }
        let there = there.map(|there| there.attr);
        if there.is_some_and(|there| there.file_type == FileType::Directory) {
            return Err(in_the_way(path, "a directory is in the way of a file"));
        }
        self.may_make(&into, there.as_ref(), path)?;
        let op = Op::Link { inode: copy, dir: inode, name: found.name, replace: Replace::File };
        match self.namespace.change(path, op).await {
            // Both are names of the same file already.
            Ok(_) | Err(NamespaceError::Op { source: OpError::Exists, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.tally.advanced(bytes);
        self.tally.transferred(&shown, 0);
        Ok(())
    }

    async fn new_inode(&self, path: &FilePath) -> Result<Inode, NamespaceError> {
        self.session.new_inode().await.map_err(|error| NamespaceError::change(path, error))
    }

    fn new_file(&self, meta: &LocalMeta, xattrs: Vec<Xattr>) -> NewFile {
        let caller = self.namespace.caller();
        let (uid, gid) = match self.owners {
            Owners::Kept => (meta.uid, NewGroup::Exactly(meta.gid)),
            Owners::Own => (caller.uid, NewGroup::Caller(caller.gid)),
        };
        NewFile { mode: self.mode_of(meta), uid, gid, times: Some(meta.times), xattrs }
    }

    fn new_node(&self, inode: Inode, kind: NewKind, meta: &LocalMeta, xattrs: Vec<Xattr>) -> NewInode {
        let NewFile { mode, uid, gid, times, xattrs } = self.new_file(meta, xattrs);
        NewInode { inode, kind, mode, uid, gid, times, xattrs }
    }

    /// The mode of the copy: set-id bits stay behind where the owner does.
    pub(super) fn mode_of(&self, meta: &LocalMeta) -> Mode {
        let keeps_owner = self.owners == Owners::Kept || meta.uid == self.namespace.caller().uid;
        if keeps_owner { meta.mode } else { Mode::new(meta.mode.bits() & 0o1777) }
    }
}

fn node_kind(meta: &LocalMeta) -> NewKind {
    match meta.file_type {
        FileType::Fifo => NewKind::Fifo,
        FileType::CharDevice => NewKind::CharDevice { device: meta.device },
        FileType::BlockDevice => NewKind::BlockDevice { device: meta.device },
        FileType::Socket | FileType::File | FileType::Directory | FileType::Symlink => NewKind::Socket,
    }
}

fn in_the_way(path: &FilePath, reason: &'static str) -> TransferError {
    TransferError::InTheWay { path: path.to_string(), reason }
}
