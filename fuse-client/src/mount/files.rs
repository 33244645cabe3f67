//! Questions about open files: bytes, ranges, locks.

use std::{ffi::OsStr, sync::Arc, time::Duration};

use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, LockOwner, ReplyCreate, ReplyData, ReplyEmpty, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyWrite, WriteFlags,
};
use wire::namespace::{
    Attr, FileLock, FileType, Inode, LockKind, Mode, Name, NewContent, NewKind, OpError, PunchMode, SetAttr, SetId,
};

use super::{
    callers::{is_in_group, is_interrupted},
    convert::name as parse,
    errno::errno,
    kernel::{At, failed},
    names::{GENERATION, News, done_or_error},
};
use crate::fs::{CopyRange, FsError, HandleId, Lookup, Making, Opened, Seek, Write, WriteKind, WriteMode};

// Flags of `open`, as Linux numbers them.
const O_EXCL: i32 = 0o200;
const O_TRUNC: i32 = 0o1000;
const O_APPEND: i32 = 0o2000;
const O_DSYNC: i32 = 0o10_000;

// Kinds of locks, as `fcntl` numbers them.
const F_RDLCK: i32 = 0;
const F_WRLCK: i32 = 1;
const F_UNLCK: i32 = 2;

// Flags of `fallocate`.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

// Places to seek.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// How often a read is made again because its lease was lost meanwhile.
const READS: u32 = 16;

/// The kernel sends the flags of the descriptor as they are now, with those of the single write.
fn write_mode(flags: i32) -> WriteMode {
    WriteMode { append: flags & O_APPEND != 0, synced: flags & O_DSYNC != 0 }
}

/// Appends go past the kernel's pages: through them the kernel cuts a write at a page of the offset that it believes in,
/// and another mount's record comes between the halves.
fn fopen_flags(opened: &Opened, flags: i32) -> FopenFlags {
    let mut fopen = FopenFlags::empty();
    fopen.set(FopenFlags::FOPEN_DIRECT_IO, flags & O_APPEND != 0);
    fopen.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_pages);
    fopen
}

fn new_file(mode: u32, (uid, gid): (u32, u32)) -> Making {
    Making { kind: NewKind::File(NewContent::Empty), mode: Mode::new((mode & 0o7777) as u16), uid, gid }
}

impl At {
    pub(super) fn open(self: &Arc<Self>, ino: INodeNo, flags: i32, set_id: SetId, reply: ReplyOpen) {
        let inode = self.numbers.inode(ino);
        let truncates = flags & O_TRUNC != 0;
        if !truncates {
            let gate = self.fs.gate();
            if let Some(opened) = self.fs.open_cached(&gate, inode) {
                return reply.opened(FileHandle(opened.handle.0), fopen_flags(&opened, flags));
            }
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.open_slowly(inode, flags, set_id).await {
                Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen_flags(&opened, flags)),
                Err(error) => reply.error(failed("open", inode, &error)),
            }
        });
    }

    async fn open_slowly(&self, inode: Inode, flags: i32, set_id: SetId) -> Result<Opened, FsError> {
        let opened = self.fs.open_file(inode).await?;
        if flags & O_TRUNC != 0 {
            let set = SetAttr { size: Some(0), set_id, ..SetAttr::default() };
            if let Err(error) = self.fs.set_attr(inode, set).await {
                self.fs.release_file(opened.handle, None);
                return Err(error);
            }
        }
        Ok(opened)
    }

    pub(super) fn create(
        self: &Arc<Self>,
        parent: INodeNo,
        name: &OsStr,
        (mode, flags): (u32, i32),
        caller: (u32, u32),
        reply: ReplyCreate,
    ) {
        let dir = self.numbers.inode(parent);
        let name = match parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let made = self.fs.make_cached(dir, &name, &new_file(mode, caller));
        if let Some(attr) = &made
            && let Some(opened) = self.open_made(attr.inode)
        {
            return self.reply_created((dir, &name), (attr, News::Inode), (&opened, flags), reply);
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            let created = match made {
                Some(attr) => {
                    let opened = at.open_slowly(attr.inode, flags, SetId::Keep).await;
                    opened.map(|opened| (attr, News::Inode, opened))
                }
                None => at.create_or_open(dir, &name, (mode, flags), caller).await,
            };
            match created {
                Ok((attr, news, opened)) => {
                    at.reply_created((dir, &name), (&attr, news), (&opened, flags), reply);
                }
                Err(error) => reply.error(failed("create", dir, &error)),
            }
        });
    }

    fn open_made(&self, inode: Inode) -> Option<Opened> {
        let gate = self.fs.gate();
        self.fs.open_cached(&gate, inode)
    }

    async fn create_or_open(
        &self,
        dir: Inode,
        name: &Name,
        (mode, flags): (u32, i32),
        caller: (u32, u32),
    ) -> Result<(Attr, News, Opened), FsError> {
        match self.fs.make(dir, name, new_file(mode, caller)).await {
            Ok(attr) => {
                let opened = match self.open_made(attr.inode) {
                    Some(opened) => opened,
                    None => self.fs.open_file(attr.inode).await?,
                };
                Ok((attr, News::Inode, opened))
            }
            // Somebody else made it a moment ago.
            Err(FsError::Op(OpError::Exists)) if flags & O_EXCL == 0 => {
                let found = self.fs.load_name(dir, name).await?.ok_or(OpError::NotFound)?;
                if found.file_type != FileType::File {
                    // The kernel looks again.
                    return Err(OpError::StaleInode.into());
                }
                let set_id = if caller.0 == 0 { SetId::Keep } else { SetId::Clear };
                let opened = self.open_slowly(found.inode, flags, set_id).await?;
                Ok((self.fs.load_attr(found.inode).await?, News::Name, opened))
            }
            Err(error) => Err(error),
        }
    }

    fn reply_created(
        &self,
        (dir, name): (Inode, &Name),
        (attr, news): (&Attr, News),
        (opened, flags): (&Opened, i32),
        reply: ReplyCreate,
    ) {
        let gate = self.fs.gate();
        let (attr, ttl) = match self.fs.lookup_cached(&gate, dir, name) {
            Some(Lookup::Found(told)) if told.attr.inode == attr.inode => {
                // One time for both.
                (told.attr, news.attr_ttl(told.entry_ttl))
            }
            other => {
                self.forget_other(other);
                self.fs.remember(attr.inode);
                (*attr, Duration::ZERO)
            }
        };
        let handle = FileHandle(opened.handle.0);
        reply.created(&ttl, &self.numbers.attr(&attr), GENERATION, handle, fopen_flags(opened, flags));
    }

    pub(super) fn read(self: &Arc<Self>, ino: INodeNo, fh: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        let (inode, handle) = (self.numbers.inode(ino), HandleId(fh.0));
        {
            let gate = self.fs.gate();
            if let Some(bytes) = self.fs.read_cached(&gate, handle, offset, size) {
                return reply.data(&bytes);
            }
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            for _ in 0..READS {
                match at.fs.read(handle, offset, size).await {
                    Ok((bytes, stand)) => {
                        let gate = at.fs.gate();
                        if at.fs.stands(&gate, stand) {
                            return reply.data(&bytes);
                        }
                    }
                    Err(error) => return reply.error(failed("read", inode, &error)),
                }
            }
            reply.error(failed("read", inode, &FsError::Deadline));
        });
    }

    pub(super) fn write(
        self: &Arc<Self>,
        (ino, fh): (INodeNo, FileHandle),
        offset: u64,
        data: &[u8],
        (flags, open_flags): (WriteFlags, i32),
        set_id: SetId,
        reply: ReplyWrite,
    ) {
        let inode = self.numbers.inode(ino);
        let kind = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) { WriteKind::Mapped } else { WriteKind::Plain };
        let mode = match kind {
            WriteKind::Plain => write_mode(open_flags),
            // Pages are written back through any descriptor of the file.
            WriteKind::Mapped => WriteMode::default(),
        };
        let handle = HandleId(fh.0);
        {
            let gate = self.fs.gate();
            match self.fs.write_cached(&gate, Write { handle, offset, data, kind, mode, set_id }) {
                Some(Ok(written)) => return reply.written(written),
                Some(Err(error)) => return reply.error(failed("write", inode, &error)),
                None => {}
            }
        }
        let (at, data) = (Arc::clone(self), data.to_vec());
        self.spawn(async move {
            match at.fs.write(Write { handle, offset, data: &data, kind, mode, set_id }).await {
                Ok(written) => reply.written(written),
                Err(error) => reply.error(failed("write", inode, &error)),
            }
        });
    }

    /// Set-id bits of a file as a change of its bytes by somebody who is not root leaves them: where the group may not execute
    /// it, set-group-id goes only if the caller is none of the group, as on local file systems.
    pub(super) fn set_id_of_others(&self, inode: Inode, (pid, gid): (u32, u32)) -> SetId {
        const BITS: u16 = Mode::SET_GID | 0o010;
        match self.fs.known_attr(inode).filter(|attr| attr.mode.bits() & BITS == Mode::SET_GID) {
            Some(attr) if attr.gid != gid && !is_in_group(pid, attr.gid) => SetId::ClearBoth,
            _ => SetId::Clear,
        }
    }

    /// A process closes the file: what went wrong so far is told, and its locks go.
    pub(super) fn flush(self: &Arc<Self>, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let (inode, handle) = (self.numbers.inode(ino), HandleId(fh.0));
        let owner = wire::namespace::LockOwner(owner.0);
        let told = self.fs.deferred_error(handle);
        self.fs.forget_locker(handle, owner);
        let (is_unleased, may_have_locked) =
            (self.fs.has_unleased_bytes(handle), self.fs.may_have_locked(inode, owner));
        if !is_unleased && !may_have_locked {
            return done_or_error(told, "close", inode, reply);
        }
        let unlocking = may_have_locked.then(|| self.fs.begin_unlock(inode, owner));
        let at = Arc::clone(self);
        self.spawn(async move {
            let stored = if is_unleased { at.fs.store(handle).await } else { Ok(()) };
            let unlocked = match unlocking {
                Some(unlocking) => at.fs.unlock_owner(unlocking).await,
                None => Ok(()),
            };
            done_or_error(told.and(stored).and(unlocked), "close", inode, reply);
        });
    }

    pub(super) fn release(self: &Arc<Self>, ino: INodeNo, fh: FileHandle, owner: Option<LockOwner>, reply: ReplyEmpty) {
        let inode = self.numbers.inode(ino);
        let owner = owner.map(|owner| wire::namespace::LockOwner(owner.0));
        let unlocking = self.fs.release_file(HandleId(fh.0), owner);
        if unlocking.is_empty() {
            return reply.ok();
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            let mut unlocked = Ok(());
            for owner in unlocking {
                unlocked = unlocked.and(at.fs.unlock_owner(owner).await);
            }
            done_or_error(unlocked, "release", inode, reply);
        });
    }

    pub(super) fn sync(self: &Arc<Self>, ino: INodeNo, fh: FileHandle, reply: ReplyEmpty) {
        let inode = self.numbers.inode(ino);
        let at = Arc::clone(self);
        self.spawn_within(crate::fs::SYNC_DEADLINE, async move {
            done_or_error(at.fs.sync(HandleId(fh.0)).await, "fsync", inode, reply);
        });
    }

    pub(super) fn allocate(
        self: &Arc<Self>,
        (ino, fh): (INodeNo, FileHandle),
        (offset, len): (u64, u64),
        mode: i32,
        set_id: SetId,
        reply: ReplyEmpty,
    ) {
        let inode = self.numbers.inode(ino);
        let mode = match mode {
            0 => PunchMode::Allocate,
            KEEP_SIZE => PunchMode::AllocateKeepSize,
            mode if mode == PUNCH_HOLE | KEEP_SIZE => PunchMode::Hole,
            ZERO_RANGE => PunchMode::Zero,
            mode if mode == ZERO_RANGE | KEEP_SIZE => PunchMode::ZeroKeepSize,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let at = Arc::clone(self);
        self.spawn(async move {
            let done = at.fs.allocate(HandleId(fh.0), offset, len, mode, set_id).await;
            done_or_error(done, "fallocate", inode, reply);
        });
    }

    pub(super) fn seek(
        self: &Arc<Self>,
        (ino, fh): (INodeNo, FileHandle),
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let inode = self.numbers.inode(ino);
        let seek = match whence {
            SEEK_DATA => Seek::Data,
            SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.seek(HandleId(fh.0), offset, seek).await {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                Err(error) => reply.error(failed("lseek", inode, &error)),
            }
        });
    }

    pub(super) fn copy_range(
        self: &Arc<Self>,
        ino: INodeNo,
        from: (FileHandle, u64),
        to: (FileHandle, u64),
        len: u64,
        set_id: SetId,
        reply: ReplyWrite,
    ) {
        let inode = self.numbers.inode(ino);
        let range =
            CopyRange { from: (HandleId(from.0.0), from.1), to: (HandleId(to.0.0), to.1), len: len.min(1 << 30) };
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.copy_range(range, set_id).await {
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(error) => reply.error(failed("copy_file_range", inode, &error)),
            }
        });
    }

    pub(super) fn test_lock(
        self: &Arc<Self>,
        ino: INodeNo,
        (owner, pid): (LockOwner, u32),
        (start, end): (u64, u64),
        kind: i32,
        reply: ReplyLock,
    ) {
        let inode = self.numbers.inode(ino);
        let Some(kind) = lock_kind(kind) else { return reply.error(Errno::EINVAL) };
        let lock = FileLock { owner: wire::namespace::LockOwner(owner.0), pid, start, end: lock_end(end), kind };
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.test_lock(inode, lock).await {
                Ok(None) => reply.locked(0, 0, F_UNLCK, 0),
                Ok(Some(found)) => {
                    let kind = if found.kind == LockKind::Read { F_RDLCK } else { F_WRLCK };
                    reply.locked(found.start, found.end.min(i64::MAX as u64), kind, found.pid);
                }
                Err(error) => reply.error(failed("getlk", inode, &error)),
            }
        });
    }

    pub(super) fn set_lock(
        self: &Arc<Self>,
        (ino, fh): (INodeNo, FileHandle),
        (owner, pid): (LockOwner, u32),
        (start, end): (u64, u64),
        kind: i32,
        waiter: Option<u32>,
        reply: ReplyEmpty,
    ) {
        let inode = self.numbers.inode(ino);
        let (owner, end) = (wire::namespace::LockOwner(owner.0), lock_end(end));
        let at = Arc::clone(self);
        let Some(kind) = lock_kind(kind) else {
            let unlocking = self.fs.begin_unlock(inode, owner);
            return self.spawn(async move {
                done_or_error(at.fs.unlock(unlocking, start, end).await, "unlock", inode, reply);
            });
        };
        let lock = FileLock { owner, pid, start, end, kind };
        // Before it is asked for: whoever had this owner's number before may be released meanwhile.
        self.fs.note_locker(HandleId(fh.0), owner);
        match waiter {
            None => self.spawn(async move {
                let locked = at.fs.lock(inode, lock).await;
                at.fs.note_locker(HandleId(fh.0), owner);
                done_or_error(locked, "lock", inode, reply);
            }),
            Some(thread) => self.spawn_unbounded(async move {
                let locked = at.fs.lock_and_wait(inode, lock, || is_interrupted(thread)).await;
                // Whoever closed another descriptor of it meanwhile did not know of this lock.
                at.fs.note_locker(HandleId(fh.0), owner);
                done_or_error(locked, "lock", inode, reply);
            }),
        }
    }
}

/// None to unlock.
fn lock_kind(kind: i32) -> Option<LockKind> {
    match kind {
        F_RDLCK => Some(LockKind::Read),
        F_WRLCK => Some(LockKind::Write),
        _ => None,
    }
}

/// The kernel's last byte of all is ours.
fn lock_end(end: u64) -> u64 {
    if end >= i64::MAX as u64 { u64::MAX } else { end }
}
