//! Which nodes should vote. Pure.

use std::collections::BTreeSet;

use ring::NodeId;
use wire::cluster::NodeRow;

/// Voters of a cluster: three survive the loss of any one.
pub(super) const VOTERS: usize = 3;

/// The next voters: those there are, and then members that can be heard, in the order in which they joined, those of
/// zones without a voter first. Grows by one node at a time and never shrinks here.
pub(super) fn next_voters(
    members: &[NodeRow],
    voters: &BTreeSet<NodeId>,
    is_heard: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    if voters.len() >= VOTERS {
        return None;
    }
    let zones: BTreeSet<_> =
        members.iter().filter(|row| voters.contains(&row.id)).filter_map(|row| row.zone.as_ref()).collect();
    let candidates = || members.iter().filter(|row| !voters.contains(&row.id) && is_heard(row.id));
    let elsewhere = candidates().find(|row| row.zone.as_ref().is_none_or(|zone| !zones.contains(zone)));
    elsewhere.or_else(|| candidates().next()).map(|row| row.id)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, num::NonZeroU32};

    use ring::{NodeId, Weight, Zone};
    use wire::cluster::{KeyFingerprint, NodeRow};

    use super::next_voters;

    fn row(id: u8, zone: &str) -> NodeRow {
        NodeRow {
            id: NodeId::from_bytes([id; 16]),
            address: "127.0.0.1:1".parse().unwrap(),
            zone: Some(Zone::try_from(zone.to_owned()).unwrap()),
            weight: Weight(NonZeroU32::MIN),
            key: KeyFingerprint([id; 32]),
        }
    }

    #[test]
    fn voters_are_the_first_that_can_be_heard_and_spread_over_zones() {
        let members = [row(1, "a"), row(2, "a"), row(3, "b"), row(4, "c")];
        let id = |id: u8| NodeId::from_bytes([id; 16]);
        let next = |voters: &[u8], deaf: u8| {
            let voters: BTreeSet<_> = voters.iter().map(|&voter| id(voter)).collect();
            next_voters(&members, &voters, |node| node != id(deaf))
        };
        assert_eq!(next(&[1], 0), Some(id(3)), "zone b before a second one of zone a");
        assert_eq!(next(&[1], 3), Some(id(4)), "a node that cannot be heard is not made a voter");
        assert_eq!(next(&[1, 3], 4), Some(id(2)), "the same zone rather than too few voters");
        assert_eq!(next(&[1, 3, 4], 0), None);
    }
}
