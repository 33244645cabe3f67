//! Advisory locks: of `fcntl` and `flock` alike, one lock space for each inode, across all mounts.
//!
//! The cluster decides about them, and keeps them as long as the session lasts. About the locks of a file that nobody else
//! has leased and that is locked again and again, as by a database, it lets this mount decide ([`Op::DelegateLocks`]); when
//! somebody else asks for one, or the lease goes, the mount returns what is held there ([`Op::ReturnLocks`]). Until then
//! everybody else is turned away, also if nothing is heard of this mount.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use wire::namespace::{FileLock, Inode, LockKind, LockOwner, Op, OpAnswer, OpError, Query, QueryAnswer};

use super::{
    FileSystem, FsError, OP_DEADLINE, Shared,
    held_locks::{Fate, HeldLocks, Turn, Wish},
};
use crate::{
    cluster::{ClusterError, now},
    session::{ChangeError, Session},
};

/// The first wait for a lock that somebody else holds; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(2);

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// How long another mount may take to return locks, before they are taken for held.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);

/// Before another try to return locks.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

impl FileSystem {
    /// A lock that is in the way of `lock`.
    pub async fn test_lock(&self, inode: Inode, lock: FileLock) -> Result<Option<FileLock>, FsError> {
        let (until, mut pause) = (Instant::now() + RETURN_DEADLINE, WAIT_MIN);
        loop {
            match self.shared.look_at_locks(inode, &lock).await? {
                Some(found) if found.kind == LockKind::Delegated && Instant::now() < until => {}
                // Nobody knows, but it cannot be had.
                found => return Ok(found),
            }
            sleep(pause).await;
            pause = (pause * 2).min(WAIT_MAX);
        }
    }

    /// Takes a lock, or says that somebody is in the way.
    pub async fn lock(&self, inode: Inode, lock: FileLock) -> Result<(), FsError> {
        let (until, mut pause) = (Instant::now() + RETURN_DEADLINE, WAIT_MIN);
        loop {
            match self.shared.try_lock(inode, &lock).await {
                Err(FsError::Op(OpError::LocksDelegated)) if Instant::now() < until => {}
                tried => return tried,
            }
            sleep(pause).await;
            pause = (pause * 2).min(WAIT_MAX);
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
            match self.shared.try_lock(inode, &lock).await {
                Err(FsError::Op(OpError::Locked | OpError::LocksDelegated)) => {}
                other => return other,
            }
            // Looking costs no change; what stands in the way mostly stands there a while.
            loop {
                if interrupted() {
                    return Err(FsError::Interrupted);
                }
                sleep(pause).await;
                pause = (pause * 2).min(WAIT_MAX);
                if self.shared.look_at_locks(inode, &lock).await?.is_none() {
                    break;
                }
            }
        }
    }

    /// Gives up what an owner holds in a range.
    pub async fn unlock(&self, inode: Inode, owner: LockOwner, start: u64, end: u64) -> Result<(), FsError> {
        let (shared, range) = (&self.shared, (start, end));
        let here = |held: &mut HeldLocks| Ok(held.unlock_here(inode, owner, range)?);
        match shared.in_turn(inode, Wish::Unlock(owner), here).await? {
            Some(unlocked) => unlocked,
            None => shared.ask_for(inode, Change::Unlock { owner, range }).await,
        }
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

/// A change of locks that the cluster is asked for.
#[derive(Clone, Copy, Debug)]
enum Change {
    Lock(FileLock),
    Unlock { owner: LockOwner, range: (u64, u64) },
}

/// One that is under way; when it is dropped, what is known of it is noted.
struct Asked<'a> {
    shared: &'a Shared,
    session: Session,
    inode: Inode,
    change: Change,
    fate: Fate,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut held = self.shared.held_locks.lock();
        // Looked at under the same guard under which locks are lost, after the end of the session.
        let fate = if self.session.is_over() { Fate::Refused } else { self.fate };
        match self.change {
            Change::Lock(lock) => held.handle_locked(self.inode, &lock, fate),
            Change::Unlock { owner, range } => held.handle_unlocked(self.inode, owner, range, fate),
        }
    }
}

fn fate(outcome: &Result<OpAnswer, ChangeError>) -> Fate {
    match outcome {
        Ok(_) => Fate::Done,
        Err(ChangeError::Op(_)) => Fate::Refused,
        Err(ChangeError::Cluster(_) | ChangeError::SessionEnded) => Fate::Unknown,
    }
}

impl Shared {
    /// Does `here` when it is this mount that decides about locks of `inode`; none if the cluster is to be asked.
    async fn in_turn<T>(
        self: &Arc<Self>,
        inode: Inode,
        wish: Wish,
        here: impl Fn(&mut HeldLocks) -> T,
    ) -> Result<Option<T>, FsError> {
        let until = Instant::now() + OP_DEADLINE;
        loop {
            let mut settled = self.settled.subscribe();
            let exclusive = self.holds_exclusive(inode);
            let turn = {
                let mut held = self.held_locks.lock();
                match held.turn(inode, wish, exclusive, now()) {
                    Turn::Here => return Ok(Some(here(&mut held))),
                    turn => turn,
                }
            };
            match turn {
                Turn::Ask => return Ok(None),
                Turn::Delegate(delegation) => self.spawn(Arc::clone(self).take_locks(inode, delegation)),
                Turn::Return(delegation) => self.spawn(Arc::clone(self).send_locks(inode, delegation)),
                Turn::Here | Turn::Wait => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || timeout(left, settled.changed()).await.is_err() {
                return Err(FsError::Deadline);
            }
        }
    }

    async fn try_lock(self: &Arc<Self>, inode: Inode, lock: &FileLock) -> Result<(), FsError> {
        let here = |held: &mut HeldLocks| Ok(held.lock_here(inode, lock)?);
        match self.in_turn(inode, Wish::Lock(lock.owner), here).await? {
            Some(locked) => locked,
            None => self.ask_for(inode, Change::Lock(*lock)).await,
        }
    }

    async fn look_at_locks(self: &Arc<Self>, inode: Inode, lock: &FileLock) -> Result<Option<FileLock>, FsError> {
        if let Some(found) = self.in_turn(inode, Wish::Test, |held| held.conflict_here(inode, lock)).await? {
            return Ok(found);
        }
        let query = Query::Lock { inode, session: self.session().id(), lock: *lock };
        match self.cluster.query(vec![query]).await?.pop() {
            Some(Ok(QueryAnswer::Lock(found))) => Ok(found),
            Some(Err(error)) => Err(error.into()),
            _ => Err(ClusterError::Confused.into()),
        }
    }

    async fn ask_for(self: &Arc<Self>, inode: Inode, change: Change) -> Result<(), FsError> {
        let session = self.session();
        let op = match change {
            Change::Lock(lock) => Op::Lock { inode, lock },
            Change::Unlock { owner, range: (start, end) } => Op::Unlock { inode, owner, start, end },
        };
        let mut asked = Asked { shared: self, session: session.clone(), inode, change, fate: Fate::Unknown };
        let outcome = session.change(op).await;
        asked.fate = fate(&outcome);
        drop(asked);
        if session.is_over() {
            return Err(FsError::SessionEnded);
        }
        outcome.map(drop).map_err(FsError::from)
    }

    /// Asks the cluster to let this mount decide about the locks of `inode`.
    async fn take_locks(self: Arc<Self>, inode: Inode, delegation: LockOwner) {
        let outcome = self.session().change(Op::DelegateLocks { inode, delegation }).await;
        let in_doubt = self.held_locks.lock().handle_delegated(inode, delegation, fate(&outcome), now());
        if in_doubt {
            self.send_locks(inode, delegation).await;
        } else {
            self.settle();
        }
    }

    /// Tells the cluster what is held, until it has heard, or the session is over.
    async fn send_locks(self: Arc<Self>, inode: Inode, delegation: LockOwner) {
        let (session, locks) = (self.session(), self.held_locks.lock().locks(inode));
        while !self.stop.is_cancelled() {
            let outcome = session.change(Op::ReturnLocks { inode, delegation, locks: locks.clone() }).await;
            match outcome {
                Ok(_) | Err(ChangeError::Op(_) | ChangeError::SessionEnded) => break,
                Err(ChangeError::Cluster(_)) => sleep(RETRY_PAUSE).await,
            }
        }
        self.held_locks.lock().handle_returned(inode, delegation, now());
        self.settle();
    }

    /// Returns what this mount decides about the locks of `inode`, if it does, within `deadline`, or later.
    pub(super) async fn return_locks(self: &Arc<Self>, inode: Inode, deadline: Duration) {
        let returned = async {
            loop {
                let mut settled = self.settled.subscribe();
                let turn = self.held_locks.lock().begin_return(inode);
                match turn {
                    Turn::Ask => return,
                    Turn::Return(delegation) => self.spawn(Arc::clone(self).send_locks(inode, delegation)),
                    Turn::Here | Turn::Delegate(_) | Turn::Wait => {}
                }
                if settled.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(deadline, returned).await.is_err() {
            tracing::debug!(%inode, "locks could not be returned before the lease goes");
        }
    }

    /// Returns the locks of files whose leases went in another way than by a recall, and forgets files without any.
    pub(super) fn tidy_locks(self: &Arc<Self>) {
        let delegated = {
            let mut held = self.held_locks.lock();
            held.sweep(now());
            held.delegated()
        };
        for inode in delegated.into_iter().filter(|inode| !self.holds_exclusive(*inode)) {
            let shared = Arc::clone(self);
            self.spawn(async move { shared.return_locks(inode, OP_DEADLINE).await });
        }
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
