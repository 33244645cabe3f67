//! What nodes say of themselves beside their heartbeats.
//!
//! # Not here
//! What it means to a person (`dfs doctor`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ring::NodeId;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::debug;
use wire::{
    Request,
    cluster::ClusterRequest,
    health::{HealthRequest, HeardReport, NodeReport},
    namespace::Timestamp,
};

use crate::node::Node;

/// Between two reports of a node: people read them.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// What nodes have said to this leader. Soft state: they say it again. Pure.
#[derive(Debug, Default)]
pub struct Reports {
    of: BTreeMap<NodeId, HeardReport>,
}

impl Reports {
    /// A node says how it is; `now` is the leader's wall clock.
    pub fn handle_report(&mut self, node: NodeId, report: NodeReport, now: Timestamp) {
        let clock_ahead_ms = millis_between(report.clock, now);
        self.of.insert(node, HeardReport { report, clock_ahead_ms });
    }

    /// What `node` said last.
    pub fn heard(&self, node: NodeId) -> Option<&HeardReport> {
        self.of.get(&node)
    }
}

/// Milliseconds from `earlier` to `later`.
fn millis_between(later: Timestamp, earlier: Timestamp) -> i64 {
    let nanos = |time: Timestamp| i128::from(time.seconds()) * 1_000_000_000 + i128::from(time.nanoseconds());
    let millis = (nanos(later) - nanos(earlier)) / 1_000_000;
    i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
}

/// Tells the leader how this node is.
pub(super) async fn report_always(node: &Arc<Node>) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // The leader knows how it is itself.
        if node.is_leader() || node.leader_id().is_none() {
            continue;
        }
        let request = Request::Cluster(ClusterRequest::Health(HealthRequest::Report(own_report(node))));
        // One of an older release answers that it does not understand: then nobody asks it for reports either.
        if let Err(refusal) = node.ask_leader(&request, REPORT_EVERY).await {
            debug!(%refusal, "the leader did not take the report");
        }
    }
}

/// What this node says of itself.
pub(crate) fn own_report(node: &Node) -> NodeReport {
    NodeReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        clock: node.clock.now(),
        scrub: node.repair.scrub(Instant::now()),
    }
}

#[cfg(test)]
mod tests {
    use ring::NodeId;
    use wire::{
        health::{NodeReport, ScrubReport},
        namespace::Timestamp,
    };

    use super::Reports;

    #[test]
    fn the_difference_of_clocks_has_a_sign_and_no_overflow() {
        let node = NodeId::from_bytes([1; 16]);
        let at = |seconds, nanoseconds| Timestamp::new(seconds, nanoseconds).unwrap();
        let ahead = |theirs, ours| {
            let mut reports = Reports::default();
            let report = NodeReport { version: "1".to_owned(), clock: theirs, scrub: ScrubReport::default() };
            reports.handle_report(node, report, ours);
            reports.heard(node).unwrap().clock_ahead_ms
        };
        assert_eq!(ahead(at(10, 500_000_000), at(8, 0)), 2500);
        assert_eq!(ahead(at(8, 0), at(10, 500_000_000)), -2500);
        assert_eq!(ahead(at(i64::MAX, 0), at(i64::MIN, 0)), i64::MAX);
        assert_eq!(ahead(at(i64::MIN, 0), at(i64::MAX, 0)), i64::MIN);
    }
}
