//! The table of leases of one term. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use wire::{
    cluster::Peer,
    lease::{GRACE, LeaseGeneration, LeaseMode, LeaseNumber, Recall, Release, TERM},
    namespace::{Inode, SessionId},
};

use super::{
    changes::{ChangeId, Changes, Clearing, Ending, Marking, Passing, Stage},
    end_log::{EndLog, Moment},
    holder::{Held, Holder, Life},
};

/// Whether anything may be answered yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// The leader must first tell which mounts there are ([`Leases::begin`]).
    MountsUnknown,
    /// Mounts of the term before may hold leases that this leader has not heard of.
    Until(Instant),
    /// Yes.
    Ready,
}

/// Whether answers that were made may be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// They tell what is.
    Current,
    /// Somebody may have changed locally what they tell, and has said so meanwhile: look again.
    AskAgain,
    /// Somebody may be changing it locally: not before then, unless something happens.
    Until(Instant),
}

/// Who should look again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wakes {
    /// Whoever waits for an inode, a lease to end, or the grace.
    pub freed: bool,
    /// Whoever waits for recalls.
    pub recalled: bool,
}

#[derive(Debug)]
enum Phase {
    New,
    Grace { until: Instant, silent: BTreeSet<SessionId> },
    Open,
}

/// Who holds what, and which changes are under way.
#[derive(Debug)]
pub struct Leases {
    term: u64,
    since: Instant,
    phase: Phase,
    now: Moment,
    /// Lives begun, of all sessions: none of them is taken for another, whatever was forgotten between.
    lives: u64,
    holders: BTreeMap<SessionId, Holder>,
    held_by: BTreeMap<Inode, BTreeSet<SessionId>>,
    exclusives: usize,
    changes: Changes,
    /// Changes that ended.
    changed: EndLog,
    /// Exclusive leases that ended: until then the rows may have been behind what the holder had answered.
    unexclusive: EndLog,
    wakes: Wakes,
}

impl Leases {
    /// The leader of `term` begins at `now`.
    pub fn new(term: u64, now: Instant) -> Self {
        Self {
            term,
            since: now,
            phase: Phase::New,
            now: Moment::default(),
            lives: 0,
            holders: BTreeMap::new(),
            held_by: BTreeMap::new(),
            exclusives: 0,
            changes: Changes::default(),
            changed: EndLog::default(),
            unexclusive: EndLog::default(),
            wakes: Wakes::default(),
        }
    }

    /// Of which leadership.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Who should look again since this was last asked.
    pub fn take_wakes(&mut self) -> Wakes {
        std::mem::take(&mut self.wakes)
    }

    /// These are the mounts that lived when the term began.
    pub fn begin(&mut self, mounts: impl IntoIterator<Item = SessionId>) {
        if let Phase::New = self.phase {
            let silent: BTreeSet<_> = mounts.into_iter().collect();
            self.phase = Phase::Grace { until: self.since + TERM + GRACE, silent };
            self.end_grace_if_told();
        }
    }

    /// Whether anything may be answered.
    pub fn readiness(&mut self, now: Instant) -> Readiness {
        match self.phase {
            Phase::New => Readiness::MountsUnknown,
            Phase::Grace { until, .. } if now < until => Readiness::Until(until),
            Phase::Grace { .. } | Phase::Open => {
                self.phase = Phase::Open;
                Readiness::Ready
            }
        }
    }

    fn end_grace_if_told(&mut self) {
        if matches!(&self.phase, Phase::Grace { silent, .. } if silent.is_empty()) {
            self.phase = Phase::Open;
            self.wakes.freed = true;
        }
    }

    /// Whether `generation` is the current one of `session`, which belongs to `client`.
    pub fn is_current(&self, session: SessionId, client: Peer, generation: LeaseGeneration) -> bool {
        self.holders.get(&session).is_some_and(|holder| {
            holder.client == client
                && holder.life == Life::Current
                && generation == LeaseGeneration { term: self.term, life: holder.number_of_life }
        })
    }

    /// Whether any session could hold a lease.
    pub fn has_holders(&self) -> bool {
        !self.holders.is_empty()
    }

    /// A session says what it held. In the grace it goes on holding it; later it begins anew. What it does not hold
    /// any more is returned with its generation from now on. `more` says that it has not said everything yet.
    pub fn handle_reclaim(
        &mut self,
        session: SessionId,
        client: Peer,
        leases: &[(Inode, LeaseMode)],
        more: bool,
        now: Instant,
    ) -> (LeaseGeneration, Vec<Inode>) {
        let in_grace = !matches!(self.readiness(now), Readiness::Ready);
        if !in_grace {
            self.end_life(session);
        }
        let holder = self.holders.entry(session).or_insert_with(|| Holder::new(client, now));
        holder.until = holder.until.max(now + TERM + GRACE);
        if holder.life == Life::Over {
            self.lives += 1;
            holder.begin_life(self.lives);
        }
        let generation = LeaseGeneration { term: self.term, life: holder.number_of_life };
        let take_back = |(inode, mode): &(Inode, LeaseMode)| {
            let accepted = in_grace && self.grant(session, *inode, *mode, LeaseNumber::default());
            (!accepted).then_some(*inode)
        };
        let refused = leases.iter().filter_map(take_back).collect();
        if let Phase::Grace { silent, .. } = &mut self.phase
            && !more
        {
            silent.remove(&session);
            self.end_grace_if_told();
        }
        (generation, refused)
    }

    /// A session with a current generation is there: its term is counted from `now`, when it is answered.
    pub fn handle_renew(&mut self, session: SessionId, now: Instant) {
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.until = holder.until.max(now + TERM + GRACE);
        }
    }

    /// A session lets go.
    pub fn handle_release(&mut self, session: SessionId, releases: &[Release]) {
        for Release { number, inode, keep } in releases {
            let Some(holder) = self.holders.get_mut(&session) else { return };
            if let Some((before, after)) = holder.release(*inode, *number, *keep) {
                self.note_end(session, *inode, before, after);
            }
        }
    }

    /// Recalls beyond `known` that a session has not answered.
    pub fn recalls(&self, session: SessionId, known: LeaseNumber) -> Vec<Recall> {
        self.holders.get(&session).map_or_else(Vec::new, |holder| holder.recalls(known))
    }

    /// A session is over, and what it held.
    pub fn handle_session_end(&mut self, session: SessionId) {
        self.end_life(session);
        self.holders.remove(&session);
        if let Phase::Grace { silent, .. } = &mut self.phase {
            silent.remove(&session);
            self.end_grace_if_told();
        }
    }

    /// Forgets all but these sessions.
    pub fn retain(&mut self, is_live: impl Fn(SessionId) -> bool) {
        let silent = match &self.phase {
            Phase::Grace { silent, .. } => Some(silent),
            Phase::New | Phase::Open => None,
        };
        let known = self.holders.keys().chain(silent.into_iter().flatten());
        let over: BTreeSet<SessionId> = known.copied().filter(|session| !is_live(*session)).collect();
        for session in over {
            self.handle_session_end(session);
        }
    }

    fn end_life(&mut self, session: SessionId) {
        let Some(holder) = self.holders.get_mut(&session) else { return };
        for (inode, Held { mode, .. }) in holder.end_life() {
            self.note_end(session, inode, mode, None);
        }
        // It waits for recalls, and has to be told that it waits for nothing.
        self.wakes.recalled = true;
        self.wakes.freed = true;
    }

    /// A lease became less.
    fn note_end(&mut self, session: SessionId, inode: Inode, before: LeaseMode, after: Option<LeaseMode>) {
        if before == LeaseMode::Exclusive && after != Some(LeaseMode::Exclusive) {
            self.exclusives -= 1;
            let moment = self.next_moment();
            self.unexclusive.note(inode, moment);
        }
        if after.is_none()
            && let Some(holders) = self.held_by.get_mut(&inode)
        {
            holders.remove(&session);
            if holders.is_empty() {
                self.held_by.remove(&inode);
            }
        }
        self.wakes.freed = true;
    }

    fn next_moment(&mut self) -> Moment {
        self.now = Moment(self.now.0 + 1);
        self.now
    }

    /// Now, in the order of what happens here.
    pub fn moment(&self) -> Moment {
        self.now
    }

    /// Leases `inode` to a session with a current generation, if nothing is in the way.
    fn grant(&mut self, session: SessionId, inode: Inode, mode: LeaseMode, number: LeaseNumber) -> bool {
        let others = self.others_at(inode, session).next().is_some();
        let blocked = match mode {
            LeaseMode::Exclusive => others,
            LeaseMode::Shared => others && self.exclusive_holder(inode).is_some_and(|holder| holder != session),
        };
        let Some(holder) = self.holders.get_mut(&session) else { return false };
        let held = holder.leases.get(&inode).copied();
        if blocked
            || holder.life == Life::Over
            || !holder.has_room_for(inode)
            || held.is_some_and(|held| held.recall.is_some())
            || self.changes.is_pending(inode, session)
        {
            return false;
        }
        let mode = held.map_or(mode, |held| held.mode.max(mode));
        let before = holder.leases.insert(inode, Held { mode, granted: number, recall: None });
        if mode == LeaseMode::Exclusive && before.is_none_or(|before| before.mode == LeaseMode::Shared) {
            self.exclusives += 1;
        }
        self.held_by.entry(inode).or_default().insert(session);
        true
    }

    fn others_at(&self, inode: Inode, session: SessionId) -> impl Iterator<Item = SessionId> {
        let holders = self.held_by.get(&inode).into_iter().flatten();
        holders.copied().filter(move |holder| *holder != session)
    }

    fn exclusive_holder(&self, inode: Inode) -> Option<SessionId> {
        let holder = self.held_by.get(&inode)?.first().copied()?;
        let held = self.holders.get(&holder)?.leases.get(&inode)?;
        (held.mode == LeaseMode::Exclusive).then_some(holder)
    }

    /// Wants `holder`'s lease back down to `keep`: until when to wait for it, unless its term is over and with it all
    /// it held.
    fn recall(&mut self, holder: SessionId, inode: Inode, keep: Option<LeaseMode>, now: Instant) -> Option<Instant> {
        let entry = self.holders.get_mut(&holder)?;
        if entry.until <= now {
            self.end_life(holder);
            return None;
        }
        if entry.recall(inode, keep) {
            self.wakes.recalled = true;
            // What waited behind the change that recalls may pass it now.
            self.wakes.freed = true;
        }
        Some(entry.until)
    }
}

/// Changes, and wishes for exclusive leases.
impl Leases {
    /// A change begins. It has to be ended.
    pub fn open_change(&mut self, session: SessionId, passing: Passing) -> ChangeId {
        self.changes.open(session, passing)
    }

    /// Gives a change `inodes` beside what it has, or takes everything from it if another is first.
    pub fn mark(&mut self, id: ChangeId, inodes: &[Inode]) -> Marking {
        let Some((session, passing)) = self.changes.get(id).map(|change| (change.session, change.passing)) else {
            return Marking::Blocked;
        };
        let is_waited_for = self.holders.get(&session).is_some_and(Holder::is_recalled);
        let may_pass = passing == Passing::Allowed && is_waited_for;
        let mut passed = BTreeSet::new();
        for inode in inodes {
            let mut blocked = !may_pass && self.changes.is_wanted_before(*inode, id, session);
            for (other, change) in self.changes.at(*inode).filter(|(_, change)| change.session != session) {
                let waits =
                    change.stage == Stage::Recalling && change.marked.iter().any(|marked| self.holds(session, *marked));
                if may_pass && waits {
                    passed.insert(other);
                } else {
                    blocked = true;
                }
            }
            if blocked {
                self.changes.wait(id, inodes);
                self.wakes.freed = true;
                return Marking::Blocked;
            }
        }
        self.changes.mark(id, inodes, passed);
        Marking::Marked
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

    /// Recalls what others than its session hold of what a change touched unforeseen: until when to wait, if they
    /// hold anything.
    pub fn poll_touched(&mut self, id: ChangeId, touched: &[Inode], now: Instant) -> Option<Instant> {
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

    fn next_number(&mut self, session: SessionId) -> LeaseNumber {
        self.holders.get_mut(&session).map_or_else(LeaseNumber::default, Holder::next_number)
    }
}

/// Questions.
impl Leases {
    /// Whether answers from a state after `since` that tell of `told` may be given to `asker`. What another may be
    /// changing locally is recalled.
    pub fn poll_told(&mut self, asker: Option<SessionId>, told: &[Inode], since: Moment, now: Instant) -> Standing {
        if self.is_quiet(since) {
            return Standing::Current;
        }
        let mut until: Option<Instant> = None;
        for inode in told {
            if let Some(holder) = self.exclusive_holder(*inode).filter(|holder| Some(*holder) != asker)
                && let Some(at) = self.recall(holder, *inode, Some(LeaseMode::Shared), now)
            {
                until = Some(until.map_or(at, |until| until.min(at)));
            }
        }
        if let Some(until) = until {
            return Standing::Until(until);
        }
        let ended = told.iter().any(|inode| self.unexclusive.ended_since(*inode, since));
        if ended { Standing::AskAgain } else { Standing::Current }
    }

    /// Whether nobody can have changed anything locally since `since`.
    pub fn is_quiet(&self, since: Moment) -> bool {
        self.exclusives == 0 && !self.unexclusive.any_since(since)
    }

    /// Leases to `session` what answers from a state after `since` told of, and that nobody changes; goes on with those
    /// of `exclusive` that it has. What it did not get is returned with the place of the grants.
    pub fn settle_ask(
        &mut self,
        session: SessionId,
        exclusive: &[Inode],
        told: &[Inode],
        since: Moment,
    ) -> (Vec<Inode>, LeaseNumber) {
        let number = self.next_number(session);
        let mut unleased = BTreeSet::new();
        for inode in exclusive {
            let has = self.exclusive_holder(*inode) == Some(session);
            if !has || !self.grant(session, *inode, LeaseMode::Exclusive, number) {
                unleased.insert(*inode);
            }
        }
        for inode in told {
            let stale = self.changed.ended_since(*inode, since);
            if stale || !self.grant(session, *inode, LeaseMode::Shared, number) {
                unleased.insert(*inode);
            }
        }
        (unleased.into_iter().collect(), number)
    }

    /// Whether the table holds nothing at all.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.held_by.is_empty() && self.exclusives == 0 && self.changes.is_empty()
    }
}
