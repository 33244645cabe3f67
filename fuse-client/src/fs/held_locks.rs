//! Which locks this mount holds, and who decides about them: the cluster, or this mount itself, which then answers at once
//! and tells the cluster nothing before somebody else asks. Pure.
//!
//! # Invariants
//! - Between a delegation and its return what is known here is all that the session holds, byte for byte: it is asked for
//!   only while nothing is under way, and nothing in doubt.
//! - Of one owner one question is under way at a time, and what comes after one of which nobody knows what became of it is
//!   executed after it, or it is never executed. What an owner is to give up it gives up before it locks anything else.
//! - Locks are decided here only while the inode is leased exclusively: the session lives, and recalls reach it.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use wire::namespace::{FileLock, Inode, LockOwner, LockSet, OpError, OpNumber, SessionId};

/// Stands for this mount's session among the locks of one.
const OURS: SessionId = SessionId(0);

/// Questions about the locks of a file, one soon after the other, that make it worth a delegation: one more question.
const WORTH_DELEGATING: u32 = 4;

/// What comes later than that after the last question is the first again.
const SOON: Duration = Duration::from_secs(5);

/// After others wanted to know of the locks of a file, the cluster decides about them for a while.
const CONTENDED: Duration = Duration::from_secs(5);

/// Files about whose locks this mount decides at most: the cluster keeps a row for each.
const DELEGATIONS_MAX: usize = 1024;

/// Files without locks that are remembered; more are forgotten at once instead of after [`SOON`].
const FREE_MAX: usize = 4096;

/// What somebody wants to do about locks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wish {
    /// Take one, for an owner.
    Lock(LockOwner),
    /// Give some up.
    Unlock(LockOwner),
    /// Look.
    Test,
}

/// How that is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// Here, at once.
    Here,
    /// By the cluster. What became of a lock or an unlock has to be told.
    Ask,
    /// After this delegation has been asked for.
    Delegate(LockOwner),
    /// After this delegation has been returned.
    Return(LockOwner),
    /// After what is under way.
    Wait,
}

/// What became of a wish for a delegation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Delegated {
    /// It is known who decides.
    Settled,
    /// The cluster may have given one that is to be returned.
    InDoubt,
}

/// What became of a question to the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It was done.
    Done,
    /// It was refused.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// All files on which something is locked, or was lately.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks {
    files: HashMap<Inode, FileLocks>,
    delegations: u64,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Authority {
    #[default]
    Cluster,
    Taking(LockOwner),
    Here(LockOwner),
    Returning(LockOwner),
}

#[derive(Debug, Default)]
struct FileLocks {
    set: LockSet,
    /// Owners who may hold something else.
    unsure: HashSet<LockOwner>,
    authority: Authority,
    /// Whose questions are under way.
    asking: HashSet<LockOwner>,
    /// Of those, who gives something up.
    giving_up: HashSet<LockOwner>,
    /// How often each owner is to give something up, from when that is known until it is done.
    unlocking: HashMap<LockOwner, u32>,
    /// The last question of which nobody knows what became of it.
    after: Option<OpNumber>,
    /// Questions one soon after the other.
    asked: u32,
    asked_at: Option<Instant>,
    contended_until: Option<Instant>,
}

impl HeldLocks {
    /// How a wish about `inode` is done, which is leased here exclusively or not.
    pub(crate) fn turn(&mut self, inode: Inode, wish: Wish, exclusive: bool, now: Instant) -> Turn {
        let file = self.files.entry(inode).or_default();
        if let Wish::Lock(owner) = wish
            && file.unlocking.contains_key(&owner)
        {
            return Turn::Wait;
        }
        match file.authority {
            Authority::Here(_) if exclusive || matches!(wish, Wish::Unlock(_)) => {
                file.asked_at = Some(now);
                Turn::Here
            }
            Authority::Here(delegation) => {
                file.authority = Authority::Returning(delegation);
                Turn::Return(delegation)
            }
            Authority::Taking(_) | Authority::Returning(_) => Turn::Wait,
            Authority::Cluster => {
                if let Wish::Lock(owner) | Wish::Unlock(owner) = wish
                    && file.asking.contains(&owner)
                {
                    return Turn::Wait;
                }
                file.note_asked(now);
                let is_worth_it = matches!(wish, Wish::Lock(_)) && exclusive && file.is_worth_delegating(now);
                if is_worth_it && self.delegated().count() < DELEGATIONS_MAX {
                    return self.delegate(inode);
                }
                if let (Wish::Lock(owner) | Wish::Unlock(owner), Some(file)) = (wish, self.files.get_mut(&inode)) {
                    file.asking.insert(owner);
                    if matches!(wish, Wish::Unlock(_)) {
                        file.giving_up.insert(owner);
                    }
                }
                Turn::Ask
            }
        }
    }

    fn delegate(&mut self, inode: Inode) -> Turn {
        self.delegations += 1;
        let delegation = LockOwner(self.delegations);
        self.files.entry(inode).or_default().authority = Authority::Taking(delegation);
        Turn::Delegate(delegation)
    }

    /// An owner is to give something up: what it locks from now on it gets after that, whenever that can be done.
    pub(crate) fn begin_unlock(&mut self, inode: Inode, owner: LockOwner) {
        *self.files.entry(inode).or_default().unlocking.entry(owner).or_default() += 1;
    }

    /// That is done, or will not be.
    pub(crate) fn end_unlock(&mut self, inode: Inode, owner: LockOwner) {
        // All may have been lost meanwhile.
        let Some(file) = self.files.get_mut(&inode) else { return };
        if let Some(count) = file.unlocking.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                file.unlocking.remove(&owner);
            }
        }
    }

    /// A lock that is decided here.
    pub(crate) fn lock_here(&mut self, inode: Inode, lock: &FileLock) -> Result<(), OpError> {
        let file = self.files.entry(inode).or_default();
        file.set = file.set.locked(OURS, lock)?;
        Ok(())
    }

    /// What is given up here.
    pub(crate) fn unlock_here(&mut self, inode: Inode, owner: LockOwner, range: (u64, u64)) -> Result<(), OpError> {
        let file = self.files.entry(inode).or_default();
        file.set = file.set.unlocked(OURS, owner, range)?;
        Ok(())
    }

    /// A lock in the way, where that is known here.
    pub(crate) fn conflict_here(&self, inode: Inode, lock: &FileLock) -> Option<FileLock> {
        self.files.get(&inode)?.set.conflict(OURS, lock)
    }

    /// What the cluster made of a lock.
    pub(crate) fn handle_locked(&mut self, inode: Inode, lock: &FileLock, fate: Fate) {
        let file = self.files.entry(inode).or_default();
        file.asking.remove(&lock.owner);
        match (fate, file.set.locked(OURS, lock)) {
            (Fate::Refused, _) => {}
            (Fate::Done, Ok(set)) => file.set = set,
            // Answers came in another order than that in which things were done.
            (Fate::Done, Err(_)) | (Fate::Unknown, _) => drop(file.unsure.insert(lock.owner)),
        }
    }

    /// What the cluster made of an unlock.
    pub(crate) fn handle_unlocked(&mut self, inode: Inode, owner: LockOwner, range: (u64, u64), fate: Fate) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        file.asking.remove(&owner);
        file.giving_up.remove(&owner);
        match (fate, file.set.unlocked(OURS, owner, range)) {
            (Fate::Refused, _) => {}
            (Fate::Done, Ok(set)) => {
                file.set = set;
                if range == (0, u64::MAX) {
                    file.unsure.remove(&owner);
                }
            }
            (Fate::Done, Err(_)) | (Fate::Unknown, _) => drop(file.unsure.insert(owner)),
        }
    }

    /// Nobody knows what became of this question.
    pub(crate) fn handle_unknown(&mut self, inode: Inode, number: OpNumber) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.after = file.after.max(Some(number));
        }
    }

    /// The question that the next one about `inode` must follow.
    pub(crate) fn after(&self, inode: Inode) -> Option<OpNumber> {
        self.files.get(&inode)?.after
    }

    /// What the cluster made of a wish for a delegation.
    pub(crate) fn handle_delegated(
        &mut self,
        inode: Inode,
        delegation: LockOwner,
        fate: Fate,
        now: Instant,
    ) -> Delegated {
        let Some(file) = self.files.get_mut(&inode).filter(|file| file.authority == Authority::Taking(delegation))
        else {
            return if fate == Fate::Refused { Delegated::Settled } else { Delegated::InDoubt };
        };
        file.authority = match fate {
            Fate::Done => Authority::Here(delegation),
            Fate::Refused => {
                file.contended_until = Some(now + CONTENDED);
                Authority::Cluster
            }
            Fate::Unknown => Authority::Returning(delegation),
        };
        if fate == Fate::Unknown { Delegated::InDoubt } else { Delegated::Settled }
    }

    /// Somebody else wants to know of the locks, or the lease goes: which delegation is to be returned.
    pub(crate) fn begin_return(&mut self, inode: Inode) -> Turn {
        let Some(file) = self.files.get_mut(&inode) else { return Turn::Ask };
        match file.authority {
            Authority::Cluster => Turn::Ask,
            Authority::Taking(_) | Authority::Returning(_) => Turn::Wait,
            Authority::Here(delegation) => {
                file.authority = Authority::Returning(delegation);
                Turn::Return(delegation)
            }
        }
    }

    /// What is returned with a delegation: the same as long as it is being returned; nothing where it is not known.
    pub(crate) fn locks(&self, inode: Inode, delegation: LockOwner) -> Vec<FileLock> {
        let returning = self.files.get(&inode).filter(|file| file.authority == Authority::Returning(delegation));
        returning.into_iter().flat_map(|file| file.set.iter()).map(|held| held.lock).collect()
    }

    /// A delegation has been returned, or was none.
    pub(crate) fn handle_returned(&mut self, inode: Inode, delegation: LockOwner, now: Instant) {
        if let Some(file) = self.files.get_mut(&inode).filter(|file| file.authority == Authority::Returning(delegation))
        {
            file.authority = Authority::Cluster;
            file.contended_until = Some(now + CONTENDED);
        }
    }

    /// Files about whose locks this mount decides.
    pub(crate) fn delegated(&self) -> impl Iterator<Item = Inode> {
        self.files.iter().filter(|(_, file)| matches!(file.authority, Authority::Here(_))).map(|(inode, _)| *inode)
    }

    /// Whether nothing is locked, and nothing was for a while, in a file about whose locks this mount decides: should it
    /// die, others would wait for nothing.
    pub(crate) fn is_idle(&self, inode: Inode, now: Instant) -> bool {
        self.files.get(&inode).is_some_and(|file| file.set.is_empty() && !file.is_recent(now))
    }

    /// Whether an owner may hold anything of an inode.
    pub(crate) fn holds(&self, inode: Inode, owner: LockOwner) -> bool {
        let holds = |file: &FileLocks| {
            file.set.has_owner(OURS, owner) || file.unsure.contains(&owner) || file.asking.contains(&owner)
        };
        self.files.get(&inode).is_some_and(holds)
    }

    /// Whether somebody here is about to hold less of an inode.
    pub(crate) fn is_given_up(&self, inode: Inode) -> bool {
        self.files.get(&inode).is_some_and(|file| !file.giving_up.is_empty())
    }

    /// Everything is lost; of which inodes.
    pub(crate) fn lose_all(&mut self) -> HashSet<Inode> {
        let files = std::mem::take(&mut self.files).into_iter();
        files.filter(|(_, file)| !file.set.is_empty() || !file.unsure.is_empty()).map(|(inode, _)| inode).collect()
    }

    /// Forgets files on which nothing is locked.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let is_full = self.files.len() > FREE_MAX;
        self.files.retain(|_, file| !file.is_free() || (!is_full && (file.is_recent(now) || file.is_contended(now))));
    }
}

impl FileLocks {
    fn note_asked(&mut self, now: Instant) {
        let soon = self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < SOON);
        self.asked = if soon { self.asked.saturating_add(1) } else { 1 };
        self.asked_at = Some(now);
    }

    fn is_worth_delegating(&self, now: Instant) -> bool {
        self.asked > WORTH_DELEGATING && self.asking.is_empty() && self.unsure.is_empty() && !self.is_contended(now)
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < SOON)
    }

    fn is_contended(&self, now: Instant) -> bool {
        self.contended_until.is_some_and(|until| now < until)
    }

    fn is_free(&self) -> bool {
        let is_idle = self.asking.is_empty() && self.unlocking.is_empty() && self.authority == Authority::Cluster;
        is_idle && self.set.is_empty() && self.unsure.is_empty()
    }
}

#[cfg(test)]
mod tests;
