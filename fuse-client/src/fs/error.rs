//! Why an operation of the file system failed. Each variant is another errno, or another thing to do.

use std::sync::Arc;

use wire::{Refusal, namespace::OpError};

use crate::{cluster::ClusterError, download::ReadError, session::ChangeError, upload::PutError};

/// Why an operation of the file system failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsError {
    /// The namespace refused it.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The cluster could not be asked; for a change, its fate is not known.
    #[error(transparent)]
    Cluster(Arc<ClusterError>),
    /// Bytes could not be read.
    #[error(transparent)]
    Read(Arc<ReadError>),
    /// Bytes could not be made durable.
    #[error(transparent)]
    Put(Arc<PutError>),
    /// The session ended while the operation was under way.
    #[error("the session with the cluster ended meanwhile")]
    SessionEnded,
    /// The session ended, and with it a lock on the file that was held here: others may have had it since.
    #[error("locks held on the file were lost with the session; it must be closed and opened again")]
    LocksLost,
    /// Somebody else changed the file while bytes written here were not committed: they are lost.
    #[error("the file was changed elsewhere before what was written here could be stored")]
    Overtaken,
    /// The operation took longer than any may.
    #[error("the cluster did not answer in time")]
    Deadline,
    /// A name that is none: empty, too long, or with a slash.
    #[error("the name is too long")]
    NameTooLong,
    /// Not a file, not open, a negative length.
    #[error("invalid argument")]
    Invalid,
    /// The operation is not supported.
    #[error("not supported")]
    Unsupported,
    /// The caller has a signal pending.
    #[error("interrupted")]
    Interrupted,
    /// Everybody in a circle waits for a lock of the next.
    #[error("the lock would be waited for for ever: its holder waits for one of the caller")]
    Deadlock,
    /// Nothing is there: `SEEK_DATA` and `SEEK_HOLE` beyond the end.
    #[error("no such device or address")]
    NothingThere,
    /// More room was asked for than there is free.
    #[error("more room is asked for than the cluster has free")]
    TooMuchAsked,
    /// More files open than the mount allows.
    #[error("too many open files in this mount")]
    TooManyOpen,
}

impl FsError {
    /// Whether the leader looked at the change and will not have it.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Cluster(error) if error.is_final())
    }

    /// Whether the cluster has no room: there may be some later.
    pub(crate) fn is_no_room(&self) -> bool {
        match self {
            Self::Put(error) => matches!(**error, PutError::NoSpace),
            Self::Cluster(error) => matches!(**error, ClusterError::Refused(Refusal::DiskFull)),
            _ => false,
        }
    }
}

impl From<ClusterError> for FsError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Arc::new(error))
    }
}

impl From<ReadError> for FsError {
    fn from(error: ReadError) -> Self {
        Self::Read(Arc::new(error))
    }
}

impl From<PutError> for FsError {
    fn from(error: PutError) -> Self {
        Self::Put(Arc::new(error))
    }
}

impl From<ChangeError> for FsError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Op(error) => Self::Op(error),
            ChangeError::Cluster(error) => Self::Cluster(error),
            ChangeError::SessionEnded => Self::SessionEnded,
        }
    }
}
