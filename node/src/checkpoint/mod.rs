//! Puts journaled chunks where they belong, and takes their bytes out of the namespace. The leader does it.
//!
//! A chunk stays in the journal for a moment first: pages of a database are written again and again, and what no file refers
//! to any more by then is never put anywhere.
//!
//! # Invariants
//! - A chunk that a file refers to is taken out only once a write quorum of each of its rows has it on stable storage.
//!
//! # Not here
//! What is journaled, and what a checkpoint changes (`namespace`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use ring::{ChunkKey, GcEpoch, NodeId};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};
use wire::{
    Refusal, chunk::KEEP_MAX, cluster::ClusterMap, garbage::Standing, namespace::JournaledChunk, tree::ReceivedChunk,
};

use crate::{
    kv::KvError,
    namespace::{self, CHECKPOINT_MAX, Checkpointed, CommandBody, Journaled, LogIndex},
    node::Node,
    put::{self, Kept, Put, Reach},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a chunk stays, at least, unless the journal fills: a database writes the same pages several times a second.
const REST: Duration = Duration::from_secs(1);

/// How long the bytes of one stay that no file refers to any more: whoever read where they are can still read them, as with
/// copies (`GarbageConfig::grace`).
const GRACE: Duration = Duration::from_secs(10);

/// After a look that could not take out anything, because disks are full or nodes away.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Chunks on their way at once: they share syncs of the stores.
const AT_ONCE: usize = 32;

/// Chunks that one command takes out: few, so that the proof of those that were put first does not grow old with the last.
const PAGE_LEN: usize = 2 * AT_ONCE;

const _: () = assert!(PAGE_LEN <= CHECKPOINT_MAX && PAGE_LEN <= KEEP_MAX, "a command takes out a page");

/// How long one replica may take.
const PUT_DEADLINE: Duration = Duration::from_secs(2);

/// Checkpoints until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walk = Walk::default();
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if !node.is_leader() {
            walk = Walk::default();
            continue;
        }
        if Instant::now() < rested {
            continue;
        }
        let round = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            round = walk.round(&node) => round,
        };
        match round {
            Ok(Round::Done) => {}
            Ok(Round::Stuck) => rested = Instant::now() + AFTER_FAILURE,
            Err(refusal) => {
                debug!(%refusal, "journaled chunks cannot be taken out");
                rested = Instant::now() + AFTER_FAILURE;
            }
        }
    }
}

/// What a look came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Round {
    Done,
    /// Of one page nothing could be put anywhere. The next round goes on behind it.
    Stuck,
}

/// What one leader has done.
#[derive(Debug, Default)]
struct Walk {
    named: Ripening,
    unnamed: Ripening,
    /// Where the last round ended early.
    after: Option<ChunkKey>,
}

impl Walk {
    async fn round(&mut self, node: &Arc<Node>) -> Result<Round, Refusal> {
        let rows = node.consensus.local();
        let tally = namespace::journal_tally(&*rows).map_err(|error| broken(&error))?;
        let (now, applied) = (Instant::now(), LogIndex(node.consensus.watch().borrow().applied));
        let ripe = (self.named.poll(now, applied, REST), self.unnamed.poll(now, applied, GRACE));
        if tally.chunks == 0 {
            return Ok(Round::Done);
        }
        let up_to = if tally.is_half_full() { (applied, applied) } else { ripe };
        let mut after = self.after.take();
        while node.is_leader() {
            let page = namespace::journal_page(&*rows, after, up_to, PAGE_LEN).map_err(|error| broken(&error))?;
            let Some(last) = page.last() else { break };
            after = Some(last.chunk.key);
            let Some(reached) = Reached::ask(node, &page) else { return Ok(Round::Stuck) };
            let put = stream::iter(page).map(|journaled| checkpoint(node, &reached, journaled));
            let put = put.buffer_unordered(AT_ONCE);
            let chunks: Vec<(ChunkKey, Checkpointed)> = put.filter_map(std::future::ready).collect().await;
            if chunks.is_empty() {
                self.after = after;
                return Ok(Round::Stuck);
            }
            crate::membership::propose(node, CommandBody::Checkpoint { chunks }).await?;
        }
        Ok(Round::Done)
    }
}

/// Whom the chunks of a page must reach.
struct Reached {
    map: Arc<ClusterMap>,
    gc: GcEpoch,
    kept: Kept,
}

impl Reached {
    /// Asks those that follow the log to keep what is theirs: they have the bytes.
    fn ask(node: &Arc<Node>, page: &[Journaled]) -> Option<Self> {
        let rows = node.consensus.local();
        let map = node.map()?;
        let bits = map.placement()?.bits();
        // As late as can be: nothing holds back what is safe to delete for these puts.
        let gc = namespace::gc_current(&*rows).map_err(|error| broken(&error)).ok()?;
        let view = node.consensus.watch().borrow().clone();
        let follows = |id: &NodeId| *id != node.id && (view.voters.contains(id) || view.learners.contains(id));
        let mut wanted: BTreeMap<NodeId, Vec<ChunkKey>> = BTreeMap::new();
        for key in page.iter().filter(|journaled| journaled.is_named).map(|journaled| journaled.chunk.key) {
            let owners: BTreeSet<NodeId> =
                map.put_rows(bits.partition_of(&key)).into_iter().flat_map(|row| row.nodes).filter(follows).collect();
            owners.into_iter().for_each(|owner| wanted.entry(owner).or_default().push(key));
        }
        let kept = Kept::ask(node, wanted, (map.epoch, gc), PUT_DEADLINE);
        Some(Self { map, gc, kept })
    }
}

/// Why the chunk may be taken out now, if it may.
async fn checkpoint(
    node: &Arc<Node>,
    Reached { map, gc, kept }: &Reached,
    journaled: Journaled,
) -> Option<(ChunkKey, Checkpointed)> {
    let Journaled { chunk: JournaledChunk { bytes, key }, is_named } = journaled;
    if !is_named {
        return Some((key, Checkpointed::Unnamed));
    }
    // It may have waited for others: what is dead meanwhile is not to come to its nodes once more.
    let standing = namespace::standing(&*node.consensus.local(), &key).map_err(|error| broken(&error)).ok()?;
    if standing != Standing::Named {
        return None;
    }
    let rows = map.put_rows(map.placement()?.bits().partition_of(&key));
    let chunk = ReceivedChunk::new(Bytes::from(bytes)).verify(key).ok()?;
    let (epoch, gc) = (map.epoch, *gc);
    let put = Put { chunk, epoch, gc, deadline: PUT_DEADLINE, kept: kept.clone() };
    put::put(node, &put, &rows, Reach::Quorum).await.then_some((key, Checkpointed::Stable { epoch, gc }))
}

fn broken(error: &KvError) -> Refusal {
    warn!(%error, "the journal cannot be read");
    Refusal::Internal
}

/// Which chunks have rested: those of the log up to an index that was the last one a while ago. Pure.
#[derive(Clone, Copy, Debug)]
struct Ripening {
    ripe: LogIndex,
    /// The last index when it was looked at, and when that was.
    young: Option<(Instant, LogIndex)>,
}

impl Default for Ripening {
    fn default() -> Self {
        Self { ripe: LogIndex(0), young: None }
    }
}

impl Ripening {
    /// Up to which index chunks have rested.
    fn poll(&mut self, now: Instant, applied: LogIndex, rest: Duration) -> LogIndex {
        match self.young {
            Some((since, _)) if now < since + rest => {}
            young => {
                self.ripe = young.map_or(self.ripe, |(_, index)| index);
                self.young = Some((now, applied));
            }
        }
        self.ripe
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{LogIndex, REST, Ripening};

    #[test]
    fn a_chunk_rests_for_a_while() {
        let start = Instant::now();
        let mut ripening = Ripening::default();
        assert_eq!(ripening.poll(start, LogIndex(10), REST), LogIndex(0));
        assert_eq!(ripening.poll(start + REST / 2, LogIndex(20), REST), LogIndex(0));
        assert_eq!(ripening.poll(start + REST, LogIndex(30), REST), LogIndex(10), "what was there a second ago");
        assert_eq!(ripening.poll(start + REST * 3 / 2, LogIndex(40), REST), LogIndex(10));
        assert_eq!(ripening.poll(start + REST * 2, LogIndex(60), REST), LogIndex(30));
    }
}
