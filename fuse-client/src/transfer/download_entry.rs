//! One entry of a tree coming down.

use std::{io, path::PathBuf, sync::Arc};

use wire::namespace::{Attr, Content, FileType, Xattr};

use super::{
    Equality, LocalDurability, TransferError,
    download_dir::LocalDir,
    download_file::FileDownload,
    download_tree::DownloadTree,
    equality::{Decision, Owners, decide},
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
            self.tell(done, &remote);
        }
    }

    fn tell(&self, done: Result<Done, TransferError>, remote: &Remote) {
        let shown = remote.target.display().to_string();
        match done {
            Ok(Done::Transferred) => {
                self.tally.advanced(remote.bytes());
                self.tally.transferred(&shown, remote.bytes());
            }
            Ok(Done::Skipped) => self.tally.skipped(&shown, remote.bytes()),
            Err(error) => return self.fail(&error),
        }
        if remote.attr.links > 1 {
            self.links.lock().handle_done(remote.attr.inode, remote.target.clone());
        }
    }

    /// Downloads a file in chunks.
    pub(super) async fn large_file(&self, into: &Arc<LocalDir>, remote: Remote) {
        let _job = self.jobs.acquire().await.expect("the semaphore is never closed");
        match self.is_there(into, &remote).await {
            Ok(true) => return self.tell(Ok(Done::Skipped), &remote),
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
        let mut decision = decide(&there, Some(&remote.attr), self.owners);
        let sizes = there.file_type == FileType::File && there.size == remote.attr.size;
        if self.options.equality == Equality::Checksum && sizes {
            let (path, attr) = (&remote.target, &remote.attr);
            let same = same_bytes(&self.namespace, path, Follow::No, attr, &remote.source).await?;
            decision = if same { Decision::Same { touch: true } } else { Decision::Write };
        }
        match decision {
            Decision::Write => Ok(false),
            Decision::InTheWay { .. } => Err(in_the_way(remote)),
            Decision::Same { touch: false } => Ok(true),
            Decision::Same { touch: true } => {
                let (path, restore) = (remote.target.clone(), Restore::new(&remote.attr, self.namespace.caller()));
                blocking(move || local::restore(&path, &restore, FileType::File)).await.map(|()| true)
            }
        }
    }

    /// Another name for a file that is here.
    pub(super) async fn link_later(&self, dir: Arc<LocalDir>, remote: Remote) {
        let shown = remote.target.display().to_string();
        let Some(first) = self.links.lock().copy_of(remote.attr.inode) else {
            return self.fail(&TransferError::FirstLinkFailed { path: shown });
        };
        let names = Arc::clone(&self.names);
        let target = remote.target.clone();
        let linked = blocking(move || {
            let is_same = || Ok::<_, TransferError>(look(&first)?.zip(look(&target)?));
            match is_same()? {
                Some((first, target)) if first.identity == target.identity => Ok(Done::Skipped),
                Some((_, target)) if target.file_type == FileType::Directory => Ok(Done::Skipped),
                _ => local::hard_link(&names, &first, &target).map(|()| Done::Transferred),
            }
        });
        self.tell(linked.await, &remote);
        drop(dir);
    }
}

impl How {
    /// Writes one small file, unless it is there and equal.
    fn write(&self, remote: &Remote) -> Result<Done, TransferError> {
        if !self.fresh {
            match self.compare(remote)? {
                Decision::Write => {}
                Decision::InTheWay { .. } => return Err(in_the_way(remote)),
                Decision::Same { touch } => {
                    if touch {
                        let restore = Restore::new(&remote.attr, &self.caller);
                        local::restore(&remote.target, &restore, remote.attr.file_type)?;
                    }
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
        let file = TempFile::create(&self.names, &new.path)?;
        file.write_at(bytes, 0)?;
        if self.durability == LocalDurability::Synced {
            file.sync()?;
        }
        file.finish(new)
    }

    fn compare(&self, remote: &Remote) -> Result<Decision, TransferError> {
        let Some(there) = look(&remote.target)? else { return Ok(Decision::Write) };
        let decision = decide(&there, Some(&remote.attr), self.owners);
        let failed = |error| local::failed(&remote.target, "reading it", error);
        match &remote.content {
            Content::Symlink(target) if there.file_type == FileType::Symlink => {
                let ours = std::fs::read_link(&remote.target).map_err(failed)?;
                let same = std::os::unix::ffi::OsStrExt::as_bytes(ours.as_os_str()) == target.bytes;
                Ok(if same { decision } else { Decision::Write })
            }
            Content::Inline(data) if self.equality == Equality::Checksum && there.file_type == FileType::File => {
                let ours = std::fs::read(&remote.target).map_err(failed)?;
                Ok(if ours == data.bytes { Decision::Same { touch: true } } else { Decision::Write })
            }
            _ => Ok(decision),
        }
    }
}

/// What is at a local path; a link is not followed.
fn look(path: &std::path::Path) -> Result<Option<LocalMeta>, TransferError> {
    let looked = std::fs::symlink_metadata(path).and_then(|metadata| LocalMeta::new(&metadata));
    match looked {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(local::failed(path, "looking at it", error)),
    }
}

fn in_the_way(remote: &Remote) -> TransferError {
    let path = remote.target.display().to_string();
    TransferError::InTheWay { path, reason: "a directory is in the way of a file" }
}
