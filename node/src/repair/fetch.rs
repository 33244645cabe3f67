//! Fetches chunks from whoever has a sound copy, and keeps them.

use std::{sync::Arc, time::Duration};

use ring::{ChunkKey, GcEpoch, NodeId};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability},
    cluster::ClusterMap,
    quic::Lane,
    tree::{ReceivedChunk, VerifiedChunk},
};

use super::Turn;
use crate::node::Node;

/// How long a chunk that has come may wait to be kept. Nobody else waits for that, and it would have to come again.
const KEEP_DEADLINE: Duration = Duration::from_secs(60);

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
    let mut last = if map.placement().is_some() { Refusal::UnknownChunk } else { Refusal::NotServing };
    let _place = node.repair.places.acquire().await.map_err(|_| Refusal::NotServing)?;
    for holder in sources(node, map, &key) {
        match fetch_from(node, map, holder, key).await {
            Ok(Fetched { chunk, gc: theirs, turn: _turn }) => {
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

/// Who beside this node may have a chunk, in the order in which they are to be asked.
pub(crate) fn sources(node: &Node, map: &ClusterMap, key: &ChunkKey) -> Vec<NodeId> {
    let Some(placement) = map.placement() else { return Vec::new() };
    let partition = placement.bits().partition_of(key);
    // Each chunk begins with another owner, or one would be read by all. Those who are to own it may lack it as well.
    let mut holders: Vec<NodeId> = placement.owners(partition).collect();
    let first = usize::from(key.as_bytes()[31]) % holders.len().max(1);
    holders.rotate_left(first);
    holders.extend(map.others(partition));
    holders.retain(|holder| *holder != node.id && map.node(*holder).is_some());
    // Whoever is out would be waited for in vain.
    holders.sort_by_key(|holder| !map.is_in(*holder));
    holders
}

/// A chunk that has come, and is sound.
struct Fetched {
    chunk: VerifiedChunk,
    /// The stamp of the copy.
    gc: GcEpoch,
    /// In which it was hashed, and is to be kept.
    turn: Turn,
}

async fn fetch_from(node: &Node, map: &ClusterMap, holder: NodeId, key: ChunkKey) -> Result<Fetched, Refusal> {
    let address = map.node(holder).map(|row| row.address).ok_or(Refusal::UnknownPeer)?;
    // The length of the chunk is not known here: all of it is asked for, and the key vouches for the bytes.
    let request = Request::Chunk(ChunkRequest::Get { key, offset: 0, len: wire::CHUNK_LEN_MAX });
    let call = node.peers.call(holder, address, Lane::Bulk, &request, &[], node.config.repair.deadline).await;
    let (reply, body) = call.map_err(|_| Refusal::NotServing)?;
    let Answer::Chunk(ChunkAnswer::Got { chunk_len, offset: 0, proof_len, gc }) = reply? else {
        return Err(Refusal::Malformed);
    };
    let proof_len = usize::try_from(proof_len).expect("a u32 fits a usize");
    if body.len() < proof_len || u32::try_from(body.len() - proof_len) != Ok(chunk_len) {
        return Err(Refusal::Malformed);
    }
    // Only now: while the holder lets this node wait, nothing is done here.
    let mut turn = node.repair.turns.begin(KEEP_DEADLINE).await?;
    turn.note_bytes(chunk_len.into());
    let chunk = ReceivedChunk::new(body.slice(proof_len..)).verify(key).map_err(|_| Refusal::Corrupt)?;
    Ok(Fetched { chunk, gc, turn })
}
