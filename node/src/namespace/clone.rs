//! Ranges of one file that become the same bytes as ranges of another: `FICLONERANGE`, `copy_file_range`, `dfs cp`.

use wire::namespace::{Inode, OpError, SetId, SetTime};

use super::{
    edit::{Edit, Fault},
    extents::{PIECES_MAX, extents_of},
    file::{Covered, OpenFile, check_len},
    row::{InodeRow, Storage},
};

/// What is cloned from where to where.
#[derive(Clone, Copy, Debug)]
pub(super) struct CloneRange {
    pub(super) from: Inode,
    pub(super) from_offset: u64,
    pub(super) to: Inode,
    pub(super) to_offset: u64,
    pub(super) len: u64,
}

impl CloneRange {
    /// The length again, when the source ends at `size`.
    fn available(&self, size: u64) -> u64 {
        self.len.min(size.saturating_sub(self.from_offset))
    }

    fn check(&self) -> Result<(), OpError> {
        if self.len == 0 {
            return Err(OpError::Invalid);
        }
        let from_end = self.from_offset.checked_add(self.len).ok_or(OpError::FileTooLarge)?;
        let to_end = self.to_offset.checked_add(self.len).ok_or(OpError::FileTooLarge)?;
        let apart = from_end <= self.to_offset || to_end <= self.from_offset;
        if self.from == self.to && !apart { Err(OpError::Invalid) } else { Ok(()) }
    }
}

impl Edit<'_> {
    /// Clones the range, or as much from its beginning as one command can; says how many bytes.
    pub(super) fn clone_range(
        &mut self,
        range: CloneRange,
        if_version: Option<u64>,
        set_id: SetId,
    ) -> Result<(InodeRow, u64), Fault> {
        let source = self.open_file(range.from)?;
        let mut target = self.open_file(range.to)?;
        range.check()?;
        source.check_version(if_version)?;
        let len = range.available(source.row.size);
        if len == 0 {
            return Ok((target.row, 0));
        }
        let to_end = range.to_offset + len;
        check_len(to_end)?;
        let done = match source.storage() {
            Storage::Inline => {
                self.clone_inline(&mut target, range, len)?;
                len
            }
            Storage::Empty | Storage::Extents => {
                target.check_not_cut(to_end)?;
                let size = target.row.size;
                let covered = if range.to_offset == 0 && len >= size { Covered::Wholly } else { Covered::Partly };
                let was_inline = target.storage() == Storage::Inline;
                self.use_extents(&mut target, covered)?;
                let done = self.clone_extents(&mut target, range, len)?;
                if was_inline && done < size {
                    return Err(OpError::InlineInTheWay.into());
                }
                target.row.size = size.max(range.to_offset + done);
                done
            }
        };
        Ok((self.settle_written(target, SetTime::Now, set_id)?, done))
    }

    fn clone_inline(&mut self, target: &mut OpenFile, range: CloneRange, len: u64) -> Result<(), Fault> {
        if target.storage() == Storage::Extents {
            return Err(OpError::InlineInTheWay.into());
        }
        let source = self.inline(range.from)?.bytes;
        let index = |at: u64| usize::try_from(at).map_err(|_| OpError::InlineInTheWay);
        let (from, to, len) = (index(range.from_offset)?, index(range.to_offset)?, index(len)?);
        if to + len > wire::namespace::INLINE_LEN_MAX {
            return Err(OpError::InlineInTheWay.into());
        }
        let piece = source.get(from..from + len).expect("inline bytes are as many as the size says");
        self.edit_inline(target, |bytes| {
            bytes.resize(bytes.len().max(to + len), 0);
            bytes.get_mut(to..to + len).expect("there is room now").copy_from_slice(piece);
        })
    }

    /// Says how many bytes were cloned.
    fn clone_extents(&mut self, target: &mut OpenFile, range: CloneRange, len: u64) -> Result<u64, Fault> {
        let from_end = range.from_offset + len;
        // Half of what may change goes in, half may have to go.
        let extents = extents_of(self, range.from, range.from_offset, from_end, PIECES_MAX / 2)?;
        let to_offset_of = |at: u64| at - range.from_offset + range.to_offset;
        let mut room = PIECES_MAX - extents.len();
        let mut at = range.from_offset;
        for &(begin, extent) in &extents {
            let (first, end) = (begin.max(range.from_offset), (begin + extent.len()).min(from_end));
            // The hole before the extent, and the extent.
            let cleared = self.clear(target, to_offset_of(at), to_offset_of(end), room)?;
            room -= cleared.pieces;
            let end = cleared.offset - range.to_offset + range.from_offset;
            if end > first {
                self.insert_extent(target, to_offset_of(first), extent.part(first - begin, end - first))?;
            }
            at = end;
            if end < (begin + extent.len()).min(from_end) {
                return Ok(at - range.from_offset);
            }
        }
        if extents.len() < PIECES_MAX / 2 {
            let cleared = self.clear(target, to_offset_of(at), to_offset_of(from_end), room)?;
            at = cleared.offset - range.to_offset + range.from_offset;
        }
        Ok(at - range.from_offset)
    }
}
