//! Content of files.

use ring::{Epoch, GcEpoch, Partition};
use wire::namespace::{
    AppendData, Content, Extent, ExtentBody, FILE_LEN_MAX, InlineData, Inode, Mode, NewContent, NewExtent, NewInode,
    NewKind, Op, OpError, PunchMode, Replace, SetAttr, SetId, SetTime,
};

use super::harness::{Client, Machine, chunk, extent, name, new_inode, slice};
use crate::{
    kv::{KvRead, KvStore, WriteBatch},
    namespace::{
        ClusterCommand, CommandBody, gc_current,
        row::{self, Counters, MetaRow},
        table,
    },
};

const ROOT: Inode = Inode::ROOT;

fn setup() -> (Machine, Client, Inode) {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let file = client.touch(&mut machine, ROOT, "file");
    (machine, client, file)
}

fn write(inode: Inode, extents: Vec<NewExtent>) -> Op {
    Op::WriteExtents { inode, extents, if_version: None, modified: SetTime::Now, set_id: SetId::Keep }
}

fn inline(inode: Inode, bytes: &[u8]) -> Op {
    let content = InlineData::new(bytes.to_vec());
    Op::WriteInline { inode, content, if_version: None, modified: SetTime::Now, set_id: SetId::Keep }
}

fn truncate(inode: Inode, size: u64) -> Op {
    Op::SetAttr { inode, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

fn append(inode: Inode, bytes: &[u8]) -> Op {
    Op::Append { inode, data: AppendData::Inline(InlineData::new(bytes.to_vec())), set_id: SetId::Keep }
}

fn append_slice(inode: Inode, number: u64) -> Op {
    let slices = vec![slice(number, 10)];
    Op::Append { inode, data: AppendData::Slices { slices, epoch: Epoch(1), gc: GcEpoch(1) }, set_id: SetId::Keep }
}

fn punch(inode: Inode, offset: u64, len: u64, mode: PunchMode) -> Op {
    Op::Punch { inode, offset, len, mode, set_id: SetId::Keep }
}

fn clone(from: (Inode, u64), to: (Inode, u64), len: u64, if_version: Option<u64>) -> Op {
    let (set_id, (from, from_offset), (to, to_offset)) = (SetId::Keep, from, to);
    Op::Clone { from, from_offset, to, to_offset, len, if_version, set_id }
}

fn bytes(machine: &Machine, inode: Inode) -> Vec<u8> {
    match machine.content(inode) {
        Content::Inline(data) => {
            assert!(data.is_sound());
            data.bytes
        }
        other => panic!("{other:?}"),
    }
}

/// Offset, chunk, offset in it, length of each extent; `u64::MAX` for a chunk that is none.
fn map(machine: &Machine, inode: Inode) -> Vec<(u64, u64, u32, u64)> {
    let number = |extent: &Extent| match extent.body {
        ExtentBody::Chunk(slice) => ((0..100).find(|number| chunk(*number) == slice.key).unwrap(), slice.offset),
        ExtentBody::Unwritten { .. } => (u64::MAX, 0),
    };
    machine
        .extents(inode)
        .iter()
        .map(|extent| (extent.offset, number(extent).0, number(extent).1, extent.len()))
        .collect()
}

fn dead(machine: &Machine, number: u64) -> bool {
    machine.rows.get(&table::dead(&chunk(number))).unwrap().is_some()
}

#[test]
fn a_write_splits_what_it_covers() {
    let (mut machine, mut client, file) = setup();
    client.ok(&mut machine, write(file, vec![extent(0, slice(1, 100)), extent(100, slice(2, 100))]));
    client.ok(&mut machine, write(file, vec![extent(50, slice(3, 10)), extent(90, slice(4, 20))]));
    let expected = vec![(0, 1, 0, 50), (50, 3, 0, 10), (60, 1, 60, 30), (90, 4, 0, 20), (110, 2, 10, 90)];
    assert_eq!(map(&machine, file), expected);
    client.ok(&mut machine, write(file, vec![extent(0, slice(5, 200))]));
    assert_eq!(map(&machine, file), [(0, 5, 0, 200)]);
    assert!((1..5).all(|number| dead(&machine, number)) && !dead(&machine, 5));
    assert_eq!((machine.attr(file).allocated, machine.usage().bytes), (200, 200));
}

#[test]
fn a_range_of_a_file_answers_what_touches_it() {
    let (mut machine, mut client, file) = setup();
    client.ok(&mut machine, write(file, (0..10).map(|at| extent(at * 20, slice(at, 10))).collect()));
    let asked = |offset, len| {
        let question = wire::namespace::Query::Content { inode: file, offset, len };
        match machine.query(question) {
            Ok(wire::namespace::QueryAnswer::Content { content: Content::Extents { extents, .. }, .. }) => {
                extents.iter().map(|extent| extent.offset).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(29, 1), [20]);
    assert_eq!(asked(30, 10), Vec::<u64>::new());
    assert_eq!(asked(30, 11), [40]);
    assert_eq!(asked(25, 40), [20, 40, 60]);
    assert_eq!(asked(189, u64::MAX), [180]);
}

#[test]
fn what_is_below_the_fence_or_the_garbage_is_put_again() {
    let (mut machine, mut client, file) = setup();
    machine.propose(CommandBody::Cluster(ClusterCommand::SolveRing));
    let meta_key = table::single(table::META);
    let meta: MetaRow = row::read(&machine.rows, &meta_key).unwrap().unwrap();
    let bits = meta.bits.unwrap();
    let fenced = bits.partition_of(&chunk(1));
    let free = (2..).find(|number| bits.partition_of(&chunk(*number)) != fenced).unwrap();
    let mut batch = WriteBatch::default();
    batch.put(table::partition(table::FENCE, fenced), row::encode(&Epoch(5)));
    batch.put(meta_key, row::encode(&MetaRow { highest_fence: Epoch(5), ..meta }));
    let counters_key = table::single(table::COUNTERS);
    let counters: Counters = row::read(&machine.rows, &counters_key).unwrap().unwrap();
    let counters = Counters { gc_safe: GcEpoch(3), gc_current: GcEpoch(7), ..counters };
    batch.put(counters_key, row::encode(&counters));
    machine.rows.commit(batch).unwrap();
    assert_ne!(fenced, Partition(u32::MAX));

    let put = |number, epoch, gc| NewExtent { epoch: Epoch(epoch), gc: GcEpoch(gc), ..extent(0, slice(number, 10)) };
    let mut outcome = |machine: &mut Machine, put| client.run(machine, write(file, vec![put])).err();
    assert_eq!(outcome(&mut machine, put(1, 4, 3)), Some(OpError::StaleEpoch));
    assert_eq!(outcome(&mut machine, put(free, 4, 3)), None);
    assert_eq!(outcome(&mut machine, put(1, 5, 2)), Some(OpError::StaleGc));
    assert_eq!(outcome(&mut machine, put(1, 5, 3)), None);
    // What is there is split, moved and cloned whatever its stamps.
    let mut batch = WriteBatch::default();
    batch.put(table::partition(table::FENCE, fenced), row::encode(&Epoch(9)));
    machine.rows.commit(batch).unwrap();
    client.ok(&mut machine, punch(file, 3, 2, PunchMode::Hole));
    client.ok(&mut machine, clone((file, 0), (file, 10), 10, None));
    let slices = vec![slice(1, 10)];
    let data = AppendData::Slices { slices, epoch: Epoch(4), gc: GcEpoch(9) };
    assert_eq!(
        client.run(&mut machine, Op::Append { inode: file, data, set_id: SetId::Keep }),
        Err(OpError::StaleEpoch)
    );
    // The dead row says when.
    client.ok(&mut machine, truncate(file, 0));
    let died: GcEpoch = row::read(&machine.rows, &table::dead(&chunk(1))).unwrap().unwrap();
    assert_eq!((died, gc_current(&machine.rows).unwrap()), (GcEpoch(7), GcEpoch(7)));
}

#[test]
fn a_chunk_lives_while_any_file_refers_to_it() {
    let (mut machine, mut client, file) = setup();
    let other = client.touch(&mut machine, ROOT, "other");
    client.ok(&mut machine, write(file, vec![extent(0, slice(1, 100))]));
    client.ok(&mut machine, clone((file, 0), (other, 0), 100, None));
    client.ok(&mut machine, punch(file, 10, 10, PunchMode::Hole));
    client.ok(&mut machine, truncate(file, 0));
    assert!(!dead(&machine, 1));
    client.ok(&mut machine, truncate(other, 1));
    assert!(!dead(&machine, 1));
    client.ok(&mut machine, truncate(other, 0));
    assert!(dead(&machine, 1));
    client.ok(&mut machine, append_slice(other, 1));
    assert!(!dead(&machine, 1));
}

#[test]
fn inline_bytes_are_checked_and_hashed_again() {
    let (mut machine, mut client, file) = setup();
    let mut content = InlineData::new(b"abc".to_vec());
    content.bytes[0] = b'x';
    let set_id = SetId::Keep;
    let bad = Op::WriteInline { inode: file, content, if_version: None, modified: SetTime::Now, set_id };
    assert_eq!(client.run(&mut machine, bad), Err(OpError::Unsound));
    let too_long = inline(file, &[0; 4097]);
    assert_eq!(client.run(&mut machine, too_long), Err(OpError::Unsound));
    client.ok(&mut machine, inline(file, b"abcdef"));
    assert_eq!(client.ok(&mut machine, append(file, b"ghi")).done.offset, 6);
    assert_eq!(bytes(&machine, file), b"abcdefghi");
    client.ok(&mut machine, truncate(file, 2));
    client.ok(&mut machine, truncate(file, 4));
    assert_eq!(bytes(&machine, file), b"ab\0\0");
    client.ok(&mut machine, punch(file, 1, 9, PunchMode::Zero));
    assert_eq!(bytes(&machine, file), b"a\0\0\0\0\0\0\0\0\0");
    assert_eq!(machine.usage().bytes, 10);
    client.ok(&mut machine, truncate(file, 0));
    assert_eq!((bytes(&machine, file), machine.attr(file).allocated), (Vec::new(), 0));
}

#[test]
fn inline_content_is_converted_by_the_client_before_it_outgrows_its_row() {
    let (mut machine, mut client, file) = setup();
    client.ok(&mut machine, inline(file, &[7; 4000]));
    for op in [
        truncate(file, 4097),
        append(file, &[1; 97]),
        append_slice(file, 1),
        punch(file, 0, 4097, PunchMode::Zero),
        write(file, vec![extent(0, slice(1, 3999))]),
        write(file, vec![extent(1, slice(1, 5000))]),
        write(file, vec![extent(0, slice(1, 10)), extent(11, slice(1, 5000))]),
    ] {
        assert_eq!(client.run(&mut machine, op.clone()), Err(OpError::InlineInTheWay), "{op:?}");
    }
    assert_eq!(bytes(&machine, file), [7; 4000]);
    client.ok(&mut machine, write(file, vec![extent(0, slice(1, 10)), extent(10, slice(2, 3990))]));
    client.ok(&mut machine, truncate(file, 1 << 40));
    assert_eq!(client.run(&mut machine, append(file, b"x")), Err(OpError::NotInline));
    assert_eq!(client.ok(&mut machine, append_slice(file, 3)).done.offset, 1 << 40);
    assert_eq!(map(&machine, file), [(0, 1, 0, 10), (10, 2, 0, 3990), (1 << 40, 3, 0, 10)]);
    assert_eq!(machine.attr(file).allocated, 4010);
    // And back.
    client.ok(&mut machine, inline(file, b"small"));
    assert_eq!((bytes(&machine, file), machine.attr(file).allocated), (b"small".to_vec(), 5));
    assert!((1..4).all(|number| dead(&machine, number)));
}

#[test]
fn extents_that_make_no_sense_are_refused() {
    let (mut machine, mut client, file) = setup();
    let out = |offset, len| wire::namespace::ChunkSlice { offset, len, ..slice(1, 100) };
    let huge = wire::namespace::ChunkSlice { chunk_len: wire::CHUNK_LEN_MAX + 1, ..slice(1, 100) };
    for (extents, error) in [
        (vec![], OpError::Invalid),
        (vec![extent(0, slice(1, 10)), extent(9, slice(2, 10))], OpError::Invalid),
        (vec![extent(10, slice(1, 10)), extent(0, slice(2, 10))], OpError::Invalid),
        (vec![extent(0, out(0, 0))], OpError::Invalid),
        (vec![extent(0, out(91, 10))], OpError::Invalid),
        (vec![extent(0, out(u32::MAX, 10))], OpError::Invalid),
        (vec![extent(0, huge)], OpError::Invalid),
        (vec![extent(FILE_LEN_MAX - 9, slice(1, 10))], OpError::FileTooLarge),
        (vec![extent(u64::MAX, slice(1, 10))], OpError::FileTooLarge),
        ((0..1001).map(|at| extent(at * 10, slice(1, 10))).collect(), OpError::TooLarge),
    ] {
        let told = format!("{:?}", extents.first());
        assert_eq!(client.run(&mut machine, write(file, extents.clone())), Err(error), "{told}");
        let new = |extents| {
            new_inode(Inode(client.next_inode), NewKind::File(NewContent::Extents { extents, size: FILE_LEN_MAX }))
        };
        if !extents.is_empty() {
            let op = Op::Create { dir: ROOT, name: name("x"), new: new(extents), replace: Replace::No };
            assert_eq!(client.run(&mut machine, op), Err(error), "{told}");
        }
    }
    client.ok(&mut machine, write(file, vec![extent(FILE_LEN_MAX - 10, slice(1, 10))]));
    assert_eq!(machine.attr(file).size, FILE_LEN_MAX);
    assert_eq!(client.run(&mut machine, append_slice(file, 1)), Err(OpError::FileTooLarge));
    assert_eq!(client.run(&mut machine, truncate(file, FILE_LEN_MAX + 1)), Err(OpError::FileTooLarge));
    assert_eq!(client.run(&mut machine, punch(file, u64::MAX, 1, PunchMode::Hole)), Err(OpError::FileTooLarge));
    let content = NewContent::Extents { extents: vec![extent(0, slice(1, 10))], size: 9 };
    let new: NewInode = new_inode(client.inode(&mut machine), NewKind::File(content));
    let op = Op::Create { dir: ROOT, name: name("short"), new, replace: Replace::No };
    assert_eq!(client.run(&mut machine, op), Err(OpError::Invalid));
}

#[test]
fn operations_on_bytes_want_a_file() {
    let (mut machine, mut client, file) = setup();
    let fifo = client.create(&mut machine, ROOT, "fifo", NewKind::Fifo);
    for (inode, error) in [(ROOT, OpError::IsDirectory), (fifo, OpError::Invalid), (Inode(99), OpError::StaleInode)] {
        for op in [
            write(inode, vec![extent(0, slice(1, 10))]),
            inline(inode, b"x"),
            append(inode, b"x"),
            append_slice(inode, 1),
            truncate(inode, 5),
            punch(inode, 0, 5, PunchMode::Hole),
            clone((inode, 0), (file, 0), 5, None),
            clone((file, 0), (inode, 0), 5, None),
        ] {
            assert_eq!(client.run(&mut machine, op.clone()), Err(error), "{op:?}");
        }
    }
}

#[test]
fn a_change_of_another_version_is_refused() {
    let (mut machine, mut client, file) = setup();
    let first = client.ok(&mut machine, inline(file, b"one")).done.version;
    let second = client.ok(&mut machine, inline(file, b"two")).done.version;
    assert!(second > first);
    let other = client.touch(&mut machine, ROOT, "other");
    let set_id = SetId::Keep;
    let content = InlineData::new(b"three".to_vec());
    let stale = Op::WriteInline { inode: file, content, if_version: Some(first), modified: SetTime::Now, set_id };
    assert_eq!(client.run(&mut machine, stale), Err(OpError::VersionChanged));
    assert_eq!(client.run(&mut machine, clone((file, 0), (other, 0), 3, Some(first))), Err(OpError::VersionChanged));
    client.ok(&mut machine, clone((file, 0), (other, 0), 3, Some(second)));
    assert_eq!(bytes(&machine, other), b"two");
    let extents = vec![extent(0, slice(1, 10))];
    let stale = Op::WriteExtents { inode: file, extents, if_version: Some(first), modified: SetTime::Now, set_id };
    assert_eq!(client.run(&mut machine, stale), Err(OpError::VersionChanged));
    // The version is of the bytes: a change of owner leaves it.
    let set = SetAttr { uid: Some(5), ..SetAttr::default() };
    assert_eq!(client.ok(&mut machine, Op::SetAttr { inode: file, set }).done.version, second);
}

#[test]
fn set_id_bits_go_when_the_caller_says_so() {
    let (mut machine, mut client, file) = setup();
    let mode = |machine: &Machine| machine.attr(file).mode.bits();
    let chmod = |bits| Op::SetAttr { inode: file, set: SetAttr { mode: Some(Mode::new(bits)), ..SetAttr::default() } };
    let clear = SetAttr { size: Some(9), set_id: SetId::Clear, ..SetAttr::default() };
    client.ok(&mut machine, chmod(0o6755));
    client.ok(&mut machine, inline(file, b"kept"));
    assert_eq!(mode(&machine), 0o6755);
    client.ok(&mut machine, Op::SetAttr { inode: file, set: clear });
    assert_eq!(mode(&machine), 0o755);
    // Set-group-id without execution by the group means something else, and stays.
    client.ok(&mut machine, chmod(0o6745));
    let chown = SetAttr { uid: Some(1), set_id: SetId::Clear, ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: file, set: chown });
    assert_eq!(mode(&machine), 0o2745);
    let both = SetAttr { gid: Some(1), mode: Some(Mode::new(0o4711)), set_id: SetId::Clear, ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: file, set: both });
    assert_eq!(mode(&machine), 0o4711);
}

#[test]
fn room_beyond_the_end_is_kept_and_reads_as_zeros_when_the_file_grows() {
    let (mut machine, mut client, file) = setup();
    client.ok(&mut machine, write(file, vec![extent(0, slice(1, 10)), extent(20, slice(2, 10))]));
    assert_eq!(client.ok(&mut machine, punch(file, 5, 95, PunchMode::AllocateKeepSize)).done.offset, 95);
    let room = u64::MAX;
    let expected = vec![(0, 1, 0, 10), (10, room, 0, 10), (20, 2, 0, 10), (30, room, 0, 70)];
    assert_eq!((map(&machine, file), machine.attr(file).size), (expected.clone(), 30));
    client.ok(&mut machine, truncate(file, 50));
    assert_eq!((map(&machine, file), machine.attr(file).size), (expected, 50));
    client.ok(&mut machine, truncate(file, 50));
    assert_eq!(map(&machine, file).last(), Some(&(30, room, 0, 20)));
    client.ok(&mut machine, punch(file, 0, 25, PunchMode::ZeroKeepSize));
    assert_eq!(map(&machine, file), [(0, room, 0, 25), (25, 2, 5, 5), (30, room, 0, 20)]);
    client.ok(&mut machine, punch(file, 0, 25, PunchMode::Hole));
    assert_eq!((map(&machine, file)[0], machine.attr(file).allocated), ((25, 2, 5, 5), 25));
}

#[test]
fn a_clone_ends_where_its_source_ends_and_takes_holes_along() {
    let (mut machine, mut client, file) = setup();
    let other = client.touch(&mut machine, ROOT, "other");
    client.ok(&mut machine, write(file, vec![extent(10, slice(1, 10)), extent(40, slice(2, 10))]));
    client.ok(&mut machine, write(other, vec![extent(0, slice(3, 100))]));
    assert_eq!(client.ok(&mut machine, clone((file, 5), (other, 15), u64::MAX - 20, None)).done.offset, 45);
    assert_eq!(map(&machine, other), [(0, 3, 0, 15), (20, 1, 0, 10), (50, 2, 0, 10), (60, 3, 60, 40)]);
    let before = machine.attr(other);
    assert_eq!(client.ok(&mut machine, clone((file, 50), (other, 0), 10, None)).done.offset, 0);
    assert_eq!(machine.attr(other), before);
    // Within one file, not over itself.
    assert_eq!(client.run(&mut machine, clone((file, 0), (file, 49), 50, None)), Err(OpError::Invalid));
    client.ok(&mut machine, clone((file, 0), (file, 50), 50, None));
    assert_eq!(map(&machine, file), [(10, 1, 0, 10), (40, 2, 0, 10), (60, 1, 0, 10), (90, 2, 0, 10)]);
    // Over inline content that it covers, not beside it.
    client.ok(&mut machine, inline(other, &[1; 60]));
    assert_eq!(client.run(&mut machine, clone((file, 0), (other, 1), 70, None)), Err(OpError::InlineInTheWay));
    assert_eq!(client.run(&mut machine, clone((file, 0), (other, 0), 59, None)), Err(OpError::InlineInTheWay));
    client.ok(&mut machine, clone((file, 0), (other, 0), 60, None));
    assert_eq!(map(&machine, other), [(10, 1, 0, 10), (40, 2, 0, 10)]);
}
