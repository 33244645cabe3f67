//! What is to be otherwise in a plan: nodes that come, nodes that go. Pure.

use std::{collections::BTreeSet, num::NonZeroU32};

use bytesize::ByteSize;
use ring::{
    Epoch, Member, NodeId, Ring, Weight, Zone, ZoneError,
    solver::{self, SolveError},
};
use wire::cluster::ClusterMap;

/// A node that might join.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Joining {
    weight: Weight,
    zone: Option<Zone>,
}

/// Why a text names no node that might join.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum JoiningError {
    /// The first part is no size.
    #[error("{0:?} is no capacity; write it as 500GiB or 2TB")]
    Capacity(String),
    /// The second part is no zone.
    #[error(transparent)]
    Zone(#[from] ZoneError),
}

/// `CAPACITY[,ZONE]`; the capacity counts as it does when the node joins, in GiB.
pub(super) fn parse_joining(text: &str) -> Result<Joining, JoiningError> {
    let (capacity, zone) = match text.split_once(',') {
        Some((capacity, zone)) => (capacity, Some(Zone::try_from(zone.to_owned())?)),
        None => (text, None),
    };
    let ByteSize(bytes) = capacity.parse().map_err(|_| JoiningError::Capacity(capacity.to_owned()))?;
    let gib = u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
    Ok(Joining { weight: Weight(NonZeroU32::new(gib).unwrap_or(NonZeroU32::MIN)), zone })
}

/// What is to be otherwise.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Wish {
    /// Nodes that give what they hold to others.
    drained: BTreeSet<NodeId>,
    /// Nodes that are gone with what they hold.
    pub(super) removed: BTreeSet<NodeId>,
    /// Nodes that come, under ids that no member has.
    joined: Vec<Member>,
}

impl Wish {
    /// Of the members of `map`, these go; the others come.
    pub(super) fn new(
        map: &ClusterMap,
        drained: BTreeSet<NodeId>,
        removed: BTreeSet<NodeId>,
        joining: &[Joining],
    ) -> Self {
        let ids = (1_u128..).map(|number| NodeId::from_bytes(number.to_be_bytes()));
        let free = ids.filter(|id| map.node(*id).is_none());
        let member =
            |(Joining { weight, zone }, id): (&Joining, NodeId)| Member { id, zone: zone.clone(), weight: *weight };
        Self { drained, removed, joined: joining.iter().zip(free).map(member).collect() }
    }

    /// What a node is called that is no member yet.
    pub(super) fn newcomer(&self, node: NodeId) -> Option<String> {
        let place = self.joined.iter().position(|member| member.id == node)?;
        Some(format!("new-{}", place + 1))
    }

    /// The ring that comes of it, from the rows in force; `target` is the ring that comes anyway.
    pub(super) fn ring(&self, map: &ClusterMap, base: &Ring, target: &Ring) -> Result<Ring, SolveError> {
        if *self == Self::default() {
            return Ok(target.clone());
        }
        let stays = |member: &&Member| !self.drained.contains(&member.id) && !self.removed.contains(&member.id);
        let members: Vec<Member> = target.members().iter().filter(stays).chain(&self.joined).cloned().collect();
        let epoch = Epoch(map.epoch.0.max(base.epoch().0) + 1);
        solver::solve(Some(base), &members, base.replicas(), base.bits(), epoch)
    }
}
