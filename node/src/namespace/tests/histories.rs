//! Random histories, compared after each step with a file system of bytes and lists.

mod chance;
mod merging;

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::{ChunkKey, Epoch, GcEpoch};
use wire::namespace::{
    AppendData, Attr, Content, Extent, ExtentBody, FileType, InlineData, Inode, Mode, Name, NewContent, NewKind, Op,
    OpOutcome, Query, QueryAnswer, Timestamp,
};

use super::{
    harness::{CLIENT, Client, Machine, outcomes},
    model::{Cell, Kind, Model, Node},
    recount::recount,
};
use crate::{
    kv::MemoryKv,
    namespace::{
        Checkpointed, ClusterCommand, Command, CommandBody, Journaled, LogIndex, apply, journal_page, orphans,
    },
};

const STEPS: usize = 220;

/// What of an inode was seen last: numbers that only rise.
type Seen = BTreeMap<u64, (Attr, Vec<Cell>)>;

struct History {
    random: StdRng,
    machine: Machine,
    model: Model,
    client: Client,
    /// Inodes that were made, some of them gone.
    inodes: Vec<Inode>,
    chunks: BTreeSet<ChunkKey>,
    /// Those that were put, by clients or for a checkpoint.
    put: BTreeSet<ChunkKey>,
    seen: Seen,
    nonce: u8,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut machine = Machine::new();
        let founded = Timestamp::new(machine.clock, 0).unwrap();
        machine.propose(CommandBody::Cluster(ClusterCommand::SolveRing));
        let client = Client::open(&mut machine, 1);
        Self {
            random: StdRng::seed_from_u64(seed),
            machine,
            model: Model::new(founded, client.range.first.0),
            client,
            inodes: vec![Inode::ROOT],
            chunks: BTreeSet::new(),
            put: BTreeSet::new(),
            seen: Seen::new(),
            nonce: 1,
        }
    }

    /// One step: a batch, sent twice at times; or what the leader does.
    fn step(&mut self) {
        match self.random.random_range(0..40) {
            0 => self.reclaim(),
            1 => self.reopen(),
            2..=3 => self.checkpoint(),
            4..=5 => self.merge(),
            _ => self.batch(),
        }
    }

    fn batch(&mut self) {
        let ops: Vec<Op> = (0..self.random.random_range(1..4)).map(|_| self.op()).collect();
        self.inodes.extend(ops.iter().filter_map(|op| match op {
            Op::Create { new, .. } | Op::CreateUnnamed { new } => Some(new.inode),
            _ => None,
        }));
        // The clocks of leaders differ.
        self.machine.clock += self.random.random_range(-3..3);
        let batch = self.client.batch(ops.clone());
        let body = CommandBody::Batch { client: CLIENT, batch };
        let found = outcomes(self.machine.propose(body.clone()));
        let now = Timestamp::new(self.machine.clock, 0).unwrap();
        for (op, outcome) in ops.iter().zip(&found) {
            self.note_chunks(op, outcome);
            let expected = self.model.run(self.client.session.0, op, now);
            let told = outcome.as_ref().map(|answer| (answer.done.inode.0, answer.done.offset)).map_err(|error| *error);
            assert_eq!(told, expected, "{op:?}");
        }
        if self.flip(20) {
            let before = self.machine.rows.pairs();
            let again = outcomes(self.machine.propose(body));
            assert_eq!(self.machine.rows.pairs(), before, "a batch sent again changed something");
            for (first, again) in found.iter().zip(&again) {
                assert_eq!(again.map(|answer| (answer.done, answer.attr)), first.map(|answer| (answer.done, None)));
            }
        }
        // The attributes that were answered are those of that moment: the last of a batch tells the present.
        if let Some(Ok(answer)) = found.last() {
            assert_eq!(answer.attr, Some(self.machine.attr(answer.done.inode)));
        }
        for inode in ops.iter().flat_map(touched) {
            self.compare_content(inode);
        }
    }

    /// What the leader does about the journal, and what it must not be able to do.
    fn checkpoint(&mut self) {
        let up_to = LogIndex(self.random.random_range(0..=self.machine.index));
        let page = journal_page(&self.machine.rows, None, (up_to, up_to), 4).unwrap();
        let mut chunks = Vec::new();
        for Journaled { chunk, is_named } in page {
            let why = if is_named && self.flip(50) {
                self.put.insert(chunk.key);
                Checkpointed::Stable { epoch: Epoch(1), gc: GcEpoch(1) }
            } else {
                // Maybe it was not named when the leader looked, and is now.
                Checkpointed::Unnamed
            };
            chunks.push((chunk.key, why));
        }
        self.machine.propose(CommandBody::Checkpoint { chunks });
        recount(&self.machine, &self.chunks, &self.put);
    }

    fn note_chunks(&mut self, op: &Op, outcome: &OpOutcome) {
        if outcome.is_err() {
            return;
        }
        self.chunks.extend(chunks_of(op));
        if !matches!(op, Op::WriteJournaled { .. }) {
            self.put.extend(chunks_of(op));
        }
    }

    fn reclaim(&mut self) {
        let inodes = orphans(&self.machine.rows, LogIndex(self.machine.index), usize::MAX).unwrap();
        self.machine.propose(CommandBody::ReclaimOrphans { inodes });
        self.machine.finish_work();
        self.model.reclaim();
    }

    fn reopen(&mut self) {
        let old = self.client.session;
        self.machine.propose(CommandBody::CloseSession { session: old });
        self.model.close(old.0, Timestamp::new(self.machine.clock, 0).unwrap());
        self.nonce += 1;
        self.client = Client::open(&mut self.machine, self.nonce);
        assert_ne!(self.client.session, old);
        self.model.first_reserved = self.client.range.first.0;
    }

    /// Every inode, name and byte.
    fn compare(&mut self) {
        for inode in self.inodes.clone() {
            self.compare_content(inode);
        }
        for inode in self.model.nodes.keys() {
            assert!(self.inodes.contains(&Inode(*inode)));
        }
    }

    fn compare_content(&mut self, inode: Inode) {
        let Some(node) = self.model.nodes.get(&inode.0).cloned() else {
            assert!(self.machine.query(Query::Attr { inode }).is_err(), "{inode} should be gone");
            self.seen.remove(&inode.0);
            return;
        };
        let attr = self.machine.attr(inode);
        self.compare_attr(&attr, &node);
        let Ok(QueryAnswer::Xattrs(xattrs)) = self.machine.query(Query::Xattrs { inode }) else { panic!("{inode}") };
        let xattrs: Vec<_> = xattrs.into_iter().map(|xattr| (xattr.name.as_bytes().to_vec(), xattr.value)).collect();
        assert_eq!(xattrs, node.xattrs.clone().into_iter().collect::<Vec<_>>(), "xattrs of {inode}");
        let mut cells = Vec::new();
        match &node.kind {
            Kind::File(file) => {
                cells = cells_of(&self.machine, inode);
                let expected: Vec<Cell> = (0..file.cells.len().max(cells.len())).map(|at| file.cell(at)).collect();
                cells.resize(expected.len(), Cell::Hole);
                assert_eq!(cells, expected, "bytes of {inode}");
            }
            Kind::Directory { entries, .. } => {
                let listed = self.machine.list(inode);
                let found: Vec<(Name, u64)> = listed.iter().map(|entry| (entry.name.clone(), entry.inode.0)).collect();
                assert_eq!(found, *entries, "entries of {inode}");
                for entry in listed {
                    assert_eq!(entry.attr, Some(self.machine.attr(entry.inode)));
                    match (entry.content.unwrap(), self.machine.content(entry.inode)) {
                        // A page tells the first extents only.
                        (Content::Extents { extents, next: Some(next) }, Content::Extents { extents: all, .. }) => {
                            assert_eq!((&extents[..], next), (&all[..extents.len()], all[extents.len()].offset));
                        }
                        (told, all) => assert_eq!(told, all),
                    }
                }
            }
            Kind::Symlink(target) => {
                assert_eq!(self.machine.content(inode), Content::Symlink(InlineData::new(target.clone())));
            }
            Kind::Other(..) => assert_eq!(self.machine.content(inode), Content::None),
        }
        if let Some((before, cells_before)) = self.seen.insert(inode.0, (attr, cells.clone())) {
            assert!(before == attr || attr.change > before.change, "{inode} changed unnoticed: {before:?} {attr:?}");
            assert!(attr.data_version >= before.data_version && attr.changed >= before.changed);
            // Room reads as a hole does.
            let bytes = |attr: &Attr, cells: &[Cell]| -> Vec<Cell> {
                let byte = |cell: &Cell| if *cell == Cell::Unwritten { Cell::Hole } else { *cell };
                let mut bytes: Vec<Cell> = cells.iter().map(byte).collect();
                bytes.resize(attr.size as usize, Cell::Hole);
                bytes
            };
            let same = node.file_type() != FileType::File || bytes(&attr, &cells) == bytes(&before, &cells_before);
            assert!(same || attr.data_version > before.data_version, "{inode} has other bytes, unnoticed");
        }
    }

    fn compare_attr(&self, attr: &Attr, node: &Node) {
        let (size, allocated) = match &node.kind {
            Kind::File(file) => (file.size as u64, file.allocated()),
            Kind::Directory { entries, .. } => (entries.len() as u64, 0),
            Kind::Symlink(target) => (target.len() as u64, 0),
            Kind::Other(..) => (0, 0),
        };
        let device = if let Kind::Other(_, device) = node.kind { device } else { 0 };
        let expected = Attr {
            inode: attr.inode,
            file_type: node.file_type(),
            mode: Mode::new(node.mode),
            uid: node.uid,
            gid: node.gid,
            links: self.model.links(attr.inode.0),
            size,
            allocated,
            device,
            accessed: node.accessed,
            modified: node.modified,
            changed: node.changed,
            born: node.born,
            change: attr.change,
            data_version: attr.data_version,
        };
        assert_eq!(*attr, expected);
    }
}

/// Chunks that an operation brings.
fn chunks_of(op: &Op) -> Vec<ChunkKey> {
    match op {
        Op::Create { new, .. } | Op::CreateUnnamed { new } => match &new.kind {
            NewKind::File(NewContent::Extents { extents, .. }) => {
                extents.iter().map(|extent| extent.slice.key).collect()
            }
            _ => Vec::new(),
        },
        Op::WriteExtents { extents, .. } => extents.iter().map(|extent| extent.slice.key).collect(),
        Op::Append { data: AppendData::Slices { slices, .. }, .. } => slices.iter().map(|slice| slice.key).collect(),
        Op::WriteJournaled { chunk, .. } => vec![chunk.key],
        _ => Vec::new(),
    }
}

fn touched(op: &Op) -> Vec<Inode> {
    match op {
        Op::Create { dir, new, .. } => vec![*dir, new.inode],
        Op::CreateUnnamed { new } => vec![new.inode],
        Op::Link { inode, dir, .. } => vec![*inode, *dir],
        Op::Unlink { dir, .. } | Op::RemoveDirectory { dir, .. } => vec![*dir],
        Op::Rename { from_dir, to_dir, .. } => vec![*from_dir, *to_dir],
        Op::Clone { from, to, .. } => vec![*from, *to],
        Op::SetAttr { inode, .. }
        | Op::SetXattr { inode, .. }
        | Op::RemoveXattr { inode, .. }
        | Op::WriteExtents { inode, .. }
        | Op::WriteInline { inode, .. }
        | Op::WriteJournaled { inode, .. }
        | Op::Append { inode, .. }
        | Op::Punch { inode, .. }
        | Op::Lock { inode, .. }
        | Op::Unlock { inode, .. }
        | Op::DelegateLocks { inode, .. }
        | Op::ReturnLocks { inode, .. } => vec![*inode],
    }
}

fn cells_of(machine: &Machine, inode: Inode) -> Vec<Cell> {
    let extents = match machine.content(inode) {
        Content::Inline(data) => return data.bytes.into_iter().map(Cell::Inline).collect(),
        Content::Extents { .. } => machine.extents(inode),
        other => panic!("{inode}: {other:?}"),
    };
    let mut cells = Vec::new();
    for Extent { offset, body } in extents {
        cells.resize(offset as usize, Cell::Hole);
        match body {
            ExtentBody::Chunk(slice) => {
                cells.extend((slice.offset..slice.offset + slice.len).map(|index| Cell::Chunk(slice.key, index)));
            }
            ExtentBody::Unwritten { len } => cells.extend((0..len).map(|_| Cell::Unwritten)),
        }
    }
    cells
}

fn run(seed: u64, steps: usize) -> History {
    let mut history = History::new(seed);
    for step in 0..steps {
        history.step();
        if step % 40 == 0 {
            history.compare();
        }
    }
    history.compare();
    recount(&history.machine, &history.chunks, &history.put);
    history
}

#[test]
fn random_histories_agree_with_the_reference_file_system() {
    for seed in 0..10 {
        println!("seed {seed}");
        let history = run(seed, STEPS);
        assert!(history.model.nodes.len() > 3, "a history without files proves nothing");
    }
}

#[test]
fn the_same_commands_make_the_same_rows() {
    let history = run(1000, STEPS);
    let again = MemoryKv::new();
    for (index, command) in history.machine.log.iter().enumerate() {
        let command: &Command = command;
        let (batch, _) = apply(&again, LogIndex(index as u64 + 1), command).unwrap();
        crate::kv::KvStore::commit(&again, batch).unwrap();
    }
    assert_eq!(again.pairs(), history.machine.rows.pairs());
}
