//! What a change of the ring would move, before anyone moves it. Pure.
//!
//! # Invariants
//! - A node of the new row that was not in the old one is the target of one move; nobody else is.
//! - Partitions are those of the new ring: where it has more, a part inherits the row of the whole.
//!
//! # Not here
//! Which ring comes next ([`crate::solver`]); how bytes get there, and at what rate (`node::repair`).

use std::collections::BTreeMap;

use crate::{NodeId, Partition, Ring, solver};

/// A change of the ring as a list of moves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Every replica that comes to a new node, in order of partitions.
    pub moves: Vec<Move>,
    /// What each node gains and gives up, in order of ids; nodes whose replicas all stay are left out.
    pub shifts: Vec<Shift>,
    /// The fewest moves with which any ring of these members could do ([`solver::moves_min`]).
    pub moves_min: usize,
    /// Of the partition that changes most: how many of its old nodes stay. Until the moves are done, this many nodes of
    /// its new row have its bytes.
    pub staying_min: usize,
}

/// A replica of a partition comes to a new node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// Which partition.
    pub partition: Partition,
    /// The node that gives its replica up for it; nobody, if there shall be more replicas than before.
    pub from: Option<NodeId>,
    /// The node that will hold it.
    pub to: NodeId,
    /// How much that is.
    pub bytes: u64,
}

/// What a node gains and gives up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shift {
    /// Which node.
    pub node: NodeId,
    /// Replicas that come.
    pub replicas_in: usize,
    /// Replicas that go.
    pub replicas_out: usize,
    /// Bytes that come.
    pub bytes_in: u64,
    /// Bytes that go.
    pub bytes_out: u64,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Partitions can be split, never merged.
    #[error("no plan leads from 2^{old} partitions to 2^{new}")]
    FewerPartitions {
        /// Exponent of the old ring.
        old: u8,
        /// Exponent of the new ring.
        new: u8,
    },
}

/// What leads from `old` to `new`, when a replica of a partition weighs `bytes_of` it.
pub fn plan(old: &Ring, new: &Ring, bytes_of: impl Fn(Partition) -> u64) -> Result<Plan, PlanError> {
    let (from_bits, to_bits) = (old.bits().bits(), new.bits().bits());
    let Some(split) = to_bits.checked_sub(from_bits) else {
        return Err(PlanError::FewerPartitions { old: from_bits, new: to_bits });
    };
    let moves_min = solver::moves_min(old, new.members(), new.replicas(), new.bits())
        .expect("the members of a ring are distinct and enough for its rows");
    let mut plan = Plan { moves: Vec::new(), shifts: Vec::new(), moves_min, staying_min: old.replicas().count() };
    let mut shifts = BTreeMap::new();
    for partition in new.bits().partitions() {
        let (before, after): (Vec<NodeId>, Vec<NodeId>) =
            (old.owners(Partition(partition.0 >> split)).collect(), new.owners(partition).collect());
        let bytes = bytes_of(partition);
        let mut leaving = before.iter().copied().filter(|node| !after.contains(node));
        let coming = after.iter().copied().filter(|node| !before.contains(node));
        for to in coming {
            let from = leaving.next();
            plan.moves.push(Move { partition, from, to, bytes });
            entry(&mut shifts, to).gain(bytes);
            from.into_iter().for_each(|from| entry(&mut shifts, from).give(bytes));
        }
        // With fewer replicas than before, some go and nobody comes for them.
        leaving.for_each(|from| entry(&mut shifts, from).give(bytes));
        plan.staying_min = plan.staying_min.min(before.iter().filter(|node| after.contains(node)).count());
    }
    plan.shifts = shifts.into_values().collect();
    Ok(plan)
}

impl Plan {
    /// Bytes that travel in all.
    pub fn bytes(&self) -> u64 {
        self.moves.iter().map(|step| step.bytes).sum()
    }
}

impl Shift {
    fn gain(&mut self, bytes: u64) {
        self.replicas_in += 1;
        self.bytes_in += bytes;
    }

    fn give(&mut self, bytes: u64) {
        self.replicas_out += 1;
        self.bytes_out += bytes;
    }
}

fn entry(shifts: &mut BTreeMap<NodeId, Shift>, node: NodeId) -> &mut Shift {
    let none = Shift { node, replicas_in: 0, replicas_out: 0, bytes_in: 0, bytes_out: 0 };
    shifts.entry(node).or_insert(none)
}

#[cfg(test)]
mod tests {
    use super::{Move, PlanError, Shift, plan};
    use crate::{Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Weight};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    /// A ring of equal nodes, by their numbers.
    fn ring(epoch: u64, rows: &[&[u8]]) -> Ring {
        let mut numbers: Vec<u8> = rows.concat();
        numbers.sort_unstable();
        numbers.dedup();
        let weight = Weight(1.try_into().unwrap());
        let members = numbers.iter().map(|&number| Member { id: id(number), zone: None, weight }).collect();
        let table = rows.concat().iter().map(|number| numbers.binary_search(number).unwrap() as u16).collect();
        let bits = PartitionBits::new(rows.len().ilog2() as u8).unwrap();
        Ring::new(Epoch(epoch), bits, ReplicaCount::new(rows[0].len() as u8).unwrap(), members, table).unwrap()
    }

    #[test]
    fn a_plan_names_every_move_and_what_each_node_gains_and_gives() {
        let plan = plan(&ring(1, &[&[1, 2], &[2, 3]]), &ring(2, &[&[4, 1], &[4, 3]]), |partition| {
            if partition == Partition(0) { 10 } else { 7 }
        })
        .unwrap();
        let step = |partition, bytes| Move { partition: Partition(partition), from: Some(id(2)), to: id(4), bytes };
        assert_eq!(plan.moves, [step(0, 10), step(1, 7)]);
        let shift = |node, replicas_in, replicas_out, bytes_in, bytes_out| Shift {
            node: id(node),
            replicas_in,
            replicas_out,
            bytes_in,
            bytes_out,
        };
        assert_eq!(plan.shifts, [shift(2, 0, 2, 0, 17), shift(4, 2, 0, 17, 0)]);
        assert_eq!((plan.bytes(), plan.staying_min), (17, 1));
        // One of 1, 3 and 4 would do with one replica: only one of the two has to go to the newcomer, the other must
        // leave node 2 as well.
        assert_eq!(plan.moves_min, 2);
    }

    #[test]
    fn a_changed_order_a_split_partition_and_a_dropped_replica_move_nothing() {
        let old = ring(1, &[&[1, 2]]);
        let none = |new: &Ring| plan(&old, new, |_| 1).unwrap().moves;
        assert_eq!(none(&ring(2, &[&[2, 1]])), []);
        assert_eq!(none(&ring(2, &[&[1, 2], &[2, 1]])), []);
        assert_eq!(none(&ring(2, &[&[2]])), []);
        let dropped = plan(&old, &ring(2, &[&[2]]), |_| 5).unwrap();
        assert_eq!(dropped.shifts.iter().map(|shift| (shift.node, shift.bytes_out)).collect::<Vec<_>>(), [(id(1), 5)]);
    }

    #[test]
    fn one_replica_more_comes_from_nobody_who_gives_it_up() {
        let plan = plan(&ring(1, &[&[1]]), &ring(2, &[&[1, 2]]), |_| 3).unwrap();
        assert_eq!(plan.moves, [Move { partition: Partition(0), from: None, to: id(2), bytes: 3 }]);
        assert_eq!((plan.staying_min, plan.moves_min), (1, 1));
    }

    #[test]
    fn there_is_no_plan_to_fewer_partitions() {
        let refused = plan(&ring(1, &[&[1], &[2]]), &ring(2, &[&[1]]), |_| 1);
        assert_eq!(refused, Err(PlanError::FewerPartitions { old: 1, new: 0 }));
    }
}
