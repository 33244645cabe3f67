//! What the records of one key amount to. Pure.
//!
//! # Invariants
//! - Versions decide, not the order in which records are met: of two events of one key, the later one was appended
//!   later, wherever compaction has moved its record to.
//! - While a file still holds a record of a chunk that is not the living one, the row names that file as a *shadow*; so
//!   a deletion's record is known to be needed exactly as long as an older copy could come back.
//!
//! # Not here
//! Where rows are kept ([`super::index`]); which files still exist (`append_log`).

use ring::{ChunkKey, GcEpoch};
use serde::{Deserialize, Serialize};

use super::segment::{Body, SMALL_RECORD_LEN, SegmentRecord, chunk_record_len};
use crate::append_log::{FileId, Position};

/// One key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// When the chunk was put, or deleted.
    pub(super) version: Position,
    pub(super) state: State,
    /// Files with other, older or superseded, records of the chunk; sorted. May name files that are gone.
    pub(super) shadows: Vec<FileId>,
}

/// Whether the chunk is held.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum State {
    Held(Held),
    /// Deleted; the record that says so must stay while there are shadows.
    Deleted {
        at: Position,
    },
}

/// A living copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) at: Position,
    pub(super) len: u32,
    pub(super) stamp: GcEpoch,
    /// The record that proves the stamp: the chunk's own, or one of a stamp.
    pub(super) stamp_at: Position,
}

impl Row {
    /// The living copy, if there is one.
    pub(super) fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Held(held) => Some(held),
            State::Deleted { .. } => None,
        }
    }

    /// The records that must stay, with the bytes they take.
    pub(super) fn footprint(&self) -> impl Iterator<Item = (FileId, u64)> {
        let (first, second) = match &self.state {
            State::Held(held) => {
                let stamp = (held.stamp_at != held.at).then_some((held.stamp_at.file, SMALL_RECORD_LEN));
                ((held.at.file, chunk_record_len(held.len)), stamp)
            }
            State::Deleted { at } => ((at.file, SMALL_RECORD_LEN), None),
        };
        std::iter::once(first).chain(second)
    }

    /// The records that must stay, as they were or as good as they were.
    pub(super) fn records(&self, key: ChunkKey) -> Vec<SegmentRecord> {
        let version = self.version;
        match &self.state {
            State::Held(held) => {
                let stamp = held.stamp;
                let chunk = SegmentRecord { at: held.at, version, key, stamp, body: Body::Chunk { len: held.len } };
                let at = held.stamp_at;
                let stamped =
                    (at != held.at).then_some(SegmentRecord { at, version: at, key, stamp, body: Body::Stamp });
                std::iter::once(chunk).chain(stamped).collect()
            }
            State::Deleted { at } => {
                vec![SegmentRecord { at: *at, version, key, stamp: GcEpoch(0), body: Body::Delete }]
            }
        }
    }

    fn add_shadow(&mut self, file: FileId) {
        if let Err(at) = self.shadows.binary_search(&file) {
            self.shadows.insert(at, file);
        }
    }
}

/// The row of a key once `record` is known too.
pub(super) fn merge(row: Option<Row>, record: &SegmentRecord) -> Option<Row> {
    match record.body {
        Body::Chunk { len } => Some(merge_chunk(row, record, len)),
        Body::Stamp => merge_stamp(row, record),
        Body::Delete => merge_delete(row, record),
    }
}

fn merge_chunk(row: Option<Row>, record: &SegmentRecord, len: u32) -> Row {
    let mut held = Held { at: record.at, len, stamp: record.stamp, stamp_at: record.at };
    let Some(mut row) = row else {
        return Row { version: record.version, state: State::Held(held), shadows: Vec::new() };
    };
    match row.state {
        _ if record.version < row.version => {
            row.add_shadow(record.at.file);
            return row;
        }
        State::Held(old) if old.at == record.at => return row,
        // The same chunk at another place: what stamped it meanwhile still counts.
        State::Held(old) if record.version == row.version => {
            row.add_shadow(old.at.file);
            if old.stamp > held.stamp {
                held.stamp = old.stamp;
                held.stamp_at = old.stamp_at;
            }
        }
        // Replaced, or put again after a deletion whose record has gone: the new stamp stands for itself.
        State::Held(old) => row.add_shadow(old.at.file),
        State::Deleted { .. } => {}
    }
    Row { version: record.version, state: State::Held(held), shadows: row.shadows }
}

/// The higher stamp wins. An equal one takes over only from another stamp's record: it is that one's copy.
fn merge_stamp(row: Option<Row>, record: &SegmentRecord) -> Option<Row> {
    let mut row = row?;
    if let State::Held(held) = &mut row.state {
        let copied = record.stamp == held.stamp && held.stamp_at != held.at;
        if record.version > row.version && (record.stamp > held.stamp || copied) {
            held.stamp = record.stamp;
            held.stamp_at = record.at;
        }
    }
    Some(row)
}

/// Without a row there is nothing to keep dead: every record of the chunk lies before that of its deletion, and all of
/// those have gone.
fn merge_delete(row: Option<Row>, record: &SegmentRecord) -> Option<Row> {
    let mut row = row?;
    if record.version < row.version {
        return Some(row);
    }
    if let State::Held(held) = &row.state {
        let file = held.at.file;
        row.add_shadow(file);
    }
    Some(Row { version: record.version, state: State::Deleted { at: record.at }, shadows: row.shadows })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: u64, offset: u64) -> Position {
        Position { file: FileId(file), offset }
    }

    fn record(position: Position, body: Body, stamp: u64) -> SegmentRecord {
        let key = ChunkKey::of(b"one key");
        SegmentRecord { at: position, version: position, key, stamp: GcEpoch(stamp), body }
    }

    fn copied(record: &SegmentRecord, to: Position, stamp: u64) -> SegmentRecord {
        SegmentRecord { at: to, stamp: GcEpoch(stamp), ..*record }
    }

    fn row_of(records: &[SegmentRecord]) -> Option<Row> {
        records.iter().fold(None, merge)
    }

    const CHUNK: Body = Body::Chunk { len: 10 };

    #[test]
    fn a_chunk_put_again_after_its_deletion_is_held_and_the_old_record_is_a_shadow() {
        let row = row_of(&[
            record(at(1, 0), CHUNK, 9),
            record(at(1, 64), Body::Stamp, 12),
            record(at(2, 0), Body::Delete, 0),
            record(at(3, 0), CHUNK, 4),
        ])
        .unwrap();
        let held = Held { at: at(3, 0), len: 10, stamp: GcEpoch(4), stamp_at: at(3, 0) };
        assert_eq!(row, Row { version: at(3, 0), state: State::Held(held), shadows: vec![FileId(1)] });
    }

    #[test]
    fn a_copy_moves_a_chunk_without_making_it_newer_than_its_deletion() {
        let put = record(at(1, 0), CHUNK, 9);
        let copy = copied(&put, at(5, 0), 9);
        let deletion = record(at(3, 0), Body::Delete, 0);
        let deleted = row_of(&[put, deletion, copy]).unwrap();
        assert_eq!(deleted.state, State::Deleted { at: at(3, 0) });
        assert_eq!(deleted.shadows, vec![FileId(1), FileId(5)]);
        let moved = row_of(&[put, copy]).unwrap();
        assert_eq!(moved.held().unwrap().at, at(5, 0));
        assert_eq!(moved.shadows, vec![FileId(1)]);
    }

    #[test]
    fn the_higher_stamp_wins_and_its_record_is_kept_until_the_chunk_carries_it() {
        let put = record(at(1, 0), CHUNK, 3);
        let stamp = record(at(2, 0), Body::Stamp, 8);
        let lower = record(at(2, 64), Body::Stamp, 5);
        let stamped = row_of(&[put, stamp, lower]).unwrap();
        assert_eq!(stamped.held().unwrap().stamp, GcEpoch(8));
        let footprint: Vec<_> = stamped.footprint().collect();
        assert_eq!(footprint, [(FileId(1), chunk_record_len(10)), (FileId(2), SMALL_RECORD_LEN)]);
        let moved_stamp = row_of(&[put, stamp, lower, copied(&stamp, at(6, 0), 8)]).unwrap();
        assert_eq!(moved_stamp.held().unwrap().stamp_at, at(6, 0));
        let moved_chunk = row_of(&[put, stamp, lower, copied(&put, at(6, 0), 8)]).unwrap();
        assert_eq!(moved_chunk.footprint().collect::<Vec<_>>(), [(FileId(6), chunk_record_len(10))]);
    }

    #[test]
    fn a_stamp_or_deletion_of_a_chunk_that_no_record_holds_is_nothing() {
        assert_eq!(row_of(&[record(at(1, 0), Body::Stamp, 8), record(at(1, 64), Body::Delete, 0)]), None);
    }
}
