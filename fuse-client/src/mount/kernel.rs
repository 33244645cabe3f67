//! The kernel's operations, each handed on to the file that knows it.

use std::{ffi::OsStr, io, path::Path, sync::Arc, time::SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tracing::warn;
use wire::namespace::{Mode, SetAttr, SetId};

use super::{
    convert::{Numbers, set_time},
    errno::{errno, is_trouble},
};
use crate::fs::{FileSystem, FsError};

/// Requests of the kernel that nobody waits for (read-ahead, writes of pages) under way at once.
const BACKGROUND_MAX: u16 = 128;

/// Bytes of one write: what a kernel puts into one request.
const WRITE_LEN_MAX: u32 = 1 << 20;

/// What the kernel asks.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) at: Arc<At>,
}

/// What tasks that answer share.
#[derive(Debug)]
pub(super) struct At {
    pub(super) fs: FileSystem,
    pub(super) numbers: Numbers,
}

impl Kernel {
    pub(super) fn new(fs: FileSystem, numbers: Numbers) -> Self {
        Self { at: Arc::new(At { fs, numbers }) }
    }
}

impl At {
    /// Answers at once if nothing has to be waited for, and in a task of its own if something has. Whatever `answer` waits for ends with [`FileSystem::patience`]; then its reply is
    /// dropped, and the library answers `EIO`.
    pub(super) fn spawn(self: &Arc<Self>, answer: impl Future<Output = ()> + Send + 'static) {
        self.spawn_within(self.fs.patience(), answer);
    }

    /// As [`At::spawn`], for what may take longer.
    pub(super) fn spawn_within(
        self: &Arc<Self>,
        deadline: std::time::Duration,
        answer: impl Future<Output = ()> + Send + 'static,
    ) {
        let bounded = async move {
            if tokio::time::timeout(deadline, answer).await.is_err() {
                warn!("an operation took too long; its caller gets an error");
            }
        };
        self.spawn_unbounded(bounded);
    }

    /// As [`At::spawn`], without a deadline: for locks that somebody waits for.
    pub(super) fn spawn_unbounded(self: &Arc<Self>, answer: impl Future<Output = ()> + Send + 'static) {
        self.fs.run(answer);
    }
}

/// The errno for `error`; what a person should hear of is logged.
pub(super) fn failed(operation: &'static str, inode: wire::namespace::Inode, error: &FsError) -> fuser::Errno {
    if is_trouble(error) {
        warn!(operation, %inode, %error, "failed");
    }
    errno(error)
}

impl Kernel {
    /// Set-id bits of a file as a change of its bytes by the caller leaves them.
    fn set_id(&self, request: &Request, ino: INodeNo) -> SetId {
        match request.uid() {
            0 => SetId::Keep,
            _ => self.at.set_id_of_others(self.at.numbers.inode(ino), (request.pid(), request.gid())),
        }
    }
}

impl Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                warn!(?flag, "this kernel does not know a capability that the mount uses");
            }
        }
        // Both say what is possible when more was asked for.
        let _granted = config.set_max_write(WRITE_LEN_MAX);
        let _granted = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.at.lookup(parent, name, reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.at.fs.forget(self.at.numbers.inode(ino), nlookup);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.at.get_attr(ino, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // A change of owner takes the set-id bits, whoever makes it; a truncation does unless root makes it.
        let owner_changes = uid.is_some() || gid.is_some();
        let set_id = if owner_changes { SetId::Clear } else { self.set_id(request, ino) };
        let mode = mode.map(|bits| Mode::new((bits & 0o7777) as u16));
        let (accessed, modified) = (set_time(atime), set_time(mtime));
        self.at.set_attr(ino, SetAttr { mode, uid, gid, size, accessed, modified, set_id }, reply);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.at.read_link(ino, reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.at.make_node(parent, name, (mode, rdev), (request.uid(), request.gid()), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.at.make_directory(parent, name, mode, (request.uid(), request.gid()), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.at.unlink(parent, name, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.at.remove_directory(parent, name, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.at.make_symlink(parent, link_name, target, (request.uid(), request.gid()), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.at.rename((parent, name), (newparent, newname), flags, reply);
    }

    fn link(&self, _request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.at.link(ino, newparent, newname, reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.at.open(ino, flags.0, self.set_id(request, ino), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.at.create(parent, name, (mode, flags), (request.uid(), request.gid()), reply);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.at.read(ino, fh, offset, size, reply);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let set_id = match write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            true => self.at.set_id_of_others(self.at.numbers.inode(ino), (request.pid(), request.gid())),
            false => SetId::Keep,
        };
        self.at.write((ino, fh), offset, data, (write_flags, flags.0), set_id, reply);
    }

    fn flush(&self, _request: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        self.at.flush(ino, fh, lock_owner, reply);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.at.release(ino, fh, lock_owner, reply);
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.at.sync(ino, fh, reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.at.open_directory(ino, reply);
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.at.list(ino, fh, offset, reply);
    }

    fn readdirplus(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.at.list_with_attrs(ino, fh, offset, reply);
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.at.release_directory(fh, reply);
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.at.sync_directory(ino, reply);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Many programs ask every file whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.at.space(ino, reply);
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.at.set_xattr(ino, name, value, flags, reply);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.at.xattr(ino, name, size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.at.list_xattrs(ino, request.uid(), size, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.at.remove_xattr(ino, name, reply);
    }

    fn getlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        self.at.test_lock(ino, (lock_owner, pid), (start, end), typ, reply);
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let waiter = sleep.then(|| request.pid());
        self.at.set_lock((ino, fh), (lock_owner, pid), (start, end), typ, waiter, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.at.allocate((ino, fh), (offset, length), mode, self.set_id(request, ino), reply);
    }

    /// Files are always ready: the kernel says so itself from then on.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.at.seek((ino, fh), offset, whence, reply);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.at.copy_range(ino_in, (fh_in, offset_in), (fh_out, offset_out), len, self.set_id(request, ino_out), reply);
    }
}
