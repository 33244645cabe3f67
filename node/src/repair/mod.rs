//! Fetches what this node lacks: after it returns, when a copy is damaged, and now and then; reads again what it holds, to
//! find damage; fetches what it is to own when the ring changes, and what others took for a node that was away; and drops
//! what it owns no longer.
//!
//! A round compares this node's partitions with each other holder (`comparison`): of those whose digests differ it lists
//! the keys, fetches what is missing here, verifies it, and keeps it with the holder's stamp (`fetch`).
//!
//! # Invariants
//! - A round counts as complete only if, of every partition, fewer than `write_quorum` of those that hold or may hold
//!   something were not listed to the end: with this node's own copy that meets every write quorum.
//! - Nothing is kept that does not match its key.
//! - What the namespace lists as dead is not fetched.
//! - Beside requests of clients it takes a fifth of the time of each node that it works on (`pace`).
//! - A copy is dropped only where it is placed no longer, and never while somebody is told that it is held.
//!
//! # Not here
//! Which partitions go where, and when they have gone over (`membership`).

mod comparison;
mod fetch;
mod hand_over;
mod leftovers;
mod pace;
pub(crate) mod plan;
mod scrub;
#[cfg(test)]
mod tests;
mod turns;
mod whole;

pub(crate) use fetch::sources;
pub(crate) use hand_over::{clean, take_over};
pub(crate) use leftovers::run as drop_leftovers;
pub(crate) use scrub::run as scrub;
pub(crate) use turns::{Turn, Turns};

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ring::{ChunkKey, GcEpoch};
use tokio::{
    sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore},
    time::Instant,
};
use tracing::{debug, info, warn};
use wire::{Refusal, cluster::ClusterMap, health::ScrubReport};

use self::{
    comparison::fetch_window,
    fetch::{Copy, fetch},
};
use crate::{chunk_store::Checked, config::RepairConfig, node::Node};

/// Suspected copies that may wait to be checked; more are found again by the next round or reader.
const SUSPECTS_MAX: usize = 65_536;

/// Bytes of chunks that are sent to others at once: four, each with what proves it.
const BODY_BYTES: usize = 4 * (wire::CHUNK_LEN_MAX as usize + (64 << 10));

/// A node rests this many times as long as it worked on its last comparison: that takes at most 2 % of its time. Fetching
/// is no part of it, or a node that had much to fetch, and is away again, would miss for minutes what others took for it.
const REST_PER_ROUND: u32 = 50;

/// What a comparison counts for at most, beside what each copy of another holder does: the rest of the time it waited, for
/// others or for a processor. A node that was slow once would miss for many minutes what it was not told of.
const WORK_MAX: Duration = Duration::from_millis(400);

/// What the comparison with one copy of another holder counts for at most.
const WORK_PER_COPY_MAX: Duration = Duration::from_micros(20);

/// How long it rests at most when there is a reason to compare: it was not heard for a while, or its disk did not take puts.
/// What it missed then is on too few nodes.
const REST_WITH_REASON: Duration = Duration::from_secs(30);

/// How long a round that could not be completed waits before the next.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What is known to be lacking, and what may be.
#[derive(Debug)]
pub struct RepairState {
    /// Shares this node's time between clients and repair.
    pub(crate) turns: Turns,
    /// Places for chunks that are being fetched, whatever for: they bound the memory that these take, which is not that for
    /// chunks of clients.
    places: Semaphore,
    /// Bytes of chunks in memory that others fetch here: neither they nor clients wait for the memory of the others.
    pub(crate) bodies: Arc<Semaphore>,
    wake: Notify,
    /// Guards itself alone; never held across an await.
    suspects: Mutex<Suspects>,
    /// Puts came here and were not kept.
    missed: AtomicBool,
    /// Found missing, and being fetched.
    fetching: AtomicU64,
    /// Could not be fetched by the last comparison.
    failed: AtomicU64,
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
    /// Nothing is known yet.
    pub fn new(config: &RepairConfig) -> Self {
        Self {
            turns: Turns::new(config.bytes_per_s),
            places: Semaphore::new(config.fetches),
            bodies: Arc::new(Semaphore::new(BODY_BYTES)),
            wake: Notify::default(),
            suspects: Mutex::default(),
            missed: AtomicBool::default(),
            fetching: AtomicU64::default(),
            failed: AtomicU64::default(),
            scrub: Mutex::default(),
            copies: RwLock::default(),
        }
    }

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
        self.fetching.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
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
            rested = if complete { Instant::now() + rest.min(REST_WITH_REASON.max(worked)) } else { rested };
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
        let partition = map.placement().map(|placement| placement.bits().partition_of(&key));
        if partition.is_some_and(|partition| !map.counts(partition, node.id)) {
            // Others own it by now: nobody asks for this one.
            node.chunks.forget_damage(&key);
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

/// Compares this node's partitions with the other holders and fetches what is missing.
async fn compare_all(node: &Arc<Node>, map: &Arc<ClusterMap>) -> Compared {
    let mut worked = Duration::ZERO;
    let Some(placement) = map.placement() else { return Compared { worked, complete: true } };
    let ours = || placement.bits().partitions().filter(|partition| placement.is_owner(*partition, node.id));
    let mut listed = plan::Coverage::new(ours(), node.id);
    let (mut fetched, mut failed, mut keys) = (0, 0, 0);
    for (holder, windows) in plan::windows(map, ours(), node.id) {
        for window in windows {
            match fetch_window(node, map, holder, &window).await {
                Ok(taken) => {
                    fetched += taken.fetched;
                    failed += taken.failed;
                    worked += taken.worked;
                    keys += taken.listed;
                    listed.handle_compared(map, holder, &window);
                }
                Err(refusal) => {
                    info!(?holder, %refusal, "cannot be listed now");
                    break;
                }
            }
        }
    }
    node.repair.failed.store(failed, Ordering::Relaxed);
    let holders = u64::try_from(map.replicas.count().saturating_sub(1)).unwrap_or(u64::MAX);
    let copies = node.chunks.count().saturating_mul(holders);
    debug!(?worked, keys, copies, "compared");
    if fetched > 0 {
        info!(fetched, failed, "fetched what was missed");
    }
    Compared { worked: worked.min(work_max(copies)), complete: failed == 0 && listed.is_complete(map) }
}

/// What a comparison with so many copies counts for at most.
fn work_max(copies: u64) -> Duration {
    WORK_MAX.saturating_add(WORK_PER_COPY_MAX.saturating_mul(u32::try_from(copies).unwrap_or(u32::MAX)))
}
