//! The map, heartbeats, status, tokens.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::warn;
use wire::{
    Answer, Refusal,
    cluster::{
        ClusterAnswer, ClusterMap, ClusterRequest, ClusterStatus, NodeState, NodeStatus, RaftRole, StoreReport,
        TokenPurpose,
    },
    moves::Leaving,
    namespace::{Query, QueryAnswer, Timestamp, Usage},
    quic::Authority,
    token::Token,
};

use super::{Asker, Served, garbage, health, identify, moves, namespace::propose, redeem};
use crate::{
    namespace::{self, ClusterCommand, CommandBody},
    node::Node,
};

/// Longest life of a token: long enough for a machine that is still in a box.
const TOKEN_LIFETIME_S_MAX: u32 = 30 * 24 * 3600;

/// Seeds in a token: enough that some of them still stand when it is used.
const TOKEN_SEEDS_MAX: usize = 8;

/// Answers one request.
pub(super) async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    request: ClusterRequest,
    deadline: Duration,
) -> Result<Served, Refusal> {
    let answer = match request {
        ClusterRequest::Map { known } => {
            let newer = node.map().filter(|map| known.is_none_or(|known| known < map.epoch));
            ClusterAnswer::Map { map: newer.map(|map| Box::new(ClusterMap::clone(&map))), leader: node.leader_id() }
        }
        ClusterRequest::Heartbeat { store, epoch: _ } => heartbeat(node, asker, store)?,
        ClusterRequest::Status => ClusterAnswer::Status(Box::new(status(node, deadline).await?)),
        ClusterRequest::CreateToken { purpose, lifetime_s } => {
            asker.may_write()?;
            ClusterAnswer::Token(create_token(node, purpose, lifetime_s, deadline).await?)
        }
        ClusterRequest::Identify { peer, key } => {
            asker.must_be_node()?;
            identify::answer(node, peer, key, deadline).await?
        }
        ClusterRequest::ForwardRedeem(request) => {
            asker.must_be_node()?;
            ClusterAnswer::Redeemed(Box::new(redeem::redeem_here(node, &request, deadline).await?))
        }
        ClusterRequest::TakeSeal { seal } => {
            asker.must_be_node()?;
            node.take_seal(seal)?;
            ClusterAnswer::SealTaken
        }
        ClusterRequest::Moved { address } => {
            let from = asker.must_be_node()?;
            if address.ip().is_unspecified() || address.port() == 0 {
                return Err(Refusal::Malformed);
            }
            node.note_moved(from, address);
            propose(node, CommandBody::Cluster(ClusterCommand::MoveNode { node: from, address }), deadline).await?;
            node.refresh_local_map();
            ClusterAnswer::MoveNoted
        }
        ClusterRequest::Placed { zone, weight } => {
            let command = ClusterCommand::PlaceNode { node: asker.must_be_node()?, zone, weight };
            propose(node, CommandBody::Cluster(command), deadline).await?;
            node.refresh_local_map();
            ClusterAnswer::MoveNoted
        }
        ClusterRequest::Garbage(request) => {
            ClusterAnswer::Garbage(garbage::handle(node, asker, request, deadline).await?)
        }
        ClusterRequest::Moves(request) => ClusterAnswer::Moves(moves::handle(node, asker, request, deadline).await?),
        ClusterRequest::Health(request) => ClusterAnswer::Health(health::handle(node, asker, request, deadline).await?),
    };
    Ok(Answer::Cluster(answer).into())
}

fn heartbeat(node: &Node, asker: Asker, store: StoreReport) -> Result<ClusterAnswer, Refusal> {
    let from = asker.must_be_node()?;
    node.consensus.note_heard(from);
    node.with_leader_state(|leader| leader.detector.handle_heartbeat(from, store, Instant::now()))
        .ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?;
    let epoch = node.map().map(|map| map.epoch).unwrap_or_default();
    Ok(ClusterAnswer::Heard { epoch })
}

async fn status(node: &Node, deadline: Duration) -> Result<ClusterStatus, Refusal> {
    let store = node.consensus.read(deadline).await.map_err(Refusal::from)?;
    node.refresh_local_map();
    let map = node.map().ok_or(Refusal::NotServing)?;
    let usage = match namespace::query(&*store, &Query::Usage).map_err(|error| broken(&error))? {
        Ok(QueryAnswer::Usage(usage)) => usage,
        _ => Usage::default(),
    };
    let view = node.consensus.watch().borrow().clone();
    let now = Instant::now();
    let ours = node.store_report().await;
    let nodes = node.with_leader_state(|leader| {
        leader.detector.handle_heartbeat(node.id, ours, now);
        let status = |row: &wire::cluster::NodeRow| NodeStatus {
            row: row.clone(),
            state: match (leader.detector.state(row.id, now), map.leaving(row.id)) {
                (NodeState::Down, Some(Leaving::Out)) => NodeState::Out,
                (NodeState::Up, Some(Leaving::Draining)) => NodeState::Draining,
                (state, _) => state,
            },
            role: if view.leader == Some(row.id) {
                RaftRole::Leader
            } else if view.voters.contains(&row.id) {
                RaftRole::Voter
            } else if view.learners.contains(&row.id) {
                RaftRole::Learner
            } else {
                RaftRole::None
            },
            store: leader.detector.store(row.id).cloned(),
            partitions: partitions_of(&map, row.id),
        };
        map.nodes.iter().map(status).collect()
    });
    Ok(ClusterStatus {
        cluster: map.cluster,
        epoch: map.epoch,
        replicas: map.replicas,
        missing: map.missing(),
        nodes: nodes.ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?,
        usage,
        term: view.term,
        applied: view.applied,
        gc_current: namespace::gc_current(&*store).map_err(|error| broken(&error))?,
    })
}

fn partitions_of(map: &ClusterMap, node: ring::NodeId) -> u32 {
    let Some(placement) = map.placement() else { return 0 };
    let held = placement.bits().partitions().filter(|partition| placement.is_owner(*partition, node)).count();
    u32::try_from(held).expect("a ring has at most 2^20 partitions")
}

async fn create_token(
    node: &Node,
    purpose: TokenPurpose,
    lifetime_s: u32,
    deadline: Duration,
) -> Result<String, Refusal> {
    if lifetime_s == 0 || lifetime_s > TOKEN_LIFETIME_S_MAX {
        return Err(Refusal::Malformed);
    }
    let secret: [u8; 32] = node.random();
    let now = node.clock.now();
    let expires = Timestamp::new(now.seconds() + i64::from(lifetime_s), now.nanoseconds())
        .expect("nanoseconds of a timestamp are below a second");
    let hash = *blake3::hash(&secret).as_bytes();
    let command = ClusterCommand::CreateToken { hash, purpose, expires };
    propose(node, CommandBody::Cluster(command), deadline).await?;
    let authority = namespace::authority(&*node.consensus.local()).map_err(|error| broken(&error))?;
    let authority = Authority { certificate: authority.ok_or(Refusal::NotServing)?.certificate };
    let map = node.map().ok_or(Refusal::NotServing)?;
    // This node first: the asker has just reached it.
    let others = map.nodes.iter().filter(|row| row.id != node.id).map(|row| row.address);
    let seeds = std::iter::once(node.site.advertise).chain(others).take(TOKEN_SEEDS_MAX).collect();
    Ok(Token { purpose, authority: authority.fingerprint(), secret, seeds }.to_string())
}

fn broken(error: &crate::kv::KvError) -> Refusal {
    warn!(%error, "the state of the cluster cannot be read");
    Refusal::Internal
}
