//! Fetches what this node lacks: after it returns, when a copy is damaged, and now and then; reads again what it holds, to
//! find damage; fetches what it is to own when the ring changes, and what others took for a node that was away; and drops
//! what it owns no longer.
//!
//! A round lists the keys of this node's partitions at each other holder, fetches what is missing here, verifies it, and
//! keeps it with the holder's stamp. Simple and complete; digests, rates and priorities come later.
//!
//! # Invariants
//! - A round counts as complete only if, of every partition, fewer than `write_quorum` of those that hold or may hold
//!   something were not listed to the end: with this node's own copy that meets every write quorum.
//! - Nothing is kept that does not match its key.
//! - What the namespace lists as dead is not fetched.
//! - A copy is dropped only where it is placed no longer, and never while somebody is told that it is held.
//!
//! # Not here
//! Which partitions go where, and when they have gone over (`membership`).

mod clean;
mod leftovers;
pub(crate) mod plan;
mod scrub;
mod takeover;
mod whole;

pub(crate) use clean::run as clean;
pub(crate) use leftovers::run as drop_leftovers;
pub(crate) use scrub::run as scrub;
pub(crate) use takeover::run as take_over;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use ring::{ChunkKey, Epoch, GcEpoch, NodeId, Partition};
use tokio::{
    sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};
use tracing::{debug, info, warn};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability},
    cluster::ClusterMap,
    health::ScrubReport,
    quic::Lane,
    tree::{ReceivedChunk, VerifiedChunk},
};

use crate::{chunk_store::Checked, node::Node};

/// Suspected copies that may wait to be checked; more are found again by the next round or reader.
const SUSPECTS_MAX: usize = 65_536;

/// A node rests this many times as long as it worked on its last comparison: that takes at most 2 % of its time. Fetching
/// is no part of it, or a node that had much to fetch, and is away again, would miss for minutes what others took for it.
const REST_PER_ROUND: u32 = 50;

/// Work that one page of a comparison counts for, at most: what takes longer waits for something else.
const PAGE_WORK_MAX: Duration = Duration::from_millis(200);

/// How long a round that could not be completed waits before the next.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What is known to be lacking, and what may be.
#[derive(Debug, Default)]
pub struct RepairState {
    wake: Notify,
    /// Guards itself alone; never held across an await.
    suspects: Mutex<Suspects>,
    /// Puts came here and were not kept.
    missed: AtomicBool,
    lacking: AtomicU64,
    /// Guards itself alone; never held across an await.
    scrub: Mutex<scrub::Progress>,
    /// Held for reading while somebody is told that a copy is held here, for writing while copies are dropped.
    copies: RwLock<()>,
}

#[derive(Debug, Default)]
struct Suspects {
    keys: BTreeSet<ChunkKey>,
    compare: bool,
}

impl RepairState {
    /// The copy of `key` here may be damaged: it is checked, and replaced if it is.
    pub fn suspect(&self, key: ChunkKey) {
        let mut suspects = self.suspects.lock();
        if suspects.keys.len() < SUSPECTS_MAX {
            suspects.keys.insert(key);
        }
        self.wake.notify_one();
    }

    /// This node may have missed puts: it compares its partitions with the other holders.
    pub fn compare_again(&self) {
        self.suspects.lock().compare = true;
        self.wake.notify_one();
    }

    /// A put was refused, or ended before it was kept: others may hold what this node should.
    pub fn note_missed(&self) {
        self.missed.store(true, Ordering::Relaxed);
    }

    /// The disk takes puts: what was refused while it did not is fetched now.
    pub fn note_disk_well(&self) {
        if self.missed.swap(false, Ordering::Relaxed) {
            self.compare_again();
        }
    }

    /// Chunks known to be lacking.
    pub fn lacking(&self) -> u64 {
        self.lacking.load(Ordering::Relaxed)
    }

    /// How far the scrub is.
    pub fn scrub(&self, now: Instant) -> ScrubReport {
        self.scrub.lock().report(now)
    }

    /// As long as this is held, no copy is dropped because it is placed elsewhere.
    pub async fn vouch(&self) -> RwLockReadGuard<'_, ()> {
        self.copies.read().await
    }

    /// As long as this is held, nobody is told that a copy is held here.
    async fn may_drop(&self) -> RwLockWriteGuard<'_, ()> {
        self.copies.write().await
    }

    fn take(&self, comparison: Comparison) -> Suspects {
        let mut suspects = self.suspects.lock();
        let compare = match comparison {
            Comparison::Allowed => std::mem::take(&mut suspects.compare),
            Comparison::Resting => false,
        };
        Suspects { keys: std::mem::take(&mut suspects.keys), compare }
    }

    fn wants_comparison(&self) -> bool {
        self.suspects.lock().compare
    }
}

/// Repairs until the node stops.
pub async fn run(node: Arc<Node>) {
    for key in node.chunks.take_damaged(SUSPECTS_MAX) {
        node.repair.suspect(key);
    }
    let (mut rested, mut next) = (Instant::now(), Instant::now() + node.config.repair.interval);
    loop {
        let due = if node.repair.wants_comparison() { rested } else { next };
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = node.repair.wake.notified() => {}
            () = tokio::time::sleep_until(due) => node.repair.compare_again(),
        }
        let began = Instant::now();
        let comparison = if began < rested { Comparison::Resting } else { Comparison::Allowed };
        let Round { worked, complete } = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            round = round(&node, comparison) => round,
        };
        if let Some(worked) = worked {
            let rest = worked * REST_PER_ROUND;
            next = Instant::now() + node.config.repair.interval.max(rest);
            // Whoever wakes this node for another comparison waits as well; one that came to nothing is no reason to.
            rested = if complete { Instant::now() + rest } else { rested };
        }
        if !complete {
            tokio::select! {
                biased;
                () = node.stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }
}

/// Whether a round may compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Allowed,
    Resting,
}

/// What came of a round.
struct Round {
    /// How long it worked to compare this node's partitions with the other holders, if it did.
    worked: Option<Duration>,
    /// Nothing is left to be done that could not be.
    complete: bool,
}

async fn round(node: &Arc<Node>, comparison: Comparison) -> Round {
    let Suspects { mut keys, compare } = node.repair.take(comparison);
    keys.extend(node.chunks.take_damaged(SUSPECTS_MAX));
    let Some(map) = node.map().filter(|map| map.ring.is_some()) else {
        // Nothing is placed yet, as far as this node knows; what is suspected stays so until it knows more. The next
        // heartbeat that is heard after a new map wakes the loop.
        let complete = keys.is_empty();
        keys.into_iter().for_each(|key| node.repair.suspect(key));
        return Round { worked: compare.then_some(Duration::ZERO), complete };
    };
    let mut complete = replace_damaged(node, &map, keys).await;
    let mut worked = None;
    if compare {
        let compared = compare_all(node, &map).await;
        worked = Some(compared.worked);
        if !compared.complete {
            node.repair.compare_again();
            complete = false;
        }
    }
    Round { worked, complete }
}

/// Checks suspected copies, and fetches those that are bad or gone.
async fn replace_damaged(node: &Arc<Node>, map: &Arc<ClusterMap>, keys: BTreeSet<ChunkKey>) -> bool {
    let mut complete = true;
    for key in keys {
        if matches!(node.chunks.check(&key).await, Ok(Checked::Good)) {
            continue;
        }
        warn!(%key, "a copy is damaged or gone: fetching another");
        match fetch(node, map, key, GcEpoch::default(), Copy::Replace).await {
            Ok(()) => info!(%key, "replaced from another replica"),
            Err(Refusal::UnknownChunk) => give_up(node, key).await,
            Err(refusal) => {
                warn!(%key, %refusal, "no other replica could be read");
                node.repair.suspect(key);
                complete = false;
            }
        }
    }
    complete
}

/// Nobody has a copy. Of what no file refers to none is missed.
async fn give_up(node: &Node, key: ChunkKey) {
    if crate::garbage::worth_fetching(node, vec![(key, GcEpoch::default())]).await.is_empty() {
        node.chunks.forget_damage(&key);
        info!(%key, "no holder has it, and no file refers to it");
    } else {
        warn!(%key, "no holder has it: given up until a comparison finds it");
    }
}

/// What came of a comparison.
struct Compared {
    worked: Duration,
    complete: bool,
}

/// Lists this node's partitions at the other holders and fetches what is missing.
async fn compare_all(node: &Arc<Node>, map: &Arc<ClusterMap>) -> Compared {
    let mut worked = Duration::ZERO;
    let Some(placement) = map.placement() else { return Compared { worked, complete: true } };
    let ours = || placement.bits().partitions().filter(|partition| placement.is_owner(*partition, node.id));
    let mut listed = plan::Coverage::new(ours(), node.id);
    let mut fetched = 0u64;
    let mut failed = 0u64;
    for (holder, spans) in plan::spans(map, ours(), node.id) {
        for span in spans {
            match fetch_span(node, map, holder, span, |partition| placement.is_owner(partition, node.id)).await {
                Ok(taken) => {
                    fetched += taken.fetched;
                    failed += taken.failed;
                    worked += taken.worked;
                    listed.handle_listed(map, holder, span);
                }
                Err(refusal) => {
                    info!(?holder, %refusal, "cannot be listed now");
                    break;
                }
            }
        }
    }
    node.repair.lacking.store(failed, Ordering::Relaxed);
    if fetched > 0 {
        info!(fetched, failed, "fetched what was missed");
    }
    Compared { worked, complete: failed == 0 && listed.is_complete(map) }
}

/// What came of a span.
#[derive(Default)]
struct Taken {
    fetched: u64,
    failed: u64,
    /// Spent on finding out what is missing.
    worked: Duration,
    /// Partitions of those that failed.
    incomplete: BTreeSet<Partition>,
}

/// Lists one span of partitions at `holder`, page by page, and fetches what is missing here of those that are `wanted`.
async fn fetch_span(
    node: &Arc<Node>,
    map: &Arc<ClusterMap>,
    holder: NodeId,
    span: plan::Span,
    wanted: impl Fn(Partition) -> bool,
) -> Result<Taken, Refusal> {
    let bits = map.placement().ok_or(Refusal::NotServing)?.bits();
    let mut taken = Taken::default();
    let mut after = None;
    loop {
        let began = Instant::now();
        let page = list(node, map, holder, span, after).await?;
        let listed = page.keys.iter().copied().filter(|(key, _)| wanted(bits.partition_of(key)));
        let missing = missing_here(node, listed).await?;
        taken.worked += began.elapsed().min(PAGE_WORK_MAX);
        let missing = crate::garbage::worth_fetching(node, missing).await;
        node.repair.lacking.store(taken.failed + missing.len() as u64, Ordering::Relaxed);
        let fetches = missing.into_iter().map(async |(key, gc)| (key, fetch(node, map, key, gc, Copy::Keep).await));
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(node.config.repair.fetches);
        while let Some((key, result)) = fetches.next().await {
            match result {
                Ok(()) => taken.fetched += 1,
                Err(refusal) => {
                    debug!(%key, %refusal, "cannot be fetched now");
                    taken.failed += 1;
                    taken.incomplete.insert(bits.partition_of(&key));
                }
            }
        }
        after = page.keys.last().map(|(key, _)| *key);
        if page.end || after.is_none() {
            return Ok(taken);
        }
    }
}

/// Of copies elsewhere, those that are not held here. What is held is stable when this returns, and has their stamps, if
/// those are higher: it would be deleted here otherwise while it counts there.
async fn missing_here(
    node: &Node,
    listed: impl Iterator<Item = (ChunkKey, GcEpoch)>,
) -> Result<Vec<(ChunkKey, GcEpoch)>, Refusal> {
    let mut by_stamp: BTreeMap<GcEpoch, Vec<ChunkKey>> = BTreeMap::new();
    for (key, gc) in listed {
        by_stamp.entry(gc).or_default().push(key);
    }
    let mut missing = Vec::new();
    for (gc, keys) in by_stamp {
        let (held, _) = node.chunks.has(&keys, gc).await.map_err(|error| crate::serve::put_refusal(&error))?;
        missing.extend(keys.into_iter().zip(held).filter(|(_, held)| !held).map(|(key, _)| (key, gc)));
    }
    // Neighbours stay together, in the order in which they were listed.
    missing.sort_unstable();
    Ok(missing)
}

struct ListedPage {
    keys: Vec<(ChunkKey, GcEpoch)>,
    end: bool,
}

async fn list(
    node: &Node,
    map: &ClusterMap,
    holder: NodeId,
    span: plan::Span,
    after: Option<ChunkKey>,
) -> Result<ListedPage, Refusal> {
    let epoch: Epoch = map.epoch;
    let request = Request::Chunk(ChunkRequest::List { first: span.first, last: span.last, after, epoch });
    match node.ask(holder, &request, node.config.repair.deadline).await? {
        Answer::Chunk(ChunkAnswer::Listed { keys, end }) => Ok(ListedPage { keys, end }),
        _ => Err(Refusal::Malformed),
    }
}

/// What to do about a copy that is held already.
#[derive(Clone, Copy, Debug)]
enum Copy {
    /// It is good.
    Keep,
    /// It cannot be read: another is put in its place.
    Replace,
}

/// Fetches one chunk from any other holder that has a sound copy, and keeps it.
async fn fetch(node: &Arc<Node>, map: &ClusterMap, key: ChunkKey, gc: GcEpoch, copy: Copy) -> Result<(), Refusal> {
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
