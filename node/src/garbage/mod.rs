//! Collecting garbage: chunks that no file refers to any more lose their copies.
//!
//! A chunk that loses its last reference has a dead row; one whose put was never committed has no row at all. The
//! leader raises the stamp for puts while somebody waits for that, and lets `gc_safe` follow the sessions. Each node
//! asks which of its copies may go, takes them out of use for a while, and deletes those that nobody has stamped again
//! meanwhile. When every holder has said so, the leader removes the dead row.
//!
//! # Invariants
//! - A copy goes only if, in one state of the namespace, no file referred to its chunk and its stamp was lower than any
//!   commit may still carry ([`judge`] says why that is enough).
//! - The stamp is looked at again, by the store, at the moment of deletion.
//!
//! # Not here
//! References and dead rows (`namespace`); how a copy is deleted, and how a segment is compacted (`chunk_store`).

mod collect;
mod compact;
pub mod judge;
mod lead;
#[cfg(test)]
mod tests;

pub use lead::{Claims, Lead};

pub(crate) use collect::{run, worth_fetching};
pub(crate) use compact::keep_compact;

use ring::{ChunkKey, NodeId};
use tokio::time::Instant;
use tracing::{info, warn};
use wire::{Refusal, cluster::ClusterMap};

use crate::{
    membership::live_sessions,
    namespace::{self, CommandBody, DeadLimits, FORGET_MAX},
    node::Node,
};

/// Dead rows that the leader looks at in one round of its housekeeping.
const ROWS_PER_ROUND: usize = 8192;

/// Where the leader's walk over the dead rows has come to.
pub(crate) type Walk = Option<ChunkKey>;

/// The leader's part: raises, advances, and removes rows of which every copy is deleted.
pub(crate) async fn keep(node: &Node, walk: &mut Walk) -> Result<(), Refusal> {
    let rows = node.consensus.local();
    let (current, safe) = counters(node)?;
    let dead = namespace::dead_tally(&*rows).map_err(|error| broken(&error))?;
    let (every, now) = (node.config.garbage.raise_every, Instant::now());
    if node.with_leader_state(|leader| leader.garbage.poll_raise(current, dead, every, now)) == Some(true) {
        crate::membership::propose(node, CommandBody::RaiseGc { from: current }).await?;
    }
    if node.with_leader_state(|leader| leader.garbage.waits(safe, dead)) == Some(true) {
        let live = live_sessions(&*rows)?;
        let lowest = node.with_leader_state(|leader| leader.sessions.lowest_gc(&live)).flatten();
        if let Some(safe) = lead::next_safe(current, safe, lowest) {
            crate::membership::propose(node, CommandBody::AdvanceGc { safe }).await?;
        }
    }
    if dead.chunks == 0 {
        *walk = None;
        return Ok(());
    }
    forget_deleted(node, walk).await
}

/// Removes dead rows of which every holder has deleted its copy.
async fn forget_deleted(node: &Node, walk: &mut Walk) -> Result<(), Refusal> {
    let claims = node.with_leader_state(|leader| leader.garbage.claims().clone()).unwrap_or_default();
    let Some(map) = node.map().filter(|map| map.ring.is_some() && !claims.is_empty()) else { return Ok(()) };
    let ring = map.ring.as_ref().expect("filtered above").epoch();
    let limits = DeadLimits { seen: ROWS_PER_ROUND, found: FORGET_MAX };
    let rows = node.consensus.local();
    let is_over = |key: &ChunkKey, at| claims.cover(ring, holders(&map, key), at);
    let page = namespace::dead_rows(&*rows, *walk, limits, is_over).map_err(|error| broken(&error))?;
    *walk = page.next;
    if !page.rows.is_empty() {
        let count = page.rows.len();
        crate::membership::propose(node, CommandBody::ForgetDead { chunks: page.rows }).await?;
        info!(count, "dead chunks are deleted everywhere");
    }
    Ok(())
}

/// Every node that may hold a chunk: owners, those that are to be owners, and those that held it for others. Those that
/// were removed never come back: nobody waits for their word.
pub(crate) fn holders<'a>(map: &'a ClusterMap, key: &ChunkKey) -> impl Iterator<Item = NodeId> + 'a {
    let placement = map.placement();
    let partition = placement.map(|placement| placement.bits().partition_of(key));
    let row = placement.zip(partition).into_iter().flat_map(|(placement, partition)| {
        placement.owners(partition).chain(placement.next_owners(partition).into_iter().flatten())
    });
    let beside = partition.into_iter().flat_map(|partition| map.may_hold(partition));
    row.chain(beside).filter(|node| map.node(*node).is_some())
}

fn counters(node: &Node) -> Result<(ring::GcEpoch, ring::GcEpoch), Refusal> {
    let rows = node.consensus.local().snapshot();
    let current = namespace::gc_current(&*rows).map_err(|error| broken(&error))?;
    Ok((current, namespace::gc_safe(&*rows).map_err(|error| broken(&error))?))
}

fn broken(error: &crate::kv::KvError) -> Refusal {
    warn!(%error, "the state of the cluster cannot be read");
    Refusal::Internal
}
