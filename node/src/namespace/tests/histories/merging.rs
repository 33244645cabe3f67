//! What the leader does about short extents, and what it must not be able to do.

use rand::{Rng, seq::IteratorRandom};
use ring::{Epoch, GcEpoch};
use wire::namespace::{ChunkSlice, Extent, ExtentBody, Inode, NewExtent};

use super::{History, Kind, cells_of};
use crate::namespace::{
    CommandBody, RunDigest,
    tests::{harness::chunk, model::Kept},
};

impl History {
    pub(super) fn merge(&mut self) {
        let files = self
            .model
            .nodes
            .iter()
            .filter(|(_, node)| matches!(&node.kind, Kind::File(file) if file.kept == Kept::Extents));
        let Some(inode) = files.map(|(inode, _)| Inode(*inode)).choose(&mut self.random) else { return };
        let extents = self.machine.extents(inode);
        if extents.is_empty() {
            return;
        }
        let from = self.random.random_range(0..extents.len());
        let to = self.random.random_range(from..extents.len());
        let part = &extents[from..=to];
        let end = part[part.len() - 1].end();
        let mut pieces: Vec<(u64, ChunkSlice)> = part.iter().filter_map(slice_of).collect();
        let touch = part.windows(2).all(|pair| pair[0].end() == pair[1].offset) && pieces.len() == part.len();
        let is_stale = self.flip(30);
        if is_stale && let Some((_, slice)) = pieces.first_mut() {
            // As if a byte of it had been another one when it was read.
            slice.offset ^= 1;
        }
        let len = u32::try_from(end - part[0].offset).unwrap();
        // Now and then the chunk is one that other files have, too.
        let key = chunk(self.random.random_range(0..100));
        let merged = NewExtent {
            offset: part[0].offset,
            slice: ChunkSlice { key, chunk_len: len, offset: 0, len },
            epoch: Epoch(1),
            gc: GcEpoch(1),
        };
        let replaced = RunDigest::of(&pieces);
        let before = (self.machine.attr(inode), self.machine.usage(), self.machine.rows.pairs());
        self.machine.propose(CommandBody::Merge { inode, merged, replaced });
        if !touch || is_stale {
            assert_eq!(self.machine.rows.pairs(), before.2, "what was not read was replaced");
            return;
        }
        self.chunks.insert(key);
        self.put.insert(key);
        assert_eq!((self.machine.attr(inode), self.machine.usage()), (before.0, before.1), "a merge can be seen");
        self.model.replace(inode.0, &merged);
        assert_eq!(self.machine.extents(inode).len(), extents.len() - part.len() + 1);
        // Other places, the same bytes: the version stays.
        let cells = cells_of(&self.machine, inode);
        if let Some((_, seen)) = self.seen.get_mut(&inode.0) {
            *seen = cells;
        }
        self.compare_content(inode);
    }
}

fn slice_of(extent: &Extent) -> Option<(u64, ChunkSlice)> {
    match extent.body {
        ExtentBody::Chunk(slice) => Some((extent.offset, slice)),
        ExtentBody::Unwritten { .. } => None,
    }
}
