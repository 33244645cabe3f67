//! Which extents are worth merging, and which of them have rested. Pure.
//!
//! # Invariants
//! - A run is extents of one file that touch each other, each shorter than [`MERGED_LEN_MAX`], at least [`MERGED_MIN`] of
//!   them and at most [`MERGED_MAX`], [`PIECE_LEN`] long on average at most.
//! - A run begins and ends where its window does, or where its extents end: what changes in one window moves nothing in
//!   another.

use std::collections::{BTreeMap, BTreeSet};

use ring::ChunkKey;
use wire::namespace::{ChunkSlice, Extent, ExtentBody, Inode, MERGED_LEN_MAX, MERGED_MIN};

use crate::namespace::{MERGED_MAX, References, RunDigest};

/// Extents that are longer on average are not worth it: a page that is written into a merged window would soon have it merged
/// again.
const PIECE_LEN: u64 = 16 << 10;

/// Aligned ranges of a file in which runs lie, but for the end of their last extent. One page that changes in a merged
/// window costs at most so many bytes once more.
const WINDOW: u64 = 1 << 20;

/// Bits in which a walk remembers the runs that it found: 1 MiB, enough for a million.
const NOTED_BITS: usize = 8 << 20;

/// Extents of a file that can become one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) inode: Inode,
    /// Each with its offset; never empty.
    pub(super) pieces: Vec<(u64, ChunkSlice)>,
}

impl Run {
    /// Where it begins.
    pub(super) fn offset(&self) -> u64 {
        self.pieces.first().map_or(0, |(offset, _)| *offset)
    }

    /// Where it ends.
    pub(super) fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |(offset, slice)| offset + u64::from(slice.len))
    }

    pub(super) fn digest(&self) -> RunDigest {
        RunDigest::of(&self.pieces)
    }

    /// Whether its pieces are many, and short enough.
    fn is_worth_it(&self) -> bool {
        let (count, len) = (self.pieces.len(), self.end() - self.offset());
        count >= MERGED_MIN && len <= PIECE_LEN * count as u64
    }

    /// Whether merging it at most doubles what is kept, and copies nothing that another file has part in. `references` says
    /// who refers to a chunk.
    pub(super) fn is_kept_alone<E>(
        &self,
        mut references: impl FnMut(&ChunkKey) -> Result<References, E>,
    ) -> Result<bool, E> {
        let mut chunks: BTreeMap<&ChunkKey, Vec<&ChunkSlice>> = BTreeMap::new();
        for (_, slice) in &self.pieces {
            chunks.entry(&slice.key).or_default().push(slice);
        }
        let mut kept = 0;
        for (key, slices) in chunks {
            let References { files, extents } = references(key)?;
            if files > 1 {
                return Ok(false);
            }
            // Other extents of a chunk that was written for many ranges at once are of other parts of it.
            let all_here = extents == slices.len() as u64;
            if all_here || slices.iter().all(|slice| slice.len < slice.chunk_len) {
                let parts: BTreeSet<(u32, u32)> = slices.iter().map(|slice| (slice.offset, slice.len)).collect();
                kept += parts.into_iter().map(|(_, len)| u64::from(len)).sum::<u64>();
            }
        }
        Ok(self.end() - self.offset() <= 2 * kept)
    }

    fn takes(&self, inode: Inode, offset: u64) -> bool {
        let is_next = self.inode == inode && self.end() == offset && self.pieces.len() < MERGED_MAX;
        is_next && self.offset() / WINDOW == offset / WINDOW
    }
}

/// Finds runs among extents that come in order of inode and offset.
#[derive(Debug, Default)]
pub(super) struct Runs {
    open: Option<Run>,
}

impl Runs {
    /// The next extent; the run that has ended before it, if one has.
    pub(super) fn push(&mut self, inode: Inode, extent: Extent) -> Option<Run> {
        let slice = match extent.body {
            ExtentBody::Chunk(slice) if slice.len < MERGED_LEN_MAX => Some(slice),
            ExtentBody::Chunk(_) | ExtentBody::Unwritten { .. } => None,
        };
        let piece = slice.map(|slice| (extent.offset, slice));
        if let (Some(open), Some(piece)) = (&mut self.open, piece)
            && open.takes(inode, extent.offset)
        {
            open.pieces.push(piece);
            return None;
        }
        let ended = self.finish();
        self.open = piece.map(|piece| Run { inode, pieces: vec![piece] });
        ended
    }

    /// The run that ends with the last extent.
    pub(super) fn finish(&mut self) -> Option<Run> {
        self.open.take().filter(Run::is_worth_it)
    }
}

/// The runs of the walk before, and of this one: a bit for each, where its digest points to. Two that point to one bit are
/// merged a walk too early, no more.
#[derive(Debug)]
pub(super) struct Noted {
    before: Vec<u64>,
    now: Vec<u64>,
}

impl Default for Noted {
    fn default() -> Self {
        let none = vec![0; NOTED_BITS / 64];
        Self { before: none.clone(), now: none }
    }
}

impl Noted {
    /// Whether the walk before has found the run as it is. It is noted for the one after.
    pub(super) fn has_rested(&mut self, run: &Run) -> bool {
        let RunDigest(digest) = run.digest();
        let number = digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) ^ run.inode.0;
        let bit = (number % NOTED_BITS as u64) as usize;
        let (word, mask) = (bit / 64, 1 << (bit % 64));
        self.now[word] |= mask;
        self.before[word] & mask != 0
    }

    /// A walk has ended.
    pub(super) fn turn(&mut self) {
        std::mem::swap(&mut self.before, &mut self.now);
        self.now.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert_eq, proptest};
    use ring::ChunkKey;
    use wire::namespace::{ChunkSlice, Extent, ExtentBody, Inode};

    use super::{MERGED_LEN_MAX, MERGED_MAX, MERGED_MIN, Noted, PIECE_LEN, References, Run, Runs, WINDOW};

    fn chunk(offset: u64, len: u32, number: u8) -> Extent {
        let slice = ChunkSlice {
            key: ChunkKey::from_bytes([number; 32]),
            chunk_len: 4 << 20,
            offset: (offset % 100_000) as u32,
            len,
        };
        Extent { offset, body: ExtentBody::Chunk(slice) }
    }

    fn found(extents: &[(Inode, Extent)]) -> Vec<Run> {
        let mut runs = Runs::default();
        let mut found: Vec<Run> = extents.iter().filter_map(|(inode, extent)| runs.push(*inode, *extent)).collect();
        found.extend(runs.finish());
        found
    }

    fn pages(count: u64, from: u64) -> Vec<(Inode, Extent)> {
        (0..count).map(|at| (Inode(9), chunk(from + at * 4096, 4096, at as u8))).collect()
    }

    #[test]
    fn many_short_extents_that_touch_are_a_run_and_others_are_not() {
        let ends = |extents: &[(Inode, Extent)]| {
            found(extents).iter().map(|run| (run.offset(), run.end())).collect::<Vec<_>>()
        };
        assert_eq!(ends(&pages(MERGED_MIN as u64, 0)), [(0, MERGED_MIN as u64 * 4096)]);
        assert_eq!(ends(&pages(MERGED_MIN as u64 - 1, 0)), []);
        assert_eq!(ends(&pages(300, 0)), [(0, WINDOW), (WINDOW, 300 * 4096)], "each window by itself");
        let mut holed = pages(40, 0);
        holed.remove(20);
        assert_eq!(ends(&holed), [(0, 20 * 4096), (21 * 4096, 40 * 4096)], "nothing is laid over a hole");
        let mut long = pages(40, 0);
        long.splice(8..24, [(Inode(9), chunk(8 * 4096, MERGED_LEN_MAX, 1))]);
        assert_eq!(ends(&long), [(24 * 4096, 40 * 4096)], "long ones stay");
        let mut unwritten = pages(40, 0);
        unwritten[20].1.body = ExtentBody::Unwritten { len: 4096 };
        assert_eq!(ends(&unwritten).len(), 2, "what was never written stays so");
        let mut files = pages(20, 0);
        files.extend(pages(40, 20 * 4096).into_iter().map(|(_, extent)| (Inode(10), extent)));
        assert_eq!(ends(&files), [(0, 20 * 4096), (20 * 4096, 60 * 4096)], "each file by itself");
        let bytes: Vec<_> = (0..2000).map(|at| (Inode(9), chunk(at * 3, 3, 0))).collect();
        let most = MERGED_MAX as u64 * 3;
        let longer: Vec<_> = (0..40).map(|at| (Inode(9), chunk(at * 20_000, 20_000, at as u8))).collect();
        assert_eq!(ends(&longer), []);
        assert_eq!(ends(&bytes), [(0, most), (most, 2 * most), (2 * most, 3 * most), (3 * most, 6000)]);
    }

    /// Extents of some files with gaps between, long ones and unwritten ones among them.
    fn layouts() -> impl Strategy<Value = Vec<(Inode, Extent)>> {
        let lens = prop::sample::select(vec![
            1u32,
            100,
            4096,
            4096,
            4096,
            30_000,
            MERGED_LEN_MAX - 1,
            MERGED_LEN_MAX,
            1 << 20,
        ]);
        let extent = (lens, prop::sample::select(vec![0u64, 0, 0, 0, 0, 0, 0, 0, 1, 5000]), 0..30u8, any::<u8>());
        prop::collection::vec((1..4usize, prop::collection::vec(extent, 1..300)), 1..4).prop_map(|files| {
            let mut all = Vec::new();
            for (at, (_, extents)) in files.into_iter().enumerate() {
                let mut offset = 0;
                for (len, gap, kind, number) in extents {
                    offset += gap;
                    let mut extent = chunk(offset, len, number);
                    if kind == 0 {
                        extent.body = ExtentBody::Unwritten { len: len.into() };
                    }
                    offset += u64::from(len);
                    all.push((Inode(at as u64), extent));
                }
            }
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Cut wherever two neighbours do not go together; what is long enough then is a run.
        #[test]
        fn runs_are_those_that_a_look_at_all_neighbours_finds(extents in layouts()) {
            let short = |extent: &Extent| match extent.body {
                ExtentBody::Chunk(slice) if slice.len < MERGED_LEN_MAX => Some(slice),
                _ => None,
            };
            let mut groups: Vec<Run> = Vec::new();
            for (inode, extent) in &extents {
                let Some(slice) = short(extent) else {
                    groups.push(Run { inode: *inode, pieces: Vec::new() });
                    continue;
                };
                let piece = (extent.offset, slice);
                match groups.last_mut() {
                    Some(Run { inode: of, pieces }) if of == inode && pieces.last().is_some_and(|(offset, slice)| {
                        offset + u64::from(slice.len) == extent.offset
                            && pieces[0].0 / WINDOW == extent.offset / WINDOW
                            && pieces.len() < MERGED_MAX
                    }) => pieces.push(piece),
                    _ => groups.push(Run { inode: *inode, pieces: vec![piece] }),
                }
            }
            groups.retain(|run| {
                let len: u64 = run.pieces.iter().map(|(_, slice)| u64::from(slice.len)).sum();
                let count = run.pieces.len();
                count >= MERGED_MIN && len.div_ceil(count as u64) <= PIECE_LEN
            });
            prop_assert_eq!(found(&extents), groups);
        }
    }

    #[test]
    fn what_is_kept_once_stays_so() {
        let alone = |slices: &[(u8, u32, u32)], references: fn(&ChunkKey) -> References| {
            let slice = |(number, offset, len)| ChunkSlice {
                key: ChunkKey::from_bytes([number; 32]),
                chunk_len: 10,
                offset,
                len,
            };
            let piece = |(at, of): (usize, &(u8, u32, u32))| (at as u64 * 10, slice(*of));
            let run = Run { inode: Inode(9), pieces: slices.iter().enumerate().map(piece).collect() };
            run.is_kept_alone(|key| Ok::<_, ()>(references(key))).unwrap()
        };
        let own = |_: &ChunkKey| References { files: 1, extents: 1 };
        assert!(alone(&[(1, 0, 10), (2, 0, 10), (3, 0, 10)], own));
        let shared = |key: &ChunkKey| References { files: 1 + u64::from(key.as_bytes()[0] == 2), extents: 1 };
        assert!(!alone(&[(1, 0, 10), (2, 0, 10), (3, 0, 10)], shared), "another file has it, too");
        let thrice = |_: &ChunkKey| References { files: 1, extents: 3 };
        assert!(!alone(&[(1, 0, 10), (1, 0, 10), (1, 0, 10)], thrice), "the same bytes again and again");
        assert!(!alone(&[(1, 0, 10), (2, 0, 10), (3, 0, 10)], thrice), "and elsewhere in the file");
        assert!(alone(&[(1, 0, 5), (1, 5, 5)], |_| References { files: 1, extents: 2 }));
        assert!(alone(&[(1, 0, 5), (2, 5, 5)], thrice), "other parts of what was written at once are elsewhere");
    }

    #[test]
    fn a_run_has_rested_once_two_walks_have_found_it_alike() {
        let run = |number| Run {
            inode: Inode(9),
            pieces: vec![(
                0,
                ChunkSlice { key: ChunkKey::from_bytes([number; 32]), chunk_len: 10, offset: 0, len: 10 },
            )],
        };
        let mut noted = Noted::default();
        assert!(!noted.has_rested(&run(1)));
        assert!(!noted.has_rested(&run(1)), "not by the same walk");
        noted.turn();
        assert!(!noted.has_rested(&run(2)), "it has changed");
        noted.turn();
        assert!(noted.has_rested(&run(2)));
        noted.turn();
        assert!(noted.has_rested(&run(2)), "it could not be merged, and is tried again");
        noted.turn();
        noted.turn();
        assert!(!noted.has_rested(&run(2)), "a walk has not found it");
    }
}
