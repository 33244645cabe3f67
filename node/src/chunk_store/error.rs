//! What can go wrong, one enum per kind of operation.

use std::io;
use std::sync::Arc;

use ring::ChunkKey;

use super::segment::UnknownRecord;
use crate::append_log;
use crate::kv::KvError;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log of segments cannot be opened.
    #[error("cannot open the segments")]
    Log {
        /// What the log says.
        #[from]
        source: append_log::OpenError,
    },
    /// A segment cannot be listed.
    #[error("cannot list a segment")]
    Read {
        /// What the log says.
        #[from]
        source: append_log::ReadError,
    },
    /// A segment was written by a later version of this program.
    #[error("a segment holds records that this program does not know")]
    Unknown {
        /// The first of them.
        #[from]
        source: UnknownRecord,
    },
    /// The index failed: removing it makes the next open build another.
    #[error("the index of the chunk store failed")]
    Index {
        /// What the key-value store says.
        #[from]
        source: KvError,
    },
}

/// Why a put, a stamp or a deletion was not accepted, or is not stable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PutError {
    /// No room: puts are refused until compaction or somebody else has made some. For stamps and deletions this means
    /// that even the reserve is used up.
    #[error("no room for more chunks: {free} bytes free")]
    Full {
        /// What an ordinary put may still use.
        free: u64,
    },
    /// Another segment is needed and may not be opened.
    #[error("this process may open no more files: raise its limit (LimitNOFILE, ulimit -n)")]
    TooManyFiles,
    /// The chunk is longer than a segment: a mistake of configuration.
    #[error("a chunk does not fit into a segment")]
    TooLarge,
    /// The disk failed. Nothing that was accepted before and is not stable may be relied on; the store reopens its log
    /// by itself and then accepts puts again, in a new incarnation.
    #[error("the disk of the chunk store failed")]
    Failed {
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// The index failed.
    #[error("the index of the chunk store failed")]
    Index {
        /// What the key-value store says.
        source: Arc<KvError>,
    },
    /// The store is shutting down.
    #[error("the chunk store is closed")]
    Closed,
}

/// Why nothing new is stable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// The disk failed: what was accepted and is not stable must be put again.
    #[error("the disk of the chunk store failed")]
    Failed {
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// The store is shutting down.
    #[error("the chunk store is closed")]
    Closed,
}

/// Why a range of a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not held, or not stable yet: ask another replica.
    #[error("{key} is not held here")]
    UnknownChunk {
        /// The chunk asked for.
        key: ChunkKey,
    },
    /// The range has no byte of the chunk.
    #[error("{key} has {chunk_len} bytes, none of them in the range asked for")]
    OutOfRange {
        /// The chunk asked for.
        key: ChunkKey,
        /// Its length.
        chunk_len: u32,
    },
    /// The copy is bad. It has been given up, and repair is told to fetch another.
    #[error("the copy of {key} is damaged")]
    Damaged {
        /// The chunk asked for.
        key: ChunkKey,
    },
    /// The disk failed: ask another replica.
    #[error("cannot read {key}")]
    Disk {
        /// The chunk asked for.
        key: ChunkKey,
        /// What the log says.
        source: append_log::ReadError,
    },
    /// The index failed.
    #[error("the index of the chunk store failed")]
    Index {
        /// What the key-value store says.
        #[from]
        source: KvError,
    },
}

/// Why a page of keys, or a segment to compact, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The index failed.
    #[error("the index of the chunk store failed")]
    Index {
        /// What the key-value store says.
        #[from]
        source: KvError,
    },
    /// The store is shutting down.
    #[error("the chunk store is closed")]
    Closed,
}

/// Why a copy could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The copy is bad, and could not be given up.
    #[error("the copy of {key} is damaged, and that cannot be recorded")]
    NotDropped {
        /// The chunk.
        key: ChunkKey,
        /// What stood in the way.
        source: PutError,
    },
    /// The index failed.
    #[error("the index of the chunk store failed")]
    Index {
        /// What the key-value store says.
        #[from]
        source: KvError,
    },
}

/// Why a compaction step stopped. What it copied so far is good, and its segment stays; the next step goes on.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The disk failed under the copies, or even the reserve is full.
    #[error("a copy was not accepted")]
    Copy {
        /// Why.
        #[from]
        source: PutError,
    },
    /// The copies are not stable.
    #[error("the copies are not stable")]
    Sync {
        /// Why.
        #[from]
        source: SyncError,
    },
    /// The segment cannot be read or removed.
    #[error("the segment cannot be read or removed")]
    Segment {
        /// What the log says.
        #[from]
        source: append_log::ReadError,
    },
    /// The segment holds records of a later version.
    #[error("the segment holds records that this program does not know")]
    Unknown {
        /// The first of them.
        #[from]
        source: UnknownRecord,
    },
    /// The index failed.
    #[error("the index of the chunk store failed")]
    Index {
        /// What the key-value store says.
        #[from]
        source: KvError,
    },
    /// The store is shutting down.
    #[error("the chunk store is closed")]
    Closed,
}

impl From<append_log::AppendError> for PutError {
    fn from(error: append_log::AppendError) -> Self {
        match error {
            append_log::AppendError::NoRoom { free, .. } => Self::Full { free },
            append_log::AppendError::TooManyFiles => Self::TooManyFiles,
            append_log::AppendError::TooLarge { .. } => Self::TooLarge,
            append_log::AppendError::Failed { source } => Self::Failed { source },
            append_log::AppendError::Closed => Self::Closed,
        }
    }
}

impl From<append_log::SyncError> for SyncError {
    fn from(error: append_log::SyncError) -> Self {
        match error {
            append_log::SyncError::Failed { source } => Self::Failed { source },
            lost @ append_log::SyncError::Lost { .. } => Self::Failed { source: Arc::new(io::Error::other(lost)) },
            append_log::SyncError::Closed => Self::Closed,
        }
    }
}

impl From<SyncError> for PutError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Failed { source } => Self::Failed { source },
            SyncError::Closed => Self::Closed,
        }
    }
}

impl From<KvError> for PutError {
    fn from(error: KvError) -> Self {
        Self::Index { source: Arc::new(error) }
    }
}
