//! Previous assignment and members → next assignment. Pure, and in integers only.
//!
//! The story is [`solve`]: what the members allow (`topology`), how much each should hold (`shares`), then either an
//! assignment from nothing (`spread`) or the previous one with the fewest moves (`draft`, `refit`, `repair`), and last
//! who leads each row (`lead`). `PLACEMENT.md` tells why it is done so.
//!
//! # Invariants
//! - Replicas of a partition are on distinct nodes, and as evenly over the zones as the zones' members allow: in
//!   distinct zones while zones suffice.
//! - Every node holds its fair share ([`fair_shares`]), rounded down or up.
//! - The order of the members does not matter.
//!
//! # Not here
//! Counting what a change moves ([`crate::plan`]); moving it (`node::repair`).

mod draft;
mod lead;
mod refit;
mod repair;
mod shares;
mod spread;
#[cfg(test)]
mod tests;
mod topology;

use crate::{Epoch, Member, NodeId, PartitionBits, ReplicaCount, Ring};
use draft::{Draft, Prior};
use shares::Shares;
use topology::{Topology, VACANT};
pub(crate) use topology::{mix, salt};

/// Why no ring can be solved.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// Fewer members than replicas.
    #[error("{members} nodes cannot hold {replicas} distinct replicas")]
    TooFewMembers {
        /// Nodes there are.
        members: usize,
        /// Nodes needed.
        replicas: usize,
    },
    /// More members than a ring can name.
    #[error("a ring names at most 65,535 members, not {members}")]
    TooManyMembers {
        /// Nodes there are.
        members: usize,
    },
    /// A node stands twice among the members.
    #[error("{id} is twice a member of the ring")]
    MemberTwice {
        /// Who.
        id: NodeId,
    },
    /// Partitions can be split, never merged: two of them may be on different nodes.
    #[error("a ring of 2^{previous} partitions cannot become one of 2^{next}")]
    FewerPartitions {
        /// Exponent of the previous ring.
        previous: u8,
        /// Exponent asked for.
        next: u8,
    },
    /// A ring only moves forward.
    #[error("a ring at epoch {previous} cannot become one at epoch {next}")]
    EpochNotNewer {
        /// Epoch of the previous ring.
        previous: Epoch,
        /// Epoch asked for.
        next: Epoch,
    },
}

/// The ring of `epoch` for `members`, with the fewest moves from `previous`.
pub fn solve(
    previous: Option<&Ring>,
    members: &[Member],
    replicas: ReplicaCount,
    bits: PartitionBits,
    epoch: Epoch,
) -> Result<Ring, SolveError> {
    let topology = Topology::new(members, replicas, bits)?;
    let shares = Shares::of(&topology);
    let rows = match previous {
        None => {
            let quotas = shares.quotas(&topology, &vec![0; topology.members.len()]);
            let mut rows = spread::spread(&topology, &quotas.counts);
            lead::balance(&topology, &mut rows, None::<fn(usize) -> u16>);
            rows
        }
        Some(previous) => {
            succeeds(previous, bits, epoch)?;
            let prior = Prior::of(previous, &topology);
            let quotas = shares.quotas(&topology, &prior.loads(&topology));
            let leaders: Vec<u16> = (0..bits.count()).map(|partition| prior.row(partition)[0]).collect();
            let draft = Draft::keeping(&topology, prior, quotas.clone());
            let mut rows = refit::refit(draft).unwrap_or_else(|| {
                // Legal, but it moves almost everything.
                if cfg!(test) {
                    panic!("no history of the tests gets here");
                }
                spread::spread(&topology, &quotas.counts)
            });
            lead::balance(&topology, &mut rows, Some(|partition: usize| leaders[partition]));
            rows
        }
    };
    for row in rows.chunks_exact(replicas.count()) {
        assert!(!row.contains(&VACANT) && topology.admits(row), "the zones of a solved row are admitted");
    }
    Ok(Ring::new(epoch, bits, replicas, topology.members, rows).expect("solved rows are distinct and complete"))
}

/// What a node should hold: a number of replicas of partitions, in 2^-64, rounded down.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FairShare(u128);

impl FairShare {
    /// The share, rounded down.
    pub const fn floor(self) -> usize {
        (self.0 >> 64) as usize
    }

    /// The share, rounded up.
    pub const fn ceil(self) -> usize {
        (self.0.div_ceil(1 << 64)) as usize
    }

    /// The share as a number to show, not to decide by.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / (1u128 << 64) as f64
    }
}

/// How much each of `members` should hold, in the order of their ids: by weight, but nobody more than one replica of
/// each partition, and no zone more or less than the distinctness of zones asks for.
pub fn fair_shares(
    members: &[Member],
    replicas: ReplicaCount,
    bits: PartitionBits,
) -> Result<Vec<(NodeId, FairShare)>, SolveError> {
    let topology = Topology::new(members, replicas, bits)?;
    let shares = Shares::of(&topology).members;
    Ok(topology.members.iter().map(|member| member.id).zip(shares.into_iter().map(FairShare)).collect())
}

/// A number of replicas that must move at least from `previous` to any ring of `members` that keeps the promises: the
/// largest of three bounds.
///
/// - What nodes lack to the nearest legal load.
/// - What rows lack that can keep no more of their nodes.
/// - For each zone, what it must lose in rows that hold too much of it: those rows must gain it from other zones, and
///   the zone must gain it in other rows, together with what it lacks to its load.
pub fn moves_min(
    previous: &Ring,
    members: &[Member],
    replicas: ReplicaCount,
    bits: PartitionBits,
) -> Result<usize, SolveError> {
    let topology = Topology::new(members, replicas, bits)?;
    succeeds(previous, bits, previous.epoch().next())?;
    let prior = Prior::of(previous, &topology);
    let (loads, shares) = (prior.loads(&topology), Shares::of(&topology));
    let quotas = shares.quotas(&topology, &loads);
    let lacking =
        quotas.counts.iter().zip(&loads).map(|(&quota, &load)| quota.saturating_sub(load) as usize).sum::<usize>();
    let crowding = topology.crowding((0..bits.count()).map(|partition| prior.row(partition)));
    let zone_moves = topology.zones.iter().zip(&crowding).map(|(zone, crowding)| {
        let load: usize = zone.members.iter().map(|&member| loads[usize::from(member)] as usize).sum();
        let least = zone.members.iter().map(|&member| FairShare(shares.members[usize::from(member)]).floor()).sum();
        (usize::max(least, zone.floor * bits.count()) + crowding.loses).saturating_sub(load) + crowding.others_gain
    });
    let by_zone = zone_moves.max().unwrap_or(0);
    let draft = Draft::keeping(&topology, prior, quotas);
    let vacant = |partition| draft.row(partition).iter().filter(|&&member| member == VACANT).count();
    Ok(lacking.max(draft.partitions().map(vacant).sum()).max(by_zone))
}

fn succeeds(previous: &Ring, bits: PartitionBits, epoch: Epoch) -> Result<(), SolveError> {
    if bits.bits() < previous.bits().bits() {
        return Err(SolveError::FewerPartitions { previous: previous.bits().bits(), next: bits.bits() });
    }
    if epoch <= previous.epoch() {
        return Err(SolveError::EpochNotNewer { previous: previous.epoch(), next: epoch });
    }
    Ok(())
}
