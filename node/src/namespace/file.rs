//! Content of files: inline bytes, extents, and the length.
//!
//! # Invariants
//! - A file is inline, in extents, or empty, never two of them; inline bytes are as many as its size says.
//! - Its hash stands beside inline content: checked when the client brings it, made anew when `apply` changes the bytes.
//! - While a cut is under way no operation makes a byte at or beyond it visible.

use wire::namespace::{
    AppendData, EXTENTS_MAX, FILE_LEN_MAX, INLINE_LEN_MAX, InlineData, Inode, NewExtent, OpError, SetId, SetTime,
};

use super::{
    edit::{Edit, Fault},
    extents::{PIECES_MAX, ROWS_PER_EXTENT},
    row::{Body, ExtentRow, InodeRow, Storage},
    table,
};

/// A file being changed.
pub(super) struct OpenFile {
    pub(super) inode: Inode,
    pub(super) row: InodeRow,
    /// `allocated` before the change: usage counts the difference.
    allocated_before: u64,
}

impl OpenFile {
    /// A file whose row is at hand.
    pub(super) fn new(inode: Inode, row: InodeRow) -> Self {
        let allocated_before = row.allocated;
        Self { inode, row, allocated_before }
    }

    /// The inode as a file, if it is one.
    pub(super) fn check(inode: Inode, row: InodeRow) -> Result<Self, OpError> {
        match row.body {
            Body::File { .. } => Ok(Self::new(inode, row)),
            Body::Directory { .. } => Err(OpError::IsDirectory),
            Body::Symlink | Body::Fifo | Body::Socket | Body::CharDevice { .. } | Body::BlockDevice { .. } => {
                Err(OpError::Invalid)
            }
        }
    }

    /// Where its bytes are.
    pub(super) fn storage(&self) -> Storage {
        match self.row.body {
            Body::File { storage, .. } => storage,
            _ => unreachable!("an OpenFile is a file"),
        }
    }

    pub(super) fn set_storage(&mut self, new: Storage) {
        if let Body::File { storage, .. } = &mut self.row.body {
            *storage = new;
        }
    }

    /// Where the cut under way begins.
    pub(super) fn cut_from(&self) -> Option<u64> {
        match self.row.body {
            Body::File { cut_from, .. } => cut_from,
            _ => None,
        }
    }

    pub(super) fn set_cut_from(&mut self, new: Option<u64>) {
        if let Body::File { cut_from, .. } = &mut self.row.body {
            *cut_from = new;
        }
    }

    /// Refuses to use bytes up to `end` while a cut there is under way.
    pub(super) fn check_not_cut(&self, end: u64) -> Result<(), OpError> {
        if self.cut_from().is_some_and(|cut| end > cut) { Err(OpError::CutPending) } else { Ok(()) }
    }

    /// Refuses when the data version is another.
    pub(super) fn check_version(&self, expected: Option<u64>) -> Result<(), OpError> {
        match expected {
            Some(version) if version != self.row.data_version => Err(OpError::VersionChanged),
            Some(_) | None => Ok(()),
        }
    }
}

impl Edit<'_> {
    pub(super) fn open_file(&self, inode: Inode) -> Result<OpenFile, Fault> {
        Ok(OpenFile::check(inode, self.inode(inode)?)?)
    }

    /// Writes the row of a changed file and counts what it takes now.
    pub(super) fn settle(&mut self, file: OpenFile) -> Result<InodeRow, Fault> {
        let OpenFile { inode, row, allocated_before } = file;
        if row.allocated != allocated_before {
            // Files that are allocated up to the largest length may together be more than can be counted.
            let more = row.allocated.wrapping_sub(allocated_before);
            self.count_usage(|usage| usage.bytes = usage.bytes.wrapping_add(more))?;
        }
        self.put_inode(inode, &row)?;
        Ok(row)
    }

    /// The end of an operation that changed bytes.
    pub(super) fn settle_written(
        &mut self,
        mut file: OpenFile,
        modified: SetTime,
        set_id: SetId,
    ) -> Result<InodeRow, Fault> {
        file.row.mode = set_id.clear(file.row.mode);
        self.remove_capability(file.inode)?;
        let before = file.row.changed;
        self.touch_data(&mut file.row, modified);
        if let Some(written) = self.time_of_write(modified) {
            file.row.changed = before.max(written);
        }
        self.settle(file)
    }

    pub(super) fn inline(&self, inode: Inode) -> Result<InlineData, Fault> {
        Ok(self.read(&table::inline(inode))?.expect("an inline file has its bytes"))
    }

    /// Replaces all that a file without extents holds.
    pub(super) fn set_inline(&mut self, file: &mut OpenFile, data: &InlineData) -> Result<(), Fault> {
        if !data.is_sound() {
            return Err(OpError::Unsound.into());
        }
        let key = table::inline(file.inode);
        let len = data.bytes.len() as u64;
        file.row.size = len;
        file.row.allocated = match file.storage() {
            // Extents that a cut still has to release go on counting.
            Storage::Empty | Storage::Extents => file.row.allocated + len,
            Storage::Inline => file.row.allocated - self.inline(file.inode)?.bytes.len() as u64 + len,
        };
        if len > 0 {
            self.put(key, data)?;
        } else if file.storage() == Storage::Inline {
            self.remove(key)?;
        }
        file.set_storage(if len > 0 { Storage::Inline } else { Storage::Empty });
        Ok(())
    }

    /// Changes inline bytes, which may be none, and hashes them anew.
    pub(super) fn edit_inline(&mut self, file: &mut OpenFile, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), Fault> {
        let mut bytes = match file.storage() {
            Storage::Inline => self.inline(file.inode)?.bytes,
            Storage::Empty => Vec::new(),
            Storage::Extents => return Err(OpError::NotInline.into()),
        };
        change(&mut bytes);
        if bytes.len() > INLINE_LEN_MAX {
            return Err(OpError::InlineInTheWay.into());
        }
        self.set_inline(file, &InlineData::new(bytes))
    }

    /// Makes the file one of extents; `covered` says that inline content is about to be written over.
    pub(super) fn use_extents(&mut self, file: &mut OpenFile, covered: Covered) -> Result<(), Fault> {
        match (file.storage(), covered) {
            (Storage::Inline, Covered::Partly) => return Err(OpError::InlineInTheWay.into()),
            (Storage::Inline, Covered::Wholly) => {
                file.row.allocated -= file.row.size;
                self.remove(table::inline(file.inode))?;
            }
            (Storage::Empty | Storage::Extents, _) => {}
        }
        file.set_storage(Storage::Extents);
        Ok(())
    }

    /// Content of a new file.
    pub(super) fn fill_extents(&mut self, file: &mut OpenFile, extents: &[NewExtent], size: u64) -> Result<(), Fault> {
        let end = check_extents(extents)?;
        check_len(size.max(end))?;
        if size < end {
            return Err(OpError::Invalid.into());
        }
        self.check_put(extents.iter().map(|extent| (extent.slice.key, extent.epoch, extent.gc)))?;
        if size > 0 {
            file.set_storage(Storage::Extents);
        }
        file.row.size = size;
        for extent in extents {
            self.insert_extent(file, extent.offset, new_row(extent))?;
        }
        Ok(())
    }

    /// Maps ranges of a file to chunks.
    pub(super) fn write_extents(
        &mut self,
        inode: Inode,
        extents: &[NewExtent],
        if_version: Option<u64>,
        modified: SetTime,
        set_id: SetId,
    ) -> Result<InodeRow, Fault> {
        let mut file = self.open_file(inode)?;
        if extents.is_empty() {
            return Err(OpError::Invalid.into());
        }
        let end = check_extents(extents)?;
        check_len(end)?;
        file.check_version(if_version)?;
        self.check_put(extents.iter().map(|extent| (extent.slice.key, extent.epoch, extent.gc)))?;
        file.check_not_cut(end)?;
        let covered = covered(extents, file.row.size);
        self.use_extents(&mut file, covered)?;
        for extent in extents {
            let end = extent.offset + u64::from(extent.slice.len);
            self.clear_all(&mut file, extent.offset, end)?;
            self.insert_extent(&mut file, extent.offset, new_row(extent))?;
        }
        file.row.size = file.row.size.max(end);
        self.settle_written(file, modified, set_id)
    }

    /// Replaces the whole content by inline data.
    pub(super) fn write_inline(
        &mut self,
        inode: Inode,
        content: &InlineData,
        if_version: Option<u64>,
        modified: SetTime,
        set_id: SetId,
    ) -> Result<InodeRow, Fault> {
        let mut file = self.open_file(inode)?;
        file.check_version(if_version)?;
        if file.storage() == Storage::Extents {
            self.cut(&mut file, 0)?;
        }
        self.set_inline(&mut file, content)?;
        self.settle_written(file, modified, set_id)
    }

    /// Adds bytes at the end; says where they went.
    pub(super) fn append(&mut self, inode: Inode, data: &AppendData, set_id: SetId) -> Result<(InodeRow, u64), Fault> {
        let mut file = self.open_file(inode)?;
        let at = file.row.size;
        match data {
            AppendData::Inline(data) if data.bytes.is_empty() => return Err(OpError::Invalid.into()),
            AppendData::Inline(data) if !data.is_sound() => return Err(OpError::Unsound.into()),
            AppendData::Inline(data) => {
                self.edit_inline(&mut file, |bytes| bytes.extend_from_slice(&data.bytes))?;
            }
            AppendData::Slices { slices, epoch, gc } => {
                if slices.is_empty() {
                    return Err(OpError::Invalid.into());
                }
                let mut offset = at;
                let mut extents = Vec::with_capacity(slices.len());
                for &slice in slices {
                    extents.push(NewExtent { offset, slice, epoch: *epoch, gc: *gc });
                    offset = offset.checked_add(u64::from(slice.len)).ok_or(OpError::FileTooLarge)?;
                }
                if file.storage() == Storage::Inline {
                    return Err(OpError::InlineInTheWay.into());
                }
                let row = self.write_extents(inode, &extents, None, SetTime::Now, set_id)?;
                return Ok((row, at));
            }
        }
        Ok((self.settle_written(file, SetTime::Now, set_id)?, at))
    }

    /// Sets the length: cuts, or extends with a hole.
    ///
    /// Inline content is extended with zeros as long as it stays inline; a longer file has to be converted by the
    /// client first ([`OpError::InlineInTheWay`]), so that inline bytes are always all the bytes of a file.
    pub(super) fn set_len(&mut self, file: &mut OpenFile, len: u64) -> Result<(), Fault> {
        check_len(len)?;
        match file.storage() {
            Storage::Inline => {
                let len = usize::try_from(len).ok().filter(|len| *len <= INLINE_LEN_MAX);
                let len = len.ok_or(OpError::InlineInTheWay)?;
                self.edit_inline(file, |bytes| bytes.resize(len, 0))
            }
            Storage::Empty if len == 0 => Ok(()),
            Storage::Empty => {
                file.check_not_cut(len)?;
                file.set_storage(Storage::Extents);
                file.row.size = len;
                Ok(())
            }
            Storage::Extents if len > file.row.size => {
                file.check_not_cut(len)?;
                file.row.size = len;
                Ok(())
            }
            Storage::Extents => {
                self.cut(file, len)?;
                file.row.size = len;
                if len == 0 {
                    file.set_storage(Storage::Empty);
                }
                Ok(())
            }
        }
    }

    /// Releases the extents from `from` on: those that one command can now, the rest by [`Edit::continue_cut`].
    pub(super) fn cut(&mut self, file: &mut OpenFile, from: u64) -> Result<(), Fault> {
        // A few rows are left for what the operation changes beside the extents.
        let limit = (self.room().saturating_sub(32) / ROWS_PER_EXTENT).min(PIECES_MAX);
        let reached = self.clear(file, from, u64::MAX, limit)?;
        let was_pending = file.cut_from();
        let key = table::number(table::CUT, file.inode.0);
        if reached.offset < u64::MAX {
            file.set_cut_from(Some(was_pending.map_or(from, |cut| cut.min(from))));
            self.put(key, &())
        } else {
            file.set_cut_from(None);
            if was_pending.is_some() { self.remove(key) } else { Ok(()) }
        }
    }
}

/// Whether extents about to be written cover all of a file that is inline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Covered {
    /// Every byte.
    Wholly,
    /// Not every byte.
    Partly,
}

/// Whether `extents` cover the first `size` bytes without a gap.
fn covered(extents: &[NewExtent], size: u64) -> Covered {
    let mut reached = 0;
    for extent in extents.iter().take_while(|_| size > 0) {
        if extent.offset > reached {
            break;
        }
        reached = extent.offset + u64::from(extent.slice.len);
    }
    if reached >= size { Covered::Wholly } else { Covered::Partly }
}

/// Refuses a file longer than there may be.
pub(super) fn check_len(len: u64) -> Result<(), OpError> {
    if len > FILE_LEN_MAX { Err(OpError::FileTooLarge) } else { Ok(()) }
}

/// Checks that extents are in order, do not overlap, and lie in their chunks; their end.
fn check_extents(extents: &[NewExtent]) -> Result<u64, OpError> {
    if extents.len() > EXTENTS_MAX {
        return Err(OpError::TooLarge);
    }
    let mut reached = 0;
    for extent in extents {
        if extent.offset < reached || !extent.slice.is_sound() {
            return Err(OpError::Invalid);
        }
        reached = extent.offset.checked_add(u64::from(extent.slice.len)).ok_or(OpError::FileTooLarge)?;
    }
    Ok(reached)
}

/// A row that says what a client has put, and when.
pub(super) fn new_row(extent: &NewExtent) -> ExtentRow {
    ExtentRow::Chunk { slice: extent.slice, epoch: extent.epoch, gc: extent.gc }
}
