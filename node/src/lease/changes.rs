//! Changes under way: which inodes each has to itself, and who waits for them. Pure.
//!
//! # Invariants
//! - A change has all the inodes that it reaches, or none: nobody holds some and waits for others.
//! - Whoever came first gets what it waits for first, so that no stream of changes keeps another out.
//! - A change that waits for a session's leases lets changes of that session pass: what it waits for may be in them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use wire::namespace::{Inode, SessionId};

/// One change; the lower came first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ChangeId(u64);

/// Whether a change may go before one that waits for leases of its session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passing {
    /// Changes: they may be what the other waits for.
    Allowed,
    /// Wishes for exclusive leases.
    No,
}

/// Whether a change has its inodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Marking {
    /// All of them.
    Marked,
    /// None of them: another is first.
    Blocked,
}

/// Whether others' leases are out of the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Clearing {
    /// They are.
    Clear,
    /// Others passed: what its names lead to may be something else now.
    LookAgain,
    /// Not before then, unless something happens.
    Until(Instant),
}

/// How a change ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// It was not proposed.
    Abandoned,
    /// It was, and has been decided.
    Decided,
}

/// What a change waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Its inodes.
    Marking,
    /// Leases.
    Recalling,
    /// Its end.
    Proposed,
}

/// A change under way.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) session: SessionId,
    pub(super) passing: Passing,
    pub(super) stage: Stage,
    pub(super) marked: Vec<Inode>,
    pub(super) wanted: Vec<Inode>,
    /// Those that it went before.
    pub(super) passed: BTreeSet<ChangeId>,
    /// Another that went before it has ended.
    pub(super) look_again: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Changes {
    last: u64,
    under_way: BTreeMap<ChangeId, Change>,
    marks: BTreeSet<(Inode, ChangeId)>,
    wants: BTreeSet<(Inode, ChangeId)>,
    /// Changes that went before others.
    passing: usize,
}

const FIRST: ChangeId = ChangeId(0);
const LAST: ChangeId = ChangeId(u64::MAX);

impl Changes {
    /// A change begins, with nothing marked.
    pub(super) fn open(&mut self, session: SessionId, passing: Passing) -> ChangeId {
        self.last += 1;
        let id = ChangeId(self.last);
        let change = Change {
            session,
            passing,
            stage: Stage::Marking,
            marked: Vec::new(),
            wanted: Vec::new(),
            passed: BTreeSet::new(),
            look_again: false,
        };
        self.under_way.insert(id, change);
        id
    }

    pub(super) fn get(&self, id: ChangeId) -> Option<&Change> {
        self.under_way.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ChangeId) -> Option<&mut Change> {
        self.under_way.get_mut(&id)
    }

    /// The changes that have `inode`.
    pub(super) fn at(&self, inode: Inode) -> impl Iterator<Item = (ChangeId, &Change)> {
        let ids = self.marks.range((inode, FIRST)..=(inode, LAST));
        ids.filter_map(|(_, id)| Some((*id, self.under_way.get(id)?)))
    }

    /// Whether a change of another session is under way at `inode`.
    pub(super) fn is_pending(&self, inode: Inode, session: SessionId) -> bool {
        self.at(inode).any(|(_, change)| change.session != session)
    }

    /// Whether another session waits for `inode` and came before `id`.
    pub(super) fn is_wanted_before(&self, inode: Inode, id: ChangeId, session: SessionId) -> bool {
        let earlier = self.wants.range((inode, FIRST)..(inode, id));
        earlier.filter_map(|(_, id)| self.under_way.get(id)).any(|change| change.session != session)
    }

    /// Gives `inodes` to a change that nothing blocks.
    pub(super) fn mark(&mut self, id: ChangeId, inodes: &[Inode], passed: BTreeSet<ChangeId>) {
        let Some(change) = self.under_way.get_mut(&id) else { return };
        if change.passed.is_empty() && !passed.is_empty() {
            self.passing += 1;
        }
        change.passed.extend(passed);
        for inode in inodes {
            if self.marks.insert((*inode, id)) {
                change.marked.push(*inode);
            }
        }
    }

    /// Takes everything from a change, which waits for that and for `inodes` from now on; whether it had anything.
    pub(super) fn wait(&mut self, id: ChangeId, inodes: &[Inode]) -> bool {
        let Some(change) = self.under_way.get_mut(&id) else { return false };
        change.stage = Stage::Marking;
        if !std::mem::take(&mut change.passed).is_empty() {
            self.passing -= 1;
        }
        let marked = std::mem::take(&mut change.marked);
        for inode in &marked {
            self.marks.remove(&(*inode, id));
        }
        for inode in marked.iter().chain(inodes) {
            if self.wants.insert((*inode, id)) {
                change.wanted.push(*inode);
            }
        }
        !marked.is_empty()
    }

    /// A change has ended; those that it went before have to look again.
    pub(super) fn close(&mut self, id: ChangeId) -> Option<Change> {
        let change = self.under_way.remove(&id)?;
        for inode in &change.marked {
            self.marks.remove(&(*inode, id));
        }
        for inode in &change.wanted {
            self.wants.remove(&(*inode, id));
        }
        if !change.passed.is_empty() {
            self.passing -= 1;
        }
        for passed in &change.passed {
            if let Some(passed) = self.under_way.get_mut(passed) {
                passed.look_again = true;
            }
        }
        Some(change)
    }

    /// Whether one that went before `id` is under way at any of `inodes`.
    pub(super) fn is_passed(&self, id: ChangeId, inodes: &[Inode]) -> bool {
        let passed = |inode: &Inode| self.at(*inode).any(|(_, change)| change.passed.contains(&id));
        self.passing > 0 && inodes.iter().any(passed)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }
}
