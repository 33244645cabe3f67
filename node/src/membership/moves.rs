//! What the leader does about nodes that come and go: whom to give up, whom to take back, when to begin a change of the
//! ring, which partitions have gone over. Pure: told of words and of time.
//!
//! # Invariants
//! - Nothing here is needed to be safe: a wrong guess about who is alive costs moves, not chunks. What is decided goes
//!   through the Raft log, and is checked there against the map of that moment (random schedules of both, with nodes that
//!   hold chunks, are in `namespace/tests/moves.rs`).
//! - A partition is settled only when every node that is to own it has confirmed it for this very transition.

use std::{collections::BTreeMap, time::Duration};

use ring::{Epoch, Member, NodeId, Partition, Placement};
use tokio::time::Instant;
use wire::{
    cluster::{ClusterMap, NodeRow},
    health::Moving,
    moves::{AwayStatus, Coming, Leaving, MovesStatus, TransitionStatus},
};

use super::confirmed::Confirmed;
use crate::namespace::{ClusterCommand, SETTLED_MAX};

/// Between two commands that settle partitions, unless everything is confirmed: each makes a new map, which travels to
/// every node.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// What the leader has heard of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hearing {
    /// It has spoken to this leader, and is not down.
    pub heard: bool,
    /// How long it has been silent, since this leader leads at most.
    pub silent: Duration,
    /// How long it has been heard without being down in between, by this leader.
    pub steady: Duration,
}

/// What nodes have confirmed to this leader. Soft state: they say it again.
#[derive(Debug)]
pub struct Moves {
    out_after: Duration,
    confirmed: Confirmed,
    settled: Option<Instant>,
    /// The transition under way, when it was first seen, and how many replicas were still to come then.
    seen: Option<(Epoch, Instant, u32)>,
}

impl Moves {
    /// Nothing confirmed yet; a node is given up after a silence of `out_after`.
    pub fn new(out_after: Duration) -> Self {
        Self { out_after, confirmed: Confirmed::default(), settled: None, seen: None }
    }

    /// `node` holds what the owners of these partitions hold, for the transition of `epoch`.
    pub fn handle_confirm(&mut self, node: NodeId, epoch: Epoch, partitions: &[Partition]) {
        self.confirmed.handle(node, epoch, partitions);
    }

    /// What to propose now, if anything. Asked again with the map that came of it, or when time has passed.
    pub fn poll(
        &mut self,
        map: &ClusterMap,
        hearing: impl Fn(NodeId) -> Hearing,
        now: Instant,
    ) -> Option<ClusterCommand> {
        let placement = map.placement()?;
        self.see(map, now);
        self.whom_to_leave(map, &hearing)
            .or_else(|| rebalance(map, &placement, &hearing))
            .or_else(|| self.settle(&placement, now))
    }

    /// A node that has been silent for too long, as long as enough others are left; or one that is back.
    fn whom_to_leave(&self, map: &ClusterMap, hearing: &impl Fn(NodeId) -> Hearing) -> Option<ClusterCommand> {
        let holding = map.nodes.iter().filter(|row| map.leaving(row.id).is_none()).count();
        map.nodes.iter().find_map(|NodeRow { id, .. }| {
            let Hearing { heard, silent, .. } = hearing(*id);
            let why = match map.leaving(*id) {
                None if silent >= self.out_after && holding > map.replicas.count() => Some(Leaving::Out),
                Some(Leaving::Out) if heard => None,
                Some(Leaving::Out | Leaving::Draining) | None => return None,
            };
            Some(ClusterCommand::SetLeaving { node: *id, why })
        })
    }

    /// Partitions that every node which is to own them has confirmed.
    fn settle(&mut self, placement: &Placement<'_>, now: Instant) -> Option<ClusterCommand> {
        let transition = placement.transition()?;
        let ready: Vec<Partition> =
            transition.unsettled().filter(|partition| self.is_confirmed(placement, *partition)).collect();
        let is_all = ready.len() == transition.unsettled().count();
        let is_due = self.settled.is_none_or(|settled| now >= settled + SETTLE_EVERY);
        if ready.is_empty() || !(is_all || is_due) {
            return None;
        }
        self.settled = Some(now);
        let partitions = ready.into_iter().take(SETTLED_MAX).collect();
        Some(ClusterCommand::Settle { epoch: transition.epoch(), partitions })
    }

    fn is_confirmed(&self, placement: &Placement<'_>, partition: Partition) -> bool {
        placement.coming(partition).all(|node| self.has_confirmed(placement, node, partition))
    }

    fn has_confirmed(&self, placement: &Placement<'_>, node: NodeId, partition: Partition) -> bool {
        self.confirmed.has(placement.epoch(), node, partition)
    }

    /// Notes when a transition is first seen.
    fn see(&mut self, map: &ClusterMap, now: Instant) {
        let epoch = map.placement().and_then(|placement| placement.transition().map(|under_way| under_way.epoch()));
        if self.seen.map(|(epoch, _, _)| epoch) != epoch {
            let left = self.status(map).transition.map(|transition| transition.replicas_left);
            self.seen = epoch.zip(left).map(|(epoch, left)| (epoch, now, left));
        }
    }

    /// How fast replicas have come, of the transition under way; none if there is none, or it is too new.
    pub fn moving(&self, map: &ClusterMap, now: Instant) -> Option<Moving> {
        let transition = self.status(map).transition?;
        let (_, since, left) = self.seen.filter(|(epoch, _, _)| *epoch == transition.epoch)?;
        let seen_ms = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        Some(Moving { seen_ms, replicas_done: left.saturating_sub(transition.replicas_left) })
    }

    /// How far the moves are.
    pub fn status(&self, map: &ClusterMap) -> MovesStatus {
        let epoch = map.epoch;
        let Some(placement) = map.placement() else { return MovesStatus { epoch, ..MovesStatus::default() } };
        let is_endangered = |partition: &Partition| placement.owners(*partition).any(|owner| !map.is_in(owner));
        let endangered = count(placement.bits().partitions().filter(is_endangered).count());
        let transition = placement.transition().map(|transition| {
            let mut coming: BTreeMap<NodeId, Coming> = BTreeMap::new();
            for partition in transition.unsettled() {
                for node in placement.coming(partition) {
                    let of_node = coming.entry(node).or_insert(Coming { node, partitions: 0, confirmed: 0 });
                    of_node.partitions += 1;
                    of_node.confirmed += u32::from(self.has_confirmed(&placement, node, partition));
                }
            }
            TransitionStatus {
                epoch: transition.epoch(),
                unsettled: count(transition.unsettled().count()),
                replicas_left: coming.values().map(|coming| coming.partitions - coming.confirmed).sum(),
                coming: coming.into_values().collect(),
            }
        });
        let away = map.away.iter().map(|away| AwayStatus { node: away.node, partitions: count(away.partitions()) });
        MovesStatus { epoch, transition, endangered, away: away.collect(), unclean: count(map.unclean().len()) }
    }
}

/// The change to the ring of those members that are to hold partitions, if it is another than the one there is or that
/// is coming. A member that was never heard is not waited for with the chunks of others.
fn rebalance(
    map: &ClusterMap,
    placement: &Placement<'_>,
    hearing: &impl Fn(NodeId) -> Hearing,
) -> Option<ClusterCommand> {
    let target = placement.target().members();
    let is_wanted = |row: &&NodeRow| {
        map.leaving(row.id).is_none() && (target.iter().any(|member| member.id == row.id) || hearing(row.id).heard)
    };
    let mut wanted: Vec<Member> = map.nodes.iter().filter(is_wanted).map(NodeRow::member).collect();
    wanted.sort_by_key(|member| member.id);
    if wanted == target || wanted.len() < map.replicas.count() {
        return None;
    }
    Some(ClusterCommand::Rebalance { members: wanted.into_iter().map(|member| member.id).collect() })
}

fn count(count: usize) -> u32 {
    u32::try_from(count).expect("a ring has at most 2^20 partitions")
}
