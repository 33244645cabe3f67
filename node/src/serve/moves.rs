//! Nodes that come and go, at the wish of people; and what nodes have taken over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ring::{NodeId, Partition};
use tokio::time::Instant;
use tracing::info;
use wire::{
    Refusal,
    cluster::{ClusterMap, NodeState},
    moves::{CONFIRMED_MAX, Kept, Leaving, Loss, MovesAnswer, MovesRequest},
};

use super::{Asker, namespace::propose};
use crate::{
    namespace::{ClusterCommand, ClusterOutcome, CommandBody, CommandOutcome},
    node::Node,
};

/// Answers one request.
pub(super) async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    request: MovesRequest,
    deadline: Duration,
) -> Result<MovesAnswer, Refusal> {
    match request {
        MovesRequest::Confirm { epoch, partitions } => {
            let from = asker.must_be_node()?;
            if partitions.len() > CONFIRMED_MAX {
                return Err(Refusal::Malformed);
            }
            node.with_leader_state(|leader| leader.moves.handle_confirm(from, epoch, &partitions))
                .ok_or_else(|| not_leader(node))?;
            Ok(MovesAnswer::Noted)
        }
        MovesRequest::ConfirmClean { acting, partitions } => {
            let from = asker.must_be_node()?;
            if partitions.len() > CONFIRMED_MAX {
                return Err(Refusal::Malformed);
            }
            node.with_leader_state(|leader| leader.stand_ins.handle_confirm(from, acting, &partitions))
                .ok_or_else(|| not_leader(node))?;
            Ok(MovesAnswer::Noted)
        }
        MovesRequest::Drain { node: leaving } => {
            asker.may_write()?;
            drain(node, leaving, deadline).await
        }
        MovesRequest::Undrain { node: back } => {
            asker.may_write()?;
            change(node, ClusterCommand::SetLeaving { node: back, why: None }, deadline).await
        }
        MovesRequest::Remove { node: gone, loss } => {
            asker.may_write()?;
            remove(node, gone, loss, deadline).await
        }
        MovesRequest::Status => {
            let map = newest_map(node, deadline).await?;
            let status = node.with_leader_state(|leader| leader.moves.status(&map)).ok_or_else(|| not_leader(node))?;
            Ok(MovesAnswer::Status(Box::new(status)))
        }
    }
}

fn not_leader(node: &Node) -> Refusal {
    Refusal::NotLeader { leader: node.leader_id() }
}

/// The map with everything that was answered before.
async fn newest_map(node: &Node, deadline: Duration) -> Result<Arc<ClusterMap>, Refusal> {
    node.consensus.read(deadline).await.map_err(Refusal::from)?;
    node.refresh_local_map();
    node.map().ok_or(Refusal::NotServing)
}

async fn change(node: &Node, command: ClusterCommand, deadline: Duration) -> Result<MovesAnswer, Refusal> {
    info!(?command, "asked for");
    let outcome = propose(node, CommandBody::Cluster(command), deadline).await?;
    node.refresh_local_map();
    match outcome {
        CommandOutcome::Cluster(ClusterOutcome::Done { epoch }) => Ok(MovesAnswer::Done { epoch }),
        _ => Err(Refusal::Internal),
    }
}

async fn drain(node: &Node, leaving: NodeId, deadline: Duration) -> Result<MovesAnswer, Refusal> {
    let map = newest_map(node, deadline).await?;
    let kept = kept(node, &map, leaving)?;
    if is_too_few(&map, kept) {
        return Ok(MovesAnswer::Kept(kept));
    }
    change(node, ClusterCommand::SetLeaving { node: leaving, why: Some(Leaving::Draining) }, deadline).await
}

/// Whether fewer nodes would be left to hold partitions than each has replicas.
fn is_too_few(map: &ClusterMap, kept: Kept) -> bool {
    map.ring.is_some() && usize::try_from(kept.left).is_ok_and(|left| left < map.replicas.count())
}

/// Takes a node out of the group of voters, and then out of the map.
async fn remove(node: &Arc<Node>, gone: NodeId, loss: Loss, deadline: Duration) -> Result<MovesAnswer, Refusal> {
    let map = newest_map(node, deadline).await?;
    let kept = kept(node, &map, gone)?;
    let too_few = is_too_few(&map, kept);
    if map.nodes.len() == 1 || (loss == Loss::Refused && (kept.partitions > 0 || too_few)) {
        return Ok(MovesAnswer::Kept(kept));
    }
    if gone == node.id {
        // Nobody puts itself out of the door: the next leader does.
        crate::membership::hand_over(node).await;
        return Err(not_leader(node));
    }
    node.consensus.forget_member(gone, deadline).await.map_err(|error| {
        info!(%error, ?gone, "cannot be taken out of the group now");
        Refusal::Busy
    })?;
    change(node, ClusterCommand::RemoveNode { node: gone, loss }, deadline).await
}

/// What would be lost with `gone`.
fn kept(node: &Node, map: &ClusterMap, gone: NodeId) -> Result<Kept, Refusal> {
    if map.node(gone).is_none() {
        return Err(Refusal::UnknownPeer);
    }
    let now = Instant::now();
    let is_down = |id: NodeId| {
        let state = node.with_leader_state(|leader| leader.detector.state(id, now));
        map.node(id).is_none() || state.is_none_or(|state| state == NodeState::Down)
    };
    let down: Vec<NodeId> = map.nodes.iter().map(|row| row.id).filter(|id| is_down(*id)).collect();
    let left = map.nodes.iter().filter(|row| row.id != gone && map.leaving(row.id).is_none()).count();
    let (mut partitions, mut last) = (0, 0);
    if let Some(placement) = map.placement() {
        let is_up = |id: NodeId| map.node(id).is_some() && !down.contains(&id);
        let beside = map.may_hold.iter().filter(|row| row.node == gone).flat_map(|row| row.partitions.iter().copied());
        let counts: BTreeSet<Partition> = placement.kept_by(gone).chain(beside).collect();
        for partition in counts {
            partitions += 1;
            let others = placement.owners(partition).any(|owner| owner != gone && is_up(owner));
            last += u32::from(placement.is_owner(partition, gone) && !others);
        }
    }
    let left = u32::try_from(left).expect("members are counted in 16 bits");
    Ok(Kept { partitions, last, left })
}
