//! What sessions have said to this leader. Soft state: a new leader asks again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ring::GcEpoch;
use tokio::time::Instant;
use wire::namespace::{Inode, SessionId};

/// Inodes that one session may hold open beyond their last name.
pub const HOLDS_MAX: usize = 65_536;

/// A leader that has not looked for so long stood still, and heard nobody.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// Index of the log at which a session was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened(pub u64);

/// The words of all sessions.
#[derive(Debug)]
pub struct Sessions {
    lifetime: Duration,
    since: Instant,
    /// When it was looked who is silent.
    looked: Instant,
    words: BTreeMap<SessionId, Word>,
}

#[derive(Debug)]
struct Word {
    at: Instant,
    /// Orphans seen up to this index, and those held; none until the first keep-alive.
    orphans: Option<(u64, BTreeSet<Inode>)>,
    /// Its puts that are neither committed nor dropped are stamped no lower; none until it has said so.
    lowest_gc: Option<GcEpoch>,
}

impl Sessions {
    /// Begins to listen at `now`.
    pub fn new(lifetime: Duration, now: Instant) -> Self {
        Self { lifetime, since: now, looked: now, words: BTreeMap::new() }
    }

    /// A session did something.
    pub fn handle_request(&mut self, session: SessionId, now: Instant) {
        self.word(session, now).at = now;
    }

    /// A session was opened, and told this stamp for its puts.
    pub fn handle_opened(&mut self, session: SessionId, gc_current: GcEpoch, now: Instant) {
        let word = self.word(session, now);
        (word.at, word.lowest_gc) = (now, word.lowest_gc.or(Some(gc_current)));
    }

    /// A session said which orphans it has seen and holds.
    pub fn handle_keep_alive(&mut self, session: SessionId, seen: u64, holds: BTreeSet<Inode>, now: Instant) {
        let word = self.word(session, now);
        (word.at, word.orphans) = (now, Some((seen, holds)));
    }

    /// A session said the lowest stamp that it uses. What it said once holds for good: it never goes back.
    pub fn handle_lowest_gc(&mut self, session: SessionId, lowest_gc: GcEpoch, now: Instant) {
        let word = self.word(session, now);
        word.lowest_gc = word.lowest_gc.max(Some(lowest_gc));
    }

    fn word(&mut self, session: SessionId, now: Instant) -> &mut Word {
        self.words.entry(session).or_insert(Word { at: now, orphans: None, lowest_gc: None })
    }

    /// The lowest stamp that any session of `live` uses: the highest there is without sessions, none while one of them
    /// has not spoken yet.
    pub fn lowest_gc(&self, live: &BTreeMap<SessionId, Opened>) -> Option<GcEpoch> {
        let mut lowest = live.keys().map(|session| self.lowest_gc_of(*session));
        lowest.try_fold(GcEpoch(u64::MAX), |lowest, of| Some(lowest.min(of?)))
    }

    /// The lowest stamp that a session uses, if it has spoken.
    pub fn lowest_gc_of(&self, session: SessionId) -> Option<GcEpoch> {
        self.words.get(&session).and_then(|word| word.lowest_gc)
    }

    /// Forgets what is no session any more, and meets those that are new: their silence begins now, though this leader
    /// may have led for long. Whoever opened one may not have been answered yet. Those from `beyond` on were opened after
    /// it was looked who lives. Time in which nobody could be heard does not count as theirs.
    pub fn retain(&mut self, live: &BTreeMap<SessionId, Opened>, beyond: SessionId, now: Instant) {
        let still = now.saturating_duration_since(self.looked);
        self.looked = now;
        if still > STOOD_STILL {
            self.words.values_mut().for_each(|word| word.at = now.min(word.at + still));
        }
        self.words.retain(|session, _| live.contains_key(session) || *session >= beyond);
        for session in live.keys() {
            self.word(*session, now);
        }
    }

    /// Those of `live` that have been silent for a lifetime.
    pub fn expired(&self, live: &BTreeMap<SessionId, Opened>, now: Instant) -> Vec<SessionId> {
        let last = |session: &SessionId| self.words.get(session).map_or(self.since, |word| word.at);
        let silent = |session: &&SessionId| now.saturating_duration_since(last(session)) >= self.lifetime;
        live.keys().filter(silent).copied().collect()
    }

    /// The index of the log up to which every session of `live` has seen the orphans. One that has not spoken yet has
    /// seen those made before it was opened: it never saw a name of theirs.
    pub fn seen_by_all(&self, live: &BTreeMap<SessionId, Opened>) -> u64 {
        let seen = live.iter().map(|(session, opened)| {
            let orphans = self.words.get(session).and_then(|word| word.orphans.as_ref());
            orphans.map_or(opened.0, |(seen, _)| *seen)
        });
        seen.min().unwrap_or(u64::MAX)
    }

    /// Whether any session has said that it holds `orphan` open.
    pub fn is_held(&self, orphan: Inode) -> bool {
        let mut said = self.words.values().filter_map(|word| word.orphans.as_ref());
        said.any(|(_, holds)| holds.contains(&orphan))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use ring::GcEpoch;
    use tokio::time::Instant;
    use wire::namespace::{Inode, SessionId};

    use super::{Opened, Sessions};

    /// Of no session.
    const BEYOND: SessionId = SessionId(u64::MAX);

    #[test]
    fn an_orphan_goes_only_when_every_live_session_has_seen_it_and_none_holds_it() {
        let start = Instant::now();
        let mut sessions = Sessions::new(Duration::from_secs(60), start);
        let live = BTreeMap::from([(SessionId(1), Opened(3)), (SessionId(2), Opened(7))]);
        assert_eq!(sessions.seen_by_all(&live), 3, "a silent session has seen what was before it");
        sessions.handle_keep_alive(SessionId(1), 10, BTreeSet::new(), start);
        assert_eq!(sessions.seen_by_all(&live), 7);
        sessions.handle_keep_alive(SessionId(2), 12, BTreeSet::from([Inode(5)]), start);
        assert_eq!(sessions.seen_by_all(&live), 10);
        assert!(sessions.is_held(Inode(5)));
        assert!(!sessions.is_held(Inode(6)));
        assert_eq!(sessions.seen_by_all(&BTreeMap::new()), u64::MAX, "no session, nobody to ask");
        sessions.retain(&BTreeMap::new(), BEYOND, start);
        assert!(!sessions.is_held(Inode(5)), "what a dead session held is free");
    }

    #[test]
    fn garbage_waits_for_the_lowest_stamp_of_all_live_sessions_and_for_those_that_have_not_spoken() {
        let start = Instant::now();
        let mut sessions = Sessions::new(Duration::from_secs(60), start);
        let live = BTreeMap::from([(SessionId(1), Opened(3)), (SessionId(2), Opened(7))]);
        assert_eq!(sessions.lowest_gc(&BTreeMap::new()), Some(GcEpoch(u64::MAX)));
        sessions.handle_lowest_gc(SessionId(1), GcEpoch(4), start);
        assert_eq!(sessions.lowest_gc(&live), None);
        sessions.handle_opened(SessionId(2), GcEpoch(6), start);
        assert_eq!(sessions.lowest_gc(&live), Some(GcEpoch(4)));
        sessions.handle_lowest_gc(SessionId(1), GcEpoch(9), start);
        sessions.handle_lowest_gc(SessionId(1), GcEpoch(5), start);
        sessions.handle_opened(SessionId(2), GcEpoch(8), start);
        assert_eq!(sessions.lowest_gc(&live), Some(GcEpoch(6)), "an old word that comes late changes nothing");
        sessions.handle_request(SessionId(2), start);
        assert_eq!(sessions.lowest_gc_of(SessionId(2)), Some(GcEpoch(6)));
    }

    #[test]
    fn a_session_ends_after_its_lifetime_of_silence_also_under_a_new_leader() {
        let start = Instant::now();
        let mut sessions = Sessions::new(Duration::from_secs(60), start);
        let live = BTreeMap::from([(SessionId(1), Opened(1)), (SessionId(2), Opened(2))]);
        sessions.handle_request(SessionId(1), start + Duration::from_secs(30));
        assert_eq!(sessions.expired(&live, start + Duration::from_secs(59)), []);
        assert_eq!(sessions.expired(&live, start + Duration::from_secs(60)), [SessionId(2)]);
        assert_eq!(sessions.expired(&live, start + Duration::from_secs(90)), [SessionId(1), SessionId(2)]);
        // One that was opened a moment ago, and has not spoken, under a leader that has led for long.
        let (live, now) = (BTreeMap::from([(SessionId(3), Opened(9))]), start + Duration::from_secs(100));
        sessions.retain(&live, BEYOND, now);
        assert_eq!(sessions.expired(&live, now), []);
        assert_eq!(sessions.expired(&live, now + Duration::from_secs(60)), [SessionId(3)]);
    }

    /// A machine that was suspended would end all sessions, with their locks, as soon as it goes on.
    #[test]
    fn time_in_which_the_leader_stood_still_is_nobodys_silence() {
        let start = Instant::now();
        let mut sessions = Sessions::new(Duration::from_secs(60), start);
        let live = BTreeMap::from([(SessionId(1), Opened(1)), (SessionId(2), Opened(2))]);
        let mut now = start;
        sessions.retain(&live, BEYOND, now);
        for _ in 0..30 {
            now += Duration::from_secs(1);
            sessions.handle_request(SessionId(1), now);
            sessions.retain(&live, BEYOND, now);
        }
        now += Duration::from_secs(300);
        sessions.retain(&live, BEYOND, now);
        assert_eq!(sessions.expired(&live, now), []);
        for _ in 0..30 {
            now += Duration::from_secs(1);
            sessions.retain(&live, BEYOND, now);
        }
        assert_eq!(sessions.expired(&live, now), [SessionId(2)], "that one was silent before and after");
    }

    /// Else its leases would go while it rests on them.
    #[test]
    fn a_session_that_was_opened_after_the_look_is_kept() {
        let start = Instant::now();
        let mut sessions = Sessions::new(Duration::from_secs(60), start);
        sessions.handle_lowest_gc(SessionId(4), GcEpoch(3), start);
        sessions.handle_lowest_gc(SessionId(5), GcEpoch(3), start);
        sessions.retain(&BTreeMap::new(), SessionId(5), start);
        assert_eq!(sessions.lowest_gc_of(SessionId(4)), None);
        assert_eq!(sessions.lowest_gc_of(SessionId(5)), Some(GcEpoch(3)));
    }
}
