//! Inodes: how they begin, change and lose their names.

use wire::namespace::{
    FileType, InlineData, Inode, Mode, NewContent, NewGroup, NewInode, NewKind, OpError, SYMLINK_LEN_MAX, SessionId,
    SetAttr, SetTime, Timestamp, Usage,
};

use super::{
    edit::{Edit, Fault},
    file::OpenFile,
    row::{Body, Counters, InodeRow, Standing, Storage},
    table,
};

/// Seconds that a client's clock may be ahead of the leader's before its times are no times of writes: ctime never goes
/// back, so that what others change meanwhile would seem to change at the same time.
const CLOCK_AHEAD_MAX: i64 = 1;

impl Edit<'_> {
    /// The inode, unless it does not exist or is being released.
    pub(super) fn inode(&self, inode: Inode) -> Result<InodeRow, Fault> {
        let row: Option<InodeRow> = self.read(&table::inode(inode))?;
        match row {
            Some(row) if row.standing != Standing::Reclaiming => Ok(row),
            Some(_) | None => Err(OpError::StaleInode.into()),
        }
    }

    pub(super) fn put_inode(&mut self, inode: Inode, row: &InodeRow) -> Result<(), Fault> {
        self.put(table::inode(inode), row)
    }

    /// The time of a change of `row`: never before its last change, whatever the leaders' clocks say.
    pub(super) fn now(&self, row: &InodeRow) -> Timestamp {
        self.stamp.max(row.changed)
    }

    /// Notes that something about `row` changed.
    pub(super) fn touch(&self, row: &mut InodeRow) {
        row.changed = self.now(row);
        row.change += 1;
    }

    /// Notes that the bytes of `row` changed, or the entries of a directory.
    pub(super) fn touch_data(&self, row: &mut InodeRow, modified: SetTime) {
        self.touch(row);
        row.data_version += 1;
        row.modified = self.time(row, modified, row.modified);
    }

    /// When the bytes were written, if the asker knows better than the leader: a mount tells of a write some time after
    /// it was made. A time well ahead of the leader's clock is none of a write, but one that somebody set.
    pub(super) fn time_of_write(&self, modified: SetTime) -> Option<Timestamp> {
        let latest = (self.stamp.seconds().saturating_add(CLOCK_AHEAD_MAX), self.stamp.nanoseconds());
        match modified {
            SetTime::To(time) => Some(time).filter(|time| (time.seconds(), time.nanoseconds()) <= latest),
            SetTime::Keep | SetTime::Now => None,
        }
    }

    fn time(&self, row: &InodeRow, set: SetTime, old: Timestamp) -> Timestamp {
        match set {
            SetTime::Keep => old,
            SetTime::Now => self.now(row),
            SetTime::To(time) => time,
        }
    }

    /// Counts inodes and bytes that came and went.
    pub(super) fn count_usage(&mut self, change: impl FnOnce(&mut Usage)) -> Result<(), Fault> {
        let key = table::single(table::USAGE);
        let mut usage: Usage = self.read(&key)?.unwrap_or_default();
        change(&mut usage);
        self.put(key, &usage)
    }

    /// Makes the inode that `new` says, in `dir` if it gets a name there.
    pub(super) fn create_inode(
        &mut self,
        session: SessionId,
        new: &NewInode,
        dir: Option<(Inode, &InodeRow)>,
    ) -> Result<InodeRow, Fault> {
        self.use_number(session, new.inode)?;
        let (uid, gid, mode) = owner(new, dir.map(|(_, row)| row));
        let body = match (&new.kind, dir) {
            (NewKind::File(_), _) => Body::File { storage: Storage::Empty, cut_from: None },
            (NewKind::Directory, Some((parent, _))) => {
                Body::Directory { parent, next_cookie: wire::namespace::Cookie(1) }
            }
            (NewKind::Directory, None) => return Err(OpError::Invalid.into()),
            (NewKind::Symlink(_), _) => Body::Symlink,
            (NewKind::Fifo, _) => Body::Fifo,
            (NewKind::Socket, _) => Body::Socket,
            (&NewKind::CharDevice { device }, _) => Body::CharDevice { device },
            (&NewKind::BlockDevice { device }, _) => Body::BlockDevice { device },
        };
        let row = InodeRow {
            body,
            standing: if dir.is_some() { Standing::Named } else { Standing::Unnamed(session) },
            mode,
            uid,
            gid,
            links: match (dir, &new.kind) {
                (None, _) => 0,
                (Some(_), NewKind::Directory) => 2,
                (Some(_), _) => 1,
            },
            size: 0,
            allocated: 0,
            accessed: new.times.map_or(self.stamp, |times| times.accessed),
            modified: new.times.map_or(self.stamp, |times| times.modified),
            changed: self.stamp,
            born: self.stamp,
            change: 1,
            data_version: 1,
        };
        let row = self.fill_inode(new, row)?;
        self.put_inode(new.inode, &row)?;
        self.create_xattrs(new)?;
        self.count_usage(|usage| {
            usage.inodes += 1;
            usage.bytes = usage.bytes.wrapping_add(row.allocated);
        })?;
        Ok(row)
    }

    /// Puts the content of a new inode into its place.
    fn fill_inode(&mut self, new: &NewInode, mut row: InodeRow) -> Result<InodeRow, Fault> {
        match &new.kind {
            NewKind::File(NewContent::Empty) => Ok(row),
            NewKind::File(content) => {
                let mut file = OpenFile::new(new.inode, row);
                match content {
                    NewContent::Empty => {}
                    NewContent::Inline(data) => self.set_inline(&mut file, data)?,
                    NewContent::Extents { extents, size } => self.fill_extents(&mut file, extents, *size)?,
                }
                Ok(file.row)
            }
            NewKind::Symlink(target) => {
                check_target(target)?;
                row.size = target.bytes.len() as u64;
                self.put(table::inline(new.inode), target)?;
                Ok(row)
            }
            NewKind::Directory
            | NewKind::Fifo
            | NewKind::Socket
            | NewKind::CharDevice { .. }
            | NewKind::BlockDevice { .. } => Ok(row),
        }
    }

    /// Takes one name, or all that a removed directory had, from an inode; without any it becomes an orphan.
    pub(super) fn lose_name(&mut self, inode: Inode, mut row: InodeRow) -> Result<InodeRow, Fault> {
        row.links = if row.is_directory() { 0 } else { row.links.saturating_sub(1) };
        self.touch(&mut row);
        if row.links == 0 {
            self.orphan(inode, &mut row)?;
        }
        self.put_inode(inode, &row)?;
        Ok(row)
    }

    /// Makes an inode without names an orphan, which is released when nobody has it open.
    pub(super) fn orphan(&mut self, inode: Inode, row: &mut InodeRow) -> Result<(), Fault> {
        let index = self.index.0;
        row.standing = Standing::Orphan(index);
        self.put(table::orphan(index, inode), &())?;
        self.change_counters(|counters| counters.orphans_index = index)
    }

    /// Changes the counters, which exist since the cluster was founded.
    pub(super) fn change_counters(&mut self, change: impl FnOnce(&mut Counters)) -> Result<(), Fault> {
        let mut counters = self.counters()?.expect("nothing changes before the cluster is founded");
        change(&mut counters);
        self.put(table::single(table::COUNTERS), &counters)
    }

    /// Changes attributes, the length among them.
    pub(super) fn set_attr(&mut self, inode: Inode, set: &SetAttr) -> Result<InodeRow, Fault> {
        let mut row = self.inode(inode)?;
        if (set.size.is_some() || set.uid.is_some() || set.gid.is_some()) && !row.is_directory() {
            row.mode = set.set_id.clear(row.mode);
        }
        if let Some(size) = set.size {
            let mut file = OpenFile::check(inode, row)?;
            self.set_len(&mut file, size)?;
            // As truncate(2): the length is set now, unless the caller restores a time.
            let modified = if set.modified == SetTime::Keep { SetTime::Now } else { set.modified };
            self.touch_data(&mut file.row, modified);
            row = self.settle(file)?;
        } else {
            self.touch(&mut row);
            row.modified = self.time(&row, set.modified, row.modified);
        }
        row.accessed = self.time(&row, set.accessed, row.accessed);
        row.uid = set.uid.unwrap_or(row.uid);
        row.gid = set.gid.unwrap_or(row.gid);
        row.mode = set.mode.unwrap_or(row.mode);
        self.put_inode(inode, &row)?;
        Ok(row)
    }
}

/// Owner, group and mode of a new inode. A set-group-id directory gives its group, and to directories the bit as well.
fn owner(new: &NewInode, dir: Option<&InodeRow>) -> (u32, u32, Mode) {
    let inherits = dir.filter(|dir| dir.mode.bits() & Mode::SET_GID != 0);
    match (new.gid, inherits) {
        (NewGroup::Exactly(gid), _) | (NewGroup::Caller(gid), None) => (new.uid, gid, new.mode),
        (NewGroup::Caller(_), Some(dir)) if matches!(new.kind, NewKind::Directory) => {
            (new.uid, dir.gid, Mode::new(new.mode.bits() | Mode::SET_GID))
        }
        (NewGroup::Caller(_), Some(dir)) => (new.uid, dir.gid, new.mode),
    }
}

fn check_target(target: &InlineData) -> Result<(), OpError> {
    if target.bytes.is_empty() || target.bytes.len() > SYMLINK_LEN_MAX || target.bytes.contains(&0) {
        return Err(OpError::Invalid);
    }
    if target.is_sound() { Ok(()) } else { Err(OpError::Unsound) }
}

/// The type of a new inode.
pub(super) fn type_of(kind: &NewKind) -> FileType {
    match kind {
        NewKind::File(_) => FileType::File,
        NewKind::Directory => FileType::Directory,
        NewKind::Symlink(_) => FileType::Symlink,
        NewKind::Fifo => FileType::Fifo,
        NewKind::Socket => FileType::Socket,
        NewKind::CharDevice { .. } => FileType::CharDevice,
        NewKind::BlockDevice { .. } => FileType::BlockDevice,
    }
}
