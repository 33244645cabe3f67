//! Fetches the partitions that this node is to own, and tells the leader which it holds whole.
//!
//! A batch at a time, those first of which fewest owners are left: lists the keys at the owners, fetches what is missing
//! here, and confirms a partition when enough owners were listed to the end and everything they listed is kept. A
//! confirmation is said again until the partition is settled, because a new leader knows nothing of it.
//!
//! # Invariants
//! - What is confirmed is on stable storage here, and is not dropped any more as long as the transition lasts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ring::{Epoch, NodeId, Partition};
use tokio::time::Instant;
use tracing::{debug, info};
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterMap, ClusterRequest},
    moves::{CONFIRMED_MAX, MovesAnswer, MovesRequest},
};

use super::{fetch_span, plan};
use crate::node::Node;

/// Partitions fetched between two confirmations: the sooner one is settled, the sooner its writes reach fewer nodes.
const BATCH: usize = 64;

/// Between two confirmations of the same.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// How long a confirmation may take.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when owners could not be listed, or chunks not fetched.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How long a holder that did not answer is asked only where nobody else will do.
const SPARED_FOR: Duration = Duration::from_secs(10);

/// Without a transition there is nothing to look at until the map changes.
const IDLE: Duration = Duration::from_secs(60);

/// What was done for the transition under way.
#[derive(Default)]
struct Takeover {
    epoch: Epoch,
    confirmed: BTreeSet<Partition>,
    told: Option<Instant>,
    silent: BTreeMap<NodeId, Instant>,
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
        let owners_left =
            |partition: &Partition| placement.owners(*partition).filter(|owner| map.is_in(*owner)).count();
        let mut open: Vec<Partition> = coming.difference(&self.confirmed).copied().collect();
        // A stable sort: neighbours stay together, and are listed in one go.
        open.sort_by_key(owners_left);
        open.truncate(BATCH);
        open.sort_unstable();
        let mut pause = Duration::ZERO;
        if !open.is_empty() {
            let whole = self.fetch(node, &map, &open).await;
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

    /// Fetches what is missing of these partitions; those of which everything is here.
    async fn fetch(&mut self, node: &Arc<Node>, map: &Arc<ClusterMap>, open: &[Partition]) -> Vec<Partition> {
        let wanted: BTreeSet<Partition> = open.iter().copied().collect();
        let mut coverage = plan::Coverage::new(open.iter().copied(), node.id);
        let (mut fetched, mut incomplete) = (0, BTreeSet::new());
        let now = Instant::now();
        self.silent.retain(|_, until| *until > now);
        let mut holders: Vec<_> = plan::spans(map, open.iter().copied(), node.id).into_iter().collect();
        holders.sort_by_key(|(holder, _)| self.silent.contains_key(holder) || !map.is_in(*holder));
        for (holder, spans) in holders {
            let spared = self.silent.contains_key(&holder) || !map.is_in(holder);
            if spared && open.iter().all(|partition| coverage.is_covered(map, *partition)) {
                continue;
            }
            for span in spans {
                match fetch_span(node, map, holder, span, |partition| wanted.contains(&partition)).await {
                    Ok(taken) => {
                        fetched += taken.fetched;
                        incomplete.extend(taken.incomplete);
                        coverage.handle_listed(map, holder, span);
                    }
                    Err(refusal) => {
                        debug!(?holder, %refusal, "an owner cannot be listed now");
                        self.silent.insert(holder, Instant::now() + SPARED_FOR);
                        break;
                    }
                }
            }
        }
        let is_whole = |partition: &Partition| coverage.is_covered(map, *partition) && !incomplete.contains(partition);
        let whole: Vec<Partition> = open.iter().copied().filter(is_whole).collect();
        info!(epoch = %self.epoch, partitions = open.len(), whole = whole.len(), fetched, "taking over");
        whole
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
