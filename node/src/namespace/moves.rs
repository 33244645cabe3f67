//! Nodes that come and go: from one ring to the next.
//!
//! # Invariants
//! - A partition goes over to its new row only by [`ClusterCommand::Settle`], which names the transition it is meant for.
//! - From the command that begins a transition on, no chunk becomes part of a file that was put at a lower epoch to a
//!   partition that moves: whatever a file names was stable with the old owners before, or is with old and new ones.
//! - From the command on that removes a node with what it holds, no chunk becomes part of a file that was put by a map in
//!   which that node counted. It never comes back under the same name: what it holds is old.
//!
//! # Not here
//! When to begin, to settle, to give a node up (`membership`). Who has confirmed what is soft state of the leader:
//! nodes say it again.

use std::collections::BTreeSet;

use ring::{Epoch, Member, NodeId, Partition, Placement, Ring, Transition, solver};
use wire::{
    Refusal,
    moves::{Leave, Leaving, Loss},
};

use super::{
    cluster::{members, table_rows},
    command::{ClusterCommand, ClusterOutcome, CommandOutcome},
    edit::{Edit, Fault},
    row::{self, MetaRow},
    table,
};
use crate::kv::{KvError, KvRead};

/// Partitions that one command settles: each has a fence of its own.
pub const SETTLED_MAX: usize = 1024;

/// The change of the ring that is under way.
pub(super) fn transition(rows: &dyn KvRead) -> Result<Option<Transition>, KvError> {
    row::read(rows, &table::single(table::TRANSITION))
}

/// Members that are to hold nothing, in order of ids.
pub(super) fn leaving(rows: &dyn KvRead) -> Result<Vec<Leave>, KvError> {
    let found = table_rows::<Leaving>(rows, table::LEAVING)?;
    let node = |key: &[u8]| key.last_chunk().copied().map(NodeId::from_bytes);
    Ok(found.into_iter().filter_map(|(key, why)| Some(Leave { node: node(&key)?, why })).collect())
}

impl Edit<'_> {
    /// A command about nodes that come and go; none if it is about something else.
    pub(super) fn moves(&mut self, meta: MetaRow, command: &ClusterCommand) -> Result<CommandOutcome, Fault> {
        let result = match command {
            ClusterCommand::Rebalance { members } => self.rebalance(meta, members)?,
            ClusterCommand::Settle { epoch, partitions } => self.settle_partitions(meta, *epoch, partitions)?,
            ClusterCommand::SetLeaving { node, why } => self.set_leaving(meta, *node, *why)?,
            ClusterCommand::RemoveNode { node, loss } => self.remove_node(meta, *node, *loss)?,
            ClusterCommand::Found { .. }
            | ClusterCommand::CreateToken { .. }
            | ClusterCommand::RedeemToken { .. }
            | ClusterCommand::SolveRing
            | ClusterCommand::MoveNode { .. }
            | ClusterCommand::PlaceNode { .. }
            | ClusterCommand::Away { .. }
            | ClusterCommand::Back { .. }
            | ClusterCommand::Clean { .. }
            | ClusterCommand::Recover { .. } => Err(Refusal::Internal),
        };
        Ok(match result {
            Ok(epoch) => CommandOutcome::Cluster(ClusterOutcome::Done { epoch }),
            Err(refusal) => CommandOutcome::Refused(refusal),
        })
    }

    /// Begins the change to the ring of `wanted`. One that is under way is given up where it is: what it has settled
    /// stays, for the rest the owners are still the old ones.
    fn rebalance(&mut self, meta: MetaRow, wanted: &[NodeId]) -> Result<Result<Epoch, Refusal>, Fault> {
        let Some(ring) = self.read::<Ring>(&table::single(table::RING))? else { return Ok(Err(Refusal::NotServing)) };
        let before = transition(self)?;
        let leaving: BTreeSet<NodeId> = leaving(self)?.into_iter().map(|leave| leave.node).collect();
        let wanted: BTreeSet<NodeId> = wanted.iter().copied().filter(|node| !leaving.contains(node)).collect();
        let mut members: Vec<Member> =
            members(self)?.iter().filter(|row| wanted.contains(&row.id)).map(wire::cluster::NodeRow::member).collect();
        members.sort_by_key(|member| member.id);
        if Placement::new(&ring, before.as_ref()).target().members() == members {
            return Ok(Ok(meta.epoch));
        }
        let (base, base_epoch) = match &before {
            None => (ring, meta.epoch),
            Some(given_up) => {
                let epoch = meta.epoch.next();
                (given_up.merged(&ring, epoch).expect("rows in force are rows of one of two rings"), epoch)
            }
        };
        let Ok(next) = solver::solve(Some(&base), &members, meta.replicas, base.bits(), base_epoch.next()) else {
            // Too few are left: nothing moves until others have come.
            return Ok(Err(Refusal::TooFewNodes { missing: missing(&meta, members.len()) }));
        };
        let transition = Transition::begin(&base, next).expect("solved for the same shape, at a higher epoch");
        let meta = MetaRow { epoch: base_epoch, ..meta };
        if before.is_some() {
            self.put(table::single(table::RING), &base)?;
        }
        self.keep_transition(meta, transition).map(Ok)
    }

    /// Keeps a transition, or its end.
    fn keep_transition(&mut self, meta: MetaRow, transition: Transition) -> Result<Epoch, Fault> {
        let fence = transition.epoch();
        if transition.unsettled().next().is_some() {
            self.put(table::single(table::TRANSITION), &transition)?;
        } else {
            self.put(table::single(table::RING), transition.next())?;
            self.remove(table::single(table::TRANSITION))?;
        }
        self.next_map(MetaRow { highest_fence: meta.highest_fence.max(fence), ..meta })
    }

    /// Hands partitions over to their new rows, and puts their fence where the transition began.
    fn settle_partitions(
        &mut self,
        meta: MetaRow,
        epoch: Epoch,
        partitions: &[Partition],
    ) -> Result<Result<Epoch, Refusal>, Fault> {
        // Sent again, or meant for a transition that was given up: there is nothing to settle.
        let Some(mut transition) = transition(self)?.filter(|transition| transition.epoch() == epoch) else {
            return Ok(Ok(meta.epoch));
        };
        let bits = transition.next().bits();
        // Whoever was removed meanwhile holds nothing that counts, whatever it has confirmed.
        let mut gone: BTreeSet<Partition> = BTreeSet::new();
        for partition in partitions.iter().filter(|partition| (partition.0 as usize) < bits.count()) {
            for owner in transition.next().owners(*partition) {
                if !self.exists(&table::node(owner))? {
                    gone.insert(*partition);
                }
            }
        }
        let settled: BTreeSet<Partition> = partitions
            .iter()
            .copied()
            .filter(|partition| (partition.0 as usize) < bits.count() && !transition.is_settled(*partition))
            .filter(|partition| !gone.contains(partition))
            .take(SETTLED_MAX)
            .collect();
        if settled.is_empty() {
            return Ok(Ok(meta.epoch));
        }
        self.keep_former_owners(&settled)?;
        for partition in settled {
            transition.settle(partition);
            self.put(table::partition(table::FENCE, partition), &epoch)?;
        }
        self.keep_transition(meta, transition).map(Ok)
    }

    fn set_leaving(
        &mut self,
        meta: MetaRow,
        node: NodeId,
        why: Option<Leaving>,
    ) -> Result<Result<Epoch, Refusal>, Fault> {
        if !self.exists(&table::node(node))? {
            return Ok(Err(Refusal::UnknownPeer));
        }
        let key = table::leaving(node);
        if self.read::<Leaving>(&key)? == why {
            return Ok(Ok(meta.epoch));
        }
        match why {
            None => self.remove(key)?,
            Some(why) => {
                let others = self.holding(node)?;
                if others < meta.replicas.count() {
                    return Ok(Err(Refusal::TooFewNodes { missing: missing(&meta, others) }));
                }
                self.put(key, &why)?;
            }
        }
        Ok(Ok(self.next_map(meta)?))
    }

    /// Members beside `node` that are to hold partitions.
    fn holding(&self, node: NodeId) -> Result<usize, Fault> {
        let leaving: BTreeSet<NodeId> = leaving(self)?.into_iter().map(|leave| leave.node).collect();
        Ok(members(self)?.iter().filter(|row| row.id != node && !leaving.contains(&row.id)).count())
    }

    fn remove_node(&mut self, meta: MetaRow, node: NodeId, loss: Loss) -> Result<Result<Epoch, Refusal>, Fault> {
        if !self.exists(&table::node(node))? {
            return Ok(Err(Refusal::UnknownPeer));
        }
        if members(self)?.len() == 1 {
            return Ok(Err(Refusal::NotAllowed));
        }
        let mut meta = meta;
        if let Some(ring) = self.read::<Ring>(&table::single(table::RING))? {
            let transition = transition(self)?;
            let keeps = Placement::new(&ring, transition.as_ref()).kept_by(node).next().is_some();
            let is_needed = keeps || self.may_hold_some(node)?;
            if loss == Loss::Refused && (is_needed || self.holding(node)? < meta.replicas.count()) {
                return Ok(Err(Refusal::NotAllowed));
            }
            if is_needed {
                // By an older map its word still counts: whoever has it puts again, by the map that begins here.
                meta.floor = meta.epoch.next();
            }
        }
        let meta = self.forget_away(meta, node)?;
        self.remove(table::node(node))?;
        self.put(table::removed(node), &())?;
        let leaving = table::leaving(node);
        if self.exists(&leaving)? {
            self.remove(leaving)?;
        }
        Ok(Ok(self.next_map(meta)?))
    }
}

fn missing(meta: &MetaRow, have: usize) -> u32 {
    u32::try_from(meta.replicas.count().saturating_sub(have)).expect("a replica count is at most 7")
}
