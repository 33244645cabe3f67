//! Ranges that become holes, zeros or room: `fallocate`.

use wire::namespace::{INLINE_LEN_MAX, Inode, OpError, PunchMode, SetId, SetTime};

use super::{
    edit::{Edit, Fault},
    extents::{PIECES_MAX, Reached, extents_of},
    file::{Covered, OpenFile, check_len},
    row::{ExtentRow, InodeRow, Storage},
};

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Filling {
    Nothing,
    Zeros,
    Room,
}

/// Whether the file grows to the end of the range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Length {
    Stays,
    Grows,
}

fn meaning(mode: PunchMode) -> (Filling, Length) {
    match mode {
        PunchMode::Hole => (Filling::Nothing, Length::Stays),
        PunchMode::ZeroKeepSize => (Filling::Zeros, Length::Stays),
        PunchMode::Zero => (Filling::Zeros, Length::Grows),
        PunchMode::AllocateKeepSize => (Filling::Room, Length::Stays),
        PunchMode::Allocate => (Filling::Room, Length::Grows),
    }
}

impl Edit<'_> {
    /// Does what `mode` says to `len` bytes from `offset`, or to as many as one command can; says to how many.
    pub(super) fn punch(
        &mut self,
        inode: Inode,
        offset: u64,
        len: u64,
        mode: PunchMode,
        set_id: SetId,
    ) -> Result<(InodeRow, u64), Fault> {
        let mut file = self.open_file(inode)?;
        if len == 0 {
            return Err(OpError::Invalid.into());
        }
        let end = offset.checked_add(len).ok_or(OpError::FileTooLarge)?;
        check_len(end)?;
        let (filling, length) = meaning(mode);
        let size = file.row.size;
        let reached = match file.storage() {
            Storage::Inline => {
                self.punch_inline(&mut file, offset, end, filling, length)?;
                end
            }
            Storage::Empty if filling == Filling::Nothing => end,
            Storage::Empty | Storage::Extents => self.punch_extents(&mut file, offset, end, filling)?,
        };
        if length == Length::Grows {
            file.row.size = file.row.size.max(reached);
        }
        let row = if filling == Filling::Room && file.row.size == size {
            // No byte reads differently.
            file.row.mode = set_id.clear(file.row.mode);
            self.touch(&mut file.row);
            self.settle(file)?
        } else {
            self.settle_written(file, SetTime::Now, set_id)?
        };
        Ok((row, reached - offset))
    }

    fn punch_inline(
        &mut self,
        file: &mut OpenFile,
        offset: u64,
        end: u64,
        filling: Filling,
        length: Length,
    ) -> Result<(), Fault> {
        let new_len = if length == Length::Grows { end.max(file.row.size) } else { file.row.size };
        let new_len = usize::try_from(new_len).ok().filter(|len| *len <= INLINE_LEN_MAX);
        let new_len = new_len.ok_or(OpError::InlineInTheWay)?;
        self.edit_inline(file, |bytes| {
            bytes.resize(new_len, 0);
            if filling != Filling::Room {
                let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(new_len);
                bytes.get_mut(index(offset)..index(end)).expect("both ends are within the bytes").fill(0);
            }
        })
    }

    /// Says where it came to.
    fn punch_extents(&mut self, file: &mut OpenFile, offset: u64, end: u64, filling: Filling) -> Result<u64, Fault> {
        match filling {
            Filling::Nothing => Ok(self.clear(file, offset, end, PIECES_MAX)?.offset),
            Filling::Zeros => {
                file.check_not_cut(end)?;
                self.use_extents(file, Covered::Wholly)?;
                let Reached { offset: reached, .. } = self.clear(file, offset, end, PIECES_MAX)?;
                self.insert_extent(file, offset, ExtentRow::Unwritten { len: reached - offset })?;
                Ok(reached)
            }
            Filling::Room => {
                file.check_not_cut(end)?;
                self.use_extents(file, Covered::Wholly)?;
                self.fill_holes(file, offset, end)
            }
        }
    }

    /// Makes room of the holes in `from..to`; says where it came to.
    fn fill_holes(&mut self, file: &mut OpenFile, from: u64, to: u64) -> Result<u64, Fault> {
        let extents = extents_of(self, file.inode, from, to, PIECES_MAX)?;
        let mut reached = from;
        for &(begin, extent) in &extents {
            if begin > reached {
                self.insert_extent(file, reached, ExtentRow::Unwritten { len: begin - reached })?;
            }
            reached = begin + extent.len();
        }
        if extents.len() < PIECES_MAX && reached < to {
            self.insert_extent(file, reached, ExtentRow::Unwritten { len: to - reached })?;
            reached = to;
        }
        Ok(reached.min(to))
    }
}
