//! What a change will come to, where this client can tell without asking: operations executed here first. Pure.
//!
//! An operation can be foreseen if every inode that it touches is held exclusively and known, and so is every name that
//! it looks at: then nobody else can see or change any of it before the lease is given back, and the leader will come to
//! the same, attribute for attribute. What cannot be foreseen, refusals among it, is left to the leader.
//!
//! # Invariants
//! - The rules are those of the namespace's state machine; should the leader ever come to something else, its word
//!   stands and the log says so.
//! - While an inode has deferred operations without outcome, what the leader answers about it is older than what is
//!   known here, and is not taken in.
//!
//! # Not here
//! Permissions, which the kernel has checked by attributes that stand under the same leases; bytes of files.

use bytes::Bytes;
use wire::{
    lease::LeaseMode,
    namespace::{
        Attr, FileType, INLINE_LEN_MAX, Inode, Mode, Name, NewContent, NewGroup, NewInode, NewKind, Op, OpNumber,
        RenameMode, Replace, SetAttr, SetId, SetTime, Timestamp,
    },
};

use super::{Node, Table};

/// What an operation will come to.
#[derive(Debug, Default)]
pub(crate) struct Foreseen {
    /// Attributes of what it touches, afterwards; the inode that it is about comes first.
    attrs: Vec<Attr>,
    /// What it rests on: how often each that was there has changed before.
    before: Vec<(Inode, u64)>,
    /// Names that it sets or takes away.
    names: Vec<(Inode, Name, Option<Inode>)>,
    made: Option<Made>,
    /// From where to where the kernel moves its entry.
    moved: Option<((Inode, Name), (Inode, Name))>,
}

/// What is known of an inode that is made.
#[derive(Debug, Default)]
struct Made {
    target: Option<Bytes>,
}

impl Foreseen {
    /// The inode that the operation is about, as it will be.
    pub(crate) fn subject(&self) -> Option<&Attr> {
        self.attrs.first()
    }

    /// The inodes that it changes, each with its count of changes before.
    pub(crate) fn before(&self) -> &[(Inode, u64)] {
        &self.before
    }

    fn attr_mut(&mut self, known: &Attr) -> &mut Attr {
        let place = self.attrs.iter().position(|attr| attr.inode == known.inode).unwrap_or_else(|| {
            self.attrs.push(*known);
            self.before.push((known.inode, known.change));
            self.attrs.len() - 1
        });
        self.attrs.get_mut(place).expect("it was found or put there")
    }
}

impl Table {
    /// What `op`, made at `at`, will come to; none if the leader has to be asked.
    pub(crate) fn foresee(&self, op: &Op, at: Timestamp) -> Option<Foreseen> {
        match op {
            Op::Create { dir, name, new, replace: Replace::No } => self.foresee_create(*dir, name, new, at),
            Op::Link { inode, dir, name, replace: Replace::No } => self.foresee_link(*inode, *dir, name, at),
            Op::Unlink { dir, name } => self.foresee_unlink(*dir, name, at),
            Op::RemoveDirectory { dir, name } => self.foresee_remove_directory(*dir, name, at),
            Op::Rename { from_dir, from_name, to_dir, to_name, mode: RenameMode::Replace | RenameMode::NoReplace } => {
                self.foresee_rename((*from_dir, from_name), (*to_dir, to_name), at)
            }
            Op::WriteInline { inode, content, if_version: Some(version), modified, set_id: SetId::Keep } => {
                self.foresee_write(*inode, content.bytes.len() as u64, *version, *modified, at)
            }
            Op::SetAttr { inode, set } if set.size.is_none() => self.foresee_set_attr(*inode, set, at),
            _ => None,
        }
    }

    /// Attributes of an inode that is ours to change.
    fn ours(&self, inode: Inode) -> Option<&Attr> {
        let node = self.nodes.get(&inode)?;
        let held = node.lease == Some(LeaseMode::Exclusive) && node.revoking == 0 && !node.pages_stale;
        node.attr.as_ref().filter(|_| held)
    }

    /// A directory that is ours to change, and that has a name itself.
    fn our_dir(&self, dir: Inode) -> Option<(&Attr, &Node)> {
        let attr = self.ours(dir).filter(|attr| attr.file_type == FileType::Directory && attr.links > 0)?;
        Some((attr, self.nodes.get(&dir)?))
    }

    /// All the bytes of a file, which lay inline before, if there were any.
    fn foresee_write(
        &self,
        inode: Inode,
        len: u64,
        version: u64,
        modified: SetTime,
        at: Timestamp,
    ) -> Option<Foreseen> {
        let known = self.ours(inode).filter(|attr| attr.file_type == FileType::File && attr.links > 0)?;
        let is_inline = known.size <= INLINE_LEN_MAX as u64 && known.allocated == known.size;
        if !is_inline || known.data_version != version {
            return None;
        }
        let mut foreseen = Foreseen::default();
        let attr = foreseen.attr_mut(known);
        (attr.size, attr.allocated) = (len, len);
        touch(attr, at);
        attr.data_version += 1;
        match modified {
            SetTime::Keep => {}
            SetTime::To(time) => (attr.modified, attr.changed) = (time, known.changed.max(time)),
            SetTime::Now => return None,
        }
        Some(foreseen)
    }

    fn foresee_create(&self, dir: Inode, name: &Name, new: &NewInode, at: Timestamp) -> Option<Foreseen> {
        let (dir_attr, node) = self.our_dir(dir)?;
        if node.children.get(name)?.is_some() || !new.xattrs.is_empty() || self.nodes.contains_key(&new.inode) {
            return None;
        }
        let (attr, made) = new_attr(new, dir_attr, at)?;
        let mut foreseen = Foreseen { attrs: vec![attr], made: Some(made), ..Foreseen::default() };
        let dir_attr = foreseen.attr_mut(dir_attr);
        enter(dir_attr, attr.file_type)?;
        touch_entries(dir_attr, at);
        foreseen.names.push((dir, name.clone(), Some(new.inode)));
        Some(foreseen)
    }

    fn foresee_link(&self, inode: Inode, dir: Inode, name: &Name, at: Timestamp) -> Option<Foreseen> {
        let (dir_attr, node) = self.our_dir(dir)?;
        let known = self.ours(inode).filter(|attr| attr.file_type != FileType::Directory && attr.links > 0)?;
        if node.children.get(name)?.is_some() {
            return None;
        }
        let mut foreseen = Foreseen::default();
        let attr = foreseen.attr_mut(known);
        attr.links = attr.links.checked_add(1)?;
        touch(attr, at);
        let dir_attr = foreseen.attr_mut(dir_attr);
        enter(dir_attr, known.file_type)?;
        touch_entries(dir_attr, at);
        foreseen.names.push((dir, name.clone(), Some(inode)));
        Some(foreseen)
    }

    fn foresee_unlink(&self, dir: Inode, name: &Name, at: Timestamp) -> Option<Foreseen> {
        let (dir_attr, node) = self.our_dir(dir)?;
        let known = self.ours(node.children.get(name)??).filter(|attr| attr.file_type != FileType::Directory)?;
        take_away((dir_attr, name), known, at)
    }

    fn foresee_remove_directory(&self, dir: Inode, name: &Name, at: Timestamp) -> Option<Foreseen> {
        let (dir_attr, node) = self.our_dir(dir)?;
        let (known, _) = self.our_dir(node.children.get(name)??).filter(|(attr, _)| attr.size == 0)?;
        take_away((dir_attr, name), known, at)
    }

    fn foresee_rename(&self, from: (Inode, &Name), to: (Inode, &Name), at: Timestamp) -> Option<Foreseen> {
        let ((from_attr, from_node), (to_attr, to_node)) = (self.our_dir(from.0)?, self.our_dir(to.0)?);
        let source = from_node.children.get(from.1)??;
        let known = self.ours(source)?;
        let is_dir = known.file_type == FileType::Directory;
        // Whether a directory would move into itself only the leader can tell: others move directories above.
        if is_dir && from.0 != to.0 {
            return None;
        }
        let replaced = match to_node.children.get(to.1)? {
            None => None,
            // Both names of one inode, or a directory: the leader has rules for that.
            Some(replaced) if replaced == source || is_dir => return None,
            Some(replaced) => Some(self.ours(replaced).filter(|attr| attr.file_type != FileType::Directory)?),
        };
        let mut foreseen = Foreseen::default();
        touch(foreseen.attr_mut(known), at);
        let left = foreseen.attr_mut(from_attr);
        leave(left, known.file_type)?;
        touch_entries(left, at);
        if let Some(replaced) = replaced {
            lose_name(foreseen.attr_mut(replaced), at);
        }
        let entered = foreseen.attr_mut(to_attr);
        enter(entered, known.file_type)?;
        if replaced.is_some() {
            entered.size = entered.size.checked_sub(1)?;
        }
        touch_entries(entered, at);
        foreseen.names.push((from.0, from.1.clone(), None));
        foreseen.names.push((to.0, to.1.clone(), Some(source)));
        foreseen.moved = Some(((from.0, from.1.clone()), (to.0, to.1.clone())));
        Some(foreseen)
    }

    fn foresee_set_attr(&self, inode: Inode, set: &SetAttr, at: Timestamp) -> Option<Foreseen> {
        let mut foreseen = Foreseen::default();
        let attr = foreseen.attr_mut(self.ours(inode)?);
        let owner_changes = set.uid.is_some() || set.gid.is_some();
        if owner_changes && attr.file_type != FileType::Directory {
            attr.mode = set.set_id.clear(attr.mode);
        }
        touch(attr, at);
        let time = |set: SetTime, old: Timestamp| match set {
            SetTime::Keep => old,
            SetTime::Now => attr.changed,
            SetTime::To(time) => time,
        };
        (attr.modified, attr.accessed) = (time(set.modified, attr.modified), time(set.accessed, attr.accessed));
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.mode = set.mode.unwrap_or(attr.mode);
        Some(foreseen)
    }

    /// What was foreseen is so from now on; the leader will hear of it under `number`.
    pub(crate) fn defer(&mut self, number: OpNumber, foreseen: Foreseen) {
        let Foreseen { attrs, before: _, names, made, moved } = foreseen;
        if let (Some(made), Some(attr)) = (made, attrs.first()) {
            let node = self.entry(attr.inode);
            // Nobody else can know of it yet; the answer grants it.
            node.lease = Some(LeaseMode::Exclusive);
            node.is_unseen = true;
            node.xattrs = Some(std::sync::Arc::default());
            node.target = made.target;
            node.children.complete = attr.file_type == FileType::Directory;
        }
        self.deferred.insert(number.0, attrs.iter().map(|attr| attr.inode).collect());
        for attr in attrs {
            let node = self.entry(attr.inode);
            node.attr = Some(attr);
            node.deferred += 1;
        }
        if let Some((from, to)) = moved {
            self.move_told((from.0, &from.1), (to.0, &to.1));
        }
        for (dir, name, inode) in names {
            self.entry(dir).children.insert(&name, inode);
        }
    }
}

/// Attributes of a new inode in `dir`, and what else is known of it.
fn new_attr(new: &NewInode, dir: &Attr, at: Timestamp) -> Option<(Attr, Made)> {
    let (file_type, device, target) = match &new.kind {
        NewKind::File(NewContent::Empty) => (FileType::File, 0, None),
        NewKind::Directory => (FileType::Directory, 0, None),
        NewKind::Symlink(target) => (FileType::Symlink, 0, Some(Bytes::copy_from_slice(&target.bytes))),
        NewKind::Fifo => (FileType::Fifo, 0, None),
        NewKind::Socket => (FileType::Socket, 0, None),
        NewKind::CharDevice { device } => (FileType::CharDevice, *device, None),
        NewKind::BlockDevice { device } => (FileType::BlockDevice, *device, None),
        NewKind::File(NewContent::Inline(_) | NewContent::Extents { .. }) => return None,
    };
    let is_dir = file_type == FileType::Directory;
    let inherits = dir.mode.bits() & Mode::SET_GID != 0;
    let (gid, mode) = match new.gid {
        NewGroup::Caller(_) if inherits && is_dir => (dir.gid, Mode::new(new.mode.bits() | Mode::SET_GID)),
        NewGroup::Caller(_) if inherits => (dir.gid, new.mode),
        NewGroup::Caller(gid) | NewGroup::Exactly(gid) => (gid, new.mode),
    };
    let times = new.times.map_or((at, at), |times| (times.accessed, times.modified));
    let attr = Attr {
        inode: new.inode,
        file_type,
        mode,
        uid: new.uid,
        gid,
        links: if is_dir { 2 } else { 1 },
        size: target.as_ref().map_or(0, |target| target.len() as u64),
        allocated: 0,
        device,
        accessed: times.0,
        modified: times.1,
        changed: at,
        born: at,
        change: 1,
        data_version: 1,
    };
    Some((attr, Made { target }))
}

/// Something about the inode changes.
fn touch(attr: &mut Attr, at: Timestamp) {
    attr.changed = at.max(attr.changed);
    attr.change += 1;
}

/// Entries of the directory change.
fn touch_entries(dir: &mut Attr, at: Timestamp) {
    touch(dir, at);
    dir.data_version += 1;
    dir.modified = dir.changed;
}

/// A name of `known` in a directory goes.
fn take_away((dir_attr, name): (&Attr, &Name), known: &Attr, at: Timestamp) -> Option<Foreseen> {
    let mut foreseen = Foreseen::default();
    lose_name(foreseen.attr_mut(known), at);
    foreseen.names.push((dir_attr.inode, name.clone(), None));
    let dir_attr = foreseen.attr_mut(dir_attr);
    leave(dir_attr, known.file_type)?;
    touch_entries(dir_attr, at);
    Some(foreseen)
}

/// One name of the inode goes.
fn lose_name(attr: &mut Attr, at: Timestamp) {
    attr.links = if attr.file_type == FileType::Directory { 0 } else { attr.links.saturating_sub(1) };
    touch(attr, at);
}

/// An entry comes into the directory.
fn enter(dir: &mut Attr, file_type: FileType) -> Option<()> {
    dir.size = dir.size.checked_add(1)?;
    if file_type == FileType::Directory {
        dir.links = dir.links.checked_add(1)?;
    }
    Some(())
}

/// An entry leaves the directory.
fn leave(dir: &mut Attr, file_type: FileType) -> Option<()> {
    dir.size = dir.size.checked_sub(1)?;
    if file_type == FileType::Directory {
        dir.links = dir.links.checked_sub(1)?;
    }
    Some(())
}
