//! What to list where, and when enough was listed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::{NodeId, Partition};
use wire::{
    chunk::{DIGESTS_MAX, PartitionDigest},
    cluster::ClusterMap,
};

/// From the first to the last partition of what is compared or listed in one go: bounds what one request walks through.
const SPAN_LEN_MAX: u32 = DIGESTS_MAX;

/// Consecutive partitions.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Span {
    /// The lowest.
    pub(crate) first: Partition,
    /// The highest.
    pub(crate) last: Partition,
}

impl Span {
    pub(crate) fn contains(self, partition: Partition) -> bool {
        (self.first..=self.last).contains(&partition)
    }
}

/// Partitions that are compared in one go. They need not follow each other: the rows of a ring of many nodes hardly do,
/// and a question for each piece would take minutes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Window {
    /// In order, at least one.
    partitions: Vec<Partition>,
}

impl Window {
    /// The lowest.
    pub(crate) fn first(&self) -> Partition {
        *self.partitions.first().expect("a window is never empty")
    }

    /// From a partition to the highest.
    pub(crate) fn from(&self, first: Partition) -> Span {
        Span { first, last: *self.partitions.last().expect("a window is never empty") }
    }

    fn takes(&self, partition: Partition) -> bool {
        partition.0 - self.first().0 < SPAN_LEN_MAX
    }
}

/// Adds a partition that is higher than those in `spans`.
fn push(spans: &mut Vec<Span>, partition: Partition) {
    match spans.last_mut() {
        Some(span) if span.last.0 + 1 == partition.0 && partition.0 - span.first.0 < SPAN_LEN_MAX => {
            span.last = partition;
        }
        _ => spans.push(Span { first: partition, last: partition }),
    }
}

/// Adds to `unequal` the partitions of `window` of which these digests, those of all partitions from `from` on, are not the
/// same. The first that is left, if one side has not made them all.
pub(super) fn note_unequal(
    unequal: &mut Vec<Span>,
    window: &Window,
    from: Partition,
    theirs: &[PartitionDigest],
    ours: &[PartitionDigest],
) -> Option<Partition> {
    for partition in window.partitions.iter().copied().filter(|partition| *partition >= from) {
        let at = (partition.0 - from.0) as usize;
        let (Some(theirs), Some(ours)) = (theirs.get(at), ours.get(at)) else { return Some(partition) };
        if theirs != ours {
            push(unequal, partition);
        }
    }
    None
}

/// Who holds, or may hold, chunks of `partition` that count: its owners, and those that stood in for one. Some may have been
/// removed.
fn holders(map: &ClusterMap, partition: Partition) -> BTreeSet<NodeId> {
    let owners = map.placement().into_iter().flat_map(|placement| placement.owners(partition));
    owners.chain(map.may_hold(partition)).collect()
}

/// For each other holder of `partitions`, what it holds of them. Nodes that were removed hold nothing.
pub(crate) fn windows(
    map: &ClusterMap,
    partitions: impl Iterator<Item = Partition>,
    node: NodeId,
) -> BTreeMap<NodeId, Vec<Window>> {
    let mut windows: BTreeMap<NodeId, Vec<Window>> = BTreeMap::new();
    for partition in partitions {
        for holder in
            holders(map, partition).into_iter().filter(|holder| *holder != node && map.node(*holder).is_some())
        {
            let of_holder = windows.entry(holder).or_default();
            match of_holder.last_mut().filter(|window| window.takes(partition)) {
                Some(window) => window.partitions.push(partition),
                None => of_holder.push(Window { partitions: vec![partition] }),
            }
        }
    }
    windows
}

/// Which partitions were listed at how many other holders.
#[derive(Debug)]
pub(crate) struct Coverage {
    node: NodeId,
    listed: BTreeMap<Partition, BTreeSet<NodeId>>,
}

impl Coverage {
    /// Nothing of `partitions` listed yet for `node`.
    pub(crate) fn new(partitions: impl Iterator<Item = Partition>, node: NodeId) -> Self {
        Self { node, listed: partitions.map(|partition| (partition, BTreeSet::new())).collect() }
    }

    /// All of `window` was compared with `holder`.
    pub(crate) fn handle_compared(&mut self, map: &ClusterMap, holder: NodeId, window: &Window) {
        for partition in &window.partitions {
            if let Some(listed) = self.listed.get_mut(partition)
                && holder != self.node
                && holders(map, *partition).contains(&holder)
            {
                listed.insert(holder);
            }
        }
    }

    /// Whether what was listed of everything meets every write quorum.
    pub(crate) fn is_complete(&self, map: &ClusterMap) -> bool {
        self.listed.keys().all(|partition| self.is_covered(map, *partition))
    }

    /// Whether what was listed of `partition` meets every write quorum.
    ///
    /// An acknowledged chunk lies on `write_quorum` of those that hold or may hold something, so if fewer than that were
    /// not listed, somebody who has it was; this node's own word counts for what it holds. Where nodes were removed, all
    /// that are left will do: what nobody of them has was given up with the others.
    pub(crate) fn is_covered(&self, map: &ClusterMap, partition: Partition) -> bool {
        let (Some(placement), Some(listed)) = (map.placement(), self.listed.get(&partition)) else { return false };
        let mut unlisted = holders(map, partition);
        unlisted.retain(|holder| *holder != self.node && !listed.contains(holder));
        let is_gone = |holder: &NodeId| map.node(*holder).is_none();
        unlisted.len() < placement.replicas().write_quorum() || unlisted.iter().all(is_gone)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use ring::{Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Transition, Weight};
    use wire::cluster::{ClusterId, ClusterMap, KeyFingerprint, NodeRow};

    use wire::chunk::PartitionDigest;

    use super::{Coverage, Span, Window, note_unequal, windows};

    fn id(id: u8) -> NodeId {
        NodeId::from_bytes([id; 16])
    }

    fn ring(epoch: u64, members: &[u8], table: &[u16]) -> Ring {
        let weight = Weight(NonZeroU32::MIN);
        let members = members.iter().map(|n| Member { id: id(*n), zone: None, weight }).collect();
        let (bits, replicas) = (PartitionBits::new(2).unwrap(), ReplicaCount::new(3).unwrap());
        Ring::new(Epoch(epoch), bits, replicas, members, table.to_vec()).unwrap()
    }

    /// Four partitions over four nodes, three replicas: node 4 lacks partition 0, node 1 partition 3.
    fn map() -> ClusterMap {
        let row = |n: u8| NodeRow {
            id: id(n),
            address: ([127, 0, 0, 1], 7000 + u16::from(n)).into(),
            zone: None,
            weight: Weight(NonZeroU32::MIN),
            key: KeyFingerprint([n; 32]),
        };
        ClusterMap {
            cluster: ClusterId([1; 16]),
            epoch: Epoch(1),
            replicas: ReplicaCount::new(3).unwrap(),
            nodes: (1..=5).map(row).collect(),
            ring: Some(ring(1, &[1, 2, 3, 4], &[0, 1, 2, 0, 1, 3, 0, 2, 3, 1, 2, 3])),
            may_hold: Vec::new(),
            transition: None,
            leaving: Vec::new(),
            away: Vec::new(),
            acting: Epoch(0),
        }
    }

    fn kept(map: &ClusterMap, node: u8) -> Vec<Partition> {
        map.placement().unwrap().kept_by(id(node)).collect()
    }

    fn span(first: u32, last: u32) -> Span {
        Span { first: Partition(first), last: Partition(last) }
    }

    fn window(partitions: impl IntoIterator<Item = u32>) -> Window {
        Window { partitions: partitions.into_iter().map(Partition).collect() }
    }

    #[test]
    fn windows_have_exactly_what_both_hold_and_few_have_all_of_it() {
        let map = map();
        let of = windows(&map, kept(&map, 1).into_iter(), id(1));
        assert_eq!(of.get(&id(2)).map(Vec::as_slice), Some([window([0, 1])].as_slice()));
        assert_eq!(of.get(&id(3)).map(Vec::as_slice), Some([window([0, 2])].as_slice()));
        assert_eq!(of.get(&id(4)).map(Vec::as_slice), Some([window([1, 2])].as_slice()));
        assert_eq!(of.len(), 3);
        assert!(window([5]).takes(Partition(260)) && !window([5]).takes(Partition(261)));
    }

    #[test]
    fn what_is_listed_is_just_what_differs_and_what_one_side_has_not_said_is_asked_again() {
        let digests = |bytes: &[u8]| bytes.iter().map(|byte| PartitionDigest([*byte; 32])).collect::<Vec<_>>();
        let mut unequal = Vec::new();
        let (theirs, ours) = (digests(&[1, 2, 3, 4, 5, 6]), digests(&[1, 9, 9, 4]));
        let all = window(10..16);
        assert_eq!(note_unequal(&mut unequal, &all, Partition(10), &theirs, &ours), Some(Partition(14)));
        assert_eq!(unequal, [span(11, 12)]);
        assert_eq!(note_unequal(&mut unequal, &all, Partition(14), &digests(&[5, 6]), &digests(&[5, 7])), None);
        assert_eq!(unequal, [span(11, 12), span(15, 15)]);
        // What lies between is another's, and whoever says more than it was asked for is not listened to.
        let some = window([20, 23]);
        assert_eq!(
            note_unequal(&mut unequal, &some, Partition(20), &digests(&[1, 2]), &digests(&[1, 3])),
            Some(Partition(23))
        );
        assert_eq!(note_unequal(&mut unequal, &some, Partition(23), &digests(&[1, 1]), &digests(&[1, 2])), None);
        assert_eq!(unequal.len(), 2);
    }

    #[test]
    fn a_round_is_complete_when_the_listed_holders_meet_every_write_quorum() {
        let map = map();
        let mut coverage = Coverage::new(kept(&map, 1).into_iter(), id(1));
        assert!(!coverage.is_complete(&map));
        // Node 2 holds partitions 0 and 1 with node 1: partition 2 is still not covered.
        coverage.handle_compared(&map, id(2), &window(0..=3));
        assert!(!coverage.is_complete(&map));
        coverage.handle_compared(&map, id(1), &window(0..=3));
        assert!(!coverage.is_complete(&map), "a node does not vouch for itself");
        coverage.handle_compared(&map, id(4), &window(0..=3));
        assert!(coverage.is_complete(&map));
    }

    /// "… of every acting set since the partition was last clean, at least `replicas − write_quorum + 1` nodes have …
    /// been listed to the end".
    #[test]
    fn a_node_that_is_to_own_a_partition_needs_one_more_than_an_owner_and_only_owners_count() {
        let mut map = map();
        let next = ring(2, &[1, 2, 3, 5], &[0, 1, 3, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
        map.transition = Some(Transition::begin(map.ring.as_ref().unwrap(), next).unwrap());
        let first = Partition(0);
        let mut coverage = Coverage::new(std::iter::once(first), id(5));
        coverage.handle_compared(&map, id(1), &window(0..=0));
        coverage.handle_compared(&map, id(4), &window(0..=0));
        assert!(!coverage.is_covered(&map, first), "node 4 owns nothing of it");
        coverage.handle_compared(&map, id(3), &window(0..=0));
        assert!(coverage.is_covered(&map, first));
        // Of three owners, one is left.
        map.nodes.retain(|row| row.id != id(1) && row.id != id(3));
        let mut coverage = Coverage::new(std::iter::once(first), id(5));
        assert!(!coverage.is_covered(&map, first));
        coverage.handle_compared(&map, id(2), &window(0..=0));
        assert!(coverage.is_covered(&map, first));
    }
}
