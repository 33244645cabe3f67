//! Makes partitions whole that come to this node, and tells the leader which it holds whole.
//!
//! They come for one of two reasons ([`HandOver`]): the ring changes and this node is to own them, or it owns them and
//! others took writes in the place of an owner that was away. Either way it goes a batch at a time: compares with the
//! holders, fetches what is missing here, and confirms a partition when enough of them were compared to the end and
//! everything they hold is kept. A confirmation is said again until it has had its effect, because a new leader knows
//! nothing of it.
//!
//! # Invariants
//! - What is confirmed is on stable storage here, and is not dropped any more as long as this node is to have it.
//! - What is confirmed as clean was compared by a map since which nobody went away or came back, of partitions that do not
//!   move and whose owners take their writes themselves: no put that counts can come to others afterwards.
//!
//! # Not here
//! When copies of others go (`leftovers`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ring::{Epoch, Partition};
use tokio::time::Instant;
use tracing::debug;
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterMap, ClusterRequest},
    moves::{CONFIRMED_MAX, MovesAnswer, MovesRequest},
};

use super::whole::{Gathered, Gatherer};
use crate::node::Node;

/// Between two confirmations of the same.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// How long a confirmation may take.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when holders could not be compared with, or chunks not fetched.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Partitions fetched between two confirmations, at most.
const BATCH_MAX: usize = 256;

/// How long a batch is to take. The sooner a partition is settled, the sooner its writes reach fewer nodes; but between two
/// batches fewer chunks are on their way than could be.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// Where nothing is due there is nothing to look at until the map changes.
const IDLE: Duration = Duration::from_secs(60);

/// Why partitions come to this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum HandOver {
    /// The ring changes.
    Move,
    /// Others took what an owner, maybe this node, did not take while it was away.
    Return,
}

/// Partitions that are to be made whole, each with the number of its owners that are not out.
type Due = BTreeMap<Partition, usize>;

impl HandOver {
    /// What is due by this map, and the epoch for which it is confirmed; nothing if there is no such hand-over.
    fn due(self, map: &ClusterMap, node: &Node) -> Option<(Epoch, Due)> {
        let placement = map.placement()?;
        let (epoch, partitions): (Epoch, Vec<Partition>) = match self {
            Self::Move => {
                placement.transition()?;
                (placement.epoch(), placement.coming_to(node.id).collect())
            }
            Self::Return => {
                let is_due =
                    |partition: &Partition| placement.is_owner(*partition, node.id) && map.can_be_clean(*partition);
                (map.acting, map.unclean().into_iter().filter(is_due).collect())
            }
        };
        let owners_left = |partition| placement.owners(partition).filter(|owner| map.is_in(*owner)).count();
        Some((epoch, partitions.into_iter().map(|partition| (partition, owners_left(partition))).collect()))
    }

    /// Partitions of the first batch. Of those that return most lack nothing.
    fn first_batch(self) -> usize {
        match self {
            Self::Move => 64,
            Self::Return => BATCH_MAX,
        }
    }

    /// Tells the leader, which may be this node.
    async fn confirm(self, node: &Node, epoch: Epoch, partitions: Vec<Partition>) -> Result<(), Refusal> {
        let here = node.with_leader_state(|leader| match self {
            Self::Move => leader.moves.handle_confirm(node.id, epoch, &partitions),
            Self::Return => leader.stand_ins.handle_confirm(node.id, epoch, &partitions),
        });
        if here.is_some() {
            return Ok(());
        }
        let request = match self {
            Self::Move => MovesRequest::Confirm { epoch, partitions },
            Self::Return => MovesRequest::ConfirmClean { acting: epoch, partitions },
        };
        let request = Request::Cluster(ClusterRequest::Moves(request));
        match node.ask_leader(&request, CONFIRM_DEADLINE).await? {
            Answer::Cluster(ClusterAnswer::Moves(MovesAnswer::Noted)) => Ok(()),
            _ => Err(Refusal::Malformed),
        }
    }
}

/// Fetches what this node is to own, until it stops.
pub(crate) async fn take_over(node: Arc<Node>) {
    run(node, HandOver::Move).await;
}

/// Fetches what others took in the place of owners that were away, until the node stops.
pub(crate) async fn clean(node: Arc<Node>) {
    run(node, HandOver::Return).await;
}

async fn run(node: Arc<Node>, why: HandOver) {
    let mut maps = node.watch_map();
    let mut progress = Progress::default();
    loop {
        let pause = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            pause = progress.step(&node, why) => pause,
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

/// How many partitions are fetched next, after a batch of `batch`, of which so many chunks were missing, took so long. Pure.
fn next_batch(batch: usize, fetched: u64, took: Duration) -> usize {
    // Where nothing was missing it was asking that took so long, and that takes little longer for more.
    let wanted = if fetched == 0 || took < BATCH_TIME / 2 {
        batch * 2
    } else if took > BATCH_TIME * 2 {
        batch / 2
    } else {
        batch
    };
    wanted.clamp(1, BATCH_MAX)
}

/// What was done for one epoch.
#[derive(Default)]
struct Progress {
    epoch: Epoch,
    /// Partitions fetched between two confirmations, once that is known.
    batch: Option<usize>,
    confirmed: BTreeSet<Partition>,
    told: Option<Instant>,
    gatherer: Gatherer,
}

impl Progress {
    /// One batch; how long to wait before the next.
    async fn step(&mut self, node: &Arc<Node>, why: HandOver) -> Duration {
        let Some(map) = node.map() else { return IDLE };
        let Some((epoch, due)) = why.due(&map, node) else { return IDLE };
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::default() };
            // Copies that are being dropped by an older map are gone before any is counted.
            drop(node.repair.vouch().await);
        }
        self.confirmed.retain(|partition| due.contains_key(partition));
        let open = due.keys().copied().filter(|partition| !self.confirmed.contains(partition));
        let batch = self.batch.unwrap_or_else(|| why.first_batch());
        let open = self.gatherer.next(open, |partition| due[&partition], batch);
        let mut pause = Duration::ZERO;
        if open.is_empty() {
            pause = if self.confirmed.is_empty() { IDLE } else { CONFIRM_EVERY };
        } else {
            let began = Instant::now();
            let Gathered { whole, fetched } = self.gatherer.gather(node, &map, &open).await;
            self.batch = Some(next_batch(batch, fetched, began.elapsed()));
            if whole.is_empty() {
                pause = RETRY_AFTER;
            } else {
                self.told = None;
                self.confirmed.extend(whole);
            }
        }
        self.tell(node, why).await;
        pause
    }

    /// Tells the leader what is confirmed, if that is new or was said a while ago.
    async fn tell(&mut self, node: &Arc<Node>, why: HandOver) {
        let now = Instant::now();
        if self.confirmed.is_empty() || self.told.is_some_and(|told| now < told + CONFIRM_EVERY) {
            return;
        }
        let all: Vec<Partition> = self.confirmed.iter().copied().collect();
        for partitions in all.chunks(CONFIRMED_MAX) {
            match why.confirm(node, self.epoch, partitions.to_vec()).await {
                Ok(()) => self.told = Some(now),
                Err(refusal) => debug!(%refusal, ?why, "the leader cannot be told of what everything is here"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BATCH_MAX, BATCH_TIME, next_batch};

    #[test]
    fn batches_come_to_take_about_as_long_as_they_are_to() {
        // Little to fetch: as many as may be.
        let of_little = (0..10).fold(64, |batch, _| next_batch(batch, 9, BATCH_TIME / 1000));
        assert_eq!(of_little, BATCH_MAX);
        // A busy machine, and nothing to fetch either.
        let of_questions = (0..10).fold(64, |batch, _| next_batch(batch, 0, BATCH_TIME * 3));
        assert_eq!(of_questions, BATCH_MAX);
        // A partition takes three times as long: each is told as soon as it is whole.
        let of_much = (0..10).fold(64, |batch, _| next_batch(batch, 9, BATCH_TIME * 3 * u32::try_from(batch).unwrap()));
        assert_eq!(of_much, 1);
        // One takes a hundredth: some fifty to two hundred together.
        let of_some =
            (0..10).fold(1, |batch, _| next_batch(batch, 9, BATCH_TIME * u32::try_from(batch).unwrap() / 100));
        assert!((50..=200).contains(&of_some), "{of_some}");
    }
}
