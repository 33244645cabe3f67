//! What to list where, and when enough was listed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::{NodeId, Partition, Ring};

/// Consecutive partitions listed in one go: bounds what one request walks through.
const SPAN_LEN_MAX: u32 = 256;

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
}

/// For each other holder of partitions of `node`, the spans that cover what both hold.
pub(crate) fn spans(ring: &Ring, node: NodeId) -> BTreeMap<NodeId, Vec<Span>> {
    let mut spans: BTreeMap<NodeId, Vec<Span>> = BTreeMap::new();
    for partition in ring.bits().partitions() {
        if !ring.owners(partition).any(|owner| owner == node) {
            continue;
        }
        for holder in ring.owners(partition).filter(|owner| *owner != node) {
            let of_holder = spans.entry(holder).or_default();
            match of_holder.last_mut() {
                Some(span) if span.last.0 + 1 == partition.0 && partition.0 - span.first.0 < SPAN_LEN_MAX => {
                    span.last = partition;
                }
                _ => of_holder.push(Span { first: partition, last: partition }),
            }
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
    /// Nothing listed yet for `node`.
    pub(crate) fn new(ring: &Ring, node: NodeId) -> Self {
        let ours = ring.bits().partitions().filter(|partition| ring.owners(*partition).any(|owner| owner == node));
        Self { node, listed: ours.map(|partition| (partition, BTreeSet::new())).collect() }
    }

    /// `span` was listed to its end at `holder`.
    pub(crate) fn handle_listed(&mut self, ring: &Ring, holder: NodeId, span: Span) {
        for partition in span.partitions() {
            if let Some(holders) = self.listed.get_mut(&partition)
                && holder != self.node
                && ring.owners(partition).any(|owner| owner == holder)
            {
                holders.insert(holder);
            }
        }
    }

    /// Whether what was listed meets every write quorum.
    ///
    /// An acknowledged chunk lies on `write_quorum` of the replicas. If this node is not one of them, they are among
    /// the other `replicas − 1`, of which `replicas − write_quorum` listed ones must meet them.
    pub(crate) fn is_complete(&self, ring: &Ring) -> bool {
        let replicas = ring.replicas();
        let needed = replicas.count() - replicas.write_quorum();
        self.listed.values().all(|holders| holders.len() >= needed)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use ring::{Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Weight};

    use super::{Coverage, Span, spans};

    fn id(id: u8) -> NodeId {
        NodeId::from_bytes([id; 16])
    }

    /// Four partitions over four nodes, three replicas: node 4 lacks partition 0, node 1 partition 3.
    fn ring() -> Ring {
        let members = [1, 2, 3, 4].map(|n| Member { id: id(n), zone: None, weight: Weight(NonZeroU32::MIN) }).to_vec();
        let table = vec![0, 1, 2, 0, 1, 3, 0, 2, 3, 1, 2, 3];
        Ring::new(Epoch(1), PartitionBits::new(2).unwrap(), ReplicaCount::new(3).unwrap(), members, table).unwrap()
    }

    #[test]
    fn spans_cover_exactly_what_both_hold() {
        let spans = spans(&ring(), id(1));
        let span = |first, last| Span { first: Partition(first), last: Partition(last) };
        assert_eq!(spans.get(&id(2)).map(Vec::as_slice), Some([span(0, 1)].as_slice()));
        assert_eq!(spans.get(&id(3)).map(Vec::as_slice), Some([span(0, 0), span(2, 2)].as_slice()));
        assert_eq!(spans.get(&id(4)).map(Vec::as_slice), Some([span(1, 2)].as_slice()));
        assert_eq!(spans.len(), 3);
    }

    #[test]
    fn a_round_is_complete_when_the_listed_holders_meet_every_write_quorum() {
        let ring = ring();
        let mut coverage = Coverage::new(&ring, id(1));
        let all = Span { first: Partition(0), last: Partition(3) };
        assert!(!coverage.is_complete(&ring));
        // Node 2 holds partitions 0 and 1 with node 1: partition 2 is still not covered.
        coverage.handle_listed(&ring, id(2), all);
        assert!(!coverage.is_complete(&ring));
        coverage.handle_listed(&ring, id(1), all);
        assert!(!coverage.is_complete(&ring), "a node does not vouch for itself");
        coverage.handle_listed(&ring, id(4), all);
        assert!(coverage.is_complete(&ring));
    }
}
