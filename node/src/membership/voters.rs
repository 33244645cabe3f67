//! Which nodes should vote. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::{NodeId, ReplicaCount, Zone};
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

/// The next step, if one is to be taken: voters are members that are not leaving, as many as [`wanted`] says, spread over
/// zones. Those that can be heard come first, in the order in which they joined, those of zones without a voter before
/// others. Where two voters share a zone, a node of a zone without one takes the place of the later one.
pub(super) fn next_change(
    map: &ClusterMap,
    voters: &BTreeSet<NodeId>,
    leader: NodeId,
    is_heard: impl Fn(NodeId) -> bool,
) -> Option<VoterChange> {
    let stays = |row: &&NodeRow| map.leaving(row.id).is_none();
    let wanted = wanted(map.nodes.iter().filter(stays).count(), map.replicas);
    let sound: Vec<&NodeRow> = map.nodes.iter().filter(stays).filter(|row| voters.contains(&row.id)).collect();
    let zones: BTreeSet<_> = sound.iter().filter_map(|row| row.zone.as_ref()).collect();
    let zoned = sound.iter().filter(|row| row.zone.is_some()).count();
    let is_elsewhere = |row: &&NodeRow| row.zone.as_ref().is_none_or(|zone| !zones.contains(zone));
    let candidates = || map.nodes.iter().filter(stays).filter(|row| !voters.contains(&row.id) && is_heard(row.id));
    if sound.len() < wanted {
        return candidates().find(is_elsewhere).or_else(|| candidates().next()).map(|row| VoterChange::Promote(row.id));
    }
    // Whoever is to go has been replaced.
    if let Some(unsound) = voters.iter().copied().find(|voter| sound.iter().all(|row| row.id != *voter)) {
        return Some(VoterChange::Demote(unsound));
    }
    if sound.len() > wanted {
        return most_alike(&sound, leader).map(VoterChange::Demote);
    }
    let shares = zones.len() < zoned;
    candidates().find(is_elsewhere).filter(|_| shares).map(|row| VoterChange::Promote(row.id))
}

/// How many of so many nodes should vote. What is acknowledged is on a majority of them, so at least as many as survive
/// what the write quorum of the chunks survives: metadata is never on fewer nodes than data.
fn wanted(nodes: usize, replicas: ReplicaCount) -> usize {
    let by_size = if nodes < MANY_FROM { VOTERS } else { VOTERS_OF_MANY };
    by_size.max(2 * replicas.write_quorum() - 1)
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
    fn two_voters_of_one_zone_become_one_as_soon_as_another_zone_has_a_node_that_can_be_heard() {
        // Racks that were filled one after the other.
        let racks = map("aabbcc", &[]);
        assert_eq!(next(&racks, &[1, 2, 3], 0), Some(Promote(id(5))), "zone c has no voter, and zone a two");
        assert_eq!(next(&racks, &[1, 2, 3], 5), Some(Promote(id(6))));
        assert_eq!(next(&racks, &[1, 2, 3, 5], 0), Some(Demote(id(2))));
        assert_eq!(next(&racks, &[2, 1, 3, 5], 0), Some(Demote(id(1))), "never the leader");
        assert_eq!(next(&racks, &[1, 3, 5], 0), None);
        assert_eq!(next(&map("aabb", &[]), &[1, 2, 3], 0), None, "no other zone");
        assert_eq!(next(&map("aabc", &[4]), &[1, 2, 3], 0), None, "the only node of another zone leaves");
    }

    #[test]
    fn metadata_is_on_no_fewer_nodes_than_data() {
        for replicas in 1..=7 {
            let mut map = map("abcdefg", &[]);
            map.replicas = ReplicaCount::new(replicas).unwrap();
            let mut voters = vec![1];
            while let Some(change) = next(&map, &voters, 0) {
                let Promote(node) = change else { panic!("{change:?} of {voters:?}") };
                voters.push(node.as_bytes()[0]);
            }
            let majority = voters.len() / 2 + 1;
            assert!(majority >= map.replicas.write_quorum(), "{replicas} replicas: {voters:?}");
        }
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
