//! Advisory locks on ranges of files, `fcntl` and `flock` in one lock space, and how those on one inode get along: for the
//! cluster, and for a session that decides about them in its place. Pure.
//!
//! # Invariants
//! - Locks of one owner never overlap; those of the same kind and process never touch. An owner is a session with a
//!   [`LockOwner`].
//! - A write lock overlaps no lock of another owner, and a delegation no other lock at all.

use serde::{Deserialize, Serialize};

use super::{OpError, SessionId};

/// Locks on one inode: all are in one row, which changes with each of them. Local file systems have no such limit; what
/// exercises locks keeps some thousands.
pub const LOCKS_MAX: usize = 4096;

/// Who holds a lock within a session: what the kernel calls a lock owner.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct LockOwner(pub u64);

/// Whether a lock admits others like it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LockKind {
    /// Others may read-lock the same bytes.
    Read,
    /// Nobody else may lock them.
    Write,
    /// No lock: the session decides about all locks on the inode ([`super::Op::DelegateLocks`]).
    Delegated,
}

/// An advisory lock on a range of a file, of `fcntl` or `flock` alike: one lock space, as on NFS.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FileLock {
    /// Whose.
    pub owner: LockOwner,
    /// Process, for those who ask who is in the way.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` to the end of the file, wherever that is.
    pub end: u64,
    /// What it is.
    pub kind: LockKind,
}

/// A lock with its session.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HeldLock {
    /// Whose.
    pub session: SessionId,
    /// The lock.
    pub lock: FileLock,
}

impl HeldLock {
    fn is_of(&self, session: SessionId, owner: LockOwner) -> bool {
        self.session == session && self.lock.owner == owner
    }

    fn is_delegation(&self) -> bool {
        self.lock.kind == LockKind::Delegated
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.lock.start <= end && start <= self.lock.end
    }

    /// Whether `lock` of `session` cannot be had while this one stands.
    fn is_in_the_way(&self, session: SessionId, lock: &FileLock) -> bool {
        let shared = self.lock.kind == LockKind::Read && lock.kind == LockKind::Read;
        let own = self.is_of(session, lock.owner) && !self.is_delegation();
        !own && self.overlaps(lock.start, lock.end) && !shared
    }
}

/// All locks on one inode.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockSet(Vec<HeldLock>);

impl LockSet {
    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &HeldLock> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a session holds anything.
    pub fn has_session(&self, session: SessionId) -> bool {
        self.0.iter().any(|held| held.session == session)
    }

    /// Whether an owner holds anything.
    pub fn has_owner(&self, session: SessionId, owner: LockOwner) -> bool {
        self.0.iter().any(|held| held.is_of(session, owner))
    }

    /// The lock that is in the way of `lock`: the one that begins first.
    pub fn conflict(&self, session: SessionId, lock: &FileLock) -> Option<FileLock> {
        let in_the_way = self.0.iter().filter(|held| held.is_in_the_way(session, lock));
        in_the_way.min_by_key(|held| held.lock.start).map(|held| held.lock)
    }

    /// As it is when an owner has locked a range, in place of what it held there.
    pub fn locked(&self, session: SessionId, lock: &FileLock) -> Result<Self, OpError> {
        let mut set = self.clone();
        set.add(session, lock)?;
        Ok(set)
    }

    /// As it is when an owner has given up a range.
    pub fn unlocked(&self, session: SessionId, owner: LockOwner, (start, end): (u64, u64)) -> Result<Self, OpError> {
        check_range(start, end)?;
        let mut set = self.clone();
        set.carve(session, owner, start, end);
        set.check_len()?;
        Ok(set)
    }

    /// As it is when a session decides about the locks itself.
    pub fn delegated(&self, session: SessionId, delegation: LockOwner) -> Result<Self, OpError> {
        match self.0.iter().find(|held| held.session != session || held.is_delegation()) {
            Some(held) if held.is_delegation() => Err(OpError::LocksDelegated),
            Some(_) => Err(OpError::Locked),
            None => {
                let (start, end, kind) = (0, u64::MAX, LockKind::Delegated);
                Ok(Self(vec![HeldLock { session, lock: FileLock { owner: delegation, pid: 0, start, end, kind } }]))
            }
        }
    }

    /// As it is when a session does not decide any more, and holds `locks`.
    pub fn returned(&self, session: SessionId, delegation: LockOwner, locks: &[FileLock]) -> Result<Self, OpError> {
        if !self.0.iter().any(|held| held.is_delegation() && held.is_of(session, delegation)) {
            return Err(OpError::Invalid);
        }
        if locks.len() > LOCKS_MAX {
            return Err(OpError::TooManyLocks);
        }
        let mut set = Self::default();
        locks.iter().try_for_each(|lock| set.add(session, lock))?;
        Ok(set)
    }

    /// Forgets what a session holds.
    pub fn release(&mut self, session: SessionId) {
        self.0.retain(|held| held.session != session);
    }

    fn add(&mut self, session: SessionId, lock: &FileLock) -> Result<(), OpError> {
        check_range(lock.start, lock.end)?;
        if lock.kind == LockKind::Delegated {
            return Err(OpError::Invalid);
        }
        match self.conflict(session, lock) {
            Some(FileLock { kind: LockKind::Delegated, .. }) => return Err(OpError::LocksDelegated),
            Some(_) => return Err(OpError::Locked),
            None => {}
        }
        self.carve(session, lock.owner, lock.start, lock.end);
        self.join(HeldLock { session, lock: *lock });
        self.check_len()
    }

    fn check_len(&self) -> Result<(), OpError> {
        if self.0.len() > LOCKS_MAX { Err(OpError::TooManyLocks) } else { Ok(()) }
    }

    /// Takes a range out of what an owner holds.
    fn carve(&mut self, session: SessionId, owner: LockOwner, start: u64, end: u64) {
        let is_touched =
            |held: &HeldLock| held.is_of(session, owner) && !held.is_delegation() && held.overlaps(start, end);
        let (touched, mut rest): (Vec<_>, Vec<_>) = self.0.drain(..).partition(is_touched);
        for HeldLock { session, lock } in touched {
            if let Some(last) = start.checked_sub(1).filter(|last| lock.start <= *last) {
                rest.push(HeldLock { session, lock: FileLock { end: last, ..lock } });
            }
            if let Some(first) = end.checked_add(1).filter(|first| *first <= lock.end) {
                rest.push(HeldLock { session, lock: FileLock { start: first, ..lock } });
            }
        }
        self.0 = rest;
    }

    /// Adds a lock where its owner holds nothing, as one with those that it continues.
    fn join(&mut self, mut new: HeldLock) {
        self.0.retain(|held| {
            let alike = held.is_of(new.session, new.lock.owner)
                && held.lock.kind == new.lock.kind
                && held.lock.pid == new.lock.pid;
            let before = held.lock.end.checked_add(1) == Some(new.lock.start);
            let after = new.lock.end.checked_add(1) == Some(held.lock.start);
            match (alike, before, after) {
                (true, true, _) => new.lock.start = held.lock.start,
                (true, false, true) => new.lock.end = held.lock.end,
                (true, false, false) | (false, _, _) => return true,
            }
            false
        });
        self.0.push(new);
    }
}

fn check_range(start: u64, end: u64) -> Result<(), OpError> {
    if start <= end { Ok(()) } else { Err(OpError::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::{FileLock, LOCKS_MAX, LockKind, LockOwner, LockSet, OpError, SessionId};

    const ONE: SessionId = SessionId(1);
    const OTHER: SessionId = SessionId(2);
    const DELEGATION: LockOwner = LockOwner(77);

    fn lock(owner: u64, start: u64, end: u64, kind: LockKind) -> FileLock {
        FileLock { owner: LockOwner(owner), pid: 7, start, end, kind }
    }

    #[test]
    fn a_delegation_keeps_out_everybody_but_ends_as_the_session_says() {
        let held = lock(1, 0, 9, LockKind::Read);
        let set = LockSet::default().locked(ONE, &held).unwrap();
        assert_eq!(set.delegated(OTHER, DELEGATION), Err(OpError::Locked));
        let set = set.delegated(ONE, DELEGATION).unwrap();
        for session in [ONE, OTHER] {
            for owner in [LockOwner(1), DELEGATION] {
                let wish = FileLock { owner, ..lock(1, 500, 500, LockKind::Read) };
                assert_eq!(set.locked(session, &wish), Err(OpError::LocksDelegated));
            }
            assert_eq!(set.delegated(session, LockOwner(78)), Err(OpError::LocksDelegated));
            assert_eq!(set.unlocked(session, DELEGATION, (0, u64::MAX)), Ok(set.clone()), "it is no lock");
        }
        assert_eq!(set.returned(OTHER, DELEGATION, &[]), Err(OpError::Invalid));
        assert_eq!(set.returned(ONE, LockOwner(78), &[]), Err(OpError::Invalid), "another delegation");
        let set = set.returned(ONE, DELEGATION, &[held, lock(2, 5, 20, LockKind::Read)]).unwrap();
        assert_eq!(set.returned(ONE, DELEGATION, &[]), Err(OpError::Invalid), "returned already");
        assert_eq!(set.conflict(OTHER, &lock(1, 0, 0, LockKind::Read)), None);
        assert_eq!(set.conflict(OTHER, &lock(1, 15, 15, LockKind::Write)), Some(lock(2, 5, 20, LockKind::Read)));
    }

    #[test]
    fn what_is_returned_is_as_sound_as_what_is_locked() {
        let set = LockSet::default().delegated(ONE, DELEGATION).unwrap();
        let write = |owner| lock(owner, 0, 9, LockKind::Write);
        assert_eq!(set.returned(ONE, DELEGATION, &[write(1), write(2)]), Err(OpError::Locked));
        assert_eq!(set.returned(ONE, DELEGATION, &[lock(1, 3, 2, LockKind::Read)]), Err(OpError::Invalid));
        assert_eq!(set.returned(ONE, DELEGATION, &[lock(1, 3, 4, LockKind::Delegated)]), Err(OpError::Invalid));
        let many: Vec<_> = (0..=LOCKS_MAX as u64).map(|at| lock(1, 10 * at, 10 * at, LockKind::Read)).collect();
        assert_eq!(set.returned(ONE, DELEGATION, &many), Err(OpError::TooManyLocks));
        assert_eq!(set.returned(ONE, DELEGATION, &many[1..]).unwrap().len(), LOCKS_MAX);
    }
}
