//! One local file in chunks.

use std::path::Path;

use tokio::task::spawn_blocking;
use wire::namespace::{Attr, OpAnswer};

use super::{TransferError, tally::Tally};
use crate::{
    download::{Pages, Part, Piece, fetch_piece},
    local::{self, LocalMeta, LocalSource},
    namespace::{Follow, Namespace},
    path::FilePath,
    upload::{FileWriter, NewFile, Sealed, Target},
};

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("local file work neither panics nor is aborted")
}

/// Uploads the file at `path`. The attributes of the copy are made from those that the file has when it is opened.
pub(super) async fn upload_file(
    namespace: &Namespace,
    path: &Path,
    follow: Follow,
    target: Target,
    make: impl FnOnce(&LocalMeta) -> NewFile,
    tally: &Tally,
) -> Result<(OpAnswer, u64), TransferError> {
    let failed = |error| local::failed(path, "reading it", error);
    let mut source = open(path, follow).await?;
    let end_max = source.end_max();
    let mut writer = FileWriter::new(namespace, make(&source.meta), target).await?;
    let mut at = 0;
    while at < end_max {
        let room = writer.room((end_max - at).min(u64::from(wire::CHUNK_LEN_MAX))).await;
        let (back, read) = blocking(move || {
            let read = source.read_chunk(at).map(|chunk| chunk.map(|(offset, bytes)| (offset, Sealed::new(bytes))));
            (source, read)
        })
        .await;
        source = back;
        let Some((offset, chunk)) = read.map_err(failed)? else { break };
        let next = offset + chunk.bytes().len() as u64;
        if end_max == u64::MAX {
            tally.progress().found(0, next - at);
        }
        tally.advanced(next - at);
        writer.put(offset, chunk, room).await?;
        at = next;
    }
    let len = source.len_read();
    let changed = blocking(move || source.has_changed()).await.map_err(failed)?;
    let Some(size) = len.filter(|_| !changed) else {
        return Err(TransferError::SourceChanged { path: path.to_owned() });
    };
    tally.advanced(size - at);
    Ok((writer.commit(size).await?, size))
}

async fn open(path: &Path, follow: Follow) -> Result<LocalSource, TransferError> {
    let owned = path.to_owned();
    let opened = blocking(move || LocalSource::open(&owned, follow == Follow::Yes)).await;
    opened.map_err(|error| local::failed(path, "reading it", error))
}

/// Whether the file at `path` has the same bytes as the inode `there`, by the hashes that the namespace keeps.
pub(super) async fn same_bytes(
    namespace: &Namespace,
    path: &Path,
    follow: Follow,
    there: &Attr,
    target: &FilePath,
) -> Result<bool, TransferError> {
    let failed = |error| local::failed(path, "reading it", error);
    let mut source = open(path, follow).await?;
    let (attr, content) = namespace.content(there.inode, 0, u64::MAX).await?;
    if attr.size != source.meta.size {
        return Ok(false);
    }
    let mut pages = Pages::new(namespace, target.clone(), attr, content);
    while let Some(part) = pages.next().await? {
        let pieces = match part {
            Part::Inline(bytes) => {
                let len = bytes.len() as u64;
                return Ok(blocking(move || source.read_range(0, len + 1)).await.map_err(failed)? == bytes);
            }
            Part::Pieces(pieces) => pieces,
        };
        for piece in pieces {
            let expected = match piece {
                // A part of a chunk has no hash of its own.
                Piece::Data { offset, slice } if slice.len < slice.chunk_len => {
                    let fetched = fetch_piece(namespace, &attr, offset, slice).await;
                    Some(fetched.map_err(|source| crate::NamespaceError::Read { path: target.clone(), source })?)
                }
                Piece::Data { .. } | Piece::Zeros { .. } => None,
            };
            let (back, same) = blocking(move || {
                let same = match (&expected, piece) {
                    (Some(bytes), Piece::Data { offset, .. }) => {
                        source.read_range(offset, bytes.len() as u64).map(|ours| ours == *bytes)
                    }
                    _ => same_piece(&mut source, piece),
                };
                (source, same)
            })
            .await;
            source = back;
            if !same.map_err(failed)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn same_piece(source: &mut LocalSource, piece: Piece) -> std::io::Result<bool> {
    match piece {
        Piece::Data { offset, slice } => {
            let ours = source.read_range(offset, u64::from(slice.len))?;
            Ok(ring::ChunkKey::of(&ours) == slice.key)
        }
        Piece::Zeros { offset, len } => {
            // What is a hole there may be zeros here.
            let mut at = offset;
            while at < offset + len {
                let ours = source.read_range(at, (offset + len - at).min(1 << 20))?;
                if ours.is_empty() || ours.iter().any(|&byte| byte != 0) {
                    return Ok(false);
                }
                at += ours.len() as u64;
            }
            Ok(true)
        }
    }
}
