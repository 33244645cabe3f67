//! How many copies of everything are within reach. Pure.

use std::collections::BTreeSet;

use ring::{NodeId, Placement};
use wire::cluster::{ClusterMap, ClusterStatus, NodeState};

/// Copies within reach, counted in partitions: of what a partition holds, its owners each have a copy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Redundancy {
    /// Copies that there should be.
    pub(crate) wanted: u32,
    /// Partitions of the ring; 0 while there is none.
    pub(crate) partitions: u32,
    /// Of those, partitions with fewer copies within reach than there should be.
    pub(crate) fewer: u32,
    /// Of those, partitions that lack none when the nodes that are up have fetched what they lack.
    pub(crate) catching_up: u32,
    /// The chunks in all of them, about: what is held, spread evenly; of what is caught up, what is lacking at most.
    pub(crate) chunks_fewer: u64,
    /// Copies of the partition that has fewest.
    pub(crate) lowest: u32,
    /// Partitions that cannot be written to, for want of a write quorum.
    pub(crate) unwritable: u32,
    /// Partitions of which no node that may hold a copy is up.
    pub(crate) unreadable: u32,
}

/// Counts the copies that are sure: on nodes that are up and lack nothing of what they own.
pub(crate) fn redundancy(map: &ClusterMap, status: &ClusterStatus) -> Redundancy {
    let wanted = count(status.replicas.count());
    let Some(placement) = map.placement() else { return Redundancy { wanted, ..Redundancy::default() } };
    let is_up = |node: NodeId| is_up(status, node);
    let behind = behind(map, status, &placement);
    let mut all = Redundancy { wanted, lowest: wanted, ..Redundancy::default() };
    for partition in placement.bits().partitions() {
        let up = count(placement.owners(partition).filter(|owner| is_up(*owner)).count());
        let is_sure = |owner: &NodeId| is_up(*owner) && !behind.contains(owner);
        let copies = count(placement.owners(partition).filter(is_sure).count());
        let rows = map.put_rows(partition);
        let is_writable = rows.iter().all(|row| row.nodes.iter().filter(|node| is_up(**node)).count() >= row.quorum);
        all.partitions += 1;
        all.fewer += u32::from(copies < wanted);
        all.catching_up += u32::from(copies < wanted && up >= wanted);
        all.lowest = all.lowest.min(copies);
        all.unwritable += u32::from(!is_writable || rows.is_empty());
        all.unreadable += u32::from(up == 0 && !map.others(partition).any(is_up));
    }
    let chunks = |partitions: u32| chunks_per_partition(status).saturating_mul(partitions.into()) / CENTI;
    let caught_up = behind.iter().map(|node| lacking(status, *node)).sum();
    all.chunks_fewer = chunks(all.fewer - all.catching_up) + chunks(all.catching_up).min(caught_up);
    all
}

/// Sure copies of the partition that has fewest, if the nodes in `gone` were gone; none while there is no ring.
pub(crate) fn lowest_without(map: &ClusterMap, status: &ClusterStatus, gone: &BTreeSet<NodeId>) -> Option<u32> {
    let placement = map.placement()?;
    let behind = behind(map, status, &placement);
    let nodes = map.nodes.iter().map(|row| row.id).filter(|node| is_up(status, *node) && !behind.contains(node));
    let sure: BTreeSet<NodeId> = nodes.filter(|node| !gone.contains(node)).collect();
    let copies = |partition| placement.owners(partition).filter(|owner| sure.contains(owner)).count();
    placement.bits().partitions().map(copies).min().map(count)
}

fn is_up(status: &ClusterStatus, node: NodeId) -> bool {
    let known = status.nodes.iter().find(|known| known.row.id == node);
    known.is_some_and(|known| !matches!(known.state, NodeState::Down | NodeState::Out))
}

/// Nodes that lack chunks of what they own. What a node lacks to which partitions come is taken to be of those: it does not
/// own them yet.
fn behind(map: &ClusterMap, status: &ClusterStatus, placement: &Placement<'_>) -> BTreeSet<NodeId> {
    let is_behind = |node: &NodeId| lacking(status, *node) > 0 && placement.coming_to(*node).next().is_none();
    map.nodes.iter().map(|row| row.id).filter(is_behind).collect()
}

/// Chunks that a node says it lacks.
fn lacking(status: &ClusterStatus, node: NodeId) -> u64 {
    let known = status.nodes.iter().find(|known| known.row.id == node);
    known.and_then(|known| known.store.as_ref()).map_or(0, |store| store.lacking)
}

/// Chunks per partition are counted in hundredths: a small cluster has fewer chunks than partitions.
const CENTI: u64 = 100;

fn chunks_per_partition(status: &ClusterStatus) -> u64 {
    let heard = || status.nodes.iter().filter_map(|node| Some((node.store.as_ref()?.chunks, node.partitions)));
    let chunks: u64 = heard().map(|(chunks, _)| chunks).sum();
    let places: u64 = heard().map(|(_, partitions)| u64::from(partitions)).sum();
    chunks.saturating_mul(CENTI) / places.max(1)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).expect("nodes are counted in 16 bits")
}
