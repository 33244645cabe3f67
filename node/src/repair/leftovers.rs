//! Drops copies of partitions that have gone over to others, or whose owners are back.
//!
//! A partition goes over only when every new owner has confirmed it, so what its old owners hold is needed by nobody:
//! readers with an older map find the new owners, which that map names as well, or ask for a newer one. What a node took
//! in the place of another counts until every owner has confirmed that it has it: as long as the map says that the node
//! may hold something, it drops nothing of that partition.
//!
//! # Invariants
//! - Nothing is dropped by a map that is older than the newest, as the leader knows it at the beginning of a round.
//! - Whether a copy is placed here is looked up again, by the newest map, while nobody can be told that it is held.
//! - A node that is out, or was removed, drops nothing: what it holds may soon be wanted again.

use std::{sync::Arc, time::Duration};

use ring::{ChunkKey, Epoch, GcEpoch, Partition};
use tracing::{info, warn};
use wire::{
    Answer, Request,
    cluster::{ClusterAnswer, ClusterRequest},
    moves::{Leaving, MovesAnswer, MovesRequest},
};

use crate::node::Node;

/// Keys dropped in one go: puts wait meanwhile.
const DROPPED_MAX: usize = 256;

/// Between two looks at a map that is new. A partition that goes away and comes back at once has not been dropped then.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long the leader may take to say which map is the newest.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// Drops what is left over until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut looked_at = Epoch::default();
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(map) = node.map().filter(|map| map.epoch > looked_at && map.ring.is_some()) else { continue };
        // A node that was restarted, or cut off, may hear of an older map first.
        if newest_epoch(&node).await.is_none_or(|newest| map.epoch < newest) {
            continue;
        }
        let dropped = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            dropped = drop_all(&node) => dropped,
        };
        if let Some(dropped) = dropped {
            looked_at = map.epoch;
            if dropped > 0 {
                info!(dropped, "copies of partitions that others own now");
            }
        }
    }
}

/// Epoch of the newest map, by the word of a leader that has made sure that it still leads.
async fn newest_epoch(node: &Arc<Node>) -> Option<Epoch> {
    if node.is_leader() {
        node.consensus.read(ASK_DEADLINE).await.ok()?;
        node.refresh_local_map();
        return node.map().map(|map| map.epoch);
    }
    let request = Request::Cluster(ClusterRequest::Moves(MovesRequest::Status));
    match node.ask_leader(&request, ASK_DEADLINE).await.ok()? {
        Answer::Cluster(ClusterAnswer::Moves(MovesAnswer::Status(status))) => Some(status.epoch),
        _ => None,
    }
}

/// Drops every copy that is placed here no longer; how many those were, or none if not all could be looked at.
async fn drop_all(node: &Arc<Node>) -> Option<usize> {
    let bits = node.map()?.placement()?.bits();
    let mut dropped = 0;
    for partition in bits.partitions().filter(|partition| is_left_over(node, *partition)) {
        let mut after = None;
        loop {
            let page = match node.chunks.list(bits, partition, after, DROPPED_MAX).await {
                Ok(page) => page,
                Err(error) => {
                    warn!(%error, "the chunk index cannot be read");
                    return None;
                }
            };
            let keys: Vec<ChunkKey> = page.keys.iter().map(|(key, _)| *key).collect();
            let Some(last) = keys.last().copied() else { break };
            dropped += drop_copies(node, partition, &keys).await?;
            after = Some(last);
        }
    }
    Some(dropped)
}

/// Whether `partition` is placed elsewhere, and nothing of it counts here, by the newest map.
fn is_left_over(node: &Node, partition: Partition) -> bool {
    let Some(map) = node.map() else { return false };
    let is_in = map.node(node.id).is_some() && map.leaving(node.id) != Some(Leaving::Out);
    is_in && map.ring.is_some() && !map.counts(partition, node.id)
}

/// Drops these copies, unless their partition is placed here again. The one place where copies go because of a move: a
/// collector of garbage that keeps a quarantine should be asked here.
async fn drop_copies(node: &Node, partition: Partition, keys: &[ChunkKey]) -> Option<usize> {
    let _quiet = node.repair.may_drop().await;
    if !is_left_over(node, partition) {
        return Some(0);
    }
    match node.chunks.forget(keys, GcEpoch(u64::MAX)).await {
        Ok(dropped) => Some(dropped),
        Err(error) => {
            warn!(%error, "copies that others own now cannot be dropped");
            None
        }
    }
}
