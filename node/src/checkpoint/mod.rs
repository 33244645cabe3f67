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

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream, stream::FuturesUnordered};
use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, warn};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability},
    cluster::PutRow,
    namespace::JournaledChunk,
    quic::Lane,
    tree::ReceivedChunk,
};

use crate::{
    kv::KvError,
    namespace::{self, Checkpointed, CommandBody, JournalTally, Journaled, LogIndex},
    node::Node,
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a chunk stays, at least, unless the journal fills: a database writes the same pages several times a second.
const REST: Duration = Duration::from_secs(1);

/// After a look that could not take out anything, because disks are full or nodes away.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Chunks on their way at once: they share syncs of the stores.
const AT_ONCE: usize = 32;

/// Chunks that one command takes out: few, so that the proof of those that were put first does not grow old with the last.
const PAGE_LEN: usize = 2 * AT_ONCE;

/// How long one replica may take.
const PUT_DEADLINE: Duration = Duration::from_secs(2);

/// How long the last replicas are waited for once the quorum stands. They go on by themselves.
const STRAGGLER_WAIT: Duration = Duration::from_millis(200);

/// Checkpoints until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ripening = Ripening::default();
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if !node.is_leader() {
            ripening = Ripening::default();
            continue;
        }
        if Instant::now() < rested {
            continue;
        }
        let round = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            round = round(&node, &mut ripening) => round,
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
    /// Some could not be put, and none was.
    Stuck,
}

async fn round(node: &Arc<Node>, ripening: &mut Ripening) -> Result<Round, Refusal> {
    let rows = node.consensus.local();
    let tally = namespace::journal_tally(&*rows).map_err(|error| broken(&error))?;
    let applied = LogIndex(node.consensus.watch().borrow().applied);
    let up_to = ripening.poll(Instant::now(), applied, tally);
    if tally.chunks == 0 {
        return Ok(Round::Done);
    }
    let (mut after, mut tried, mut taken) = (None, 0, 0);
    loop {
        let page = namespace::journal_page(&*rows, after, up_to, PAGE_LEN).map_err(|error| broken(&error))?;
        let Some(last) = page.last() else { break };
        after = Some(last.chunk.key);
        tried += page.len();
        let put = stream::iter(page).map(|journaled| checkpoint(node, journaled)).buffer_unordered(AT_ONCE);
        let chunks: Vec<(ChunkKey, Checkpointed)> = put.filter_map(std::future::ready).collect().await;
        if !chunks.is_empty() {
            taken += chunks.len();
            crate::membership::propose(node, CommandBody::Checkpoint { chunks }).await?;
        }
    }
    Ok(if tried > 0 && taken == 0 { Round::Stuck } else { Round::Done })
}

/// Why the chunk may be taken out now, if it may.
async fn checkpoint(node: &Arc<Node>, journaled: Journaled) -> Option<(ChunkKey, Checkpointed)> {
    let Journaled { chunk: JournaledChunk { bytes, key }, is_named } = journaled;
    if !is_named {
        return Some((key, Checkpointed::Unnamed));
    }
    let map = node.map()?;
    let partition = map.placement()?.bits().partition_of(&key);
    let rows = map.put_rows(partition);
    // As late as can be: nothing holds back what is safe to delete for these puts.
    let gc = namespace::gc_current(&*node.consensus.local()).map_err(|error| broken(&error)).ok()?;
    let put = Put { key, bytes: Bytes::from(bytes), epoch: map.epoch, gc };
    reach_quorum(node, &put, &rows).await.then_some((key, Checkpointed::Stable { epoch: map.epoch, gc }))
}

/// A chunk on its way.
#[derive(Clone, Debug)]
struct Put {
    key: ChunkKey,
    bytes: Bytes,
    epoch: Epoch,
    gc: GcEpoch,
}

/// Sends a chunk to every node of the rows; whether a write quorum of each has it.
async fn reach_quorum(node: &Arc<Node>, put: &Put, rows: &[PutRow]) -> bool {
    let mut nodes: Vec<NodeId> = rows.iter().flat_map(|row| row.nodes.iter().copied()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let send = |to: NodeId| -> JoinHandle<(NodeId, Result<(), Refusal>)> {
        let (node, put) = (Arc::clone(node), put.clone());
        let task = async move {
            let sent = tokio::select! {
                biased;
                () = node.stop.cancelled() => Err(Refusal::NotServing),
                sent = timeout(PUT_DEADLINE, put_on(&node, to, put)) => sent.unwrap_or(Err(Refusal::Busy)),
            };
            (to, sent)
        };
        tokio::spawn(task)
    };
    let mut sent: FuturesUnordered<_> = nodes.into_iter().map(send).collect();
    let mut stable: Vec<NodeId> = Vec::new();
    let mut until: Option<Instant> = None;
    loop {
        let stragglers = until.unwrap_or_else(|| Instant::now() + PUT_DEADLINE);
        let ended = tokio::select! {
            biased;
            ended = sent.next() => ended,
            () = sleep_until(stragglers), if until.is_some() => None,
        };
        match ended {
            Some(Ok((to, Ok(())))) => stable.push(to),
            Some(Ok((to, Err(refusal)))) => debug!(%refusal, %to, key = %put.key, "a journaled chunk cannot be put"),
            Some(Err(error)) => warn!(%error, "a journaled chunk was not put"),
            None => return is_quorum(rows, &stable),
        }
        if is_quorum(rows, &stable) {
            until.get_or_insert_with(|| Instant::now() + STRAGGLER_WAIT);
        }
    }
}

fn is_quorum(rows: &[PutRow], stable: &[NodeId]) -> bool {
    let has = |row: &PutRow| row.nodes.iter().filter(|node| stable.contains(node)).count() >= row.quorum;
    !rows.is_empty() && rows.iter().all(has)
}

/// One replica, which may be this node.
async fn put_on(node: &Node, to: NodeId, put: Put) -> Result<(), Refusal> {
    let Put { key, bytes, epoch, gc } = put;
    if to == node.id {
        let chunk = ReceivedChunk::new(bytes).verify(key).map_err(|_| Refusal::KeyMismatch)?;
        return crate::serve::keep_chunk(node, chunk, epoch, gc, Durability::Synced).await.map(drop);
    }
    let address = node.map().and_then(|map| map.node(to).map(|row| row.address)).ok_or(Refusal::UnknownPeer)?;
    let request = Request::Chunk(ChunkRequest::Put { key, epoch, gc, durability: Durability::Synced });
    let call = node.peers.call(to, address, Lane::Bulk, &request, &[bytes], PUT_DEADLINE).await;
    let (reply, _) = call.map_err(|_| Refusal::NotServing)?;
    match reply? {
        Answer::Chunk(ChunkAnswer::Put { .. }) => Ok(()),
        _ => Err(Refusal::Malformed),
    }
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
    /// Up to which index chunks are to be taken out now.
    fn poll(&mut self, now: Instant, applied: LogIndex, tally: JournalTally) -> LogIndex {
        match self.young {
            Some((since, _)) if now < since + REST => {}
            young => {
                self.ripe = young.map_or(self.ripe, |(_, index)| index);
                self.young = Some((now, applied));
            }
        }
        if tally.is_half_full() { applied } else { self.ripe }
    }
}

#[cfg(test)]
mod tests {
    use ring::NodeId;
    use tokio::time::Instant;
    use wire::cluster::PutRow;

    use super::{LogIndex, REST, Ripening, is_quorum};
    use crate::namespace::{JOURNALED_MAX, JournalTally};

    #[test]
    fn a_chunk_rests_unless_the_journal_fills() {
        let (start, few) = (Instant::now(), JournalTally { chunks: 1, bytes: 4096 });
        let mut ripening = Ripening::default();
        assert_eq!(ripening.poll(start, LogIndex(10), few), LogIndex(0));
        assert_eq!(ripening.poll(start + REST / 2, LogIndex(20), few), LogIndex(0));
        assert_eq!(ripening.poll(start + REST, LogIndex(30), few), LogIndex(10), "what was there a second ago");
        assert_eq!(ripening.poll(start + REST * 3 / 2, LogIndex(40), few), LogIndex(10));
        let many = JournalTally { chunks: JOURNALED_MAX / 2 + 1, bytes: 4096 };
        assert_eq!(ripening.poll(start + REST * 3 / 2, LogIndex(50), many), LogIndex(50));
        assert_eq!(ripening.poll(start + REST * 2, LogIndex(60), few), LogIndex(30));
    }

    #[test]
    fn every_row_needs_its_quorum() {
        let node = |number: u8| NodeId::from_bytes([number; 16]);
        let row = |nodes: [u8; 3]| PutRow { nodes: nodes.map(node).to_vec(), quorum: 2 };
        let rows = [row([1, 2, 3]), row([2, 3, 4])];
        assert!(!is_quorum(&rows, &[node(1), node(2)]));
        assert!(!is_quorum(&rows, &[node(1), node(4), node(5)]));
        assert!(is_quorum(&rows, &[node(2), node(3)]));
        assert!(is_quorum(&rows, &[node(1), node(2), node(4)]));
        assert!(!is_quorum(&[], &[node(1), node(2), node(3)]), "nobody is no quorum");
    }
}
