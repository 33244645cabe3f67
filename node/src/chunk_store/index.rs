//! Rows in the key-value store: derived from the segments, possibly behind them, never ahead of what is stable.
//!
//! | key | value |
//! |---|---|
//! | `m` | [`Meta`] |
//! | `s` generation file | bytes of the file that must stay |
//! | `c` generation key | [`Row`] |
//!
//! # Invariants
//! - Rows, the bytes that live in each file, and the position reached change in one batch.
//! - Each build of the index has a generation of its own, so that a half-built one is never taken for whole, and the
//!   one before is there to compare with.
//!
//! # Not here
//! What rows mean ([`super::row`]); when the index is built again ([`super::recovery`]).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ring::ChunkKey;
use serde::{Deserialize, Serialize};

use super::row::{Row, merge};
use super::segment::SegmentRecord;
use crate::append_log::{FileId, Position};
use crate::kv::{KvError, KvStore, WriteBatch};

/// Format of the rows; another one means: build the index again.
pub(super) const FORMAT: u8 = 1;

const META: &[u8] = b"m";

/// Rows that are removed in one batch.
const CLEAR_BATCH: usize = 4096;

/// How far the index has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) format: u8,
    pub(super) generation: u8,
    pub(super) phase: Phase,
    /// Every record before this position is in the rows.
    pub(super) reached: Position,
    /// Chunks held.
    pub(super) chunks: u64,
}

/// Whether the rows can be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum Phase {
    Building,
    Built,
}

/// What is counted beside the rows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Tally {
    /// Bytes of each file that must stay.
    pub(super) live: BTreeMap<FileId, u64>,
    pub(super) chunks: u64,
    pub(super) reached: Position,
}

/// The rows of one generation; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) kv: Arc<dyn KvStore>,
    pub(super) generation: u8,
}

impl Index {
    pub(super) fn meta(kv: &dyn KvStore) -> Result<Option<Meta>, KvError> {
        // What cannot be read is not there: the index is built again.
        Ok(kv.get(META)?.and_then(|bytes| postcard::from_bytes(&bytes).ok()))
    }

    pub(super) fn row(&self, key: &ChunkKey) -> Result<Option<Row>, KvError> {
        self.kv.get(&self.row_key(key))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Shows the rows from `from` to `to` in order of key; without an end, all that follow.
    pub(super) fn scan(
        &self,
        from: &ChunkKey,
        to: Option<&ChunkKey>,
        mut visit: impl FnMut(ChunkKey, Row) -> ControlFlow<()>,
    ) -> Result<(), KvError> {
        let end = to.map_or_else(
            || vec![b'c', self.generation, 0xff].into_iter().chain([0xff; 32]).collect(),
            |to| self.row_key(to),
        );
        let mut failure = None;
        self.kv.scan(&self.row_key(from), &end, &mut |key, bytes| match (key[2..].try_into(), decode(bytes)) {
            (Ok(key), Ok(row)) => visit(ChunkKey::from_bytes(key), row),
            (_, Err(error)) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
            (Err(_), Ok(_)) => ControlFlow::Continue(()),
        })?;
        failure.map_or(Ok(()), Err)
    }

    pub(super) fn tally(&self, meta: &Meta) -> Result<Tally, KvError> {
        let mut tally = Tally { live: BTreeMap::new(), chunks: meta.chunks, reached: meta.reached };
        let (from, to) =
            ([b's', self.generation], [b's', self.generation, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let mut failure = None;
        self.kv.scan(&from, &to, &mut |key, bytes| match (key[2..].try_into(), decode(bytes)) {
            (Ok(file), Ok(live)) => {
                tally.live.insert(FileId(u64::from_be_bytes(file)), live);
                ControlFlow::Continue(())
            }
            (_, Err(error)) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
            (Err(_), Ok(_)) => ControlFlow::Continue(()),
        })?;
        failure.map_or(Ok(tally), Err)
    }

    /// Writes how far the index has come, alone.
    pub(super) fn set_phase(&self, phase: Phase, tally: &Tally) -> Result<(), KvError> {
        let mut batch = WriteBatch::default();
        batch.put(META, encode(&self.meta_of(phase, tally.reached, tally.chunks)));
        self.kv.commit(batch)
    }

    /// Removes every row of this generation.
    pub(super) fn clear(&self) -> Result<(), KvError> {
        for prefix in [b's', b'c'] {
            let (from, to) = ([prefix, self.generation], [prefix, self.generation, 0xff].into_iter().chain([0xff; 32]));
            let to: Vec<u8> = to.collect();
            loop {
                let mut batch = WriteBatch::default();
                self.kv.scan(&from, &to, &mut |key, _| {
                    batch.remove(key);
                    if batch.changes.len() < CLEAR_BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
                if batch.changes.is_empty() {
                    break;
                }
                self.kv.commit(batch)?;
            }
        }
        Ok(())
    }

    /// The file is gone: so is its count.
    pub(super) fn forget_file(&self, file: FileId, tally: &mut Tally) -> Result<(), KvError> {
        let mut batch = WriteBatch::default();
        batch.remove(self.file_key(file));
        self.kv.commit(batch)?;
        tally.live.remove(&file);
        Ok(())
    }

    fn meta_of(&self, phase: Phase, reached: Position, chunks: u64) -> Meta {
        Meta { format: FORMAT, generation: self.generation, phase, reached, chunks }
    }

    fn row_key(&self, key: &ChunkKey) -> Vec<u8> {
        [b'c', self.generation].into_iter().chain(*key.as_bytes()).collect()
    }

    fn file_key(&self, file: FileId) -> Vec<u8> {
        [b's', self.generation].into_iter().chain(file.0.to_be_bytes()).collect()
    }
}

/// Changes of rows that go into the index together.
pub(super) struct Fold<'a> {
    index: &'a Index,
    phase: Phase,
    /// Each row as it was and as it will be.
    rows: BTreeMap<ChunkKey, (Option<Row>, Option<Row>)>,
    reached: Position,
}

impl<'a> Fold<'a> {
    pub(super) fn new(index: &'a Index, phase: Phase, tally: &Tally) -> Self {
        Self { index, phase, rows: BTreeMap::new(), reached: tally.reached }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Merges a record into the row of its key.
    pub(super) fn apply(&mut self, record: &SegmentRecord) -> Result<(), KvError> {
        self.change(&record.key, |row| merge(row, record))?;
        self.reached = self.reached.max(Position { file: record.at.file, offset: record.at.offset + 1 });
        Ok(())
    }

    /// Changes a row.
    pub(super) fn change(
        &mut self,
        key: &ChunkKey,
        change: impl FnOnce(Option<Row>) -> Option<Row>,
    ) -> Result<(), KvError> {
        if !self.rows.contains_key(key) {
            let row = self.index.row(key)?;
            self.rows.insert(*key, (row.clone(), row));
        }
        let (_, row) = self.rows.get_mut(key).expect("inserted above");
        *row = change(row.take());
        Ok(())
    }

    /// Writes the changes and counts them. `exists` says whether a file is still there: shadows of others are dropped,
    /// and so is a deletion whose last shadow that was.
    pub(super) fn commit(self, tally: &mut Tally, exists: impl Fn(FileId) -> bool) -> Result<(), KvError> {
        let mut batch = WriteBatch::default();
        let mut live: BTreeMap<FileId, i64> = BTreeMap::new();
        let mut chunks: i64 = 0;
        for (key, (old, mut new)) in self.rows {
            if let Some(row) = &mut new {
                row.shadows.retain(|file| exists(*file));
            }
            let new = new.filter(|row| row.held().is_some() || !row.shadows.is_empty());
            if old == new {
                continue;
            }
            for (row, sign) in [(&old, -1), (&new, 1)] {
                for (file, len) in row.iter().flat_map(Row::footprint) {
                    *live.entry(file).or_default() += sign * i64::try_from(len).expect("a record is short");
                }
                chunks += sign * i64::from(row.as_ref().is_some_and(|row| row.held().is_some()));
            }
            let row_key = self.index.row_key(&key);
            match &new {
                Some(row) => batch.put(row_key, encode(row)),
                None => batch.remove(row_key),
            }
        }
        let changed: Vec<_> = live
            .into_iter()
            .map(|(file, delta)| (file, tally.live.get(&file).copied().unwrap_or(0).saturating_add_signed(delta)))
            .collect();
        for (file, bytes) in &changed {
            batch.put(self.index.file_key(*file), encode(bytes));
        }
        let chunks = tally.chunks.saturating_add_signed(chunks);
        batch.put(META, encode(&self.index.meta_of(self.phase, self.reached, chunks)));
        self.index.kv.commit(batch)?;
        tally.live.extend(changed);
        tally.chunks = chunks;
        tally.reached = self.reached;
        Ok(())
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data always encodes")
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, KvError> {
    postcard::from_bytes(bytes).map_err(|error| KvError { reason: format!("a row of the chunk index: {error}") })
}
