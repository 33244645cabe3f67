//! Numbers of inodes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of an inode: 16 bits of shard (one shard now), 48 bits of counter; never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Inode(pub u64);

impl Inode {
    /// The root directory. FUSE wants it to be 1.
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Numbers in one reservation: an upload of 4,096 files asks once.
pub const INODE_RANGE_LEN: u32 = 4096;

/// Consecutive numbers reserved for one session, [`INODE_RANGE_LEN`] of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct InodeRange {
    /// The lowest number.
    pub first: Inode,
}

impl InodeRange {
    /// Whether `inode` lies in the range.
    pub fn contains(&self, inode: Inode) -> bool {
        inode.0.checked_sub(self.first.0).is_some_and(|index| index < u64::from(INODE_RANGE_LEN))
    }
}
