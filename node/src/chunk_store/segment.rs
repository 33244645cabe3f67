//! What the records of a segment say. Pure: tags are encoded and decoded here, never a file opened.
//!
//! # Invariants
//! - A copy made by compaction carries the *version* of its original: the position at which that was appended. So the
//!   order of events is told by the versions, wherever the records have moved to.
//!
//! # Not here
//! Headers, checksums, positions (`append_log`); what several records of one key amount to ([`super::row`]).

use bytes::Bytes;
use ring::{ChunkKey, GcEpoch};
use wire::tree::{ChunkTree, VerifiedChunk};

use crate::append_log::{Align, FileId, HEADER_LEN, NewRecord, Position, RecordInfo, RecordKind, Room, TAG_LEN, Tag};

/// A payload from this length up begins at a page: a range of it can then be read without its neighbours, and the gap
/// before it is at most a sixteenth.
const PAGE_ALIGNED_FROM: usize = 64 << 10;

/// Version of the tag's layout.
const TAG_VERSION: u8 = 1;

const KIND_CHUNK: RecordKind = RecordKind(1);
const KIND_STAMP: RecordKind = RecordKind(2);
const KIND_DELETE: RecordKind = RecordKind(3);

/// The origin in the tag is this one when the record is no copy: no file has that number.
const ORIGIN_HERE: u64 = u64::MAX;

/// Records begin at multiples of this.
const RECORD_ALIGN: u64 = HEADER_LEN;

/// Bytes that a record without payload takes.
pub(super) const SMALL_RECORD_LEN: u64 = HEADER_LEN;

/// What a record says of its key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// Here are the bytes and their tree.
    Chunk {
        /// Length of the chunk, its tree left out.
        len: u32,
    },
    /// The stamp of the chunk held is at least this.
    Stamp,
    /// The copies appended before are dead.
    Delete,
}

/// Whether a record is the first of its kind or was moved by compaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// Its own position is its version.
    Here,
    /// It stands for the record that was appended there.
    CopyOf(Position),
}

/// A record before it has a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) key: ChunkKey,
    pub(super) stamp: GcEpoch,
    pub(super) origin: Origin,
    pub(super) body: Body,
}

/// A record in its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SegmentRecord {
    pub(super) at: Position,
    /// Where it, or the original of which it is a copy, was appended: orders the events of one key.
    pub(super) version: Position,
    pub(super) key: ChunkKey,
    pub(super) stamp: GcEpoch,
    pub(super) body: Body,
}

/// A record of a kind or layout that this program does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the record at {at} is of kind {kind} and version {version}, this program reads version {TAG_VERSION}; run the version that wrote it"
)]
pub struct UnknownRecord {
    /// Where it is.
    pub at: Position,
    /// Its kind.
    pub kind: u8,
    /// Version of its tag.
    pub version: u8,
}

impl Entry {
    /// The record of a chunk: bytes first, so that they are aligned, then the tree.
    pub(super) fn chunk(chunk: &VerifiedChunk, stamp: GcEpoch, origin: Origin) -> (Self, NewRecord) {
        let entry = Self { key: chunk.key(), stamp, origin, body: Body::Chunk { len: chunk.chunk_len() } };
        let tree = Bytes::from(chunk.tree().to_stored());
        let payload_len = chunk.bytes().len() + tree.len();
        let align = if payload_len >= PAGE_ALIGNED_FROM { Align::Page } else { Align::Packed };
        let room = match origin {
            Origin::Here => Room::Ordinary,
            Origin::CopyOf(_) => Room::All,
        };
        let parts = [chunk.bytes().clone(), tree].into_iter().filter(|part| !part.is_empty()).collect();
        (entry, NewRecord { kind: KIND_CHUNK, tag: entry.tag(), parts, align, room })
    }

    /// The record of a stamp or a deletion: the tag says it all. It may use a part of the reserve, because it gives room
    /// back or keeps a promise about a chunk that has its room already.
    pub(super) fn small(&self) -> NewRecord {
        let kind = match self.body {
            Body::Chunk { .. } => unreachable!("a chunk's record is made by Entry::chunk"),
            Body::Stamp => KIND_STAMP,
            Body::Delete => KIND_DELETE,
        };
        let room = match self.origin {
            Origin::Here => Room::Upkeep,
            Origin::CopyOf(_) => Room::All,
        };
        NewRecord { kind, tag: self.tag(), parts: Vec::new(), align: Align::Packed, room }
    }

    /// The same, in its place.
    pub(super) fn placed(&self, at: Position) -> SegmentRecord {
        let version = match self.origin {
            Origin::Here => at,
            Origin::CopyOf(position) => position,
        };
        SegmentRecord { at, version, key: self.key, stamp: self.stamp, body: self.body }
    }

    fn tag(&self) -> Tag {
        let origin = match self.origin {
            Origin::Here => Position { file: FileId(ORIGIN_HERE), offset: 0 },
            Origin::CopyOf(position) => position,
        };
        let len = match self.body {
            Body::Chunk { len } => len,
            Body::Stamp | Body::Delete => 0,
        };
        let mut tag = [0; TAG_LEN];
        tag[..32].copy_from_slice(self.key.as_bytes());
        tag[32..40].copy_from_slice(&self.stamp.0.to_le_bytes());
        tag[40..48].copy_from_slice(&origin.file.0.to_le_bytes());
        tag[48..56].copy_from_slice(&origin.offset.to_le_bytes());
        tag[56..60].copy_from_slice(&len.to_le_bytes());
        tag[60] = TAG_VERSION;
        tag
    }
}

impl SegmentRecord {
    /// What a listed record says.
    pub(super) fn decode(info: &RecordInfo) -> Result<Self, UnknownRecord> {
        let tag = &info.tag;
        let unknown = UnknownRecord { at: info.position, kind: info.kind.0, version: tag[60] };
        if tag[60] != TAG_VERSION {
            return Err(unknown);
        }
        let mut key = [0; 32];
        key.copy_from_slice(&tag[..32]);
        let origin = Position { file: FileId(u64_at(tag, 40)), offset: u64_at(tag, 48) };
        let len = u32::try_from(u64_at(tag, 56) & u64::from(u32::MAX)).expect("masked to 32 bits");
        let body = match info.kind {
            KIND_CHUNK if payload_len(len) == u64::from(info.payload_len) => Body::Chunk { len },
            KIND_STAMP => Body::Stamp,
            KIND_DELETE => Body::Delete,
            _ => return Err(unknown),
        };
        Ok(Self {
            at: info.position,
            version: if origin.file.0 == ORIGIN_HERE { info.position } else { origin },
            key: ChunkKey::from_bytes(key),
            stamp: GcEpoch(u64_at(tag, 32)),
            body,
        })
    }
}

/// Bytes of payload of a chunk's record.
pub(super) fn payload_len(chunk_len: u32) -> u64 {
    u64::from(chunk_len) + ChunkTree::stored_len(chunk_len) as u64
}

/// Bytes that a chunk's record takes, the gap before an aligned payload left out.
pub(super) fn chunk_record_len(chunk_len: u32) -> u64 {
    HEADER_LEN + payload_len(chunk_len).next_multiple_of(RECORD_ALIGN)
}

fn u64_at(tag: &Tag, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&tag[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { file: FileId(9), offset: 4096 };

    fn info_of(new: &NewRecord) -> RecordInfo {
        let payload_len = new.parts.iter().map(|part| part.len() as u32).sum();
        RecordInfo { position: AT, kind: new.kind, payload_len, tag: new.tag }
    }

    #[test]
    fn what_a_record_says_is_read_back_from_its_tag() {
        let chunk = VerifiedChunk::seal(Bytes::from(vec![7; 70_000]));
        let origin = Origin::CopyOf(Position { file: FileId(3), offset: 640 });
        for origin in [Origin::Here, origin] {
            let (entry, record) = Entry::chunk(&chunk, GcEpoch(5), origin);
            assert_eq!(SegmentRecord::decode(&info_of(&record)), Ok(entry.placed(AT)));
            for body in [Body::Stamp, Body::Delete] {
                let entry = Entry { key: chunk.key(), stamp: GcEpoch(u64::MAX), origin, body };
                assert_eq!(SegmentRecord::decode(&info_of(&entry.small())), Ok(entry.placed(AT)));
            }
        }
    }

    #[test]
    fn a_record_of_another_version_or_kind_or_of_a_wrong_length_is_not_guessed_at() {
        let (_, record) = Entry::chunk(&VerifiedChunk::seal(Bytes::from_static(b"x")), GcEpoch(5), Origin::Here);
        let good = info_of(&record);
        let mut version = good;
        version.tag[60] = 2;
        let told = SegmentRecord::decode(&version).unwrap_err().to_string();
        assert!(told.contains("version 2, this program reads version 1; run the version that wrote it"), "{told}");
        let kind = RecordInfo { kind: RecordKind(77), ..good };
        let len = RecordInfo { payload_len: 2, ..good };
        for bad in [version, kind, len] {
            let unknown = UnknownRecord { at: AT, kind: bad.kind.0, version: bad.tag[60] };
            assert_eq!(SegmentRecord::decode(&bad), Err(unknown));
        }
    }
}
