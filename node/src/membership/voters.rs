//! Which nodes should vote. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::{NodeId, Zone};
use wire::cluster::{ClusterMap, NodeRow};

/// Voters of a cluster: three survive the loss of any one.
const VOTERS: usize = 3;

/// Voters of a cluster of at least [`MANY_FROM`] nodes: five survive the loss of any two.
const VOTERS_OF_MANY: usize = 5;

/// From so many nodes on a second loss before the first is made good is likely enough to be prepared for.
const MANY_FROM: usize = 7;

/// The next step to the voters that the cluster should have. One node at a time, and whoever goes is replaced first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum VoterChange {
    /// This node is to vote.
    Promote(NodeId),
    /// This node is to vote no longer.
    Demote(NodeId),
}

/// The next step, if one is to be taken: voters are members that are not leaving, three or five, spread over zones. Those
/// that can be heard come first, in the order in which they joined, those of zones without a voter before others.
pub(super) fn next_change(
    map: &ClusterMap,
    voters: &BTreeSet<NodeId>,
    leader: NodeId,
    is_heard: impl Fn(NodeId) -> bool,
) -> Option<VoterChange> {
    let stays = |row: &&NodeRow| map.leaving(row.id).is_none();
    let wanted = if map.nodes.iter().filter(stays).count() < MANY_FROM { VOTERS } else { VOTERS_OF_MANY };
    let sound: Vec<&NodeRow> = map.nodes.iter().filter(stays).filter(|row| voters.contains(&row.id)).collect();
    if sound.len() < wanted {
        let zones: BTreeSet<_> = sound.iter().filter_map(|row| row.zone.as_ref()).collect();
        let candidates = || map.nodes.iter().filter(stays).filter(|row| !voters.contains(&row.id) && is_heard(row.id));
        let elsewhere = candidates().find(|row| row.zone.as_ref().is_none_or(|zone| !zones.contains(zone)));
        return elsewhere.or_else(|| candidates().next()).map(|row| VoterChange::Promote(row.id));
    }
    // Whoever is to go has been replaced.
    let unsound = voters.iter().copied().find(|voter| sound.iter().all(|row| row.id != *voter));
    let surplus = || (sound.len() > wanted).then(|| most_alike(&sound, leader)).flatten();
    unsound.or_else(surplus).map(VoterChange::Demote)
}

/// The voter that is missed least: the last to join of the zone with most voters; never the leader.
fn most_alike(sound: &[&NodeRow], leader: NodeId) -> Option<NodeId> {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for zone in sound.iter().filter_map(|row| row.zone.as_ref()) {
        *zones.entry(zone.as_str()).or_default() += 1;
    }
    let crowd = |zone: &Option<Zone>| zone.as_ref().and_then(|zone| zones.get(zone.as_str())).copied().unwrap_or(1);
    let others = sound.iter().enumerate().filter(|(_, row)| row.id != leader);
    others.max_by_key(|(at, row)| (crowd(&row.zone), *at)).map(|(_, row)| row.id)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, num::NonZeroU32};

    use ring::{Epoch, NodeId, ReplicaCount, Weight, Zone};
    use wire::{
        cluster::{ClusterId, ClusterMap, KeyFingerprint, NodeRow},
        moves::{Leave, Leaving},
    };

    use super::{
        VoterChange::{self, Demote, Promote},
        next_change,
    };

    fn id(id: u8) -> NodeId {
        NodeId::from_bytes([id; 16])
    }

    fn row(number: usize, zone: char) -> NodeRow {
        NodeRow {
            id: id(number as u8),
            address: "127.0.0.1:1".parse().unwrap(),
            zone: Some(Zone::try_from(zone.to_string()).unwrap()),
            weight: Weight(NonZeroU32::MIN),
            key: KeyFingerprint([number as u8; 32]),
        }
    }

    /// Nodes 1, 2, … in these zones.
    fn map(zones: &str, leaving: &[u8]) -> ClusterMap {
        ClusterMap {
            cluster: ClusterId([1; 16]),
            epoch: Epoch(1),
            replicas: ReplicaCount::new(3).unwrap(),
            nodes: zones.chars().enumerate().map(|(at, zone)| row(at + 1, zone)).collect(),
            ring: None,
            may_hold: Vec::new(),
            transition: None,
            leaving: leaving.iter().map(|node| Leave { node: id(*node), why: Leaving::Out }).collect(),
            away: Vec::new(),
            acting: Epoch(0),
        }
    }

    fn next(map: &ClusterMap, voters: &[u8], deaf: u8) -> Option<VoterChange> {
        let all: BTreeSet<_> = voters.iter().map(|voter| id(*voter)).collect();
        next_change(map, &all, id(voters[0]), |node| node != id(deaf))
    }

    #[test]
    fn voters_are_the_first_that_can_be_heard_and_spread_over_zones() {
        let map = map("aabc", &[]);
        assert_eq!(next(&map, &[1], 0), Some(Promote(id(3))), "zone b before a second one of zone a");
        assert_eq!(next(&map, &[1], 3), Some(Promote(id(4))), "a node that cannot be heard is not made a voter");
        assert_eq!(next(&map, &[1, 3], 4), Some(Promote(id(2))), "the same zone rather than too few voters");
        assert_eq!(next(&map, &[1, 3, 4], 0), None);
    }

    #[test]
    fn a_voter_that_leaves_is_replaced_before_it_goes_and_kept_while_nobody_can_take_its_place() {
        assert_eq!(next(&map("abc", &[3]), &[1, 2, 3], 0), None);
        let four = map("abcc", &[3]);
        assert_eq!(next(&four, &[1, 2, 3], 4), None, "the only other node cannot be heard");
        assert_eq!(next(&four, &[1, 2, 3], 0), Some(Promote(id(4))));
        assert_eq!(next(&four, &[1, 2, 3, 4], 0), Some(Demote(id(3))));
        assert_eq!(next(&four, &[1, 2, 4], 0), None);
        assert_eq!(next(&map("ab", &[]), &[1, 2, 9], 0), None, "a voter that is no member is replaced as well");
        assert_eq!(next(&map("abc", &[]), &[1, 2, 9], 0), Some(Promote(id(3))));
        assert_eq!(next(&map("abc", &[]), &[1, 2, 3, 9], 0), Some(Demote(id(9))));
    }

    #[test]
    fn a_larger_cluster_has_five_and_one_that_shrinks_has_three_again() {
        let seven = map("abcabca", &[]);
        assert_eq!(next(&seven, &[1, 2, 3], 0), Some(Promote(id(4))));
        assert_eq!(next(&seven, &[1, 2, 3, 4], 0), Some(Promote(id(5))));
        assert_eq!(next(&seven, &[1, 2, 3, 4, 5], 0), None);
        let six = map("abcabca", &[7]);
        assert_eq!(next(&six, &[5, 1, 2, 3, 4], 0), Some(Demote(id(4))), "of a zone with two, and not the leader");
        assert_eq!(next(&six, &[5, 1, 2, 3], 0), Some(Demote(id(2))));
        assert_eq!(next(&six, &[5, 1, 3], 0), None);
    }
}
