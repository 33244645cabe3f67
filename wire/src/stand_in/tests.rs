use std::{collections::BTreeSet, num::NonZeroU32};

use proptest::{prelude::*, test_runner::Config};
use ring::{Epoch, Member, NodeId, PartitionBits, ReplicaCount, Transition, Weight, solver};

use crate::{
    cluster::{ClusterId, ClusterMap, KeyFingerprint, NodeRow},
    moves::{Leave, Leaving},
};

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn ids(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(id).collect()
}

fn row(number: u8) -> NodeRow {
    NodeRow {
        id: id(number),
        address: ([127, 0, 0, 1], 7000 + u16::from(number)).into(),
        zone: None,
        weight: Weight(NonZeroU32::MIN),
        key: KeyFingerprint([number; 32]),
    }
}

/// Nodes 1 to `nodes`, of which the first `holding` hold 64 partitions, three replicas of each.
fn map(nodes: u8, holding: u8) -> ClusterMap {
    let members: Vec<Member> = (1..=holding).map(|number| row(number).member()).collect();
    let (replicas, bits) = (ReplicaCount::new(3).unwrap(), PartitionBits::new(6).unwrap());
    ClusterMap {
        cluster: ClusterId([1; 16]),
        epoch: Epoch(1),
        replicas,
        nodes: (1..=nodes).map(row).collect(),
        ring: Some(solver::solve(None, &members, replicas, bits, Epoch(1)).unwrap()),
        may_hold: Vec::new(),
        transition: None,
        leaving: Vec::new(),
        away: Vec::new(),
        acting: Epoch(0),
    }
}

fn go_away(map: &mut ClusterMap, away: &BTreeSet<NodeId>) {
    map.away = map.stand_ins(away);
}

/// Begins the change to the ring of all nodes.
fn grow(map: &mut ClusterMap) {
    let ring = map.ring.clone().unwrap();
    let members: Vec<Member> = map.nodes.iter().map(NodeRow::member).collect();
    let next = solver::solve(Some(&ring), &members, map.replicas, ring.bits(), Epoch(2)).unwrap();
    map.transition = Some(Transition::begin(&ring, next).unwrap());
}

#[test]
fn where_nobody_can_stand_in_a_node_that_is_away_keeps_its_place() {
    let mut map = map(3, 3);
    let before: Vec<_> =
        map.placement().unwrap().bits().partitions().map(|partition| map.put_rows(partition)).collect();
    go_away(&mut map, &ids([2]));
    assert_eq!((map.away.len(), map.away[0].partitions()), (1, 0));
    let after: Vec<_> = map.placement().unwrap().bits().partitions().map(|partition| map.put_rows(partition)).collect();
    assert_eq!(before, after);
}

#[test]
fn with_two_of_five_away_every_partition_has_a_full_row_of_those_that_are_there() {
    let mut map = map(5, 5);
    go_away(&mut map, &ids([1]));
    go_away(&mut map, &ids([1, 4]));
    for partition in map.placement().unwrap().bits().partitions() {
        let [row] = map.put_rows(partition).try_into().unwrap();
        assert_eq!((row.nodes.iter().copied().collect(), row.quorum), (ids([2, 3, 5]), 2));
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn an_acting_row_has_distinct_members_and_only_those_that_are_away_are_replaced(
        (nodes, holding) in (3u8..=8).prop_flat_map(|holding| (holding..=8, Just(holding))),
        first in proptest::collection::btree_set(1u8..9, 0..3),
        second in proptest::collection::btree_set(1u8..9, 0..3),
        drained in proptest::option::of(1u8..9),
        grows in any::<bool>(),
    ) {
        let mut map = map(nodes, holding);
        let members = ids(1..=nodes);
        let first: BTreeSet<NodeId> = ids(first).intersection(&members).copied().collect();
        let away: BTreeSet<NodeId> = ids(second).union(&first).copied().filter(|node| members.contains(node)).collect();
        go_away(&mut map, &first);
        let before = map.clone();
        go_away(&mut map, &first);
        prop_assert_eq!(&map, &before, "who stands in goes on");
        map.leaving.extend(drained.map(|node| Leave { node: id(node), why: Leaving::Draining }));
        if grows {
            grow(&mut map);
        }
        go_away(&mut map, &away);
        let placement = map.placement().unwrap();
        for partition in placement.bits().partitions() {
            let owners: Vec<NodeId> = placement.owners(partition).collect();
            let next: Option<Vec<NodeId>> = placement.next_owners(partition).map(Iterator::collect);
            let plain: Vec<Vec<NodeId>> = std::iter::once(owners).chain(next).collect();
            let all: BTreeSet<NodeId> = plain.iter().flatten().copied().collect();
            for (row, acting) in plain.iter().zip(map.put_rows(partition)) {
                prop_assert_eq!(acting.nodes.len(), row.len());
                prop_assert_eq!(acting.nodes.iter().collect::<BTreeSet<_>>().len(), row.len());
                for (node, by) in row.iter().zip(&acting.nodes) {
                    let is_replaced = away.contains(node) && !away.contains(by) && !all.contains(by);
                    let nobody = members.iter().all(|other| away.contains(other) || all.contains(other)
                        || map.leaving(*other).is_some() || map.stands_in(*other, partition));
                    prop_assert!(node == by || is_replaced);
                    prop_assert!(node != by || !away.contains(node) || nobody, "{node:?} needs a stand-in");
                    prop_assert!(map.takes(partition, *by));
                }
            }
        }
    }
}

/// What a write quorum is spread over (P2: "in distinct zones where there are zones").
#[test]
fn rows_know_their_zones_and_a_node_without_one_is_a_zone_of_its_own() {
    let mut map = map(4, 4);
    for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        map.nodes[number - 1].zone = Some(zone.to_owned().try_into().unwrap());
    }
    for partition in map.placement().unwrap().bits().partitions() {
        let [row] = map.put_rows(partition).try_into().unwrap();
        let crowd = row.nodes.iter().filter(|node| [id(1), id(2)].contains(node)).count();
        assert_eq!(row.zones(|_| true), row.nodes.len() + 1 - crowd.max(1), "{row:?}");
        assert_eq!(row.spread(), 2, "two zones at least, and a quorum of two");
        assert_eq!(row.zones(|node| [id(1), id(2)].contains(&node)), crowd.min(1), "{row:?}");
    }
}
