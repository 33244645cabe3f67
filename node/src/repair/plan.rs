//! What to list where, and when enough was listed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::{NodeId, Partition};
use wire::{
    chunk::{DIGESTS_MAX, PartitionDigest},
    cluster::ClusterMap,
};

/// Consecutive partitions listed in one go: bounds what one request walks through.
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
    fn partitions(self) -> impl Iterator<Item = Partition> {
        (self.first.0..=self.last.0).map(Partition)
    }

    pub(crate) fn contains(self, partition: Partition) -> bool {
        (self.first..=self.last).contains(&partition)
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

/// Adds to `unequal` the partitions of which these digests, those of `span` in order, are not the same. What is left of the
/// span, if one side has not made them all.
pub(super) fn note_unequal(
    unequal: &mut Vec<Span>,
    span: Span,
    theirs: &[PartitionDigest],
    ours: &[PartitionDigest],
) -> Option<Span> {
    let mut partitions = span.partitions();
    for (theirs, ours) in theirs.iter().zip(ours) {
        let partition = partitions.next()?;
        if theirs != ours {
            push(unequal, partition);
        }
    }
    partitions.next().map(|first| Span { first, last: span.last })
}

/// Who holds, or may hold, chunks of `partition` that count: its owners, and those that stood in for one. Some may have been
/// removed.
fn holders(map: &ClusterMap, partition: Partition) -> BTreeSet<NodeId> {
    let owners = map.placement().into_iter().flat_map(|placement| placement.owners(partition));
    owners.chain(map.may_hold(partition)).collect()
}

/// For each other holder of `partitions`, the spans that cover what it holds of them. Nodes that were removed hold nothing.
pub(crate) fn spans(
    map: &ClusterMap,
    partitions: impl Iterator<Item = Partition>,
    node: NodeId,
) -> BTreeMap<NodeId, Vec<Span>> {
    let mut spans: BTreeMap<NodeId, Vec<Span>> = BTreeMap::new();
    for partition in partitions {
        for holder in
            holders(map, partition).into_iter().filter(|holder| *holder != node && map.node(*holder).is_some())
        {
            push(spans.entry(holder).or_default(), partition);
        }
    }
    spans
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

    /// `span` was listed to its end at `holder`.
    pub(crate) fn handle_listed(&mut self, map: &ClusterMap, holder: NodeId, span: Span) {
        for partition in span.partitions() {
            if let Some(listed) = self.listed.get_mut(&partition)
                && holder != self.node
                && holders(map, partition).contains(&holder)
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

    use super::{Coverage, Span, note_unequal, spans};

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

    #[test]
    fn spans_cover_exactly_what_both_hold() {
        let map = map();
        let spans = spans(&map, kept(&map, 1).into_iter(), id(1));
        assert_eq!(spans.get(&id(2)).map(Vec::as_slice), Some([span(0, 1)].as_slice()));
        assert_eq!(spans.get(&id(3)).map(Vec::as_slice), Some([span(0, 0), span(2, 2)].as_slice()));
        assert_eq!(spans.get(&id(4)).map(Vec::as_slice), Some([span(1, 2)].as_slice()));
        assert_eq!(spans.len(), 3);
    }

    #[test]
    fn what_is_listed_is_just_what_differs_and_what_one_side_has_not_said_is_asked_again() {
        let digests = |bytes: &[u8]| bytes.iter().map(|byte| PartitionDigest([*byte; 32])).collect::<Vec<_>>();
        let mut unequal = Vec::new();
        let (theirs, ours) = (digests(&[1, 2, 3, 4, 5, 6]), digests(&[1, 9, 9, 4]));
        assert_eq!(note_unequal(&mut unequal, span(10, 15), &theirs, &ours), Some(span(14, 15)));
        assert_eq!(unequal, [span(11, 12)]);
        assert_eq!(note_unequal(&mut unequal, span(14, 15), &digests(&[5, 6]), &digests(&[5, 7])), None);
        assert_eq!(unequal, [span(11, 12), span(15, 15)]);
        // Whoever says more than it was asked for is not listened to.
        assert_eq!(note_unequal(&mut unequal, span(20, 20), &digests(&[1, 1]), &digests(&[1, 2])), None);
        assert_eq!(unequal.len(), 2);
    }

    #[test]
    fn a_round_is_complete_when_the_listed_holders_meet_every_write_quorum() {
        let map = map();
        let mut coverage = Coverage::new(kept(&map, 1).into_iter(), id(1));
        assert!(!coverage.is_complete(&map));
        // Node 2 holds partitions 0 and 1 with node 1: partition 2 is still not covered.
        coverage.handle_listed(&map, id(2), span(0, 3));
        assert!(!coverage.is_complete(&map));
        coverage.handle_listed(&map, id(1), span(0, 3));
        assert!(!coverage.is_complete(&map), "a node does not vouch for itself");
        coverage.handle_listed(&map, id(4), span(0, 3));
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
        coverage.handle_listed(&map, id(1), span(0, 0));
        coverage.handle_listed(&map, id(4), span(0, 0));
        assert!(!coverage.is_covered(&map, first), "node 4 owns nothing of it");
        coverage.handle_listed(&map, id(3), span(0, 0));
        assert!(coverage.is_covered(&map, first));
        // Of three owners, one is left.
        map.nodes.retain(|row| row.id != id(1) && row.id != id(3));
        let mut coverage = Coverage::new(std::iter::once(first), id(5));
        assert!(!coverage.is_covered(&map, first));
        coverage.handle_listed(&map, id(2), span(0, 0));
        assert!(coverage.is_covered(&map, first));
    }
}
