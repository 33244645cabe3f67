//! Fetches what others took in the place of a node that was away, and tells the leader of which partitions this node has
//! everything: when all owners have said so, what the others hold counts no more.
//!
//! # Invariants
//! - Confirmed is what was listed and fetched by a map since which nobody went away or came back, of partitions that do not
//!   move and whose owners take their writes themselves: no put that counts can come to others afterwards.
//!
//! # Not here
//! When copies of others go (`leftovers`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ring::{Epoch, Partition};
use tokio::time::Instant;
use tracing::debug;
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterMap, ClusterRequest},
    moves::{CONFIRMED_MAX, MovesAnswer, MovesRequest},
};

use super::whole::Gatherer;
use crate::node::Node;

/// Partitions fetched between two confirmations.
const BATCH: usize = 256;

/// Between two confirmations of the same.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// How long a confirmation may take.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when holders could not be listed, or chunks not fetched.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// While everything is clean there is nothing to look at until the map changes.
const IDLE: Duration = Duration::from_secs(60);

/// What was done since stand-ins changed last.
#[derive(Default)]
struct Cleaner {
    acting: Epoch,
    confirmed: BTreeSet<Partition>,
    told: Option<Instant>,
    gatherer: Gatherer,
}

/// Cleans until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut maps = node.watch_map();
    let mut cleaner = Cleaner::default();
    loop {
        let pause = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            pause = cleaner.step(&node) => pause,
        };
        if pause.is_zero() {
            continue;
        }
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            changed = maps.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Partitions that this node owns, and that could be clean.
fn due(map: &ClusterMap, node: &Node) -> BTreeSet<Partition> {
    let Some(placement) = map.placement() else { return BTreeSet::new() };
    let is_due = |partition: &Partition| placement.is_owner(*partition, node.id) && map.can_be_clean(*partition);
    map.unclean().into_iter().filter(is_due).collect()
}

impl Cleaner {
    /// One batch; how long to wait before the next.
    async fn step(&mut self, node: &Arc<Node>) -> Duration {
        let Some(map) = node.map() else { return IDLE };
        if map.acting != self.acting {
            *self = Self { acting: map.acting, ..Self::default() };
            // Copies that are being dropped by an older map are gone before any is counted.
            drop(node.repair.vouch().await);
        }
        let due = due(&map, node);
        self.confirmed.retain(|partition| due.contains(partition));
        let open = self.gatherer.next(due.difference(&self.confirmed).copied(), |_| 0, BATCH);
        let mut pause = Duration::ZERO;
        if open.is_empty() {
            pause = if self.confirmed.is_empty() { IDLE } else { CONFIRM_EVERY };
        } else {
            let whole = self.gatherer.gather(node, &map, &open).await;
            if whole.is_empty() {
                pause = RETRY_AFTER;
            } else {
                self.told = None;
                self.confirmed.extend(whole);
            }
        }
        self.tell(node).await;
        pause
    }

    /// Tells the leader what is confirmed, if that is new or was said a while ago.
    async fn tell(&mut self, node: &Arc<Node>) {
        let now = Instant::now();
        if self.confirmed.is_empty() || self.told.is_some_and(|told| now < told + CONFIRM_EVERY) {
            return;
        }
        let all: Vec<Partition> = self.confirmed.iter().copied().collect();
        for partitions in all.chunks(CONFIRMED_MAX) {
            match confirm(node, self.acting, partitions.to_vec()).await {
                Ok(()) => self.told = Some(now),
                Err(refusal) => debug!(%refusal, "the leader cannot be told of what everything is here"),
            }
        }
    }
}

async fn confirm(node: &Node, acting: Epoch, partitions: Vec<Partition>) -> Result<(), Refusal> {
    let here = node.with_leader_state(|leader| leader.stand_ins.handle_confirm(node.id, acting, &partitions));
    if here.is_some() {
        return Ok(());
    }
    let request = Request::Cluster(ClusterRequest::Moves(MovesRequest::ConfirmClean { acting, partitions }));
    match node.ask_leader(&request, CONFIRM_DEADLINE).await? {
        Answer::Cluster(ClusterAnswer::Moves(MovesAnswer::Noted)) => Ok(()),
        _ => Err(Refusal::Malformed),
    }
}
