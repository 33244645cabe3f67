//! The only door to the medium: every file of the store is opened, written and synced through [`Disk`].
//!
//! [`FileDisk`] is the real one and owns its threads; [`SimDisk`] lives in memory, has none, and loses what a power cut
//! would lose. Both are used through `Arc<dyn Disk>`.
//!
//! # Invariants
//! - Writes, truncations and allocations of one file happen in the order in which their futures were first polled.
//! - A sync covers every write of its file that completed before the sync was first polled; later ones may miss it.
//! - A name (created, renamed, removed) survives a power cut only after [`Disk::sync_dir`] of its directory.
//! - An operation whose future is dropped after it was polled may still happen.
//! - Queues are bounded: a full one makes the caller wait.
//!
//! # Not here
//! What the bytes mean, and what to do after a failed sync (`append_log`).

pub mod ballast;
pub mod data_dir;
mod direct;
mod file;
mod recent;
mod sim;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use file::{FileDisk, FileDiskConfig};
pub use sim::{SimDisk, SimFault, SimOptions};

/// What every disk operation returns: a future that owns all it needs.
pub type DiskFuture<T> = BoxFuture<'static, io::Result<T>>;

/// A directory tree on one medium. See the module's invariants.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> DiskFuture<Arc<dyn DiskFile>>;

    /// Names of the entries of a directory (files and directories), sorted. Names that are not UTF-8 are left out: the
    /// store makes none.
    fn list(&self, dir: &Path) -> DiskFuture<Vec<String>>;

    /// Creates a directory and its missing parents, and syncs each parent in which it made one. No error if there.
    fn create_dir(&self, dir: &Path) -> DiskFuture<()>;

    /// Renames a file, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> DiskFuture<()>;

    /// Removes a file. Open handles stay usable.
    fn remove(&self, path: &Path) -> DiskFuture<()>;

    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, dir: &Path) -> DiskFuture<()>;

    /// How large the file system of this directory is, and how much of it an ordinary user may still fill.
    fn space(&self, dir: &Path) -> DiskFuture<Space>;

    /// Takes the exclusive lock of a directory (its file `LOCK`), held until the guard drops or the process ends.
    fn lock_dir(&self, dir: &Path) -> BoxFuture<'static, Result<DirLock, LockError>>;
}

/// An open file. Dropping the last handle closes it.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Reads up to `len` bytes at `offset`: fewer only where the file ends.
    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes>;

    /// As [`DiskFile::read_at`], past the page cache where that can be done: what is on the medium, and not what was read of
    /// it some time ago.
    fn read_medium_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        self.read_at(offset, len)
    }

    /// Writes the parts one after the other from `offset`, without copying them together.
    fn write_at(&self, offset: u64, parts: Vec<Bytes>, durability: Durability) -> DiskFuture<()>;

    /// `fdatasync`: bytes and length of the file become durable. After an error the bytes may be lost although a later
    /// sync succeeds: never call it again and believe the answer.
    fn sync_data(&self) -> DiskFuture<()>;

    /// Sets the length of the file; what is cut is gone, what is added reads as zeros.
    fn truncate(&self, len: u64) -> DiskFuture<()>;

    /// Reserves room for the first `len` bytes without changing the length of the file. Where the file system cannot
    /// reserve, nothing happens.
    fn allocate(&self, len: u64) -> DiskFuture<()>;

    /// Writes zeros, so that later writes of the range change no metadata of the file.
    fn zero_fill(&self, offset: u64, len: u64) -> DiskFuture<()>;

    /// Length of the file in bytes.
    fn length(&self) -> DiskFuture<u64>;
}

/// Whether [`Disk::open`] expects the file to be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file must not exist (`O_EXCL`).
    CreateNew,
}

/// Whether a write is on stable storage when it returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// In the page cache: a power cut may lose or tear it.
    Buffered,
    /// Synced as by [`DiskFile::sync_data`], in the same step.
    Synced,
}

/// Size of a file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// All of it, in bytes.
    pub total: u64,
    /// What an ordinary user may still fill, in bytes.
    pub free: u64,
}

/// The exclusive lock of a directory; dropping it lets go.
#[derive(Debug)]
pub struct DirLock {
    /// Dropping the holder is what releases the lock; nobody reads it.
    _holder: Box<dyn Debug + Send + Sync>,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process (or another part of this one) holds it.
    #[error("{} is already in use by another process", dir.display())]
    InUse {
        /// The directory asked for.
        dir: PathBuf,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock {}", dir.display())]
    Disk {
        /// The directory asked for.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
