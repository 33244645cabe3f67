//! The bytes of the chunk store's tags and index, as the first release writes them. See [`crate::golden`].

use bytes::Bytes;
use ring::{ChunkKey, GcEpoch};
use wire::tree::VerifiedChunk;

use super::super::index::{FORMAT, Meta, Phase};
use super::super::row::{Held, Row, State};
use super::super::segment::{Body, Entry, Origin};
use crate::append_log::{FileId, Position};
use crate::golden::Golden;

const AT: Position = Position { file: FileId(9), offset: 4096 };

#[test]
fn the_bytes_of_tags_and_of_the_index_are_those_of_the_first_release() {
    let mut golden = Golden::default();
    let chunk = VerifiedChunk::seal(Bytes::from(vec![7; 70_000]));
    let (_, record) = Entry::chunk(&chunk, GcEpoch(5), Origin::Here);
    golden.bytes("tag.chunk", record.tag);
    golden.bytes("tree.chunk", record.parts[1].to_vec());
    let (_, copy) = Entry::chunk(&chunk, GcEpoch(5), Origin::CopyOf(Position { file: FileId(3), offset: 640 }));
    golden.bytes("tag.copy", copy.tag);
    for (name, body) in [("tag.stamp", Body::Stamp), ("tag.deletion", Body::Delete)] {
        let entry = Entry { key: chunk.key(), stamp: GcEpoch(300), origin: Origin::Here, body };
        golden.bytes(name, entry.small().tag);
    }
    for (name, phase) in [("index.building", Phase::Building), ("index.built", Phase::Built)] {
        golden.value(name, &Meta { format: FORMAT, generation: 3, phase, reached: AT, chunks: 300 });
    }
    let held = Held { at: AT, len: 70_000, stamp: GcEpoch(5), stamp_at: AT };
    golden.value("row.held", &Row { version: AT, state: State::Held(held), shadows: vec![FileId(2), FileId(400)] });
    golden.value("row.deleted", &Row { version: AT, state: State::Deleted { at: AT }, shadows: vec![FileId(2)] });
    golden.value("key", &ChunkKey::from_bytes([0xc5; 32]));
    golden.check("chunk_store");
}
