//! A file system of bytes and lists, with nothing clever about it: what the state machine is compared with.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

use ring::{ChunkKey, Epoch, GcEpoch};
use wire::namespace::{
    AppendData, ChunkSlice, FILE_LEN_MAX, FileType, INLINE_LEN_MAX, InlineData, JournaledPart, Mode, Name, NewContent,
    NewExtent, NewGroup, NewInode, NewKind, Op, OpError, PunchMode, RenameMode, Replace, SetAttr, SetId, SetTime,
    Timestamp, Xattr, XattrMode, XattrName,
};

/// A byte of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cell {
    Hole,
    Unwritten,
    Inline(u8),
    Chunk(ChunkKey, u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kept {
    Nowhere,
    Inline,
    Extents,
}

/// A file: cells may reach beyond the size, as room does.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) kept: Kept,
    pub(super) size: usize,
    pub(super) cells: Vec<Cell>,
}

impl File {
    fn new() -> Self {
        Self { kept: Kept::Nowhere, size: 0, cells: Vec::new() }
    }

    fn set(&mut self, at: usize, cell: Cell) {
        if self.cells.len() <= at {
            self.cells.resize(at + 1, Cell::Hole);
        }
        self.cells[at] = cell;
    }

    pub(super) fn cell(&self, at: usize) -> Cell {
        self.cells.get(at).copied().unwrap_or(Cell::Hole)
    }

    pub(super) fn allocated(&self) -> u64 {
        self.cells.iter().filter(|cell| **cell != Cell::Hole).count() as u64
    }

    fn set_inline(&mut self, bytes: &[u8]) {
        self.cells = bytes.iter().map(|byte| Cell::Inline(*byte)).collect();
        self.size = bytes.len();
        self.kept = if bytes.is_empty() { Kept::Nowhere } else { Kept::Inline };
    }

    fn inline_bytes(&self) -> Vec<u8> {
        let byte = |cell: &Cell| match cell {
            Cell::Inline(byte) => *byte,
            other => panic!("{other:?} in an inline file"),
        };
        self.cells.iter().map(byte).collect()
    }

    fn write(&mut self, extent: &NewExtent) {
        for index in 0..extent.slice.len {
            let at = extent.offset as usize + index as usize;
            self.set(at, Cell::Chunk(extent.slice.key, extent.slice.offset + index));
            self.size = self.size.max(at + 1);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    File(File),
    Directory { parent: u64, entries: Vec<(Name, u64)> },
    Symlink(Vec<u8>),
    Other(FileType, u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    Named,
    Unnamed(u64),
    Orphan,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) state: State,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) accessed: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) changed: Timestamp,
    pub(super) born: Timestamp,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    pub(super) fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::File(_) => FileType::File,
            Kind::Directory { .. } => FileType::Directory,
            Kind::Symlink(_) => FileType::Symlink,
            Kind::Other(file_type, _) => *file_type,
        }
    }

    fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    fn touch(&mut self, now: Timestamp) {
        self.changed = self.changed.max(now);
    }

    fn touch_data(&mut self, now: Timestamp) {
        self.touch(now);
        self.modified = self.changed;
    }

    fn clear_set_id(&mut self, set_id: SetId) {
        if set_id != SetId::Keep {
            self.mode &= !0o4000;
            if self.mode & 0o010 != 0 || set_id == SetId::ClearBoth {
                self.mode &= !0o2000;
            }
        }
    }
}

/// The reference file system.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) nodes: HashMap<u64, Rc<Node>>,
    /// Numbers that were used once.
    used: HashSet<u64>,
    /// Numbers below are not reserved for the session.
    pub(super) first_reserved: u64,
    now: Timestamp,
}

type Did = Result<(u64, u64), OpError>;

impl Model {
    /// An empty root, made at `now`.
    pub(super) fn new(now: Timestamp, first_reserved: u64) -> Self {
        let kind = Kind::Directory { parent: 1, entries: Vec::new() };
        let root = Node {
            kind,
            state: State::Named,
            mode: 0o755,
            uid: 0,
            gid: 0,
            accessed: now,
            modified: now,
            changed: now,
            born: now,
            xattrs: BTreeMap::new(),
        };
        Self { nodes: HashMap::from([(1, Rc::new(root))]), used: HashSet::new(), first_reserved, now }
    }

    /// Inode and offset that the operation answers, or why it fails; then nothing has changed.
    pub(super) fn run(&mut self, session: u64, op: &Op, now: Timestamp) -> Did {
        let before = self.clone();
        self.now = now;
        let did = self.try_run(session, op);
        if did.is_err() {
            *self = before;
        }
        did
    }

    /// The session is over.
    pub(super) fn close(&mut self, session: u64, now: Timestamp) {
        for node in self.nodes.values_mut().filter(|node| node.state == State::Unnamed(session)) {
            let node = Rc::make_mut(node);
            node.state = State::Orphan;
            node.touch(now);
        }
    }

    /// Nobody has orphans open.
    pub(super) fn reclaim(&mut self) {
        self.nodes.retain(|_, node| node.state != State::Orphan);
    }

    /// Names that an inode has; a directory two and one for each in it.
    pub(super) fn links(&self, inode: u64) -> u32 {
        let node = &self.nodes[&inode];
        let entries = |node: &Node| match &node.kind {
            Kind::Directory { entries, .. } => entries.clone(),
            _ => Vec::new(),
        };
        if node.is_directory() {
            let directories = entries(node).iter().filter(|(_, child)| self.nodes[child].is_directory()).count();
            return if node.state == State::Orphan { 0 } else { 2 + directories as u32 };
        }
        let names = |dir: &Rc<Node>| entries(dir).iter().filter(|(_, child)| *child == inode).count();
        self.nodes.values().map(|dir| names(dir) as u32).sum()
    }

    fn node(&mut self, inode: u64) -> Result<&mut Node, OpError> {
        self.nodes.get_mut(&inode).map(Rc::make_mut).ok_or(OpError::StaleInode)
    }

    fn file(&mut self, inode: u64) -> Result<&mut File, OpError> {
        match &mut self.node(inode)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Directory { .. } => Err(OpError::IsDirectory),
            Kind::Symlink(_) | Kind::Other(..) => Err(OpError::Invalid),
        }
    }

    fn entries(&mut self, dir: u64) -> Result<&mut Vec<(Name, u64)>, OpError> {
        let node = self.node(dir)?;
        let state = node.state;
        match &mut node.kind {
            Kind::Directory { .. } if state == State::Orphan => Err(OpError::NotFound),
            Kind::Directory { entries, .. } => Ok(entries),
            _ => Err(OpError::NotDirectory),
        }
    }

    fn find(&mut self, dir: u64, name: &Name) -> Result<Option<u64>, OpError> {
        Ok(self.entries(dir)?.iter().find(|(other, _)| other == name).map(|(_, inode)| *inode))
    }

    /// Points the name at the inode, at the place that the name has.
    fn put_name(&mut self, dir: u64, name: &Name, inode: u64) -> Result<(), OpError> {
        let entries = self.entries(dir)?;
        match entries.iter_mut().find(|(other, _)| other == name) {
            Some(entry) => entry.1 = inode,
            None => entries.push((name.clone(), inode)),
        }
        let now = self.now;
        self.node(dir)?.touch_data(now);
        Ok(())
    }

    fn take_name(&mut self, dir: u64, name: &Name) -> Result<(), OpError> {
        self.entries(dir)?.retain(|(other, _)| other != name);
        let now = self.now;
        self.node(dir)?.touch_data(now);
        Ok(())
    }

    /// A name of the inode has gone.
    fn lost_name(&mut self, inode: u64) -> Result<(), OpError> {
        let now = self.now;
        let gone = self.nodes[&inode].is_directory() || self.links(inode) == 0;
        let node = self.node(inode)?;
        node.touch(now);
        if gone {
            node.state = State::Orphan;
        }
        Ok(())
    }

    fn may_replace(&mut self, dir: u64, name: &Name, replace: Replace) -> Result<Option<u64>, OpError> {
        match (self.find(dir, name)?, replace) {
            (None, _) => Ok(None),
            (Some(_), Replace::No) => Err(OpError::Exists),
            (Some(old), Replace::File) if self.nodes[&old].is_directory() => Err(OpError::IsDirectory),
            (Some(old), Replace::File) => Ok(Some(old)),
        }
    }

    fn try_run(&mut self, session: u64, op: &Op) -> Did {
        match op {
            Op::Create { dir, name, new, replace } => {
                let old = self.may_replace(dir.0, name, *replace)?;
                self.make(new, State::Named, Some(dir.0))?;
                self.put_name(dir.0, name, new.inode.0)?;
                old.map_or(Ok(()), |old| self.lost_name(old))?;
                Ok((new.inode.0, 0))
            }
            Op::CreateUnnamed { new } => {
                self.make(new, State::Unnamed(session), None)?;
                Ok((new.inode.0, 0))
            }
            Op::Link { inode, dir, name, replace } => self.link(session, inode.0, dir.0, name, *replace),
            Op::Unlink { dir, name } => {
                let old = self.find(dir.0, name)?.ok_or(OpError::NotFound)?;
                if self.nodes[&old].is_directory() {
                    return Err(OpError::IsDirectory);
                }
                self.take_name(dir.0, name)?;
                self.lost_name(old)?;
                Ok((old, 0))
            }
            Op::RemoveDirectory { dir, name } => {
                let old = self.find(dir.0, name)?.ok_or(OpError::NotFound)?;
                if !self.entries(old)?.is_empty() {
                    return Err(OpError::NotEmpty);
                }
                self.take_name(dir.0, name)?;
                self.lost_name(old)?;
                Ok((old, 0))
            }
            Op::Rename { from_dir, from_name, to_dir, to_name, mode } => {
                self.rename((from_dir.0, from_name), (to_dir.0, to_name), *mode)
            }
            Op::SetAttr { inode, set } => self.set_attr(inode.0, set),
            Op::SetXattr { inode, xattr, mode } => self.set_xattr(inode.0, xattr, *mode),
            Op::RemoveXattr { inode, name } => self.remove_xattr(inode.0, name),
            Op::WriteExtents { inode, extents, modified, set_id, .. } => {
                self.write(inode.0, extents)?;
                self.written(inode.0, *modified, *set_id)?;
                Ok((inode.0, 0))
            }
            Op::WriteJournaled { inode, chunk, parts, modified, set_id, .. } => {
                if !chunk.is_sound() {
                    return Err(OpError::Unsound);
                }
                let chunk_len = chunk.bytes.len() as u32;
                let extent = |part: &JournaledPart| {
                    let slice = ChunkSlice { key: chunk.key, chunk_len, offset: part.chunk_offset, len: part.len };
                    NewExtent { offset: part.offset, slice, epoch: Epoch(1), gc: GcEpoch(1) }
                };
                self.write(inode.0, &parts.iter().map(extent).collect::<Vec<_>>())?;
                self.written(inode.0, *modified, *set_id)?;
                Ok((inode.0, 0))
            }
            Op::WriteInline { inode, content, modified, set_id, .. } => {
                let file = self.file(inode.0)?;
                if !content.is_sound() {
                    return Err(OpError::Unsound);
                }
                file.set_inline(&content.bytes);
                self.written(inode.0, *modified, *set_id)?;
                Ok((inode.0, 0))
            }
            Op::Append { inode, data, set_id } => {
                let at = self.append(inode.0, data)?;
                self.written(inode.0, SetTime::Now, *set_id)?;
                Ok((inode.0, at as u64))
            }
            Op::Punch { inode, offset, len, mode, set_id } => self.punch(inode.0, *offset, *len, *mode, *set_id),
            Op::Clone { from, from_offset, to, to_offset, len, set_id, .. } => {
                self.clone_range((from.0, *from_offset), (to.0, *to_offset), *len, *set_id)
            }
            // They have a model of their own.
            Op::Lock { inode, .. }
            | Op::Unlock { inode, .. }
            | Op::DelegateLocks { inode, .. }
            | Op::ReturnLocks { inode, .. } => Ok((inode.0, 0)),
        }
    }

    fn make(&mut self, new: &NewInode, state: State, dir: Option<u64>) -> Result<(), OpError> {
        if new.inode.0 < self.first_reserved || !self.used.insert(new.inode.0) {
            return Err(OpError::NotReserved);
        }
        let kind = match &new.kind {
            NewKind::File(content) => Kind::File(new_file(content)?),
            NewKind::Directory => Kind::Directory { parent: dir.ok_or(OpError::Invalid)?, entries: Vec::new() },
            NewKind::Symlink(InlineData { bytes, .. }) if bytes.is_empty() => return Err(OpError::Invalid),
            NewKind::Symlink(target) => Kind::Symlink(target.bytes.clone()),
            NewKind::Fifo => Kind::Other(FileType::Fifo, 0),
            NewKind::Socket => Kind::Other(FileType::Socket, 0),
            NewKind::CharDevice { device } => Kind::Other(FileType::CharDevice, *device),
            NewKind::BlockDevice { device } => Kind::Other(FileType::BlockDevice, *device),
        };
        let inherits = dir.map(|dir| &self.nodes[&dir]).filter(|dir| dir.mode & Mode::SET_GID != 0);
        let bit = if inherits.is_some() && matches!(kind, Kind::Directory { .. }) { Mode::SET_GID } else { 0 };
        let (gid, bit) = match new.gid {
            NewGroup::Exactly(gid) => (gid, 0),
            NewGroup::Caller(gid) => (inherits.map_or(gid, |dir| dir.gid), bit),
        };
        let node = Node {
            kind,
            state,
            mode: new.mode.bits() | bit,
            uid: new.uid,
            gid,
            accessed: new.times.map_or(self.now, |times| times.accessed),
            modified: new.times.map_or(self.now, |times| times.modified),
            changed: self.now,
            born: self.now,
            xattrs: new.xattrs.iter().map(|xattr| (xattr.name.as_bytes().to_vec(), xattr.value.clone())).collect(),
        };
        self.nodes.insert(new.inode.0, Rc::new(node));
        Ok(())
    }

    fn link(&mut self, session: u64, inode: u64, dir: u64, name: &Name, replace: Replace) -> Did {
        if self.node(inode)?.is_directory() {
            return Err(OpError::NotPermitted);
        }
        let old = self.may_replace(dir, name, replace)?;
        match self.node(inode)?.state {
            State::Named if old == Some(inode) => return Ok((inode, 0)),
            State::Named => {}
            State::Unnamed(owner) if owner == session => {}
            State::Unnamed(_) | State::Orphan => return Err(OpError::NotFound),
        }
        let now = self.now;
        let node = self.node(inode)?;
        node.state = State::Named;
        node.touch(now);
        self.put_name(dir, name, inode)?;
        old.map_or(Ok(()), |old| self.lost_name(old))?;
        Ok((inode, 0))
    }

    fn rename(&mut self, from: (u64, &Name), to: (u64, &Name), mode: RenameMode) -> Did {
        self.entries(to.0)?;
        let source = self.find(from.0, from.1)?.ok_or(OpError::NotFound)?;
        let target = self.find(to.0, to.1)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(OpError::Exists),
            (RenameMode::Exchange, None) => return Err(OpError::NotFound),
            (_, Some(target)) if target == source => return Ok((source, 0)),
            _ => {}
        }
        let is_dir = |model: &Self, inode: u64| model.nodes[&inode].is_directory();
        if self.is_within(to.0, source) || (mode == RenameMode::Exchange && self.is_within(from.0, target.unwrap())) {
            return Err(OpError::Invalid);
        }
        if mode == RenameMode::Exchange {
            let target = target.unwrap();
            self.put_name(from.0, from.1, target)?;
            self.put_name(to.0, to.1, source)?;
            self.moved(target, from.0)?;
        } else {
            match target.map(|target| (is_dir(self, source), is_dir(self, target))) {
                Some((true, false)) => return Err(OpError::NotDirectory),
                Some((false, true)) => return Err(OpError::IsDirectory),
                Some((true, true)) if !self.entries(target.unwrap())?.is_empty() => return Err(OpError::NotEmpty),
                Some((true, true) | (false, false)) | None => {}
            }
            self.take_name(from.0, from.1)?;
            self.put_name(to.0, to.1, source)?;
            target.map_or(Ok(()), |target| self.lost_name(target))?;
        }
        self.moved(source, to.0)?;
        Ok((source, 0))
    }

    fn moved(&mut self, inode: u64, dir: u64) -> Result<(), OpError> {
        let now = self.now;
        let node = self.node(inode)?;
        node.touch(now);
        if let Kind::Directory { parent, .. } = &mut node.kind {
            *parent = dir;
        }
        Ok(())
    }

    /// Whether `dir` is `ancestor` or below it.
    fn is_within(&self, dir: u64, ancestor: u64) -> bool {
        let parent = match self.nodes[&dir].kind {
            Kind::Directory { parent, .. } => parent,
            _ => dir,
        };
        dir == ancestor || (parent != dir && self.is_within(parent, ancestor))
    }

    fn set_attr(&mut self, inode: u64, set: &SetAttr) -> Did {
        let now = self.now;
        if let Some(size) = set.size {
            self.truncate(inode, size)?;
        }
        let node = self.node(inode)?;
        if !node.is_directory() && (set.size.is_some() || set.uid.is_some() || set.gid.is_some()) {
            node.clear_set_id(set.set_id);
        }
        node.touch(now);
        let time = |set: SetTime, old: Timestamp| match set {
            SetTime::Keep => old,
            SetTime::Now => node.changed,
            SetTime::To(time) => time,
        };
        let modified = if set.size.is_some() { node.changed } else { node.modified };
        (node.accessed, node.modified) = (time(set.accessed, node.accessed), time(set.modified, modified));
        node.mode = set.mode.map_or(node.mode, Mode::bits);
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        Ok((inode, 0))
    }

    fn truncate(&mut self, inode: u64, size: u64) -> Result<(), OpError> {
        let file = self.file(inode)?;
        if size > FILE_LEN_MAX {
            return Err(OpError::FileTooLarge);
        }
        let size = size as usize;
        match file.kept {
            Kept::Inline if size > INLINE_LEN_MAX => return Err(OpError::InlineInTheWay),
            Kept::Inline => {
                let mut bytes = file.inline_bytes();
                bytes.resize(size, 0);
                file.set_inline(&bytes);
            }
            Kept::Nowhere | Kept::Extents => {
                if size <= file.size {
                    file.cells.truncate(size);
                }
                file.size = size;
                let shrunk_to_nothing = size == 0;
                file.kept = if shrunk_to_nothing { Kept::Nowhere } else { Kept::Extents };
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, inode: u64, xattr: &Xattr, mode: XattrMode) -> Did {
        let now = self.now;
        let node = self.node(inode)?;
        let exists = node.xattrs.contains_key(xattr.name.as_bytes());
        match mode {
            XattrMode::Create if exists => return Err(OpError::Exists),
            XattrMode::Replace if !exists => return Err(OpError::NoXattr),
            _ => {}
        }
        node.xattrs.insert(xattr.name.as_bytes().to_vec(), xattr.value.clone());
        node.touch(now);
        Ok((inode, 0))
    }

    fn remove_xattr(&mut self, inode: u64, name: &XattrName) -> Did {
        let now = self.now;
        let node = self.node(inode)?;
        node.xattrs.remove(name.as_bytes()).ok_or(OpError::NoXattr)?;
        node.touch(now);
        Ok((inode, 0))
    }

    fn written(&mut self, inode: u64, modified: SetTime, set_id: SetId) -> Result<(), OpError> {
        let now = self.now;
        let node = self.node(inode)?;
        node.clear_set_id(set_id);
        let before = node.changed;
        node.touch(now);
        match modified {
            SetTime::Keep => {}
            SetTime::Now => node.modified = node.changed,
            SetTime::To(time) => {
                node.modified = time;
                if time.seconds() <= now.seconds() + 1 - i64::from(time.nanoseconds() > now.nanoseconds()) {
                    node.changed = before.max(time);
                }
            }
        }
        Ok(())
    }

    /// The same bytes are elsewhere now.
    pub(super) fn replace(&mut self, inode: u64, by: &NewExtent) {
        self.file(inode).unwrap().write(by);
    }

    fn write(&mut self, inode: u64, extents: &[NewExtent]) -> Result<(), OpError> {
        let file = self.file(inode)?;
        let sorted = extents.windows(2).all(|pair| pair[0].offset + u64::from(pair[0].slice.len) <= pair[1].offset);
        if extents.is_empty() || !sorted || extents.iter().any(|extent| !extent.slice.is_sound()) {
            return Err(OpError::Invalid);
        }
        for extent in extents {
            file.write(extent);
        }
        // Cells that are still inline were not covered.
        if file.cells.iter().any(|cell| matches!(cell, Cell::Inline(_))) {
            return Err(OpError::InlineInTheWay);
        }
        file.kept = Kept::Extents;
        Ok(())
    }

    fn append(&mut self, inode: u64, data: &AppendData) -> Result<usize, OpError> {
        let file = self.file(inode)?;
        let at = file.size;
        match data {
            AppendData::Inline(data) => {
                if data.bytes.is_empty() {
                    return Err(OpError::Invalid);
                }
                if !data.is_sound() {
                    return Err(OpError::Unsound);
                }
                if file.kept == Kept::Extents {
                    return Err(OpError::NotInline);
                }
                let bytes = [file.inline_bytes(), data.bytes.clone()].concat();
                if bytes.len() > INLINE_LEN_MAX {
                    return Err(OpError::InlineInTheWay);
                }
                file.set_inline(&bytes);
            }
            AppendData::Slices { slices, epoch, gc } => {
                if file.kept == Kept::Inline {
                    return Err(OpError::InlineInTheWay);
                }
                for &slice in slices {
                    file.write(&NewExtent { offset: file.size as u64, slice, epoch: *epoch, gc: *gc });
                }
                file.kept = Kept::Extents;
            }
        }
        Ok(at)
    }

    fn punch(&mut self, inode: u64, offset: u64, len: u64, mode: PunchMode, set_id: SetId) -> Did {
        let file = self.file(inode)?;
        if len == 0 {
            return Err(OpError::Invalid);
        }
        let (from, to) = (offset as usize, (offset + len) as usize);
        let grows = matches!(mode, PunchMode::Zero | PunchMode::Allocate);
        let room = matches!(mode, PunchMode::Allocate | PunchMode::AllocateKeepSize);
        let size = file.size;
        let new_size = if grows { size.max(to) } else { size };
        if file.kept == Kept::Inline {
            if new_size > INLINE_LEN_MAX {
                return Err(OpError::InlineInTheWay);
            }
            let mut bytes = file.inline_bytes();
            bytes.resize(new_size, 0);
            for byte in bytes.iter_mut().take(to).skip(from).filter(|_| !room) {
                *byte = 0;
            }
            file.set_inline(&bytes);
        } else {
            for at in from..to {
                match mode {
                    PunchMode::Hole if at < file.cells.len() => file.set(at, Cell::Hole),
                    PunchMode::Hole => {}
                    PunchMode::Zero | PunchMode::ZeroKeepSize => file.set(at, Cell::Unwritten),
                    PunchMode::Allocate | PunchMode::AllocateKeepSize if file.cell(at) == Cell::Hole => {
                        file.set(at, Cell::Unwritten);
                    }
                    PunchMode::Allocate | PunchMode::AllocateKeepSize => {}
                }
            }
            file.size = new_size;
            if mode != PunchMode::Hole {
                file.kept = Kept::Extents;
            }
        }
        let modified = if room && new_size == size { SetTime::Keep } else { SetTime::Now };
        self.written(inode, modified, set_id)?;
        Ok((inode, len))
    }

    fn clone_range(&mut self, from: (u64, u64), to: (u64, u64), len: u64, set_id: SetId) -> Did {
        let source = self.file(from.0)?.clone();
        let target = self.file(to.0)?;
        let overlap = from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len;
        if len == 0 || overlap {
            return Err(OpError::Invalid);
        }
        let (from_at, to_at) = (from.1 as usize, to.1 as usize);
        let len = (len as usize).min(source.size.saturating_sub(from_at));
        if len == 0 {
            return Ok((to.0, 0));
        }
        if source.kept == Kept::Inline {
            if target.kept == Kept::Extents || to_at + len > INLINE_LEN_MAX {
                return Err(OpError::InlineInTheWay);
            }
            let mut bytes = target.inline_bytes();
            bytes.resize(bytes.len().max(to_at + len), 0);
            bytes[to_at..to_at + len].copy_from_slice(&source.inline_bytes()[from_at..from_at + len]);
            target.set_inline(&bytes);
        } else {
            for index in 0..len {
                target.set(to_at + index, source.cell(from_at + index));
            }
            if target.cells.iter().any(|cell| matches!(cell, Cell::Inline(_))) {
                return Err(OpError::InlineInTheWay);
            }
            target.kept = Kept::Extents;
            target.size = target.size.max(to_at + len);
        }
        self.written(to.0, SetTime::Now, set_id)?;
        Ok((to.0, len as u64))
    }
}

fn new_file(content: &NewContent) -> Result<File, OpError> {
    let mut file = File::new();
    match content {
        NewContent::Empty => {}
        NewContent::Inline(data) if !data.is_sound() => return Err(OpError::Unsound),
        NewContent::Inline(data) => file.set_inline(&data.bytes),
        NewContent::Extents { extents, size } => {
            for extent in extents {
                file.write(extent);
            }
            if file.size as u64 > *size {
                return Err(OpError::Invalid);
            }
            file.size = *size as usize;
            file.kept = if *size > 0 { Kept::Extents } else { Kept::Nowhere };
        }
    }
    Ok(file)
}
