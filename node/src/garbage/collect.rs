//! A node's part: asks which of its copies may go, and deletes them. Decisions are in [`super::judge`].

use std::{sync::Arc, time::Duration};

use ring::{ChunkKey, GcEpoch, Partition, PartitionBits};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use wire::{
    Answer, Refusal, Request,
    chunk::KEYS_MAX,
    cluster::{ClusterAnswer, ClusterRequest},
    garbage::{Claim, GarbageAnswer, GarbageRequest, Standing},
};

use super::judge::{Pass, condemned_up_to, is_worth_fetching};
use crate::{chunk_store::PageEnd, node::Node};

/// How long the leader may take for one page.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// How long repair waits for the word on what is garbage: redundancy is more urgent.
const REPAIR_DEADLINE: Duration = Duration::from_secs(3);

/// Copies that are out of use at once: a few MiB of memory, and with the grace a bound on the rate.
const CONDEMNED_MAX: usize = 65_536;

/// Copies deleted by one command of the store, which puts wait behind …
const DELETED_AT_ONCE: usize = 256;

/// … and the pause after it: about 10,000 copies a second at most.
const DELETE_PAUSE: Duration = Duration::from_millis(20);

/// A node rests this many times as long as its last sweep took: judging takes at most 1 % of its time.
const REST_PER_SWEEP: u32 = 100;

/// Work that one page of a sweep counts for, at most: what takes longer waits for something else, a leader or a disk.
const PAGE_WORK_MAX: Duration = Duration::from_millis(200);

/// Copies to delete, each with the highest stamp that may go.
type Condemned = Vec<(ChunkKey, GcEpoch)>;

/// Where a node is.
struct Collector {
    claim: Claim,
    /// What no commit may carry any more, as the leader said last.
    safe: GcEpoch,
    /// The highest stamp among copies that no row named, of those that had to stay.
    waiting: Option<GcEpoch>,
    next_sweep: Instant,
    rested: Instant,
}

/// Collects until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let now = Instant::now();
    let next_sweep = now + node.config.garbage.sweep;
    let mut collector = Collector { claim: Claim::default(), safe: GcEpoch(0), waiting: None, next_sweep, rested: now };
    loop {
        let round = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            round = collector.round(&node) => round,
        };
        if let Err(refusal) = round {
            debug!(%refusal, "collecting garbage was interrupted");
        }
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = sleep(node.config.garbage.poll) => {}
        }
    }
}

impl Collector {
    async fn round(&mut self, node: &Node) -> Result<(), Refusal> {
        // Nothing is placed, so nothing is held.
        if node.map().is_none_or(|map| map.ring.is_none()) {
            return Ok(());
        }
        self.collect_dead(node).await?;
        let now = Instant::now();
        // What had to stay may go now.
        let ripe = self.waiting.is_some_and(|waiting| waiting < self.safe);
        if now >= self.next_sweep || (ripe && now >= self.rested) {
            let rest = self.sweep(node).await? * REST_PER_SWEEP;
            self.rested = Instant::now() + rest;
            self.next_sweep = Instant::now() + node.config.garbage.sweep.max(rest);
        }
        Ok(())
    }

    /// Deletes what the dead rows of this node's partitions allow, and says so with the next question.
    async fn collect_dead(&mut self, node: &Node) -> Result<(), Refusal> {
        let mut pass = Pass::new(self.claim);
        let mut condemned = Condemned::new();
        while let Some(after) = pass.poll_page() {
            let request = GarbageRequest::Dead { after, claim: self.claim };
            let GarbageAnswer::Dead(page) = ask(node, request, ASK_DEADLINE).await? else {
                return Err(Refusal::Malformed);
            };
            self.safe = self.safe.max(page.safe);
            // With other partitions everything begins anew.
            let Ok(rows) = pass.handle_page(&page) else { return Ok(()) };
            condemned.extend(rows);
            if condemned.len() >= CONDEMNED_MAX {
                delete(node, std::mem::take(&mut condemned)).await?;
            }
        }
        delete(node, condemned).await?;
        self.claim = pass.claim();
        Ok(())
    }

    /// Has every copy here judged: what no row names goes too. Says how long the judging took.
    async fn sweep(&mut self, node: &Node) -> Result<Duration, Refusal> {
        let whole = PartitionBits::new(0).map_err(|_| Refusal::Internal)?;
        let (mut after, mut waiting, mut condemned) = (None, None, Condemned::new());
        let mut worked = Duration::ZERO;
        loop {
            let began = Instant::now();
            let page = node.chunks.list(whole, Partition(0), after, KEYS_MAX).await;
            let page = page.map_err(|error| {
                warn!(%error, "the chunk index cannot be listed");
                Refusal::DiskFailed
            })?;
            after = page.keys.last().map(|(key, _)| *key);
            let copies = page.keys;
            let (safe, standings) = judge(node, copies.clone(), ASK_DEADLINE).await?;
            for ((key, stamp), standing) in copies.into_iter().zip(standings) {
                match condemned_up_to(standing, safe) {
                    Some(up_to) if stamp <= up_to => condemned.push((key, up_to)),
                    _ if standing == Standing::Unnamed => waiting = waiting.max(Some(stamp)),
                    _ => {}
                }
            }
            worked += began.elapsed().min(PAGE_WORK_MAX);
            if condemned.len() >= CONDEMNED_MAX {
                delete(node, std::mem::take(&mut condemned)).await?;
            }
            if page.end == PageEnd::Last {
                break;
            }
        }
        self.waiting = waiting;
        delete(node, condemned).await?;
        Ok(worked)
    }
}

/// Of copies elsewhere that this node lacks, those that are no garbage. All, if nobody can say.
pub(crate) async fn worth_fetching(node: &Node, copies: Vec<(ChunkKey, GcEpoch)>) -> Vec<(ChunkKey, GcEpoch)> {
    if copies.is_empty() {
        return copies;
    }
    match judge(node, copies.clone(), REPAIR_DEADLINE).await {
        Ok((safe, standings)) => {
            let judged = copies.into_iter().zip(standings);
            let worth = judged.filter(|((_, stamp), standing)| is_worth_fetching(*standing, safe, *stamp));
            worth.map(|(copy, _)| copy).collect()
        }
        Err(refusal) => {
            debug!(%refusal, "nobody says which copies are garbage: all are fetched");
            copies
        }
    }
}

async fn judge(
    node: &Node,
    copies: Vec<(ChunkKey, GcEpoch)>,
    deadline: Duration,
) -> Result<(GcEpoch, Vec<Standing>), Refusal> {
    let count = copies.len();
    match ask(node, GarbageRequest::Judge { copies }, deadline).await? {
        GarbageAnswer::Judged { safe, standings } if standings.len() == count => Ok((safe, standings)),
        _ => Err(Refusal::Malformed),
    }
}

/// Takes copies out of use, and deletes those that nobody has put or affirmed again by the end of the grace.
async fn delete(node: &Node, mut condemned: Condemned) -> Result<(), Refusal> {
    if condemned.is_empty() {
        return Ok(());
    }
    node.chunks.quarantine(&condemned);
    sleep(node.config.garbage.grace).await;
    let deleted = delete_now(node, &mut condemned).await;
    node.chunks.release(&condemned);
    let deleted = deleted?;
    if deleted > 0 {
        info!(deleted, "copies of dead chunks are deleted");
    }
    Ok(())
}

async fn delete_now(node: &Node, condemned: &mut Condemned) -> Result<usize, Refusal> {
    let mut deleted = 0;
    condemned.sort_by_key(|(_, up_to)| *up_to);
    let batches = condemned.chunk_by(|(_, up_to), (_, other)| up_to == other);
    for batch in batches.flat_map(|batch| batch.chunks(DELETED_AT_ONCE)) {
        let Some((_, up_to)) = batch.first() else { continue };
        let keys: Vec<ChunkKey> = batch.iter().map(|(key, _)| *key).collect();
        let forgotten = node.chunks.forget(&keys, *up_to).await;
        deleted += forgotten.map_err(|error| crate::serve::put_refusal(&error))?;
        sleep(DELETE_PAUSE).await;
    }
    Ok(deleted)
}

/// Asks the leader, which may be this node.
async fn ask(node: &Node, request: GarbageRequest, deadline: Duration) -> Result<GarbageAnswer, Refusal> {
    if node.is_leader() {
        return crate::serve::garbage::answer(node, node.id, request, deadline).await;
    }
    let request = Request::Cluster(ClusterRequest::Garbage(request));
    match node.ask_leader(&request, deadline).await? {
        Answer::Cluster(ClusterAnswer::Garbage(answer)) => Ok(answer),
        _ => Err(Refusal::Malformed),
    }
}
