//! What outlives its last name: orphans, and cuts too large for one command.

use wire::namespace::Inode;

use ring::GcEpoch;

use super::{
    LogIndex,
    command::{CommandBody, CommandOutcome},
    edit::{Edit, Fault, collect},
    extents::ROWS_PER_EXTENT,
    file::OpenFile,
    row::{self, Body, Counters, InodeRow, Standing},
    table, xattrs,
};
use crate::kv::{KvError, KvRead};

/// Rows of locks that one command removes together with their inode.
const LOCK_ROWS_MAX: usize = 16;

/// Extended attributes that go in one step with what else an inode has.
const XATTR_ROWS_MAX: usize = 32;

/// Commands that the leader should propose: cuts and closes that one command did not finish. At most `limit`.
pub fn pending_work(rows: &dyn KvRead, limit: usize) -> Result<Vec<CommandBody>, KvError> {
    let mut work = Vec::new();
    let (from, to) = table::rows_of_table(table::CUT);
    for (key, _) in collect(rows, &from, &to, limit)? {
        work.push(CommandBody::ContinueCut { inode: Inode(table::first_number(&key).unwrap_or(0)) });
    }
    let (from, to) = table::rows_of_table(table::ENDING);
    for (key, _) in collect(rows, &from, &to, limit - work.len())? {
        let session = wire::namespace::SessionId(table::first_number(&key).unwrap_or(0));
        work.push(CommandBody::CloseSession { session });
    }
    Ok(work)
}

/// Inodes that lost their last name at or before `up_to`, in that order; at most `limit`.
pub fn orphans(rows: &dyn KvRead, up_to: LogIndex, limit: usize) -> Result<Vec<Inode>, KvError> {
    let (from, end) = table::rows_of_table(table::ORPHAN);
    let to = up_to.0.checked_add(1).map_or(end, |next| table::number(table::ORPHAN, next));
    let found = collect(rows, &from, &to, limit)?;
    Ok(found.iter().filter_map(|(key, _)| table::last_number(key)).map(Inode).collect())
}

/// Orphans exist up to this index of the log.
pub fn orphans_index(rows: &dyn KvRead) -> Result<LogIndex, KvError> {
    Ok(LogIndex(counters(rows)?.map_or(0, |counters| counters.orphans_index)))
}

/// The stamp for puts.
pub fn gc_current(rows: &dyn KvRead) -> Result<GcEpoch, KvError> {
    Ok(counters(rows)?.map_or_else(GcEpoch::default, |counters| counters.gc_current))
}

/// The lowest stamp that a commit may carry.
pub fn gc_safe(rows: &dyn KvRead) -> Result<GcEpoch, KvError> {
    Ok(counters(rows)?.map_or_else(GcEpoch::default, |counters| counters.gc_safe))
}

fn counters(rows: &dyn KvRead) -> Result<Option<Counters>, KvError> {
    row::read(rows, &table::single(table::COUNTERS))
}

impl Edit<'_> {
    /// Releases what orphans hold, as far as one command can: what is not an orphan any more is passed over, what
    /// there was no room for stays an orphan.
    pub(super) fn reclaim_orphans(&mut self, inodes: &[Inode]) -> Result<CommandOutcome, Fault> {
        for &inode in inodes {
            let savepoint = self.savepoint();
            match self.reclaim(inode) {
                Ok(()) => {}
                Err(Fault::Overflow) => {
                    self.roll_back(savepoint);
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(CommandOutcome::Done)
    }

    fn reclaim(&mut self, inode: Inode) -> Result<(), Fault> {
        let row: Option<InodeRow> = self.read(&table::inode(inode))?;
        let Some(mut row) = row else { return Ok(()) };
        let Standing::Orphan(index) = row.standing else { return Ok(()) };
        // Many locks or extended attributes leave no room for the rest, which comes again: it stays an orphan.
        if self.remove_locks(inode)? > LOCK_ROWS_MAX || self.remove_xattrs(inode)? > XATTR_ROWS_MAX {
            return Ok(());
        }
        self.remove(table::orphan(index, inode))?;
        row.standing = Standing::Reclaiming;
        match OpenFile::check(inode, row.clone()) {
            Ok(mut file) => {
                self.cut(&mut file, 0)?;
                self.end_cut(file)
            }
            Err(_) => self.remove_inode(inode, &row),
        }
    }

    /// Goes on with a cut.
    pub(super) fn continue_cut(&mut self, inode: Inode) -> Result<CommandOutcome, Fault> {
        let row: Option<InodeRow> = self.read(&table::inode(inode))?;
        let row = row.filter(|row| matches!(row.body, Body::File { cut_from: Some(_), .. }));
        if let Some(mut file) = row.map(|row| OpenFile::new(inode, row)) {
            let from = file.cut_from().expect("rows without a cut were filtered out");
            self.cut(&mut file, from)?;
            self.end_cut(file)?;
        }
        Ok(CommandOutcome::Done)
    }

    /// Keeps a file whose cut goes on, or that has names; removes the other.
    fn end_cut(&mut self, file: OpenFile) -> Result<(), Fault> {
        let (inode, done) = (file.inode, file.cut_from().is_none());
        let row = self.settle(file)?;
        if done && row.standing == Standing::Reclaiming { self.remove_inode(inode, &row) } else { Ok(()) }
    }

    /// Removes the last rows of an inode that has no extents.
    fn remove_inode(&mut self, inode: Inode, row: &InodeRow) -> Result<(), Fault> {
        self.remove_xattrs(inode)?;
        let inline = table::inline(inode);
        if self.exists(&inline)? {
            self.remove(inline)?;
        }
        self.count_usage(|usage| {
            usage.inodes -= 1;
            usage.bytes = usage.bytes.wrapping_sub(row.allocated);
        })?;
        self.remove(table::inode(inode))
    }

    fn remove_xattrs(&mut self, inode: Inode) -> Result<usize, Fault> {
        let xattrs = xattrs::xattrs_of(self, inode)?;
        for xattr in &xattrs {
            self.remove(table::xattr(inode, &xattr.name))?;
        }
        Ok(xattrs.len())
    }
}

/// Rows that a reclaim or a cut leaves for what it changes beside the extents.
const _: () = assert!(ROWS_PER_EXTENT * super::extents::PIECES_MAX + XATTR_ROWS_MAX + 32 < super::edit::ROWS_MAX);
