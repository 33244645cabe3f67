//! Advisory locks: of `fcntl` and `flock` alike, one lock space for each inode, across all mounts.

use std::time::Duration;

use tokio::time::sleep;
use wire::namespace::{FileLock, Inode, LockOwner, Op, OpError, Query, QueryAnswer};

use super::{FileSystem, FsError};
use crate::{cluster::ClusterError, session::Session};

/// The first wait for a lock that somebody else holds; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(2);

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_millis(100);

impl FileSystem {
    /// A lock that is in the way of `lock`.
    pub async fn test_lock(&self, inode: Inode, lock: FileLock) -> Result<Option<FileLock>, FsError> {
        let session = self.shared.session().id();
        match self.shared.cluster.query(vec![Query::Lock { inode, session, lock }]).await?.pop() {
            Some(Ok(QueryAnswer::Lock(found))) => Ok(found),
            Some(Err(error)) => Err(error.into()),
            _ => Err(ClusterError::Confused.into()),
        }
    }

    /// Takes a lock, or says that somebody is in the way.
    pub async fn lock(&self, inode: Inode, lock: FileLock) -> Result<(), FsError> {
        // What others wrote before they let go is read anew; what was written here is told before it is let go.
        let session = self.shared.session();
        let taken = match session.submit(Op::Lock { inode, lock }, None).await {
            Ok(submitted) => submitted.outcome().await.map(drop),
            Err(error) => Err(error),
        };
        match taken.map_err(FsError::from) {
            Err(FsError::Op(error)) => Err(error.into()),
            // Without an answer it may be held as well.
            taken => self.shared.note_locked(&session, inode, &lock).and(taken),
        }
    }

    /// Takes a lock; waits until nobody is in the way, or the caller has a signal pending.
    pub async fn lock_and_wait(
        &self,
        inode: Inode,
        lock: FileLock,
        interrupted: impl Fn() -> bool,
    ) -> Result<(), FsError> {
        let mut pause = WAIT_MIN;
        loop {
            match self.lock(inode, lock).await {
                Err(FsError::Op(OpError::Locked)) => {}
                other => return other,
            }
            // Looking costs no change; what stands in the way mostly stands there a while.
            loop {
                if interrupted() {
                    return Err(FsError::Interrupted);
                }
                sleep(pause).await;
                pause = (pause * 2).min(WAIT_MAX);
                if self.test_lock(inode, lock).await?.is_none() {
                    break;
                }
            }
        }
    }

    /// Gives up what an owner holds in a range.
    pub async fn unlock(&self, inode: Inode, owner: LockOwner, start: u64, end: u64) -> Result<(), FsError> {
        self.shared.change(Op::Unlock { inode, owner, start, end }).await?;
        self.shared.held_locks.lock().handle_unlocked(inode, owner, start, end);
        Ok(())
    }

    /// Whether an owner may hold locks on an inode.
    pub fn may_have_locked(&self, inode: Inode, owner: LockOwner) -> bool {
        self.shared.held_locks.lock().holds(inode, owner)
    }

    /// A process has closed the file, or the last reference to the opening is gone: everything the owner holds goes.
    pub async fn unlock_owner(&self, inode: Inode, owner: LockOwner) -> Result<(), FsError> {
        if self.may_have_locked(inode, owner) {
            self.unlock(inode, owner, 0, u64::MAX).await?;
        }
        Ok(())
    }
}

impl super::Shared {
    /// A lock was taken in a session, unless that has lost its locks.
    fn note_locked(&self, session: &Session, inode: Inode, lock: &FileLock) -> Result<(), FsError> {
        let mut held = self.held_locks.lock();
        // Looked at under the same guard under which locks are lost, after the end of the session.
        if session.is_over() {
            return Err(FsError::SessionEnded);
        }
        held.handle_locked(inode, lock.owner, lock.start, lock.end);
        Ok(())
    }

    /// The session is over, and its locks with it: programs that held one must not go on as if they did. What they wrote
    /// under it and did not sync goes with it. How many files that concerns.
    pub(super) fn lose_locks(&self) -> usize {
        let inodes = self.held_locks.lock().lose_all();
        let files = self.cut_off(&inodes);
        for file in files {
            let mut state = file.state.lock();
            if !state.dirty.is_empty() || !state.flushing.is_empty() {
                state.drop_news();
                state.fail(FsError::LocksLost);
            }
        }
        inodes.len()
    }
}
