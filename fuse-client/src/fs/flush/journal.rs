//! What somebody waits for and is short goes with its bytes into the log: one wait instead of two.

use std::{sync::Arc, time::Duration};

use ring::ChunkKey;
use wire::namespace::{
    Attr, ChunkSlice, Extent, ExtentBody, JOURNALED_LEN_MAX, JournaledChunk, JournaledPart, Op, OpError, SetId, SetTime,
};

use crate::{
    cluster::now,
    fs::{FsError, Shared, dirty::Packed, file::File},
};

/// Whether bytes may go into the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::fs) enum Journal {
    /// Nobody waits: their replicas get them first, and the log stays short.
    No,
    /// If they are few.
    IfShort,
}

/// How long bytes go the long way after a refusal: the journal makes room within a second or two.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

impl Shared {
    /// Commits a short chunk together with its bytes; false if it is too long for that, or there is no room.
    pub(super) async fn commit_journaled(
        &self,
        file: &Arc<File>,
        attr: &Attr,
        packed: &Packed,
        (modified, set_id): (SetTime, SetId),
    ) -> Result<bool, FsError> {
        let Packed { bytes, parts } = packed;
        let is_barred = self.no_journal_until.lock().is_some_and(|until| now() < until);
        if bytes.len() > JOURNALED_LEN_MAX || is_barred {
            return Ok(false);
        }
        let key = ChunkKey::of(bytes);
        let chunk_len = u32::try_from(bytes.len()).expect("a journaled chunk is short");
        let extent = |part: &JournaledPart| {
            let slice = ChunkSlice { key, chunk_len, offset: part.chunk_offset, len: part.len };
            Extent { offset: part.offset, body: ExtentBody::Chunk(slice) }
        };
        let extents: Vec<Extent> = parts.iter().map(extent).collect();
        let op = Op::WriteJournaled {
            inode: file.inode,
            chunk: JournaledChunk { bytes: bytes.to_vec(), key },
            parts: parts.clone(),
            if_version: Some(attr.data_version),
            modified,
            set_id,
        };
        match self.commit_op(op).await {
            Ok(answer) => {
                self.chunks.keep(key, bytes.clone());
                self.committed(file, attr.data_version, &answer, |state| state.note_extents(attr, &answer, &extents));
                Ok(true)
            }
            Err(FsError::Op(OpError::JournalFull)) => {
                *self.no_journal_until.lock() = Some(now() + AFTER_REFUSAL);
                Ok(false)
            }
            // So many extents lie there that they have to be replaced in several steps.
            Err(FsError::Op(OpError::TooLarge)) => Ok(false),
            Err(FsError::Op(OpError::VersionChanged)) => Err(FsError::Overtaken),
            Err(error) => Err(error),
        }
    }
}
