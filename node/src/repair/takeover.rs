//! Fetches the partitions that this node is to own, and tells the leader which it holds whole.
//!
//! A batch at a time, those first of which fewest owners are left: lists the keys at the holders, fetches what is missing
//! here, and confirms a partition when enough of them were listed to the end and everything they listed is kept. A
//! confirmation is said again until the partition is settled, because a new leader knows nothing of it.
//!
//! # Invariants
//! - What is confirmed is on stable storage here, and is not dropped any more as long as the transition lasts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ring::{Epoch, Partition};
use tokio::time::Instant;
use tracing::debug;
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterRequest},
    moves::{CONFIRMED_MAX, MovesAnswer, MovesRequest},
};

use super::whole::Gatherer;
use crate::node::Node;

/// Partitions fetched between two confirmations: the sooner one is settled, the sooner its writes reach fewer nodes.
const BATCH: usize = 64;

/// Between two confirmations of the same.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// How long a confirmation may take.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when owners could not be listed, or chunks not fetched.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Without a transition there is nothing to look at until the map changes.
const IDLE: Duration = Duration::from_secs(60);

/// What was done for the transition under way.
#[derive(Default)]
struct Takeover {
    epoch: Epoch,
    confirmed: BTreeSet<Partition>,
    told: Option<Instant>,
    gatherer: Gatherer,
}

/// Takes over until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut maps = node.watch_map();
    let mut takeover = Takeover::default();
    loop {
        let pause = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            pause = takeover.step(&node) => pause,
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

impl Takeover {
    /// One batch; how long to wait before the next.
    async fn step(&mut self, node: &Arc<Node>) -> Duration {
        let Some(map) = node.map() else { return IDLE };
        let Some(placement) = map.placement().filter(|placement| placement.transition().is_some()) else { return IDLE };
        if placement.epoch() != self.epoch {
            *self = Self { epoch: placement.epoch(), ..Self::default() };
            // Copies that are being dropped by an older map are gone before any is counted.
            drop(node.repair.vouch().await);
        }
        let coming: BTreeSet<Partition> = placement.coming_to(node.id).collect();
        self.confirmed.retain(|partition| coming.contains(partition));
        let owners_left = |partition: Partition| placement.owners(partition).filter(|owner| map.is_in(*owner)).count();
        let open = self.gatherer.next(coming.difference(&self.confirmed).copied(), owners_left, BATCH);
        let mut pause = Duration::ZERO;
        if !open.is_empty() {
            let whole = self.gatherer.gather(node, &map, &open).await;
            if whole.is_empty() {
                pause = RETRY_AFTER;
            } else {
                self.told = None;
                self.confirmed.extend(whole);
            }
        } else {
            pause = if self.confirmed.is_empty() { IDLE } else { CONFIRM_EVERY };
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
            match confirm(node, self.epoch, partitions.to_vec()).await {
                Ok(()) => self.told = Some(now),
                Err(refusal) => debug!(%refusal, "the leader cannot be told what was taken over"),
            }
        }
    }
}

async fn confirm(node: &Node, epoch: Epoch, partitions: Vec<Partition>) -> Result<(), Refusal> {
    let here = node.with_leader_state(|leader| leader.moves.handle_confirm(node.id, epoch, &partitions));
    if here.is_some() {
        return Ok(());
    }
    let request = Request::Cluster(ClusterRequest::Moves(MovesRequest::Confirm { epoch, partitions }));
    match node.ask_leader(&request, CONFIRM_DEADLINE).await? {
        Answer::Cluster(ClusterAnswer::Moves(MovesAnswer::Noted)) => Ok(()),
        _ => Err(Refusal::Malformed),
    }
}
