//! Changes of the namespace. Each is atomic.

use ring::{Epoch, GcEpoch};
use serde::{Deserialize, Serialize};

use super::{
    Attr, ChunkSlice, FileLock, InlineData, Inode, JournaledChunk, LockOwner, Mode, Name, NewExtent, SetAttr, SetId,
    Times, XattrName,
};

/// An extended attribute with its value.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name, with its namespace.
    pub name: XattrName,
    /// At most [`super::XATTR_VALUE_LEN_MAX`] bytes.
    #[serde(with = "crate::blob")]
    pub value: Vec<u8>,
}

/// What to do about an entry that has the name already.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Replace {
    /// [`OpError::Exists`].
    No,
    /// Its inode loses this name in the same step, unless it is a directory ([`OpError::IsDirectory`]).
    File,
}

/// The group of a new inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum NewGroup {
    /// The caller's; a set-group-id directory gives its own instead, and to directories the bit as well.
    Caller(u32),
    /// This one, whatever the directory: an owner that is being restored.
    Exactly(u32),
}

/// Content of a new file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NewContent {
    /// No bytes.
    Empty,
    /// All of them here.
    Inline(InlineData),
    /// In chunks; holes between, and up to `size`.
    Extents {
        /// In order of offset, not overlapping, at most [`super::EXTENTS_MAX`].
        extents: Vec<NewExtent>,
        /// Length of the file, at least the end of the last extent.
        size: u64,
    },
}

/// What a new inode is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NewKind {
    /// Regular file.
    File(NewContent),
    /// Empty directory.
    Directory,
    /// Symbolic link; 1 to [`super::SYMLINK_LEN_MAX`] bytes without NUL.
    Symlink(InlineData),
    /// Named pipe.
    Fifo,
    /// Unix-domain socket.
    Socket,
    /// Character device.
    CharDevice {
        /// Device number.
        device: u32,
    },
    /// Block device.
    BlockDevice {
        /// Device number.
        device: u32,
    },
}

/// A new inode, numbered by the client from a range reserved for its session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewInode {
    /// Its number.
    pub inode: Inode,
    /// What it is.
    pub kind: NewKind,
    /// Permission bits.
    pub mode: Mode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: NewGroup,
    /// atime and mtime; the leader's time if none.
    pub times: Option<Times>,
    /// Extended attributes, at most 64.
    pub xattrs: Vec<Xattr>,
}

/// What a rename does about its target.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it, as rename(2).
    Replace,
    /// [`OpError::Exists`] if there is one.
    NoReplace,
    /// Both must exist and swap names.
    Exchange,
}

/// Which values an extended attribute may replace.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Sets it whether or not it exists.
    Set,
    /// [`OpError::Exists`] if it exists.
    Create,
    /// [`OpError::NoXattr`] if it does not.
    Replace,
}

/// What happens to a range of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum PunchMode {
    /// Becomes a hole; the length stays.
    Hole,
    /// Reads as zeros and stays allocated; the length stays.
    ZeroKeepSize,
    /// As [`PunchMode::ZeroKeepSize`], but the file grows to the end of the range.
    Zero,
    /// What is a hole becomes unwritten; the length stays.
    AllocateKeepSize,
    /// As [`PunchMode::AllocateKeepSize`], but the file grows to the end of the range.
    Allocate,
}

/// Bytes to append.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AppendData {
    /// To a file whose content is inline (or empty) and stays within [`super::INLINE_LEN_MAX`].
    Inline(InlineData),
    /// Slices one after the other, at most [`super::EXTENTS_MAX`], to a file whose content is not inline.
    Slices {
        /// In order.
        slices: Vec<ChunkSlice>,
        /// Lowest epoch at which they were put.
        epoch: Epoch,
        /// Lowest stamp of the puts.
        gc: GcEpoch,
    },
}

/// Where a part of a journaled chunk goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct JournaledPart {
    /// First byte in the file.
    pub offset: u64,
    /// First byte in the chunk.
    pub chunk_offset: u32,
    /// Bytes, at least 1.
    pub len: u32,
}

/// One change. Refusals are [`OpError`]s and change nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// A new inode under a name.
    Create {
        /// Directory.
        dir: Inode,
        /// Name in it.
        name: Name,
        /// What it is.
        new: NewInode,
        /// About an entry that has the name.
        replace: Replace,
    },
    /// A new inode without a name, held by the session until linked; it goes with the session.
    CreateUnnamed {
        /// What it is; not a directory.
        new: NewInode,
    },
    /// Another name for an inode that is not a directory, or the first for an unnamed one of this session.
    Link {
        /// Which inode.
        inode: Inode,
        /// Directory.
        dir: Inode,
        /// Name in it.
        name: Name,
        /// About an entry that has the name.
        replace: Replace,
    },
    /// Takes a name from what is not a directory.
    Unlink {
        /// Directory.
        dir: Inode,
        /// Name in it.
        name: Name,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Directory that holds it.
        dir: Inode,
        /// Name in it.
        name: Name,
    },
    /// Moves an entry.
    Rename {
        /// Directory it leaves.
        from_dir: Inode,
        /// Name there.
        from_name: Name,
        /// Directory it enters.
        to_dir: Inode,
        /// Name there.
        to_name: Name,
        /// About an entry that has the new name.
        mode: RenameMode,
    },
    /// Changes attributes, the length among them.
    SetAttr {
        /// Which inode.
        inode: Inode,
        /// What changes.
        set: SetAttr,
    },
    /// Sets an extended attribute.
    SetXattr {
        /// Which inode.
        inode: Inode,
        /// Name and value.
        xattr: Xattr,
        /// What it may replace.
        mode: XattrMode,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// Which inode.
        inode: Inode,
        /// Its name.
        name: XattrName,
    },
    /// Maps ranges of a file to chunks; grows the file to the end of the last. If the content is inline, the extents
    /// must cover all of it ([`OpError::InlineInTheWay`]). Over a badly fragmented range one operation may find more
    /// to replace than one command may change ([`OpError::TooLarge`]): send it in halves (parts of a slice are slices).
    WriteExtents {
        /// Which file.
        inode: Inode,
        /// In order of offset, not overlapping, at most [`super::EXTENTS_MAX`].
        extents: Vec<NewExtent>,
        /// Refuse with [`OpError::VersionChanged`] if the data version is another.
        if_version: Option<u64>,
        /// mtime. With [`super::SetTime::To`] it is also when the bytes were written, which a mount tells some time
        /// after: ctime becomes it, unless ctime is later already, or it lies more than a second ahead of the leader's
        /// clock; otherwise ctime becomes the leader's time, as with every other change.
        modified: super::SetTime,
        /// Set-id bits.
        set_id: SetId,
    },
    /// Replaces the whole content by inline data.
    WriteInline {
        /// Which file.
        inode: Inode,
        /// The new content.
        content: InlineData,
        /// Refuse with [`OpError::VersionChanged`] if the data version is another.
        if_version: Option<u64>,
        /// mtime, and ctime as with [`Op::WriteExtents`].
        modified: super::SetTime,
        /// Set-id bits.
        set_id: SetId,
    },
    /// Adds bytes at the end, wherever that is when the operation is applied; [`OpDone::offset`] says where.
    Append {
        /// Which file.
        inode: Inode,
        /// What to add.
        data: AppendData,
        /// Set-id bits.
        set_id: SetId,
    },
    /// Makes a hole, zeros or room in a range; may stop early: [`OpDone::offset`] says how far it came.
    Punch {
        /// Which file.
        inode: Inode,
        /// First byte.
        offset: u64,
        /// Bytes, at least 1.
        len: u64,
        /// What to make of them.
        mode: PunchMode,
        /// Set-id bits.
        set_id: SetId,
    },
    /// Lets a range of a file be the same bytes as a range of another (or itself, not overlapping); moves no data; may
    /// stop early: [`OpDone::offset`] says how many bytes were cloned.
    Clone {
        /// Source file.
        from: Inode,
        /// First byte there.
        from_offset: u64,
        /// Target file.
        to: Inode,
        /// First byte there.
        to_offset: u64,
        /// Bytes, at least 1; what lies beyond the end of the source is not cloned.
        len: u64,
        /// Refuse with [`OpError::VersionChanged`] if the source's data version is another.
        if_version: Option<u64>,
        /// Set-id bits of the target.
        set_id: SetId,
    },
    /// Locks a range: converts, splits and joins what the owner holds there already, as `fcntl(F_SETLK)`. Never waits:
    /// [`OpError::Locked`] if another owner is in the way. Released by [`Op::Unlock`] and with the session. Changes
    /// neither attributes nor times.
    Lock {
        /// Which inode.
        inode: Inode,
        /// The lock.
        lock: FileLock,
    },
    /// Gives up what an owner holds in a range.
    Unlock {
        /// Which inode.
        inode: Inode,
        /// Whose.
        owner: LockOwner,
        /// First byte.
        start: u64,
        /// Last byte.
        end: u64,
    },
    /// From now on the session itself decides about locks on an inode, among its own owners; the cluster forgets those
    /// that it knows of it. Refused while another session holds one ([`OpError::Locked`]). Whoever asks for a lock meanwhile
    /// is told [`OpError::LocksDelegated`].
    DelegateLocks {
        /// Which inode.
        inode: Inode,
        /// Tells this delegation from others of the session.
        delegation: LockOwner,
    },
    /// Ends a delegation: these are the locks that the session holds. [`OpError::Invalid`] if there is no such delegation.
    ReturnLocks {
        /// Which inode.
        inode: Inode,
        /// Which delegation.
        delegation: LockOwner,
        /// Without conflicts among each other, at most [`super::LOCKS_MAX`].
        locks: Vec<FileLock>,
    },
    /// As [`Op::WriteExtents`], with the bytes: nobody has put the chunk, the namespace keeps it until its replicas do.
    /// [`OpError::JournalFull`] while it keeps as much as it may.
    WriteJournaled {
        /// Which file.
        inode: Inode,
        /// The bytes.
        chunk: JournaledChunk,
        /// In order of offset in the file, not overlapping there, at most [`super::EXTENTS_MAX`].
        parts: Vec<JournaledPart>,
        /// Refuse with [`OpError::VersionChanged`] if the data version is another.
        if_version: Option<u64>,
        /// mtime, and ctime as with [`Op::WriteExtents`].
        modified: super::SetTime,
        /// Set-id bits.
        set_id: SetId,
    },
}

/// What remains of an operation after it was executed: what a session's window keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct OpDone {
    /// The inode that was made or changed.
    pub inode: Inode,
    /// Its data version afterwards.
    pub version: u64,
    /// Append: where the bytes went. Punch and Clone: bytes done. Others: 0.
    pub offset: u64,
}

/// Answer to an operation that was executed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct OpAnswer {
    /// What it did.
    pub done: OpDone,
    /// Attributes afterwards, if the batch wants them; none when the answer is repeated from the window.
    pub attr: Option<Attr>,
}

/// Why an operation changed nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum OpError {
    /// `ENOENT`: no entry of that name.
    #[error("no such file or directory")]
    NotFound,
    /// `ESTALE`: no inode of that number, or it is not open to this any more.
    #[error("the file no longer exists")]
    StaleInode,
    /// `EEXIST`.
    #[error("the name exists already")]
    Exists,
    /// `ENOTDIR`.
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`.
    #[error("is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`.
    #[error("directory not empty")]
    NotEmpty,
    /// `EMLINK`.
    #[error("too many links")]
    TooManyLinks,
    /// `EFBIG`.
    #[error("file too large")]
    FileTooLarge,
    /// `EINVAL`: a directory into itself, the root moved, an overlap, a length of zero, a wrong type of file.
    #[error("invalid argument")]
    Invalid,
    /// `EPERM`: a hard link to a directory.
    #[error("operation not permitted")]
    NotPermitted,
    /// `ENODATA`.
    #[error("no such extended attribute")]
    NoXattr,
    /// `ENOSPC`: more extended attributes on the inode than it may have.
    #[error("too many extended attributes")]
    TooManyXattrs,
    /// A chunk was put below the fence of its partition: put it again at the current epoch.
    #[error("a chunk was put at an epoch that has ended")]
    StaleEpoch,
    /// A chunk was stamped below `gc_safe`: put it again with the current stamp.
    #[error("a chunk was put before the last garbage collection")]
    StaleGc,
    /// The data version is not the one expected.
    #[error("the file changed meanwhile")]
    VersionChanged,
    /// The content is inline and would not be covered, or would not fit: convert it to extents first.
    #[error("the content is inline")]
    InlineInTheWay,
    /// The content is in extents: append slices.
    #[error("the content is not inline")]
    NotInline,
    /// Inline data does not match its hash, or is too long.
    #[error("the bytes do not match their hash")]
    Unsound,
    /// The number of a new inode is not reserved for the session, or was used.
    #[error("the inode number is not reserved for this session")]
    NotReserved,
    /// Bytes beyond a cut are still being released: ask again, with the same number. Never recorded.
    #[error("a truncation is still under way")]
    CutPending,
    /// The operation that this one follows has not been executed, or the operations before it in the batch filled the
    /// command: send it again with the same number, in order. Never recorded.
    #[error("an earlier operation has not arrived")]
    OutOfOrder,
    /// The number is below the session's window: answered before, never executed again.
    #[error("the operation was answered before")]
    BelowWindow,
    /// The operation breaks a limit of the protocol, or would change more than one command may: send it in halves.
    #[error("the operation breaks a limit")]
    TooLarge,
    /// `EAGAIN`: another owner holds a lock that is in the way.
    #[error("another process holds a lock in the way")]
    Locked,
    /// `ENOLCK`: more locks on the inode than it may have.
    #[error("too many locks")]
    TooManyLocks,
    /// The operation had been executed by its session under a lease that has ended before the cluster heard of it.
    #[error("the lease under which the operation was executed has ended")]
    LeaseEnded,
    /// Another session decides about the locks on the inode; it is asked to let the cluster know of them: ask again.
    #[error("another client decides about the locks of this file")]
    LocksDelegated,
    /// The namespace keeps as many chunks of others as it may: put the chunk, and commit its extents.
    #[error("the journal is full")]
    JournalFull,
}
