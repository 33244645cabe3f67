//! What is known of where the bytes of a file are. Pure.
//!
//! # Invariants
//! - Extents never overlap; what none covers within the known range is a hole.

use std::{collections::BTreeMap, ops::Range};

use wire::namespace::{Extent, ExtentBody};

/// Extents of one data version of a file, as far as they are known.
#[derive(Clone, Debug)]
pub(crate) struct ExtentMap {
    extents: BTreeMap<u64, Extent>,
    known: Range<u64>,
}

/// Extents kept of one file: a badly fragmented one is asked about again rather than kept whole.
const EXTENTS_KEPT_MAX: usize = 20_000;

impl ExtentMap {
    /// Those of `known`, which hold every extent that touches it.
    pub(crate) fn new(known: Range<u64>, extents: Vec<Extent>) -> Self {
        let mut map = Self { extents: BTreeMap::new(), known };
        map.add(extents);
        map
    }

    /// Extents that are known.
    pub(crate) fn len(&self) -> usize {
        self.extents.len()
    }

    /// In place of what they cover: servers merge extents while the bytes, and their version, stay.
    fn add(&mut self, extents: Vec<Extent>) {
        for extent in extents {
            self.cut(extent.offset..extent.end());
            self.extents.insert(extent.offset, extent);
        }
    }

    /// Takes in what is known of another range: joined if the ranges touch, instead of the old one if not.
    pub(crate) fn learn(&mut self, known: Range<u64>, extents: Vec<Extent>) {
        let touches = known.start <= self.known.end && self.known.start <= known.end;
        if touches && self.extents.len() < EXTENTS_KEPT_MAX {
            self.known = self.known.start.min(known.start)..self.known.end.max(known.end);
            self.add(extents);
        } else {
            *self = Self::new(known, extents);
        }
    }

    /// The first offset from `start` on of which nothing is known.
    pub(crate) fn next_unknown(&self, start: u64) -> u64 {
        if self.known.contains(&start) { self.known.end } else { start }
    }

    /// The extents that touch `range`, if all of it is known.
    pub(crate) fn find(&self, range: Range<u64>) -> Option<Vec<Extent>> {
        if range.start < self.known.start || range.end > self.known.end {
            return None;
        }
        let before = self.extents.range(..range.start).next_back().filter(|(_, extent)| extent.end() > range.start);
        let inside = self.extents.range(range.start..range.end);
        Some(before.into_iter().chain(inside).map(|(_, extent)| *extent).collect())
    }

    /// Puts an extent in, in place of what it covers.
    pub(crate) fn insert(&mut self, extent: Extent) {
        self.cut(extent.offset..extent.end());
        self.extents.insert(extent.offset, extent);
        // What lies between a known range and an extent put beyond it is not known.
        if extent.offset <= self.known.end {
            self.known.end = self.known.end.max(extent.end());
        }
    }

    fn cut(&mut self, range: Range<u64>) {
        let touched = self.extents.range(..range.end).rev().take_while(|(_, extent)| extent.end() > range.start);
        let touched: Vec<Extent> = touched.map(|(_, extent)| *extent).collect();
        for extent in touched {
            self.extents.remove(&extent.offset);
            if extent.offset < range.start {
                let head = part(extent, extent.offset..range.start);
                self.extents.insert(head.offset, head);
            }
            if extent.end() > range.end {
                let tail = part(extent, range.end..extent.end());
                self.extents.insert(tail.offset, tail);
            }
        }
    }
}

/// The part of an extent that `range`, within it, covers.
fn part(extent: Extent, range: Range<u64>) -> Extent {
    let body = match extent.body {
        ExtentBody::Chunk(slice) => {
            let narrow = |number: u64| u32::try_from(number).expect("a part is no longer than its chunk");
            let offset = slice.offset + narrow(range.start - extent.offset);
            ExtentBody::Chunk(wire::namespace::ChunkSlice { offset, len: narrow(range.end - range.start), ..slice })
        }
        ExtentBody::Unwritten { .. } => ExtentBody::Unwritten { len: range.end - range.start },
    };
    Extent { offset: range.start, body }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};
    use ring::ChunkKey;
    use wire::namespace::{ChunkSlice, Extent, ExtentBody};

    use super::ExtentMap;

    fn chunk(offset: u64, len: u32, number: u8) -> Extent {
        let slice = ChunkSlice { key: ChunkKey::from_bytes([number; 32]), chunk_len: 1 << 20, offset: 100, len };
        Extent { offset, body: ExtentBody::Chunk(slice) }
    }

    proptest! {
        #[test]
        fn an_insert_replaces_what_it_covers_and_nothing_else(
            inserts in proptest::collection::vec((0u64..100, 1u32..40), 1..40),
        ) {
            let mut map = ExtentMap::new(0..u64::MAX, Vec::new());
            let mut model: Vec<Option<(u8, u64)>> = vec![None; 150];
            for (number, (offset, len)) in inserts.into_iter().enumerate() {
                let number = number as u8;
                map.insert(chunk(offset, len, number));
                for step in 0..u64::from(len) {
                    model[(offset + step) as usize] = Some((number, 100 + step));
                }
                let mut seen: Vec<Option<(u8, u64)>> = vec![None; 150];
                for extent in map.find(0..150).unwrap() {
                    let ExtentBody::Chunk(slice) = extent.body else { panic!("only chunks were put in") };
                    for step in 0..u64::from(slice.len) {
                        seen[(extent.offset + step) as usize] = Some((slice.key.as_bytes()[0], u64::from(slice.offset) + step));
                    }
                }
                prop_assert_eq!(&seen, &model);
            }
        }
    }

    #[test]
    fn what_was_merged_between_two_looks_is_found_once() {
        let mut map = ExtentMap::new(0..60, (0..6).map(|at| chunk(at * 10, 10, at as u8)).collect());
        map.learn(60..200, vec![chunk(20, 100, 9)]);
        let found: Vec<(u64, u64)> =
            map.find(0..200).unwrap().iter().map(|extent| (extent.offset, extent.end())).collect();
        assert_eq!(found, [(0, 10), (10, 20), (20, 120)]);
        map.learn(0..60, vec![chunk(0, 30, 8)]);
        let found: Vec<(u64, u64)> =
            map.find(0..200).unwrap().iter().map(|extent| (extent.offset, extent.end())).collect();
        assert_eq!(found, [(0, 30), (30, 120)]);
    }

    /// One answer tells of a thousand extents; a range that has more is learnt bit by bit.
    #[test]
    fn what_is_asked_for_next_is_what_is_not_known_yet() {
        let mut map = ExtentMap::new(10..20, vec![chunk(10, 10, 1)]);
        assert_eq!([0, 10, 19, 20, 25].map(|start| map.next_unknown(start)), [0, 20, 20, 20, 25]);
        map.learn(20..30, vec![chunk(20, 10, 2)]);
        assert_eq!(map.next_unknown(10), 30);
    }

    #[test]
    fn what_is_not_known_is_not_found() {
        let mut map = ExtentMap::new(100..200, vec![chunk(150, 10, 1)]);
        assert_eq!(map.find(90..110), None);
        assert_eq!(map.find(100..200).unwrap().len(), 1);
        map.learn(200..300, vec![chunk(250, 10, 2)]);
        assert_eq!(map.find(100..300).unwrap().len(), 2);
        map.learn(1000..1100, Vec::new());
        assert_eq!(map.find(100..300), None, "far ranges are not joined");
        assert_eq!(map.find(1000..1100).unwrap(), []);
    }
}
