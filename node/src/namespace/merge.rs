//! Many short extents that touch become one: what is read and listed again and again is kept as if it had been written in
//! one piece.
//!
//! # Invariants
//! - A merge changes nothing but where bytes are: not one byte, length, time, version, or count of changes.
//! - It replaces exactly the extents that were read, or nothing.
//!
//! # Not here
//! Which extents are merged, and who reads them (`crate::merge`).

use ring::ChunkKey;
use serde::{Deserialize, Serialize};
use wire::namespace::{ChunkSlice, Extent, Inode, NewExtent};

use super::{
    command::CommandOutcome,
    edit::{Edit, Fault, ROWS_MAX, collect_with},
    extents::{ROWS_PER_EXTENT, extent_at, extents_of},
    file::{OpenFile, new_row},
    journal,
    row::{self, Body, InodeRow, Standing, Storage},
    table,
};
use crate::kv::{KvError, KvRead};

/// Extents that one merge replaces at most.
pub const MERGED_MAX: usize = 512;

const _: () = assert!((MERGED_MAX + 1) * ROWS_PER_EXTENT + 32 <= ROWS_MAX, "a merge is one command");

/// Names extents of a file by all that makes out their bytes: BLAKE3 of where each begins and of what it is a slice.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RunDigest(pub [u8; 32]);

impl RunDigest {
    /// Of extents in order, each with its offset.
    pub fn of<'a>(pieces: impl IntoIterator<Item = &'a (u64, ChunkSlice)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (offset, slice) in pieces {
            hasher.update(&offset.to_be_bytes());
            hasher.update(slice.key.as_bytes());
            for number in [slice.chunk_len, slice.offset, slice.len] {
                hasher.update(&number.to_be_bytes());
            }
        }
        Self(hasher.finalize().into())
    }
}

/// Behind which extent a page begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtentCursor(Vec<u8>);

/// A page of the extents of all files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtentsPage {
    /// In order of inode and offset.
    pub extents: Vec<(Inode, Extent)>,
    /// Where the next page begins, if there may be more.
    pub next: Option<ExtentCursor>,
}

/// The first `limit` extents behind `after`.
pub fn extents_page(rows: &dyn KvRead, after: Option<&ExtentCursor>, limit: usize) -> Result<ExtentsPage, KvError> {
    let (first, end) = table::rows_of_table(table::EXTENT);
    let from = after.map_or(first, |ExtentCursor(key)| [key.as_slice(), &[0]].concat());
    let mut last = None;
    let read = |key: &[u8], value: &[u8]| {
        let (begin, extent) = extent_at(key, value)?;
        let inode = table::first_number(key).map(Inode);
        last = Some(ExtentCursor(key.to_vec()));
        Ok(inode.map(|inode| (inode, extent.extent(begin))))
    };
    let extents = collect_with(rows, &from, &end, limit, read)?;
    let next = last.filter(|_| extents.len() == limit);
    Ok(ExtentsPage { extents, next })
}

/// Who refers to a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct References {
    /// How many files.
    pub files: u64,
    /// How many extents of one of them.
    pub extents: u64,
}

/// How many files refer to a chunk, and how many extents of `inode`.
pub fn references(rows: &dyn KvRead, inode: Inode, key: &ChunkKey) -> Result<References, KvError> {
    let files = row::read(rows, &table::chunk(key))?.unwrap_or(0);
    Ok(References { files, extents: row::read(rows, &table::inode_chunk(inode, key))?.unwrap_or(0) })
}

/// The bytes of a chunk, if they came with their commit and are still here.
pub fn journaled_bytes(rows: &dyn KvRead, key: ChunkKey) -> Result<Option<Vec<u8>>, KvError> {
    Ok(journal::journaled(rows, key)?.filter(wire::namespace::JournaledChunk::is_sound).map(|chunk| chunk.bytes))
}

impl Edit<'_> {
    /// Puts `merged` in the place of the extents of its range, if they are those that it was made of.
    pub(super) fn merge(
        &mut self,
        inode: Inode,
        merged: &NewExtent,
        replaced: &RunDigest,
    ) -> Result<CommandOutcome, Fault> {
        let row: Option<InodeRow> = self.read(&table::inode(inode))?;
        let row = row.filter(|row| row.standing != Standing::Reclaiming && matches!(row.body, Body::File { .. }));
        let Some(mut file) = row.map(|row| OpenFile::new(inode, row)) else { return Ok(CommandOutcome::Done) };
        if !self.is_run(&file, merged, replaced)? {
            return Ok(CommandOutcome::Done);
        }
        match self.check_put(std::iter::once((merged.slice.key, merged.epoch, merged.gc))) {
            Ok(()) => {}
            Err(Fault::Refused(_)) => return Ok(CommandOutcome::Done),
            Err(fault) => return Err(fault),
        }
        // The row of the file stays: so many bytes as go, come.
        self.clear_all(&mut file, merged.offset, merged.offset + u64::from(merged.slice.len))?;
        self.insert_extent(&mut file, merged.offset, new_row(merged))?;
        Ok(CommandOutcome::Done)
    }

    /// Whether the range is covered, exactly and without a gap, by the extents that `replaced` names.
    fn is_run(&self, file: &OpenFile, merged: &NewExtent, replaced: &RunDigest) -> Result<bool, Fault> {
        let Some(end) = merged.offset.checked_add(u64::from(merged.slice.len)) else { return Ok(false) };
        let is_whole = merged.slice.offset == 0 && merged.slice.len == merged.slice.chunk_len;
        if !merged.slice.is_sound() || !is_whole || file.storage() != Storage::Extents || file.cut_from().is_some() {
            return Ok(false);
        }
        let mut pieces = Vec::new();
        let mut reached = merged.offset;
        for (begin, extent) in extents_of(self, file.inode, merged.offset, end, MERGED_MAX + 1)? {
            let Some(slice) = extent.chunk().filter(|_| begin == reached) else { return Ok(false) };
            reached += u64::from(slice.len);
            pieces.push((begin, slice));
        }
        Ok(reached == end && pieces.len() <= MERGED_MAX && RunDigest::of(&pieces) == *replaced)
    }
}
