//! What happens next, by chance.

use rand::{Rng, seq::IndexedRandom};
use ring::{ChunkKey, Epoch, GcEpoch};
use wire::namespace::{
    AppendData, ChunkSlice, InlineData, Inode, JournaledChunk, JournaledPart, Mode, Name, NewContent, NewExtent,
    NewGroup, NewInode, NewKind, Op, PunchMode, RenameMode, Replace, SetAttr, SetId, SetTime, Times, Timestamp, Xattr,
    XattrMode, XattrName,
};

use super::History;
use crate::namespace::tests::{
    harness::{chunk, name},
    model::Kind,
};

/// A chunk whose bytes are known.
fn page(number: u64) -> JournaledChunk {
    let bytes = vec![number as u8; 100 * number as usize % 1300 + 1];
    JournaledChunk { key: ChunkKey::of(&bytes), bytes }
}

impl History {
    pub(super) fn flip(&mut self, percent: u32) -> bool {
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
        // Some chunks are put by one and journaled by another.
        let number = self.random.random_range(0..16);
        if number >= 12 {
            let JournaledChunk { bytes, key } = page(number);
            return ChunkSlice { key, chunk_len: bytes.len() as u32, offset: 0, len: bytes.len() as u32 };
        }
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

    /// In order mostly, of a chunk of which parts are left out, or told twice.
    fn journaled(&mut self) -> (JournaledChunk, Vec<JournaledPart>) {
        let mut chunk = page(self.random.random_range(10..16));
        let mut offset = if self.flip(40) { 0 } else { self.offset() };
        let mut parts = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            let len = self.random.random_range(1..=chunk.bytes.len() as u32);
            let chunk_offset = self.random.random_range(0..=chunk.bytes.len() as u32 - len);
            parts.push(JournaledPart { offset, chunk_offset, len });
            offset += u64::from(len) + if self.flip(50) { 0 } else { self.random.random_range(0..300) };
        }
        if self.flip(3) {
            parts.reverse();
        }
        if self.flip(3) {
            chunk.bytes.push(0);
        }
        (chunk, parts)
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
        self.one_of(&[SetId::Keep, SetId::Clear, SetId::ClearBoth])
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

    pub(super) fn op(&mut self) -> Op {
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
        match self.random.random_range(0..12) {
            10..=11 => {
                let (chunk, parts) = self.journaled();
                Op::WriteJournaled { inode, chunk, parts, if_version: None, modified, set_id }
            }
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
}
