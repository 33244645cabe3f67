//! Reading copies: whole and hashed, or ranges with what proves them.
//!
//! # Invariants
//! - A copy is called bad only after its bytes were read and found wrong, again and again.
//! - A bad copy, or one that cannot be read, counts as not held, so that another comes in its place; but what of it can be
//!   read and proved is handed out until then. It may be the last there is.
//!
//! # Not here
//! When to check which chunk (the node's scrub); where another copy comes from (repair).

use std::ops::Range;

use bytes::Bytes;
use ring::{ChunkKey, GcEpoch};
use tracing::warn;
use wire::tree::{ChunkTree, ReceivedChunk, VerifiedChunk, widen};

use super::ChunkStore;
use super::error::{CheckError, PutError, ReadError};
use super::keeper::Command;
use super::row::Held;
use super::segment::payload_len;
use crate::append_log::{self, Position, Source};

/// Reads of one record that must fail before it counts as unreadable, or as bad: a bus reset passes, a bad sector stays.
const TRIES: usize = 3;

/// How often a copy may be moved away under a reader: each time means that compaction finished a segment meanwhile.
const MOVES_MAX: usize = 4;

/// A record up to this length is read in one piece, even for a part of it: the second read would cost more.
const ONE_READ_LEN: u64 = 64 << 10;

/// A range of a chunk, widened to whole groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChunkRange {
    /// Length of the whole chunk.
    pub chunk_len: u32,
    /// First byte of the range.
    pub offset: u32,
    /// What leads from the range to the key, see `wire::tree`; empty for a whole chunk.
    pub proof: Bytes,
    /// The bytes: not hashed here, whoever gets them does that.
    pub data: Bytes,
    /// Stamp of the copy.
    pub gc: GcEpoch,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checked {
    /// The bytes are those that the key names, and so is the tree.
    Good,
    /// They are not. The copy stays until another is put in its place; repair has been told.
    Damaged,
    /// The medium gives no bytes; they may be good. The copy stays likewise.
    Unreadable,
    /// No stable copy is held.
    Unknown,
}

/// A copy that was read whole.
pub(super) enum Copy {
    Good(VerifiedChunk),
    Bad,
    Unreadable,
    /// Its segment is gone: the chunk was moved, or deleted.
    Gone,
}

impl ChunkStore {
    pub(super) async fn read_range(&self, key: &ChunkKey, offset: u32, len: u32) -> Result<ChunkRange, ReadError> {
        let mut failure = None;
        for _ in 0..MOVES_MAX {
            let Some(held) = self.shared().stable_copy(key)? else { break };
            let chunk_len = held.len;
            let whole = (chunk_len == 0 && offset == 0).then_some(0..0);
            let range = whole.or_else(|| widen(chunk_len, offset, len));
            let range = range.ok_or(ReadError::OutOfRange { key: *key, chunk_len })?;
            match self.read_held(&held, &range).await {
                Ok((data, proof)) => {
                    return Ok(ChunkRange { chunk_len, offset: range.start, proof, data, gc: held.stamp });
                }
                Err(append_log::ReadError::NoFile { .. }) => {}
                Err(append_log::ReadError::Damaged { .. } | append_log::ReadError::OutOfRange { .. }) => {
                    if self.shared().is_bad(key) {
                        return Err(ReadError::Damaged { key: *key });
                    }
                    match self.check_copy(key).await {
                        Ok(Checked::Good | Checked::Unreadable) => {}
                        Ok(Checked::Unknown) => break,
                        Ok(Checked::Damaged) => return Err(ReadError::Damaged { key: *key }),
                        Err(error) => {
                            warn!(%key, %error, "a damaged copy cannot be given up");
                            return Err(ReadError::Damaged { key: *key });
                        }
                    }
                }
                Err(source) => failure = Some(source),
            }
        }
        Err(match failure {
            Some(source) => ReadError::Disk { key: *key, source },
            None => ReadError::UnknownChunk { key: *key },
        })
    }

    async fn read_held(&self, held: &Held, range: &Range<u32>) -> Result<(Bytes, Bytes), append_log::ReadError> {
        let log = &self.shared().log;
        if *range == (0..held.len) {
            return Ok((log.read(held.at, 0..held.len).await?, Bytes::new()));
        }
        let damaged = append_log::ReadError::Damaged { position: held.at };
        let payload_len = payload_len(held.len);
        let end = u32::try_from(payload_len).map_err(|_| append_log::ReadError::Damaged { position: held.at })?;
        let (data, tree) = if payload_len <= ONE_READ_LEN {
            let payload = log.read(held.at, 0..end).await?;
            (payload.slice(range.start as usize..range.end as usize), payload.slice(held.len as usize..))
        } else {
            let (data, tree) = (log.read(held.at, range.clone()), log.read(held.at, held.len..end));
            futures::future::try_join(data, tree).await?
        };
        let tree = ChunkTree::from_stored(held.len, &tree).map_err(|_| damaged)?;
        Ok((data, Bytes::from(tree.proof(range))))
    }

    pub(super) async fn check_copy(&self, key: &ChunkKey) -> Result<Checked, CheckError> {
        for _ in 0..MOVES_MAX {
            let Some(held) = self.shared().stable_copy(key)? else { return Ok(Checked::Unknown) };
            match self.read_copy(key, held.at, held.len).await {
                Copy::Good(_) => {
                    if self.shared().is_bad(key) {
                        self.shared().note_mended(key);
                    }
                    return Ok(Checked::Good);
                }
                Copy::Gone => {}
                Copy::Unreadable => {
                    self.shared().note_damaged(*key);
                    return Ok(Checked::Unreadable);
                }
                Copy::Bad => {
                    let dropped = self.keep_bad(*key, held.at).await;
                    return match dropped {
                        Ok(()) => Ok(Checked::Damaged),
                        Err(source) => Err(CheckError::NotDropped { key: *key, source }),
                    };
                }
            }
        }
        Ok(Checked::Unknown)
    }

    /// Reads a record whole, from the medium, and hashes it; its tree must be the right one too, or ranges could not be
    /// proved. Bad is only what was read so [`TRIES`] times: memory and cables have bad moments as well.
    pub(super) async fn read_copy(&self, key: &ChunkKey, at: Position, chunk_len: u32) -> Copy {
        let mut bad = 0;
        for _ in 0..TRIES {
            match self.shared().log.read_record(at, Source::Medium).await {
                Ok((_, payload)) => match sound(key, chunk_len, &payload) {
                    Some(chunk) => return Copy::Good(chunk),
                    None => bad += 1,
                },
                Err(append_log::ReadError::Damaged { .. }) => bad += 1,
                Err(append_log::ReadError::NoFile { .. }) => return Copy::Gone,
                Err(error) => warn!(%key, %error, "a record cannot be read"),
            }
        }
        if bad == TRIES { Copy::Bad } else { Copy::Unreadable }
    }

    /// A copy was found bad: from now on it counts as not held. Only where too many are known to be so it is given up.
    pub(super) async fn keep_bad(&self, key: ChunkKey, at: Position) -> Result<(), PutError> {
        if !self.shared().is_bad(&key) {
            warn!(%key, %at, "a copy is damaged");
        }
        if self.shared().note_damaged(key) {
            return Ok(());
        }
        self.ask(|reply| Command::Drop { key, at, reply }).await.ok_or(PutError::Closed)??;
        Ok(())
    }
}

/// The chunk in a record's payload, if it is what the key names.
fn sound(key: &ChunkKey, chunk_len: u32, payload: &Bytes) -> Option<VerifiedChunk> {
    if payload.len() as u64 != payload_len(chunk_len) {
        return None;
    }
    let (bytes, stored) = (payload.slice(..chunk_len as usize), payload.slice(chunk_len as usize..));
    let chunk = ReceivedChunk::new(bytes).verify(*key).ok()?;
    (chunk.tree().to_stored() == stored).then_some(chunk)
}
