//! Journaled chunks: their bytes came with the commit, and stay here until their replicas have them.
//!
//! An fsync of a few pages would wait twice: for the replicas of the chunk, then for the log. So the bytes of a short chunk
//! may travel in the log (data journaling, as `data=journal` of ext4 and the deferred writes of BlueStore). They are as
//! stable as the commit itself. A *checkpoint* puts the chunk where it belongs, and takes the bytes out.
//!
//! # Invariants
//! - A chunk that a file refers to is stable with its replicas, or its bytes are here.
//! - Bytes of a chunk that a file refers to leave only with the proof that any commit carries: the epoch and the stamp of
//!   a put to the write quorum.
//! - The tally is the sum of the rows, and never beyond its limits.
//!
//! # Not here
//! Who puts the chunks, and when (`checkpoint`).

use ring::{ChunkKey, Epoch, GcEpoch};
use serde::{Deserialize, Serialize};
use wire::namespace::{
    ChunkSlice, Inode, JOURNALED_LEN_MAX, JournaledChunk, JournaledPart, NewExtent, OpError, SetId, SetTime,
};

use super::{
    LogIndex,
    command::CommandOutcome,
    edit::{Edit, Fault, collect_with},
    row::{self, InodeRow, MetaRow},
    table,
};
use crate::kv::{KvError, KvRead};

/// Journaled chunks at once: what fsyncs of single pages bring in some seconds.
pub const JOURNALED_MAX: u64 = 8192;

/// Their bytes: a snapshot of the namespace and the memory of a reader of the rows grow by no more.
pub(super) const JOURNALED_BYTES_MAX: u64 = 32 << 20;

/// Chunks that one command takes out.
pub const CHECKPOINT_MAX: usize = 256;

/// The bytes of a chunk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct JournaledRow {
    /// Index of the log that brought it.
    index: u64,
    chunk: JournaledChunk,
}

/// What the journaled chunks amount to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct JournalTally {
    /// Rows.
    pub chunks: u64,
    /// Bytes of their chunks.
    pub bytes: u64,
}

impl JournalTally {
    /// Whether it is worth the effort to make room at once.
    pub fn is_half_full(&self) -> bool {
        self.chunks > JOURNALED_MAX / 2 || self.bytes > JOURNALED_BYTES_MAX / 2
    }

    fn has_room(&self, len: u64) -> bool {
        self.chunks < JOURNALED_MAX && self.bytes + len <= JOURNALED_BYTES_MAX
    }
}

/// A journaled chunk that is to be checkpointed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Journaled {
    /// Which, with its bytes.
    pub chunk: JournaledChunk,
    /// Whether a file refers to it.
    pub is_named: bool,
}

/// Why a journaled chunk may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Checkpointed {
    /// Its write quorum has it on stable storage.
    Stable {
        /// Epoch of the map that the quorum was taken from.
        epoch: Epoch,
        /// Stamp of the puts.
        gc: GcEpoch,
    },
    /// No file referred to it when it was looked at: if one does now, it stays.
    Unnamed,
}

/// What the journaled chunks amount to.
pub fn journal_tally(rows: &dyn KvRead) -> Result<JournalTally, KvError> {
    Ok(row::read(rows, &table::single(table::JOURNAL_TALLY))?.unwrap_or_default())
}

/// The bytes of a chunk, if they are here.
pub fn journaled(rows: &dyn KvRead, key: ChunkKey) -> Result<Option<JournaledChunk>, KvError> {
    let row: Option<JournaledRow> = row::read(rows, &table::journaled(&key))?;
    Ok(row.map(|row| row.chunk))
}

/// The first `limit` chunks behind `after` that were brought at or before an index of the log: one for chunks that a file
/// refers to, one for the others, which is not higher.
pub fn journal_page(
    rows: &dyn KvRead,
    after: Option<ChunkKey>,
    (named, unnamed): (LogIndex, LogIndex),
    limit: usize,
) -> Result<Vec<Journaled>, KvError> {
    let (first, end) = table::rows_of_table(table::JOURNALED);
    let from = after.map_or(first, |after| [table::journaled(&after), vec![0]].concat());
    // The index is the first field of the row: most are not looked at any further.
    let read = |key: &[u8], value: &[u8]| {
        let index: u64 = row::decode(key, value)?;
        if index > named.0 {
            return Ok(None);
        }
        let Some(chunk) = table::last_chunk(key) else { return Ok(None) };
        let is_named = rows.get(&table::chunk(&chunk))?.is_some();
        if !is_named && index > unnamed.0 {
            return Ok(None);
        }
        let row: JournaledRow = row::decode(key, value)?;
        Ok(Some(Journaled { chunk: row.chunk, is_named }))
    };
    collect_with(rows, &from, &end, limit, read)
}

impl Edit<'_> {
    /// Maps ranges of a file to parts of a chunk whose bytes are here.
    pub(super) fn write_journaled(
        &mut self,
        inode: Inode,
        (chunk, parts): (&JournaledChunk, &[JournaledPart]),
        if_version: Option<u64>,
        modified: SetTime,
        set_id: SetId,
    ) -> Result<InodeRow, Fault> {
        if chunk.bytes.len() > JOURNALED_LEN_MAX || !chunk.is_sound() {
            return Err(OpError::Unsound.into());
        }
        // Without a ring there is nowhere to put it, ever, that anybody knows of.
        let meta: Option<MetaRow> = self.read(&table::single(table::META))?;
        let meta = meta.filter(|meta| meta.bits.is_some()).ok_or(OpError::JournalFull)?;
        let gc = self.gc_current()?;
        let chunk_len = u32::try_from(chunk.bytes.len()).expect("a journaled chunk is short");
        let extent = |part: &JournaledPart| NewExtent {
            offset: part.offset,
            slice: ChunkSlice { key: chunk.key, chunk_len, offset: part.chunk_offset, len: part.len },
            // As if it were put now.
            epoch: meta.epoch,
            gc,
        };
        let extents: Vec<NewExtent> = parts.iter().map(extent).collect();
        let row = self.write_extents(inode, &extents, if_version, modified, set_id)?;
        self.keep_journaled(chunk)?;
        Ok(row)
    }

    /// Also bytes that replicas are known to have: should they have lost them, whoever writes them again mends it.
    fn keep_journaled(&mut self, chunk: &JournaledChunk) -> Result<(), Fault> {
        let key = table::journaled(&chunk.key);
        if self.exists(&key)? {
            return Ok(());
        }
        let len = chunk.bytes.len() as u64;
        let tally = journal_tally(self)?;
        if !tally.has_room(len) {
            return Err(OpError::JournalFull.into());
        }
        let tally = JournalTally { chunks: tally.chunks + 1, bytes: tally.bytes + len };
        self.put(table::single(table::JOURNAL_TALLY), &tally)?;
        self.put(key, &JournaledRow { index: self.index.0, chunk: chunk.clone() })
    }

    /// Takes out the bytes of chunks that need them no longer.
    pub(super) fn checkpoint(&mut self, chunks: &[(ChunkKey, Checkpointed)]) -> Result<CommandOutcome, Fault> {
        for (chunk, why) in chunks.iter().take(CHECKPOINT_MAX) {
            let key = table::journaled(chunk);
            let Some(row) = self.read::<JournaledRow>(&key)? else { continue };
            if self.is_checkpointed(chunk, *why)? {
                self.remove(key)?;
                let tally = journal_tally(self)?;
                let tally = JournalTally {
                    chunks: tally.chunks.saturating_sub(1),
                    bytes: tally.bytes.saturating_sub(row.chunk.bytes.len() as u64),
                };
                self.put(table::single(table::JOURNAL_TALLY), &tally)?;
            }
        }
        Ok(CommandOutcome::Done)
    }

    fn is_checkpointed(&self, chunk: &ChunkKey, why: Checkpointed) -> Result<bool, Fault> {
        if !self.exists(&table::chunk(chunk))? {
            return Ok(true);
        }
        let Checkpointed::Stable { epoch, gc } = why else { return Ok(false) };
        match self.check_put(std::iter::once((*chunk, epoch, gc))) {
            Ok(()) => Ok(true),
            Err(Fault::Refused(OpError::StaleEpoch | OpError::StaleGc)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}
