//! Bytes written here and not committed yet. Pure.
//!
//! # Invariants
//! - Ranges never overlap, and none crosses a multiple of [`CHUNK_LEN_MAX`] of the file offset: a full one is a chunk.
//! - What is taken out before the rest is what a file holds after one of its writes and before the next: of everything that
//!   is left, all was written later. (It holds for what one operation commits; of more than [`EXTENTS_MAX`] scattered
//!   pieces that were written over and over there is no such part.)

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::Range};

use bytes::{Bytes, BytesMut};
use wire::{
    CHUNK_LEN_MAX,
    buffer::GrowingBuffer,
    namespace::{EXTENTS_MAX, JournaledPart},
};

const WINDOW: u64 = CHUNK_LEN_MAX as u64;

/// With so much it is time to take something out though no chunk is full: several places are written in turn.
const MUCH: u64 = 16 << 20;

/// A range that has grown this far is taken for the beginning of a stream, and given room for a whole chunk at once.
const STREAM_LEN: usize = 1 << 20;

/// Bytes by offset in the file.
#[derive(Debug, Default)]
pub(crate) struct DirtyRanges {
    ranges: BTreeMap<u64, Stretch>,
    len: u64,
    /// Number of the last write.
    newest: u64,
}

/// Bytes of one range.
#[derive(Debug)]
struct Stretch {
    bytes: GrowingBuffer,
    written: Written,
}

/// By which writes a range came to be what it is: the first of those of which it holds bytes, or bytes that lie over theirs,
/// and the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Written {
    first: u64,
    last: u64,
}

/// A range that was taken out to be committed.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    written: Written,
}

/// A chunk to be put, and which ranges of the file its parts are.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Bytes,
    pub(crate) parts: Vec<JournaledPart>,
}

impl DirtyRanges {
    /// Bytes held.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// First byte after the last range; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(start, stretch)| start + stretch.bytes.len() as u64)
    }

    /// Number of the last write.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether anything is held of the writes up to `number`.
    pub(crate) fn holds_of(&self, number: u64) -> bool {
        self.ranges.values().any(|stretch| stretch.written.first <= number)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.len = 0;
    }

    /// Takes in `data` at `offset`; what was there before is replaced. Whether it is time to take something out.
    pub(crate) fn write(&mut self, mut offset: u64, mut data: &[u8]) -> bool {
        let before = self.len;
        let mut is_full = false;
        while !data.is_empty() {
            let room = WINDOW - offset % WINDOW;
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(len);
            // Pieces on two sides of a border may be committed one after the other: else no stream could.
            self.newest += 1;
            is_full |= self.write_in_window(offset, now, Written { first: self.newest, last: self.newest });
            offset += len as u64;
            data = later;
        }
        is_full || (self.len >= MUCH && before / STREAM_LEN as u64 != self.len / STREAM_LEN as u64)
    }

    /// Whether the range is a whole chunk now.
    fn write_in_window(&mut self, offset: u64, data: &[u8], written: Written) -> bool {
        let end = offset + data.len() as u64;
        let window = offset - offset % WINDOW;
        let before = self.ranges.range_mut(window..=offset).next_back();
        let reaches = |(start, stretch): &(&u64, &mut Stretch)| {
            let end = **start + stretch.bytes.len() as u64;
            end > offset || (end == offset && stretch.written.touches(written))
        };
        let Some((start, Stretch { bytes, written: all })) = before.filter(reaches) else {
            let written = self.cut_out(offset..end).map_or(written, |over| over.and(written));
            self.ranges.insert(offset, Stretch { bytes: data.to_vec().into(), written });
            self.len += data.len() as u64;
            return data.len() as u64 == WINDOW;
        };
        *all = all.and(written);
        let at = usize::try_from(offset - start).expect("a range is shorter than a chunk");
        let over = data.len().min(bytes.len() - at);
        let (replaced, appended) = data.split_at(over);
        bytes.get_mut(at..at + over).expect("the range reaches as far").copy_from_slice(replaced);
        if appended.is_empty() {
            return false;
        }
        if bytes.len() + appended.len() >= STREAM_LEN {
            bytes.reserve_chunk();
        }
        bytes.extend_from_slice(appended);
        self.len += appended.len() as u64;
        let (start, is_full) = (*start, bytes.len() as u64 == WINDOW);
        if let Some(over) = self.cut_what_begins_in(start + 1..end)
            && let Some(Stretch { written, .. }) = self.ranges.get_mut(&start)
        {
            *written = written.and(over);
        }
        is_full
    }

    /// Removes what ranges that begin in `range` have there; when that was written.
    fn cut_what_begins_in(&mut self, range: Range<u64>) -> Option<Written> {
        let mut gone: Option<Written> = None;
        while let Some((&start, _)) = self.ranges.range(range.clone()).next() {
            let Stretch { bytes, written } = self.ranges.remove(&start).expect("it was found");
            gone = Some(gone.map_or(written, |gone| gone.and(written)));
            self.len -= bytes.len() as u64;
            let kept_from = usize::try_from(range.end - start).unwrap_or(usize::MAX);
            self.keep_tail(range.end, bytes.get(kept_from..).unwrap_or_default(), written);
        }
        gone
    }

    fn keep_tail(&mut self, start: u64, tail: &[u8], written: Written) {
        if !tail.is_empty() {
            self.len += tail.len() as u64;
            self.ranges.insert(start, Stretch { bytes: tail.to_vec().into(), written });
        }
    }

    /// Removes what lies in `range`.
    pub(crate) fn cut(&mut self, range: Range<u64>) {
        self.cut_out(range);
    }

    /// As [`DirtyRanges::cut`]; when what is gone was written.
    fn cut_out(&mut self, range: Range<u64>) -> Option<Written> {
        if range.is_empty() {
            return None;
        }
        let mut gone = None;
        let before = self.ranges.range_mut(..range.start).next_back();
        if let Some((start, Stretch { bytes, written })) = before
            && *start + bytes.len() as u64 > range.start
        {
            let written = *written;
            gone = Some(written);
            let at = usize::try_from(range.start - *start).expect("a range is shorter than a chunk");
            let tail = bytes.split_off(at);
            self.len -= tail.len() as u64;
            let skip = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            self.keep_tail(range.end, tail.get(skip..).unwrap_or_default(), written);
        }
        let after = self.cut_what_begins_in(range);
        [gone, after].into_iter().flatten().reduce(Written::and)
    }

    /// Lays what is held over `buffer`, which is the file from `offset` on.
    pub(crate) fn overlay(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        let first = self.ranges.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, Stretch { bytes, .. }) in self.ranges.range(first..end) {
            lay_over(offset, buffer, *start, bytes);
        }
    }

    /// Copies of what is held of `range`.
    pub(crate) fn copy_of(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let mut copies = Vec::new();
        for (start, Stretch { bytes, .. }) in self.ranges.range(first..range.end) {
            let (from, to) = (range.start.max(*start), range.end.min(*start + bytes.len() as u64));
            if from < to {
                let index = |at: u64| usize::try_from(at - start).expect("a range is shorter than a chunk");
                let part = bytes.get(index(from)..index(to)).expect("the part lies in the range");
                copies.push((from, Bytes::copy_from_slice(part)));
            }
        }
        copies
    }

    /// Whether every byte of `range` is held.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        let first = self.ranges.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (start, Stretch { bytes, .. }) in self.ranges.range(first..range.end) {
            if *start > at {
                return false;
            }
            at = at.max(*start + bytes.len() as u64);
        }
        at >= range.end
    }

    /// What none of `range` is held of.
    pub(crate) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.ranges.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (start, Stretch { bytes, .. }) in self.ranges.range(first..range.end) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = at.max(*start + bytes.len() as u64);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Takes out the oldest whole chunks, and what was written before them; if there is much, whatever is oldest.
    pub(crate) fn take_full(&mut self, len_max: u64) -> Vec<Taken> {
        let is_much = self.len >= MUCH;
        self.take_oldest(len_max, |stretch| is_much || stretch.bytes.len() as u64 == WINDOW)
    }

    /// Takes out everything, or if that is more than `len_max` bytes or than one operation commits, what is oldest.
    pub(crate) fn take(&mut self, len_max: u64) -> Vec<Taken> {
        if self.len <= len_max && self.ranges.len() <= EXTENTS_MAX {
            self.take_all()
        } else {
            self.take_oldest(len_max, |_| true)
        }
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<Taken> {
        self.len = 0;
        let taken = |(offset, Stretch { bytes, written })| Taken { offset, bytes: bytes.freeze(), written };
        std::mem::take(&mut self.ranges).into_iter().map(taken).collect()
    }

    /// Takes out what is oldest: up to a stretch that may be the last (`may_end`), after which all was written later than
    /// everything before it.
    fn take_oldest(&mut self, len_max: u64, may_end: impl Fn(&Stretch) -> bool) -> Vec<Taken> {
        let mut oldest: Vec<(&u64, &Stretch)> = self.ranges.iter().collect();
        oldest.sort_unstable_by_key(|(_, stretch)| stretch.written.first);
        let (mut len, mut last) = (0, 0);
        // How many stretches such a part has.
        let mut parts: Vec<usize> = Vec::new();
        for (index, (_, stretch)) in oldest.iter().enumerate() {
            len += stretch.bytes.len() as u64;
            last = last.max(stretch.written.last);
            if len > len_max && !parts.is_empty() {
                break;
            }
            let is_closed = oldest.get(index + 1).is_none_or(|(_, next)| next.written.first > last);
            if is_closed && may_end(stretch) {
                parts.push(index + 1);
            }
        }
        let mut starts = Vec::new();
        while let Some(count) = parts.pop() {
            starts = oldest.iter().take(count).map(|(start, _)| **start).collect();
            starts.sort_unstable();
            if count <= EXTENTS_MAX || self.extents(&starts) <= EXTENTS_MAX {
                break;
            }
            parts.truncate(parts.len().div_ceil(2));
        }
        starts.into_iter().filter_map(|start| self.take_off(start)).collect()
    }

    /// As how many extents ranges are committed, those that follow one another as one.
    fn extents(&self, starts: &[u64]) -> usize {
        let mut end = None;
        let mut extents = 0;
        for start in starts {
            extents += usize::from(end != Some(*start));
            end = self.ranges.get(start).map(|stretch| start + stretch.bytes.len() as u64);
        }
        extents
    }

    fn take_off(&mut self, offset: u64) -> Option<Taken> {
        let Stretch { bytes, written } = self.ranges.remove(&offset)?;
        self.len -= bytes.len() as u64;
        Some(Taken { offset, bytes: bytes.freeze(), written })
    }

    /// Puts back what was taken out, under what was written since.
    pub(crate) fn put_back(&mut self, taken: &Taken) {
        let Taken { offset, bytes, written } = taken;
        let range = *offset..offset + bytes.len() as u64;
        for gap in self.gaps(range.clone()) {
            let index = |at: u64| usize::try_from(at - offset).expect("a range is shorter than a chunk");
            let part = bytes.get(index(gap.start)..index(gap.end)).expect("a gap lies in its range");
            self.write_in_window(gap.start, part, *written);
        }
        // What lies over it must not be missing where later bytes are.
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (start, stretch) in self.ranges.range_mut(first..range.end) {
            if start + stretch.bytes.len() as u64 > range.start {
                stretch.written.first = stretch.written.first.min(written.first);
            }
        }
    }
}

impl Taken {
    /// First byte after it.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Written {
    fn and(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Whether no other write lies between.
    fn touches(self, other: Self) -> bool {
        self.first <= other.last + 1 && other.first <= self.last + 1
    }
}

/// Copies what `bytes` at `start` of a file have in common with `buffer` at `offset` into it.
pub(crate) fn lay_over(offset: u64, buffer: &mut [u8], start: u64, bytes: &[u8]) {
    let from = start.max(offset);
    let to = (start + bytes.len() as u64).min(offset + buffer.len() as u64);
    if from < to {
        let index = |at: u64, base: u64| usize::try_from(at - base).expect("both are in memory");
        let source = bytes.get(index(from, start)..index(to, start)).expect("the part lies in the bytes");
        buffer
            .get_mut(index(from, offset)..index(to, offset))
            .expect("the part lies in the buffer")
            .copy_from_slice(source);
    }
}

/// Packs ranges, in order of offset, into as few chunks as hold them. A range of a whole chunk is not copied.
pub(crate) fn pack(ranges: Vec<Taken>) -> Vec<Packed> {
    let mut packed: Vec<Packed> = Vec::new();
    let mut open = BytesMut::new();
    let mut parts: Vec<JournaledPart> = Vec::new();
    for Taken { offset, bytes, .. } in ranges {
        if open.len() + bytes.len() > CHUNK_LEN_MAX as usize {
            close(&mut open, &mut parts, &mut packed);
        }
        let len = u32::try_from(bytes.len()).expect("a range is at most a chunk");
        if parts.is_empty() && bytes.len() >= CHUNK_LEN_MAX as usize / 2 {
            packed.push(Packed { bytes, parts: vec![JournaledPart { offset, chunk_offset: 0, len }] });
            continue;
        }
        let chunk_offset = u32::try_from(open.len()).expect("a chunk is at most 4 MiB");
        open.extend_from_slice(&bytes);
        match parts.last_mut() {
            Some(last) if last.offset + u64::from(last.len) == offset => last.len += len,
            _ => parts.push(JournaledPart { offset, chunk_offset, len }),
        }
    }
    close(&mut open, &mut parts, &mut packed);
    packed
}

fn close(open: &mut BytesMut, parts: &mut Vec<JournaledPart>, packed: &mut Vec<Packed>) {
    if !parts.is_empty() {
        packed.push(Packed { bytes: open.split().freeze(), parts: std::mem::take(parts) });
    }
}
