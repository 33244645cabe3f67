//! What each node was like lately: who is asked first, and who is spared for a while. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ring::NodeId;

/// How long a node that failed is asked only when there is no other; then one request may try it again. As long as a
/// connection may take to stand.
const SUSPECT_FOR: Duration = Duration::from_secs(2);

/// Whether a node is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// Nothing speaks against it.
    Trusted,
    /// It failed last: this request finds out whether it still does.
    Trial,
    /// It failed a moment ago.
    Spared,
}

/// Memory of failures and load, by node.
#[derive(Debug, Default)]
pub(crate) struct PeerHealth {
    nodes: BTreeMap<NodeId, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    /// When it may be tried again, if it failed last.
    retry_at: Option<Instant>,
    succeeded_at: Option<Instant>,
    in_flight: u32,
}

impl PeerHealth {
    /// Whether to ask `node` at once. Of a node that failed, one request each [`SUSPECT_FOR`] finds out.
    pub(crate) fn admit(&mut self, node: NodeId, now: Instant) -> Admission {
        let peer = self.nodes.entry(node).or_default();
        match peer.retry_at {
            Some(at) if now < at => Admission::Spared,
            Some(_) => {
                peer.retry_at = Some(now + SUSPECT_FOR);
                Admission::Trial
            }
            None => Admission::Trusted,
        }
    }

    /// Whether `node` failed lately and has not answered since.
    pub(crate) fn is_suspect(&self, node: NodeId, now: Instant) -> bool {
        self.nodes.get(&node).and_then(|peer| peer.retry_at).is_some_and(|at| now < at)
    }

    /// Whether `node` answered anything within `window`.
    pub(crate) fn answered_within(&self, node: NodeId, window: Duration, now: Instant) -> bool {
        self.nodes
            .get(&node)
            .and_then(|peer| peer.succeeded_at)
            .is_some_and(|at| now.saturating_duration_since(at) < window)
    }

    /// Requests under way to `node`.
    pub(crate) fn load(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |peer| peer.in_flight)
    }

    /// A request goes out.
    pub(crate) fn handle_start(&mut self, node: NodeId) {
        self.nodes.entry(node).or_default().in_flight += 1;
    }

    /// A request is over, whatever came of it.
    pub(crate) fn handle_end(&mut self, node: NodeId) {
        let peer = self.nodes.entry(node).or_default();
        peer.in_flight = peer.in_flight.saturating_sub(1);
    }

    /// It answered.
    pub(crate) fn handle_success(&mut self, node: NodeId, now: Instant) {
        let peer = self.nodes.entry(node).or_default();
        peer.retry_at = None;
        peer.succeeded_at = Some(now);
    }

    /// It did not answer, or answered that it cannot serve.
    pub(crate) fn handle_failure(&mut self, node: NodeId, now: Instant) {
        self.nodes.entry(node).or_default().retry_at = Some(now + SUSPECT_FOR);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ring::NodeId;

    use super::{Admission, PeerHealth, SUSPECT_FOR};

    #[test]
    fn a_node_that_failed_costs_one_request_each_two_seconds_until_it_answers() {
        let node = NodeId::from_bytes([1; 16]);
        let start = Instant::now();
        let mut health = PeerHealth::default();
        assert_eq!(health.admit(node, start), Admission::Trusted);
        health.handle_failure(node, start);
        assert_eq!(health.admit(node, start), Admission::Spared);
        assert!(health.is_suspect(node, start));
        let later = start + SUSPECT_FOR;
        assert_eq!(health.admit(node, later), Admission::Trial, "one finds out");
        assert_eq!(health.admit(node, later), Admission::Spared, "the others do not wait for it");
        health.handle_success(node, later);
        assert_eq!([health.admit(node, later), health.admit(node, later)], [Admission::Trusted; 2]);
        assert!(health.answered_within(node, Duration::from_secs(1), later));
    }
}
