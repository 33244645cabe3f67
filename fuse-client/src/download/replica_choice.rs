//! Which replica of a chunk to ask, and whom next. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ring::NodeId;

/// A replica that has been silent this long is not given up, but the next is asked as well.
const HEDGE_AFTER: Duration = Duration::from_millis(700);

/// The search for one chunk.
#[derive(Debug)]
pub(super) struct ReplicaChoice {
    /// Not asked yet, best first.
    candidates: VecDeque<NodeId>,
    asked: Vec<NodeId>,
    hedge_at: Option<Instant>,
}

/// What is known of a replica before it is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    pub(super) suspect: bool,
    pub(super) load: u32,
}

impl ReplicaChoice {
    /// Owners first, in any order; who may hold it otherwise, after them. `salt` spreads equals over the replicas.
    pub(super) fn new(owners: Vec<Candidate>, others: Vec<Candidate>, salt: usize) -> Self {
        let mut owners = owners;
        let turn = salt.checked_rem(owners.len()).unwrap_or(0);
        owners.rotate_left(turn);
        // A stable sort: equals stay in the order of their turn.
        owners.sort_by_key(|candidate| (candidate.suspect, candidate.load));
        let mut candidates: VecDeque<NodeId> = owners.iter().map(|candidate| candidate.node).collect();
        let mut others = others;
        others.sort_by_key(|candidate| candidate.suspect);
        for other in others {
            if !candidates.contains(&other.node) {
                candidates.push_back(other.node);
            }
        }
        Self { candidates, asked: Vec::new(), hedge_at: None }
    }

    /// Whom to ask now.
    pub(super) fn poll_ask(&mut self, now: Instant) -> Option<NodeId> {
        let silent = self.hedge_at.is_some_and(|at| now >= at);
        if !self.asked.is_empty() && !silent {
            return None;
        }
        let node = self.candidates.pop_front()?;
        self.asked.push(node);
        self.hedge_at = Some(now + HEDGE_AFTER);
        Some(node)
    }

    /// When to poll again, if nothing happens before.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.hedge_at.filter(|_| !self.candidates.is_empty())
    }

    /// `node` has no good copy.
    pub(super) fn handle_failure(&mut self, node: NodeId) {
        self.asked.retain(|asked| *asked != node);
    }

    /// Those that were asked and have said nothing.
    pub(super) fn silent(&self) -> &[NodeId] {
        &self.asked
    }

    /// Whether everybody was asked and none is left to answer.
    pub(super) fn is_exhausted(&self) -> bool {
        self.candidates.is_empty() && self.asked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use ring::NodeId;

    use super::{Candidate, HEDGE_AFTER, ReplicaChoice};

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn fine(number: u8) -> Candidate {
        Candidate { node: node(number), suspect: false, load: 0 }
    }

    #[test]
    fn a_failure_moves_on_at_once_and_silence_after_a_moment() {
        let start = Instant::now();
        let mut choice = ReplicaChoice::new(vec![fine(1), fine(2), fine(3)], vec![fine(4), fine(2)], 0);
        assert_eq!(choice.poll_ask(start), Some(node(1)));
        assert_eq!(choice.poll_ask(start), None);
        choice.handle_failure(node(1));
        assert_eq!(choice.poll_ask(start), Some(node(2)));
        assert_eq!(choice.poll_timeout(), Some(start + HEDGE_AFTER));
        assert_eq!(choice.poll_ask(start + HEDGE_AFTER), Some(node(3)), "the silent one may still answer");
        assert_eq!(choice.silent(), [node(2), node(3)]);
        choice.handle_failure(node(2));
        choice.handle_failure(node(3));
        assert_eq!(choice.poll_ask(start), Some(node(4)));
        assert!(!choice.is_exhausted());
        choice.handle_failure(node(4));
        assert!(choice.is_exhausted());
    }

    #[test]
    fn suspects_come_last_and_the_least_loaded_first() {
        let candidates = vec![
            Candidate { suspect: true, ..fine(1) },
            Candidate { load: 5, ..fine(2) },
            Candidate { load: 1, ..fine(3) },
        ];
        let mut choice = ReplicaChoice::new(candidates, Vec::new(), 7);
        let start = Instant::now();
        let order: Vec<_> = (0u32..3).filter_map(|turn| choice.poll_ask(start + HEDGE_AFTER * (turn + 1))).collect();
        assert_eq!(order, [node(3), node(2), node(1)]);
    }

    proptest! {
        #[test]
        fn every_replica_is_asked_exactly_once_before_the_search_ends(
            owners in 1u8..7, others in 0u8..4, salt in any::<usize>(), fails in proptest::collection::vec(any::<bool>(), 64),
        ) {
            let start = Instant::now();
            let mut choice = ReplicaChoice::new((0..owners).map(fine).collect(), (3..3 + others).map(fine).collect(), salt);
            let mut asked = BTreeSet::new();
            let mut now = start;
            for fail in fails.into_iter().chain([true; 32]) {
                if let Some(node) = choice.poll_ask(now) {
                    prop_assert!(asked.insert(node), "asked twice");
                } else if fail {
                    let silent = choice.silent().first().copied();
                    if let Some(node) = silent { choice.handle_failure(node) }
                } else {
                    now += HEDGE_AFTER;
                }
            }
            prop_assert!(choice.is_exhausted());
            let all: BTreeSet<_> = (0..owners).chain(3..3 + others).map(node).collect();
            prop_assert_eq!(asked, all);
        }
    }
}
