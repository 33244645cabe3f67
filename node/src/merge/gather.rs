//! The bytes of a run, read from wherever they are.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use ring::{ChunkKey, NodeId};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest},
    cluster::ClusterMap,
    namespace::{ChunkSlice, JOURNALED_LEN_MAX},
    quic::Lane,
    tree,
};

use super::runs::Run;
use crate::{namespace, node::Node};

/// Slices read at once.
const AT_ONCE: usize = 16;

/// A slice that cannot be had from anybody.
#[derive(Debug, thiserror::Error)]
#[error("chunk {key} cannot be read: {last}")]
pub(super) struct Unreadable {
    key: ChunkKey,
    last: Refusal,
}

/// The bytes of all pieces, each of which led to its key.
pub(super) async fn gather(node: &Arc<Node>, map: &ClusterMap, run: &Run) -> Result<Bytes, Unreadable> {
    let slices: Vec<ChunkSlice> = run.pieces.iter().map(|(_, slice)| *slice).collect();
    let mut parts = stream::iter(slices).map(|slice| read(node, map, slice)).buffered(AT_ONCE);
    let mut bytes = BytesMut::new();
    while let Some(part) = parts.try_next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}

/// Exactly the bytes of a slice.
async fn read(node: &Node, map: &ClusterMap, slice: ChunkSlice) -> Result<Bytes, Unreadable> {
    if let Some(bytes) = from_journal(node, slice) {
        return Ok(bytes);
    }
    let mut last = match node.chunks.read(&slice.key, slice.offset, slice.len).await {
        Ok(range) => match verified(slice, range.chunk_len, range.offset, range.data, &range.proof) {
            Ok(bytes) => return Ok(bytes),
            Err(refusal) => refusal,
        },
        Err(_) => Refusal::UnknownChunk,
    };
    for holder in crate::repair::sources(node, map, &slice.key) {
        match from_holder(node, map, holder, slice).await {
            Ok(bytes) => return Ok(bytes),
            Err(refusal) => last = refusal,
        }
    }
    Err(Unreadable { key: slice.key, last })
}

/// What was written a moment ago may not have come to its replicas.
fn from_journal(node: &Node, slice: ChunkSlice) -> Option<Bytes> {
    if slice.chunk_len as usize > JOURNALED_LEN_MAX {
        return None;
    }
    let chunk = namespace::journaled_bytes(&*node.consensus.local(), slice.key).ok()??;
    if chunk.len() != slice.chunk_len as usize {
        return None;
    }
    let part = chunk.get(slice.offset as usize..(slice.offset + slice.len) as usize)?;
    Some(Bytes::copy_from_slice(part))
}

async fn from_holder(node: &Node, map: &ClusterMap, holder: NodeId, slice: ChunkSlice) -> Result<Bytes, Refusal> {
    let address = map.node(holder).map(|row| row.address).ok_or(Refusal::UnknownPeer)?;
    let request = Request::Chunk(ChunkRequest::Get { key: slice.key, offset: slice.offset, len: slice.len });
    let call = node.peers.call(holder, address, Lane::Bulk, &request, &[], node.config.repair.deadline).await;
    let (reply, mut body) = call.map_err(|_| Refusal::NotServing)?;
    let Answer::Chunk(ChunkAnswer::Got { chunk_len, offset, proof_len, gc: _ }) = reply? else {
        return Err(Refusal::Malformed);
    };
    let proof_len = usize::try_from(proof_len).expect("a u32 fits a usize");
    if body.len() < proof_len {
        return Err(Refusal::Malformed);
    }
    let bytes = body.split_off(proof_len);
    verified(slice, chunk_len, offset, bytes, &body)
}

/// The length that counts is the namespace's: it shapes the tree.
fn verified(slice: ChunkSlice, chunk_len: u32, offset: u32, bytes: Bytes, proof: &[u8]) -> Result<Bytes, Refusal> {
    if chunk_len != slice.chunk_len {
        return Err(Refusal::Corrupt);
    }
    let range = tree::verify(slice.key, chunk_len, offset, bytes, proof).map_err(|_| Refusal::Corrupt)?;
    range.slice(slice.offset, slice.len).ok_or(Refusal::Malformed)
}
