//! Our words in the kernel's, and back.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{FileAttr, INodeNo, TimeOrNow};
use wire::namespace::{Attr, FileType, Inode, Name, NewContent, NewKind, SetTime, Timestamp};

use crate::fs::FsError;

/// Unit of `st_blocks`.
const BLOCK: u64 = 512;

/// What `st_blksize` says: large reads and writes cost the least.
const PREFERRED_LEN: u32 = 128 << 10;

/// The type bits of a mode.
const TYPE_MASK: u32 = 0o170_000;

/// Which inode is the root of the mount: the kernel calls it 1 whatever its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) root: Inode,
}

impl Numbers {
    pub(super) fn inode(self, number: INodeNo) -> Inode {
        if number == INodeNo::ROOT { self.root } else { Inode(number.0) }
    }

    pub(super) fn number(self, inode: Inode) -> INodeNo {
        if inode == self.root { INodeNo::ROOT } else { INodeNo(inode.0) }
    }

    pub(super) fn attr(self, attr: &Attr) -> FileAttr {
        FileAttr {
            ino: self.number(attr.inode),
            size: attr.size,
            blocks: attr.allocated.div_ceil(BLOCK),
            atime: system_time(attr.accessed),
            mtime: system_time(attr.modified),
            ctime: system_time(attr.changed),
            crtime: system_time(attr.born),
            kind: kind(attr.file_type),
            perm: attr.mode.bits(),
            nlink: attr.links,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.device,
            blksize: PREFERRED_LEN,
            flags: 0,
        }
    }

    /// What stands for "there is no such name" in an answer to a lookup.
    pub(super) fn nothing() -> FileAttr {
        FileAttr {
            ino: INodeNo(0),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: fuser::FileType::RegularFile,
            perm: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 0,
            flags: 0,
        }
    }
}

pub(super) fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

/// What `mknod` should make.
pub(super) fn new_kind(mode: u32, device: u32) -> Result<NewKind, FsError> {
    match mode & TYPE_MASK {
        0o100_000 | 0 => Ok(NewKind::File(NewContent::Empty)),
        0o010_000 => Ok(NewKind::Fifo),
        0o140_000 => Ok(NewKind::Socket),
        0o020_000 => Ok(NewKind::CharDevice { device }),
        0o060_000 => Ok(NewKind::BlockDevice { device }),
        _ => Err(FsError::Invalid),
    }
}

pub(super) fn name(name: &OsStr) -> Result<Name, FsError> {
    Name::new(name.as_bytes()).map_err(|_| FsError::NameTooLong)
}

fn system_time(time: Timestamp) -> SystemTime {
    let part = Duration::from_nanos(u64::from(time.nanoseconds()));
    let whole = Duration::from_secs(time.seconds().unsigned_abs());
    let base = if time.seconds() >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    base.and_then(|base| base.checked_add(part)).unwrap_or(UNIX_EPOCH)
}

/// What a caller sets, as fuser 0.18 hands it on: of a time before the epoch it takes both parts off, the seconds and the
/// nanoseconds, though the latter count upwards.
fn timestamp(time: SystemTime) -> Timestamp {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (-i64::try_from(before.as_secs()).unwrap_or(i64::MAX), before.subsec_nanos())
        }
    };
    Timestamp::new(seconds, nanoseconds).expect("nanoseconds of a second are fewer than a billion")
}

pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::To(timestamp(time)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use wire::namespace::Timestamp;

    use super::{system_time, timestamp};

    /// As fuser 0.18 (`time.rs`) makes it of what the kernel sends.
    fn sent(seconds: i64, nanoseconds: u32) -> SystemTime {
        let length = Duration::new(seconds.unsigned_abs(), nanoseconds);
        if seconds >= 0 { SystemTime::UNIX_EPOCH + length } else { SystemTime::UNIX_EPOCH - length }
    }

    #[test]
    fn times_before_and_after_the_epoch_are_taken_as_they_were_sent_and_told_as_they_are() {
        for (seconds, nanoseconds) in [(0, 0), (1, 999_999_999), (-1, 1), (-1, 0), (-5, 999_999_999), (1 << 40, 7)] {
            let time = Timestamp::new(seconds, nanoseconds).unwrap();
            assert_eq!(timestamp(sent(seconds, nanoseconds)), time);
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let second = if seconds >= 0 { SystemTime::UNIX_EPOCH + whole } else { SystemTime::UNIX_EPOCH - whole };
            assert_eq!(system_time(time), second + Duration::from_nanos(nanoseconds.into()));
        }
    }
}
