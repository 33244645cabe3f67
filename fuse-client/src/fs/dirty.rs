//! Bytes written here and not committed yet. Pure.
//!
//! # Invariants
//! - Ranges never overlap, and none crosses a multiple of [`CHUNK_LEN_MAX`] of the file offset: a full one is a chunk.

use std::{collections::BTreeMap, ops::Range};

use bytes::{Bytes, BytesMut};
use wire::{CHUNK_LEN_MAX, buffer::GrowingBuffer, namespace::JournaledPart};

const WINDOW: u64 = CHUNK_LEN_MAX as u64;

/// A range that has grown this far is taken for the beginning of a stream, and given room for a whole chunk at once.
const STREAM_LEN: usize = 1 << 20;

/// Bytes by offset in the file.
#[derive(Debug, Default)]
pub(crate) struct DirtyRanges {
    ranges: BTreeMap<u64, GrowingBuffer>,
    len: u64,
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
        self.ranges.last_key_value().map_or(0, |(start, bytes)| start + bytes.len() as u64)
    }

    /// Takes in `data` at `offset`; what was there before is replaced.
    pub(crate) fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let room = WINDOW - offset % WINDOW;
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(len);
            self.write_in_window(offset, now);
            offset += len as u64;
            data = later;
        }
    }

    fn write_in_window(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let window = offset - offset % WINDOW;
        let before = self.ranges.range_mut(window..=offset).next_back();
        if let Some((start, bytes)) = before.filter(|(start, bytes)| **start + bytes.len() as u64 >= offset) {
            let at = usize::try_from(offset - start).expect("a range is shorter than a chunk");
            let over = data.len().min(bytes.len() - at);
            let (replaced, appended) = data.split_at(over);
            bytes.get_mut(at..at + over).expect("the range reaches as far").copy_from_slice(replaced);
            if !appended.is_empty() {
                if bytes.len() + appended.len() >= STREAM_LEN {
                    bytes.reserve_chunk();
                }
                bytes.extend_from_slice(appended);
                self.len += appended.len() as u64;
                let start = *start;
                self.cut_after(start, offset + over as u64..end);
            }
            return;
        }
        self.cut(offset..end);
        self.ranges.insert(offset, data.to_vec().into());
        self.len += data.len() as u64;
    }

    /// Removes what other ranges than the one at `keep` have in `range`, which none of them begins before.
    fn cut_after(&mut self, keep: u64, range: Range<u64>) {
        while let Some((&start, _)) = self.ranges.range(keep + 1..range.end).next() {
            let bytes = self.ranges.remove(&start).expect("it was found");
            self.len -= bytes.len() as u64;
            let kept_from = usize::try_from(range.end - start).expect("both lie in one window");
            if let Some(tail) = bytes.get(kept_from..).filter(|tail| !tail.is_empty()) {
                self.len += tail.len() as u64;
                self.ranges.insert(range.end, tail.to_vec().into());
            }
        }
    }

    /// Removes what lies in `range`.
    pub(crate) fn cut(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let before = self.ranges.range_mut(..range.start).next_back();
        if let Some((start, bytes)) = before
            && *start + bytes.len() as u64 > range.start
        {
            let start = *start;
            let at = usize::try_from(range.start - start).expect("a range is shorter than a chunk");
            let tail = bytes.split_off(at);
            let tail_end = range.start + tail.len() as u64;
            self.len -= tail.len() as u64;
            if tail_end > range.end {
                let skip = usize::try_from(range.end - range.start).expect("a range is shorter than a chunk");
                let rest = tail.get(skip..).expect("the tail is longer").to_vec();
                self.len += rest.len() as u64;
                self.ranges.insert(range.end, rest.into());
            }
        }
        while let Some((&start, _)) = self.ranges.range(range.clone()).next() {
            let bytes = self.ranges.remove(&start).expect("it was found");
            self.len -= bytes.len() as u64;
            let kept_from = usize::try_from(range.end - start).unwrap_or(usize::MAX);
            if let Some(tail) = bytes.get(kept_from..).filter(|tail| !tail.is_empty()) {
                self.len += tail.len() as u64;
                self.ranges.insert(range.end, tail.to_vec().into());
            }
        }
    }

    /// Lays what is held over `buffer`, which is the file from `offset` on.
    pub(crate) fn overlay(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        let first = self.ranges.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, bytes) in self.ranges.range(first..end) {
            lay_over(offset, buffer, *start, bytes);
        }
    }

    /// Copies of what is held of `range`.
    pub(crate) fn copy_of(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let mut copies = Vec::new();
        for (start, bytes) in self.ranges.range(first..range.end) {
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
        for (start, bytes) in self.ranges.range(first..range.end) {
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
        for (start, bytes) in self.ranges.range(first..range.end) {
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

    /// Whether a whole chunk is held.
    pub(crate) fn has_full_chunk(&self) -> bool {
        self.len >= WINDOW && self.ranges.values().any(|bytes| bytes.len() as u64 == WINDOW)
    }

    /// Takes out whole chunks, at most `limit`.
    pub(crate) fn take_full(&mut self, limit: usize) -> Vec<(u64, Bytes)> {
        let full = self.ranges.iter().filter(|(_, bytes)| bytes.len() as u64 == WINDOW);
        let starts: Vec<u64> = full.map(|(start, _)| *start).take(limit).collect();
        let taken = starts.into_iter().filter_map(|start| self.ranges.remove_entry(&start));
        let taken = taken.map(|(start, bytes)| (start, bytes.freeze())).collect();
        self.take_off(taken)
    }

    /// Takes out ranges from the lowest on, until they have `len_max` bytes or are `count_max`; at least one.
    pub(crate) fn take(&mut self, len_max: u64, count_max: usize) -> Vec<(u64, Bytes)> {
        let mut taken = Vec::new();
        let mut len = 0;
        while taken.len() < count_max
            && let Some(first) = self.ranges.first_entry()
        {
            len += first.get().len() as u64;
            if len > len_max && !taken.is_empty() {
                break;
            }
            let (start, bytes) = first.remove_entry();
            taken.push((start, bytes.freeze()));
        }
        self.take_off(taken)
    }

    fn take_off(&mut self, taken: Vec<(u64, Bytes)>) -> Vec<(u64, Bytes)> {
        self.len -= taken.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        taken
    }

    /// Puts back what was taken out, under what was written since.
    pub(crate) fn put_back(&mut self, offset: u64, bytes: &[u8]) {
        for gap in self.gaps(offset..offset + bytes.len() as u64) {
            let index = |at: u64| usize::try_from(at - offset).expect("a range is shorter than a chunk");
            let part = bytes.get(index(gap.start)..index(gap.end)).expect("a gap lies in its range");
            self.write(gap.start, part);
        }
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
pub(crate) fn pack(ranges: Vec<(u64, Bytes)>) -> Vec<Packed> {
    let mut packed: Vec<Packed> = Vec::new();
    let mut open = BytesMut::new();
    let mut parts: Vec<JournaledPart> = Vec::new();
    for (offset, bytes) in ranges {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{DirtyRanges, WINDOW, pack};

    /// A file of 3 windows' borders seen through a lens: offsets near the borders, so that ranges cross them.
    fn near_border(at: u64) -> u64 {
        WINDOW - 50 + at
    }

    proptest! {
        #[test]
        fn ranges_are_what_a_plain_array_of_bytes_says(
            steps in proptest::collection::vec((0u64..120, 1usize..60, any::<u8>(), 0u8..4), 1..60),
        ) {
            let mut ranges = DirtyRanges::default();
            let mut model: Vec<Option<u8>> = vec![None; 200];
            for (at, len, byte, what) in steps {
                let offset = near_border(at);
                let slots = at as usize..at as usize + len;
                if what == 0 {
                    ranges.cut(offset..offset + len as u64);
                    model[slots].fill(None);
                } else {
                    ranges.write(offset, &vec![byte; len]);
                    model[slots].fill(Some(byte));
                }
                let held = model.iter().flatten().count() as u64;
                prop_assert_eq!(ranges.len(), held);
                let mut buffer = vec![7; 200];
                ranges.overlay(near_border(0), &mut buffer);
                let expected: Vec<u8> = model.iter().map(|byte| byte.unwrap_or(7)).collect();
                prop_assert_eq!(&buffer, &expected);
                let end = model.iter().rposition(Option::is_some).map_or(0, |last| near_border(last as u64 + 1));
                prop_assert_eq!(ranges.end(), end);
                let gaps: u64 = ranges.gaps(near_border(0)..near_border(200)).iter().map(|gap| gap.end - gap.start).sum();
                prop_assert_eq!(gaps, 200 - held);
                prop_assert_eq!(ranges.covers(offset..offset + len as u64), what != 0);
            }
            let taken = ranges.take(u64::MAX, usize::MAX);
            prop_assert!(ranges.is_empty());
            let mut seen: Vec<Option<u8>> = vec![None; 200];
            for packed in pack(taken) {
                for part in packed.parts {
                    for step in 0..u64::from(part.len) {
                        let slot = (part.offset + step - near_border(0)) as usize;
                        prop_assert!(seen[slot].is_none());
                        seen[slot] = Some(packed.bytes[(u64::from(part.chunk_offset) + step) as usize]);
                    }
                }
            }
            prop_assert_eq!(seen, model);
        }
    }

    #[test]
    fn a_stream_gives_whole_chunks_and_what_is_put_back_lies_under_later_writes() {
        let mut ranges = DirtyRanges::default();
        for step in 0..5 {
            ranges.write(step << 20, &vec![step as u8; 1 << 20]);
        }
        assert!(ranges.has_full_chunk());
        let full = ranges.take_full(8);
        assert_eq!((full.len(), full[0].0, full[0].1.len() as u64), (1, 0, WINDOW));
        assert_eq!(ranges.len(), 1 << 20);
        ranges.write(10, b"new");
        ranges.put_back(0, &full[0].1);
        let mut start = [9; 16];
        ranges.overlay(0, &mut start);
        assert_eq!(start, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'n', b'e', b'w', 0, 0, 0]);
        assert_eq!(ranges.len(), 5 << 20);
    }
}
