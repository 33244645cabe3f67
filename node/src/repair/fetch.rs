//! Fetches chunks from whoever has a sound copy, and keeps them.

use std::sync::Arc;

use ring::{ChunkKey, GcEpoch, NodeId};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability},
    cluster::ClusterMap,
    quic::Lane,
    tree::{ReceivedChunk, VerifiedChunk},
};

use crate::node::Node;

/// What to do about a copy that is held already.
#[derive(Clone, Copy, Debug)]
pub(super) enum Copy {
    /// It is good.
    Keep,
    /// It cannot be read: another is put in its place.
    Replace,
}

/// Fetches one chunk from any other holder that has a sound copy, and keeps it.
pub(super) async fn fetch(
    node: &Arc<Node>,
    map: &ClusterMap,
    key: ChunkKey,
    gc: GcEpoch,
    copy: Copy,
) -> Result<(), Refusal> {
    let placement = map.placement().ok_or(Refusal::NotServing)?;
    let partition = placement.bits().partition_of(&key);
    let mut last = Refusal::UnknownChunk;
    let mut holders: Vec<NodeId> = placement.owners(partition).chain(map.others(partition)).collect();
    holders.retain(|holder| *holder != node.id && map.node(*holder).is_some());
    // Whoever is out would be waited for in vain.
    holders.sort_by_key(|holder| !map.is_in(*holder));
    for holder in holders {
        match fetch_from(node, map, holder, key).await {
            Ok((chunk, theirs)) => {
                let gc = gc.max(theirs);
                let kept = match copy {
                    Copy::Keep => node.chunks.put(chunk, gc, Durability::Synced).await,
                    Copy::Replace => node.chunks.replace(chunk, gc, Durability::Synced).await,
                };
                return kept.map(drop).map_err(|error| crate::serve::put_refusal(&error));
            }
            // Whoever could not say is a reason to ask again.
            Err(Refusal::UnknownChunk) => {}
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}

async fn fetch_from(
    node: &Node,
    map: &ClusterMap,
    holder: NodeId,
    key: ChunkKey,
) -> Result<(VerifiedChunk, GcEpoch), Refusal> {
    let address = map.node(holder).map(|row| row.address).ok_or(Refusal::UnknownPeer)?;
    // The length of the chunk is not known here: all of it is asked for, and the key vouches for the bytes.
    let request = Request::Chunk(ChunkRequest::Get { key, offset: 0, len: wire::CHUNK_LEN_MAX });
    let room = node.bodies.clone().acquire_many_owned(wire::CHUNK_LEN_MAX).await.map_err(|_| Refusal::NotServing)?;
    let call = node.peers.call(holder, address, Lane::Bulk, &request, &[], node.config.repair.deadline).await;
    let (reply, body) = call.map_err(|_| Refusal::NotServing)?;
    let Answer::Chunk(ChunkAnswer::Got { chunk_len, offset: 0, proof_len, gc }) = reply? else {
        return Err(Refusal::Malformed);
    };
    let proof_len = usize::try_from(proof_len).expect("a u32 fits a usize");
    if body.len() < proof_len || u32::try_from(body.len() - proof_len) != Ok(chunk_len) {
        return Err(Refusal::Malformed);
    }
    let chunk = ReceivedChunk::new(body.slice(proof_len..)).verify(key).map_err(|_| Refusal::Corrupt);
    drop(room);
    chunk.map(|chunk| (chunk, gc))
}
