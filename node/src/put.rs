//! Puts chunks on their replicas, for what a node does by itself.
//!
//! # Invariants
//! - [`put`] says yes only once as many replicas as it was told to reach have the chunk on stable storage.
//!
//! # Not here
//! Puts of clients (`serve`); fetching what this node itself lacks (`repair`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use tokio::{
    task::JoinError,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability},
    cluster::PutRow,
    quic::Lane,
    tree::VerifiedChunk,
};

use crate::node::Node;

/// How long the last replicas are waited for once the quorum stands. They go on by themselves.
const STRAGGLER_WAIT: Duration = Duration::from_millis(50);

/// A chunk on its way.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) chunk: VerifiedChunk,
    /// Epoch of the map whose rows are reached.
    pub(crate) epoch: Epoch,
    /// Its stamp.
    pub(crate) gc: GcEpoch,
    /// How long one replica may take. All of them may take twice that: this node's own put is never given up half-way.
    pub(crate) deadline: Duration,
    /// Where it need not be sent.
    pub(crate) kept: Kept,
}

/// What nodes that have bytes in their own rows were asked to keep of them, and what becomes of it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    asked: Arc<BTreeMap<NodeId, Asked>>,
}

/// The chunks that a node has kept.
type Asked = Shared<BoxFuture<'static, Arc<BTreeSet<ChunkKey>>>>;

impl Kept {
    /// Asks each node to keep chunks, each of them no more than [`wire::chunk::KEEP_MAX`].
    pub(crate) fn ask(
        node: &Arc<Node>,
        wanted: BTreeMap<NodeId, Vec<ChunkKey>>,
        (epoch, gc): (Epoch, GcEpoch),
        deadline: Duration,
    ) -> Self {
        let ask = |(to, keys): (NodeId, Vec<ChunkKey>)| {
            let task = Arc::clone(node);
            let asking = node.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = task.stop.cancelled() => BTreeSet::new(),
                    kept = ask_to_keep(&task, to, keys, (epoch, gc), deadline) => kept,
                }
            });
            (to, asking.map(|kept| Arc::new(kept.unwrap_or_default())).boxed().shared())
        };
        Self { asked: Arc::new(wanted.into_iter().map(ask).collect()) }
    }

    async fn by(&self, node: NodeId, key: &ChunkKey) -> bool {
        match self.asked.get(&node) {
            Some(asked) => asked.clone().await.contains(key),
            None => false,
        }
    }
}

async fn ask_to_keep(
    node: &Node,
    to: NodeId,
    keys: Vec<ChunkKey>,
    (epoch, gc): (Epoch, GcEpoch),
    deadline: Duration,
) -> BTreeSet<ChunkKey> {
    let Some(address) = node.map().and_then(|map| map.node(to).map(|row| row.address)) else { return BTreeSet::new() };
    let request = Request::Chunk(ChunkRequest::Keep { keys: keys.clone(), epoch, gc });
    match node.peers.call(to, address, Lane::Bulk, &request, &[], deadline).await {
        Ok((Ok(Answer::Chunk(ChunkAnswer::Kept { kept })), _)) if kept.len() == keys.len() => {
            keys.into_iter().zip(kept).filter_map(|(key, kept)| kept.then_some(key)).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Which replicas have to have it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// A write quorum of each row. The others are waited for a moment longer.
    Quorum,
    /// All of them.
    Everyone,
}

/// Sends a chunk to every node of the rows; whether those that `reach` asks for have it.
pub(crate) async fn put(node: &Arc<Node>, put: &Put, rows: &[PutRow], reach: Reach) -> bool {
    let mut nodes: Vec<NodeId> = rows.iter().flat_map(|row| row.nodes.iter().copied()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let send = |to: NodeId| {
        let (task, put) = (Arc::clone(node), put.clone());
        node.tasks.spawn(async move {
            let sent = tokio::select! {
                biased;
                () = task.stop.cancelled() => Err(Refusal::NotServing),
                sent = put_on(&task, to, put) => sent,
            };
            (to, sent)
        })
    };
    let mut sent: FuturesUnordered<_> = nodes.into_iter().map(send).collect();
    let mut stable: Vec<NodeId> = Vec::new();
    let until = Instant::now() + 2 * put.deadline;
    while !is_reached(rows, &stable, reach) {
        let Ok(Some(ended)) = timeout_at(until, sent.next()).await else { return false };
        note(put, ended, &mut stable);
    }
    let stragglers = async {
        while let Some(ended) = sent.next().await {
            note(put, ended, &mut stable);
        }
    };
    // Whether they are in time or not: what they miss is the repair's.
    drop(timeout(STRAGGLER_WAIT, stragglers).await);
    true
}

/// What became of the put on one node.
type Sent = Result<(NodeId, Result<(), Refusal>), JoinError>;

fn note(put: &Put, ended: Sent, stable: &mut Vec<NodeId>) {
    match ended {
        Ok((to, Ok(()))) => stable.push(to),
        Ok((to, Err(refusal))) => debug!(%refusal, %to, key = %put.chunk.key(), "a chunk cannot be put"),
        Err(error) => warn!(%error, "a chunk was not put"),
    }
}

fn is_reached(rows: &[PutRow], stable: &[NodeId], reach: Reach) -> bool {
    let has = |row: &PutRow| {
        let count = row.nodes.iter().filter(|node| stable.contains(node)).count();
        let needed = match reach {
            Reach::Quorum => row.quorum,
            Reach::Everyone => row.nodes.len(),
        };
        count >= needed
    };
    !rows.is_empty() && rows.iter().all(has)
}

/// One replica, which may be this node.
async fn put_on(node: &Node, to: NodeId, put: Put) -> Result<(), Refusal> {
    let Put { chunk, epoch, gc, deadline, kept } = put;
    if kept.by(to, &chunk.key()).await {
        return Ok(());
    }
    if to == node.id {
        return crate::serve::keep_chunk(node, chunk, epoch, gc, Durability::Synced).await.map(drop);
    }
    let address = node.map().and_then(|map| map.node(to).map(|row| row.address)).ok_or(Refusal::UnknownPeer)?;
    let request = Request::Chunk(ChunkRequest::Put { key: chunk.key(), epoch, gc, durability: Durability::Synced });
    let call = node.peers.call(to, address, Lane::Bulk, &request, &[chunk.into_bytes()], deadline).await;
    let (reply, _) = call.map_err(|_| Refusal::NotServing)?;
    match reply? {
        Answer::Chunk(ChunkAnswer::Put { .. }) => Ok(()),
        _ => Err(Refusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use ring::NodeId;
    use wire::cluster::PutRow;

    use super::{Reach, is_reached};

    #[test]
    fn every_row_needs_its_quorum_or_everyone() {
        let node = |number: u8| NodeId::from_bytes([number; 16]);
        let row = |nodes: [u8; 3]| PutRow { nodes: nodes.map(node).to_vec(), zones: vec![0, 1, 2], quorum: 2 };
        let rows = [row([1, 2, 3]), row([2, 3, 4])];
        let quorum = |stable: &[NodeId]| is_reached(&rows, stable, Reach::Quorum);
        assert!(!quorum(&[node(1), node(2)]));
        assert!(!quorum(&[node(1), node(4), node(5)]));
        assert!(quorum(&[node(2), node(3)]));
        assert!(quorum(&[node(1), node(2), node(4)]));
        assert!(!is_reached(&[], &[node(1), node(2), node(3)], Reach::Quorum), "nobody is no quorum");
        assert!(!is_reached(&rows, &[node(1), node(2), node(3)], Reach::Everyone));
        assert!(is_reached(&rows, &[node(1), node(2), node(3), node(4)], Reach::Everyone));
    }
}
