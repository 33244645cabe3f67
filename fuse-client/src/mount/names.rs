//! Questions about names and attributes.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, sync::Arc, time::Duration};

use fuser::{
    FileHandle, FopenFlags, Generation, INodeNo, RenameFlags, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr,
};
use wire::namespace::{Attr, Cookie, Inode, Mode, Name, NewKind, OpError, RenameMode, XattrMode};

use super::{
    convert::{Numbers, kind, name as parse, new_kind},
    errno::errno,
    kernel::{At, failed},
};
use crate::fs::{FsError, HandleId, Lookup, Making, Told};

/// Numbers of inodes are never used again, so they need no generation.
pub(super) const GENERATION: Generation = Generation(0);

/// Offsets 1 and 2 of a listing are `.` and `..`; entries follow at their cookie and this.
const DOTS: u64 = 2;

/// `setxattr` flags.
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

/// What SELinux knows of a file, where it keeps that with the file; on such a machine the kernel answers for us. Of a file
/// that has none we say that we do not know the kind: then `ls -l` asks once, not for each file.
const SELINUX: &[u8] = b"security.selinux";

/// Unit in which `statfs` counts.
const BLOCK: u32 = 4096;

/// How often an answer is looked for in the cache after it was asked for; then it is given for this moment only.
const LOOKS: u32 = 3;

/// What the kernel hears of by an answer whose age it does not note.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    /// An inode that was not there before, with its name.
    Inode,
    /// A name of an inode that may have been known: what it is told of its attributes might be older than what it was told
    /// to forget meanwhile, so that it counts for this moment only.
    Name,
}

impl News {
    pub(super) fn attr_ttl(self, ttl: Duration) -> Duration {
        match self {
            Self::Inode => ttl,
            Self::Name => Duration::ZERO,
        }
    }
}

impl At {
    pub(super) fn lookup(self: &Arc<Self>, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = self.numbers.inode(parent);
        let name = match parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        {
            let gate = self.fs.gate();
            if let Some(found) = self.fs.lookup_cached(&gate, dir, &name) {
                return self.reply_lookup(found, reply);
            }
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            let mut loaded = None;
            for _ in 0..LOOKS {
                match at.fs.load_name(dir, &name).await {
                    Ok(attr) => loaded = attr,
                    Err(error) => return reply.error(failed("lookup", dir, &error)),
                }
                let gate = at.fs.gate();
                if let Some(found) = at.fs.lookup_cached(&gate, dir, &name) {
                    return at.reply_lookup(found, reply);
                }
            }
            // With what is written here and not committed.
            let loaded = match loaded {
                Some(attr) => at.fs.load_attr(attr.inode).await.map(Some),
                None => Ok(None),
            };
            match loaded {
                Ok(attr) => at.reply_entry(attr, reply),
                Err(error) => reply.error(failed("lookup", dir, &error)),
            }
        });
    }

    fn reply_lookup(&self, found: Lookup, reply: ReplyEntry) {
        match found {
            Lookup::Found(Told { attr, attr_ttl, entry_ttl }) => {
                reply.entry_with_ttls(&attr_ttl, &entry_ttl, &self.numbers.attr(&attr), GENERATION);
            }
            Lookup::Missing(ttl) => reply.entry(&ttl, &Numbers::nothing(), GENERATION),
        }
    }

    /// For this moment only.
    fn reply_entry(&self, attr: Option<Attr>, reply: ReplyEntry) {
        match attr {
            Some(attr) => {
                self.fs.remember(attr.inode);
                reply.entry(&Duration::ZERO, &self.numbers.attr(&self.fs.as_here(attr)), GENERATION);
            }
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    /// After a change that made a name: told from the cache if it stands there.
    fn reply_made(&self, dir: Inode, name: &Name, (attr, news): (Attr, News), reply: ReplyEntry) {
        let gate = self.fs.gate();
        match self.fs.lookup_cached(&gate, dir, name) {
            Some(Lookup::Found(told)) if told.attr.inode == attr.inode => {
                let attr_ttl = news.attr_ttl(told.attr_ttl);
                self.reply_lookup(Lookup::Found(Told { attr_ttl, ..told }), reply);
            }
            other => {
                self.forget_other(other);
                self.reply_entry(Some(attr), reply);
            }
        }
    }

    /// What was looked up is not told to the kernel.
    pub(super) fn forget_other(&self, looked_up: Option<Lookup>) {
        if let Some(Lookup::Found(told)) = looked_up {
            self.fs.forget(told.attr.inode, 1);
        }
    }

    pub(super) fn read_link(self: &Arc<Self>, ino: INodeNo, reply: ReplyData) {
        let inode = self.numbers.inode(ino);
        {
            let gate = self.fs.gate();
            if let Some(target) = self.fs.target_cached(&gate, inode) {
                return reply.data(&target);
            }
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.read_link(inode).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(failed("readlink", inode, &error)),
            }
        });
    }

    pub(super) fn make_node(
        self: &Arc<Self>,
        parent: INodeNo,
        name: &OsStr,
        (mode, device): (u32, u32),
        caller: (u32, u32),
        reply: ReplyEntry,
    ) {
        match new_kind(mode, device) {
            Ok(kind) => self.make(parent, name, kind, mode, caller, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn make_directory(
        self: &Arc<Self>,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        caller: (u32, u32),
        reply: ReplyEntry,
    ) {
        self.make(parent, name, NewKind::Directory, mode, caller, reply);
    }

    fn make(
        self: &Arc<Self>,
        parent: INodeNo,
        name: &OsStr,
        kind: NewKind,
        mode: u32,
        (uid, gid): (u32, u32),
        reply: ReplyEntry,
    ) {
        let dir = self.numbers.inode(parent);
        let making = Making { kind, mode: Mode::new((mode & 0o7777) as u16), uid, gid };
        if let Ok(name) = parse(name)
            && let Some(attr) = self.fs.make_cached(dir, &name, &making)
        {
            return self.reply_made(dir, &name, (attr, News::Inode), reply);
        }
        let make = |at: Arc<Self>, name| async move { at.fs.make(dir, &name, making).await };
        self.answer_made(("mknod", News::Inode), dir, name, make, reply);
    }

    pub(super) fn make_symlink(
        self: &Arc<Self>,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        caller: (u32, u32),
        reply: ReplyEntry,
    ) {
        let dir = self.numbers.inode(parent);
        let target = target.as_os_str().as_bytes().to_vec();
        let make = |at: Arc<Self>, name| async move { at.fs.make_symlink(dir, &name, &target, caller).await };
        self.answer_made(("symlink", News::Inode), dir, name, make, reply);
    }

    pub(super) fn link(self: &Arc<Self>, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (inode, dir) = (self.numbers.inode(ino), self.numbers.inode(parent));
        if let Ok(name) = parse(name)
            && let Some(attr) = self.fs.link_cached(inode, dir, &name)
        {
            return self.reply_made(dir, &name, (attr, News::Name), reply);
        }
        let make = |at: Arc<Self>, name| async move { at.fs.link(inode, dir, &name).await };
        self.answer_made(("link", News::Name), dir, name, make, reply);
    }

    /// Makes a name in a directory, and tells the kernel what it leads to.
    fn answer_made<Made: Future<Output = Result<Attr, FsError>> + Send + 'static>(
        self: &Arc<Self>,
        (operation, news): (&'static str, News),
        dir: Inode,
        name: &OsStr,
        make: impl FnOnce(Arc<Self>, Name) -> Made,
        reply: ReplyEntry,
    ) {
        let name = match parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (at, made) = (Arc::clone(self), make(Arc::clone(self), name.clone()));
        self.spawn(async move {
            match made.await {
                Ok(attr) => at.reply_made(dir, &name, (attr, news), reply),
                Err(error) => reply.error(failed(operation, dir, &error)),
            }
        });
    }

    pub(super) fn unlink(self: &Arc<Self>, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (dir, name) = (self.numbers.inode(parent), parse(name));
        if name.as_ref().is_ok_and(|name| self.fs.unlink_cached(dir, name).is_some()) {
            return reply.ok();
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            let done = async { at.fs.unlink(dir, &name?).await };
            done_or_error(done.await, "unlink", dir, reply);
        });
    }

    pub(super) fn remove_directory(self: &Arc<Self>, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (dir, name) = (self.numbers.inode(parent), parse(name));
        if name.as_ref().is_ok_and(|name| self.fs.remove_directory_cached(dir, name).is_some()) {
            return reply.ok();
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            let done = async { at.fs.remove_directory(dir, &name?).await };
            done_or_error(done.await, "rmdir", dir, reply);
        });
    }

    pub(super) fn rename(
        self: &Arc<Self>,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(fuser::Errno::EINVAL);
        };
        let (from_dir, to_dir) = (self.numbers.inode(from.0), self.numbers.inode(to.0));
        let (from_name, to_name) = (parse(from.1), parse(to.1));
        if let (Ok(from_name), Ok(to_name)) = (&from_name, &to_name)
            && self.fs.rename_cached((from_dir, from_name), (to_dir, to_name), mode).is_some()
        {
            return reply.ok();
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            let done = async { at.fs.rename((from_dir, &from_name?), (to_dir, &to_name?), mode).await };
            done_or_error(done.await, "rename", from_dir, reply);
        });
    }

    pub(super) fn open_directory(self: &Arc<Self>, ino: INodeNo, reply: ReplyOpen) {
        let handle = self.fs.open_directory(self.numbers.inode(ino));
        reply.opened(FileHandle(handle.0), FopenFlags::empty());
    }

    pub(super) fn sync_directory(self: &Arc<Self>, ino: INodeNo, reply: ReplyEmpty) {
        let inode = self.numbers.inode(ino);
        let at = Arc::clone(self);
        self.spawn_within(crate::fs::SYNC_DEADLINE, async move {
            done_or_error(at.fs.sync_directory(inode).await, "fsync", inode, reply);
        });
    }

    pub(super) fn release_directory(self: &Arc<Self>, fh: FileHandle, reply: ReplyEmpty) {
        self.fs.release_directory(HandleId(fh.0));
        reply.ok();
    }

    pub(super) fn list(self: &Arc<Self>, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let inode = self.numbers.inode(ino);
        let at = Arc::clone(self);
        self.spawn(async move {
            let entries = match at.fs.list(HandleId(fh.0), cookie(offset)).await {
                Ok(entries) => entries,
                Err(error) => return reply.error(failed("readdir", inode, &error)),
            };
            let dots = [".", ".."].into_iter().zip(1..).filter(|(_, at)| *at > offset);
            for (name, place) in dots {
                if reply.add(ino, place, fuser::FileType::Directory, name) {
                    return reply.ok();
                }
            }
            for entry in entries.iter() {
                let (number, place) = (at.numbers.number(entry.inode), entry.cookie.0 + DOTS);
                let name = OsStr::from_bytes(entry.name.as_bytes());
                if reply.add(number, place, kind(entry.file_type), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    pub(super) fn list_with_attrs(
        self: &Arc<Self>,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let inode = self.numbers.inode(ino);
        let at = Arc::clone(self);
        self.spawn(async move {
            let entries = match at.fs.list(HandleId(fh.0), cookie(offset)).await {
                Ok(entries) => entries,
                Err(error) => return reply.error(failed("readdir", inode, &error)),
            };
            let gate = at.fs.gate();
            // The kernel takes no attributes and no reference of these two.
            let dot = fuser::FileAttr { ino, kind: fuser::FileType::Directory, ..Numbers::nothing() };
            for (name, place) in [".", ".."].into_iter().zip(1..).filter(|(_, at)| *at > offset) {
                if reply.add(ino, place, name, &Duration::ZERO, &dot, GENERATION) {
                    return reply.ok();
                }
            }
            for entry in entries.iter() {
                let Some(told) = at.fs.tell_entry(&gate, inode, entry) else { continue };
                // One time for both: the shorter.
                let ttl = told.attr_ttl.min(told.entry_ttl);
                let (attr, place) = (at.numbers.attr(&told.attr), entry.cookie.0 + DOTS);
                let name = OsStr::from_bytes(entry.name.as_bytes());
                if reply.add(attr.ino, place, name, &ttl, &attr, GENERATION) {
                    break;
                }
                at.fs.remember(entry.inode);
            }
            reply.ok();
        });
    }

    pub(super) fn space(self: &Arc<Self>, ino: INodeNo, reply: ReplyStatfs) {
        let inode = self.numbers.inode(ino);
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.space().await {
                Ok(space) => {
                    let (total, free) = (space.total / u64::from(BLOCK), space.free / u64::from(BLOCK));
                    // Inodes are numbers of 48 bits: there is always another one.
                    let (files, more) = (space.inodes, u64::from(u32::MAX));
                    reply.statfs(total, free, free, files.saturating_add(more), more, BLOCK, 255, BLOCK);
                }
                Err(error) => reply.error(failed("statfs", inode, &error)),
            }
        });
    }

    pub(super) fn set_xattr(self: &Arc<Self>, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, reply: ReplyEmpty) {
        if is_acl(name) {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let inode = self.numbers.inode(ino);
        let mode = match flags {
            XATTR_CREATE => XattrMode::Create,
            XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Set,
        };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let at = Arc::clone(self);
        self.spawn(async move {
            done_or_error(at.fs.set_xattr(inode, &name, &value, mode).await, "setxattr", inode, reply);
        });
    }

    pub(super) fn xattr(self: &Arc<Self>, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_acl(name) {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let inode = self.numbers.inode(ino);
        let name = name.as_bytes().to_vec();
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.xattr(inode, &name).await {
                Ok(value) => reply_sized(&value, size, reply),
                Err(FsError::Op(OpError::NoXattr)) if name == SELINUX => reply.error(fuser::Errno::EOPNOTSUPP),
                Err(error) => reply.error(failed("getxattr", inode, &error)),
            }
        });
    }

    pub(super) fn list_xattrs(self: &Arc<Self>, ino: INodeNo, uid: u32, size: u32, reply: ReplyXattr) {
        let inode = self.numbers.inode(ino);
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.xattrs(inode).await {
                Ok(xattrs) => {
                    let mut names = Vec::new();
                    // Others may not read those of the administrator.
                    let is_told = |name: &[u8]| uid == 0 || !name.starts_with(b"trusted.");
                    for xattr in xattrs.iter().filter(|xattr| is_told(xattr.name.as_bytes())) {
                        names.extend_from_slice(xattr.name.as_bytes());
                        names.push(0);
                    }
                    reply_sized(&names, size, reply);
                }
                Err(error) => reply.error(failed("listxattr", inode, &error)),
            }
        });
    }

    pub(super) fn remove_xattr(self: &Arc<Self>, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if is_acl(name) {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let inode = self.numbers.inode(ino);
        let name = name.as_bytes().to_vec();
        let at = Arc::clone(self);
        self.spawn(async move {
            done_or_error(at.fs.remove_xattr(inode, &name).await, "removexattr", inode, reply);
        });
    }
}

/// Access control lists are not built: saying so is better than keeping what nobody obeys.
fn is_acl(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.posix_acl_")
}

fn cookie(offset: u64) -> Cookie {
    Cookie(offset.saturating_sub(DOTS))
}

pub(super) fn done_or_error(done: Result<(), FsError>, operation: &'static str, inode: Inode, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(operation, inode, &error)),
    }
}

/// The kernel asks for the length first, with a size of 0.
fn reply_sized(value: &[u8], size: u32, reply: ReplyXattr) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(len),
        size if size < len => reply.error(fuser::Errno::ERANGE),
        _ => reply.data(value),
    }
}
