//! Which locks this mount holds, as far as it knows: to give them up when a file is closed, and to know which programs
//! are to hear that theirs are lost. Pure.

use std::collections::{HashMap, HashSet};

use wire::namespace::{Inode, LockOwner};

/// Ranges, from the first to the last byte, by inode and owner.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks {
    held: HashMap<(Inode, LockOwner), Vec<(u64, u64)>>,
}

impl HeldLocks {
    /// An owner has a range, or may have it.
    pub(crate) fn handle_locked(&mut self, inode: Inode, owner: LockOwner, start: u64, end: u64) {
        self.handle_unlocked(inode, owner, start, end);
        self.held.entry((inode, owner)).or_default().push((start, end));
    }

    /// An owner has nothing in a range any more.
    pub(crate) fn handle_unlocked(&mut self, inode: Inode, owner: LockOwner, start: u64, end: u64) {
        let Some(ranges) = self.held.get_mut(&(inode, owner)) else { return };
        let left = ranges.iter().flat_map(|&(from, to)| {
            let before = (from < start).then(|| (from, to.min(start.saturating_sub(1))));
            let after = (to > end).then(|| (from.max(end.saturating_add(1)), to));
            before.into_iter().chain(after)
        });
        *ranges = left.collect();
        if ranges.is_empty() {
            self.held.remove(&(inode, owner));
        }
    }

    /// Whether an owner may hold anything of an inode.
    pub(crate) fn holds(&self, inode: Inode, owner: LockOwner) -> bool {
        self.held.contains_key(&(inode, owner))
    }

    /// Everything is lost; of which inodes.
    pub(crate) fn lose_all(&mut self) -> HashSet<Inode> {
        std::mem::take(&mut self.held).into_keys().map(|(inode, _)| inode).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wire::namespace::{Inode, LockOwner};

    use super::HeldLocks;

    #[test]
    fn an_owner_holds_what_it_locked_and_has_not_given_up_byte_for_byte() {
        let (inode, owner) = (Inode(7), LockOwner(1));
        let mut locks = HeldLocks::default();
        locks.handle_locked(inode, owner, 10, 19);
        locks.handle_locked(inode, owner, 15, u64::MAX);
        assert!(locks.holds(inode, owner) && !locks.holds(inode, LockOwner(2)));
        locks.handle_unlocked(inode, owner, 12, 30);
        locks.handle_unlocked(inode, owner, 0, 10);
        locks.handle_unlocked(inode, owner, 31, u64::MAX);
        assert!(locks.holds(inode, owner), "11 is left");
        locks.handle_unlocked(inode, owner, 11, 11);
        assert!(!locks.holds(inode, owner));
        locks.handle_locked(inode, owner, 0, u64::MAX);
        locks.handle_unlocked(inode, owner, 0, u64::MAX);
        assert!(!locks.holds(inode, owner));
    }

    #[test]
    fn what_is_lost_is_told_once() {
        let mut locks = HeldLocks::default();
        locks.handle_locked(Inode(7), LockOwner(1), 0, 1);
        locks.handle_locked(Inode(7), LockOwner(2), 5, 6);
        locks.handle_locked(Inode(8), LockOwner(1), 0, 1);
        assert_eq!(locks.lose_all(), HashSet::from([Inode(7), Inode(8)]));
        assert_eq!(locks.lose_all(), HashSet::new());
        assert!(!locks.holds(Inode(7), LockOwner(1)));
    }
}
