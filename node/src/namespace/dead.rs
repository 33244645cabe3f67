//! Dead chunks, and the two counters by which they are collected.
//!
//! A chunk that loses its last reference gets a dead row with `gc_current`. Its copies may go once `gc_safe` is beyond
//! that: then no commit can bring it back with a put from before its death.
//!
//! # Invariants
//! - `gc_safe` never exceeds `gc_current`, and neither ever goes back.
//! - A row is removed only for the death it was seen with.
//!
//! # Not here
//! When to raise what, and who deletes (`garbage`).

use std::ops::ControlFlow;

use ring::{ChunkKey, GcEpoch};
use serde::{Deserialize, Serialize};
use wire::{Refusal, garbage::Standing};

use super::{
    command::CommandOutcome,
    edit::{Edit, Fault},
    row, table,
};
use crate::kv::{KvError, KvRead};

/// Dead rows that one command removes.
pub const FORGET_MAX: usize = 1024;

/// A chunk without references.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct DeadRow {
    /// `gc_current` when it died.
    pub(super) at: GcEpoch,
    /// Bytes of the chunk: what it tells whoever asks what is waiting.
    pub(super) len: u32,
}

/// What the dead rows amount to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct DeadTally {
    /// Rows.
    pub chunks: u64,
    /// Bytes of their chunks, counted once, not for each replica.
    pub bytes: u64,
    /// The last death of any.
    pub newest: GcEpoch,
}

/// Some of the dead rows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeadRows {
    /// Keys in order, each with when it died.
    pub rows: Vec<(ChunkKey, GcEpoch)>,
    /// Where to go on; none if there are no more.
    pub next: Option<ChunkKey>,
}

/// How many dead rows to look at, and to find, at most.
#[derive(Clone, Copy, Debug)]
pub struct DeadLimits {
    /// Looked at.
    pub seen: usize,
    /// Found.
    pub found: usize,
}

/// What the dead rows amount to.
pub fn dead_tally(rows: &dyn KvRead) -> Result<DeadTally, KvError> {
    Ok(row::read(rows, &table::single(table::DEAD_TALLY))?.unwrap_or_default())
}

/// The dead rows behind `after` that are `wanted`, within limits.
pub fn dead_rows(
    rows: &dyn KvRead,
    after: Option<ChunkKey>,
    limits: DeadLimits,
    mut wanted: impl FnMut(&ChunkKey, GcEpoch) -> bool,
) -> Result<DeadRows, KvError> {
    let (first, end) = table::rows_of_table(table::DEAD);
    let from = after.map_or(first, |after| [table::dead(&after), vec![0]].concat());
    let (mut page, mut seen, mut failed) = (DeadRows::default(), 0, None);
    rows.scan(&from, &end, &mut |key, value| {
        let read = (table::last_chunk(key), row::decode::<GcEpoch>(key, value));
        let (Some(chunk), Ok(at)) = read else {
            failed = Some(read.1.err().unwrap_or_else(|| KvError { reason: "the key of a dead row is short".into() }));
            return ControlFlow::Break(());
        };
        if wanted(&chunk, at) {
            page.rows.push((chunk, at));
        }
        seen += 1;
        if seen < limits.seen && page.rows.len() < limits.found {
            return ControlFlow::Continue(());
        }
        page.next = Some(chunk);
        ControlFlow::Break(())
    })?;
    failed.map_or(Ok(page), Err)
}

/// What the rows say of a chunk.
pub fn standing(rows: &dyn KvRead, chunk: &ChunkKey) -> Result<Standing, KvError> {
    if rows.get(&table::chunk(chunk))?.is_some() {
        return Ok(Standing::Named);
    }
    let at: Option<GcEpoch> = row::read(rows, &table::dead(chunk))?;
    Ok(at.map_or(Standing::Unnamed, |at| Standing::Dead { at }))
}

fn dead_row(rows: &dyn KvRead, chunk: &ChunkKey) -> Result<Option<DeadRow>, KvError> {
    let key = table::dead(chunk);
    let Some(bytes) = rows.get(&key)? else { return Ok(None) };
    // The first rows had no length.
    let row = row::decode(&key, &bytes).or_else(|_| row::decode(&key, &bytes).map(|at| DeadRow { at, len: 0 }));
    row.map(Some)
}

impl Edit<'_> {
    /// A chunk has lost its last reference.
    pub(super) fn bury(&mut self, chunk: &ChunkKey, len: u32) -> Result<(), Fault> {
        let at = self.gc_current()?;
        self.put(table::dead(chunk), &DeadRow { at, len })?;
        self.count_dead(|tally| {
            tally.chunks += 1;
            tally.bytes += u64::from(len);
            tally.newest = tally.newest.max(at);
        })
    }

    /// A chunk has a reference, for which there may be a dead row.
    pub(super) fn revive(&mut self, chunk: &ChunkKey) -> Result<(), Fault> {
        match dead_row(self, chunk)? {
            Some(row) => self.remove_dead(chunk, row),
            None => Ok(()),
        }
    }

    fn remove_dead(&mut self, chunk: &ChunkKey, row: DeadRow) -> Result<(), Fault> {
        self.remove(table::dead(chunk))?;
        self.count_dead(|tally| {
            tally.chunks = tally.chunks.saturating_sub(1);
            tally.bytes = tally.bytes.saturating_sub(u64::from(row.len));
        })
    }

    fn count_dead(&mut self, change: impl FnOnce(&mut DeadTally)) -> Result<(), Fault> {
        let mut tally = dead_tally(self)?;
        change(&mut tally);
        self.put(table::single(table::DEAD_TALLY), &tally)
    }

    /// The stamp for puts becomes the one after `from`, unless it has left that already.
    pub(super) fn raise_gc(&mut self, from: GcEpoch) -> Result<CommandOutcome, Fault> {
        if self.counters()?.is_none() {
            return Ok(CommandOutcome::Refused(Refusal::NotServing));
        }
        self.change_counters(|counters| {
            if counters.gc_current == from {
                counters.gc_current = GcEpoch(from.0 + 1);
            }
        })?;
        Ok(CommandOutcome::Done)
    }

    /// From now on no commit with a stamp below `safe` is accepted.
    pub(super) fn advance_gc(&mut self, safe: GcEpoch) -> Result<CommandOutcome, Fault> {
        if self.counters()?.is_none() {
            return Ok(CommandOutcome::Refused(Refusal::NotServing));
        }
        self.change_counters(|counters| counters.gc_safe = counters.gc_safe.max(safe.min(counters.gc_current)))?;
        Ok(CommandOutcome::Done)
    }

    /// Every copy of these is deleted. One that was referred to since, or has died again, is passed over.
    pub(super) fn forget_dead(&mut self, chunks: &[(ChunkKey, GcEpoch)]) -> Result<CommandOutcome, Fault> {
        for (chunk, at) in chunks.iter().take(FORGET_MAX) {
            if let Some(row) = dead_row(self, chunk)?.filter(|row| row.at == *at) {
                self.remove_dead(chunk, row)?;
            }
        }
        Ok(CommandOutcome::Done)
    }
}
