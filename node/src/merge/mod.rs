//! Merges what was written in many small pieces. The leader does it.
//!
//! A file that was written a page at a time is as many chunks, rows, and requests of every reader. What has rested for a
//! while is read, put as one chunk of up to a megabyte, and named in place of the pieces, if they are there still.
//!
//! # Invariants
//! - What takes the place of the pieces is made of bytes that led to the keys of the very extents it replaces: `apply`
//!   compares them.
//! - It is on stable storage on every replica, and none is missing: a merge never makes a file less safe than it was.
//! - What files share, when it is looked at, stays shared.
//! - Nothing here is needed by anybody. Whatever fails is left as it is, and looked at again by the next walk.
//!
//! # Not here
//! What a merge changes (`namespace`). Clients that know extents of before: the version of the bytes stays, so they ask
//! again when a chunk is gone.

mod gather;
mod runs;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};
use wire::{
    Refusal,
    cluster::PutRow,
    namespace::{ChunkSlice, NewExtent},
    tree::VerifiedChunk,
};

use self::{
    gather::{Unreadable, gather},
    runs::{Noted, Run, Runs},
};
use crate::{
    kv::KvError,
    namespace::{self, CommandBody, ExtentsPage},
    node::Node,
    put::{self, Kept, Put, Reach},
};

/// Extents that are looked at in one go.
const PAGE_LEN: usize = 1000;

/// A look at a page is followed by a rest this many times as long: walks are a fiftieth of a processor.
const REST_AFTER_PAGE: u32 = 50;

/// A merge is followed by a rest this many times as long: a fifth of the time, when there is much to do.
const REST_AFTER_MERGE: u32 = 4;

/// After a run that cannot be merged.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// No rest within a walk is longer.
const REST_MAX: Duration = Duration::from_secs(10);

/// Between two walks when nodes are away, or full, at most: what is put in vain has to be collected again.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// How long repair may keep this node busy before a merge is left for later.
const TURN_DEADLINE: Duration = Duration::from_secs(10);

/// How long one replica may take.
const PUT_DEADLINE: Duration = Duration::from_secs(5);

/// How long reading the pieces may take.
const GATHER_DEADLINE: Duration = Duration::from_secs(20);

/// Runs in a row that cannot be merged, until a walk ends early.
const FAILURES_MAX: usize = 4;

/// Merges pause while so many bytes of garbage wait for their deletion: what they replace takes room until then.
const GARBAGE_MAX: u64 = 256 << 20;

/// Why a run was not merged.
#[derive(Debug, thiserror::Error)]
enum MergeError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("its pieces did not come in time")]
    Slow,
    #[error("some replicas are missing, or did not take it")]
    NotPut,
    #[error("the state of the cluster cannot be read: {0}")]
    Kv(#[from] KvError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Walks until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let walks = async {
        let rest = node.config.merge.rest;
        let (mut noted, mut pause) = (None, rest);
        loop {
            sleep(pause).await;
            if !node.is_leader() {
                (noted, pause) = (None, rest);
                continue;
            }
            let noted = noted.get_or_insert_with(Noted::default);
            match walk(&node, noted).await {
                Ok(Walked { merged, failed }) => {
                    if merged > 0 {
                        info!(merged, "runs of short extents are to be one each");
                    }
                    pause = if failed > 0 { longer(pause, rest) } else { rest };
                }
                Err(error) => {
                    debug!(%error, "extents are not merged now");
                    pause = longer(pause, rest);
                }
            }
            noted.turn();
        }
    };
    tokio::select! {
        biased;
        () = node.stop.cancelled() => {}
        () = walks => {}
    }
}

/// The pause after one in which something failed.
fn longer(pause: Duration, rest: Duration) -> Duration {
    (2 * pause).min(PAUSE_MAX.max(rest))
}

/// What a walk came to: runs.
#[derive(Clone, Copy, Debug, Default)]
struct Walked {
    merged: usize,
    failed: usize,
}

/// Looks at every extent there is, and merges what has rested.
async fn walk(node: &Arc<Node>, noted: &mut Noted) -> Result<Walked, MergeError> {
    let (mut runs, mut after) = (Runs::default(), None);
    let (mut walked, mut failures) = (Walked::default(), 0);
    while node.is_leader() {
        let began = Instant::now();
        let rows = node.consensus.local();
        let ExtentsPage { extents, next } = namespace::extents_page(&*rows, after.as_ref(), PAGE_LEN)?;
        let mut found: Vec<Run> = extents.into_iter().filter_map(|(inode, extent)| runs.push(inode, extent)).collect();
        if next.is_none() {
            found.extend(runs.finish());
        }
        found.retain(|run| noted.has_rested(run));
        sleep((began.elapsed() * REST_AFTER_PAGE).min(REST_MAX)).await;
        for run in found {
            while namespace::dead_tally(&*rows)?.bytes > GARBAGE_MAX && node.is_leader() {
                sleep(REST_MAX).await;
            }
            if !node.is_leader() {
                return Ok(walked);
            }
            let began = Instant::now();
            match merge(node, &run).await {
                Ok(done) => {
                    failures = 0;
                    walked.merged += usize::from(done);
                    sleep((began.elapsed() * REST_AFTER_MERGE).min(REST_MAX)).await;
                }
                Err(error) if failures < FAILURES_MAX => {
                    debug!(%error, inode = run.inode.0, offset = run.offset(), "extents are not merged");
                    failures += 1;
                    // What cannot be read is the matter of this run alone.
                    walked.failed += usize::from(!matches!(error, MergeError::Unreadable(_)));
                    sleep(REST_AFTER_FAILURE).await;
                }
                Err(error) => return Err(error),
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(walked)
}

/// Whether the run was worth it, and a merge proposed.
async fn merge(node: &Arc<Node>, run: &Run) -> Result<bool, MergeError> {
    let rows = node.consensus.local();
    if !run.is_kept_alone(|key| namespace::references(&*rows, run.inode, key))? {
        return Ok(false);
    }
    let map = node.map().ok_or(Refusal::NotServing)?;
    let bytes = timeout(GATHER_DEADLINE, gather(node, &map, run)).await.map_err(|_| MergeError::Slow)??;
    // Only now: while others let this node wait, nothing is done here.
    let mut turn = node.repair.turns.begin(TURN_DEADLINE).await?;
    turn.note_bytes(bytes.len() as u64);
    let chunk = VerifiedChunk::seal(bytes);
    drop(turn);
    let (key, len) = (chunk.key(), chunk.chunk_len());
    // As late as can be: nothing holds back what is safe to delete for this put.
    let map = node.map().ok_or(Refusal::NotServing)?;
    let ring = map.placement().ok_or(Refusal::NotServing)?;
    let put_rows = map.put_rows(ring.bits().partition_of(&key));
    let gc = namespace::gc_current(&*rows)?;
    let put = Put { chunk, epoch: map.epoch, gc, deadline: PUT_DEADLINE, kept: Kept::default() };
    let is_whole = |row: &PutRow| row.nodes.len() >= ring.replicas().count();
    if !put_rows.iter().all(is_whole) || !put::put(node, &put, &put_rows, Reach::Everyone).await {
        return Err(MergeError::NotPut);
    }
    let slice = ChunkSlice { key, chunk_len: len, offset: 0, len };
    let merged = NewExtent { offset: run.offset(), slice, epoch: map.epoch, gc };
    let command = CommandBody::Merge { inode: run.inode, merged, replaced: run.digest() };
    crate::membership::propose(node, command).await?;
    Ok(true)
}
