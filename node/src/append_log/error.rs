//! What can go wrong, one enum per operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{FileId, Position};

/// Why [`super::AppendLog::open`] failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The medium refused.
    #[error("cannot open the log in {}", dir.display())]
    Disk {
        /// Directory of the log.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of a format this program does not know: nothing was changed.
    #[error("{} has format version {version}, this program reads {known}; run the version that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u8,
        /// The highest known.
        known: u8,
    },
}

/// Why a record was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The payload is longer than any record may be: a mistake of the caller.
    #[error("a record of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Length of the payload.
        len: u64,
        /// [`super::PAYLOAD_LEN_MAX`].
        max: u64,
    },
    /// The disk, or the configured capacity less the reserve, is full. Nothing is lost; the log goes on when there is room.
    #[error("no room for another file of the log: {free} bytes free, {needed} needed")]
    NoRoom {
        /// What this append might have used.
        free: u64,
        /// What a new file takes.
        needed: u64,
    },
    /// Another file is needed and may not be opened. Nothing is lost; the log goes on when it may.
    #[error("this process may open no more files")]
    TooManyFiles,
    /// A write or sync failed: [`super::AppendLog::reopen`] first.
    #[error("the log has failed and must be reopened")]
    Failed {
        /// The failure.
        source: Arc<io::Error>,
    },
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Why a sync did not happen. In each case nothing appended since the last good sync may be believed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// A write or sync failed: [`super::AppendLog::reopen`], then append again.
    #[error("the log has failed and must be reopened")]
    Failed {
        /// The failure.
        source: Arc<io::Error>,
    },
    /// The log failed since the record was appended, and has cut it: append again.
    #[error("the record at {position} was lost in a failed sync")]
    Lost {
        /// Where it was.
        position: Position,
    },
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Why a record or a file cannot be read, removed or recycled.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is not, or no longer, of this log.
    #[error("the log has no file {file}")]
    NoFile {
        /// The file asked for.
        file: FileId,
    },
    /// The file still grows: seal it first.
    #[error("file {file} is still written to")]
    Active {
        /// The file asked for.
        file: FileId,
    },
    /// The range lies outside of the payload: a mistake of the caller.
    #[error("the record at {position} has no bytes up to {end}")]
    OutOfRange {
        /// The record.
        position: Position,
        /// End of the range.
        end: u32,
    },
    /// There is no valid record at this position.
    #[error("the record at {position} is damaged")]
    Damaged {
        /// Where it should be.
        position: Position,
    },
    /// The medium refused.
    #[error("cannot read file {file} of the log")]
    Disk {
        /// The file.
        file: FileId,
        /// What the system said.
        source: io::Error,
    },
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Why the log still cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReopenError {
    /// The medium still refuses: try again later, or give the directory up.
    #[error("the log cannot be reopened")]
    Disk {
        /// What the system said.
        source: io::Error,
    },
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
}
