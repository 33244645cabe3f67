//! Who has been silent for too long. Pure: told of words and of time.

use std::{collections::BTreeMap, time::Duration};

use ring::NodeId;
use tokio::time::Instant;
use wire::cluster::{NodeState, StoreReport};

/// What the leader has heard of the nodes since it became leader.
#[derive(Debug)]
pub struct Detector {
    down_after: Duration,
    since: Instant,
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    /// Since when it has not been down.
    since: Instant,
    store: StoreReport,
}

impl Detector {
    /// Begins to listen at `now`: until the first silence is long enough, everybody counts as up.
    pub fn new(down_after: Duration, now: Instant) -> Self {
        Self { down_after, since: now, heard: BTreeMap::new() }
    }

    /// A node has spoken.
    pub fn handle_heartbeat(&mut self, node: NodeId, store: StoreReport, now: Instant) {
        let before = self.heard.get(&node).filter(|heard| now.saturating_duration_since(heard.at) < self.down_after);
        let since = before.map_or(now, |heard| heard.since);
        self.heard.insert(node, Heard { at: now, since, store });
    }

    /// How `node` is.
    pub fn state(&self, node: NodeId, now: Instant) -> NodeState {
        let heard = self.heard.get(&node);
        if self.silence(node, now) >= self.down_after {
            NodeState::Down
        } else if heard.is_some_and(|heard| heard.store.lacking > 0) {
            NodeState::CatchingUp
        } else {
            NodeState::Up
        }
    }

    /// How long `node` has been silent, since this leader began to listen at most.
    pub fn silence(&self, node: NodeId, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard.get(&node).map_or(self.since, |heard| heard.at))
    }

    /// How long `node` has been heard without being down in between; nothing if it is down, or was never heard.
    pub fn steady(&self, node: NodeId, now: Instant) -> Duration {
        let heard = self.heard.get(&node).filter(|_| self.is_heard(node, now));
        heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard.since))
    }

    /// The last word of `node` on its store.
    pub fn store(&self, node: NodeId) -> Option<&StoreReport> {
        self.heard.get(&node).map(|heard| &heard.store)
    }

    /// Whether `node` has spoken to this leader and is not silent since.
    pub fn is_heard(&self, node: NodeId, now: Instant) -> bool {
        self.heard.contains_key(&node) && self.state(node, now) != NodeState::Down
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use ring::NodeId;
    use tokio::time::Instant;
    use wire::{
        chunk::Incarnation,
        cluster::{NodeState, StoreReport},
    };

    use super::Detector;

    fn report(lacking: u64) -> StoreReport {
        StoreReport {
            capacity: 1,
            used: 0,
            free: 1,
            chunks: 0,
            incarnation: Incarnation(1),
            full: false,
            failed: false,
            damaged: 0,
            repaired: 0,
            lacking,
            starved: false,
        }
    }

    #[test]
    fn a_node_is_down_only_after_its_whole_silence_and_up_again_at_its_next_word() {
        let start = Instant::now();
        let (a, b) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut detector = Detector::new(Duration::from_secs(3), start);
        detector.handle_heartbeat(a, report(0), at(1000));
        assert_eq!(detector.state(b, at(2999)), NodeState::Up, "a new leader gives everybody the same time");
        assert!(!detector.is_heard(b, at(2999)));
        assert_eq!(detector.state(b, at(3000)), NodeState::Down);
        assert_eq!(detector.state(a, at(3999)), NodeState::Up);
        assert_eq!(detector.state(a, at(4000)), NodeState::Down);
        assert_eq!(detector.steady(a, at(3999)), Duration::from_millis(2999));
        assert_eq!(detector.steady(a, at(4000)), Duration::ZERO);
        detector.handle_heartbeat(a, report(7), at(9000));
        assert_eq!(
            detector.steady(a, at(9001)),
            Duration::from_millis(1),
            "what was before its silence does not count"
        );
        assert_eq!(detector.state(a, at(9001)), NodeState::CatchingUp);
        assert_eq!(detector.store(a).map(|store| store.lacking), Some(7));
    }

    const DOWN_AFTER: u64 = 3000;

    /// What a detector should say of a node at `now`, from all the words that it ever spoke: how long it has been silent,
    /// whether it is heard, and for how long without a silence in between.
    fn by_all_words(words: &[u64], now: u64) -> (u64, bool, u64) {
        let silence = now - words.last().copied().unwrap_or(0);
        let is_heard = !words.is_empty() && silence < DOWN_AFTER;
        let mut begin = words.last().copied().unwrap_or(now);
        for word in words.iter().rev() {
            if begin - word >= DOWN_AFTER {
                break;
            }
            begin = *word;
        }
        (silence, is_heard, if is_heard { now - begin } else { 0 })
    }

    proptest! {
        #[test]
        fn whatever_is_heard_when_silences_and_what_is_steady_are_those_of_all_words_ever_spoken(
            events in proptest::collection::vec((0u64..4000, 0usize..4, 0u64..2), 0..80),
        ) {
            let start = Instant::now();
            let (mut now, mut words) = (0, [const { Vec::new() }; 3]);
            let mut detector = Detector::new(Duration::from_millis(DOWN_AFTER), start);
            for (time, who, lacking) in events {
                now += time;
                let at = start + Duration::from_millis(now);
                // Sometimes only time passes.
                if let Some(words) = words.get_mut(who) {
                    words.push(now);
                    detector.handle_heartbeat(NodeId::from_bytes([who as u8; 16]), report(lacking), at);
                }
                for (who, words) in words.iter().enumerate() {
                    let node = NodeId::from_bytes([who as u8; 16]);
                    let (silence, is_heard, steady) = by_all_words(words, now);
                    prop_assert_eq!(detector.silence(node, at), Duration::from_millis(silence));
                    prop_assert_eq!(detector.is_heard(node, at), is_heard);
                    prop_assert_eq!(detector.steady(node, at), Duration::from_millis(steady));
                    let is_down = detector.state(node, at) == NodeState::Down;
                    prop_assert_eq!(is_down, silence >= DOWN_AFTER, "never heard, it has the time that all have");
                }
            }
        }
    }
}
