//! Which entries the Raft log holds and where: the index of the log store, kept in memory. Pure.
//!
//! # Invariants
//! - Entries are consecutive, from the purge point on.
//! - Payloads of entries that are not durable yet are held in memory; of the others, as many of the newest as fit
//!   [`CACHED_BYTES_MAX`]. So replication and apply rarely read the disk.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::words::{EntryHead, LogIdWords};
use crate::append_log::{FileId, Position};

/// Two seconds of entries at 8 MiB/s: followers and the state machine are rarely further behind.
pub(super) const CACHED_BYTES_MAX: u64 = 16 << 20;

/// Where an entry is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) head: EntryHead,
    pub(super) position: Position,
    /// The payload, as long as it is kept in memory.
    pub(super) payload: Option<Bytes>,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct LogTable {
    purged: Option<LogIdWords>,
    /// Index of the first entry that is, or would be, held.
    first: u64,
    places: VecDeque<Place>,
    /// Bytes of payload of all entries.
    bytes: u64,
    cached_bytes: u64,
    /// Index of the lowest entry that may hold its payload in memory.
    cached_from: u64,
    /// Entries below this index are durable.
    durable_to: u64,
    /// For each file the highest index that was ever written to it, superseded entries included.
    files: BTreeMap<FileId, u64>,
}

/// The records do not make a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the log goes on with entry {found} where {expected} should follow")]
pub(super) struct Gap {
    pub(super) expected: u64,
    pub(super) found: u64,
}

impl LogTable {
    /// An index of no entries, from `purged` on.
    pub(super) fn new(purged: Option<LogIdWords>) -> Self {
        let first = purged.map_or(0, |id| id.index + 1);
        Self { purged, first, durable_to: first, cached_from: first, ..Self::default() }
    }

    /// Index of the first entry that is, or would be, held.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first() + self.places.len() as u64
    }

    pub(super) fn purged(&self) -> Option<LogIdWords> {
        self.purged
    }

    /// The last entry, or the purge point if there is none.
    pub(super) fn last(&self) -> Option<LogIdWords> {
        self.places.back().map(|place| place.head.id).or(self.purged)
    }

    /// The entry at `index`.
    pub(super) fn at(&self, index: u64) -> Option<&Place> {
        let offset = index.checked_sub(self.first())?;
        self.places.get(usize::try_from(offset).ok()?)
    }

    /// How many entries there are, and bytes in them.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.places.len() as u64, self.bytes)
    }

    /// Adds the entry that follows the last one.
    pub(super) fn push(&mut self, place: Place) -> Result<(), Gap> {
        let index = place.head.id.index;
        if self.places.is_empty() && self.purged.is_none() {
            // Where a log begins is for the library to say; what an open finds is checked by `check_beginning`.
            (self.first, self.durable_to, self.cached_from) = (index, index, index);
        }
        if index != self.end() {
            return Err(Gap { expected: self.end(), found: index });
        }
        self.note_file(&place);
        self.bytes += u64::from(place.head.len);
        self.cached_bytes += place.payload.as_ref().map_or(0, |payload| payload.len() as u64);
        self.places.push_back(place);
        self.evict();
        Ok(())
    }

    /// Takes up an entry as found on disk: purged ones count only for their file.
    pub(super) fn replay(&mut self, place: Place) -> Result<(), Gap> {
        if place.head.id.index < self.first() {
            self.note_file(&place);
            return Ok(());
        }
        let end = place.head.id.index + 1;
        self.push(place)?;
        self.durable_to = end;
        Ok(())
    }

    /// A log on disk begins behind its purge point, or with entry 0: anything else has lost its beginning.
    pub(super) fn check_beginning(&self) -> Result<(), Gap> {
        let expected = self.purged.map_or(0, |id| id.index + 1);
        if self.places.is_empty() || self.first == expected {
            return Ok(());
        }
        Err(Gap { expected, found: self.first })
    }

    /// Drops the entries from `index` on.
    pub(super) fn cut_from(&mut self, index: u64) {
        while self.end() > index.max(self.first()) {
            let place = self.places.pop_back().expect("the end lies behind the first");
            self.forget(&place);
        }
        self.durable_to = self.durable_to.min(self.end());
        self.cached_from = self.cached_from.min(self.end());
    }

    /// Drops the entries up to `id`. The purge point may lie behind the end: a snapshot was installed.
    pub(super) fn purge(&mut self, id: LogIdWords) {
        while self.places.front().is_some_and(|place| place.head.id.index <= id.index) {
            let place = self.places.pop_front().expect("just seen");
            self.forget(&place);
        }
        self.purged = Some(id);
        self.first = id.index + 1;
        self.durable_to = self.durable_to.max(self.first());
        self.cached_from = self.cached_from.max(self.first());
    }

    /// Entries below `end` are durable.
    pub(super) fn durable(&mut self, end: u64) {
        self.durable_to = self.durable_to.max(end.min(self.end()));
        self.evict();
    }

    /// The highest entry that may go so that at most `count` entries and `bytes` bytes stay.
    pub(super) fn excess(&self, count: u64, bytes: u64) -> Option<u64> {
        let (mut kept, mut kept_bytes) = (0, 0);
        for place in self.places.iter().rev() {
            kept += 1;
            kept_bytes += u64::from(place.head.len);
            if kept > count || kept_bytes > bytes {
                return Some(place.head.id.index);
            }
        }
        None
    }

    /// Files, from the oldest on, of which no record is needed any more. `active` still grows and is not among them.
    pub(super) fn spent_files(&self, active: FileId) -> Vec<FileId> {
        let first = self.first();
        self.files.iter().take_while(|&(&id, &max)| id < active && max < first).map(|(&id, _)| id).collect()
    }

    pub(super) fn forget_file(&mut self, file: FileId) {
        self.files.remove(&file);
    }

    fn note_file(&mut self, place: &Place) {
        let max = self.files.entry(place.position.file).or_default();
        *max = (*max).max(place.head.id.index);
    }

    fn forget(&mut self, place: &Place) {
        self.bytes -= u64::from(place.head.len);
        self.cached_bytes -= place.payload.as_ref().map_or(0, |payload| payload.len() as u64);
    }

    fn evict(&mut self) {
        while self.cached_bytes > CACHED_BYTES_MAX && self.cached_from < self.durable_to {
            let offset = self.cached_from.checked_sub(self.first()).expect("the cache lies behind the purge point");
            let offset = usize::try_from(offset).expect("as many as there are places");
            let place = self.places.get_mut(offset).expect("durable entries are held");
            let freed = place.payload.take().map_or(0, |payload| payload.len() as u64);
            self.cached_bytes -= freed;
            self.cached_from += 1;
        }
    }
}
