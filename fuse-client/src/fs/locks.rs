//! Advisory locks: of `fcntl` and `flock` alike, one lock space for each inode, across all mounts.
//!
//! The cluster decides about them, and keeps them as long as the session lasts. About the locks of a file that nobody else
//! has leased and that is locked again and again, as by a database, it lets this mount decide ([`Op::DelegateLocks`]); when
//! somebody else asks for one, or the lease goes, the mount returns what is held there ([`Op::ReturnLocks`]). Until then
//! everybody else is turned away, also if nothing is heard of this mount.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use wire::namespace::{FileLock, Inode, LockKind, LockOwner, Op, OpAnswer, OpError, OpNumber, Query, QueryAnswer};

use super::{
    FileSystem, FsError, OP_DEADLINE, Shared,
    held_locks::{Delegated, Fate, HeldLocks, Turn, Wish},
    lock_waits::WaitId,
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

/// How long a lock that is being given up here is waited for by who does not want to wait.
const GIVEN_UP_MAX: Duration = Duration::from_secs(1);

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
        let is_given_up = || self.shared.held_locks.lock().is_given_up(inode);
        let mut again = true;
        loop {
            let was_given_up = is_given_up();
            match self.shared.try_lock(inode, &lock).await {
                Err(FsError::Op(OpError::LocksDelegated)) if Instant::now() < until => {}
                // Whoever closes a file does not wait until its locks are given up; the next to open it is not to feel that.
                Err(FsError::Op(OpError::Locked)) if again && (was_given_up || is_given_up()) => {
                    let until = Instant::now() + GIVEN_UP_MAX;
                    while is_given_up() && Instant::now() < until {
                        sleep(WAIT_MIN).await;
                    }
                    again = false;
                    continue;
                }
                tried => return tried,
            }
            sleep(pause).await;
            pause = (pause * 2).min(WAIT_MAX);
        }
    }

    /// Takes a lock; waits until nobody is in the way, or the caller has a signal pending, or would wait for ever.
    pub async fn lock_and_wait(
        &self,
        inode: Inode,
        lock: FileLock,
        interrupted: impl Fn() -> bool,
    ) -> Result<(), FsError> {
        let mut pause = WAIT_MIN;
        let mut waiting = None;
        loop {
            match self.shared.try_lock(inode, &lock).await {
                Err(FsError::Op(OpError::Locked | OpError::LocksDelegated)) => {}
                other => return other,
            }
            let waiting = waiting.get_or_insert_with(|| LockWait::begin(&self.shared, lock.owner));
            // Looking costs no change; what stands in the way mostly stands there a while.
            loop {
                if interrupted() {
                    return Err(FsError::Interrupted);
                }
                sleep(pause).await;
                pause = (pause * 2).min(WAIT_MAX);
                let looked = now();
                match self.shared.look_at_locks(inode, &lock).await? {
                    None => break,
                    // Nobody knows who has it.
                    Some(found) if found.kind == LockKind::Delegated => {}
                    Some(found) if self.shared.lock_waits.lock().note_blocked(waiting.id, found.owner, looked) => {
                        return Err(FsError::Deadlock);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// An owner is to give something up: what it locks later it gets after that.
    pub fn begin_unlock(&self, inode: Inode, owner: LockOwner) -> Unlocking {
        self.shared.held_locks.lock().begin_unlock(inode, owner);
        Unlocking { shared: Arc::clone(&self.shared), inode, owner }
    }

    /// Gives up what an owner holds in a range: also if whoever asks does not wait for it, as long as the session lasts.
    pub async fn unlock(&self, unlocking: Unlocking, start: u64, end: u64) -> Result<(), FsError> {
        let mut unlocking = Box::pin(Arc::clone(&self.shared).give_up(unlocking, (start, end)));
        // What is decided here needs no other thread.
        if let Some(unlocked) = unlocking.as_mut().now_or_never() {
            return unlocked;
        }
        let (tell, told) = oneshot::channel();
        self.shared.spawn(async move {
            let unlocked = unlocking.await;
            // Nobody may wait for it any more.
            let _told = tell.send(unlocked).is_ok();
        });
        told.await.unwrap_or(Err(FsError::SessionEnded))
    }

    /// Whether an owner may hold locks on an inode.
    pub fn may_have_locked(&self, inode: Inode, owner: LockOwner) -> bool {
        self.shared.held_locks.lock().holds(inode, owner)
    }

    /// A process has closed the file, or the last reference to the opening is gone: everything the owner holds goes.
    pub async fn unlock_owner(&self, unlocking: Unlocking) -> Result<(), FsError> {
        if self.may_have_locked(unlocking.inode, unlocking.owner) {
            self.unlock(unlocking, 0, u64::MAX).await?;
        }
        Ok(())
    }
}

/// An owner is to give something up, until this is dropped.
#[derive(Debug)]
pub struct Unlocking {
    shared: Arc<Shared>,
    inode: Inode,
    owner: LockOwner,
}

impl Unlocking {
    /// Who.
    pub fn owner(&self) -> LockOwner {
        self.owner
    }
}

impl Drop for Unlocking {
    fn drop(&mut self) {
        self.shared.held_locks.lock().end_unlock(self.inode, self.owner);
        self.shared.settle();
    }
}

/// Somebody waits for a lock until this is dropped.
struct LockWait<'a> {
    shared: &'a Shared,
    id: WaitId,
}

impl<'a> LockWait<'a> {
    fn begin(shared: &'a Shared, owner: LockOwner) -> Self {
        Self { shared, id: shared.lock_waits.lock().begin(owner, now()) }
    }
}

impl Drop for LockWait<'_> {
    fn drop(&mut self) {
        self.shared.lock_waits.lock().end(self.id);
    }
}

/// A change of locks that the cluster is asked for.
#[derive(Clone, Copy, Debug)]
enum Change {
    Lock(FileLock),
    Unlock { owner: LockOwner, range: (u64, u64) },
}

/// Who decides about a lock.
enum Decided<T> {
    /// This mount has.
    Here(T),
    /// The cluster, which this session asks.
    By(Session),
}

/// A change that is under way; when it is dropped, what is known of it is noted.
struct Asked {
    shared: Arc<Shared>,
    session: Session,
    inode: Inode,
    change: Change,
    number: Option<OpNumber>,
    fate: Fate,
}

impl Drop for Asked {
    fn drop(&mut self) {
        {
            let mut held = self.shared.held_locks.lock();
            // Looked at under the same guard under which locks are lost, after the end of the session.
            let fate = if self.session.is_over() { Fate::Refused } else { self.fate };
            match self.change {
                Change::Lock(lock) => held.handle_locked(self.inode, &lock, fate),
                Change::Unlock { owner, range } => held.handle_unlocked(self.inode, owner, range, fate),
            }
            if let (Fate::Unknown, Some(number)) = (fate, self.number) {
                held.handle_unknown(self.inode, number);
            }
        }
        self.shared.settle();
    }
}

impl Asked {
    async fn run(mut self) -> Result<(), FsError> {
        let op = match self.change {
            Change::Lock(lock) => Op::Lock { inode: self.inode, lock },
            Change::Unlock { owner, range: (start, end) } => Op::Unlock { inode: self.inode, owner, start, end },
        };
        let after = self.shared.held_locks.lock().after(self.inode);
        let outcome = match self.session.submit(op, after).await {
            Ok(submitted) => {
                self.number = Some(submitted.number);
                submitted.outcome().await
            }
            Err(error) => Err(error),
        };
        self.fate = fate(&outcome);
        let session = self.session.clone();
        drop(self);
        if session.is_over() {
            return Err(FsError::SessionEnded);
        }
        outcome.map(drop).map_err(FsError::from)
    }
}

fn fate(outcome: &Result<OpAnswer, ChangeError>) -> Fate {
    match outcome {
        Ok(_) => Fate::Done,
        Err(ChangeError::Op(_)) => Fate::Refused,
        Err(ChangeError::Cluster(error)) if error.is_final() => Fate::Refused,
        Err(ChangeError::Cluster(_) | ChangeError::SessionEnded) => Fate::Unknown,
    }
}

impl Shared {
    /// Does `here` when it is this mount that decides about locks of `inode`. Waits for what is under way there.
    async fn in_turn<T>(
        self: &Arc<Self>,
        inode: Inode,
        wish: Wish,
        here: impl Fn(&mut HeldLocks) -> T,
    ) -> Result<Decided<T>, FsError> {
        let until = Instant::now() + OP_DEADLINE;
        loop {
            let mut settled = self.settled.subscribe();
            let session = self.session();
            let exclusive = self.holds_exclusive(inode);
            let turn = {
                let mut held = self.held_locks.lock();
                match held.turn(inode, wish, exclusive, now()) {
                    Turn::Here => return Ok(Decided::Here(here(&mut held))),
                    turn => turn,
                }
            };
            match turn {
                Turn::Ask => return Ok(Decided::By(session)),
                Turn::Delegate(delegation) => self.spawn(Arc::clone(self).take_locks(session, inode, delegation)),
                Turn::Return(delegation) => self.spawn(Arc::clone(self).send_locks(session, inode, delegation, None)),
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
            Decided::Here(locked) => locked,
            // Whoever does not wait for it any more may hold it all the same.
            Decided::By(session) => self.ask_for(session, inode, Change::Lock(*lock)).await,
        }
    }

    async fn give_up(self: Arc<Self>, unlocking: Unlocking, range: (u64, u64)) -> Result<(), FsError> {
        let (inode, owner) = (unlocking.inode, unlocking.owner);
        loop {
            let here = |held: &mut HeldLocks| Ok(held.unlock_here(inode, owner, range)?);
            let unlocked = match self.in_turn(inode, Wish::Unlock(owner), here).await {
                Ok(Decided::Here(unlocked)) => unlocked,
                Ok(Decided::By(session)) => self.ask_for(session, inode, Change::Unlock { owner, range }).await,
                Err(error) => Err(error),
            };
            match unlocked {
                // Nothing was held that could be given up. But for want of room: there may be some later.
                Err(error) if error.is_refused() && !error.is_no_room() => return Err(error),
                // What it must follow may not have arrived yet.
                Err(FsError::Cluster(_) | FsError::Deadline | FsError::Op(OpError::OutOfOrder))
                    if !self.stop.is_cancelled() =>
                {
                    sleep(RETRY_PAUSE).await;
                }
                unlocked => return unlocked,
            }
        }
    }

    async fn look_at_locks(self: &Arc<Self>, inode: Inode, lock: &FileLock) -> Result<Option<FileLock>, FsError> {
        let here = |held: &mut HeldLocks| held.conflict_here(inode, lock);
        let session = match self.in_turn(inode, Wish::Test, here).await? {
            Decided::Here(found) => return Ok(found),
            Decided::By(session) => session.id(),
        };
        let query = Query::Lock { inode, session, lock: *lock };
        self.commit_before_asking(&[], std::slice::from_ref(&query)).await?;
        match self.cluster.query(vec![query]).await?.pop() {
            Some(Ok(QueryAnswer::Lock(found))) => Ok(found),
            Some(Err(error)) => Err(error.into()),
            _ => Err(ClusterError::Confused.into()),
        }
    }

    /// Asks the cluster, in a task of its own: what becomes of it is noted whoever waits.
    async fn ask_for(self: &Arc<Self>, session: Session, inode: Inode, change: Change) -> Result<(), FsError> {
        let shared = Arc::clone(self);
        let asked = Asked { shared, session, inode, change, number: None, fate: Fate::Unknown };
        let (tell, told) = oneshot::channel();
        self.spawn(async move {
            let outcome = asked.run().await;
            // Nobody may wait for it any more.
            let _told = tell.send(outcome).is_ok();
        });
        told.await.unwrap_or(Err(FsError::SessionEnded))
    }

    /// Asks the cluster to let this mount decide about the locks of `inode`.
    async fn take_locks(self: Arc<Self>, session: Session, inode: Inode, delegation: LockOwner) {
        let after = self.held_locks.lock().after(inode);
        let (number, outcome) = match session.submit(Op::DelegateLocks { inode, delegation }, after).await {
            Ok(submitted) => (Some(submitted.number), submitted.outcome().await),
            Err(error) => (None, Err(error)),
        };
        let delegated = self.held_locks.lock().handle_delegated(inode, delegation, fate(&outcome), now());
        match delegated {
            Delegated::Settled => self.settle(),
            Delegated::InDoubt => self.send_locks(session, inode, delegation, number).await,
        }
    }

    /// Tells the cluster what is held, after the question `after`, until it has heard, or the session is over.
    async fn send_locks(
        self: Arc<Self>,
        session: Session,
        inode: Inode,
        delegation: LockOwner,
        after: Option<OpNumber>,
    ) {
        let locks = self.held_locks.lock().locks(inode, delegation);
        while !self.stop.is_cancelled() {
            let op = Op::ReturnLocks { inode, delegation, locks: locks.clone() };
            let submitted = match after {
                // It waits for nobody: others wait for it.
                None => session.submit_made(op, (self.config.wall_clock)()).await,
                Some(_) => session.submit(op, after).await,
            };
            let outcome = match submitted {
                Ok(submitted) => submitted.outcome().await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) | Err(ChangeError::SessionEnded) => break,
                // It was none, or has been returned, or the file is no more.
                Err(ChangeError::Op(OpError::Invalid | OpError::StaleInode | OpError::NotFound)) => break,
                Err(ChangeError::Op(_) | ChangeError::Cluster(_)) => sleep(RETRY_PAUSE).await,
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
                let session = self.session();
                let turn = self.held_locks.lock().begin_return(inode);
                match turn {
                    Turn::Ask => return,
                    Turn::Return(delegation) => {
                        self.spawn(Arc::clone(self).send_locks(session, inode, delegation, None));
                    }
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

    /// Returns the locks of files whose leases went in another way than by a recall, or that nobody locks any more, and
    /// forgets files without any.
    pub(super) fn tidy_locks(self: &Arc<Self>) {
        let delegated: Vec<(Inode, bool)> = {
            let mut held = self.held_locks.lock();
            held.sweep(now());
            held.delegated().map(|inode| (inode, held.is_idle(inode, now()))).collect()
        };
        let stray = delegated.into_iter().filter(|(inode, is_idle)| *is_idle || !self.holds_exclusive(*inode));
        for (inode, _) in stray {
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
