//! How nodes are: what they report, and what the leader makes of it.

use std::time::Duration;

use tokio::time::Instant;
use wire::{
    Refusal,
    health::{HealthAnswer, HealthRequest, HealthStatus, NodeHealth, VERSION_LEN_MAX},
};

use super::Asker;
use crate::{membership::own_report, node::Node};

/// Answers one request.
pub(super) async fn handle(
    node: &Node,
    asker: Asker,
    request: HealthRequest,
    deadline: Duration,
) -> Result<HealthAnswer, Refusal> {
    match request {
        HealthRequest::Report(report) => {
            let from = asker.must_be_node()?;
            if report.version.len() > VERSION_LEN_MAX {
                return Err(Refusal::Malformed);
            }
            let now = node.clock.now();
            node.with_leader_state(|leader| leader.reports.handle_report(from, report, now))
                .ok_or_else(|| not_leader(node))?;
            Ok(HealthAnswer::Noted)
        }
        HealthRequest::Status => Ok(HealthAnswer::Status(Box::new(status(node, deadline).await?))),
    }
}

fn not_leader(node: &Node) -> Refusal {
    Refusal::NotLeader { leader: node.leader_id() }
}

async fn status(node: &Node, deadline: Duration) -> Result<HealthStatus, Refusal> {
    node.consensus.read(deadline).await.map_err(Refusal::from)?;
    node.refresh_local_map();
    let map = node.map().ok_or(Refusal::NotServing)?;
    let (ours, clock, now) = (own_report(node), node.clock.now(), Instant::now());
    let status = node.with_leader_state(|leader| {
        leader.reports.handle_report(node.id, ours, clock);
        let health = |row: &wire::cluster::NodeRow| {
            let silence = if row.id == node.id { Duration::ZERO } else { leader.detector.silence(row.id, now) };
            NodeHealth { node: row.id, silent_ms: millis(silence), heard: leader.reports.heard(row.id).cloned() }
        };
        HealthStatus {
            out_after_ms: millis(node.config.membership.out_after),
            nodes: map.nodes.iter().map(health).collect(),
            moving: leader.moves.moving(&map, now),
        }
    });
    status.ok_or_else(|| not_leader(node))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
