//! One chunk, or a range of it, from whichever replica has it.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use ring::{ChunkKey, NodeId};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use wire::{
    Refusal,
    chunk::{ChunkAnswer, ChunkRequest},
    namespace::{ChunkSlice, JOURNALED_LEN_MAX, Query, QueryAnswer},
    tree,
};

use super::{
    ReadError,
    replica_choice::{Candidate, ReplicaChoice},
};
use crate::cluster::{ChunkCallError, Cluster, now};

/// How long a chunk may take, all replicas and rounds together.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// How long one replica may take.
const GET_DEADLINE: Duration = Duration::from_secs(6);

/// Between two rounds over the replicas, when some could not be asked.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// How a replica failed.
#[derive(Debug, thiserror::Error)]
enum GetError {
    #[error(transparent)]
    Call(#[from] ChunkCallError),
    #[error("its copy is damaged")]
    Damaged,
}

impl GetError {
    /// Whether the replica never had it.
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Call(ChunkCallError::Refused(Refusal::UnknownChunk)))
    }

    /// Whether asking again may help.
    fn is_passing(&self) -> bool {
        match self {
            Self::Call(ChunkCallError::Refused(refusal)) => {
                !matches!(refusal, Refusal::UnknownChunk | Refusal::Corrupt | Refusal::Malformed | Refusal::NotAllowed)
            }
            Self::Call(ChunkCallError::Call(_)) => true,
            Self::Call(ChunkCallError::NotAMember | ChunkCallError::Confused) | Self::Damaged => false,
        }
    }
}

/// The bytes of the slice, verified against the key.
pub(crate) async fn fetch_slice(cluster: &Cluster, slice: ChunkSlice) -> Result<Bytes, ReadError> {
    if !slice.is_sound() {
        return Err(ReadError::Unsound);
    }
    let until = Instant::now() + FETCH_DEADLINE;
    let mut was_without = false;
    loop {
        let mut failures = Vec::new();
        let mut journal = Told::Unasked;
        let epoch = cluster.map().epoch;
        if let Some(bytes) = one_round(cluster, slice, until, &mut failures, &mut journal).await {
            return Ok(bytes);
        }
        let passing = failures.is_empty()
            || failures.iter().any(|(_, error)| error.is_passing())
            // It may have come to its replicas after they were asked and before the namespace was.
            || (journal == Told::Without && !was_without)
            || journal == Told::Silent;
        was_without |= journal == Told::Without;
        let late = Instant::now() + ROUND_PAUSE >= until;
        if passing && !late {
            sleep(ROUND_PAUSE).await;
        }
        // An old map may send us to the wrong nodes; without a newer one the old has to do.
        let newer = timeout_at(until, cluster.refresh_beyond(epoch)).await;
        let is_newer = matches!(&newer, Ok(Ok(map)) if map.epoch > epoch);
        if late || (!passing && !is_newer) {
            let is_missing = failures.iter().any(|(_, error)| error.is_unknown());
            return Err(ReadError::NoReplica { key: slice.key, tried: tried(cluster, &failures), is_missing });
        }
    }
}

/// What the namespace says of a chunk that a replica does not know.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Told {
    /// No reason to ask.
    Unasked,
    /// It gave no answer.
    Silent,
    /// It does not have its bytes, so its replicas do.
    Without,
    /// These are its bytes.
    Found(Bytes),
}

/// A chunk that was committed a moment ago may still be on its way to its replicas.
async fn ask_journal(cluster: &Cluster, slice: ChunkSlice, until: Instant) -> Told {
    let asked = timeout_at(until, cluster.query(vec![Query::Journaled { key: slice.key }])).await;
    match asked.map(|answers| answers.map(|mut answers| answers.pop())) {
        Ok(Ok(Some(Ok(QueryAnswer::Journaled(None))))) => Told::Without,
        Ok(Ok(Some(Ok(QueryAnswer::Journaled(Some(chunk)))))) => {
            let range = slice.offset as usize..(slice.offset + slice.len) as usize;
            let is_good = chunk.key == slice.key && chunk.is_sound();
            let bytes = chunk.bytes.get(range).filter(|_| is_good);
            bytes.map_or(Told::Without, |bytes| Told::Found(Bytes::copy_from_slice(bytes)))
        }
        _ => Told::Silent,
    }
}

/// Asks every replica at most once, and the namespace as soon as one does not know the chunk.
async fn one_round(
    cluster: &Cluster,
    slice: ChunkSlice,
    until: Instant,
    failures: &mut Vec<(NodeId, GetError)>,
    journal: &mut Told,
) -> Option<Bytes> {
    let mut choice = choose(cluster, &slice.key);
    let may_be_journaled = slice.chunk_len as usize <= JOURNALED_LEN_MAX;
    // Asked before the one that did not know it.
    let mut silent: Vec<NodeId> = Vec::new();
    let mut asking: Option<BoxFuture<'_, Told>> = None;
    let mut gets: FuturesUnordered<BoxFuture<'_, (NodeId, Result<Bytes, GetError>)>> = FuturesUnordered::new();
    while !choice.is_exhausted() || asking.is_some() {
        while let Some(node) = choice.poll_ask(now()) {
            gets.push(Box::pin(async move { (node, get(cluster, node, slice).await) }));
        }
        let timeout = choice.poll_timeout().map_or(until, Instant::from_std).min(until);
        tokio::select! {
            biased;
            Some((node, got)) = gets.next() => match got {
                Ok(bytes) => {
                    blame_the_silent(cluster, &choice, node);
                    return Some(bytes);
                }
                Err(error) => {
                    if error.is_unknown() && may_be_journaled && *journal == Told::Unasked {
                        *journal = Told::Silent;
                        silent = choice.silent().iter().copied().filter(|silent| *silent != node).collect();
                        asking = Some(Box::pin(ask_journal(cluster, slice, until)));
                    }
                    report(cluster, node, slice.key, &error);
                    choice.handle_failure(node);
                    failures.push((node, error));
                }
            },
            Some(answer) = OptionFuture::from(asking.as_mut()) => {
                asking = None;
                match answer {
                    Told::Found(bytes) => {
                        silent.retain(|node| choice.silent().contains(node));
                        blame(cluster, &silent);
                        return Some(bytes);
                    }
                    answer => *journal = answer,
                }
            }
            () = sleep_until(timeout) => {
                if Instant::now() >= until {
                    return None;
                }
            }
        }
    }
    None
}

/// Who was asked before, and has not answered while another one has, is asked last for a while.
fn blame_the_silent(cluster: &Cluster, choice: &ReplicaChoice, answered: NodeId) {
    let silent: Vec<NodeId> = choice.silent().iter().copied().filter(|silent| *silent != answered).collect();
    blame(cluster, &silent);
}

fn blame(cluster: &Cluster, silent: &[NodeId]) {
    for node in silent {
        cluster.with_health(|health| health.handle_failure(*node, now()));
    }
}

fn choose(cluster: &Cluster, key: &ChunkKey) -> ReplicaChoice {
    let map = cluster.map();
    let Some(placement) = map.placement() else {
        return ReplicaChoice::new(Vec::new(), Vec::new(), 0);
    };
    let partition = placement.bits().partition_of(key);
    let candidate = |node| {
        cluster.with_health(|health| Candidate {
            node,
            suspect: health.is_suspect(node, now()) || !map.is_in(node),
            load: health.load(node),
        })
    };
    let owners = placement.owners(partition).map(candidate).collect();
    let [.., salt] = key.as_bytes();
    ReplicaChoice::new(owners, map.others(partition).map(candidate).collect(), usize::from(*salt))
}

async fn get(cluster: &Cluster, node: NodeId, slice: ChunkSlice) -> Result<Bytes, GetError> {
    let request = ChunkRequest::Get { key: slice.key, offset: slice.offset, len: slice.len };
    let (answer, mut body) = cluster.chunk(node, request, &[], GET_DEADLINE).await?;
    let ChunkAnswer::Got { chunk_len, offset, proof_len, gc: _ } = answer else {
        return Err(ChunkCallError::Confused.into());
    };
    // The length that counts is the namespace's: it shapes the tree.
    if chunk_len != slice.chunk_len || proof_len as usize > body.len() {
        return Err(GetError::Damaged);
    }
    let bytes = body.split_off(proof_len as usize);
    let range = tree::verify(slice.key, chunk_len, offset, bytes, &body).map_err(|_| GetError::Damaged)?;
    range.slice(slice.offset, slice.len).ok_or(GetError::Damaged)
}

/// Tells a node that its copy is bad, and does not wait for what it says.
fn report(cluster: &Cluster, node: NodeId, key: ChunkKey, error: &GetError) {
    if matches!(error, GetError::Damaged) {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let suspect = ChunkRequest::Suspect { key };
            // It scrubs what it holds anyway: a word that is lost delays the repair, no more.
            let _noted = cluster.chunk(node, suspect, &[], GET_DEADLINE).await.is_ok();
        });
    }
}

fn tried(cluster: &Cluster, failures: &[(NodeId, GetError)]) -> String {
    let map = cluster.map();
    if map.ring.is_none() {
        return "no ring is known".into();
    }
    let words: Vec<String> = failures
        .iter()
        .map(|(node, error)| {
            let address = map.node(*node).map_or_else(|| node.to_string(), |row| row.address.to_string());
            let error = error.to_string();
            if error.contains(&address) { error } else { format!("{address}: {error}") }
        })
        .collect();
    if words.is_empty() { "no answer in time".into() } else { words.join("; ") }
}
