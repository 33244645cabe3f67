//! Finds out what another holder has and this node lacks, and has it fetched.
//!
//! Digests come first: of a partition whose digest is the same on both sides nothing is listed.
//!
//! # Invariants
//! - A partition that was compared leaves nothing out: whatever its holder held all the while is held here with a stamp that is
//!   no lower, or was failed to be fetched and is said to be.
//!
//! Why equal digests say as much as a list: they cover the same copies with the same stamps ([`PartitionDigest`]). The
//! holder's was made first, so it covers whatever it had acknowledged before it was asked, as a list would; this node's was
//! made after, of stable copies in use. So each listed key would have been found held, stable, and stamped no lower. The
//! stamps belong to it: a copy with a lower one may be deleted here on old news while it counts there, and a node that
//! says that it has everything must not mean such copies. Copies that differ in nothing but a stamp are listed, which
//! raises the lower one, so both sides come to be equal.
//!
//! A copy whose deletion is asked for here while the digest is made may be in it. With a stamp as high as the holder's, either
//! it goes because no file can name it any more (`garbage::judge`), or it is damaged and fetched again like any other; and
//! what is dropped because it is placed elsewhere has gone before anything is compared for a partition that comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::StreamExt;
use ring::{ChunkKey, GcEpoch, NodeId, Partition};
use tokio::time::Instant;
use tracing::debug;
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, PartitionDigest},
    cluster::ClusterMap,
};

use super::{
    fetch::{Copy, fetch},
    plan,
};
use crate::node::Node;

/// Work that one page of a comparison counts for, at most: what takes longer waits for something else.
const PAGE_WORK_MAX: Duration = Duration::from_millis(200);

/// What came of a span.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) fetched: u64,
    pub(super) failed: u64,
    /// Keys that had to be listed.
    pub(super) listed: u64,
    /// Spent on finding out what is missing.
    pub(super) worked: Duration,
    /// Partitions of those that failed.
    pub(super) incomplete: BTreeSet<Partition>,
}

/// Compares partitions with `holder`, and fetches what is missing here.
pub(super) async fn fetch_window(
    node: &Arc<Node>,
    map: &Arc<ClusterMap>,
    holder: NodeId,
    window: &plan::Window,
) -> Result<Taken, Refusal> {
    let mut taken = Taken::default();
    for unequal in unequal(node, map, holder, window, &mut taken.worked).await? {
        fetch_listed(node, map, holder, unequal, &mut taken).await?;
    }
    Ok(taken)
}

/// The parts of `window` of which `holder` does not hold just the same as this node.
async fn unequal(
    node: &Node,
    map: &ClusterMap,
    holder: NodeId,
    window: &plan::Window,
    worked: &mut Duration,
) -> Result<Vec<plan::Span>, Refusal> {
    let bits = map.placement().ok_or(Refusal::NotServing)?.bits();
    let mut unequal = Vec::new();
    let mut rest = Some(window.first());
    while let Some(from) = rest {
        let span = window.from(from);
        let began = Instant::now();
        let theirs = digests(node, map, holder, span).await?;
        // Only now: what the holder had is to be found here after it said so.
        let ours = node.chunks.digests(bits, span.first, span.last).await;
        let ours = ours.map_err(|error| crate::serve::list_refusal(&error))?;
        *worked += began.elapsed().min(PAGE_WORK_MAX);
        if theirs.is_empty() || ours.is_empty() {
            return Err(Refusal::Malformed);
        }
        rest = plan::note_unequal(&mut unequal, window, from, &theirs, &ours);
    }
    Ok(unequal)
}

async fn digests(
    node: &Node,
    map: &ClusterMap,
    holder: NodeId,
    span: plan::Span,
) -> Result<Vec<PartitionDigest>, Refusal> {
    let request = Request::Chunk(ChunkRequest::Digest { first: span.first, last: span.last, epoch: map.epoch });
    match node.ask(holder, &request, node.config.repair.deadline).await? {
        Answer::Chunk(ChunkAnswer::Digests { digests }) => Ok(digests),
        _ => Err(Refusal::Malformed),
    }
}

/// Lists one span of partitions at `holder`, page by page, and fetches what is missing here.
async fn fetch_listed(
    node: &Arc<Node>,
    map: &Arc<ClusterMap>,
    holder: NodeId,
    span: plan::Span,
    taken: &mut Taken,
) -> Result<(), Refusal> {
    let bits = map.placement().ok_or(Refusal::NotServing)?.bits();
    let mut after = None;
    loop {
        let began = Instant::now();
        let page = list(node, map, holder, span, after).await?;
        let listed = page.keys.iter().copied().filter(|(key, _)| span.contains(bits.partition_of(key)));
        let missing = missing_here(node, listed).await?;
        taken.listed += page.keys.len() as u64;
        taken.worked += began.elapsed().min(PAGE_WORK_MAX);
        let missing = crate::garbage::worth_fetching(node, missing).await;
        let missing: Vec<_> = missing.into_iter().map(|copy| (copy, Lacking::new(node))).collect();
        let fetches = missing.into_iter().map(async |((key, gc), lacking)| {
            let fetched = fetch(node, map, key, gc, Copy::Keep).await;
            drop(lacking);
            (key, fetched)
        });
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
            return Ok(());
        }
    }
}

/// A chunk that counts as lacking until it was fetched or nobody tries to any more.
struct Lacking(Arc<Node>);

impl Lacking {
    fn new(node: &Arc<Node>) -> Self {
        node.repair.fetching.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(node))
    }
}

impl Drop for Lacking {
    fn drop(&mut self) {
        self.0.repair.fetching.fetch_sub(1, Ordering::Relaxed);
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
    let request = Request::Chunk(ChunkRequest::List { first: span.first, last: span.last, after, epoch: map.epoch });
    match node.ask(holder, &request, node.config.repair.deadline).await? {
        Answer::Chunk(ChunkAnswer::Listed { keys, end }) => Ok(ListedPage { keys, end }),
        _ => Err(Refusal::Malformed),
    }
}
