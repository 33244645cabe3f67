//! Whom to ask for what only the leader answers. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ring::NodeId;

/// How long a node that failed is not believed to lead, whatever others say: a new leader is known within that time.
const DISTRUST: Duration = Duration::from_secs(1);

/// First pause after all members were asked in vain; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(25);

/// An election takes at most a second: four questions in it are enough.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// What is known of the leader, and who is asked next while it is not known.
#[derive(Debug, Default)]
pub(crate) struct LeaderTracker {
    known: Option<NodeId>,
    failed: BTreeMap<NodeId, Instant>,
    cursor: usize,
}

/// The search of one request for its leader.
#[derive(Debug, Default)]
pub(crate) struct LeaderSearch {
    refusals: usize,
    pause: Option<Duration>,
}

impl LeaderTracker {
    /// Whom to ask now. `members` is not empty.
    pub(crate) fn target(&mut self, members: &[NodeId]) -> Option<NodeId> {
        if let Some(known) = self.known.filter(|known| members.contains(known)) {
            return Some(known);
        }
        let node = members.get(self.cursor.checked_rem(members.len())?)?;
        self.cursor = self.cursor.wrapping_add(1);
        Some(*node)
    }

    /// `node` answered as only a leader does.
    pub(crate) fn handle_answer(&mut self, node: NodeId) {
        self.known = Some(node);
        self.failed.remove(&node);
    }

    /// Somebody other than `leader` says that it leads.
    pub(crate) fn handle_hint(&mut self, leader: NodeId, now: Instant) {
        let failed = self.failed.get(&leader).is_some_and(|at| now.duration_since(*at) < DISTRUST);
        if !failed {
            self.known = Some(leader);
        }
    }

    /// `node` says that it does not lead.
    pub(crate) fn handle_not_leader(&mut self, node: NodeId, hint: Option<NodeId>, now: Instant) {
        self.known = self.known.filter(|known| *known != node);
        if let Some(leader) = hint.filter(|leader| *leader != node) {
            self.handle_hint(leader, now);
        }
    }

    /// `node` does not answer, or cannot serve.
    pub(crate) fn handle_failure(&mut self, node: NodeId, now: Instant) {
        self.known = self.known.filter(|known| *known != node);
        self.failed.insert(node, now);
        self.failed.retain(|_, at| now.duration_since(*at) < DISTRUST);
    }
}

impl LeaderSearch {
    /// An attempt did not reach a leader: how long to wait before the next. At first each member is asked at once.
    pub(crate) fn handle_refusal(&mut self, members: usize) -> Duration {
        self.refusals += 1;
        if self.refusals < members.max(1) {
            return Duration::ZERO;
        }
        let pause = self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
        self.pause = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ring::NodeId;

    use super::{LeaderSearch, LeaderTracker, PAUSE_MAX};

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn a_dead_leader_that_its_followers_still_name_is_not_asked_again_at_once() {
        let start = Instant::now();
        let members = [node(1), node(2), node(3)];
        let mut tracker = LeaderTracker::default();
        tracker.handle_answer(node(1));
        assert_eq!(tracker.target(&members), Some(node(1)));
        tracker.handle_failure(node(1), start);
        tracker.handle_not_leader(node(2), Some(node(1)), start);
        assert_eq!(tracker.known, None);
        tracker.handle_not_leader(node(2), Some(node(3)), start);
        assert_eq!(tracker.target(&members), Some(node(3)));
        tracker.handle_failure(node(3), start);
        tracker.handle_not_leader(node(2), Some(node(1)), start + Duration::from_secs(2));
        assert_eq!(tracker.target(&members), Some(node(1)), "it may have come back");
    }

    #[test]
    fn while_no_leader_is_known_every_member_is_asked_in_turn() {
        let members = [node(1), node(2), node(3)];
        let mut tracker = LeaderTracker::default();
        let mut asked: Vec<_> = (0..3).filter_map(|_| tracker.target(&members)).collect();
        asked.sort();
        assert_eq!(asked, members);
        assert_eq!(tracker.target(&[]), None);
    }

    #[test]
    fn a_leader_that_left_the_cluster_is_not_asked() {
        let mut tracker = LeaderTracker::default();
        tracker.handle_answer(node(9));
        assert_eq!(tracker.target(&[node(1)]), Some(node(1)));
    }

    #[test]
    fn pauses_grow_only_after_every_member_was_asked_and_stay_bounded() {
        let mut search = LeaderSearch::default();
        assert_eq!(search.handle_refusal(3), Duration::ZERO);
        assert_eq!(search.handle_refusal(3), Duration::ZERO);
        let pauses: Vec<_> = (0..8).map(|_| search.handle_refusal(3)).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]) && !pauses[0].is_zero());
        assert_eq!(pauses[7], PAUSE_MAX);
    }
}
