//! Extents of files, and who refers to which chunk.
//!
//! # Invariants
//! - Extents of a file never overlap; what none covers is a hole.
//! - An inode's row for a chunk counts its extents of it; a chunk's row counts the inodes that have such a row.
//! - A chunk that loses its last reference gets a dead row; one that gains a reference has none.
//! - An extent of a chunk ends within its file, but for those that a cut still has to release.

use std::ops::ControlFlow;

use ring::{ChunkKey, Epoch, GcEpoch, Transition};
use wire::namespace::{ChunkSlice, Inode, OpError};

use super::{
    edit::{Edit, Fault, ROWS_MAX},
    file::OpenFile,
    moves, row,
    row::{ExtentRow, MetaRow},
    table,
};
use crate::kv::{KvError, KvRead};

/// Extents that one command takes away or puts in: each changes up to four rows, and a few more are changed beside them.
pub(super) const PIECES_MAX: usize = 1000;

/// Rows that change with one extent: its own, the inode's count, the chunk's count, the dead row.
pub(super) const ROWS_PER_EXTENT: usize = 4;

/// Where a job of bounded length came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// Everything before this offset is done.
    pub(super) offset: u64,
    /// Extents that were handled.
    pub(super) pieces: usize,
}

/// The first `limit` extents that touch `from..to`, each with the offset at which it begins.
pub(super) fn extents_of(
    rows: &dyn KvRead,
    inode: Inode,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Vec<(u64, ExtentRow)>, KvError> {
    let mut found = Vec::new();
    let mut failed = None;
    if from >= to || limit == 0 {
        return Ok(found);
    }
    // One row is found faster than several are looked through, and often it is what is written over.
    let last = table::extent(inode, to - 1);
    if let Some(value) = rows.get(&last)? {
        let whole = extent_at(&last, &value)?;
        if whole.0 <= from {
            return Ok(vec![whole]);
        }
    }
    let (_, end) = table::rows_of(table::EXTENT, inode.0);
    rows.scan(&table::extent(inode, from), &end, &mut |key, value| {
        let (begin, extent) = match extent_at(key, value) {
            Ok(extent) => extent,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        if begin >= to {
            return ControlFlow::Break(());
        }
        found.push((begin, extent));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failed.map_or(Ok(found), Err)
}

/// The extent in a row, with the offset at which it begins.
pub(super) fn extent_at(key: &[u8], value: &[u8]) -> Result<(u64, ExtentRow), KvError> {
    let extent: ExtentRow = row::decode(key, value)?;
    let begin = table::last_number(key).and_then(|last| (last + 1).checked_sub(extent.len()));
    let begin = begin.ok_or_else(|| KvError { reason: format!("the extent {key:02x?} begins before its file") })?;
    Ok((begin, extent))
}

impl Edit<'_> {
    /// Puts an extent where nothing is.
    pub(super) fn insert_extent(&mut self, file: &mut OpenFile, begin: u64, extent: ExtentRow) -> Result<(), Fault> {
        file.row.allocated += extent.len();
        if let Some(chunk) = extent.chunk() {
            self.refer(file.inode, &chunk.key)?;
        }
        self.put(table::extent(file.inode, begin + extent.len() - 1), &extent)
    }

    /// Makes a hole of `from..to`, from its beginning on, taking away or narrowing at most `limit` extents.
    pub(super) fn clear(&mut self, file: &mut OpenFile, from: u64, to: u64, limit: usize) -> Result<Reached, Fault> {
        let found = extents_of(self, file.inode, from, to, limit + 1)?;
        for &(begin, extent) in found.iter().take(limit) {
            let end = begin + extent.len();
            // What stays is put in before the rest goes, so that the chunk never seems to lose its last reference.
            if begin < from {
                self.insert_extent(file, begin, extent.part(0, from - begin))?;
            }
            if end > to {
                // Takes over the row: its key is the last byte, which stays.
                self.insert_extent(file, to, extent.part(to - begin, end - to))?;
            } else {
                self.remove(table::extent(file.inode, end - 1))?;
            }
            file.row.allocated -= extent.len();
            if let Some(chunk) = extent.chunk() {
                self.release(file.inode, &chunk)?;
            }
        }
        let offset = found.get(limit).map_or(to, |&(begin, _)| begin.max(from));
        Ok(Reached { offset, pieces: found.len().min(limit) })
    }

    /// Makes a hole of all of `from..to`, or fails when that changes too many rows.
    pub(super) fn clear_all(&mut self, file: &mut OpenFile, from: u64, to: u64) -> Result<(), Fault> {
        let reached = self.clear(file, from, to, ROWS_MAX)?;
        if reached.offset < to { Err(Fault::Overflow) } else { Ok(()) }
    }

    /// One more extent of `inode` is of `chunk`.
    fn refer(&mut self, inode: Inode, chunk: &ChunkKey) -> Result<(), Fault> {
        let key = table::inode_chunk(inode, chunk);
        let extents: u64 = self.read(&key)?.unwrap_or(0);
        self.put(key, &(extents + 1))?;
        if extents > 0 {
            return Ok(());
        }
        let key = table::chunk(chunk);
        let inodes: u64 = self.read(&key)?.unwrap_or(0);
        self.put(key, &(inodes + 1))?;
        if inodes == 0 { self.revive(chunk) } else { Ok(()) }
    }

    /// One less.
    fn release(&mut self, inode: Inode, slice: &ChunkSlice) -> Result<(), Fault> {
        let chunk = &slice.key;
        let key = table::inode_chunk(inode, chunk);
        let extents: u64 = self.read(&key)?.expect("an extent of a chunk is counted");
        if extents > 1 {
            return self.put(key, &(extents - 1));
        }
        self.remove(key)?;
        let key = table::chunk(chunk);
        let inodes: u64 = self.read(&key)?.expect("an inode of a chunk is counted");
        if inodes > 1 {
            return self.put(key, &(inodes - 1));
        }
        self.remove(key)?;
        self.bury(chunk, slice.chunk_len)
    }

    /// Refuses chunks that were put before their partition's fence, or before the last collection of garbage.
    pub(super) fn check_put(&self, puts: impl Iterator<Item = (ChunkKey, Epoch, GcEpoch)>) -> Result<(), Fault> {
        let meta: Option<MetaRow> = self.read(&table::single(table::META))?;
        let safe = self.counters()?.map_or_else(GcEpoch::default, |counters| counters.gc_safe);
        let mut moving = None;
        for (chunk, epoch, gc) in puts {
            if gc < safe {
                return Err(OpError::StaleGc.into());
            }
            if meta.as_ref().is_some_and(|meta| epoch < meta.floor) {
                return Err(OpError::StaleEpoch.into());
            }
            if let Some((bits, meta)) = meta.as_ref().and_then(|meta| meta.bits.map(|bits| (bits, meta)))
                && epoch < meta.highest_fence
            {
                let partition = bits.partition_of(&chunk);
                let fence: Option<Epoch> = self.read(&table::partition(table::FENCE, partition))?;
                let transition = match &moving {
                    Some(transition) => transition,
                    None => moving.insert(moves::transition(self)?),
                };
                let fence_now = transition.as_ref().filter(|transition| !transition.is_settled(partition));
                if fence.max(fence_now.map(Transition::epoch)).is_some_and(|fence| epoch < fence) {
                    return Err(OpError::StaleEpoch.into());
                }
            }
        }
        Ok(())
    }
}
