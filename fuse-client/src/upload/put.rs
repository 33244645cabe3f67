//! Drives a [`QuorumWrite`] over the network.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ring::{ChunkKey, NodeId};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use wire::{
    Refusal,
    chunk::{ChunkAnswer, ChunkRequest, Durability, Incarnation},
    cluster::{ClusterMap, PutRow},
};

use super::quorum_write::{Durable, PutFailure, QuorumWrite, Subject, Turn};
use crate::{
    cluster::{Admission, ChunkCallError, Cluster, ClusterError, FlushError, now, pool_units},
    session::{ChangeError, GcStamp, Session},
};

/// How long a chunk may take to be stable on its quorum: three times what it takes to see that a node is down.
const PUT_DEADLINE: Duration = Duration::from_secs(15);

/// How long one replica may take for one chunk: 4 MiB at 512 KiB/s.
const PUT_CALL_DEADLINE: Duration = Duration::from_secs(8);

/// A put that takes longer than this asks whether others take the writes of its row by now, and again after as long.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long that question may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Chunks up to this length are synced with the put: one round trip less, where that takes longer than the bytes. Longer
/// ones come many at a time, and one sync of a node covers all that it has taken until then.
const SYNCED_PUT_LEN_MAX: u32 = 64 << 10;

/// Between two attempts at different epochs, when the newer map has not come round yet.
const STALE_PAUSE: Duration = Duration::from_millis(50);

/// The longest of the pauses before what is committed at too old an epoch is put again.
const STALE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A replica behind its quorum is waited for as long as its node answers anything in such a time …
const STRAGGLER_SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// … and no longer than this.
const STRAGGLER_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes with their name, hashed here, once.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    key: ChunkKey,
    bytes: Bytes,
}

impl Sealed {
    /// Hashes the bytes. At most [`wire::CHUNK_LEN_MAX`] of them.
    pub(crate) fn new(bytes: Bytes) -> Self {
        assert!(bytes.len() <= wire::CHUNK_LEN_MAX as usize, "who cuts a file into chunks keeps to the limit");
        Self { key: ChunkKey::of(&bytes), bytes }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn chunk_len(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a chunk is at most 4 MiB")
    }
}

/// A durable chunk, and the stamp that its session holds until it is committed.
#[derive(Debug)]
pub(crate) struct Stamped {
    pub(crate) durable: Durable,
    pub(crate) stamp: GcStamp,
}

/// Why a chunk is not durable.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Too few replicas took it.
    #[error("only {stable} of {quorum} required replicas of a chunk could be stored ({tried})")]
    QuorumLost {
        /// Replicas that are stable.
        stable: usize,
        /// Replicas that must be.
        quorum: usize,
        /// What came of the others.
        tried: String,
    },
    /// `ENOSPC`: too many disks are full.
    #[error("no space left in the cluster: the disks of too many nodes are full (see dfs status)")]
    NoSpace,
    /// The ring is not solved yet.
    #[error("{missing} more node(s) must join before the cluster can store files")]
    TooFewNodes {
        /// How many.
        missing: u32,
    },
    /// Asking again changes nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// The map could not be fetched.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The session ended.
    #[error(transparent)]
    Session(#[from] ChangeError),
}

/// Makes a chunk stable on the write quorum of its row. `room` is held as long as the bytes are.
pub(crate) async fn put_chunk(
    cluster: &Cluster,
    session: &Session,
    chunk: Sealed,
    room: OwnedSemaphorePermit,
) -> Result<Stamped, PutError> {
    let until = Instant::now() + PUT_DEADLINE;
    loop {
        let stamp = session.stamp();
        let map = placeable(cluster, until).await?;
        let mut put = Put::new(cluster, &map, chunk.clone(), &stamp, until);
        let end = match put.run().await {
            Ok(durable) => {
                put.leave_to_stragglers(room);
                return Ok(Stamped { durable, stamp });
            }
            Err(end) => end,
        };
        match end {
            End::Failed(error) => return Err(error),
            End::StaleEpoch | End::StaleGc if Instant::now() >= until => {
                return Err(PutError::Refused(Refusal::StaleEpoch { ours: map.epoch }));
            }
            End::StaleEpoch => {
                // When the time is up, the next attempt says so.
                if let Ok(newer) = timeout_at(until, cluster.refresh_beyond(map.epoch)).await
                    && newer?.epoch == map.epoch
                {
                    sleep(STALE_PAUSE).await;
                }
            }
            End::StaleGc => session.refresh_stamp().await?,
        }
    }
}

/// What was put by too old a map is put again, for the `turn`th time: the node that is asked for the map may learn of it after
/// the namespace did, by half a second.
pub(crate) async fn await_newer_map(turn: u32) {
    if turn > 1 {
        sleep((STALE_PAUSE * 2u32.saturating_pow(turn)).min(STALE_PAUSE_MAX)).await;
    }
}

/// A map with a ring. When the last node has joined, it takes a moment to solve.
async fn placeable(cluster: &Cluster, until: Instant) -> Result<Arc<ClusterMap>, PutError> {
    let mut map = cluster.map();
    while map.ring.is_none() {
        map = cluster.refresh().await?;
        if map.ring.is_none() {
            if map.missing() > 0 || Instant::now() >= until {
                return Err(PutError::TooFewNodes { missing: map.missing() });
            }
            sleep(STALE_PAUSE).await;
        }
    }
    Ok(map)
}

/// Why an attempt at one epoch ended without success.
enum End {
    StaleEpoch,
    StaleGc,
    Failed(PutError),
}

/// What a node said.
enum Event {
    Put(NodeId, Result<Incarnation, ChunkCallError>),
    Synced(NodeId, Result<Incarnation, FlushError>),
    /// Somebody was asked for a newer map.
    Looked,
}

/// An attempt at one epoch.
struct Put {
    cluster: Cluster,
    chunk: Sealed,
    subject: Subject,
    /// What the map of the attempt demands.
    rows: Vec<PutRow>,
    write: QuorumWrite,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// The last word of each node that failed.
    failures: Vec<(NodeId, String)>,
}

impl Put {
    fn new(cluster: &Cluster, map: &ClusterMap, chunk: Sealed, stamp: &GcStamp, until: Instant) -> Self {
        let placement = map.placement().expect("a put begins with a solved ring");
        let subject = Subject { key: chunk.key, chunk_len: chunk.chunk_len(), epoch: map.epoch, gc: stamp.gc() };
        let turn = |node| match cluster.with_health(|health| health.admit(node, now())) {
            Admission::Trusted if map.is_in(node) => Turn::First,
            Admission::Trial if map.is_in(node) => Turn::Trial,
            Admission::Trusted | Admission::Trial | Admission::Spared => Turn::Reserve,
        };
        let rows = map.put_rows(placement.bits().partition_of(&chunk.key));
        let write = QuorumWrite::new(subject, rows.clone(), turn, now(), until.into_std());
        let (cluster, events, failures) = (cluster.clone(), FuturesUnordered::new(), Vec::new());
        let put = Self { cluster, chunk, subject, rows, write, events, failures };
        put.look_later();
        put
    }

    /// Nodes that are silent do not tell that others take their writes.
    fn look_later(&self) {
        let (cluster, epoch) = (self.cluster.clone(), self.subject.epoch);
        self.events.push(Box::pin(async move {
            sleep(LOOK_EVERY).await;
            // Whoever cannot be asked now is asked again.
            let _asked = timeout_at(Instant::now() + LOOK_DEADLINE, cluster.refresh_beyond(epoch)).await;
            Event::Looked
        }));
    }

    /// Whether the newest map demands other nodes than this attempt asks.
    fn is_outdated(&self) -> bool {
        let map = self.cluster.map();
        let partition = map.placement().map(|placement| placement.bits().partition_of(&self.subject.key));
        map.epoch > self.subject.epoch && partition.is_some_and(|partition| map.put_rows(partition) != self.rows)
    }

    /// Until the quorum stands or is lost.
    async fn run(&mut self) -> Result<Durable, End> {
        loop {
            self.start_what_is_due();
            match self.write.poll_outcome() {
                Some(Ok(durable)) => return Ok(durable),
                Some(Err(lost)) if lost.disk_full => return Err(End::Failed(PutError::NoSpace)),
                Some(Err(lost)) => {
                    let tried = self.tried();
                    return Err(End::Failed(PutError::QuorumLost { stable: lost.stable, quorum: lost.quorum, tried }));
                }
                None => {}
            }
            if let Some(end) = self.step().await {
                return Err(end);
            }
        }
    }

    fn start_what_is_due(&mut self) {
        let durability = self.durability();
        while let Some(node) = self.write.poll_send(now()) {
            let (cluster, bytes) = (self.cluster.clone(), self.chunk.bytes.clone());
            let Subject { key, epoch, gc, .. } = self.subject;
            let request = ChunkRequest::Put { key, epoch, gc, durability };
            let is_buffered = durability == Durability::Buffered;
            let under_way = is_buffered.then(|| self.cluster.flusher(node).begin_put());
            self.events.push(Box::pin(async move {
                let put = cluster.chunk(node, request, &[bytes], PUT_CALL_DEADLINE).await;
                drop(under_way);
                Event::Put(
                    node,
                    put.and_then(|(answer, _)| match answer {
                        ChunkAnswer::Put { incarnation } => Ok(incarnation),
                        _ => Err(ChunkCallError::Confused),
                    }),
                )
            }));
        }
        while let Some(node) = self.write.poll_sync() {
            let (cluster, flusher) = (self.cluster.clone(), self.cluster.flusher(node));
            self.events.push(Box::pin(async move { Event::Synced(node, flusher.sync(&cluster, node).await) }));
        }
    }

    fn durability(&self) -> Durability {
        if self.subject.chunk_len <= SYNCED_PUT_LEN_MAX { Durability::Synced } else { Durability::Buffered }
    }

    /// Waits for the next word of a node, or for the time to try again.
    async fn step(&mut self) -> Option<End> {
        let timeout = Instant::from_std(self.write.poll_timeout());
        tokio::select! {
            biased;
            Some(event) = self.events.next() => self.take_in(event),
            () = sleep_until(timeout) => {
                self.write.handle_timeout(now());
                None
            }
        }
    }

    fn take_in(&mut self, event: Event) -> Option<End> {
        match event {
            // What has its quorum waits for its stragglers alone.
            Event::Looked if self.write.is_decided() => {}
            Event::Looked if self.is_outdated() => return Some(End::StaleEpoch),
            Event::Looked => self.look_later(),
            Event::Put(node, Ok(incarnation)) => match self.durability() {
                Durability::Buffered => self.write.handle_accepted(node, incarnation),
                Durability::Synced => self.write.handle_stable(node),
            },
            Event::Synced(node, Ok(incarnation)) => self.write.handle_synced(node, incarnation, now()),
            Event::Put(node, Err(error)) => {
                self.note(node, &error);
                match judge(error) {
                    Ok(failure) => self.write.handle_failure(node, failure, now()),
                    Err(end) => return Some(end),
                }
            }
            Event::Synced(node, Err(error)) => {
                if error.stale {
                    return Some(End::StaleEpoch);
                }
                self.note(node, &error);
                self.write.handle_failure(node, PutFailure::Transient, now());
            }
        }
        None
    }

    fn note(&mut self, node: NodeId, failure: &dyn std::fmt::Display) {
        self.failures.retain(|(known, _)| *known != node);
        self.failures.push((node, failure.to_string()));
    }

    fn tried(&self) -> String {
        let map = self.cluster.map();
        let address = |node: NodeId| map.node(node).map_or_else(|| node.to_string(), |row| row.address.to_string());
        let words: Vec<String> = self
            .failures
            .iter()
            .map(|(node, failure)| {
                let address = address(*node);
                if failure.contains(&address) { failure.clone() } else { format!("{address}: {failure}") }
            })
            .collect();
        if words.is_empty() { "no answer in time".into() } else { words.join("; ") }
    }

    /// The quorum stands; the other replicas get the chunk in the background, in memory of their own if there is some.
    fn leave_to_stragglers(mut self, room: OwnedSemaphorePermit) {
        let map = self.cluster.map();
        self.write.call_stragglers(|node| map.is_in(node) && is_alive(&self.cluster, node), now());
        if self.write.is_settled() {
            return;
        }
        let units = pool_units(self.chunk.bytes.len() as u64);
        let own = Arc::clone(self.cluster.straggler_pool()).try_acquire_many_owned(units);
        let room = own.unwrap_or(room);
        let stragglers = self.cluster.stragglers().clone();
        stragglers.spawn(self.finish(room));
    }

    async fn finish(mut self, room: OwnedSemaphorePermit) {
        let until = Instant::now() + STRAGGLER_DEADLINE;
        while !self.write.is_settled() && Instant::now() < until && self.has_a_live_straggler() {
            self.start_what_is_due();
            tokio::select! {
            biased;
                // Whatever goes wrong now is the repair's.
                end = self.step() => if end.is_some() { break },
                () = sleep(STRAGGLER_SIGN_OF_LIFE / 2) => {}
            }
        }
        for node in self.write.overdue() {
            self.cluster.with_health(|health| health.handle_failure(node, now()));
        }
        drop(room);
    }

    fn has_a_live_straggler(&self) -> bool {
        self.write.unsettled().any(|node| is_alive(&self.cluster, node))
    }
}

fn is_alive(cluster: &Cluster, node: NodeId) -> bool {
    cluster.with_health(|health| health.answered_within(node, STRAGGLER_SIGN_OF_LIFE, now()))
}

/// What a failed put means: for the replica, or for the whole attempt.
fn judge(error: ChunkCallError) -> Result<PutFailure, End> {
    match error {
        ChunkCallError::NotAMember | ChunkCallError::Refused(Refusal::StaleEpoch { .. } | Refusal::NotReplica) => {
            Err(End::StaleEpoch)
        }
        ChunkCallError::Refused(Refusal::StaleGc { .. }) => Err(End::StaleGc),
        ChunkCallError::Refused(Refusal::TooFewNodes { missing }) => {
            Err(End::Failed(PutError::TooFewNodes { missing }))
        }
        ChunkCallError::Refused(refusal @ (Refusal::ReadOnly | Refusal::NotAllowed)) => {
            Err(End::Failed(PutError::Refused(refusal)))
        }
        ChunkCallError::Refused(Refusal::DiskFull) => Ok(PutFailure::DiskFull),
        ChunkCallError::Refused(Refusal::UnknownPeer | Refusal::Malformed) => Ok(PutFailure::Permanent),
        ChunkCallError::Refused(_) | ChunkCallError::Call(_) | ChunkCallError::Confused => Ok(PutFailure::Transient),
    }
}
