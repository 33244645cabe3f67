//! Journaled chunks: what comes in, what is told, what goes.

use ring::{ChunkKey, Epoch, GcEpoch};
use wire::namespace::{
    Content, Inode, JOURNALED_LEN_MAX, JournaledChunk, JournaledPart, Op, OpError, Query, QueryAnswer, SetId, SetTime,
};

use super::harness::{Client, Machine};
use crate::{
    kv::{KvStore, WriteBatch},
    namespace::{
        Checkpointed, ClusterCommand, CommandBody, JOURNALED_MAX, JournalTally, LogIndex,
        journal::{JOURNALED_BYTES_MAX, journal_page, journal_tally},
        row::{self, Counters, MetaRow},
        table,
    },
};

const ALL: LogIndex = LogIndex(u64::MAX);

fn page(number: u64, len: usize) -> JournaledChunk {
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    JournaledChunk { key: ChunkKey::of(&bytes), bytes }
}

fn write(inode: Inode, offset: u64, chunk: &JournaledChunk) -> Op {
    let parts = vec![JournaledPart { offset, chunk_offset: 0, len: chunk.bytes.len() as u32 }];
    let (modified, set_id) = (SetTime::Now, SetId::Keep);
    Op::WriteJournaled { inode, chunk: chunk.clone(), parts, if_version: None, modified, set_id }
}

fn setup() -> (Machine, Client, Inode) {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let file = client.touch(&mut machine, Inode::ROOT, "file");
    (machine, client, file)
}

fn with_ring() -> (Machine, Client, Inode) {
    let (mut machine, client, inode) = setup();
    machine.propose(CommandBody::Cluster(ClusterCommand::SolveRing));
    (machine, client, inode)
}

fn told(machine: &Machine, chunk: &JournaledChunk) -> Option<JournaledChunk> {
    match machine.query(Query::Journaled { key: chunk.key }) {
        Ok(QueryAnswer::Journaled(told)) => told,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_journaled_that_is_unsound_or_has_nowhere_to_go() {
    let (mut machine, mut client, file) = setup();
    let chunk = page(1, 100);
    assert_eq!(client.run(&mut machine, write(file, 0, &chunk)).unwrap_err(), OpError::JournalFull, "there is no ring");
    machine.propose(CommandBody::Cluster(ClusterCommand::SolveRing));
    let long = page(1, JOURNALED_LEN_MAX + 1);
    let none = JournaledChunk { key: ChunkKey::of(b""), bytes: Vec::new() };
    let false_one = JournaledChunk { key: ChunkKey::of(b"other bytes"), ..chunk.clone() };
    for unsound in [long, none, false_one] {
        assert_eq!(client.run(&mut machine, write(file, 0, &unsound)).unwrap_err(), OpError::Unsound);
    }
    assert_eq!(journal_tally(&machine.rows).unwrap(), JournalTally::default());
    assert_eq!(machine.attr(file).size, 0);
    client.ok(&mut machine, write(file, 10, &chunk));
    assert_eq!(told(&machine, &chunk), Some(chunk.clone()));
    let Content::Extents { extents, .. } = machine.content(file) else { panic!("no extents") };
    assert_eq!((extents.len(), extents[0].offset, extents[0].len()), (1, 10, 100));
}

#[test]
fn the_journal_takes_what_it_has_room_for_and_a_refused_write_changes_nothing() {
    let (mut machine, mut client, file) = with_ring();
    let most = JOURNALED_BYTES_MAX / JOURNALED_LEN_MAX as u64;
    for number in 0..most {
        client.ok(&mut machine, write(file, 0, &page(number, JOURNALED_LEN_MAX)));
    }
    let full = JournalTally { chunks: most, bytes: JOURNALED_BYTES_MAX };
    assert!(most < JOURNALED_MAX && journal_tally(&machine.rows).unwrap() == full);
    let before = machine.content(file);
    assert_eq!(client.run(&mut machine, write(file, 0, &page(most, 8))).unwrap_err(), OpError::JournalFull);
    assert_eq!((machine.content(file), journal_tally(&machine.rows).unwrap()), (before, full));
    client.ok(&mut machine, write(file, 0, &page(3, JOURNALED_LEN_MAX)));
    assert_eq!(journal_tally(&machine.rows).unwrap(), full, "what is there already takes no room");

    // Only the last is in the file: the leader takes out the others without putting them anywhere.
    let journal = journal_page(&machine.rows, None, (ALL, ALL), usize::MAX).unwrap();
    assert_eq!(journal.iter().filter(|journaled| journaled.is_named).count(), 1);
    let chunks: Vec<_> = journal.iter().map(|journaled| (journaled.chunk.key, Checkpointed::Unnamed)).collect();
    for some in chunks.chunks(200) {
        machine.propose(CommandBody::Checkpoint { chunks: some.to_vec() });
    }
    let left = JournalTally { chunks: 1, bytes: JOURNALED_LEN_MAX as u64 };
    assert_eq!(journal_tally(&machine.rows).unwrap(), left);
    assert!(told(&machine, &page(3, JOURNALED_LEN_MAX)).is_some());
}

#[test]
fn bytes_leave_only_with_the_proof_that_a_commit_needs() {
    let (mut machine, mut client, file) = with_ring();
    let chunk = page(7, 4096);
    client.ok(&mut machine, write(file, 0, &chunk));
    let meta_key = table::single(table::META);
    let meta: MetaRow = row::read(&machine.rows, &meta_key).unwrap().unwrap();
    let counters_key = table::single(table::COUNTERS);
    let counters: Counters = row::read(&machine.rows, &counters_key).unwrap().unwrap();
    let mut batch = WriteBatch::default();
    let partition = meta.bits.unwrap().partition_of(&chunk.key);
    batch.put(table::partition(table::FENCE, partition), row::encode(&Epoch(9)));
    batch.put(meta_key, row::encode(&MetaRow { highest_fence: Epoch(9), epoch: Epoch(12), ..meta }));
    batch.put(counters_key, row::encode(&Counters { gc_safe: GcEpoch(3), gc_current: GcEpoch(7), ..counters }));
    machine.rows.commit(batch).unwrap();
    let mut checkpoint = |why| {
        machine.propose(CommandBody::Checkpoint { chunks: vec![(chunk.key, why)] });
        told(&machine, &chunk).is_none()
    };
    assert!(!checkpoint(Checkpointed::Unnamed), "a file refers to it");
    assert!(!checkpoint(Checkpointed::Stable { epoch: Epoch(8), gc: GcEpoch(7) }), "put before the fence");
    assert!(!checkpoint(Checkpointed::Stable { epoch: Epoch(9), gc: GcEpoch(2) }), "put before the collection");
    assert!(checkpoint(Checkpointed::Stable { epoch: Epoch(9), gc: GcEpoch(3) }));
    // The same bytes again: they may have been lost.
    client.ok(&mut machine, write(file, 0, &chunk));
    assert_eq!(told(&machine, &chunk), Some(chunk));
}

#[test]
fn chunks_without_a_file_are_told_later_than_the_others() {
    let (mut machine, mut client, file) = with_ring();
    let [first, second] = [page(1, 50), page(2, 60)];
    client.ok(&mut machine, write(file, 0, &first));
    let at = machine.index;
    client.ok(&mut machine, write(file, 0, &second));
    let told = |named, unnamed| {
        let page = journal_page(&machine.rows, None, (LogIndex(named), LogIndex(unnamed)), 10).unwrap();
        page.into_iter().map(|journaled| (journaled.chunk.key, journaled.is_named)).collect::<Vec<_>>()
    };
    assert_eq!(told(at, at - 1), []);
    assert_eq!(told(at, at), [(first.key, false)]);
    assert_eq!(told(machine.index, at - 1), [(second.key, true)]);
    assert_eq!(told(machine.index, machine.index).len(), 2);
}
