//! The table of leases of one term. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use wire::{
    cluster::Peer,
    lease::{GRACE, LeaseGeneration, LeaseMode, LeaseNumber, Recall, Release, TERM},
    namespace::{Inode, SessionId},
};

use super::{
    changes::Changes,
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
    pub(super) now: Moment,
    /// Lives begun, of all sessions: none of them is taken for another, whatever was forgotten between.
    lives: u64,
    pub(super) holders: BTreeMap<SessionId, Holder>,
    /// Sessions whose end is proposed: they get nothing any more.
    ending: BTreeSet<SessionId>,
    pub(super) held_by: BTreeMap<Inode, BTreeSet<SessionId>>,
    pub(super) exclusives: usize,
    pub(super) changes: Changes,
    /// Changes that ended.
    pub(super) changed: EndLog,
    /// Exclusive leases that ended: until then the rows may have been behind what the holder had answered.
    pub(super) unexclusive: EndLog,
    pub(super) wakes: Wakes,
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
            ending: BTreeSet::new(),
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

    /// A session says what it held, the last generation that it knew being `known`. In the grace it goes on holding it;
    /// later it holds what it still held here. What it does not hold any more is returned with its generation from now on.
    /// `more` says that it has not said everything yet.
    ///
    /// Nothing that stands is taken away: until it hears the answer, the session goes on with it. So a reclaim that comes
    /// again, because its answer was lost or late, changes nothing; and who knows the generation that is current, and was
    /// told otherwise by somebody who does not lead any more, begins another one with all it has.
    pub fn handle_reclaim(
        &mut self,
        session: SessionId,
        (client, known): (Peer, LeaseGeneration),
        leases: &[(Inode, LeaseMode)],
        more: bool,
        now: Instant,
    ) -> (LeaseGeneration, Vec<Inode>) {
        let in_grace = !matches!(self.readiness(now), Readiness::Ready);
        if self.holders.get(&session).is_some_and(|holder| holder.until <= now) {
            // It rests on nothing of that any more.
            self.end_life(session);
        }
        let is_known = self.is_current(session, client, known);
        let holder = self.holders.entry(session).or_insert_with(|| Holder::new(client, now));
        holder.until = holder.until.max(now + TERM + GRACE);
        if holder.life == Life::Over || is_known {
            self.lives += 1;
            holder.begin_life(self.lives);
            // Who listens for recalls of the life before hears that it is over.
            self.wakes.recalled = true;
        }
        let generation = LeaseGeneration { term: self.term, life: holder.number_of_life };
        let take_back = |(inode, mode): &(Inode, LeaseMode)| {
            let accepted = match in_grace {
                true => self.grant(session, *inode, *mode, LeaseNumber::default()),
                false => self.holds_lease(session, *inode, *mode),
            };
            (!accepted).then_some(*inode)
        };
        let refused = leases.iter().filter_map(take_back).collect();
        if !more {
            self.handle_told(session);
        }
        (generation, refused)
    }

    /// A session with a current generation is there: its term is counted from `now`, when it is answered.
    pub fn handle_renew(&mut self, session: SessionId, now: Instant) {
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.until = holder.until.max(now + TERM + GRACE);
        }
        // It has heard every answer to its reclaim, however many parts that had.
        self.handle_told(session);
    }

    /// A session has said all that it held.
    fn handle_told(&mut self, session: SessionId) {
        if let Phase::Grace { silent, .. } = &mut self.phase {
            silent.remove(&session);
            self.end_grace_if_told();
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

    /// The end of a silent session is proposed: what it held is over, and it may not reclaim.
    pub fn begin_session_end(&mut self, session: SessionId) {
        self.end_life(session);
        self.ending.insert(session);
    }

    /// It did not come to that, as far as is known.
    pub fn abandon_session_end(&mut self, session: SessionId) {
        self.ending.remove(&session);
    }

    /// Whether the end of a session is proposed.
    pub fn is_ending(&self, session: SessionId) -> bool {
        self.ending.contains(&session)
    }

    /// A session is over, and what it held.
    pub fn handle_session_end(&mut self, session: SessionId) {
        self.ending.remove(&session);
        self.end_life(session);
        self.holders.remove(&session);
        self.handle_told(session);
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

    pub(super) fn next_moment(&mut self) -> Moment {
        self.now = Moment(self.now.0 + 1);
        self.now
    }

    /// The next place in the order of a session's grants and recalls.
    pub(super) fn next_number(&mut self, session: SessionId) -> LeaseNumber {
        self.holders.get_mut(&session).map_or_else(LeaseNumber::default, Holder::next_number)
    }

    /// Now, in the order of what happens here.
    pub fn moment(&self) -> Moment {
        self.now
    }

    /// Leases `inode` to a session with a current generation, if nothing is in the way.
    pub(super) fn grant(&mut self, session: SessionId, inode: Inode, mode: LeaseMode, number: LeaseNumber) -> bool {
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

    /// Whether all of `inodes` are leased to a session exclusively.
    pub fn holds_exclusively(&self, session: SessionId, inodes: &[Inode]) -> bool {
        inodes.iter().all(|inode| self.holds_lease(session, *inode, LeaseMode::Exclusive))
    }

    /// Whether `inode` is leased to a session in `mode`, or more.
    fn holds_lease(&self, session: SessionId, inode: Inode, mode: LeaseMode) -> bool {
        let held = self.holders.get(&session).and_then(|holder| holder.leases.get(&inode));
        held.is_some_and(|held| held.mode >= mode)
    }

    pub(super) fn others_at(&self, inode: Inode, session: SessionId) -> impl Iterator<Item = SessionId> {
        let holders = self.held_by.get(&inode).into_iter().flatten();
        holders.copied().filter(move |holder| *holder != session)
    }

    pub(super) fn exclusive_holder(&self, inode: Inode) -> Option<SessionId> {
        let holder = self.held_by.get(&inode)?.first().copied()?;
        let held = self.holders.get(&holder)?.leases.get(&inode)?;
        (held.mode == LeaseMode::Exclusive).then_some(holder)
    }

    /// Wants `holder`'s lease back down to `keep`: until when to wait for it, unless its term is over and with it all
    /// it held.
    pub(super) fn recall(
        &mut self,
        holder: SessionId,
        inode: Inode,
        keep: Option<LeaseMode>,
        now: Instant,
    ) -> Option<Instant> {
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

    /// Whether the table holds nothing at all.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.held_by.is_empty() && self.exclusives == 0 && self.changes.is_empty()
    }
}
