//! Which inodes an operation reaches: what a lease on them has to know before it is executed.
//!
//! # Invariants
//! - Every inode whose row an operation may change is named by it ([`Op::named`]), or by an earlier operation of its batch, or is what
//!   one of its names leads to before the batch.

use wire::namespace::{Inode, Name, Op, Replace};

use super::{
    row,
    row::{Dentry, InodeRow, Standing},
    table,
};
use crate::kv::{KvError, KvRead};

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
        | Op::WriteJournaled { .. }
        | Op::WriteInline { .. }
        | Op::Append { .. }
        | Op::Punch { .. }
        | Op::Clone { .. }
        | Op::Lock { .. }
        | Op::Unlock { .. }
        | Op::DelegateLocks { .. }
        | Op::ReturnLocks { .. } => Ok(()),
    }
}

/// Whether anybody sees an inode.
pub(super) fn is_visible(row: &InodeRow) -> bool {
    row.standing != Standing::Reclaiming
}
