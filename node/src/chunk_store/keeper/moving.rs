//! The keeper's part in compaction: what is still needed of a segment is decided here, at the moment it is copied.
//!
//! # Invariants
//! - A copy carries the version of its original, so a deletion that came between them still wins.
//! - A deletion's record is copied while another file holds a shadow of its chunk, and only then.

use ring::ChunkKey;
use tracing::debug;
use wire::tree::VerifiedChunk;

use super::super::error::PutError;
use super::super::index::{Fold, Phase};
use super::super::row::{Row, State};
use super::super::segment::{Body, Entry, Origin, SegmentRecord};
use super::{Keeper, commit};
use crate::append_log::{FileId, FileState};
use crate::kv::KvError;

/// What became of a record of a segment that is to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Moved {
    /// Nobody needs it.
    Dead,
    /// It has a copy.
    Copied,
    /// It is the living record of a chunk whose bytes did not come along.
    BytesNeeded,
}

/// A segment, for who chooses which one to compact.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) struct Segment {
    pub(in super::super) file: FileId,
    pub(in super::super) state: FileState,
    pub(in super::super) len: u64,
    /// Bytes that must stay.
    pub(in super::super) live: u64,
}

impl Keeper {
    pub(super) async fn move_record(
        &mut self,
        record: &SegmentRecord,
        chunk: Option<VerifiedChunk>,
    ) -> Result<Moved, PutError> {
        self.make_ready().await?;
        let Some(row) = self.row(&record.key)? else { return Ok(Moved::Dead) };
        let origin = Origin::CopyOf(record.version);
        let (entry, new) = match &row.state {
            State::Held(held) if held.at == record.at => {
                let Some(chunk) = chunk else { return Ok(Moved::BytesNeeded) };
                Entry::chunk(&chunk, held.stamp, origin)
            }
            State::Held(held) if held.stamp_at == record.at => {
                let entry = Entry { key: record.key, stamp: held.stamp, origin, body: Body::Stamp };
                (entry, entry.small())
            }
            State::Deleted { at } if *at == record.at && self.is_needed(&row, record.at.file) => {
                let entry = Entry { key: record.key, stamp: record.stamp, origin, body: Body::Delete };
                (entry, entry.small())
            }
            State::Held(_) | State::Deleted { .. } => return Ok(Moved::Dead),
        };
        self.append(entry, new, Some(row)).await?;
        Ok(Moved::Copied)
    }

    /// Whether a file other than `file` could bring the deleted chunk back.
    fn is_needed(&self, row: &Row, file: FileId) -> bool {
        let mut others = row.shadows.iter().filter(|shadow| **shadow != file).peekable();
        if others.peek().is_none() {
            return false;
        }
        let files = self.shared.log.files();
        others.any(|shadow| files.iter().any(|info| info.id == *shadow))
    }

    pub(super) fn unlist(&mut self, keys: &[ChunkKey], file: FileId) -> Result<(), KvError> {
        let mut fold = Fold::new(&self.shared.index, Phase::Built, &self.tally);
        for key in keys {
            fold.change(key, |row| {
                row.filter(|row| {
                    let here = matches!(row.state, State::Deleted { at } if at.file == file);
                    !here || self.is_needed(row, file)
                })
            })?;
        }
        commit(fold, &self.shared, &mut self.tally)
    }

    pub(super) fn prune(&mut self, keys: &[ChunkKey]) -> Result<(), KvError> {
        let mut fold = Fold::new(&self.shared.index, Phase::Built, &self.tally);
        for key in keys {
            // The commit itself drops shadows that are gone.
            fold.change(key, |row| row)?;
        }
        commit(fold, &self.shared, &mut self.tally)
    }

    pub(super) fn forget_file(&mut self, file: FileId) -> Result<(), KvError> {
        debug!(%file, "a segment is gone");
        self.shared.index.forget_file(file, &mut self.tally)
    }

    pub(super) fn segments(&self) -> Vec<Segment> {
        let live = |file| self.tally.live.get(&file).copied().unwrap_or(0);
        let segment = |info: crate::append_log::FileInfo| Segment {
            file: info.id,
            state: info.state,
            len: info.len,
            live: live(info.id),
        };
        self.shared.log.files().into_iter().map(segment).collect()
    }
}
