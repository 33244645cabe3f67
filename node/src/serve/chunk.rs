//! Puts, gets and listings: admit, check epoch and placement, hash again, hand to the store.

use std::{sync::Arc, time::Duration};

use ring::{ChunkKey, Epoch, Partition, Ring};
use tracing::warn;
use wire::{
    Answer, Refusal,
    chunk::{ChunkAnswer, ChunkRequest, KEYS_MAX},
    quic::Exchange,
    tree::{GROUP_LEN, ReceivedChunk},
};

use super::{Asker, Served, read_body};
use crate::{
    chunk_store::{PutError, ReadError, SyncError},
    node::Node,
};

/// How long this node may take to learn of the map that a sender has already.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(2);

/// Answers one request.
pub(super) async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    request: ChunkRequest,
    exchange: &mut Exchange,
) -> Result<Served, Refusal> {
    let answer = match request {
        ChunkRequest::Put { key, epoch, gc, durability } => {
            asker.may_write()?;
            // However it ends here, others may keep the chunk: a writer does not wait for the last replica.
            let missed = MissedUnlessKept(node);
            must_be_replica(&*ring_at(node, epoch).await?, node, &[key])?;
            let (body, permit) = read_body(node, exchange, &node.bodies).await?;
            let chunk = ReceivedChunk::new(body).verify(key).map_err(|_| Refusal::KeyMismatch)?;
            let incarnation = node.chunks.put(chunk, gc, durability).await.map_err(|error| put_refusal(&error))?;
            std::mem::forget(missed);
            drop(permit);
            ChunkAnswer::Put { incarnation }
        }
        ChunkRequest::Sync { epoch } => {
            asker.may_write()?;
            ring_at(node, epoch).await?;
            let incarnation = node.chunks.sync().await.map_err(|error| sync_refusal(&error))?;
            ChunkAnswer::Synced { incarnation }
        }
        ChunkRequest::Has { keys, epoch, gc } => {
            asker.may_write()?;
            if keys.len() > KEYS_MAX {
                return Err(Refusal::Malformed);
            }
            must_be_replica(&*ring_at(node, epoch).await?, node, &keys)?;
            let (held, incarnation) = node.chunks.has(&keys, gc).await.map_err(|error| put_refusal(&error))?;
            ChunkAnswer::Has { held, incarnation }
        }
        ChunkRequest::Get { key, offset, len } => return get(node, key, offset, len).await,
        ChunkRequest::List { first, last, after, epoch } => {
            asker.must_be_node()?;
            list(node, &*ring_at(node, epoch).await?, first, last, after).await?
        }
        ChunkRequest::Suspect { key } => {
            node.repair.suspect(key);
            ChunkAnswer::Noted
        }
    };
    Ok(Answer::Chunk(answer).into())
}

/// A put under way: unless it is forgotten, this node will look what others hold.
struct MissedUnlessKept<'a>(&'a Node);

impl Drop for MissedUnlessKept<'_> {
    fn drop(&mut self) {
        self.0.repair.note_missed();
    }
}

/// The ring, if the sender knows the one in force and this node can learn of the sender's.
async fn ring_at(node: &Node, epoch: Epoch) -> Result<impl std::ops::Deref<Target = Ring> + use<>, Refusal> {
    struct InMap(Arc<wire::cluster::ClusterMap>);
    impl std::ops::Deref for InMap {
        type Target = Ring;
        fn deref(&self) -> &Ring {
            self.0.ring.as_ref().expect("checked when the value was made")
        }
    }
    if !node.catch_up_to(epoch, CATCH_UP_DEADLINE).await {
        return Err(Refusal::Busy);
    }
    let map = node.map().ok_or(Refusal::NotServing)?;
    let Some(ring) = &map.ring else { return Err(Refusal::TooFewNodes { missing: map.missing() }) };
    if epoch < ring.epoch() {
        return Err(Refusal::StaleEpoch { ours: map.epoch });
    }
    Ok(InMap(map))
}

fn must_be_replica(ring: &Ring, node: &Node, keys: &[ChunkKey]) -> Result<(), Refusal> {
    let ours = |key: &ChunkKey| ring.owners(ring.bits().partition_of(key)).any(|owner| owner == node.id);
    if keys.iter().all(ours) { Ok(()) } else { Err(Refusal::NotReplica) }
}

async fn get(node: &Node, key: ChunkKey, offset: u32, len: u32) -> Result<Served, Refusal> {
    // Whole groups around the range, and the proof.
    let most = len.min(wire::CHUNK_LEN_MAX).saturating_add(4 * GROUP_LEN);
    let room = node.bodies.clone().acquire_many_owned(most).await.map_err(|_| Refusal::NotServing)?;
    let range = node.chunks.read(&key, offset, len).await.map_err(|error| match error {
        ReadError::UnknownChunk { .. } => Refusal::UnknownChunk,
        ReadError::Damaged { .. } => {
            node.repair.suspect(key);
            Refusal::Corrupt
        }
        ReadError::OutOfRange { .. } => Refusal::Malformed,
        error => {
            warn!(%error, ?key, "a chunk cannot be read");
            node.repair.suspect(key);
            Refusal::DiskFailed
        }
    })?;
    let proof_len = u32::try_from(range.proof.len()).expect("a proof is a few hundred bytes");
    let answer = ChunkAnswer::Got { chunk_len: range.chunk_len, offset: range.offset, proof_len, gc: range.gc };
    Ok(Served { answer: Answer::Chunk(answer), body: vec![range.proof, range.data], room: Some(room) })
}

/// Keys of the partitions `first..=last`, as many as fit a page.
async fn list(
    node: &Node,
    ring: &Ring,
    first: Partition,
    last: Partition,
    after: Option<ChunkKey>,
) -> Result<ChunkAnswer, Refusal> {
    let bits = ring.bits();
    let from = after.map_or(first, |key| bits.partition_of(&key).max(first));
    let mut keys = Vec::new();
    for partition in bits.partitions().skip_while(|partition| *partition < from).take_while(|part| *part <= last) {
        let room = KEYS_MAX - keys.len();
        if room == 0 {
            return Ok(ChunkAnswer::Listed { keys, end: false });
        }
        let after = after.filter(|key| bits.partition_of(key) == partition);
        let page = node.chunks.list(bits, partition, after, room).await.map_err(|error| {
            warn!(%error, "the chunk index cannot be read");
            Refusal::DiskFailed
        })?;
        keys.extend(page.keys);
    }
    let end = keys.len() < KEYS_MAX;
    Ok(ChunkAnswer::Listed { keys, end })
}

pub(crate) fn put_refusal(error: &PutError) -> Refusal {
    match error {
        PutError::Full { .. } => Refusal::DiskFull,
        error => {
            warn!(%error, "a chunk cannot be kept");
            Refusal::DiskFailed
        }
    }
}

fn sync_refusal(error: &SyncError) -> Refusal {
    warn!(%error, "chunks cannot be synced");
    Refusal::DiskFailed
}
