//! Two assignments side by side: from the one in force to the next, partition by partition.
//!
//! A transition begins at the epoch T of its next ring. Of a partition that both rings give to the same nodes nothing
//! moves. Any other is *unsettled*: its owners are still those of the old ring, which answer for every chunk that was
//! acknowledged, and from T on a put is stable only with a write quorum of the old row *and* one of the new. When every
//! node that is to come has confirmed that it holds what the old owners hold, the partition is *settled*: the new row
//! owns it. When all are, the next ring is the ring.
//!
//! # Invariants
//! - The old row takes part in every put until its partition is settled. So whatever was tried in between, a transition
//!   that was given up for another included, `read_quorum` nodes of the old row know every acknowledged chunk.
//! - Epochs only rise.
//!
//! # Not here
//! When a partition is settled (`node::membership`); how its chunks travel (`node::repair`).

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeId, Partition, PartitionBits, ReplicaCount, Ring, RingError};

/// A change of the ring under way.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TransitionParts", into = "TransitionParts")]
pub struct Transition {
    next: Ring,
    /// A bit for each partition, the lowest of each byte first.
    settled: Vec<u8>,
}

/// A transition as it travels, not yet checked.
#[derive(Clone, Serialize, Deserialize)]
struct TransitionParts {
    next: Ring,
    settled: Vec<u8>,
}

/// Why there is no such transition.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransitionError {
    /// Rings of different shapes: other partitions, or another number of replicas.
    #[error("a transition keeps the number of partitions and of replicas")]
    Shape,
    /// The next ring is not newer.
    #[error("a ring at epoch {ring} cannot change into one at epoch {next}")]
    EpochNotNewer {
        /// Epoch of the ring in force.
        ring: Epoch,
        /// Epoch of the other.
        next: Epoch,
    },
    /// Not one bit for each partition.
    #[error("{found} bytes of settled partitions, {expected} expected")]
    SettledLen {
        /// Bytes found.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
}

impl Transition {
    /// A change from `ring` to `next`, just begun.
    pub fn begin(ring: &Ring, next: Ring) -> Result<Self, TransitionError> {
        if ring.bits() != next.bits() || ring.replicas() != next.replicas() {
            return Err(TransitionError::Shape);
        }
        if next.epoch() <= ring.epoch() {
            return Err(TransitionError::EpochNotNewer { ring: ring.epoch(), next: next.epoch() });
        }
        let mut transition = Self { settled: vec![0; bytes_of(next.bits())], next };
        for partition in ring.bits().partitions() {
            let stays = |node: NodeId| ring.owners(partition).any(|owner| owner == node);
            if transition.next.owners(partition).all(stays) {
                transition.settle(partition);
            }
        }
        Ok(transition)
    }

    /// What it leads to; its epoch is that of the transition.
    pub fn next(&self) -> &Ring {
        &self.next
    }

    /// The epoch at which it began: puts of lower ones know nothing of it.
    pub fn epoch(&self) -> Epoch {
        self.next.epoch()
    }

    /// Whether the new row owns `partition`.
    pub fn is_settled(&self, partition: Partition) -> bool {
        self.settled.get(partition.0 as usize / 8).is_some_and(|byte| byte & (1 << (partition.0 % 8)) != 0)
    }

    /// From now on the new row owns `partition`.
    pub fn settle(&mut self, partition: Partition) {
        if let Some(byte) = self.settled.get_mut(partition.0 as usize / 8) {
            *byte |= 1 << (partition.0 % 8);
        }
    }

    /// Partitions that the old row still owns.
    pub fn unsettled(&self) -> impl Iterator<Item = Partition> + '_ {
        self.next.bits().partitions().filter(|partition| !self.is_settled(*partition))
    }

    /// The rows in force as a ring of their own: what another transition begins from if this one is given up.
    pub fn merged(&self, ring: &Ring, epoch: Epoch) -> Result<Ring, RingError> {
        let placement = Placement { ring, transition: Some(self) };
        let mut members = self.next.members().to_vec();
        members.extend(
            ring.members().iter().filter(|old| self.next.members().iter().all(|new| new.id != old.id)).cloned(),
        );
        members.sort_by_key(|member| member.id);
        let mut table = Vec::with_capacity(ring.bits().count() * ring.replicas().count());
        for owner in ring.bits().partitions().flat_map(|partition| placement.owners(partition)) {
            let index = members.binary_search_by_key(&owner, |member| member.id).unwrap_or(usize::MAX);
            table.push(u16::try_from(index).unwrap_or(u16::MAX));
        }
        Ring::new(epoch, ring.bits(), ring.replicas(), members, table)
    }
}

fn bytes_of(bits: PartitionBits) -> usize {
    bits.count().div_ceil(8)
}

impl TryFrom<TransitionParts> for Transition {
    type Error = TransitionError;

    fn try_from(TransitionParts { next, settled }: TransitionParts) -> Result<Self, TransitionError> {
        let expected = bytes_of(next.bits());
        if settled.len() != expected {
            return Err(TransitionError::SettledLen { found: settled.len(), expected });
        }
        Ok(Self { next, settled })
    }
}

impl From<Transition> for TransitionParts {
    fn from(Transition { next, settled }: Transition) -> Self {
        Self { next, settled }
    }
}

/// Who holds what at one epoch of the map, a transition included. Lookups do not allocate.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    ring: &'a Ring,
    transition: Option<&'a Transition>,
}

impl<'a> Placement<'a> {
    /// The ring in force, and the change that is under way.
    pub fn new(ring: &'a Ring, transition: Option<&'a Transition>) -> Self {
        let fits = |transition: &&Transition| {
            transition.next.bits() == ring.bits() && transition.next.replicas() == ring.replicas()
        };
        Self { ring, transition: transition.filter(fits) }
    }

    /// How many partitions, as a power of two.
    pub fn bits(&self) -> PartitionBits {
        self.ring.bits()
    }

    /// Replicas of each partition.
    pub fn replicas(&self) -> ReplicaCount {
        self.ring.replicas()
    }

    /// The change that is under way.
    pub fn transition(&self) -> Option<&'a Transition> {
        self.transition
    }

    /// What the cluster has, or is changing to.
    pub fn target(&self) -> &'a Ring {
        self.transition.map_or(self.ring, Transition::next)
    }

    /// The lowest epoch at which puts know every row that they must reach.
    pub fn epoch(&self) -> Epoch {
        self.target().epoch()
    }

    fn is_unsettled(&self, partition: Partition) -> bool {
        self.transition.is_some_and(|transition| !transition.is_settled(partition))
    }

    /// Who answers for `partition`, in order of preference.
    pub fn owners(&self, partition: Partition) -> impl Iterator<Item = NodeId> + use<'a> {
        let ring = if self.is_unsettled(partition) { self.ring } else { self.target() };
        ring.owners(partition)
    }

    /// The row that `partition` is going to have, if it is another: puts need a quorum of it as well.
    pub fn next_owners(&self, partition: Partition) -> Option<impl Iterator<Item = NodeId> + use<'a>> {
        self.is_unsettled(partition).then(|| self.target().owners(partition))
    }

    /// Who is to own `partition` and does not yet, in order of preference.
    pub fn coming(&self, partition: Partition) -> impl Iterator<Item = NodeId> + use<'a> {
        let this = *self;
        let next = self.next_owners(partition).into_iter().flatten();
        next.filter(move |node| !this.owners(partition).any(|owner| owner == *node))
    }

    /// Whether `node` owns `partition`.
    pub fn is_owner(&self, partition: Partition, node: NodeId) -> bool {
        self.owners(partition).any(|owner| owner == node)
    }

    /// Whether `node` takes puts for `partition`: it owns it, or is to.
    pub fn keeps(&self, partition: Partition, node: NodeId) -> bool {
        self.is_owner(partition, node) || self.coming(partition).any(|coming| coming == node)
    }

    /// Partitions that `node` is to own and does not yet.
    pub fn coming_to(&self, node: NodeId) -> impl Iterator<Item = Partition> + use<'a> {
        let this = *self;
        let unsettled = self.transition.into_iter().flat_map(Transition::unsettled);
        unsettled.filter(move |partition| this.coming(*partition).any(|coming| coming == node))
    }

    /// Partitions of which `node` owns a replica or is to.
    pub fn kept_by(&self, node: NodeId) -> impl Iterator<Item = Partition> + use<'a> {
        let this = *self;
        self.bits().partitions().filter(move |partition| this.keeps(*partition, node))
    }
}

#[cfg(test)]
mod tests {
    use super::{Placement, Transition, TransitionError};
    use crate::{Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Weight};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn ids(numbers: &[u8]) -> Vec<NodeId> {
        numbers.iter().map(|number| id(*number)).collect()
    }

    /// A ring of two partitions over these nodes.
    fn ring(epoch: u64, numbers: &[u8], table: &[u16]) -> Ring {
        let weight = Weight(1.try_into().unwrap());
        let members = numbers.iter().map(|&number| Member { id: id(number), zone: None, weight }).collect();
        let (bits, replicas) = (PartitionBits::new(1).unwrap(), ReplicaCount::new(2).unwrap());
        Ring::new(Epoch(epoch), bits, replicas, members, table.to_vec()).unwrap()
    }

    #[test]
    fn old_owners_answer_until_their_partition_is_settled_and_only_what_changes_waits() {
        let old = ring(1, &[1, 2, 3], &[0, 1, 1, 2]);
        let mut transition = Transition::begin(&old, ring(5, &[1, 2, 4], &[1, 0, 1, 2])).unwrap();
        let (first, second) = (Partition(0), Partition(1));
        assert_eq!(transition.unsettled().collect::<Vec<_>>(), [second], "another order is no other row");
        let placement = Placement::new(&old, Some(&transition));
        assert_eq!(placement.epoch(), Epoch(5));
        assert_eq!(placement.owners(first).collect::<Vec<_>>(), ids(&[2, 1]));
        assert!(placement.next_owners(first).is_none());
        assert_eq!(placement.owners(second).collect::<Vec<_>>(), ids(&[2, 3]));
        assert_eq!(placement.next_owners(second).unwrap().collect::<Vec<_>>(), ids(&[2, 4]));
        assert_eq!(placement.coming(second).collect::<Vec<_>>(), ids(&[4]));
        assert!(placement.keeps(second, id(4)) && !placement.is_owner(second, id(4)) && placement.keeps(second, id(3)));
        assert_eq!(placement.coming_to(id(4)).collect::<Vec<_>>(), [second]);
        transition.settle(second);
        let placement = Placement::new(&old, Some(&transition));
        assert_eq!(placement.owners(second).collect::<Vec<_>>(), ids(&[2, 4]));
        assert!(!placement.keeps(second, id(3)));
        assert_eq!((transition.unsettled().count(), placement.coming_to(id(4)).count()), (0, 0));
    }

    #[test]
    fn a_transition_that_is_given_up_leaves_the_rows_in_force() {
        let old = ring(1, &[1, 2, 3], &[0, 1, 1, 2]);
        let mut transition = Transition::begin(&old, ring(5, &[2, 3, 4], &[0, 2, 2, 1])).unwrap();
        transition.settle(Partition(0));
        let merged = transition.merged(&old, Epoch(6)).unwrap();
        assert_eq!(merged.epoch(), Epoch(6));
        assert_eq!(merged.owners(Partition(0)).collect::<Vec<_>>(), ids(&[2, 4]));
        assert_eq!(merged.owners(Partition(1)).collect::<Vec<_>>(), ids(&[2, 3]));
    }

    #[test]
    fn rings_of_another_shape_or_an_older_epoch_make_no_transition() {
        let old = ring(5, &[1, 2], &[0, 1, 1, 0]);
        let begun = Transition::begin(&old, ring(5, &[1, 2], &[0, 1, 1, 0]));
        assert_eq!(begun, Err(TransitionError::EpochNotNewer { ring: Epoch(5), next: Epoch(5) }));
        let members = old.members().to_vec();
        let (bits, replicas) = (PartitionBits::new(0).unwrap(), ReplicaCount::new(2).unwrap());
        let smaller = Ring::new(Epoch(6), bits, replicas, members, vec![0, 1]).unwrap();
        assert_eq!(Transition::begin(&old, smaller), Err(TransitionError::Shape));
    }

    #[test]
    fn a_transition_travels_whole_or_not_at_all() {
        let old = ring(1, &[1, 2, 3], &[0, 1, 1, 2]);
        let transition = Transition::begin(&old, ring(5, &[1, 2, 4], &[1, 0, 1, 2])).unwrap();
        let bytes = postcard::to_allocvec(&transition).unwrap();
        assert_eq!(postcard::from_bytes::<Transition>(&bytes).unwrap(), transition);
        assert!(postcard::from_bytes::<Transition>(&bytes[..bytes.len() - 1]).is_err());
        let mut longer = bytes.clone();
        let at = longer.len() - 2;
        assert_eq!(longer[at], 1, "the length of the bits");
        longer[at] = 2;
        longer.push(0);
        assert!(postcard::from_bytes::<Transition>(&longer).is_err());
    }
}
