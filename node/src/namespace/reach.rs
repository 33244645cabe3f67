//! Which inodes an operation reaches: what a lease on them has to know before it is executed.
//!
//! # Invariants
//! - Every inode whose row an operation may change is named by it, or by an earlier operation of its batch, or is what
//!   one of its names leads to before the batch.

use wire::namespace::{Inode, Name, NewInode, Op, Replace};

use super::{
    row,
    row::{Dentry, InodeRow, Standing},
    table,
};
use crate::kv::{KvError, KvRead};

/// Adds the inodes that `op` itself names.
pub fn named(op: &Op, inodes: &mut Vec<Inode>) {
    match op {
        Op::Create { dir, new, .. } => inodes.extend([*dir, new.inode]),
        Op::CreateUnnamed { new } => inodes.push(new.inode),
        Op::Link { inode, dir, .. } => inodes.extend([*inode, *dir]),
        Op::Unlink { dir, .. } | Op::RemoveDirectory { dir, .. } => inodes.push(*dir),
        Op::Rename { from_dir, to_dir, .. } => inodes.extend([*from_dir, *to_dir]),
        Op::SetAttr { inode, .. }
        | Op::SetXattr { inode, .. }
        | Op::RemoveXattr { inode, .. }
        | Op::WriteExtents { inode, .. }
        | Op::WriteInline { inode, .. }
        | Op::Append { inode, .. }
        | Op::Punch { inode, .. } => inodes.push(*inode),
        // What is cloned from must be told first as well.
        Op::Clone { from, to, .. } => inodes.extend([*from, *to]),
        // Locks change nothing that leases are about.
        Op::Lock { .. } | Op::Unlock { .. } => {}
    }
}

/// Adds the inodes that the names of `op` lead to and that it may change.
pub fn led_to(rows: &dyn KvRead, op: &Op, inodes: &mut Vec<Inode>) -> Result<(), KvError> {
    let mut follow = |dir: Inode, name: &Name| -> Result<(), KvError> {
        let dentry: Option<Dentry> = row::read(rows, &table::dentry(dir, name))?;
        inodes.extend(dentry.map(|dentry| dentry.inode));
        Ok(())
    };
    match op {
        Op::Create { dir, name, replace: Replace::File, .. }
        | Op::Link { dir, name, replace: Replace::File, .. }
        | Op::Unlink { dir, name }
        | Op::RemoveDirectory { dir, name } => follow(*dir, name),
        Op::Rename { from_dir, from_name, to_dir, to_name, .. } => {
            follow(*from_dir, from_name)?;
            follow(*to_dir, to_name)
        }
        Op::Create { replace: Replace::No, .. }
        | Op::Link { replace: Replace::No, .. }
        | Op::CreateUnnamed { .. }
        | Op::SetAttr { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::WriteExtents { .. }
        | Op::WriteInline { .. }
        | Op::Append { .. }
        | Op::Punch { .. }
        | Op::Clone { .. }
        | Op::Lock { .. }
        | Op::Unlock { .. } => Ok(()),
    }
}

/// The inode that `op` makes, if it makes one.
pub fn made(op: &Op) -> Option<Inode> {
    match op {
        Op::Create { new: NewInode { inode, .. }, .. } | Op::CreateUnnamed { new: NewInode { inode, .. } } => {
            Some(*inode)
        }
        Op::Link { .. }
        | Op::Unlink { .. }
        | Op::RemoveDirectory { .. }
        | Op::Rename { .. }
        | Op::SetAttr { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::WriteExtents { .. }
        | Op::WriteInline { .. }
        | Op::Append { .. }
        | Op::Punch { .. }
        | Op::Clone { .. }
        | Op::Lock { .. }
        | Op::Unlock { .. } => None,
    }
}

/// Whether anybody sees an inode.
pub(super) fn is_visible(row: &InodeRow) -> bool {
    row.standing != Standing::Reclaiming
}
