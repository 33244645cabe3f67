//! Which inodes an operation names: those whose leases it is about, for whoever grants them and for whoever holds them.

use super::{Inode, NewInode, Op};

impl Op {
    /// The inodes that it names itself, beside those that its names lead to. Locks name none: they change nothing that
    /// leases are about.
    pub fn named(&self) -> impl Iterator<Item = Inode> + use<> {
        let (first, second) = match self {
            Self::Create { dir, new, .. } => (Some(*dir), Some(new.inode)),
            Self::CreateUnnamed { new } => (Some(new.inode), None),
            Self::Link { inode, dir, .. } => (Some(*inode), Some(*dir)),
            Self::Unlink { dir, .. } | Self::RemoveDirectory { dir, .. } => (Some(*dir), None),
            Self::Rename { from_dir, to_dir, .. } => (Some(*from_dir), Some(*to_dir)),
            // What is cloned from must be told first as well.
            Self::Clone { from, to, .. } => (Some(*from), Some(*to)),
            Self::SetAttr { inode, .. }
            | Self::SetXattr { inode, .. }
            | Self::RemoveXattr { inode, .. }
            | Self::WriteExtents { inode, .. }
            | Self::WriteJournaled { inode, .. }
            | Self::WriteInline { inode, .. }
            | Self::Append { inode, .. }
            | Self::Punch { inode, .. } => (Some(*inode), None),
            Self::Lock { .. } | Self::Unlock { .. } | Self::DelegateLocks { .. } | Self::ReturnLocks { .. } => {
                (None, None)
            }
        };
        first.into_iter().chain(second)
    }

    /// The inode that it makes, if it makes one.
    pub fn made(&self) -> Option<Inode> {
        match self {
            Self::Create { new: NewInode { inode, .. }, .. } | Self::CreateUnnamed { new: NewInode { inode, .. } } => {
                Some(*inode)
            }
            Self::Link { .. }
            | Self::Unlink { .. }
            | Self::RemoveDirectory { .. }
            | Self::Rename { .. }
            | Self::SetAttr { .. }
            | Self::SetXattr { .. }
            | Self::RemoveXattr { .. }
            | Self::WriteExtents { .. }
            | Self::WriteJournaled { .. }
            | Self::WriteInline { .. }
            | Self::Append { .. }
            | Self::Punch { .. }
            | Self::Clone { .. }
            | Self::Lock { .. }
            | Self::Unlock { .. }
            | Self::DelegateLocks { .. }
            | Self::ReturnLocks { .. } => None,
        }
    }

    /// An inode that it touches whenever it is executed; none if it touches nothing.
    pub fn subject(&self) -> Option<Inode> {
        match self {
            Self::Clone { to, .. } => Some(*to),
            Self::Create { dir, .. } | Self::Link { dir, .. } => Some(*dir),
            other => other.named().next(),
        }
    }
}
