//! Merges: what is replaced, what stays, what is refused.

use ring::{Epoch, GcEpoch};
use wire::namespace::{ChunkSlice, Extent, ExtentBody, Inode, NewExtent, Op, PunchMode, SetAttr, SetId, SetTime};

use super::harness::{Client, Machine, chunk, extent, slice};
use crate::{
    garbage::judge,
    kv::{KvStore, WriteBatch},
    namespace::{
        CommandBody, MERGED_MAX, RunDigest, dead_tally, extents_page, gc_safe,
        row::{self, Counters, MetaRow},
        standing, table,
    },
};

const PAGE: u64 = 4096;

fn write(inode: Inode, extents: Vec<NewExtent>) -> Op {
    Op::WriteExtents { inode, extents, if_version: None, modified: SetTime::Now, set_id: SetId::Keep }
}

/// A file of pages, each a chunk.
fn paged(count: u64) -> (Machine, Client, Inode) {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let file = client.touch(&mut machine, Inode::ROOT, "file");
    let all: Vec<NewExtent> = (0..count).map(|at| extent(at * PAGE, slice(100 + at, PAGE as u32))).collect();
    for some in all.chunks(200) {
        client.ok(&mut machine, write(file, some.to_vec()));
    }
    (machine, client, file)
}

fn pieces(extents: &[Extent]) -> Vec<(u64, ChunkSlice)> {
    let piece = |extent: &Extent| match extent.body {
        ExtentBody::Chunk(slice) => (extent.offset, slice),
        ExtentBody::Unwritten { .. } => panic!("never written"),
    };
    extents.iter().map(piece).collect()
}

/// A merge of `count` pages from `first` on, as they are now.
fn merge_of(machine: &Machine, inode: Inode, first: usize, count: usize) -> CommandBody {
    let pieces = pieces(&machine.extents(inode)[first..first + count]);
    let len = pieces.iter().map(|(_, slice)| slice.len).sum();
    let slice = ChunkSlice { key: chunk(7), chunk_len: len, offset: 0, len };
    let merged = NewExtent { offset: pieces[0].0, slice, epoch: Epoch(1), gc: GcEpoch(1) };
    CommandBody::Merge { inode, merged, replaced: RunDigest::of(&pieces) }
}

/// Proposes it; whether anything changed.
fn changes(machine: &mut Machine, merge: CommandBody) -> bool {
    let before = machine.rows.pairs();
    machine.propose(merge);
    machine.rows.pairs() != before
}

#[test]
fn a_merge_replaces_the_extents_it_was_made_of_and_nobody_can_tell() {
    let (mut machine, _, file) = paged(40);
    let (attr, usage) = (machine.attr(file), machine.usage());
    let merge = merge_of(&machine, file, 10, 20);
    assert!(changes(&mut machine, merge.clone()));
    assert_eq!((machine.attr(file), machine.usage()), (attr, usage));
    let extents = machine.extents(file);
    assert_eq!(extents.len(), 21);
    assert_eq!((extents[10].offset, extents[10].end()), (10 * PAGE, 30 * PAGE));
    assert_eq!(dead_tally(&machine.rows).unwrap().chunks, 20, "the pieces are garbage");
    assert_eq!(standing(&machine.rows, &chunk(7)).unwrap(), wire::garbage::Standing::Named);
    assert_eq!(standing(&machine.rows, &chunk(109)).unwrap(), wire::garbage::Standing::Named, "its neighbour is not");
    assert!(!changes(&mut machine, merge), "it is there already");
}

#[test]
fn what_has_changed_since_it_was_read_is_not_replaced() {
    for change in 0..7 {
        let (mut machine, mut client, file) = paged(40);
        let merge = merge_of(&machine, file, 10, 20);
        let inside = 15 * PAGE;
        match change {
            0 => drop(client.ok(&mut machine, write(file, vec![extent(inside, slice(900, PAGE as u32))]))),
            1 => {
                let (mode, set_id) = (PunchMode::Hole, SetId::Keep);
                client.ok(&mut machine, Op::Punch { inode: file, offset: inside, len: 1, mode, set_id });
            }
            2 => {
                let set = SetAttr { size: Some(29 * PAGE + 1), ..SetAttr::default() };
                client.ok(&mut machine, Op::SetAttr { inode: file, set });
            }
            3 => {
                let set = SetAttr { size: Some(0), ..SetAttr::default() };
                client.ok(&mut machine, Op::SetAttr { inode: file, set });
            }
            4 => {
                client.ok(&mut machine, Op::Unlink { dir: Inode::ROOT, name: super::harness::name("file") });
                machine.propose(CommandBody::ReclaimOrphans { inodes: vec![file] });
            }
            // The first one begins earlier, the last one ends later.
            5 => drop(client.ok(&mut machine, write(file, vec![extent(9 * PAGE, slice(900, 2 * PAGE as u32))]))),
            _ => drop(client.ok(&mut machine, write(file, vec![extent(29 * PAGE, slice(900, 2 * PAGE as u32))]))),
        }
        assert!(!changes(&mut machine, merge), "change {change}");
    }
}

#[test]
fn a_write_of_the_same_bytes_elsewhere_in_the_file_does_not_matter() {
    let (mut machine, mut client, file) = paged(40);
    let merge = merge_of(&machine, file, 10, 20);
    client.ok(&mut machine, write(file, vec![extent(0, slice(900, PAGE as u32))]));
    client.ok(&mut machine, write(file, vec![extent(15 * PAGE, slice(115, PAGE as u32))]));
    assert!(changes(&mut machine, merge));
}

#[test]
fn nothing_is_merged_while_a_cut_is_under_way() {
    let (mut machine, mut client, file) = paged(3000);
    let merge = merge_of(&machine, file, 0, 20);
    let set = SetAttr { size: Some(100 * PAGE), ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: file, set });
    assert!(!changes(&mut machine, merge.clone()));
    machine.finish_work();
    assert!(changes(&mut machine, merge));
}

#[test]
fn a_chunk_that_was_put_too_long_ago_is_not_named() {
    let (mut machine, _, file) = paged(40);
    let (meta_key, counters_key) = (table::single(table::META), table::single(table::COUNTERS));
    let meta: MetaRow = row::read(&machine.rows, &meta_key).unwrap().unwrap();
    let counters: Counters = row::read(&machine.rows, &counters_key).unwrap().unwrap();
    let merge = merge_of(&machine, file, 10, 20);
    let set = |machine: &Machine, floor, safe| {
        let mut batch = WriteBatch::default();
        batch.put(meta_key.clone(), row::encode(&MetaRow { floor: Epoch(floor), ..meta }));
        let counters = Counters { gc_safe: GcEpoch(safe), gc_current: GcEpoch(7), ..counters };
        batch.put(counters_key.clone(), row::encode(&counters));
        machine.rows.commit(batch).unwrap();
    };
    set(&machine, 2, 1);
    assert!(!changes(&mut machine, merge.clone()), "by an epoch that has passed");
    set(&machine, 1, 2);
    assert!(!changes(&mut machine, merge.clone()), "with a stamp of before the collection");
    assert!(
        judge::condemned_up_to(standing(&machine.rows, &chunk(7)).unwrap(), gc_safe(&machine.rows).unwrap()).is_some()
    );
    set(&machine, 1, 1);
    assert!(changes(&mut machine, merge));
}

#[test]
fn a_merge_takes_as_many_extents_as_it_may_in_one_command() {
    let (mut machine, _, file) = paged(2 * MERGED_MAX as u64 + 2);
    let beyond = merge_of(&machine, file, 0, MERGED_MAX + 1);
    assert!(!changes(&mut machine, beyond));
    let most = merge_of(&machine, file, MERGED_MAX + 2, MERGED_MAX);
    assert!(changes(&mut machine, most));
    assert_eq!(machine.extents(file).len(), MERGED_MAX + 3);
}

#[test]
fn pages_of_extents_hold_all_files_in_order() {
    let (mut machine, mut client, first) = paged(5);
    let second = client.touch(&mut machine, Inode::ROOT, "second");
    client.ok(&mut machine, write(second, vec![extent(77, slice(1, 10))]));
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = extents_page(&machine.rows, after.as_ref(), 2).unwrap();
        all.extend(page.extents);
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    let expected: Vec<(Inode, Extent)> = [first, second]
        .into_iter()
        .flat_map(|inode| machine.extents(inode).into_iter().map(move |extent| (inode, extent)))
        .collect();
    assert_eq!(all, expected);
}
