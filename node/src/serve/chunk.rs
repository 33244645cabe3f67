//! Puts, gets and listings: admit, check epoch and placement, hash again, hand to the store.

use std::{sync::Arc, time::Duration};

use ring::{ChunkKey, Epoch, GcEpoch, Partition, PartitionBits};
use tokio::sync::RwLockReadGuard;
use tracing::{debug, warn};
use wire::{
    Answer, Refusal,
    chunk::{ChunkAnswer, ChunkRequest, DIGESTS_MAX, Durability, Incarnation, KEEP_MAX, KEYS_MAX, PartitionDigest},
    cluster::{ClusterMap, PeerAccess},
    quic::Exchange,
    tree::{GROUP_LEN, ReceivedChunk, VerifiedChunk},
};

use super::{Asker, Served, read_body, take_room};
use crate::{
    chunk_store::{ListError, PutError, ReadError, SyncError},
    namespace,
    node::Node,
};

/// How long this node may take to learn of the map that a sender has already.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(2);

/// How long a node may wait until repair has its turn here: half of what it waits itself, so that it can ask another.
const TURN_DEADLINE: Duration = Duration::from_secs(5);

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
            must_be_replica(&*map_at(node, epoch).await?, node, &[key])?;
            ChunkAnswer::Put { incarnation: put(node, exchange, (key, epoch), gc, durability).await? }
        }
        ChunkRequest::Sync { epoch } => {
            asker.may_write()?;
            map_at(node, epoch).await?;
            let incarnation = node.chunks.sync().await.map_err(|error| sync_refusal(&error))?;
            ChunkAnswer::Synced { incarnation }
        }
        ChunkRequest::Has { keys, epoch, gc } => {
            asker.may_write()?;
            if keys.len() > KEYS_MAX {
                return Err(Refusal::Malformed);
            }
            map_at(node, epoch).await?;
            let _vouching = vouch(node, &keys).await?;
            let (held, incarnation) = node.chunks.has(&keys, gc).await.map_err(|error| put_refusal(&error))?;
            ChunkAnswer::Has { held, incarnation }
        }
        ChunkRequest::Get { key, offset, len } => return get(node, asker, key, offset, len).await,
        ChunkRequest::List { first, last, after, epoch } => {
            asker.must_be_node()?;
            list(node, &*map_at(node, epoch).await?, first, last, after).await?
        }
        ChunkRequest::Digest { first, last, epoch } => {
            asker.must_be_node()?;
            digest(node, &*map_at(node, epoch).await?, first, last).await?
        }
        ChunkRequest::Keep { keys, epoch, gc } => {
            asker.must_be_node()?;
            if keys.len() > KEEP_MAX {
                return Err(Refusal::Malformed);
            }
            let kept = keys.into_iter().map(|key| keep_journaled(node, key, epoch, gc));
            ChunkAnswer::Kept { kept: futures::future::join_all(kept).await }
        }
        ChunkRequest::Suspect { key } => {
            // Whatever else a stranger to this node names would only fill the list of those that are read again.
            let map = node.map();
            let is_kept = map.is_some_and(|map| must_be_replica(&map, node, &[key]).is_ok());
            if is_kept || node.chunks.holds(&key).map_err(|error| put_refusal(&error))? {
                node.repair.suspect(key);
            }
            ChunkAnswer::Noted
        }
    };
    Ok(Answer::Chunk(answer).into())
}

/// Keeps a chunk of which this node is a replica, or in the place of one.
async fn put(
    node: &Node,
    exchange: &mut Exchange,
    (key, epoch): (ChunkKey, Epoch),
    gc: GcEpoch,
    durability: Durability,
) -> Result<Incarnation, Refusal> {
    let missed = MissedUnlessKept(node);
    let room = take_room(&node.bodies, exchange.body_len).await?;
    // From here on it is for the sender to bring the bytes.
    std::mem::forget(missed);
    let body = read_body(node, exchange).await?;
    let chunk = ReceivedChunk::new(body).verify(key).map_err(|_| Refusal::KeyMismatch)?;
    let incarnation = keep(node, chunk, epoch, gc, durability).await?;
    drop(room);
    Ok(incarnation)
}

/// Keeps a chunk that is here.
pub(crate) async fn keep(
    node: &Node,
    chunk: VerifiedChunk,
    epoch: Epoch,
    gc: GcEpoch,
    durability: Durability,
) -> Result<Incarnation, Refusal> {
    let _vouching = vouch(node, &[chunk.key()]).await?;
    // The bytes may have taken long to come.
    map_at(node, epoch).await?;
    let missed = MissedUnlessKept(node);
    let incarnation = node.chunks.put(chunk, gc, durability).await.map_err(|error| put_refusal(&error))?;
    std::mem::forget(missed);
    Ok(incarnation)
}

/// Keeps a chunk whose bytes lie in the namespace; whether it is stable.
async fn keep_journaled(node: &Node, key: ChunkKey, epoch: Epoch, gc: GcEpoch) -> bool {
    let journaled = match namespace::journaled(&*node.consensus.local(), key) {
        Ok(journaled) => journaled,
        Err(error) => {
            warn!(%error, "the journal cannot be read");
            None
        }
    };
    let Some(chunk) = journaled.and_then(|chunk| ReceivedChunk::new(chunk.bytes.into()).verify(key).ok()) else {
        return false;
    };
    match keep(node, chunk, epoch, gc, Durability::Synced).await {
        Ok(_) => true,
        Err(refusal) => {
            debug!(%refusal, %key, "a journaled chunk cannot be kept");
            false
        }
    }
}

/// What lies with this node's memory or disk: unless it is forgotten, this node will look what others hold. A writer
/// does not wait for the last replica, so they may keep the chunk.
struct MissedUnlessKept<'a>(&'a Node);

impl Drop for MissedUnlessKept<'_> {
    fn drop(&mut self) {
        self.0.repair.note_missed();
    }
}

/// The map, if the sender knows every row that a put must reach now, and this node can learn of the sender's map.
async fn map_at(node: &Node, epoch: Epoch) -> Result<Arc<ClusterMap>, Refusal> {
    if !node.catch_up_to(epoch, CATCH_UP_DEADLINE).await {
        return Err(Refusal::Busy);
    }
    let map = node.map().ok_or(Refusal::NotServing)?;
    let Some(placement) = map.placement() else { return Err(Refusal::TooFewNodes { missing: map.missing() }) };
    if epoch < placement.epoch() {
        return Err(Refusal::StaleEpoch { ours: map.epoch });
    }
    Ok(map)
}

/// Keeps what lies here from being dropped as long as it is held, if the keys are still placed here.
async fn vouch<'a>(node: &'a Node, keys: &[ChunkKey]) -> Result<RwLockReadGuard<'a, ()>, Refusal> {
    let vouching = node.repair.vouch().await;
    must_be_replica(&*node.map().ok_or(Refusal::NotServing)?, node, keys)?;
    Ok(vouching)
}

fn must_be_replica(map: &ClusterMap, node: &Node, keys: &[ChunkKey]) -> Result<(), Refusal> {
    let placement = map.placement().ok_or(Refusal::NotReplica)?;
    let takes = |key: &ChunkKey| map.takes(placement.bits().partition_of(key), node.id);
    if keys.iter().all(takes) { Ok(()) } else { Err(Refusal::NotReplica) }
}

async fn get(node: &Node, asker: Asker, key: ChunkKey, offset: u32, len: u32) -> Result<Served, Refusal> {
    // Whole groups around the range, and the proof.
    let most = len.min(wire::CHUNK_LEN_MAX).saturating_add(4 * GROUP_LEN);
    let bodies = match asker.access {
        // Only repair makes nodes read from each other.
        PeerAccess::Node => &node.repair.bodies,
        PeerAccess::Client(_) => &node.bodies,
    };
    let room = bodies.clone().acquire_many_owned(most).await.map_err(|_| Refusal::NotServing)?;
    // Nothing is waited for in a turn: nobody else has one meanwhile.
    let mut turn = match asker.access {
        PeerAccess::Node => Some(node.repair.turns.begin(TURN_DEADLINE).await?),
        PeerAccess::Client(_) => None,
    };
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
    if let Some(turn) = &mut turn {
        turn.note_bytes(range.data.len() as u64);
    }
    Ok(Served { answer: Answer::Chunk(answer), body: vec![range.proof, range.data], room: Some(room), turn })
}

/// Keys of the partitions `first..=last`, as many as fit a page. Only an owner's word counts for all of a partition, and
/// that of one that stood in for an owner for what it took.
async fn list(
    node: &Node,
    map: &ClusterMap,
    first: Partition,
    last: Partition,
    after: Option<ChunkKey>,
) -> Result<ChunkAnswer, Refusal> {
    let bits = must_count(map, node, first, last)?;
    let from = after.map_or(first, |key| bits.partition_of(&key).max(first));
    let mut keys = Vec::new();
    for partition in bits.partitions().skip_while(|partition| *partition < from).take_while(|part| *part <= last) {
        let room = KEYS_MAX - keys.len();
        if room == 0 {
            return Ok(ChunkAnswer::Listed { keys, end: false });
        }
        let after = after.filter(|key| bits.partition_of(key) == partition);
        let page = node.chunks.list(bits, partition, after, room).await.map_err(|error| list_refusal(&error))?;
        keys.extend(page.keys);
    }
    let end = keys.len() < KEYS_MAX;
    Ok(ChunkAnswer::Listed { keys, end })
}

/// Digests of the partitions `first..=last`; of those of which this node's word does not count, what is none: whoever takes
/// them for different asks for a list, which is refused.
async fn digest(node: &Node, map: &ClusterMap, first: Partition, last: Partition) -> Result<ChunkAnswer, Refusal> {
    let placement = map.placement().ok_or(Refusal::NotReplica)?;
    let bits = placement.bits();
    if last < first || last.0 - first.0 >= DIGESTS_MAX {
        return Err(Refusal::Malformed);
    }
    let mut digests = node.chunks.digests(bits, first, last).await.map_err(|error| list_refusal(&error))?;
    for (digest, partition) in digests.iter_mut().zip((first.0..=last.0).map(Partition)) {
        if !counts(map, node, partition) {
            *digest = PartitionDigest::NONE;
        }
    }
    Ok(ChunkAnswer::Digests { digests })
}

/// Refuses to speak for partitions of which this node's word does not count.
fn must_count(map: &ClusterMap, node: &Node, first: Partition, last: Partition) -> Result<PartitionBits, Refusal> {
    let placement = map.placement().ok_or(Refusal::NotReplica)?;
    let asked = |partition: &Partition| (first..=last).contains(partition);
    let counts_everywhere = placement.bits().partitions().filter(asked).all(|partition| counts(map, node, partition));
    if counts_everywhere { Ok(placement.bits()) } else { Err(Refusal::NotReplica) }
}

/// Whether what this node holds of a partition counts.
fn counts(map: &ClusterMap, node: &Node, partition: Partition) -> bool {
    let owns = map.placement().is_some_and(|placement| placement.is_owner(partition, node.id));
    owns || map.may_hold(partition).any(|holder| holder == node.id)
}

pub(crate) fn list_refusal(error: &ListError) -> Refusal {
    warn!(%error, "the chunk index cannot be read");
    Refusal::DiskFailed
}

pub(crate) fn put_refusal(error: &PutError) -> Refusal {
    match error {
        PutError::Full { .. } => Refusal::DiskFull,
        PutError::TooManyFiles => {
            warn!(%error, "a chunk cannot be kept");
            Refusal::TooManyFiles
        }
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
