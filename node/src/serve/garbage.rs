//! What the leader says about garbage: which dead chunks a node should delete, what rows name, what is waited for.

use std::time::Duration;

use ring::{ChunkKey, GcEpoch, NodeId};
use wire::{
    Refusal,
    chunk::KEYS_MAX,
    cluster::ClusterMap,
    garbage::{
        Claim, DeadPage, GarbageAnswer, GarbageRequest, GarbageStatus, HOLDERS_MAX, NodeHold, SessionHold, Standing,
    },
};

use super::{Asker, desk::broken};
use crate::{
    garbage::holders,
    kv::KvRead,
    namespace::{self, DeadLimits},
    node::Node,
};

/// Dead rows looked at for one page: those of others' partitions are passed over.
const ROWS_PER_PAGE: usize = 16_384;

/// Copies judged before others may run.
const JUDGED_PER_TURN: usize = 256;

/// Answers a request of a peer.
pub(super) async fn handle(
    node: &Node,
    asker: Asker,
    request: GarbageRequest,
    deadline: Duration,
) -> Result<GarbageAnswer, Refusal> {
    match request {
        GarbageRequest::Status => Ok(GarbageAnswer::Status(Box::new(status(node, deadline).await?))),
        request => answer(node, asker.must_be_node()?, request, deadline).await,
    }
}

/// Answers a request of the node `from`, which may be this one.
pub(crate) async fn answer(
    node: &Node,
    from: NodeId,
    request: GarbageRequest,
    deadline: Duration,
) -> Result<GarbageAnswer, Refusal> {
    match request {
        GarbageRequest::Dead { after, claim } => {
            Ok(GarbageAnswer::Dead(dead(node, from, after, claim, deadline).await?))
        }
        GarbageRequest::Judge { copies } => judge(node, &copies, deadline).await,
        GarbageRequest::Status => Ok(GarbageAnswer::Status(Box::new(status(node, deadline).await?))),
    }
}

async fn dead(
    node: &Node,
    from: NodeId,
    after: Option<ChunkKey>,
    claim: Claim,
    deadline: Duration,
) -> Result<DeadPage, Refusal> {
    let (rows, map) = (state(node, deadline).await?, placed(node)?);
    let ring = map.ring.as_ref().ok_or(Refusal::NotServing)?.epoch();
    node.with_leader_state(|leader| leader.garbage.handle_claim(from, claim))
        .ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?;
    let safe = namespace::gc_safe(&*rows).map_err(|error| broken(&error))?;
    let done = if claim.ring == ring { claim.below } else { GcEpoch(0) };
    let limits = DeadLimits { seen: ROWS_PER_PAGE, found: KEYS_MAX };
    let due =
        |key: &ChunkKey, at: GcEpoch| (done..safe).contains(&at) && holders(&map, key).any(|holder| holder == from);
    let page = namespace::dead_rows(&*rows, after, limits, due).map_err(|error| broken(&error))?;
    Ok(DeadPage { ring, safe, rows: page.rows, next: page.next })
}

async fn judge(node: &Node, copies: &[(ChunkKey, GcEpoch)], deadline: Duration) -> Result<GarbageAnswer, Refusal> {
    if copies.len() > KEYS_MAX {
        return Err(Refusal::Malformed);
    }
    let rows = state(node, deadline).await?;
    let safe = namespace::gc_safe(&*rows).map_err(|error| broken(&error))?;
    let mut standings = Vec::with_capacity(copies.len());
    let mut unnamed = None;
    for (index, (key, stamp)) in copies.iter().enumerate() {
        let standing = namespace::standing(&*rows, key).map_err(|error| broken(&error))?;
        if standing == Standing::Unnamed {
            unnamed = unnamed.max(Some(*stamp));
        }
        standings.push(standing);
        if index % JUDGED_PER_TURN == JUDGED_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    if let Some(stamp) = unnamed {
        node.with_leader_state(|leader| leader.garbage.handle_unnamed(stamp));
    }
    Ok(GarbageAnswer::Judged { safe, standings })
}

async fn status(node: &Node, deadline: Duration) -> Result<GarbageStatus, Refusal> {
    let rows = state(node, deadline).await?;
    let current = namespace::gc_current(&*rows).map_err(|error| broken(&error))?;
    let safe = namespace::gc_safe(&*rows).map_err(|error| broken(&error))?;
    let dead = namespace::dead_tally(&*rows).map_err(|error| broken(&error))?;
    let live = namespace::session_list(&*rows).map_err(|error| broken(&error))?;
    let map = node.map();
    let placed = map.as_ref().and_then(|map| Some((map, map.ring.as_ref()?)));
    let held = node.with_leader_state(|leader| {
        let hold = |summary: &namespace::SessionSummary| {
            let lowest = leader.sessions.lowest_gc_of(summary.session);
            let hold = SessionHold { session: summary.session, client: summary.client, lowest };
            lowest.is_none_or(|lowest| lowest < current).then_some(hold)
        };
        let sessions: Vec<_> = live.iter().filter_map(hold).take(HOLDERS_MAX).collect();
        let behind = |(map, ring): (&std::sync::Arc<ClusterMap>, &ring::Ring)| {
            let nodes = map.nodes.iter().filter(|row| {
                ring.bits().partitions().any(|partition| ring.owners(partition).any(|owner| owner == row.id))
            });
            let hold =
                nodes.map(|row| NodeHold { node: row.id, below: leader.garbage.claims().below(ring.epoch(), row.id) });
            hold.filter(|hold| hold.below.is_none_or(|below| below < safe)).take(HOLDERS_MAX).collect()
        };
        let nodes: Vec<_> = if dead.chunks == 0 { Vec::new() } else { placed.map(behind).unwrap_or_default() };
        (sessions, nodes)
    });
    let (sessions, nodes) = held.ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?;
    Ok(GarbageStatus { current, safe, dead_chunks: dead.chunks, dead_bytes: dead.bytes, sessions, nodes })
}

/// The newest state, unmoved by what is applied meanwhile.
async fn state(node: &Node, deadline: Duration) -> Result<Box<dyn KvRead>, Refusal> {
    Ok(node.consensus.read(deadline).await.map_err(Refusal::from)?.snapshot())
}

fn placed(node: &Node) -> Result<std::sync::Arc<ClusterMap>, Refusal> {
    node.refresh_local_map();
    node.map().ok_or(Refusal::NotServing)
}
