//! What the bytes of a range of a file are made of: slices of chunks, and zeros between. Pure.

use std::time::{Duration, Instant};

use wire::namespace::{ChunkSlice, Extent, ExtentBody, MERGED_LEN_MAX};

/// Zeros are handed out in pieces of a chunk's length, so that a hole of a terabyte needs no memory.
const ZEROS_LEN_MAX: u64 = wire::CHUNK_LEN_MAX as u64;

/// How long what was told of such extents is used: half as long as their chunks stay, at least, once nobody names them.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// Whether a server may have merged the extent of which `slice` is, which was told of at `told`, so long ago that its chunk may
/// be gone at `now`.
pub(crate) fn may_be_merged(slice: &ChunkSlice, told: Instant, now: Instant) -> bool {
    slice.len < MERGED_LEN_MAX && now.saturating_duration_since(told) > TOLD_MAX
}

/// A part of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Piece {
    /// Bytes of a chunk.
    Data { offset: u64, slice: ChunkSlice },
    /// A hole, or room that was never written.
    Zeros { offset: u64, len: u64 },
}

impl Piece {
    /// Where it begins, and the bytes of a chunk that it is.
    pub(crate) fn data(&self) -> Option<(u64, ChunkSlice)> {
        match *self {
            Self::Data { offset, slice } => Some((offset, slice)),
            Self::Zeros { .. } => None,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Data { slice, .. } => u64::from(slice.len),
            Self::Zeros { len, .. } => *len,
        }
    }
}

/// The pieces of `start..end` of a file, in order and without gaps, from a page of extents that touch the range.
/// Extents that are no extents (unsound, out of order) end it: none is returned.
pub(crate) fn pieces(extents: &[Extent], start: u64, end: u64) -> Option<Vec<Piece>> {
    let mut pieces = Vec::with_capacity(extents.len());
    let mut at = start;
    let mut highest = 0;
    for extent in extents {
        if extent.offset < highest || extent.is_empty() {
            return None;
        }
        highest = extent.end();
        let (from, to) = (extent.offset.max(start), extent.end().min(end));
        if from >= to {
            continue;
        }
        match extent.body {
            ExtentBody::Unwritten { .. } => continue,
            ExtentBody::Chunk(slice) => {
                if !slice.is_sound() {
                    return None;
                }
                zeros(&mut pieces, at, from);
                let skipped = u32::try_from(from - extent.offset).ok()?;
                let len = u32::try_from(to - from).ok()?;
                let slice = ChunkSlice { offset: slice.offset + skipped, len, ..slice };
                pieces.push(Piece::Data { offset: from, slice });
                at = to;
            }
        }
    }
    zeros(&mut pieces, at, end);
    Some(pieces)
}

fn zeros(pieces: &mut Vec<Piece>, from: u64, to: u64) {
    if from < to {
        pieces.push(Piece::Zeros { offset: from, len: to - from });
    }
}

/// A long run of zeros in parts that fit in memory.
pub(crate) fn split_zeros(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let parts = len.div_ceil(ZEROS_LEN_MAX);
    (0..parts).map(move |part| {
        let from = part * ZEROS_LEN_MAX;
        Piece::Zeros { offset: offset + from, len: (len - from).min(ZEROS_LEN_MAX) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use ring::ChunkKey;
    use wire::namespace::{ChunkSlice, Extent, ExtentBody};

    use super::{Piece, pieces, split_zeros};

    fn chunk(offset: u64, len: u32, skip: u32) -> Extent {
        let key = ChunkKey::of(&offset.to_le_bytes());
        Extent { offset, body: ExtentBody::Chunk(ChunkSlice { key, chunk_len: skip + len, offset: skip, len }) }
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_exactly_and_data_comes_from_the_right_place(
            gaps in proptest::collection::vec((0u64..50, 1u32..50, 0u32..9, any::<bool>()), 0..20),
            start in 0u64..600, len in 0u64..900,
        ) {
            let mut at = 0;
            let extents: Vec<Extent> = gaps.iter().map(|&(gap, len, skip, written)| {
                let offset = at + gap;
                at = offset + u64::from(len);
                if written { chunk(offset, len, skip) }
                else { Extent { offset, body: ExtentBody::Unwritten { len: u64::from(len) } } }
            }).collect();
            let end = start + len;
            let mut next = start;
            for piece in pieces(&extents, start, end).unwrap() {
                let offset = match piece {
                    Piece::Zeros { offset, .. } => offset,
                    Piece::Data { offset, slice } => {
                        let of = extents.iter().find(|extent| extent.offset <= offset && offset < extent.end()).unwrap();
                        let ExtentBody::Chunk(whole) = of.body else { panic!("data from a hole") };
                        prop_assert_eq!(slice.key, whole.key);
                        prop_assert_eq!(u64::from(slice.offset), u64::from(whole.offset) + offset - of.offset);
                        prop_assert!(slice.is_sound() && offset + u64::from(slice.len) <= of.end());
                        offset
                    }
                };
                prop_assert_eq!(offset, next);
                prop_assert!(piece.len() > 0);
                next += piece.len();
            }
            prop_assert_eq!(next, end.max(start));
        }
    }

    #[test]
    fn extents_that_overlap_or_leave_their_chunk_are_refused() {
        assert_eq!(pieces(&[chunk(0, 10, 0), chunk(5, 10, 0)], 0, 20), None);
        let mut bad = chunk(0, 10, 0);
        bad.body = ExtentBody::Chunk(ChunkSlice { key: ChunkKey::of(b""), chunk_len: 5, offset: 0, len: 10 });
        assert_eq!(pieces(&[bad], 0, 10), None);
        assert_eq!(pieces(&[Extent { offset: 0, body: ExtentBody::Unwritten { len: 0 } }], 0, 10), None);
    }

    #[test]
    fn a_hole_of_a_terabyte_is_handed_out_in_parts() {
        let mut next = 5;
        for piece in split_zeros(5, (1 << 40) + 1) {
            let Piece::Zeros { offset, len } = piece else { panic!("zeros are zeros") };
            assert!(offset == next && len > 0 && len <= 4 << 20);
            next += len;
        }
        assert_eq!(next, 5 + (1 << 40) + 1);
    }
}
