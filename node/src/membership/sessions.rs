//! What sessions have said to this leader. Soft state: a new leader asks again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use wire::namespace::{Inode, SessionId};

/// Inodes that one session may hold open beyond their last name.
pub const HOLDS_MAX: usize = 65_536;

/// Index of the log at which a session was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened(pub u64);

/// The words of all sessions.
#[derive(Debug)]
pub struct Sessions {
    lifetime: Duration,
    since: Instant,
    words: BTreeMap<SessionId, Word>,
}

#[derive(Debug)]
struct Word {
    at: Instant,
    /// Orphans seen up to this index, and those held; none until the first keep-alive.
    orphans: Option<(u64, BTreeSet<Inode>)>,
}

impl Sessions {
    /// Begins to listen at `now`.
    pub fn new(lifetime: Duration, now: Instant) -> Self {
        Self { lifetime, since: now, words: BTreeMap::new() }
    }

    /// A session did something.
    pub fn handle_request(&mut self, session: SessionId, now: Instant) {
        self.words.entry(session).or_insert(Word { at: now, orphans: None }).at = now;
    }

    /// A session said which orphans it has seen and holds.
    pub fn handle_keep_alive(&mut self, session: SessionId, seen: u64, holds: BTreeSet<Inode>, now: Instant) {
        self.words.insert(session, Word { at: now, orphans: Some((seen, holds)) });
    }

    /// Forgets what is no session any more.
    pub fn retain(&mut self, live: &BTreeMap<SessionId, Opened>) {
        self.words.retain(|session, _| live.contains_key(session));
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

    use tokio::time::Instant;
    use wire::namespace::{Inode, SessionId};

    use super::{Opened, Sessions};

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
        sessions.retain(&BTreeMap::new());
        assert!(!sessions.is_held(Inode(5)), "what a dead session held is free");
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
    }
}
