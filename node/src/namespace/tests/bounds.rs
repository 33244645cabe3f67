//! What is large takes many small commands.

use wire::namespace::{
    Content, Inode, NewContent, NewKind, Op, OpError, OpOutcome, PunchMode, Query, QueryAnswer, Replace, SetAttr,
    SetId, SetTime,
};

use super::{
    harness::{Client, Machine, chunk, extent, name, new_inode, slice},
    recount::recount,
};
use crate::namespace::{CommandBody, LogIndex, ROWS_MAX, cost, orphans, pending_work};

const ROOT: Inode = Inode::ROOT;

/// Extents of most large files here: more than four commands take.
const EXTENTS: u64 = 4_000;

fn write(inode: Inode, extents: Vec<wire::namespace::NewExtent>) -> Op {
    Op::WriteExtents { inode, extents, if_version: None, modified: SetTime::Now, set_id: SetId::Keep }
}

fn truncate(inode: Inode, size: u64) -> Op {
    Op::SetAttr { inode, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

/// A file of extents of one byte each, of as many chunks, with holes between.
fn large_file(extents: u64) -> (Machine, Client, Inode) {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let file = client.touch(&mut machine, ROOT, "large");
    for part in 0..extents / 1000 {
        let slices = (part * 1000..(part + 1) * 1000).map(|at| extent(at * 2, slice(at, 1))).collect();
        client.ok(&mut machine, write(file, slices));
    }
    assert_eq!(machine.attr(file).allocated, extents);
    (machine, client, file)
}

fn count_again(machine: &Machine, extents: u64) {
    let all = (0..extents).map(chunk).collect();
    recount(machine, &all, &all);
}

#[test]
fn a_truncation_shows_at_once_and_is_finished_by_commands_that_follow() {
    let (mut machine, mut client, file) = large_file(10_000);
    client.ok(&mut machine, truncate(file, 101));
    assert!(machine.changed > 4000, "as much as one command can");
    assert_eq!((machine.attr(file).size, machine.extents(file).len()), (101, 51));
    assert_eq!(pending_work(&machine.rows, 10).unwrap(), [CommandBody::ContinueCut { inode: file }]);
    count_again(&machine, 10_000);
    // What would make cut bytes visible waits, and is not remembered as failed.
    let grow = client.batch(vec![truncate(file, 102)]);
    let grow = CommandBody::Batch { client: super::harness::CLIENT, batch: grow };
    let refused: Vec<OpOutcome> = vec![Err(OpError::CutPending)];
    assert_eq!(super::harness::outcomes(machine.propose(grow.clone())), refused);
    for op in [
        write(file, vec![extent(100, slice(1, 2))]),
        Op::Punch { inode: file, offset: 90, len: 12, mode: PunchMode::AllocateKeepSize, set_id: SetId::Keep },
        Op::Punch { inode: file, offset: 90, len: 12, mode: PunchMode::ZeroKeepSize, set_id: SetId::Keep },
    ] {
        assert_eq!(client.run(&mut machine, op.clone()), Err(OpError::CutPending), "{op:?}");
    }
    // What does not, goes on; a shorter truncation as well.
    client.ok(&mut machine, write(file, vec![extent(99, slice(1, 2))]));
    client.ok(&mut machine, truncate(file, 50));
    assert_eq!(machine.extents(file).len(), 25);
    assert!(machine.finish_work() >= 7);
    assert_eq!((machine.attr(file).allocated, machine.extents(file).len()), (25, 25));
    count_again(&machine, 10_000);
    let batch = client.batch(vec![truncate(file, 1 << 20)]);
    let body = CommandBody::Batch { client: super::harness::CLIENT, batch };
    assert!(super::harness::outcomes(machine.propose(body))[0].is_ok());
    assert_eq!(machine.extents(file).len(), 25);
}

#[test]
fn a_shorter_truncation_while_one_is_under_way_hides_more() {
    let (mut machine, mut client, file) = large_file(EXTENTS);
    client.ok(&mut machine, truncate(file, EXTENTS));
    client.ok(&mut machine, truncate(file, 5));
    // Four thousand bytes held two thousand extents, of which a thousand are left at most; none is visible.
    assert_eq!((machine.attr(file).size, machine.extents(file).len()), (5, 3));
    assert_eq!(client.run(&mut machine, truncate(file, 6)), Err(OpError::CutPending));
    machine.finish_work();
    client.ok(&mut machine, truncate(file, EXTENTS * 2));
    assert_eq!((machine.attr(file).allocated, machine.extents(file).len()), (3, 3));
    count_again(&machine, EXTENTS);
}

#[test]
fn an_operation_refused_for_a_cut_is_executed_when_it_is_sent_again() {
    let (mut machine, mut client, file) = large_file(EXTENTS);
    client.ok(&mut machine, truncate(file, 5));
    let batch = client.batch(vec![truncate(file, 7)]);
    let body = CommandBody::Batch { client: super::harness::CLIENT, batch };
    assert_eq!(super::harness::outcomes(machine.propose(body.clone())), [Err(OpError::CutPending)]);
    machine.finish_work();
    assert!(super::harness::outcomes(machine.propose(body))[0].is_ok());
    assert_eq!(machine.attr(file).size, 7);
}

#[test]
fn large_content_gives_way_to_small_at_once() {
    let (mut machine, mut client, file) = large_file(EXTENTS);
    let content = wire::namespace::InlineData::new(b"small".to_vec());
    let (modified, set_id) = (SetTime::Now, SetId::Keep);
    client.ok(
        &mut machine,
        Op::WriteInline { inode: file, content: content.clone(), if_version: None, modified, set_id },
    );
    assert_eq!(machine.content(file), Content::Inline(content));
    count_again(&machine, EXTENTS);
    assert_eq!(client.run(&mut machine, write(file, vec![extent(0, slice(1, 5))])), Err(OpError::CutPending));
    machine.finish_work();
    assert_eq!(machine.attr(file).allocated, 5);
    count_again(&machine, EXTENTS);
    client.ok(&mut machine, write(file, vec![extent(0, slice(1, 5))]));
}

#[test]
fn a_large_orphan_is_released_by_commands_that_follow() {
    let (mut machine, mut client, file) = large_file(EXTENTS);
    client.ok(&mut machine, Op::Unlink { dir: ROOT, name: name("large") });
    assert_eq!(machine.extents(file).len() as u64, EXTENTS);
    machine.propose(CommandBody::ReclaimOrphans { inodes: vec![file] });
    assert_eq!(machine.query(Query::Attr { inode: file }), Err(OpError::StaleInode));
    assert_eq!(orphans(&machine.rows, LogIndex(u64::MAX), 9).unwrap(), []);
    count_again(&machine, EXTENTS);
    assert!(machine.finish_work() >= 3);
    assert_eq!(machine.usage(), wire::namespace::Usage { inodes: 1, bytes: 0 });
    count_again(&machine, EXTENTS);
}

#[test]
fn a_punch_and_a_clone_say_how_far_they_came() {
    let (mut machine, mut client, file) = large_file(EXTENTS);
    let copy = client.touch(&mut machine, ROOT, "copy");
    let (mut at, mut commands) = (0, 0);
    while at < EXTENTS * 2 - 1 {
        let (from, to, len) = (file, copy, u64::MAX / 4);
        let op = Op::Clone { from, from_offset: at, to, to_offset: at, len, if_version: None, set_id: SetId::Keep };
        let done = client.ok(&mut machine, op).done.offset;
        assert!(done > 0);
        (at, commands) = (at + done, commands + 1);
    }
    assert!(commands <= 9, "{commands} commands");
    assert_eq!(machine.extents(copy), machine.extents(file));
    for mode in [PunchMode::AllocateKeepSize, PunchMode::ZeroKeepSize, PunchMode::Hole] {
        let (mut at, mut commands) = (0, 0);
        while at < EXTENTS * 2 {
            let op = Op::Punch { inode: file, offset: at, len: EXTENTS * 2 - at, mode, set_id: SetId::Keep };
            let done = client.ok(&mut machine, op).done.offset;
            assert!(done > 0, "{mode:?} at {at}");
            (at, commands) = (at + done, commands + 1);
        }
        assert!(commands <= 9, "{mode:?}: {commands} commands");
        let expected = if mode == PunchMode::Hole { 0 } else { EXTENTS * 2 };
        assert_eq!(machine.attr(file).allocated, expected, "{mode:?}");
    }
    // A hole over a fragmented target as well.
    let (mut at, size) = (0, machine.attr(file).size);
    while at < size {
        let (from, to, len) = (file, copy, size);
        let op = Op::Clone { from, from_offset: at, to, to_offset: at, len, if_version: None, set_id: SetId::Keep };
        let done = client.ok(&mut machine, op).done.offset;
        assert!(done > 0);
        at += done;
    }
    assert_eq!(machine.attr(copy).allocated, 0);
    count_again(&machine, EXTENTS);
}

#[test]
fn a_write_over_more_than_a_command_may_change_is_refused_and_fits_in_pieces() {
    let (mut machine, mut client, file) = large_file(EXTENTS);
    let before = machine.extents(file);
    let whole = wire::namespace::ChunkSlice { key: chunk(0), chunk_len: 8000, offset: 0, len: 8000 };
    assert_eq!(client.run(&mut machine, write(file, vec![extent(0, whole)])), Err(OpError::TooLarge));
    assert_eq!(machine.extents(file), before);
    for at in 0..8 {
        let piece = wire::namespace::ChunkSlice { offset: at * 1000, len: 1000, ..whole };
        client.ok(&mut machine, write(file, vec![extent(u64::from(at) * 1000, piece)]));
    }
    assert_eq!((machine.attr(file).allocated, machine.extents(file).len()), (8000, 8));
    count_again(&machine, EXTENTS);
}

#[test]
fn what_does_not_fit_into_a_command_comes_again_and_nothing_is_done_twice() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let files: Vec<Inode> = (0..4).map(|at| client.touch(&mut machine, ROOT, &at.to_string())).collect();
    let ops: Vec<Op> = files
        .iter()
        .enumerate()
        .map(|(at, file)| {
            let numbers = at as u64 * 600..(at as u64 + 1) * 600;
            write(*file, numbers.map(|number| extent((number % 600) * 10, slice(number, 10))).collect())
        })
        .collect();
    assert!(ops.iter().map(cost).sum::<usize>() > ROWS_MAX, "the leader would split this");
    let batch = client.batch(ops);
    let body = CommandBody::Batch { client: super::harness::CLIENT, batch };
    let mut rounds = 0;
    loop {
        rounds += 1;
        let outcomes = super::harness::outcomes(machine.propose(body.clone()));
        if outcomes.iter().all(Result::is_ok) {
            break;
        }
        let done = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
        assert!(done > 0 && outcomes.iter().skip(done).all(|outcome| *outcome == Err(OpError::OutOfOrder)));
    }
    assert!((2..=4).contains(&rounds), "{rounds} rounds");
    assert!(files.iter().all(|file| machine.attr(*file).data_version == 2));
    let all = (0..2400).map(chunk).collect();
    recount(&machine, &all, &all);
}

#[test]
fn batches_split_by_their_cost_fit() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let (mut ops, mut rows) = (Vec::new(), 0);
    for at in 0..900_u64 {
        let content = match at % 3 {
            0 => NewContent::Empty,
            1 => NewContent::Inline(wire::namespace::InlineData::new(at.to_be_bytes().to_vec())),
            _ => NewContent::Extents {
                extents: vec![extent(0, slice(at, 10)), extent(10, slice(at + 1000, 9))],
                size: 19,
            },
        };
        let new = new_inode(client.inode(&mut machine), NewKind::File(content));
        let op = Op::Create { dir: ROOT, name: name(&at.to_string()), new, replace: Replace::File };
        if rows + cost(&op) > ROWS_MAX {
            assert!(client.run_all(&mut machine, std::mem::take(&mut ops)).iter().all(Result::is_ok));
            rows = 0;
        }
        rows += cost(&op);
        ops.push(op);
    }
    assert!(client.run_all(&mut machine, ops).iter().all(Result::is_ok));
    assert_eq!(machine.names(ROOT).len(), 900);
}

#[test]
fn a_content_answer_is_bounded_and_says_where_to_go_on() {
    let (machine, _, file) = large_file(EXTENTS);
    let Ok(QueryAnswer::Content { content: Content::Extents { extents, next }, .. }) =
        machine.query(Query::Content { inode: file, offset: 10, len: u64::MAX })
    else {
        panic!("no extents");
    };
    assert_eq!((extents.len(), extents[0].offset, next), (1000, 10, Some(2010)));
}
