use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use ring::{Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Weight, solver};
use tokio::time::Instant;
use wire::cluster::{ClusterId, ClusterMap, KeyFingerprint, MayHold, NodeRow};

use super::{Hearing, StandIns};
use crate::namespace::ClusterCommand;

const DOWN_AFTER: Duration = Duration::from_secs(3);

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
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

fn map(count: u8) -> ClusterMap {
    let members: Vec<Member> = (1..=count).map(|number| row(number).member()).collect();
    let (replicas, bits) = (ReplicaCount::new(3).unwrap(), PartitionBits::new(4).unwrap());
    ClusterMap {
        cluster: ClusterId([1; 16]),
        epoch: Epoch(5),
        replicas,
        nodes: (1..=count).map(row).collect(),
        ring: Some(solver::solve(None, &members, replicas, bits, Epoch(1)).unwrap()),
        may_hold: Vec::new(),
        transition: None,
        leaving: Vec::new(),
        away: Vec::new(),
        acting: Epoch(5),
    }
}

/// What is proposed when these nodes have been silent for so many milliseconds, and all others were heard.
fn poll(stand_ins: &mut StandIns, map: &ClusterMap, silences: &[(u8, u64)]) -> Option<ClusterCommand> {
    let silences: BTreeMap<NodeId, Duration> =
        silences.iter().map(|(node, ms)| (id(*node), Duration::from_millis(*ms))).collect();
    let hearing = |node| {
        let silent = silences.get(&node).copied().unwrap_or_default();
        let heard = silent < DOWN_AFTER;
        Hearing { heard, silent, steady: if heard { Duration::from_secs(60) } else { Duration::ZERO } }
    };
    stand_ins.poll(map, hearing, Instant::now())
}

fn away(nodes: &[u8]) -> Option<ClusterCommand> {
    Some(ClusterCommand::Away { nodes: nodes.iter().copied().map(id).collect() })
}

#[test]
fn a_silence_of_two_seconds_is_no_absence_and_those_that_fall_silent_together_go_together() {
    let (mut stand_ins, map) = (StandIns::new(DOWN_AFTER), map(5));
    assert_eq!(poll(&mut stand_ins, &map, &[(2, 2000)]), None);
    assert_eq!(poll(&mut stand_ins, &map, &[(2, 3000)]), away(&[2]));
    assert_eq!(poll(&mut stand_ins, &map, &[(2, 3100), (4, 2700)]), None, "the other is waited for");
    assert_eq!(poll(&mut stand_ins, &map, &[(2, 3500), (4, 3100)]), away(&[2, 4]));
    assert_eq!(poll(&mut stand_ins, &map, &[(2, 4000), (4, 1500)]), away(&[2]), "but not for long");
}

#[test]
fn where_nobody_could_stand_in_nothing_is_proposed() {
    let (mut stand_ins, map) = (StandIns::new(DOWN_AFTER), map(3));
    for silence in [3000, 4000, 600_000] {
        assert_eq!(poll(&mut stand_ins, &map, &[(2, silence)]), None);
    }
}

#[test]
fn a_node_is_back_when_it_has_been_heard_for_a_while() {
    let (mut stand_ins, mut map) = (StandIns::new(DOWN_AFTER), map(5));
    map.away = map.stand_ins(&[id(2)].into());
    let heard_for = |ms| {
        move |node| {
            let steady = Duration::from_millis(if node == id(2) { ms } else { 60_000 });
            Hearing { heard: true, silent: Duration::ZERO, steady }
        }
    };
    assert_eq!(stand_ins.poll(&map, heard_for(1999), Instant::now()), None);
    let back = stand_ins.poll(&map, heard_for(2000), Instant::now());
    assert_eq!(back, Some(ClusterCommand::Back { node: id(2) }));
}

#[test]
fn a_partition_is_clean_when_every_owner_has_confirmed_it_since_stand_ins_changed() {
    let (mut stand_ins, mut map) = (StandIns::new(DOWN_AFTER), map(5));
    let first = Partition(0);
    let owners: Vec<NodeId> = map.placement().unwrap().owners(first).collect();
    map.may_hold = vec![MayHold { node: id(9), partitions: vec![first] }];
    for owner in &owners[..2] {
        stand_ins.handle_confirm(*owner, Epoch(5), &[first]);
    }
    stand_ins.handle_confirm(owners[2], Epoch(4), &[first]);
    assert_eq!(poll(&mut stand_ins, &map, &[]), None, "the third has confirmed what was before");
    stand_ins.handle_confirm(owners[2], Epoch(5), &[first]);
    let clean = ClusterCommand::Clean { acting: Epoch(5), partitions: vec![first] };
    assert_eq!(poll(&mut stand_ins, &map, &[]), Some(clean));
    map.acting = Epoch(6);
    assert_eq!(poll(&mut stand_ins, &map, &[]), None, "somebody came or went");
}
