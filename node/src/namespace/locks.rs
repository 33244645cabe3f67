//! Advisory locks on ranges of files: `fcntl` and `flock` in one lock space. They change nothing else about an inode.
//!
//! # Invariants
//! - Locks of one owner never overlap; those of the same kind and process never touch. An owner is a session with a
//!   [`LockOwner`].
//! - A write lock overlaps no lock of another owner.
//! - A session that holds a lock on an inode has an index row that says so. One without a lock is harmless: inode
//!   numbers are never used again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wire::namespace::{FileLock, Inode, LockKind, LockOwner, OpError, SessionId};

use super::{
    edit::{Edit, Fault},
    row,
    row::InodeRow,
    table,
};
use crate::kv::{KvError, KvRead};

/// Locks on one inode: all are in one row, which changes with each of them.
pub const LOCKS_MAX: usize = 1024;

/// Inodes whose locks one command of a close releases: rows of at most 40 KiB are read and written.
const INODES_PER_CLOSE: usize = 128;

/// A lock with its session.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct HeldLock {
    pub(super) session: SessionId,
    pub(super) lock: FileLock,
}

impl HeldLock {
    fn is_of(&self, session: SessionId, owner: LockOwner) -> bool {
        self.session == session && self.lock.owner == owner
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.lock.start <= end && start <= self.lock.end
    }

    /// Whether `lock` of `session` cannot be had while this one stands.
    fn is_in_the_way(&self, session: SessionId, lock: &FileLock) -> bool {
        let shared = self.lock.kind == LockKind::Read && lock.kind == LockKind::Read;
        !self.is_of(session, lock.owner) && self.overlaps(lock.start, lock.end) && !shared
    }
}

/// All locks on `inode`.
pub(super) fn locks_of(rows: &dyn KvRead, inode: Inode) -> Result<Vec<HeldLock>, KvError> {
    Ok(row::read(rows, &table::locks(inode))?.unwrap_or_default())
}

/// The lock that is in the way of `lock`: the one that begins first.
pub(super) fn conflict(
    rows: &dyn KvRead,
    inode: Inode,
    session: SessionId,
    lock: &FileLock,
) -> Result<Option<FileLock>, KvError> {
    let held = locks_of(rows, inode)?;
    let in_the_way = held.iter().filter(|held| held.is_in_the_way(session, lock));
    Ok(in_the_way.min_by_key(|held| held.lock.start).map(|held| held.lock))
}

impl Edit<'_> {
    /// Locks a range for an owner, in place of what it held there.
    pub(super) fn lock(&mut self, session: SessionId, inode: Inode, lock: &FileLock) -> Result<InodeRow, Fault> {
        let row = self.inode(inode)?;
        check_range(lock.start, lock.end)?;
        let mut held = locks_of(self, inode)?;
        if held.iter().any(|held| held.is_in_the_way(session, lock)) {
            return Err(OpError::Locked.into());
        }
        carve(&mut held, session, lock.owner, lock.start, lock.end);
        join(&mut held, HeldLock { session, lock: *lock });
        self.put_locks(session, inode, &held)?;
        Ok(row)
    }

    /// Gives up what an owner holds in a range.
    pub(super) fn unlock(
        &mut self,
        session: SessionId,
        inode: Inode,
        owner: LockOwner,
        (start, end): (u64, u64),
    ) -> Result<InodeRow, Fault> {
        let row = self.inode(inode)?;
        check_range(start, end)?;
        let mut held = locks_of(self, inode)?;
        if held.iter().any(|held| held.is_of(session, owner) && held.overlaps(start, end)) {
            carve(&mut held, session, owner, start, end);
            self.put_locks(session, inode, &held)?;
        }
        Ok(row)
    }

    fn put_locks(&mut self, session: SessionId, inode: Inode, held: &[HeldLock]) -> Result<(), Fault> {
        if held.len() > LOCKS_MAX {
            return Err(OpError::TooManyLocks.into());
        }
        let (key, index) = (table::locks(inode), table::lock_of(session, inode));
        if held.is_empty() {
            self.remove(key)?
        } else {
            self.put(key, &held)?
        }
        let (indexed, holds) = (self.exists(&index)?, held.iter().any(|held| held.session == session));
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
            held.retain(|held| held.session != session);
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
        let sessions: BTreeSet<SessionId> = held.iter().map(|held| held.session).collect();
        for session in &sessions {
            self.remove(table::lock_of(*session, inode))?;
        }
        self.remove(table::locks(inode))?;
        Ok(sessions.len() + 1)
    }
}

fn check_range(start: u64, end: u64) -> Result<(), OpError> {
    if start <= end { Ok(()) } else { Err(OpError::Invalid) }
}

/// Takes a range out of what an owner holds.
fn carve(held: &mut Vec<HeldLock>, session: SessionId, owner: LockOwner, start: u64, end: u64) {
    let (touched, mut rest): (Vec<_>, Vec<_>) =
        held.drain(..).partition(|held| held.is_of(session, owner) && held.overlaps(start, end));
    for HeldLock { session, lock } in touched {
        if let Some(last) = start.checked_sub(1).filter(|last| lock.start <= *last) {
            rest.push(HeldLock { session, lock: FileLock { end: last, ..lock } });
        }
        if let Some(first) = end.checked_add(1).filter(|first| *first <= lock.end) {
            rest.push(HeldLock { session, lock: FileLock { start: first, ..lock } });
        }
    }
    *held = rest;
}

/// Adds a lock where its owner holds nothing, as one with those that it continues.
fn join(held: &mut Vec<HeldLock>, mut new: HeldLock) {
    held.retain(|held| {
        let alike =
            held.is_of(new.session, new.lock.owner) && held.lock.kind == new.lock.kind && held.lock.pid == new.lock.pid;
        let before = held.lock.end.checked_add(1) == Some(new.lock.start);
        let after = new.lock.end.checked_add(1) == Some(held.lock.start);
        match (alike, before, after) {
            (true, true, _) => new.lock.start = held.lock.start,
            (true, false, true) => new.lock.end = held.lock.end,
            (true, false, false) | (false, _, _) => return true,
        }
        false
    });
    held.push(new);
}
