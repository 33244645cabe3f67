//! Walks local trees, and hands out what it finds in groups of one directory each: small files with their bytes.

use std::{
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use tokio::{runtime::Handle, sync::mpsc};
use wire::{
    cluster::ClusterId,
    namespace::{FileType, INLINE_LEN_MAX, Name, Xattr},
};

use super::{LocalMeta, LocalSource, failed, xattrs};
use crate::transfer::{Progress, Recurse, TransferError, Unsettled, UploadDir};

/// Entries of a group: what one request asks the namespace about.
const GROUP_ENTRIES_MAX: usize = 256;

/// Bytes of small files in a group: one batch.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Small files that are read at once: a disk answers eight questions as fast as one, and most of a cold read is waiting.
const READERS: usize = 8;

/// Entries that are worth a thread of their own.
const ENTRIES_EACH_MIN: usize = 16;

/// How often a small file that changes while it is read is read again.
const READS_MAX: u32 = 3;

/// Entries of one directory.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) dir: Arc<UploadDir>,
    pub(crate) entries: Vec<Found>,
    /// The directories among them.
    pub(crate) unsettled: Unsettled,
}

/// An entry.
#[derive(Debug)]
pub(crate) struct Found {
    /// In the directory of its group.
    pub(crate) name: Name,
    pub(crate) path: PathBuf,
    pub(crate) meta: LocalMeta,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) body: Body,
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum Body {
    Directory(Arc<UploadDir>),
    /// All bytes of a small file.
    Small(Vec<u8>),
    /// A file to be read in chunks.
    Large,
    Symlink(Vec<u8>),
    /// A pipe, socket or device.
    Node,
}

/// Where a walk begins.
#[derive(Debug)]
pub(crate) struct ScanItem {
    pub(crate) source: PathBuf,
    pub(crate) dir: Arc<UploadDir>,
    /// The name of the copy in `dir`; if none, the source is a directory whose copy is `dir` itself.
    pub(crate) name: Option<Name>,
}

/// A walk.
struct Scan<'a> {
    recurse: Recurse,
    cluster: ClusterId,
    progress: &'a dyn Progress,
    failed: &'a dyn Fn(TransferError),
    groups: mpsc::Sender<Group>,
    /// Directories to be read.
    pending: Vec<Arc<UploadDir>>,
}

/// Nobody takes the groups any more.
struct Stopped;

/// Walks all items. Blocks; ends early when nobody takes the groups any more.
pub(crate) fn scan(
    items: Vec<ScanItem>,
    recurse: Recurse,
    cluster: ClusterId,
    progress: &dyn Progress,
    failed: &dyn Fn(TransferError),
    groups: mpsc::Sender<Group>,
) {
    let mut scan = Scan { recurse, cluster, progress, failed, groups, pending: Vec::new() };
    for item in items {
        if scan.item(item).is_err() {
            return;
        }
        while let Some(dir) = scan.pending.pop() {
            if scan.is_copied(&dir) && scan.directory(&dir).is_err() {
                return;
            }
        }
    }
}

impl Scan<'_> {
    fn item(&mut self, item: ScanItem) -> Result<(), Stopped> {
        let ScanItem { source, dir, name } = item;
        // A link that a person named is followed, unless a tree is wanted: there links are links.
        let follow = self.recurse == Recurse::No;
        let looked = if follow { fs::metadata(&source) } else { fs::symlink_metadata(&source) };
        let metadata = match looked {
            Ok(metadata) => metadata,
            Err(error) => {
                (self.failed)(failed(&source, "reading it", error));
                return Ok(());
            }
        };
        if metadata.is_dir() && self.recurse == Recurse::No {
            (self.failed)(TransferError::IsDirectory { path: source.display().to_string() });
            return Ok(());
        }
        if !(metadata.is_file() || metadata.is_dir()) && self.recurse == Recurse::No {
            (self.failed)(TransferError::NotRegular { path: source.display().to_string() });
            return Ok(());
        }
        match name {
            Some(name) => match look(&dir, name, source, &metadata, follow) {
                Ok(found) => {
                    self.note(&found);
                    self.send(&dir, vec![found])
                }
                Err(error) => {
                    (self.failed)(error);
                    Ok(())
                }
            },
            None if metadata.is_dir() => {
                self.pending.push(dir);
                Ok(())
            }
            None => {
                let reason = "a file cannot take the place of the root directory";
                (self.failed)(TransferError::InTheWay { path: source.display().to_string(), reason });
                Ok(())
            }
        }
    }

    /// Whether what is in a directory is wanted. In a mount of the store this may be the copy that is being made: to know that
    /// is worth a wait.
    fn is_copied(&self, dir: &UploadDir) -> bool {
        xattrs::inode_in(dir.local(), self.cluster).is_none() || Handle::current().block_on(dir.remote()).is_some()
    }

    /// Sends out the entries of one directory, and notes those that are directories.
    fn directory(&mut self, dir: &Arc<UploadDir>) -> Result<(), Stopped> {
        let mut listed = match fs::read_dir(dir.local()) {
            Ok(listed) => listed,
            Err(error) => {
                (self.failed)(failed(dir.local(), "listing it", error));
                return Ok(());
            }
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        loop {
            let batch: Vec<_> = listed.by_ref().take(GROUP_ENTRIES_MAX).collect();
            if batch.is_empty() {
                return self.send(dir, entries);
            }
            for entry in look_at_all(dir, batch) {
                match entry {
                    Ok(found) => {
                        self.note(&found);
                        if let Body::Small(small) = &found.body {
                            bytes += small.len();
                        }
                        entries.push(found);
                    }
                    Err(error) => (self.failed)(error),
                }
                if entries.len() >= GROUP_ENTRIES_MAX || bytes >= GROUP_BYTES_MAX {
                    self.send(dir, std::mem::take(&mut entries))?;
                    bytes = 0;
                }
            }
        }
    }

    /// Tells of an entry; a directory is to be read later.
    fn note(&mut self, found: &Found) {
        match &found.body {
            Body::Directory(below) => self.pending.push(Arc::clone(below)),
            Body::Small(_) | Body::Large => self.progress.found(1, found.meta.size),
            Body::Symlink(_) | Body::Node => self.progress.found(1, 0),
        }
    }

    fn send(&self, dir: &Arc<UploadDir>, entries: Vec<Found>) -> Result<(), Stopped> {
        if entries.is_empty() {
            return Ok(());
        }
        let directories = entries.iter().filter_map(|found| match &found.body {
            Body::Directory(below) => Some(below),
            Body::Small(_) | Body::Large | Body::Symlink(_) | Body::Node => None,
        });
        let unsettled = Unsettled::new(directories);
        self.groups.blocking_send(Group { dir: Arc::clone(dir), entries, unsettled }).map_err(|_| Stopped)
    }
}

/// Looks at entries of a directory, several at once, and tells of them in their order.
fn look_at_all(dir: &Arc<UploadDir>, mut batch: Vec<io::Result<fs::DirEntry>>) -> Vec<Result<Found, TransferError>> {
    let each = batch.len().div_ceil(READERS).max(ENTRIES_EACH_MIN);
    let look_at = |part: Vec<_>| part.into_iter().map(|listed| entry(dir, listed)).collect::<Vec<_>>();
    thread::scope(|scope| {
        let rest = batch.split_off(each.min(batch.len()));
        let mut rest = rest.into_iter().peekable();
        let mut others = Vec::new();
        while rest.peek().is_some() {
            let part = rest.by_ref().take(each).collect();
            others.push(scope.spawn(|| look_at(part)));
        }
        let mut found = look_at(batch);
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    })
}

fn entry(dir: &Arc<UploadDir>, entry: io::Result<fs::DirEntry>) -> Result<Found, TransferError> {
    let entry = entry.map_err(|error| failed(dir.local(), "listing it", error))?;
    let path = entry.path();
    let name = Name::new(entry.file_name().as_bytes());
    let name = name.map_err(|error| failed(&path, "its name", io::Error::other(error)))?;
    let metadata = entry.metadata().map_err(|error| failed(&path, "reading it", error))?;
    look(dir, name, path, &metadata, false)
}

fn look(
    dir: &Arc<UploadDir>,
    name: Name,
    path: PathBuf,
    metadata: &fs::Metadata,
    follow: bool,
) -> Result<Found, TransferError> {
    let failed = |error| failed(&path, "reading it", error);
    let mut meta = LocalMeta::new(metadata).map_err(failed)?;
    let xattrs = if meta.file_type == FileType::Symlink { Vec::new() } else { xattrs::read(&path).map_err(failed)? };
    let body = match meta.file_type {
        FileType::Directory => Body::Directory(UploadDir::below(dir, path.clone(), name.clone(), meta)),
        FileType::File if meta.size > INLINE_LEN_MAX as u64 => Body::Large,
        FileType::File => {
            let (body, read) = read_small(&path, follow)?;
            meta = read;
            body
        }
        FileType::Symlink => Body::Symlink(fs::read_link(&path).map_err(failed)?.into_os_string().into_vec()),
        FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice => Body::Node,
    };
    Ok(Found { name, path, meta, xattrs, body })
}

/// The bytes of a small file at one moment; it may have grown large meanwhile.
fn read_small(path: &Path, follow: bool) -> Result<(Body, LocalMeta), TransferError> {
    let failed = |error| failed(path, "reading it", error);
    for _ in 0..READS_MAX {
        let mut source = LocalSource::open(path, follow).map_err(failed)?;
        if source.meta.size > INLINE_LEN_MAX as u64 {
            return Ok((Body::Large, source.meta));
        }
        let bytes = source.read_small().map_err(failed)?;
        let len = bytes.len() as u64;
        if source.has_changed().map_err(failed)? || !(len == source.meta.size || source.is_made_up()) {
            continue;
        }
        if bytes.len() > INLINE_LEN_MAX {
            return Ok((Body::Large, source.meta));
        }
        return Ok((Body::Small(bytes), LocalMeta { size: len, ..source.meta }));
    }
    Err(TransferError::SourceChanged { path: path.to_owned() })
}
