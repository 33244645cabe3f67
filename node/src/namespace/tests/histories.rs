//! Random histories, compared after each step with a file system of bytes and lists.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ring::{ChunkKey, Epoch, GcEpoch};
use wire::namespace::{
    AppendData, Attr, ChunkSlice, Content, Extent, ExtentBody, FileType, InlineData, Inode, Mode, Name, NewContent,
    NewExtent, NewGroup, NewInode, NewKind, Op, OpOutcome, PunchMode, Query, QueryAnswer, RenameMode, Replace, SetAttr,
    SetId, SetTime, Times, Timestamp, Xattr, XattrMode, XattrName,
};

use super::{
    harness::{CLIENT, Client, Machine, chunk, name, outcomes},
    model::{Cell, Kind, Model, Node},
    recount::recount,
};
use crate::{
    kv::MemoryKv,
    namespace::{Command, CommandBody, LogIndex, apply, orphans},
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
    seen: Seen,
    nonce: u8,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut machine = Machine::new();
        let founded = Timestamp::new(machine.clock, 0).unwrap();
        let client = Client::open(&mut machine, 1);
        Self {
            random: StdRng::seed_from_u64(seed),
            machine,
            model: Model::new(founded, client.range.first.0),
            client,
            inodes: vec![Inode::ROOT],
            chunks: BTreeSet::new(),
            seen: Seen::new(),
            nonce: 1,
        }
    }

    fn flip(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.random).unwrap().clone()
    }

    /// Mostly a late one.
    fn any_inode(&mut self) -> Inode {
        let late = self.inodes.len().saturating_sub(8);
        let from = if self.flip(70) { late } else { 0 };
        let at = self.random.random_range(from..self.inodes.len());
        self.inodes[at]
    }

    /// Mostly what the operation needs.
    fn inode_of(&mut self, fits: fn(&Kind) -> bool) -> Inode {
        let fitting: Vec<Inode> = self
            .inodes
            .iter()
            .copied()
            .filter(|inode| self.model.nodes.get(&inode.0).is_some_and(|node| fits(&node.kind)))
            .collect();
        if fitting.is_empty() || self.flip(4) { self.any_inode() } else { self.one_of(&fitting) }
    }

    fn dir(&mut self) -> Inode {
        self.inode_of(|kind| matches!(kind, Kind::Directory { .. }))
    }

    fn file(&mut self) -> Inode {
        self.inode_of(|kind| matches!(kind, Kind::File(_)))
    }

    fn name(&mut self) -> Name {
        name(["a", "b", "c", "d"][self.random.random_range(0..4)])
    }

    fn offset(&mut self) -> u64 {
        match self.random.random_range(0..3) {
            0 => self.one_of(&[0, 1, 100, 4000, 4095, 4096, 4097]),
            1 => self.random.random_range(0..600),
            _ => self.random.random_range(0..5000),
        }
    }

    fn len(&mut self) -> u64 {
        if self.flip(30) { self.one_of(&[0, 1, 4096, 5000]) } else { self.random.random_range(1..900) }
    }

    fn bytes(&mut self) -> InlineData {
        let len = if self.flip(10) { self.one_of(&[0, 4095, 4096]) } else { self.random.random_range(0..500) };
        let mut data = InlineData::new((0..len).map(|_| self.random.random()).collect());
        if self.flip(3) {
            data.hash = chunk(0);
        }
        data
    }

    fn slice(&mut self) -> ChunkSlice {
        let number = self.random.random_range(0..12);
        let chunk_len = 2000;
        let offset = self.random.random_range(0..1500);
        let len = self.random.random_range(1..=(chunk_len - offset).min(700));
        ChunkSlice { key: chunk(number), chunk_len, offset, len }
    }

    /// In order mostly, beginning at 0 often.
    fn extents(&mut self) -> Vec<NewExtent> {
        let mut offset = if self.flip(40) { 0 } else { self.offset() };
        let mut extents = Vec::new();
        for _ in 0..self.random.random_range(0..6) {
            let slice = self.slice();
            extents.push(NewExtent { offset, slice, epoch: Epoch(1), gc: GcEpoch(1) });
            let gap = if self.flip(70) { 0 } else { self.random.random_range(0..300) };
            offset += u64::from(slice.len) + gap;
        }
        if self.flip(3) {
            extents.reverse();
        }
        extents
    }

    fn new_inode(&mut self) -> NewInode {
        // Rarely one that is used, or never was reserved.
        let inode = match self.random.random_range(0..40) {
            0 => self.any_inode(),
            _ => self.client.inode(&mut self.machine),
        };
        let kind = match self.random.random_range(0..12) {
            0..=2 => NewKind::Directory,
            3..=4 => NewKind::File(NewContent::Empty),
            5..=6 => NewKind::File(NewContent::Inline(self.bytes())),
            7..=8 => {
                let mut extents = self.extents();
                extents.sort_by_key(|extent| extent.offset);
                let end = extents.last().map_or(0, |extent| extent.offset + u64::from(extent.slice.len));
                NewKind::File(NewContent::Extents { extents, size: end + self.one_of(&[0, 0, 77]) })
            }
            9 => NewKind::Symlink(InlineData::new(b"target".to_vec())),
            10 => NewKind::Fifo,
            _ => NewKind::CharDevice { device: 7 },
        };
        let gid = if self.flip(70) { NewGroup::Caller(5) } else { NewGroup::Exactly(6) };
        let times = self.flip(30).then(|| Times { accessed: self.time(), modified: self.time() });
        let xattrs = if self.flip(20) { vec![self.xattr()] } else { Vec::new() };
        NewInode { inode, kind, mode: self.mode(), uid: 3, gid, times, xattrs }
    }

    fn mode(&mut self) -> Mode {
        Mode::new(self.random.random_range(0..0o10000))
    }

    fn time(&mut self) -> Timestamp {
        Timestamp::new(self.random.random_range(-10..5000), 5).unwrap()
    }

    fn set_time(&mut self) -> SetTime {
        match self.random.random_range(0..3) {
            0 => SetTime::Keep,
            1 => SetTime::Now,
            _ => SetTime::To(self.time()),
        }
    }

    fn set_id(&mut self) -> SetId {
        self.one_of(&[SetId::Keep, SetId::Clear])
    }

    fn replace(&mut self) -> Replace {
        self.one_of(&[Replace::No, Replace::File])
    }

    fn xattr_name(&mut self) -> XattrName {
        XattrName::new(["user.a", "user.b", "user.c"][self.random.random_range(0..3)].as_bytes()).unwrap()
    }

    fn xattr(&mut self) -> Xattr {
        let value = vec![1; self.random.random_range(0..20)];
        Xattr { name: self.xattr_name(), value }
    }

    fn set_attr(&mut self) -> SetAttr {
        SetAttr {
            mode: self.flip(30).then(|| self.mode()),
            uid: self.flip(20).then_some(11),
            gid: self.flip(20).then_some(12),
            size: self.flip(50).then(|| self.offset()),
            accessed: self.set_time(),
            modified: self.set_time(),
            set_id: self.set_id(),
        }
    }

    fn op(&mut self) -> Op {
        match self.random.random_range(0..100) {
            0..=21 => {
                let (dir, name, replace) = (self.dir(), self.name(), self.replace());
                Op::Create { dir, name, new: self.new_inode(), replace }
            }
            22..=24 => Op::CreateUnnamed { new: self.new_inode() },
            25..=29 => {
                let inode = self.file();
                Op::Link { inode, dir: self.dir(), name: self.name(), replace: self.replace() }
            }
            30..=33 => Op::Unlink { dir: self.dir(), name: self.name() },
            34..=36 => Op::RemoveDirectory { dir: self.dir(), name: self.name() },
            37..=47 => Op::Rename {
                from_dir: self.dir(),
                from_name: self.name(),
                to_dir: self.dir(),
                to_name: self.name(),
                mode: self.one_of(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]),
            },
            48..=57 => {
                let inode = if self.flip(60) { self.file() } else { self.any_inode() };
                Op::SetAttr { inode, set: self.set_attr() }
            }
            58..=60 => Op::SetXattr {
                inode: self.any_inode(),
                xattr: self.xattr(),
                mode: self.one_of(&[XattrMode::Set, XattrMode::Create, XattrMode::Replace]),
            },
            61..=62 => Op::RemoveXattr { inode: self.any_inode(), name: self.xattr_name() },
            _ => self.data_op(),
        }
    }

    fn data_op(&mut self) -> Op {
        let (inode, set_id, modified) = (self.file(), self.set_id(), self.set_time());
        match self.random.random_range(0..10) {
            0..=2 => Op::WriteExtents { inode, extents: self.extents(), if_version: None, modified, set_id },
            3 => Op::WriteInline { inode, content: self.bytes(), if_version: None, modified, set_id },
            4 => Op::Append { inode, data: AppendData::Inline(self.bytes()), set_id },
            5 => {
                let slices = vec![self.slice(), self.slice()];
                Op::Append { inode, data: AppendData::Slices { slices, epoch: Epoch(1), gc: GcEpoch(1) }, set_id }
            }
            6..=7 => {
                let mode = self.one_of(&[
                    PunchMode::Hole,
                    PunchMode::ZeroKeepSize,
                    PunchMode::Zero,
                    PunchMode::AllocateKeepSize,
                    PunchMode::Allocate,
                ]);
                Op::Punch { inode, offset: self.offset(), len: self.len(), mode, set_id }
            }
            _ => {
                let (from, len) = (self.file(), self.len());
                let (from_offset, to_offset) = (self.offset(), self.offset());
                Op::Clone { from, from_offset, to: inode, to_offset, len, if_version: None, set_id }
            }
        }
    }

    /// One step: a batch, sent twice at times; or what the leader does.
    fn step(&mut self) {
        match self.random.random_range(0..40) {
            0 => self.reclaim(),
            1 => self.reopen(),
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

    fn note_chunks(&mut self, op: &Op, outcome: &OpOutcome) {
        if outcome.is_err() {
            return;
        }
        match op {
            Op::Create { new, .. } | Op::CreateUnnamed { new } => {
                if let NewKind::File(NewContent::Extents { extents, .. }) = &new.kind {
                    self.chunks.extend(extents.iter().map(|extent| extent.slice.key));
                }
            }
            Op::WriteExtents { extents, .. } => self.chunks.extend(extents.iter().map(|extent| extent.slice.key)),
            Op::Append { data: AppendData::Slices { slices, .. }, .. } => {
                self.chunks.extend(slices.iter().map(|slice| slice.key));
            }
            _ => {}
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
    recount(&history.machine, &history.chunks);
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
