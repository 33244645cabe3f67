//! Advisory locks in rows: `fcntl` and `flock` in one lock space. They change nothing else about an inode. What they are, and
//! how they get along, is [`LockSet`]'s.
//!
//! # Invariants
//! - A session that holds a lock on an inode, or decides about its locks, has an index row that says so. One without a lock
//!   is harmless: inode numbers are never used again.

use std::collections::BTreeSet;

use wire::namespace::{FileLock, HeldLock, Inode, LockOwner, LockSet, SessionId};

use super::{
    edit::{Edit, Fault},
    row,
    row::InodeRow,
    table,
};
use crate::kv::{KvError, KvRead};

/// Inodes whose locks one command of a close releases: rows of at most 160 KiB are read and written.
const INODES_PER_CLOSE: usize = 32;

/// All locks on `inode`.
pub(super) fn locks_of(rows: &dyn KvRead, inode: Inode) -> Result<LockSet, KvError> {
    Ok(row::read(rows, &table::locks(inode))?.unwrap_or_default())
}

impl Edit<'_> {
    /// Locks a range for an owner, in place of what it held there.
    pub(super) fn lock(&mut self, session: SessionId, inode: Inode, lock: &FileLock) -> Result<InodeRow, Fault> {
        let row = self.inode(inode)?;
        let held = locks_of(self, inode)?.locked(session, lock)?;
        self.put_locks(session, inode, &held)?;
        Ok(row)
    }

    /// Gives up what an owner holds in a range.
    pub(super) fn unlock(
        &mut self,
        session: SessionId,
        inode: Inode,
        owner: LockOwner,
        range: (u64, u64),
    ) -> Result<InodeRow, Fault> {
        let row = self.inode(inode)?;
        let before = locks_of(self, inode)?;
        let held = before.unlocked(session, owner, range)?;
        if held != before {
            self.put_locks(session, inode, &held)?;
        }
        Ok(row)
    }

    /// Lets a session decide about the locks on an inode.
    pub(super) fn delegate_locks(
        &mut self,
        session: SessionId,
        inode: Inode,
        delegation: LockOwner,
    ) -> Result<InodeRow, Fault> {
        let row = self.inode(inode)?;
        let held = locks_of(self, inode)?.delegated(session, delegation)?;
        self.put_locks(session, inode, &held)?;
        Ok(row)
    }

    /// Ends a delegation with the locks that the session holds.
    pub(super) fn return_locks(
        &mut self,
        session: SessionId,
        inode: Inode,
        delegation: LockOwner,
        locks: &[FileLock],
    ) -> Result<InodeRow, Fault> {
        let row = self.inode(inode)?;
        let held = locks_of(self, inode)?.returned(session, delegation, locks)?;
        self.put_locks(session, inode, &held)?;
        Ok(row)
    }

    fn put_locks(&mut self, session: SessionId, inode: Inode, held: &LockSet) -> Result<(), Fault> {
        let (key, index) = (table::locks(inode), table::lock_of(session, inode));
        if held.is_empty() {
            self.remove(key)?
        } else {
            self.put(key, held)?
        }
        let (indexed, holds) = (self.exists(&index)?, held.has_session(session));
        match (indexed, holds) {
            (false, true) => self.put(index, &()),
            (true, false) => self.remove(index),
            (true, true) | (false, false) => Ok(()),
        }
    }

    /// Releases locks of a session that ends, on as many inodes as one command should.
    pub(super) fn release_locks(&mut self, session: SessionId) -> Result<(), Fault> {
        let (from, to) = table::rows_of(table::LOCK_OF, session.0);
        let limit = (self.room().saturating_sub(8) / 2).min(INODES_PER_CLOSE);
        for (index, _) in self.rows(&from, &to, limit)? {
            let inode = Inode(table::last_number(&index).unwrap_or(0));
            let mut held = locks_of(self, inode)?;
            held.release(session);
            let key = table::locks(inode);
            if !held.is_empty() {
                self.put(key, &held)?;
            } else if self.exists(&key)? {
                self.remove(key)?;
            }
            self.remove(index)?;
        }
        Ok(())
    }

    /// Removes the locks of an inode that goes; how many rows that took.
    pub(super) fn remove_locks(&mut self, inode: Inode) -> Result<usize, Fault> {
        let held = locks_of(self, inode)?;
        if held.is_empty() {
            return Ok(0);
        }
        let sessions: BTreeSet<SessionId> = held.iter().map(|HeldLock { session, .. }| *session).collect();
        for session in &sessions {
            self.remove(table::lock_of(*session, inode))?;
        }
        self.remove(table::locks(inode))?;
        Ok(sessions.len() + 1)
    }
}
