//! Nodes that are away, who takes their writes, and what may lie with those who did.
//!
//! # Invariants
//! - With every map the stand-ins are those that its ring, members and leavers demand: whatever changes the map comes
//!   through here.
//! - Whoever stands in may hold something from then on, until a [`ClusterCommand::Clean`] that every owner has confirmed.
//!   Until then nobody leaves those that own a partition or may hold something of it: former owners stay among them, and
//!   so do nodes that were removed, for what they held is missing elsewhere.
//! - From the command on that ends an absence, no chunk becomes part of a file that was put by a map in which others
//!   stood in for the node.
//!
//! # Not here
//! When to propose what (`membership`). Why this is enough: `ring/PLACEMENT.md`.

use std::collections::{BTreeMap, BTreeSet};

use ring::{Epoch, NodeId, Partition};
use wire::{
    Refusal,
    cluster::{ClusterMap, MayHold},
    stand_in::{Away, StandIn},
};

use super::{
    cluster::{cluster_map, table_rows},
    command::{ClusterCommand, ClusterOutcome, CommandOutcome},
    edit::{Edit, Fault},
    moves::SETTLED_MAX,
    row::{AwayRow, MayHoldRow, MetaRow},
    table,
};
use crate::kv::{KvError, KvRead};

/// Members whose writes others take, in order of ids.
pub(super) fn away(rows: &dyn KvRead) -> Result<Vec<Away>, KvError> {
    let found = table_rows::<AwayRow>(rows, table::AWAY)?;
    Ok(found.into_iter().filter_map(|(key, stand_ins)| Some(Away { node: node_of(&key)?, stand_ins })).collect())
}

/// Who beside the owners may hold what, in order of ids.
pub(super) fn may_hold(rows: &dyn KvRead) -> Result<Vec<MayHold>, KvError> {
    let found = table_rows::<MayHoldRow>(rows, table::MAY_HOLD)?;
    Ok(found.into_iter().filter_map(|(key, partitions)| Some(MayHold { node: node_of(&key)?, partitions })).collect())
}

fn node_of(key: &[u8]) -> Option<NodeId> {
    key.last_chunk().map(|bytes| NodeId::from_bytes(*bytes))
}

impl Edit<'_> {
    /// A command about nodes that are away; none if it is about something else.
    pub(super) fn absence(&mut self, meta: MetaRow, command: &ClusterCommand) -> Result<CommandOutcome, Fault> {
        let Some(map) = cluster_map(self)?.filter(|map| map.ring.is_some()) else {
            return Ok(CommandOutcome::Refused(Refusal::NotServing));
        };
        let epoch = match command {
            ClusterCommand::Away { nodes } => self.go_away(meta, &map, nodes)?,
            ClusterCommand::Back { node } => self.come_back(meta, &map, *node)?,
            ClusterCommand::Clean { acting, partitions } if *acting == meta.acting => {
                self.clean(meta, &map, partitions)?
            }
            // Meant for stand-ins of before.
            _ => meta.epoch,
        };
        Ok(CommandOutcome::Cluster(ClusterOutcome::Done { epoch }))
    }

    fn go_away(&mut self, meta: MetaRow, map: &ClusterMap, nodes: &[NodeId]) -> Result<Epoch, Fault> {
        if !map.can_go_away(nodes) {
            return Ok(meta.epoch);
        }
        for node in nodes.iter().filter(|node| map.node(**node).is_some() && !map.is_away(**node)) {
            self.put(table::of_node(table::AWAY, *node), &AwayRow::new())?;
        }
        self.next_map(meta)
    }

    fn come_back(&mut self, meta: MetaRow, map: &ClusterMap, node: NodeId) -> Result<Epoch, Fault> {
        if !map.is_away(node) {
            return Ok(meta.epoch);
        }
        self.remove(table::of_node(table::AWAY, node))?;
        self.next_map(ended(meta))
    }

    /// Every owner of these partitions holds what anybody holds: nobody else counts any more.
    fn clean(&mut self, meta: MetaRow, map: &ClusterMap, partitions: &[Partition]) -> Result<Epoch, Fault> {
        let unclean = map.unclean();
        let is_due = |partition: &Partition| unclean.contains(partition) && map.can_be_clean(*partition);
        let clean: BTreeSet<Partition> = partitions.iter().copied().filter(is_due).take(SETTLED_MAX).collect();
        if clean.is_empty() {
            return Ok(meta.epoch);
        }
        for MayHold { node, partitions } in &map.may_hold {
            let left: MayHoldRow = partitions.iter().copied().filter(|partition| !clean.contains(partition)).collect();
            let key = table::of_node(table::MAY_HOLD, *node);
            match left.len() {
                0 => self.remove(key)?,
                len if len < partitions.len() => self.put(key, &left)?,
                _ => {}
            }
        }
        self.next_map(meta)
    }

    /// Whether what `node` holds beside what it owns may be needed.
    pub(super) fn may_hold_some(&self, node: NodeId) -> Result<bool, Fault> {
        Ok(self.exists(&table::of_node(table::MAY_HOLD, node))?)
    }

    /// The absence of a node that is removed ends with it.
    pub(super) fn forget_away(&mut self, meta: MetaRow, node: NodeId) -> Result<MetaRow, Fault> {
        let key = table::of_node(table::AWAY, node);
        if !self.exists(&key)? {
            return Ok(meta);
        }
        self.remove(key)?;
        Ok(ended(meta))
    }

    /// The map has changed: those who stand in by now. `meta` has the epoch of the new map.
    pub(super) fn stand_in_anew(&mut self, meta: MetaRow) -> Result<MetaRow, Fault> {
        let before = away(self)?;
        if before.is_empty() {
            return Ok(meta);
        }
        let Some(map) = cluster_map(self)? else { return Ok(meta) };
        let mut fresh: BTreeMap<NodeId, BTreeSet<Partition>> = BTreeMap::new();
        for now in map.stand_ins(&before.iter().map(|away| away.node).collect()) {
            let Some(old) = before.iter().find(|old| old.node == now.node && **old != now) else { continue };
            for StandIn { node, partitions } in &now.stand_ins {
                let begins = partitions.iter().copied().filter(|partition| old.stand_in(*partition) != Some(*node));
                fresh.entry(*node).or_default().extend(begins);
            }
            self.put(table::of_node(table::AWAY, now.node), &now.stand_ins)?;
        }
        fresh.retain(|_, partitions| !partitions.is_empty());
        if fresh.is_empty() {
            return Ok(meta);
        }
        self.note_holders(fresh)?;
        Ok(MetaRow { acting: meta.epoch, ..meta })
    }

    /// Of those of `settled` that are not clean, whoever owned them may hold something still: a new owner may be one of
    /// those that stood in, so that its copy is none more than before.
    pub(super) fn keep_former_owners(&mut self, settled: &BTreeSet<Partition>) -> Result<(), Fault> {
        let Some(map) = cluster_map(self)?.filter(|map| !map.may_hold.is_empty()) else { return Ok(()) };
        let Some(placement) = map.placement() else { return Ok(()) };
        let mut former: BTreeMap<NodeId, BTreeSet<Partition>> = BTreeMap::new();
        for partition in map.unclean().intersection(settled) {
            let next: Vec<NodeId> = placement.next_owners(*partition).into_iter().flatten().collect();
            for owner in placement.owners(*partition).filter(|owner| !next.contains(owner)) {
                former.entry(owner).or_default().insert(*partition);
            }
        }
        self.note_holders(former)
    }

    /// These may hold something of these partitions, from the map on that comes of the command.
    pub(super) fn note_holders(&mut self, holders: BTreeMap<NodeId, BTreeSet<Partition>>) -> Result<(), Fault> {
        for (node, mut partitions) in holders {
            let key = table::of_node(table::MAY_HOLD, node);
            partitions.extend(self.read::<MayHoldRow>(&key)?.unwrap_or_default());
            self.put(key, &partitions.into_iter().collect::<MayHoldRow>())?;
        }
        Ok(())
    }
}

/// An absence ends with the next map: who put by an older one puts again.
fn ended(meta: MetaRow) -> MetaRow {
    let next = meta.epoch.next();
    MetaRow { floor: next, acting: next, ..meta }
}
