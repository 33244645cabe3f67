//! What operations weigh when encoded. Pure.

use wire::namespace::{AppendData, NewContent, NewInode, NewKind, Op, Xattr};

/// Numbers, inodes, tags, attributes and times of any operation: each at most ten bytes as a varint.
const OP_BASE: usize = 192;

/// A `NewExtent`: key, and five numbers.
const EXTENT: usize = 32 + 5 * 10 + 6;

/// A `JournaledPart`.
const PART: usize = 10 + 5 + 5;

/// A `FileLock`.
const LOCK: usize = 4 * 10 + 1;

/// Bytes that `op` takes in a batch, at most.
pub(super) fn op_weight(op: &Op) -> usize {
    OP_BASE
        + match op {
            Op::Create { name, new, .. } => name.as_bytes().len() + new_inode(new),
            Op::CreateUnnamed { new } => new_inode(new),
            Op::Link { name, .. } | Op::Unlink { name, .. } | Op::RemoveDirectory { name, .. } => name.as_bytes().len(),
            Op::Rename { from_name, to_name, .. } => from_name.as_bytes().len() + to_name.as_bytes().len(),
            Op::SetXattr { xattr, .. } => xattr_weight(xattr),
            Op::RemoveXattr { name, .. } => name.as_bytes().len(),
            Op::WriteExtents { extents, .. } => extents.len() * EXTENT,
            Op::WriteJournaled { chunk, parts, .. } => 32 + chunk.bytes.len() + parts.len() * PART,
            Op::WriteInline { content, .. } => content.bytes.len(),
            Op::Append { data, .. } => match data {
                AppendData::Inline(content) => content.bytes.len(),
                AppendData::Slices { slices, .. } => slices.len() * EXTENT,
            },
            Op::ReturnLocks { locks, .. } => locks.len() * LOCK,
            Op::SetAttr { .. }
            | Op::Punch { .. }
            | Op::Clone { .. }
            | Op::Lock { .. }
            | Op::Unlock { .. }
            | Op::DelegateLocks { .. } => 0,
        }
}

fn new_inode(new: &NewInode) -> usize {
    let content = match &new.kind {
        NewKind::File(NewContent::Inline(content)) | NewKind::Symlink(content) => content.bytes.len(),
        NewKind::File(NewContent::Extents { extents, .. }) => extents.len() * EXTENT,
        NewKind::File(NewContent::Empty)
        | NewKind::Directory
        | NewKind::Fifo
        | NewKind::Socket
        | NewKind::CharDevice { .. }
        | NewKind::BlockDevice { .. } => 0,
    };
    content + new.xattrs.iter().map(xattr_weight).sum::<usize>()
}

fn xattr_weight(xattr: &Xattr) -> usize {
    xattr.name.as_bytes().len() + xattr.value.len() + 8
}
