//! Dead rows and the counters by which they are collected.

use ring::{ChunkKey, GcEpoch};
use wire::{
    garbage::Standing,
    namespace::{Inode, NewContent, NewExtent, NewKind, Op, OpError},
};

use super::harness::{Client, Machine, chunk, extent, name, slice};
use crate::{
    kv::{KvStore, WriteBatch},
    namespace::{
        CommandBody, DeadLimits, DeadRows, DeadTally, FORGET_MAX, LogIndex, dead_rows, dead_tally, gc_current, gc_safe,
        orphans, row, standing, table,
    },
};

const LIMITS: DeadLimits = DeadLimits { seen: 1000, found: 1000 };

/// A file of one chunk of ten bytes.
fn file(machine: &mut Machine, client: &mut Client, number: u64) {
    let gc = gc_current(&machine.rows).unwrap();
    let extents = vec![NewExtent { gc, ..extent(0, slice(number, 10)) }];
    let kind = NewKind::File(NewContent::Extents { extents, size: 10 });
    client.create(machine, Inode::ROOT, &number.to_string(), kind);
}

fn remove(machine: &mut Machine, client: &mut Client, number: u64) {
    client.ok(machine, Op::Unlink { dir: Inode::ROOT, name: name(&number.to_string()) });
    let inodes = orphans(&machine.rows, LogIndex(u64::MAX), 9).unwrap();
    machine.propose(CommandBody::ReclaimOrphans { inodes });
    machine.finish_work();
}

fn all_dead(machine: &Machine) -> Vec<(ChunkKey, GcEpoch)> {
    dead_rows(&machine.rows, None, LIMITS, |_, _| true).unwrap().rows
}

#[test]
fn a_chunk_is_named_then_dead_then_nothing_and_the_tally_follows() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let of = |machine: &Machine| standing(&machine.rows, &chunk(1)).unwrap();
    assert_eq!(of(&machine), Standing::Unnamed);
    file(&mut machine, &mut client, 1);
    assert_eq!(of(&machine), Standing::Named);
    machine.propose(CommandBody::RaiseGc { from: GcEpoch(1) });
    remove(&mut machine, &mut client, 1);
    assert_eq!(of(&machine), Standing::Dead { at: GcEpoch(2) });
    let tally = DeadTally { chunks: 1, bytes: 10, newest: GcEpoch(2) };
    assert_eq!(dead_tally(&machine.rows).unwrap(), tally);
    // A new reference removes the row.
    file(&mut machine, &mut client, 1);
    assert_eq!((of(&machine), all_dead(&machine)), (Standing::Named, vec![]));
    assert_eq!(dead_tally(&machine.rows).unwrap(), DeadTally { chunks: 0, bytes: 0, ..tally });
    remove(&mut machine, &mut client, 1);
    machine.propose(CommandBody::ForgetDead { chunks: vec![(chunk(1), GcEpoch(2))] });
    assert_eq!((of(&machine), dead_tally(&machine.rows).unwrap().chunks), (Standing::Unnamed, 0));
}

#[test]
fn a_row_is_forgotten_only_for_the_death_that_was_collected() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    file(&mut machine, &mut client, 1);
    remove(&mut machine, &mut client, 1);
    machine.propose(CommandBody::RaiseGc { from: GcEpoch(1) });
    file(&mut machine, &mut client, 1);
    let collected = CommandBody::ForgetDead { chunks: vec![(chunk(1), GcEpoch(1)), (chunk(7), GcEpoch(1))] };
    machine.propose(collected.clone());
    assert_eq!(standing(&machine.rows, &chunk(1)).unwrap(), Standing::Named);
    remove(&mut machine, &mut client, 1);
    machine.propose(collected);
    assert_eq!(all_dead(&machine), [(chunk(1), GcEpoch(2))], "it has died again since");
}

#[test]
fn the_counters_only_move_forward_and_safe_never_passes_current() {
    let mut machine = Machine::new();
    let both = |machine: &Machine| (gc_current(&machine.rows).unwrap().0, gc_safe(&machine.rows).unwrap().0);
    assert_eq!(both(&machine), (1, 0));
    for _ in 0..2 {
        machine.propose(CommandBody::RaiseGc { from: GcEpoch(1) });
    }
    assert_eq!(both(&machine), (2, 0), "asking twice raises once");
    machine.propose(CommandBody::AdvanceGc { safe: GcEpoch(9) });
    assert_eq!(both(&machine), (2, 2));
    machine.propose(CommandBody::AdvanceGc { safe: GcEpoch(1) });
    assert_eq!(both(&machine), (2, 2));
    let mut client = Client::open(&mut machine, 1);
    let extents = vec![NewExtent { gc: GcEpoch(1), ..extent(0, slice(1, 10)) }];
    let inode = client.inode(&mut machine);
    let new = super::harness::new_inode(inode, NewKind::File(NewContent::Extents { extents, size: 10 }));
    assert_eq!(client.run(&mut machine, Op::CreateUnnamed { new }), Err(OpError::StaleGc));
    let before = Machine::empty().propose(CommandBody::RaiseGc { from: GcEpoch(0) });
    assert!(matches!(before, super::super::CommandOutcome::Refused(_)), "there is no cluster yet");
}

#[test]
fn dead_rows_come_in_pages_and_are_forgotten_within_the_bounds_of_a_command() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    for number in 0..20 {
        file(&mut machine, &mut client, number);
        remove(&mut machine, &mut client, number);
    }
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let even = |key: &ChunkKey, _| key.as_bytes()[31].is_multiple_of(2);
        let DeadRows { rows, next } = dead_rows(&machine.rows, after, DeadLimits { seen: 6, found: 3 }, even).unwrap();
        assert!(rows.len() <= 3);
        (found, after, pages) = ([found, rows].concat(), next, pages + 1);
        if after.is_none() {
            break;
        }
    }
    let even: Vec<_> = all_dead(&machine).into_iter().filter(|(key, _)| key.as_bytes()[31].is_multiple_of(2)).collect();
    assert_eq!(found, even);
    assert!(pages >= 4);
    let many = (0..5000).map(|number| (chunk(number), GcEpoch(1))).collect();
    machine.propose(CommandBody::ForgetDead { chunks: many });
    assert!(machine.changed <= FORGET_MAX + 1);
    assert_eq!(all_dead(&machine), []);
}

#[test]
fn rows_from_before_lengths_were_kept_are_understood() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let mut batch = WriteBatch::default();
    batch.put(table::dead(&chunk(1)), row::encode(&GcEpoch(1)));
    machine.rows.commit(batch).unwrap();
    assert_eq!(all_dead(&machine), [(chunk(1), GcEpoch(1))]);
    file(&mut machine, &mut client, 1);
    assert_eq!((all_dead(&machine), dead_tally(&machine.rows).unwrap().chunks), (vec![], 0));
}
