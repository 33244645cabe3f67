//! Records that are in the log and not yet in the index. Pure.
//!
//! # Invariants
//! - The queue is in the order of the log; the row of a key is its row in the index with its queued records merged in.
//!
//! # Not here
//! How many there may be (`ChunkStoreConfig::pending_max`); what is stable ([`super::shared`]).

use std::collections::{BTreeMap, VecDeque};

use ring::ChunkKey;

use super::row::Row;
use super::segment::SegmentRecord;
use crate::append_log::{Appended, Position};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    queue: VecDeque<SegmentRecord>,
    rows: BTreeMap<ChunkKey, PendingRow>,
}

/// A key with queued records.
#[derive(Clone, Debug)]
pub(super) struct PendingRow {
    pub(super) row: Option<Row>,
    /// The newest of its records.
    pub(super) last: Appended,
    records: usize,
}

impl Pending {
    /// The key's row, if it has queued records.
    pub(super) fn row(&self, key: &ChunkKey) -> Option<&PendingRow> {
        self.rows.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Queues a record; `row` is what the key amounts to with it.
    pub(super) fn push(&mut self, record: SegmentRecord, appended: Appended, row: Option<Row>) {
        let records = self.rows.get(&record.key).map_or(0, |pending| pending.records) + 1;
        self.rows.insert(record.key, PendingRow { row, last: appended, records });
        self.queue.push_back(record);
    }

    /// The oldest records before `until`, at most `count_max` of them.
    pub(super) fn before(&self, until: Position, count_max: usize) -> Vec<SegmentRecord> {
        self.queue.iter().take(count_max).take_while(|record| record.at < until).copied().collect()
    }

    /// Forgets the oldest `count` records: they are in the index.
    pub(super) fn forget_first(&mut self, count: usize) {
        for record in self.queue.drain(..count) {
            let pending = self.rows.get_mut(&record.key).expect("a queued record has a row");
            pending.records -= 1;
            if pending.records == 0 {
                self.rows.remove(&record.key);
            }
        }
    }

    /// Forgets everything: it was cut from the log.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.rows.clear();
    }
}
