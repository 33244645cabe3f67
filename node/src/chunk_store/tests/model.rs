//! What a store may answer after a history, as a map of keys.

use std::collections::BTreeMap;

use ring::{ChunkKey, GcEpoch};
use wire::chunk::Incarnation;

/// What is known of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Known {
    /// It was acknowledged as stable, with at least this stamp.
    Held { stamp_min: GcEpoch },
    /// It was never put, or acknowledged as deleted.
    Absent,
    /// A put or a deletion was not acknowledged: both are right.
    Either,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    known: BTreeMap<ChunkKey, Known>,
    /// The highest stamp ever given.
    stamp_max: BTreeMap<ChunkKey, GcEpoch>,
    /// Accepted, and stable only by a sync of the same incarnation.
    buffered: Vec<(ChunkKey, GcEpoch, Incarnation)>,
}

impl Model {
    pub(super) fn known(&self, key: &ChunkKey) -> Known {
        self.known.get(key).copied().unwrap_or(Known::Absent)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&ChunkKey, &Known)> {
        self.known.iter()
    }

    pub(super) fn stamp_max(&self, key: &ChunkKey) -> GcEpoch {
        self.stamp_max.get(key).copied().unwrap_or_default()
    }

    /// Somebody has asked for this stamp, whatever came of it.
    pub(super) fn tried_stamp(&mut self, key: ChunkKey, stamp: GcEpoch) {
        let max = self.stamp_max.entry(key).or_default();
        *max = stamp.max(*max);
    }

    pub(super) fn is_held(&mut self, key: ChunkKey, stamp: GcEpoch) {
        let stamp_min = match self.known(&key) {
            Known::Held { stamp_min } => stamp_min.max(stamp),
            Known::Absent | Known::Either => stamp,
        };
        self.known.insert(key, Known::Held { stamp_min });
    }

    pub(super) fn is_buffered(&mut self, key: ChunkKey, stamp: GcEpoch, incarnation: Incarnation) {
        self.put_failed(key);
        self.buffered.push((key, stamp, incarnation));
    }

    /// A put that was not acknowledged may have happened.
    pub(super) fn put_failed(&mut self, key: ChunkKey) {
        if self.known(&key) == Known::Absent {
            self.known.insert(key, Known::Either);
        }
    }

    pub(super) fn synced(&mut self, incarnation: Incarnation) {
        for (key, stamp, of) in std::mem::take(&mut self.buffered) {
            if of == incarnation {
                self.is_held(key, stamp);
            }
        }
    }

    pub(super) fn forgotten(&mut self, key: ChunkKey) {
        self.known.insert(key, Known::Absent);
        self.stamp_max.remove(&key);
        self.buffered.retain(|(buffered, _, _)| *buffered != key);
    }

    /// A deletion that was not acknowledged may have happened.
    pub(super) fn forget_failed(&mut self, key: ChunkKey) {
        if self.known(&key) != Known::Absent {
            self.known.insert(key, Known::Either);
        }
        self.buffered.retain(|(buffered, _, _)| *buffered != key);
    }

    pub(super) fn crashed(&mut self) {
        self.buffered.clear();
    }
}
