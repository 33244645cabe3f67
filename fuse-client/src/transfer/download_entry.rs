//! One entry of a tree coming down.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use wire::namespace::{Attr, Content, FileType, Xattr};

use super::{
    Equality, LocalDurability, TransferError,
    download_dir::LocalDir,
    download_file::FileDownload,
    download_tree::DownloadTree,
    equality::{Decision, Owners, decide, obstacle},
    upload_file::{blocking, same_bytes},
};
use crate::{
    download::{ReadError, inline_bytes},
    local::{self, LocalMeta, NewLocal, Restore, TempFile, TempNames},
    namespace::{Caller, Follow, NamespaceError},
    path::FilePath,
};

/// What is to be downloaded, as it was at one moment, and where to.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) source: FilePath,
    pub(super) target: PathBuf,
    pub(super) attr: Attr,
    pub(super) content: Content,
    pub(super) xattrs: Vec<Xattr>,
}

impl Remote {
    /// Whether everything about it is at hand.
    pub(super) fn is_small(&self) -> bool {
        match (&self.content, self.attr.file_type) {
            (Content::Inline(_), _) => true,
            (Content::Extents { .. }, FileType::File) => self.attr.size == 0,
            (_, FileType::File) => self.attr.size == 0,
            _ => true,
        }
    }

    fn bytes(&self) -> u64 {
        if self.attr.file_type == FileType::File { self.attr.size } else { 0 }
    }

    fn unsound(&self) -> TransferError {
        NamespaceError::Read { path: self.source.clone(), source: ReadError::Unsound }.into()
    }

    fn new_local(&self, caller: &Caller) -> NewLocal {
        NewLocal { path: self.target.clone(), restore: Restore::new(&self.attr, caller), xattrs: self.xattrs.clone() }
    }
}

/// What became of a small file.
enum Done {
    Transferred,
    Skipped,
}

/// How small files are written.
#[derive(Clone)]
struct How {
    names: Arc<TempNames>,
    owners: Owners,
    caller: Caller,
    equality: Equality,
    durability: LocalDurability,
    fresh: bool,
}

impl DownloadTree {
    fn how(&self, into: &LocalDir) -> How {
        How {
            names: Arc::clone(&self.names),
            owners: self.owners,
            caller: self.namespace.caller().clone(),
            equality: self.options.equality,
            durability: self.options.durability,
            fresh: into.fresh,
        }
    }

    /// Writes small files in one blocking task.
    pub(super) async fn small_files(&self, into: &Arc<LocalDir>, group: Vec<Remote>) {
        let how = self.how(into);
        let written = blocking(move || {
            let write = |remote: Remote| (how.write(&remote), remote);
            group.into_iter().map(write).collect::<Vec<_>>()
        });
        for (done, remote) in written.await {
            self.tell(into, done, &remote);
        }
    }

    fn tell(&self, into: &LocalDir, done: Result<Done, TransferError>, remote: &Remote) {
        let shown = remote.target.display().to_string();
        match done {
            Ok(Done::Transferred) => {
                self.tally.advanced(remote.bytes());
                self.tally.transferred(&shown, remote.bytes());
            }
            Ok(Done::Skipped) => self.tally.skipped(&shown, remote.bytes()),
            Err(error) => return self.fail(&error),
        }
        into.handle_filled();
        if remote.attr.links > 1 {
            self.links.lock().handle_done(remote.attr.inode, remote.target.clone());
        }
    }

    /// Downloads a file in chunks.
    pub(super) async fn large_file(&self, into: &Arc<LocalDir>, remote: Remote) {
        let _job = self.jobs.acquire().await.expect("the semaphore is never closed");
        if self.stop.is_stopped() {
            return;
        }
        match self.is_there(into, &remote).await {
            Ok(true) => return self.tell(into, Ok(Done::Skipped), &remote),
            Ok(false) => {}
            Err(error) => return self.fail(&error),
        }
        let new = remote.new_local(self.namespace.caller());
        let Remote { source, target, attr, content, .. } = remote;
        let file = FileDownload {
            namespace: &self.namespace,
            names: &self.names,
            durability: self.options.durability,
            tally: &self.tally,
            source: &source,
        };
        match file.run(attr, content, new).await {
            Ok(bytes) => {
                self.tally.transferred(&target.display().to_string(), bytes);
                into.handle_filled();
                if attr.links > 1 {
                    self.links.lock().handle_done(attr.inode, target);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Whether the file is there and equal; attributes that differ are set.
    async fn is_there(&self, into: &Arc<LocalDir>, remote: &Remote) -> Result<bool, TransferError> {
        if into.fresh {
            return Ok(false);
        }
        let target = remote.target.clone();
        let Some(there) = blocking(move || look(&target)).await? else { return Ok(false) };
        if let Some(reason) = obstacle(there.file_type, remote.attr.file_type) {
            return Err(in_the_way(remote, reason));
        }
        let mut decision = decide(&there, Some(&remote.attr), self.owners);
        let sizes = there.file_type == FileType::File && there.size == remote.attr.size;
        if self.options.equality == Equality::Checksum && sizes {
            let (path, attr) = (&remote.target, &remote.attr);
            let same = same_bytes(&self.namespace, path, Follow::No, attr, &remote.source).await?;
            decision = if same { Decision::Same { touch: true } } else { Decision::Write };
        }
        match decision {
            Decision::Write => Ok(false),
            Decision::InTheWay { reason } => Err(in_the_way(remote, reason)),
            Decision::Same { touch } => {
                let (how, there_owner) = (self.how(into), there.uid);
                let (path, attr, xattrs) = (remote.target.clone(), remote.attr, remote.xattrs.clone());
                let touch = touch && how.may_touch(there_owner);
                blocking(move || how.keep(&path, &attr, &xattrs, touch)).await.map(|()| true)
            }
        }
    }

    /// Another name for a file that is here.
    pub(super) async fn link_later(&self, dir: Arc<LocalDir>, remote: Remote) {
        let first = self.links.lock().copy_of(remote.attr.inode);
        let Some(first) = first else {
            // None of its names could be made so far: each was told, and is no reason against this one.
            return self.bodies(&dir, vec![remote]).await;
        };
        let names = Arc::clone(&self.names);
        let (target, file_type) = (remote.target.clone(), remote.attr.file_type);
        let linked = blocking(move || {
            let is_same = || Ok::<_, TransferError>(look(&first)?.zip(look(&target)?));
            match is_same()? {
                Some((first, target)) if first.identity == target.identity => Ok(Done::Skipped),
                Some((_, there)) => match obstacle(there.file_type, file_type) {
                    Some(reason) => Err(TransferError::InTheWay { path: target.display().to_string(), reason }),
                    None => local::hard_link(&names, &first, &target).map(|()| Done::Transferred),
                },
                None => local::hard_link(&names, &first, &target).map(|()| Done::Transferred),
            }
        });
        self.tell(&dir, linked.await, &remote);
    }
}

impl How {
    /// Writes one small file, unless it is there and equal.
    fn write(&self, remote: &Remote) -> Result<Done, TransferError> {
        if !self.fresh {
            match self.compare(remote)? {
                Decision::Write => {}
                Decision::InTheWay { reason } => return Err(in_the_way(remote, reason)),
                Decision::Same { touch } => {
                    self.keep(&remote.target, &remote.attr, &remote.xattrs, touch)?;
                    return Ok(Done::Skipped);
                }
            }
        }
        let new = remote.new_local(&self.caller);
        match (&remote.content, remote.attr.file_type) {
            (Content::Symlink(target), FileType::Symlink) if target.is_sound() => {
                local::make_symlink(&self.names, &target.bytes, &new)?;
            }
            (Content::Inline(data), FileType::File) => {
                let bytes = inline_bytes(data.clone(), &remote.attr).map_err(|_| remote.unsound())?;
                self.write_file(&bytes, &new)?;
            }
            (_, FileType::File) if remote.attr.size == 0 => self.write_file(&[], &new)?,
            (_, FileType::File | FileType::Directory | FileType::Symlink) => return Err(remote.unsound()),
            (_, FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice) => {
                local::make_node(&self.names, &remote.attr, &new)?;
            }
        }
        Ok(Done::Transferred)
    }

    fn write_file(&self, bytes: &[u8], new: &NewLocal) -> Result<(), TransferError> {
        let file = TempFile::create(&self.names, &new.path, bytes.len() as u64)?;
        file.write_at(bytes, 0)?;
        file.finish(new, self.durability)
    }

    /// Leaves a file that is there and equal where it is, with attributes set that differ.
    fn keep(&self, path: &Path, attr: &Attr, xattrs: &[Xattr], touch: bool) -> Result<(), TransferError> {
        let bears = attr.file_type != FileType::Symlink && !xattrs.is_empty();
        let is_ours = || look(path).map(|there| there.is_some_and(|there| self.may_touch(there.uid)));
        let is_dressed = bears && is_ours()? && local::add_xattrs(path, xattrs)?;
        if touch || is_dressed {
            local::restore(path, &Restore::new(attr, &self.caller), attr.file_type)?;
        }
        // The download that brought it may not have synced it.
        if attr.file_type == FileType::File && self.durability == LocalDurability::Synced {
            local::sync_file(path)?;
        }
        Ok(())
    }

    /// Whether the system lets the caller set attributes of what belongs to `owner` here.
    fn may_touch(&self, owner: u32) -> bool {
        self.caller.is_root() || self.caller.uid == owner
    }

    fn compare(&self, remote: &Remote) -> Result<Decision, TransferError> {
        let Some(there) = look(&remote.target)? else { return Ok(Decision::Write) };
        if let Some(reason) = obstacle(there.file_type, remote.attr.file_type) {
            return Ok(Decision::InTheWay { reason });
        }
        let decision = self.compare_bytes(remote, &there)?;
        Ok(match decision {
            Decision::Same { touch } => Decision::Same { touch: touch && self.may_touch(there.uid) },
            other => other,
        })
    }

    fn compare_bytes(&self, remote: &Remote, there: &LocalMeta) -> Result<Decision, TransferError> {
        let decision = decide(there, Some(&remote.attr), self.owners);
        let failed = |error| local::failed(&remote.target, "reading it", error);
        match &remote.content {
            Content::Symlink(target) if there.file_type == FileType::Symlink => {
                let ours = std::fs::read_link(&remote.target).map_err(failed)?;
                let same = std::os::unix::ffi::OsStrExt::as_bytes(ours.as_os_str()) == target.bytes;
                Ok(if same { decision } else { Decision::Write })
            }
            Content::Inline(data) if self.equality == Equality::Checksum && there.file_type == FileType::File => {
                if there.size != remote.attr.size {
                    return Ok(Decision::Write);
                }
                let theirs = inline_bytes(data.clone(), &remote.attr).map_err(|_| remote.unsound())?;
                // No more than that, however large the file has grown meanwhile.
                let mut ours = Vec::with_capacity(theirs.len() + 1);
                let mut file = File::open(&remote.target).map_err(failed)?.take(theirs.len() as u64 + 1);
                file.read_to_end(&mut ours).map_err(failed)?;
                Ok(if ours == theirs { Decision::Same { touch: true } } else { Decision::Write })
            }
            _ => Ok(decision),
        }
    }
}

/// What is at a local path; a link is not followed.
fn look(path: &Path) -> Result<Option<LocalMeta>, TransferError> {
    let looked = std::fs::symlink_metadata(path).and_then(|metadata| LocalMeta::new(&metadata));
    match looked {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(local::failed(path, "looking at it", error)),
    }
}

fn in_the_way(remote: &Remote, reason: &'static str) -> TransferError {
    TransferError::InTheWay { path: remote.target.display().to_string(), reason }
}
