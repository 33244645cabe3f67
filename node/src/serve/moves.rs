//! Nodes that come and go, at the wish of people; and what nodes have taken over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ring::{NodeId, Partition};
use tokio::time::Instant;
use tracing::info;
use wire::{
    Refusal,
    cluster::ClusterMap,
    moves::{CONFIRMED_MAX, Kept, Leaving, Loss, MovesAnswer, MovesRequest},
};

use super::{Asker, namespace::propose};
use crate::{
    membership::Detector,
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
    let sure = node.with_leader_state(|leader| {
        let nodes = map.nodes.iter().map(|row| row.id);
        let is_coming = |id| map.placement().is_some_and(|placement| placement.coming_to(id).next().is_some());
        nodes.filter(|id| is_sure(&leader.detector, *id, is_coming(*id), now)).collect::<Vec<_>>()
    });
    Ok(kept_of(map, gone, &sure.unwrap_or_default()))
}

/// Whether `node` surely holds all that it owns: it is up, and has said that it lacks nothing. What a node lacks to which
/// partitions come is taken to be of those.
fn is_sure(detector: &Detector, node: NodeId, is_coming: bool, now: Instant) -> bool {
    detector.is_heard(node, now) && detector.store(node).is_some_and(|store| store.lacking == 0 || is_coming)
}

/// What would be lost with `gone`, if only of the nodes in `sure` it is certain that they hold what they should. Pure.
fn kept_of(map: &ClusterMap, gone: NodeId, sure: &[NodeId]) -> Kept {
    let left = map.nodes.iter().filter(|row| row.id != gone && map.leaving(row.id).is_none()).count();
    let (mut partitions, mut last) = (0, 0);
    if let Some(placement) = map.placement() {
        let beside = map.may_hold.iter().filter(|row| row.node == gone).flat_map(|row| row.partitions.iter().copied());
        let counts: BTreeSet<Partition> = placement.kept_by(gone).chain(beside).collect();
        for partition in counts {
            partitions += 1;
            let others = placement.owners(partition).any(|owner| owner != gone && sure.contains(&owner));
            last += u32::from(placement.is_owner(partition, gone) && !others);
        }
    }
    let left = u32::try_from(left).expect("members are counted in 16 bits");
    Kept { partitions, last, left }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use ring::{Epoch, NodeId, PartitionBits, ReplicaCount, Ring, Weight};
    use tokio::time::Instant;
    use wire::{
        chunk::Incarnation,
        cluster::{ClusterId, ClusterMap, KeyFingerprint, NodeRow, StoreReport},
        moves::Kept,
    };

    use super::{Detector, is_sure, kept_of};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    /// Two partitions over four nodes: of 1, 2 and 3, and of 1, 2 and 4.
    fn map() -> ClusterMap {
        let row = |number: u8| NodeRow {
            id: id(number),
            address: ([127, 0, 0, 1], 7000 + u16::from(number)).into(),
            zone: None,
            weight: Weight(NonZeroU32::MIN),
            key: KeyFingerprint([number; 32]),
        };
        let (bits, replicas) = (PartitionBits::new(1).unwrap(), ReplicaCount::new(3).unwrap());
        let members = (1..=4).map(|number| row(number).member()).collect();
        ClusterMap {
            cluster: ClusterId([1; 16]),
            epoch: Epoch(1),
            replicas,
            nodes: (1..=4).map(row).collect(),
            ring: Some(Ring::new(Epoch(1), bits, replicas, members, vec![0, 1, 2, 0, 1, 3]).unwrap()),
            may_hold: Vec::new(),
            transition: None,
            leaving: Vec::new(),
            away: Vec::new(),
            acting: Epoch(0),
        }
    }

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
    fn a_node_that_lacks_chunks_or_was_not_heard_yet_is_no_sure_copy() {
        let now = Instant::now();
        let mut detector = Detector::new(Duration::from_secs(3), now);
        detector.handle_heartbeat(id(1), report(0), now);
        detector.handle_heartbeat(id(2), report(7), now);
        let sure = |detector: &Detector, at: Instant| [1, 2, 3].map(|number| is_sure(detector, id(number), false, at));
        assert_eq!(sure(&detector, now), [true, false, false]);
        assert!(is_sure(&detector, id(2), true, now), "it lacks what is to be its own");
        detector.handle_heartbeat(id(2), report(0), now);
        assert_eq!(sure(&detector, now), [true, true, false]);
        assert_eq!(sure(&detector, now + Duration::from_secs(3)), [false; 3], "silent");
    }

    #[test]
    fn what_only_the_removed_node_surely_holds_is_counted_as_lost() {
        let kept = |gone, sure: &[u8]| {
            let sure: Vec<NodeId> = sure.iter().map(|number| id(*number)).collect();
            kept_of(&map(), id(gone), &sure)
        };
        assert_eq!(kept(1, &[1, 2, 3, 4]), Kept { partitions: 2, last: 0, left: 3 });
        // Node 2 catches up: nobody but node 1 surely has all of the second partition.
        assert_eq!(kept(1, &[1, 3]), Kept { partitions: 2, last: 1, left: 3 });
        assert_eq!(kept(1, &[1]).last, 2);
        assert_eq!(kept(3, &[3, 1]), Kept { partitions: 1, last: 0, left: 3 });
    }
}
