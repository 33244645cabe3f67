//! Changes and wishes for exclusive leases at the table: marked, cleared of others' leases, ended. Pure.

use std::collections::BTreeSet;

use tokio::time::Instant;
use wire::{
    lease::{LeaseMode, LeaseNumber, TERM},
    namespace::{Inode, SessionId},
};

use super::{
    changes::{Change, ChangeId, Clearing, Ending, Marking, Passing, Stage},
    holder::Holder,
    table::Leases,
};

impl Leases {
    /// A change begins. It has to be ended.
    pub fn open_change(&mut self, session: SessionId, passing: Passing) -> ChangeId {
        self.changes.open(session, passing)
    }

    /// Gives a change `inodes` beside what it has, or takes everything from it if another is first. One that had to wait
    /// gets nothing before it can have all that it waits for.
    pub fn mark(&mut self, id: ChangeId, inodes: &[Inode]) -> Marking {
        let Some(change) = self.changes.get(id) else { return Marking::Blocked };
        let is_waited_for = self.holders.get(&change.session).is_some_and(Holder::is_recalled);
        let may_pass = change.passing == Passing::Allowed && is_waited_for;
        let mut passed = BTreeSet::new();
        let mut needed = inodes.iter().chain(&change.wanted);
        let blocked = needed.any(|inode| {
            let wanted = !may_pass && self.changes.is_wanted_before(*inode, id, change.session);
            let mut others = self.changes.at(*inode).filter(|(_, other)| other.session != change.session);
            wanted
                || others.any(|(other, at)| {
                    let passes = may_pass && self.waits_for(at, change.session);
                    if passes {
                        passed.insert(other);
                    }
                    !passes
                })
        });
        if blocked {
            // Only what was given up is news to others: this one must not wake itself.
            self.wakes.freed |= self.changes.wait(id, inodes);
            return Marking::Blocked;
        }
        self.changes.mark(id, inodes, passed);
        Marking::Marked
    }

    /// As [`Leases::mark`], for a question that is to have its turn: until it has been answered nobody is leased
    /// anything new there. Who holds something may still write back.
    pub fn mark_question(&mut self, id: ChangeId, inodes: &[Inode]) -> Marking {
        let marking = self.mark(id, inodes);
        if marking == Marking::Marked
            && let Some(change) = self.changes.get_mut(id)
        {
            change.stage = Stage::Recalling;
            self.wakes.freed = true;
        }
        marking
    }

    /// Whether a change waits for leases of `session`.
    fn waits_for(&self, change: &Change, session: SessionId) -> bool {
        change.stage == Stage::Recalling && change.marked.iter().any(|inode| self.holds(session, *inode))
    }

    fn holds(&self, session: SessionId, inode: Inode) -> bool {
        self.held_by.get(&inode).is_some_and(|holders| holders.contains(&session))
    }

    /// Recalls what others hold of the inodes that a change has; once they hold nothing it counts as proposed.
    pub fn poll_clear(&mut self, id: ChangeId, now: Instant) -> Clearing {
        let Some(change) = self.changes.get(id) else { return Clearing::Clear };
        let held = self.held_by_others(change.session, &change.marked);
        let is_passed = self.changes.is_passed(id, &change.marked).then_some(now + TERM);
        let until = self.recall_all(held, now).or(is_passed);
        let Some(change) = self.changes.get_mut(id) else { return Clearing::Clear };
        match until {
            Some(until) => {
                if change.stage == Stage::Marking {
                    change.stage = Stage::Recalling;
                    self.wakes.freed = true;
                }
                Clearing::Until(until)
            }
            None if std::mem::take(&mut change.look_again) => Clearing::LookAgain,
            None => {
                change.stage = Stage::Proposed;
                Clearing::Clear
            }
        }
    }

    /// An applied change has `touched` to itself too, foreseen or not, so that nobody is leased what is not true any
    /// more. Recalls what others hold of it: until when to wait, if they hold anything.
    pub fn poll_touched(&mut self, id: ChangeId, touched: &[Inode], now: Instant) -> Option<Instant> {
        self.changes.mark(id, touched, BTreeSet::new());
        let change = self.changes.get(id)?;
        let held = self.held_by_others(change.session, touched);
        self.recall_all(held, now)
    }

    fn held_by_others(&self, session: SessionId, inodes: &[Inode]) -> Vec<(SessionId, Inode)> {
        if self.held_by.is_empty() {
            return Vec::new();
        }
        let held = inodes.iter().flat_map(|inode| self.others_at(*inode, session).map(|other| (other, *inode)));
        held.collect()
    }

    fn recall_all(&mut self, held: Vec<(SessionId, Inode)>, now: Instant) -> Option<Instant> {
        let until = held.into_iter().filter_map(|(holder, inode)| self.recall(holder, inode, None, now));
        until.min()
    }

    /// A change has ended, and nothing is leased for it.
    pub fn end_change(&mut self, id: ChangeId, ending: Ending) {
        let Some(change) = self.changes.close(id) else { return };
        if ending == Ending::Decided {
            self.note_changed(change.marked.iter().copied());
        }
        self.wakes.freed = true;
    }

    /// The cluster itself has changed `inode`: whoever holds it should look again. Nobody waits for that.
    pub fn handle_changed(&mut self, inode: Inode, now: Instant) {
        self.note_changed(std::iter::once(inode));
        let holders: Vec<SessionId> = self.held_by.get(&inode).into_iter().flatten().copied().collect();
        for holder in holders {
            self.recall(holder, inode, None, now);
        }
    }

    /// Somebody asked for a lock on `inode`, about whose locks another session decides: that one holds it exclusively, as a
    /// rule, and returns the locks before it lets go. Nobody waits for that.
    pub fn handle_locks_wanted(&mut self, inode: Inode, asker: SessionId, now: Instant) {
        if let Some(holder) = self.exclusive_holder(inode).filter(|holder| *holder != asker) {
            self.recall(holder, inode, Some(LeaseMode::Shared), now);
        }
    }

    fn note_changed(&mut self, inodes: impl Iterator<Item = Inode>) {
        let moment = self.next_moment();
        if self.holders.is_empty() {
            // Nobody who could be leased anything has begun to ask.
            self.changed.note_all(moment);
        } else {
            inodes.for_each(|inode| self.changed.note(inode, moment));
        }
    }

    /// A change has been applied, nothing of what it touched is held by others, and its session gets leases: exclusive
    /// on what it `made`, shared on the rest of `touched`. What it did not get is returned with the place of the grants.
    pub fn settle_change(
        &mut self,
        id: ChangeId,
        made: &BTreeSet<Inode>,
        touched: &[Inode],
    ) -> (Vec<Inode>, LeaseNumber) {
        let Some(change) = self.changes.close(id) else { return (touched.to_vec(), LeaseNumber::default()) };
        self.wakes.freed = true;
        let session = change.session;
        self.note_changed(change.marked.iter().chain(touched).copied());
        let number = self.next_number(session);
        let mode = |inode| if made.contains(inode) { LeaseMode::Exclusive } else { LeaseMode::Shared };
        let unleased = touched.iter().filter(|inode| !self.grant(session, **inode, mode(inode), number));
        (unleased.copied().collect(), number)
    }

    /// A wish for exclusive leases is clear of others: leases them.
    pub fn settle_exclusive(&mut self, id: ChangeId) {
        let Some(change) = self.changes.close(id) else { return };
        self.wakes.freed = true;
        let number = self.next_number(change.session);
        for inode in change.marked {
            self.grant(change.session, inode, LeaseMode::Exclusive, number);
        }
    }
}
