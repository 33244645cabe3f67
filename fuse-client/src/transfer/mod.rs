//! Trees between the local file system and the store, many files in flight.
//!
//! # Invariants
//! - Under the final name, here or there, stands the old file or the whole new one.
//! - One file that fails does not stop the others; each failure is told in one line.
//!
//! # Not here
//! Which target belongs to which source (`cli`); local files (`local`).

mod download_dir;
mod download_entry;
mod download_file;
mod download_tree;
mod equality;
mod stop;
mod tally;
mod upload_dir;
mod upload_entry;
mod upload_file;
mod upload_tree;

use std::{path::PathBuf, sync::Arc};

use tokio::task::JoinError;
pub(crate) use upload_dir::{Unsettled, UploadDir};

use crate::{
    namespace::{Namespace, NamespaceError},
    path::FilePath,
    upload::{PutError, UploadError},
};

/// A source on this machine and where it goes: `target` is the name of the copy itself, not the directory above.
#[derive(Clone, Debug)]
pub struct UploadItem {
    /// Here.
    pub source: PathBuf,
    /// There.
    pub target: FilePath,
    /// Of a directory: whether one that is there is to be like it.
    pub existing: Existing,
}

/// A source in the store and where it goes: `target` is the name of the copy itself, not the directory above.
#[derive(Clone, Debug)]
pub struct DownloadItem {
    /// There.
    pub source: FilePath,
    /// Here.
    pub target: PathBuf,
    /// Of a directory: whether one that is there is to be like it.
    pub existing: Existing,
}

/// What becomes of a directory that is there already where a directory goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// It gets mode, owner and times of the source, whose copy it is.
    Dressed,
    /// It takes in what is in the source, and stays what it is.
    Kept,
}

/// Whether directories are descended into.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Recurse {
    /// A directory is a failure.
    #[default]
    No,
    /// With all below.
    Yes,
}

/// When a file that is there already is left alone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Equality {
    /// Same type, size and mtime (to the nanosecond).
    #[default]
    SizeAndTime,
    /// Same type, size and bytes: both are hashed.
    Checksum,
}

/// Whether downloaded files are on stable storage when the download returns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LocalDurability {
    /// The kernel writes them when it likes, as with `cp`.
    #[default]
    Unsynced,
    /// Each file with its attributes before it gets its name, and each directory when everything in it is done.
    Synced,
}

/// How a tree is transferred.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// About directories.
    pub recurse: Recurse,
    /// About what is there.
    pub equality: Equality,
    /// Files with chunks in flight; 32.
    pub jobs: usize,
    /// About downloads.
    pub durability: LocalDurability,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self { recurse: Recurse::No, equality: Equality::SizeAndTime, jobs: 32, durability: LocalDurability::Unsynced }
    }
}

/// One file that could not be transferred: a line for a person.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A local file.
    #[error("{path}: {action}: {source}", path = path.display())]
    Local {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The source changed while it was read.
    #[error("{path}: changed while it was uploaded; nothing was stored under its name", path = path.display())]
    SourceChanged {
        /// Which.
        path: PathBuf,
    },
    /// A directory, and no [`Recurse::Yes`].
    #[error("{path} is a directory (use -r)")]
    IsDirectory {
        /// Which.
        path: String,
    },
    /// A pipe, a device or a socket, and no [`Recurse::Yes`]: whoever names one without asking for a tree means what comes
    /// out of it, which has no length.
    #[error("{path} is not a regular file; store what it gives in a file first (-r copies the node itself)")]
    NotRegular {
        /// Which.
        path: String,
    },
    /// A directory was to be uploaded into what it is itself, by way of a mount, or below.
    #[error("{path}: a directory cannot go into itself", path = path.display())]
    IntoItself {
        /// Which.
        path: PathBuf,
    },
    /// A directory is in the way of a file, or a file in the way of a directory.
    #[error("{path}: {reason}")]
    InTheWay {
        /// Which.
        path: String,
        /// What is in the way of what.
        reason: &'static str,
    },
    /// The transfer was stopped before this one's turn, which was told.
    #[error("{path}: not transferred: the transfer was stopped", path = path.display())]
    Abandoned {
        /// Which.
        path: PathBuf,
    },
    /// A defect of this program: some files were not transferred.
    #[error("a part of the transfer broke off ({reason}); run it again")]
    Broken {
        /// What the task said.
        reason: String,
    },
    /// A file in the store.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Chunks could not be made durable.
    #[error(transparent)]
    Upload(UploadError),
}

impl TransferError {
    /// Whether no other file can fare better: the cluster is gone, or full, or the session ended.
    fn is_fatal(&self) -> bool {
        match self {
            Self::Namespace(NamespaceError::Cluster(_) | NamespaceError::SessionEnded { .. })
            | Self::Abandoned { .. } => true,
            Self::Upload(UploadError::Put { source, .. }) => !matches!(source, PutError::QuorumLost { .. }),
            _ => false,
        }
    }
}

impl From<JoinError> for TransferError {
    fn from(error: JoinError) -> Self {
        Self::Broken { reason: error.to_string() }
    }
}

impl From<UploadError> for TransferError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Namespace(error) => Self::Namespace(error),
            other => Self::Upload(other),
        }
    }
}

/// Told as the transfer goes. Called from many tasks; should return at once.
pub trait Progress: Send + Sync {
    /// More work was found.
    fn found(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// Bytes have arrived (also those of files that were skipped).
    fn advanced(&self, bytes: u64) {
        let _ = bytes;
    }
    /// A file, link or directory is done.
    fn finished(&self, path: &str, outcome: Outcome) {
        let _ = (path, outcome);
    }
    /// One could not be transferred; the others go on.
    fn failed(&self, error: &TransferError) {
        let _ = error;
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was transferred.
    Transferred,
    /// It was there and equal.
    Skipped,
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {}

/// What a transfer came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Files, links, pipes and devices transferred.
    pub files: u64,
    /// Directories made or found.
    pub directories: u64,
    /// Files that were there and equal.
    pub skipped: u64,
    /// Failures; each was told to [`Progress::failed`].
    pub failed: u64,
    /// Bytes of the files transferred.
    pub bytes: u64,
}

/// Uploads files and trees. Failures are told to `progress` and counted. Dropping the future (Ctrl-C) leaves no half
/// file under its name.
pub async fn upload(
    namespace: &Namespace,
    items: Vec<UploadItem>,
    options: &TransferOptions,
    progress: Arc<dyn Progress>,
) -> Summary {
    upload_tree::upload(namespace, items, options, progress).await
}

/// Downloads files and trees. Failures are told to `progress` and counted. A link given as an item is followed, those
/// found below are downloaded as links. Dropping the future (Ctrl-C) removes unfinished files.
pub async fn download(
    namespace: &Namespace,
    items: Vec<DownloadItem>,
    options: &TransferOptions,
    progress: Arc<dyn Progress>,
) -> Summary {
    download_tree::download(namespace, items, options, progress).await
}
