//! Attributes of inodes.

use serde::{Deserialize, Serialize};

use super::Inode;

/// A point in time since the epoch of Unix; may lie before it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "(i64, u32)", into = "(i64, u32)")]
pub struct Timestamp {
    seconds: i64,
    nanoseconds: u32,
}

/// More nanoseconds than a second has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a second has fewer than {nanoseconds} nanoseconds")]
pub struct TimestampError {
    /// What was found.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A point in time; `nanoseconds` counts forward from `seconds`, also before the epoch.
    pub const fn new(seconds: i64, nanoseconds: u32) -> Result<Self, TimestampError> {
        if nanoseconds < 1_000_000_000 {
            Ok(Self { seconds, nanoseconds })
        } else {
            Err(TimestampError { nanoseconds })
        }
    }

    /// Whole seconds since the epoch of Unix.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds within the second.
    pub const fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }
}

impl TryFrom<(i64, u32)> for Timestamp {
    type Error = TimestampError;

    fn try_from((seconds, nanoseconds): (i64, u32)) -> Result<Self, TimestampError> {
        Self::new(seconds, nanoseconds)
    }
}

impl From<Timestamp> for (i64, u32) {
    fn from(time: Timestamp) -> Self {
        (time.seconds, time.nanoseconds)
    }
}

/// Permission bits with set-id and sticky: the low twelve bits of `st_mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
pub struct Mode(u16);

impl Mode {
    /// Set-user-id.
    pub const SET_UID: u16 = 0o4000;
    /// Set-group-id.
    pub const SET_GID: u16 = 0o2000;
    /// Sticky.
    pub const STICKY: u16 = 0o1000;

    /// The low twelve bits of `bits`.
    pub const fn new(bits: u16) -> Self {
        Self(bits & 0o7777)
    }

    /// The twelve bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl From<u16> for Mode {
    fn from(bits: u16) -> Self {
        Self::new(bits)
    }
}

impl From<Mode> for u16 {
    fn from(mode: Mode) -> Self {
        mode.0
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix-domain socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Attr {
    /// Which inode.
    pub inode: Inode,
    /// What it is.
    pub file_type: FileType,
    /// Permission bits.
    pub mode: Mode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has; a directory has two and one for each directory in it.
    pub links: u32,
    /// Bytes of a file, bytes of a link's target, entries of a directory.
    pub size: u64,
    /// Bytes that its data takes (holes take none): `st_blocks` × 512, rounded up.
    pub allocated: u64,
    /// Device number of a device, in the kernel's 32-bit encoding; 0 for others.
    pub device: u32,
    /// atime: moves only by setting it.
    pub accessed: Timestamp,
    /// mtime.
    pub modified: Timestamp,
    /// ctime: never goes back.
    pub changed: Timestamp,
    /// When it was created.
    pub born: Timestamp,
    /// Rises with each change of anything about the inode.
    pub change: u64,
    /// Rises with each change of the bytes, of the entries for a directory.
    pub data_version: u64,
}

/// atime and mtime as a person set them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// atime.
    pub accessed: Timestamp,
    /// mtime.
    pub modified: Timestamp,
}

/// What to do with one of the times.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The time of the leader that stamps the command.
    Now,
    /// This one.
    To(Timestamp),
}

/// Whether a change of bytes or size clears the set-id bits, as for a caller who is not privileged.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum SetId {
    /// They stay.
    #[default]
    Keep,
    /// Set-user-id goes; set-group-id goes where the group may execute.
    Clear,
    /// Both go: the caller is not of the file's group.
    ClearBoth,
}

impl SetId {
    /// What becomes of a mode.
    pub fn clear(self, mode: Mode) -> Mode {
        let group_executes = mode.bits() & 0o010 != 0;
        let cleared = match self {
            Self::Keep => 0,
            Self::Clear if !group_executes => Mode::SET_UID,
            Self::Clear | Self::ClearBoth => Mode::SET_UID | Mode::SET_GID,
        };
        Mode::new(mode.bits() & !cleared)
    }
}

/// A change of attributes; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<Mode>,
    /// Owner. A change of owner or group clears the set-id bits of a file if `set_id` says so.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length of a file: cuts it, or extends it with a hole. Moves mtime to now unless `modified` says which. Inline
    /// content is extended with zeros as far as [`super::INLINE_LEN_MAX`]; beyond it the answer is
    /// [`super::OpError::InlineInTheWay`]: convert it with [`super::Op::WriteExtents`] first. Inline bytes are thus
    /// always all the bytes of a file.
    pub size: Option<u64>,
    /// atime.
    pub accessed: SetTime,
    /// mtime.
    pub modified: SetTime,
    /// Set-id bits on a change of size, owner or group.
    pub set_id: SetId,
}
