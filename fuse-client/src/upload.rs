//! The story of an upload: split, hash, place, put, commit.
//!
//! # Invariants
//! - Nothing stands under the name until every byte is stable on its write quorum; then all of it does, at once.
//! - The bytes in memory are bounded by the cluster's upload pool, whatever the size of the file.
//!
//! # Not here
//! Trees and local files (`transfer`).

mod file_writer;
mod put;
mod quorum_write;
mod splitter;

use std::io;

use tokio::io::AsyncRead;
use wire::{
    CHUNK_LEN_MAX,
    namespace::{Attr, Mode, NewGroup, Replace, Times},
};

pub(crate) use file_writer::{FileWriter, NewFile, Target};
pub use put::PutError;
pub(crate) use put::{Sealed, Stamped, await_newer_map, put_chunk};
pub use quorum_write::Durable;
use splitter::Splitter;

use crate::{
    namespace::{Follow, Namespace, NamespaceError},
    path::FilePath,
};

/// What an uploaded file should be like.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// Permission bits.
    pub mode: Mode,
    /// atime and mtime; the cluster's time if none.
    pub times: Option<Times>,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self { mode: Mode::new(0o644), times: None }
    }
}

/// Why nothing was stored under the name.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A file operation failed.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A chunk could not be made durable.
    #[error("{path}: {source}")]
    Put {
        /// Of which file.
        path: FilePath,
        /// Why.
        source: PutError,
    },
    /// The source could not be read.
    #[error("reading the source of {path}: {source}")]
    Source {
        /// Of which file.
        path: FilePath,
        /// Why.
        source: io::Error,
    },
}

/// Stores what `source` gives under `path`, replacing a file there, once all of it is stable. A link at `path` is
/// followed.
pub async fn upload(
    namespace: &Namespace,
    path: &FilePath,
    source: impl AsyncRead + Send + Unpin,
    options: &UploadOptions,
) -> Result<Attr, UploadError> {
    let mut chunks = Splitter::new(source);
    let mut file = writer(namespace, path, options).await?;
    loop {
        let room = file.room(u64::from(CHUNK_LEN_MAX)).await;
        let next = chunks.next().await.map_err(|source| UploadError::Source { path: path.clone(), source })?;
        match next {
            Some((offset, chunk)) => file.put(offset, chunk, room).await?,
            None => break,
        }
    }
    let answer = file.commit(chunks.offset()).await?;
    Ok(namespace.attr_after(path, answer).await?)
}

/// A writer for the file at `path`, if the caller may make or replace it.
async fn writer(namespace: &Namespace, path: &FilePath, options: &UploadOptions) -> Result<FileWriter, NamespaceError> {
    let place = namespace.place_at(path, Follow::Yes).await?;
    namespace.may_fill(path, &place, Replace::File)?;
    let caller = namespace.caller();
    let file = NewFile {
        mode: options.mode,
        uid: caller.uid,
        gid: NewGroup::Caller(caller.gid),
        times: options.times,
        xattrs: Vec::new(),
    };
    let target = Target { path: path.clone(), dir: place.dir.inode, name: place.name, after: None };
    FileWriter::new(namespace, file, target).await
}
