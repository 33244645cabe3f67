//! Why a file operation failed.

use std::sync::Arc;

use wire::namespace::OpError;

use crate::{cluster::ClusterError, download::ReadError, path::FilePath, session::ChangeError};

/// Why a file operation failed. Each is one line for a person, with the path in it.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The namespace refused.
    #[error("{path}: {source}")]
    Op {
        /// On what.
        path: FilePath,
        /// Why.
        source: OpError,
    },
    /// The caller may not.
    #[error("{path}: permission denied")]
    Denied {
        /// On what.
        path: FilePath,
    },
    /// More than 40 links on the way.
    #[error("{path}: too many levels of symbolic links")]
    Loop {
        /// On what.
        path: FilePath,
    },
    /// A directory was to be moved or copied into itself, or below.
    #[error("{path}: a directory cannot go into itself")]
    IntoItself {
        /// The directory.
        path: FilePath,
    },
    /// What was to be replaced is what was to take its place.
    #[error("{path}: is the same file")]
    SameFile {
        /// Which.
        path: FilePath,
    },
    /// Something was to be written through a link whose target does not exist.
    #[error("{path}: a link that leads nowhere is in the way")]
    Dangling {
        /// The link.
        path: FilePath,
    },
    /// Directories have one name.
    #[error("{path}: a directory has no hard links; make a symbolic one")]
    DirectoryLink {
        /// The directory.
        path: FilePath,
    },
    /// The source changed while it was copied.
    #[error("{path}: changed during copy; copy it again")]
    ChangedDuringCopy {
        /// The source.
        path: FilePath,
    },
    /// The bytes could not be read.
    #[error("{path}: {source}")]
    Read {
        /// On what.
        path: FilePath,
        /// Why.
        source: ReadError,
    },
    /// The session ended: what was asked may or may not have happened.
    #[error("{path}: the session with the cluster ended; run the command again")]
    SessionEnded {
        /// On what.
        path: FilePath,
    },
    /// The cluster could not be asked.
    #[error(transparent)]
    Cluster(#[from] Arc<ClusterError>),
}

impl NamespaceError {
    /// The namespace refused, on `path`.
    pub(crate) fn op(path: &FilePath, source: OpError) -> Self {
        Self::Op { path: path.clone(), source }
    }

    /// A change of `path` failed.
    pub fn change(path: &FilePath, error: ChangeError) -> Self {
        match error {
            ChangeError::Op(source) => Self::op(path, source),
            ChangeError::Cluster(error) => Self::Cluster(error),
            ChangeError::SessionEnded => Self::SessionEnded { path: path.clone() },
        }
    }

    /// Whether it says that there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Op { source: OpError::NotFound, .. })
    }

    /// Whether nothing else can fare better: the cluster is gone, or the session ended.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Cluster(_) | Self::SessionEnded { .. })
    }

    /// Whether it says that there is nothing any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Op { source: OpError::NotFound | OpError::StaleInode, .. })
    }

    /// A node gave an answer to another question.
    pub(crate) fn confused() -> Self {
        Self::Cluster(Arc::new(ClusterError::Confused))
    }
}

impl From<ClusterError> for NamespaceError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Arc::new(error))
    }
}
