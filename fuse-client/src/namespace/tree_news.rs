//! What is told while a tree is copied or removed.

use super::NamespaceError;
use crate::path::FilePath;

/// What became of one entry of a tree.
#[derive(Debug)]
pub enum TreeNews {
    /// It was copied, or removed.
    Done,
    /// It was not; the others go on.
    Failed {
        /// Which: of a copy, the original.
        path: FilePath,
        /// Why not.
        error: NamespaceError,
    },
}
