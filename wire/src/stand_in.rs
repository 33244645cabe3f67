//! Nodes that are away, and who takes their writes meanwhile.
//!
//! # Invariants
//! - The stand-ins are in the map: who is away, and who stands in for it, is decided in the log, and nobody computes it
//!   from what it hears.
//! - A row with its stand-ins has distinct nodes, and is as long as the row: one node takes one other's place.
//!
//! # Not here
//! Who counts as away, and when (`node::membership`). Why it is safe: `ring/PLACEMENT.md`.

use std::collections::{BTreeMap, BTreeSet};

use ring::{Member, NodeId, Partition, Zone};
use serde::{Deserialize, Serialize};

use crate::{cluster::ClusterMap, moves::Leaving};

/// A member whose writes others take.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Away {
    /// Who.
    pub node: NodeId,
    /// Who takes them, in order of ids. In a partition that is not among theirs nobody can.
    pub stand_ins: Vec<StandIn>,
}

/// A member that takes the writes of one that is away.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StandIn {
    /// Who.
    pub node: NodeId,
    /// Of which partitions, in order.
    pub partitions: Vec<Partition>,
}

impl Away {
    /// Who stands in for it in `partition`.
    pub fn stand_in(&self, partition: Partition) -> Option<NodeId> {
        self.stand_ins.iter().find(|row| row.partitions.binary_search(&partition).is_ok()).map(|row| row.node)
    }

    /// Partitions of which somebody takes its writes.
    pub fn partitions(&self) -> usize {
        self.stand_ins.iter().map(|row| row.partitions.len()).sum()
    }
}

impl ClusterMap {
    /// Whether others take the writes of `node`.
    pub fn is_away(&self, node: NodeId) -> bool {
        self.away.iter().any(|away| away.node == node)
    }

    /// Who takes the writes of `node` in `partition`, if somebody does.
    pub fn stand_in(&self, node: NodeId, partition: Partition) -> Option<NodeId> {
        self.away.iter().find(|away| away.node == node)?.stand_in(partition)
    }

    /// Whether `node` takes the writes of another in `partition`.
    pub fn stands_in(&self, node: NodeId, partition: Partition) -> bool {
        self.away.iter().any(|away| away.stand_in(partition) == Some(node))
    }

    /// Whether it makes a difference that `nodes` go away: others can take their writes, or they take those of others.
    pub fn can_go_away(&self, nodes: &[NodeId]) -> bool {
        let known = nodes.iter().copied().filter(|node| self.node(*node).is_some());
        let away = self.away.iter().map(|away| away.node).chain(known).collect();
        let is_unchanged =
            |table: &Away| self.away.contains(table) || (!self.is_away(table.node) && table.stand_ins.is_empty());
        !self.stand_ins(&away).iter().all(is_unchanged)
    }

    /// The stand-ins of `away` as the ring, the members and those who leave demand it now. Whoever stands in already goes on,
    /// unless it is away itself, leaves, or has become an owner.
    pub fn stand_ins(&self, away: &BTreeSet<NodeId>) -> Vec<Away> {
        let mut tables: BTreeMap<NodeId, BTreeMap<NodeId, Vec<Partition>>> =
            away.iter().map(|node| (*node, BTreeMap::new())).collect();
        if let Some(placement) = self.placement().filter(|_| !away.is_empty()) {
            let may = |row: &&crate::cluster::NodeRow| !away.contains(&row.id) && self.leaving(row.id).is_none();
            let fresh: Vec<Member> = self.nodes.iter().filter(may).map(crate::cluster::NodeRow::member).collect();
            for partition in placement.bits().partitions() {
                let next = placement.next_owners(partition).into_iter().flatten();
                let mut row = placement.owners(partition).chain(next);
                if !row.any(|node| away.contains(&node)) {
                    continue;
                }
                let next = placement.next_owners(partition).into_iter().flatten();
                let row: BTreeSet<NodeId> = placement.owners(partition).chain(next).collect();
                for (node, by) in self.stand_ins_of(partition, &row, away, &fresh) {
                    tables.entry(node).or_default().entry(by).or_default().push(partition);
                }
            }
        }
        let stand_ins = |table: BTreeMap<NodeId, Vec<Partition>>| {
            table.into_iter().map(|(node, partitions)| StandIn { node, partitions }).collect()
        };
        tables.into_iter().map(|(node, table)| Away { node, stand_ins: stand_ins(table) }).collect()
    }

    /// For each of `row` that is away, who stands in for it in `partition`.
    fn stand_ins_of(
        &self,
        partition: Partition,
        row: &BTreeSet<NodeId>,
        away: &BTreeSet<NodeId>,
        fresh: &[Member],
    ) -> BTreeMap<NodeId, NodeId> {
        let gone: Vec<NodeId> = row.intersection(away).copied().collect();
        let is_free = |by: NodeId, chosen: &BTreeMap<NodeId, NodeId>| {
            !row.contains(&by) && chosen.values().all(|other| *other != by)
        };
        let mut chosen = BTreeMap::new();
        for node in &gone {
            let before = self.stand_in(*node, partition).filter(|by| is_free(*by, &chosen));
            if let Some(by) = before.filter(|by| fresh.iter().any(|member| member.id == *by)) {
                chosen.insert(*node, by);
            }
        }
        for node in gone {
            if chosen.contains_key(&node) {
                continue;
            }
            let others = row.iter().filter(|other| !away.contains(other)).chain(chosen.values());
            let zones: Vec<Zone> = others.filter_map(|other| self.node(*other)?.zone.clone()).collect();
            let candidates = fresh.iter().filter(|member| is_free(member.id, &chosen));
            // One that leaves stands in until somebody else can.
            let leaves = |by: &NodeId| !away.contains(by) && self.leaving(*by) == Some(Leaving::Draining);
            let before = self.stand_in(node, partition).filter(|by| is_free(*by, &chosen) && leaves(by));
            let by = ring::stand_in(partition, node, &zones, candidates).or(before);
            chosen.extend(by.map(|by| (node, by)));
        }
        chosen
    }

    /// The members that take puts in the place of `row`: its own, each that is away replaced by its stand-in.
    pub(crate) fn acting(&self, partition: Partition, row: &[NodeId]) -> Vec<NodeId> {
        let acts = |node: NodeId| self.stand_in(node, partition).filter(|by| self.node(*by).is_some());
        let is_needed = |node: &NodeId| self.node(*node).is_some();
        let mut acting: Vec<NodeId> = Vec::with_capacity(row.len());
        for node in row.iter().copied().filter(is_needed) {
            let by = acts(node).filter(|by| !row.contains(by) && !acting.contains(by));
            acting.push(by.unwrap_or(node));
        }
        acting
    }

    /// Who may hold chunks of `partition`, by [`ClusterMap::may_hold`]: members and former ones, owners or not.
    pub fn may_hold(&self, partition: Partition) -> impl Iterator<Item = NodeId> + '_ {
        let names = move |row: &&crate::cluster::MayHold| row.partitions.binary_search(&partition).is_ok();
        self.may_hold.iter().filter(names).map(|row| row.node)
    }

    /// Partitions that others than their owners may hold.
    pub fn unclean(&self) -> BTreeSet<Partition> {
        self.may_hold.iter().flat_map(|row| row.partitions.iter().copied()).collect()
    }

    /// Whether `partition` can become clean: it does not move, and nobody of those that own it is away.
    pub fn can_be_clean(&self, partition: Partition) -> bool {
        let Some(placement) = self.placement() else { return false };
        placement.next_owners(partition).is_none() && !placement.owners(partition).any(|owner| self.is_away(owner))
    }

    /// Whether `node` takes puts of `partition`: as an owner, as one that is to own it, or in the place of another.
    pub fn takes(&self, partition: Partition, node: NodeId) -> bool {
        self.placement().is_some_and(|placement| placement.keeps(partition, node)) || self.stands_in(node, partition)
    }

    /// Whether what `node` holds of `partition` counts, or may count: everything else it may drop.
    pub fn counts(&self, partition: Partition, node: NodeId) -> bool {
        self.takes(partition, node) || self.may_hold(partition).any(|holder| holder == node)
    }
}

#[cfg(test)]
mod tests;
