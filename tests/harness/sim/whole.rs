//! Whether the cluster is as it should be once nothing goes wrong any more: every chunk of a file with all its owners, and
//! nothing else anywhere.

use std::{collections::BTreeSet, time::Duration};

use fuse_client::Namespace;
use ring::ChunkKey;
use tokio::time::{sleep, timeout};
use wire::{
    cluster::{ClusterStatus, NodeState, RaftRole},
    moves::{MovesAnswer, MovesRequest},
};

use crate::invariants::Ledger;

/// How long that may take: a session that ended without a word is waited for.
const WHOLE_WITHIN: Duration = Duration::from_secs(150);

/// What is longer is kept in chunks, cut at multiples of the longest.
const INLINE_MAX: usize = 4_096;

/// Waits for `members` nodes that are up, with nothing lacking, moving or away.
pub(super) async fn wait_whole(client: &Namespace, members: usize) {
    wait("not all nodes are there, with nothing lacking and nothing that moves", async || {
        let status = client.cluster().status().await.map_err(|error| error.to_string())?;
        let moves = client.cluster().moves(MovesRequest::Status).await.map_err(|error| error.to_string())?;
        let MovesAnswer::Status(moves) = moves else { panic!("{moves:?}") };
        let is_still =
            moves.transition.is_none() && moves.away.is_empty() && moves.unclean == 0 && moves.endangered == 0;
        if is_sound(&status, members) && is_still { Ok(()) } else { Err(format!("{status:#?}\n{moves:#?}")) }
    })
    .await;
}

fn is_sound(status: &ClusterStatus, members: usize) -> bool {
    let is_well = |node: &wire::cluster::NodeStatus| {
        let is_whole = node.store.as_ref().is_some_and(|store| store.lacking == 0 && !store.failed);
        node.state == NodeState::Up && is_whole && node.partitions > 0
    };
    let voters = status.nodes.iter().filter(|node| matches!(node.role, RaftRole::Leader | RaftRole::Voter)).count();
    status.missing == 0 && status.nodes.len() == members && status.nodes.iter().all(is_well) && voters == 3
}

/// Waits until the nodes hold the chunks of `ledger`, as often as they should, and nothing else, and nothing is listed as dead.
pub(super) async fn wait_collected(client: &Namespace, ledger: &Ledger) {
    let long = ledger.values().filter(|bytes| bytes.len() > INLINE_MAX);
    let keys: BTreeSet<ChunkKey> =
        long.flat_map(|bytes| bytes.chunks(wire::CHUNK_LEN_MAX as usize)).map(ChunkKey::of).collect();
    wait("the nodes do not hold just what files need", async || {
        let status = client.cluster().status().await.map_err(|error| error.to_string())?;
        let garbage = client.cluster().garbage().await.map_err(|error| error.to_string())?;
        let held: u64 = status.nodes.iter().filter_map(|node| node.store.as_ref()).map(|store| store.chunks).sum();
        let due = (keys.len() * status.replicas.count()) as u64;
        let is_clean = garbage.dead_chunks == 0 && held == due;
        if is_clean { Ok(()) } else { Err(format!("{held} copies for {due}\n{garbage:#?}\n{status:#?}")) }
    })
    .await;
}

/// Waits until `look` finds nothing amiss.
async fn wait(what: &str, mut look: impl AsyncFnMut() -> Result<(), String>) {
    let mut last = String::new();
    let well = async {
        while let Err(amiss) = look().await {
            last = amiss;
            sleep(Duration::from_millis(200)).await;
        }
    };
    let in_time = timeout(WHOLE_WITHIN, well).await;
    assert!(in_time.is_ok(), "{what}, {WHOLE_WITHIN:?} after everything was mended: {last}");
}
